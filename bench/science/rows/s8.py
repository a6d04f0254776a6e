"""A few examples: learned by adapters, or shown in the prompt? On real passages and a real base."""

import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from bench.science.arms import Lab
from bench.science.rows import ROWS, Finding
from bench.science.verdicts import at_least, at_most
from domainwright.core.errors import CapabilityError
from domainwright.studies.api import decide

FILE = Path(__file__).parents[4] / "shared" / "data" / "medical" / "mc_passage_type.jsonl"
SHOTS, TESTED, SHOWN, STEPS, WORDS = 32, 80, 8, 40, 70
LEARNED, SHOWING = ("ia3", "lora"), ("few_shot_random", "few_shot")
NAMES = ("zero_shot", *SHOWING, *LEARNED)


@ROWS.register
class S8:
    title = "Few-shot tuning beats examples in the prompt, and costs less for each question"
    source = "Liu et al. 2022 (T-Few), arXiv:2205.05638"
    did = (
        f"Not in the small world, which has no prompts: on `smollm2-135m` and {SHOTS} medical "
        f"passages of at most {WORDS} words (8 kinds of information), (IA)³ and LoRA at their "
        f"default rates for {STEPS} steps of 8 without replay, against {SHOWN} of the same rows in "
        f"the prompt, drawn or the nearest. {TESTED} other passages are asked; every seed draws "
        "both anew. The cost of a question is the number of its tokens that are read."
    )
    drawing: ClassVar = ("dots", "accuracy", "accuracy, per cent")
    columns: ClassVar = ("accuracy", "tokens read")

    @staticmethod
    def measure(here: Lab) -> Finding:
        figures: dict[str, dict[str, list[float]]] = {
            name: {"accuracy": [], "tokens read": []} for name in NAMES
        }
        for seed in range(here.effort.seeds):
            for result in _study(seed):
                figures[result.name]["accuracy"].append(100 * result.score.mean)
                figures[result.name]["tokens read"].append(result.tokens_in)
        seeds = range(here.effort.seeds)

        def best(names: tuple[str, ...]) -> list[float]:
            return [max(figures[name]["accuracy"][s] for name in names) for s in seeds]

        shown, nearest = best(SHOWING), figures["few_shot"]["accuracy"]
        drawn = figures["few_shot_random"]["accuracy"]
        gains = {
            name: [a - b for a, b in zip(figures[name]["accuracy"], shown, strict=True)]
            for name in LEARNED
        }
        better = max(LEARNED, key=lambda name: sum(gains[name]))
        ratio = [
            figures[better]["tokens read"][s] / min(figures[n]["tokens read"][s] for n in SHOWING)
            for s in seeds
        ]
        return Finding(
            criteria=[
                at_least(f"points of accuracy, {better} over the best prompt", gains[better], 0.0),
                at_most("tokens read for a question, over those of a prompt", ratio, 1 / 3),
                at_least(
                    "points of accuracy, nearest examples over drawn ones",
                    [a - b for a, b in zip(nearest, drawn, strict=True)],
                    0.0,
                ),
            ],
            figures=figures,
        )


def _study(seed: int) -> list[Any]:
    """One study's strategies, on rows drawn with the seed."""
    if not FILE.is_file():
        raise CapabilityError(f"{FILE.name} is not there.", "put shared/ beside the checkout.")
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    short = sorted(
        (row for row in rows if len(row["context"].split()) <= WORDS), key=lambda row: row["id"]
    )
    random.Random(seed).shuffle(short)
    kept, groups = list[dict[str, Any]](), set[str]()
    for row in short:
        if row["group"] not in groups:
            groups.add(row["group"])
            kept.append(row)
    with TemporaryDirectory() as place:
        folder = Path(place)
        parts = {"train": kept[:SHOTS], "test": kept[SHOTS : SHOTS + TESTED]}
        for name, part in parts.items():
            lines = [
                json.dumps(
                    {
                        "id": row["id"],
                        "group": row["group"],
                        "text": row["context"],
                        "label": row["choices"][row["answer"]],
                    }
                )
                for row in part
            ]
            (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        study = folder / "study.yaml"
        settings = {
            "base": "smollm2-135m",
            "seed": seed,
            "data": {"train": "train.jsonl", "test": "test.jsonl", "folds": None},
            "strategies": list(NAMES),
            "budget": {"minutes": 600},
            "prompting": {"examples": SHOWN, "context_tokens": 4000},
            "evaluate": {"items": TESTED},
            "train": {"steps": STEPS, "replay": None, "max_forgetting": 1000.0, "checks": 1},
        }
        study.write_text(json.dumps(settings), encoding="utf-8")
        return decide(study, folder / "run").verdict.strategies
