"""Of which class is the last noun? Labelled texts of the small world, and arms with heads.

Half of the nouns are trained on, a fifth is for validation, and the others are tested: what a head
says of them has to come from what the base knows of nouns.
"""

import math

from bench.science.arms import SWEEP_SEED, Arm, Course, Lab, Ran, Swept, all_of, course, run, sweep
from bench.science.t0 import CLASSES, texts, vocabulary
from domainwright.infer.labels import label_logits
from domainwright.models.forms import TrainRow

LABELS = tuple(f"class {n}" for n in range(CLASSES))
PARTS = {"train": (0.0, 0.5), "validation": (0.5, 0.7), "test": (0.7, 1.0)}
"""Split -> which of the nouns are its own."""
KINDS = ("a", "we", "in", "how")
"""Openings of the sentences of G that end with a noun and whose next word does not depend on it."""


def sentences(here: Lab, split: str, count: int, seed: int = 0) -> list[TrainRow]:
    """Sentences of G up to their last word, a noun, labelled with its class.

    The base knows the classes, since verbs and adjectives follow from them, but at this place it
    needs none of that. Domains would be no such task: of their words it knows nothing, and in 300
    steps LoRA did not learn to tell them apart.
    """
    general, ids = here.world.languages["G"], vocabulary(here.world)
    low, high = (round(part * len(general.nouns)) for part in PARTS[split])
    classes = {ids[noun]: general.class_of[noun] for noun in general.nouns[low:high]}
    first, stop = {ids[word] for word in KINDS}, ids["."]
    rows = list[TrainRow]()
    for row in texts(here.world, general, f"labelled {split}", 12 * count, seed=seed).rows:
        start = 1
        while start < len(row.ids) - 1:
            end = row.ids.index(stop, start)
            if row.ids[start] in first and row.ids[end - 1] in classes:
                own = [row.ids[0], *row.ids[start:end]]
                marks = [False] * (len(own) - 1) + [True]
                label = (classes[own[-1]],)
                name = f"{row.id}.{start}"
                rows.append(TrainRow(name, own, marks, labels=label, classes=CLASSES))
            start = end + 1
    return rows[:count]


def classified(here: Lab, arm: Arm) -> tuple[list[float], Swept, int]:
    """(accuracy of every seed in per cent, the sweep, parameters without the head)."""
    held = 4 * here.effort.held_out
    test, validation = (sentences(here, split, held) for split in ("test", "validation"))

    def plan(seed: int) -> Course:
        rows = sentences(here, "train", here.effort.documents, seed)
        return course(here, seed, rows=rows, watched=validation if seed == SWEEP_SEED else test)

    def loss_at(rate: float) -> float:
        ran = run(here, arm, rate, SWEEP_SEED, plan(SWEEP_SEED))
        return ran.end["domain"] if ran else math.inf

    swept = sweep(loss_at, arm.centre, here.effort.rates)
    ends = all_of(
        arm, [run(here, arm, swept.best, seed, plan(seed)) for seed in range(here.effort.seeds)]
    )
    head = sum(p.numel() for p in ends[0].adapter.head.parameters())  # type: ignore[union-attr]
    return [accuracy(here, ran, test) for ran in ends], swept, ends[0].adapter.trainable - head


def accuracy(here: Lab, ran: Ran, rows: list[TrainRow]) -> float:
    """Per cent of the rows whose likeliest label is the right one."""
    with ran.adapter.attached():
        logits = label_logits(here.base, [row.ids for row in rows])
    right = sum(int(x.argmax()) == r.labels[0] for x, r in zip(logits, rows, strict=True))  # type: ignore[index]
    return 100 * right / len(rows)
