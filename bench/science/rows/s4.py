"""A base in four bits: LoRA on NF4 and on FP4 against LoRA on the base as it is."""

from typing import ClassVar

import torch

from bench.science.arms import Arm, Lab, best_rate, runs
from bench.science.rows import ROWS, Finding
from bench.science.verdicts import at_most, within
from domainwright.core.seeds import derive
from domainwright.models.four_bit import quantise

ARMS = (
    Arm(name="float32"),
    Arm(name="nf4", method="qlora", method_settings={"quantise": "nf4"}),
    Arm(name="fp4", method="qlora", method_settings={"quantise": "fp4"}),
)
SIDE = 2048
"""Rows and columns of the normal matrix that is quantised."""


@ROWS.register
class S4:
    title = "A base in 4-bit NormalFloat loses nothing under LoRA; FP4 is coarser"
    source = "Dettmers et al. 2023 (QLoRA), arXiv:2305.14314"
    did = (
        "LoRA of rank 16 learns D1 on the base in float32, and with all linear weights in NF4 or "
        "FP4 with doubly quantised scales, all at float32's best rate. Beside it a matrix of "
        f"{SIDE} by {SIDE} normal numbers is quantised both ways. FP4's loss is not judged."
    )
    drawing: ClassVar = ("dots", "loss on D1", "loss on D1, nats per token")
    columns: ClassVar = ("loss on D1", "over float32")

    @staticmethod
    def measure(here: Lab) -> Finding:
        swept = best_rate(here, ARMS[0])
        losses = {arm.name: [x.end["domain"] for x in runs(here, arm, swept.best)] for arm in ARMS}
        over = {
            name: [a / b - 1 for a, b in zip(own, losses["float32"], strict=True)]
            for name, own in losses.items()
        }
        source = torch.Generator().manual_seed(derive(0, "gaussian"))
        weight_OI = torch.randn(SIDE, SIDE, generator=source)
        codes = {kind: quantise(weight_OI, kind) for kind in ("nf4", "fp4")}
        error = {
            kind: float((own.dequantised(torch.float32) - weight_OI).square().mean().sqrt())
            for kind, own in codes.items()
        }
        return Finding(
            criteria=[
                at_most("NF4's loss is at most 1 % above float32's", over["nf4"], 0.01),
                within(
                    "error of FP4 over that of NF4 on normal numbers, from 1.25 to 1.40",
                    error["fp4"] / error["nf4"],
                    1.25,
                    1.40,
                ),
                within(
                    "bytes a weight, from 0.506 to 0.526",
                    codes["nf4"].nbytes / SIDE**2,
                    0.506,
                    0.526,
                ),
            ],
            figures={
                name: {"loss on D1": own, "over float32": over[name]}
                for name, own in losses.items()
            },
            rates={ARMS[0].name: swept.losses},
        )
