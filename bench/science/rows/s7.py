"""Prompts in every layer against prompts at the input alone, both with a head."""

from typing import ClassVar

from bench.science.arms import Arm, Lab
from bench.science.labelled import LABELS, classified
from bench.science.rows import ROWS, Finding
from bench.science.t0 import texts
from bench.science.verdicts import at_least

P, GAP = 16, 3.0
CENTRES = {"ptuning_v2": 1e-2, "prompt": 3e-2}


@ROWS.register
class S7:
    title = "Prompts in every layer (P-tuning v2) beat prompts at the input on small models"
    source = "Liu et al. 2022 (P-tuning v2), arXiv:2110.07602"
    did = (
        "A head on the last token of a sentence of G tells of which of four classes that noun is, "
        f"for nouns that no training sentence ends with, trained with {P} learned rows in every "
        "layer (P-tuning v2) or at the input alone (prompt tuning). Both begin from the same text "
        "of G, each at its own best rate."
    )
    drawing: ClassVar = ("dots", "accuracy", "accuracy, per cent")
    columns: ClassVar = ("accuracy", "parameters")

    @staticmethod
    def measure(here: Lab) -> Finding:
        row = texts(here.world, here.world.languages["G"], "instruction", 1).rows[0]
        words = here.base.tokenizer.decode(row.ids[1:-1])
        figures, rates = {}, {}
        for name, centre in CENTRES.items():
            settings = {"rows": P, "text": words}
            arm = Arm(
                name=name, method=name, method_settings=settings, centre=centre, labels=LABELS
            )
            right, swept, parameters = classified(here, arm)
            figures[name] = {"accuracy": right, "parameters": [float(parameters)]}
            rates[name] = swept.losses
        gap = [
            a - b
            for a, b in zip(
                figures["ptuning_v2"]["accuracy"], figures["prompt"]["accuracy"], strict=True
            )
        ]
        words = f"points of accuracy, every layer less the input alone, at least {GAP:g}"
        return Finding(criteria=[at_least(words, gap, GAP)], figures=figures, rates=rates)
