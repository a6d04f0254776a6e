"""LoRA learns less and forgets less: full fine-tuning against ranks 1, 4, 16 and 64."""

from typing import ClassVar

from bench.science.arms import FULL, Arm, Lab, Ran, best_rate, runs
from bench.science.rows import ROWS, Finding
from bench.science.verdicts import at_least, at_most, in_most, reached, spearman

RANKS = (1, 4, 16, 64)
ARMS = (
    Arm(name="full", method="full", centre=FULL),
    *(Arm(name=f"rank {r}", method_settings={"rank": r, "alpha": 2.0 * r}) for r in RANKS),
)
CHECKS = 8


@ROWS.register
class S9:
    title = "LoRA learns less and forgets less than full fine-tuning"
    source = "Biderman et al. 2024, arXiv:2405.09673"
    did = (
        "Full fine-tuning and LoRA of rank 1, 4, 16 and 64 on every linear layer (alpha twice "
        "the rank) learn domain D1, each at its own best rate. The loss on D1 and on G is "
        "measured eight times in the run. An arm's forgetting is the rise of the loss on G; two"
        " arms are compared where their loss on D1 is the same: the higher of the two at the "
        "end."
    )
    drawing: ClassVar = ("curves", "loss on D1, nats per token", "rise of the loss on G")
    columns: ClassVar = (
        "loss on D1",
        "forgotten",
        "forgotten at the same loss",
        "full there",
    )

    @staticmethod
    def measure(here: Lab) -> Finding:
        swept = {arm.name: best_rate(here, arm) for arm in ARMS}
        seeds = range(here.effort.seeds)
        ran = {arm.name: runs(here, arm, swept[arm.name].best, checks=CHECKS) for arm in ARMS}
        ends = {name: [one.end["domain"] for one in own] for name, own in ran.items()}
        forgot = {name: [rise(one)[-1][1] for one in own] for name, own in ran.items()}
        # Kept, not forgotten: the claim is that it falls as the rank rises.
        ordered = [spearman(RANKS, [-forgot[f"rank {r}"][s] for r in RANKS]) for s in seeds]
        less = {r: at_same_loss(ran[f"rank {r}"], ran["full"]) for r in RANKS}
        criteria = [
            at_least("rank 1 ends with a higher loss on D1 than full", _gaps(ends, "rank 1"), 0.0),
            *(
                in_most(
                    f"rank {r} forgets no more than full at the same loss on D1",
                    [mine <= theirs for mine, theirs in less[r]],
                )
                for r in RANKS
            ),
            at_most(
                "Spearman correlation of rank and what is kept of G, -0.7 or less", ordered, -0.7
            ),
        ]
        figures = {name: {"loss on D1": ends[name], "forgotten": forgot[name]} for name in ends}
        for r in RANKS:
            figures[f"rank {r}"]["forgotten at the same loss"] = [mine for mine, _ in less[r]]
            figures[f"rank {r}"]["full there"] = [theirs for _, theirs in less[r]]
        return Finding(
            criteria=criteria,
            figures=figures,
            rates={name: s.losses for name, s in swept.items()},
            curves={name: mean_curve([rise(one) for one in own]) for name, own in ran.items()},
        )


def rise(ran: Ran) -> list[tuple[float, float]]:
    """(loss on the domain, rise of the loss on G) at every check."""
    start = ran.curve[0]["general"]
    return [(look["domain"], look["general"] - start) for look in ran.curve]


def at_same_loss(mine: list[Ran], theirs: list[Ran]) -> list[tuple[float, float]]:
    """Seed by seed: what both forgot where both have the higher of their two last losses."""
    pairs = []
    for one, other in zip(mine, theirs, strict=True):
        level = max(one.end["domain"], other.end["domain"])
        both = [reached(rise(ran), level) for ran in (one, other)]
        # The last look may lie above an earlier one; then it is not come down to, but it is there.
        found = [
            x if x is not None else rise(ran)[-1][1]
            for x, ran in zip(both, (one, other), strict=True)
        ]
        pairs.append((found[0], found[1]))
    return pairs


def mean_curve(curves: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean over seeds, look by look."""
    return [
        (sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points))
        for points in zip(*curves, strict=True)
    ]


def _gaps(ends: dict[str, list[float]], name: str) -> list[float]:
    return [a - b for a, b in zip(ends[name], ends["full"], strict=True)]
