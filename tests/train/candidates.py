"""Candidates for one tiny base, and how two runs of one are compared."""

import pytest
import torch

from domainwright.train.loop import train
from tests.tiny import tiny_base
from tests.train.runs import make_job

KINDS = (
    {"rank": 4},
    {"rank": 2, "alpha": 5.0, "targets": "last"},
    {"rank": 3, "targets": "some"},
)
RATES = (2e-2, 5e-3, 1e-2)
CHANGES = (
    {"schedule": "cosine"},
    {"steps": 9, "weight_decay": 0.1},
    {"clip": 0.5, "checks": 2, "checkpoint_every": 4},
)


def make_jobs(folder, base, *, which=(0, 1, 2), **changes):
    """Candidates with other ranks, targets, rates, lengths and schedules; the same rows."""
    jobs = []
    for number in which:
        method = dict(KINDS[number])
        last = max(x.block for x in base.hooks.linears)
        paths = [x.path for x in base.hooks.linears if x.block == last]
        if wanted := method.get("targets"):
            method["targets"] = tuple(paths if wanted == "last" else paths[:1] + paths[-1:])
        jobs.append(
            make_job(
                folder / str(number),
                base=base,
                rate=RATES[number],
                method=method,
                **{"micro": 120, **CHANGES[number], **changes},
            )
        )
    return jobs


def state_of(job):
    return {k: v.clone() for k, v in job.adapter.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def without(history, *names):
    return [
        {k: v for k, v in x.items() if k not in ("seconds", "together", *names)} for x in history
    ]


def near(a, b):
    """1e-4 of the weights' size, but for single entries whose gradient was once mere rounding.

    AdamW makes a whole step of any gradient, so of rounding a step in some direction: GPT-2's third
    candidate alone, with another size of its passes, parts at the same entry. What is measured
    along the way (losses, norms) has no such excuse.
    """
    ours, theirs = (torch.cat([x[k].flatten() for k in b]) for x in (a, b))
    size = float(theirs.square().mean().sqrt())
    apart = (ours - theirs).abs()
    few = int((apart > 1e-4 * size).sum()) <= 0.01 * len(apart)
    return few and float(apart.square().mean().sqrt()) <= 1e-3 * size


def alone(folder, family="llama", **changes):
    """(jobs, results) of stand-alone runs, each on a base of its own."""
    jobs = [
        make_jobs(folder, tiny_base(family), which=(n,), **changes)[0]
        for n in changes.pop("which", (0, 1, 2))
    ]
    return jobs, [train(job) for job in jobs]


def assert_alike(got, jobs, want, others, *, exact):
    for mine, job, theirs, other in zip(got, jobs, want, others, strict=True):
        if exact:
            assert without(mine.history) == without(theirs.history)
            assert same(state_of(job), state_of(other))
        else:
            assert near(state_of(job), state_of(other))
            # A divergence is small beside the logarithms that it is the difference of.
            apart = [
                [x["general_kl"] for x in told.history if "general_kl" in x]
                for told in (mine, theirs)
            ]
            assert apart[0] == pytest.approx(apart[1], rel=1e-3, abs=1e-6)
            pairs = (without(told.history, "general_kl") for told in (mine, theirs))
            for a, b in zip(*pairs, strict=True):
                assert a == pytest.approx(b, rel=1e-5)
        assert (mine.steps, mine.best_step, mine.tokens) == (
            theirs.steps,
            theirs.best_step,
            theirs.tokens,
        )
