"""Adapter layers against full fine-tuning on a classification task."""

from typing import ClassVar

from bench.science.arms import FULL, Arm, Lab
from bench.science.labelled import LABELS, classified
from bench.science.rows import ROWS, Finding
from bench.science.verdicts import at_least

MARGIN = 1.0
"""Percentage points that adapters may stay behind."""


def _arm(name: str, method: str, centre: float = 1e-3, **settings: object) -> Arm:
    return Arm(name=name, method=method, method_settings=settings, centre=centre, labels=LABELS)


ARMS = (
    _arm("full", "full", FULL),
    _arm("houlsby", "bottleneck", variant="houlsby"),
    _arm("pfeiffer", "bottleneck", variant="pfeiffer"),
    _arm("parallel", "bottleneck", variant="parallel", parallel_input="normed"),
)


@ROWS.register
class S5:
    title = "Adapter layers come near to full fine-tuning with few parameters"
    source = "Houlsby et al. 2019, arXiv:1902.00751; He et al. 2022, arXiv:2110.04366"
    did = (
        "A head on the last token of a sentence of G tells of which of four classes that noun is, "
        "for nouns that no training sentence ends with, trained with full fine-tuning or with one "
        "of three kinds of adapter layers, each at its own best rate. The claim's second half, "
        "parallel layers at the MLP against layers at attention, is not tried: there are no such "
        "layers at attention here."
    )
    drawing: ClassVar = ("dots", "accuracy", "accuracy, per cent")
    columns: ClassVar = ("accuracy", "parameters")

    @staticmethod
    def measure(here: Lab) -> Finding:
        figures, rates = {}, {}
        for arm in ARMS:
            right, swept, parameters = classified(here, arm)
            figures[arm.name] = {"accuracy": right, "parameters": [float(parameters)]}
            rates[arm.name] = swept.losses
        behind = [
            a - b
            for a, b in zip(
                figures["houlsby"]["accuracy"], figures["full"]["accuracy"], strict=True
            )
        ]
        words = f"points of accuracy, Houlsby less full, at least -{MARGIN:g}"
        return Finding(criteria=[at_least(words, behind, -MARGIN)], figures=figures, rates=rates)
