"""A whole small world: a tiny base on disk, a synthetic domain, a study file.

Nothing is downloaded. The domain is learnable by two layers: every question names a plant,
and its answer repeats the plant's name and colour.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.tiny import tiny_model, tiny_tokenizer

PLANTS = tuple(
    "alder birch cedar daisy elder fern gorse hazel iris juniper "
    "kale lilac maple nettle olive poppy quince rowan sorrel thyme".split()
)
COLOURS = ("red", "blue", "green", "white", "black")
ASKED = (
    ("What colour is {plant}?", "{plant} is {colour}"),
    ("Where does {plant} grow?", "{plant} grows near {colour} water"),
    ("Who sells {plant} seed?", "the {colour} shop sells {plant}"),
)


def small_suite(patch: Any) -> None:
    """Six texts and eight choices instead of the whole suite that ships."""
    from domainwright.evaluate.retained import Suite, shipped_suite

    whole = shipped_suite()
    small = Suite(whole.texts[:6], whole.choices[:8])
    for place in ("_exam", "api"):
        patch.setattr(f"domainwright.studies.{place}.shipped_suite", lambda: small)


def save_base(folder: Path, seed: int = 0) -> Path:
    """A random two-layer llama with a long context, as `load_base` reads it."""
    tiny_model("llama", seed=seed, max_position_embeddings=2048).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def questions(plants: Sequence[str] = PLANTS) -> list[dict[str, Any]]:
    """Sixty question and answer rows in twenty groups."""
    return [
        {
            "id": f"{plant}-{number}",
            "group": plant,
            "question": asked.format(plant=plant),
            "answer": answer.format(plant=plant, colour=COLOURS[place % 5]),
        }
        for place, plant in enumerate(plants)
        for number, (asked, answer) in enumerate(ASKED)
    ]


def choices() -> list[dict[str, Any]]:
    return [
        {
            "id": row["id"],
            "group": row["group"],
            "question": row["question"],
            "choices": [row["answer"], "nobody knows that", "none of these at all"],
            "answer": 0,
        }
        for row in questions()
    ]


def texts() -> list[dict[str, Any]]:
    return [
        {
            "id": plant,
            "text": f"The {plant} is a plant of the north. Its leaves are "
            f"{COLOURS[place % 5]} in the {plant} season, and number {place} of our list.",
        }
        for place, plant in enumerate(PLANTS)
    ]


def documents() -> list[dict[str, Any]]:
    return [
        {
            "id": f"page-{plant}",
            "title": plant,
            "text": f"The {plant} is mostly {COLOURS[place % 5]} and is sold by the shop.",
        }
        for place, plant in enumerate(PLANTS)
    ]


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


QUICK: dict[str, Any] = {
    "dtype": "float32",
    "device": "cpu",
    "strategies": ["zero_shot", "lora"],
    "budget": {"minutes": 5},
    "evaluate": {"items": 6, "new_tokens": 4},
    "train": {
        "steps": 6,
        "batch": 4,
        "checks": 2,
        "learning_rate": 0.01,
        "max_forgetting": 9.0,
        "replay": None,
        "checkpoint_every": 2,
    },
}
"""A study of about a second."""


def study_file(
    folder: Path, base: Path, rows: Sequence[Mapping[str, Any]] | None = None, **changes: Any
) -> Path:
    """Write `folder/study.yaml` and its training file; `changes` are merged into QUICK."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "train.jsonl", questions() if rows is None else rows)
    settings = merged(
        {"base": str(base), "data": {"train": "train.jsonl", "folds": None}, **QUICK}, changes
    )
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(settings)
    for key, value in changes.items():
        old = found.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        found[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return found
