"""Where LoRA hangs matters: MLP or all layers against attention alone, at equal parameters."""

from typing import ClassVar

from bench.science.arms import Arm, Lab, best_rate, runs
from bench.science.rows import ROWS, Finding
from bench.science.verdicts import at_least, in_most
from domainwright.methods import METHODS

ATTENTION, MLP = ("q", "k", "v", "o"), ("gate", "up", "down")
PLACES: dict[str, tuple[int, tuple[str, ...]]] = {
    "attention": (44, ATTENTION),
    "mlp": (20, MLP),
    "all": (14, (*ATTENTION, *MLP)),
}
"""Name -> (rank, hook points): 157,696, 153,600 and 157,696 parameters on the bench's base."""


@ROWS.register
class S2:
    title = "LoRA on the MLP, or on all layers, beats attention alone at equal parameters"
    source = "Schulman and Thinking Machines Lab 2025 (LoRA Without Regret)"
    did = (
        "LoRA learns D1 on attention alone (rank 44), on the MLP alone (rank 20, 2.6 % fewer "
        "parameters) or on all linear layers (rank 14), alpha twice the rank, each at its own "
        "best rate."
    )
    drawing: ClassVar = ("dots", "loss on D1", "loss on D1, nats per token")
    columns: ClassVar = ("loss on D1", "parameters")

    @staticmethod
    def measure(here: Lab) -> Finding:
        figures, rates = {}, {}
        for name, (rank, targets) in PLACES.items():
            settings = {"rank": rank, "alpha": 2.0 * rank, "targets": targets}
            arm = Arm(name=name, method_settings=settings)
            swept = best_rate(here, arm)
            kind = METHODS.get("lora")
            held = kind.build(here.base, kind.Settings(**settings), 0).trainable
            figures[name] = {
                "loss on D1": [x.end["domain"] for x in runs(here, arm, swept.best)],
                "parameters": [float(held)],
            }
            rates[name] = swept.losses
        criteria = []
        for name in ("mlp", "all"):
            pairs = zip(
                figures["attention"]["loss on D1"], figures[name]["loss on D1"], strict=True
            )
            gain = [a - b for a, b in pairs]
            criteria += [
                in_most(f"{name} ends with a lower loss than attention", [x > 0 for x in gain]),
                at_least("by how much, nats per token", gain, 0.0),
            ]
        return Finding(criteria=criteria, figures=figures, rates=rates)
