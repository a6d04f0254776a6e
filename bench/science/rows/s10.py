"""Replay of general texts, the base's own or its own writing, against forgetting; interpolation."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from bench.science.arms import (
    FULL,
    SWEEP_SEED,
    Arm,
    Course,
    Lab,
    Ran,
    course,
    loss_of,
    run,
    sweep,
)
from bench.science.rows import ROWS, Finding
from bench.science.verdicts import at_least, at_most
from domainwright.methods import METHODS
from domainwright.models.forms import TrainRow
from domainwright.train.draw_back import between, start_of
from domainwright.train.penalties.kl import KlPenalty
from domainwright.train.regimes import ReplaySettings
from domainwright.train.replay import written

TEXTS = 128
"""General documents that are there to be read again, and those that the base writes."""
KL = 0.3
SHARES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def _arm(name: str, share: float = 0.0) -> Arm:
    replay = {"replay": ReplaySettings(share=share)} if share else {}
    return Arm(name=name, method="full", train=replay, centre=FULL)


PLAIN = _arm("plain")
REPLAYED = (_arm("real 1 %", 0.01), _arm("real 5 %", 0.05), _arm("own 5 %", 0.05))
PULLED = _arm("KL 0.3 on D1")
ARMS = (PLAIN, *REPLAYED, PULLED)


@ROWS.register
class S10:
    title = "A little replay stops forgetting, and interpolation keeps both"
    source = (
        "Bethune et al. 2025 (1 % replay), Marek et al. 2026 (self-written replay), Wortsman et"
        " al. 2022, arXiv:2109.01903 (interpolation)"
    )
    did = (
        "Full fine-tuning learns D1, alone; with 1 or 5 % of its documents drawn from 128 of G;"
        " with 5 % that the base wrote itself; with 0.3 · KL(base ‖ model) on the rows of D1. "
        "All arms read the same number of documents, so replay takes steps from D1: 5 % are 32 "
        "documents, and 1 % are 6. Interpolation takes the weights of the plain arm back "
        "towards the base; its share a is chosen on validation texts."
    )
    drawing: ClassVar = ("curves", "loss on D1, nats per token", "rise of the loss on G")
    columns: ClassVar = (
        "loss on D1",
        "forgotten",
        "of forgetting saved",
        "loss on D1 over plain",
        "a",
        "gain kept",
    )

    @staticmethod
    def measure(here: Lab) -> Finding:
        with TemporaryDirectory() as folder:
            replay = replayed(here, Path(folder))
        swept = {
            arm.name: sweep(
                lambda rate, arm=arm: _validated(here, arm, rate, replay),  # type: ignore[misc]
                arm.centre,
                here.effort.rates,
            )
            for arm in ARMS
        }
        seeds = range(here.effort.seeds)
        start = loss_of(here.base, here.held_out("G").rows)
        begun = loss_of(here.base, here.held_out("D1").rows)
        domain: dict[str, list[float]] = {}
        rise: dict[str, list[float]] = {}
        drawn: list[tuple[float, float, float]] = []
        for arm in ARMS:
            ends = []
            for seed in seeds:
                ran = _ran(here, arm, swept[arm.name].best, seed, replay)
                assert ran is not None, f"{arm.name} failed at its best rate"
                ends.append(ran.end)
                if arm is PLAIN:
                    drawn.append(interpolated(here, ran, begun, start))
            domain[arm.name] = [end["domain"] for end in ends]
            rise[arm.name] = [end["general"] - start for end in ends]
        figures = {
            name: {
                "loss on D1": domain[name],
                "forgotten": rise[name],
                "of forgetting saved": _saved(rise[name], rise["plain"]),
                "loss on D1 over plain": _over(domain[name], domain["plain"]),
            }
            for name in domain
        }
        figures["interpolation of plain"] = {
            "a": [x[0] for x in drawn],
            "gain kept": [x[1] for x in drawn],
            "of forgetting saved": [1 - x[2] for x in drawn],
        }
        return Finding(
            criteria=_criteria(figures),
            figures=figures,
            rates={name: s.losses for name, s in swept.items()},
            curves={
                name: [(sum(domain[name]) / len(seeds), sum(rise[name]) / len(seeds))]
                for name in domain
            },
        )


def _criteria(figures: dict[str, dict[str, list[float]]]) -> list:
    real, own, drawn = (figures[n] for n in ("real 5 %", "own 5 %", "interpolation of plain"))
    saved, over = "of forgetting saved", "loss on D1 over plain"
    return [
        at_least("5 % of G saves 70 % of the forgetting", real[saved], 0.7),
        at_most("and costs at most 2 % of the loss on D1", real[over], 0.02),
        at_least("5 % of the base's own writing saves 50 %", own[saved], 0.5),
        at_most("and costs at most 2 % of the loss on D1", own[over], 0.02),
        at_least("interpolation keeps 90 % of the gain", drawn["gain kept"], 0.9),
        at_least("and saves 50 % of the forgetting", drawn[saved], 0.5),
    ]


def replayed(here: Lab, folder: Path) -> dict[str, list[TrainRow]]:
    """Arm -> general documents that it reads again."""
    real = here.train_texts("G", 0, TEXTS)
    wanted = ReplaySettings(texts=TEXTS, new_tokens=24)
    own, _ = written(here.base, wanted, 64, folder)
    return {"real 1 %": real, "real 5 %": real, "own 5 %": own}


def _ran(
    here: Lab, arm: Arm, rate: float, seed: int, replay: dict[str, list[TrainRow]]
) -> Ran | None:
    share = arm.train["replay"].share if arm.train else 0.0
    pull = (lambda adapter: (KlPenalty(KL),)) if arm is PULLED else (lambda adapter: ())
    plan: Course = course(
        here,
        seed,
        steps=round(here.effort.steps * (1 - share)),
        replay=replay.get(arm.name, ()),
        penalties=pull,
    )
    return run(here, arm, rate, seed, plan)


def _validated(here: Lab, arm: Arm, rate: float, replay: dict[str, list[TrainRow]]) -> float:
    ran = _ran(here, arm, rate, SWEEP_SEED, replay)
    return ran.end["domain"] if ran else float("inf")


def interpolated(here: Lab, ran: Ran, begun: float, start: float) -> tuple[float, float, float]:
    """(share a, part of the gain kept, part of the forgetting left) on test texts."""
    adapter = ran.adapter
    trained = {k: v.detach().clone() for k, v in adapter.state_dict().items()}
    kind = METHODS.get(adapter.method)
    origin = start_of(kind.build(here.base, kind.Settings(), 0))
    looks = {}
    with adapter.attached():
        for share in (*SHARES, 1.0, 0.0):
            adapter.load_state_dict(between(adapter, origin, trained, share))
            looks[share] = [
                loss_of(here.base, here.held_out(name, split).rows)
                for split in ("validation", "test")
                for name in ("D1", "G")
            ]
        adapter.load_state_dict(trained)

    def parts(share: float, first: int) -> tuple[float, float]:
        """(gain kept, forgetting left) on a split."""
        bare, end, now = (looks[x][first : first + 2] for x in (0.0, 1.0, share))
        return (bare[0] - now[0]) / (bare[0] - end[0]), (now[1] - bare[1]) / (end[1] - bare[1])

    def margin(share: float) -> float:
        kept, left = parts(share, 0)
        return min(kept - 0.9, 0.5 - left)

    chosen = max(SHARES, key=margin)
    return chosen, *parts(chosen, 2)


def _saved(mine: list[float], plain: list[float]) -> list[float]:
    return [1 - a / b for a, b in zip(mine, plain, strict=True)]


def _over(mine: list[float], plain: list[float]) -> list[float]:
    return [a / b - 1 for a, b in zip(mine, plain, strict=True)]
