"""New tasks like the ones there are: the writer is shown eight and invents a ninth, then answers.

Six of the eight are training rows, two were invented before. Dropped: a task whose ROUGE-L with
any kept one is above 0.7, one that asks for what no text can give, an answer that is the task.

Source: Wang et al. 2023 (Self-Instruct), arXiv:2212.10560, section 2.2.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar

import numpy as np

from domainwright.core.records import Chat, Row
from domainwright.core.seeds import generator
from domainwright.curate.augmentation import AUGMENTATIONS, Made, Tools, provenance, written
from domainwright.curate.augmentation.eda import asked
from domainwright.curate.augmentation.paraphrase import plain
from domainwright.maths.words import words

OWN, INVENTED = 6, 2
"""Tasks shown, of the training rows and of those made before."""
MOST_ALIKE = 0.7
AT_ONCE = 16
"""Tasks asked for together; what came of them is shown in the next."""
_NUMBER = re.compile(r"^\s*(?:task\s*)?\d+[.):]\s*", re.IGNORECASE)
_IMPOSSIBLE = re.compile(
    r"\b(?:images?|pictures?|photos?|videos?|audio|music|graphs?|plots?|draw|attached|the file|"
    r"go to|look up online)\b",
    re.IGNORECASE,
)

Fault = tuple[str, str]


@AUGMENTATIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class SelfInstruct:
    """Invented tasks with invented answers: look at some before you trust them."""

    needs: ClassVar[tuple[str, ...]] = ("writer",)
    kinds: ClassVar[tuple[type[Row], ...]] = (Chat,)
    checks: ClassVar[tuple[str, ...]] = ("leak", "copy")

    def make(self, rows: Sequence[Row], tools: Tools) -> list[Made]:
        assert tools.writer is not None, "self_instruct needs a writer"
        if not rows:
            return []
        pool, invented = _Pool([asked(row) for row in rows]), list[str]()
        made, wanted = list[Made](), tools.copies * len(rows)
        while len(made) < wanted:
            rng = generator(tools.seed, "self_instruct", len(made))
            shown = [_shown(rows, invented, rng) for _ in range(min(AT_ONCE, wanted - len(made)))]
            tasks = [_task(r) for r in tools.writer.write([_prompt(texts) for _, texts in shown])]
            faults = list[Fault | None]()
            for task in tasks:
                faults.append(_fault(task, pool, tools))
                if faults[-1] is None:
                    pool.add(task)
                    invented.append(task)
            good = [task for task, fault in zip(tasks, faults, strict=True) if fault is None]
            answers = iter(tools.writer.write(good))
            for (sources, _), task, fault in zip(shown, tasks, faults, strict=True):
                answer = plain(next(answers)) if fault is None else ""
                made.append(_made(sources, len(made) + 1, task, answer, fault, tools))
        return made


@dataclass
class _Pool:
    """Tasks that a new one must differ from."""

    texts: list[str]
    counts: list[Counter[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = [Counter(words(text)) for text in self.texts]

    def add(self, text: str) -> None:
        self.texts.append(text)
        self.counts.append(Counter(words(text)))

    def nearest(self, text: str) -> float:
        """The highest ROUGE-L F above `MOST_ALIKE` with any of them; 0 where there is none."""
        own, most = Counter(words(text)), 0.0
        for other, count in zip(self.texts, self.counts, strict=True):
            # A common subsequence holds no more words than both have: most pairs end here.
            shared = 2 * (own & count).total() / max(1, own.total() + count.total())
            if shared > MOST_ALIKE:
                most = max(most, rouge_l(text, other))
        return most if most > MOST_ALIKE else 0.0


def rouge_l(one: str, other: str) -> float:
    """F1 of the longest common subsequence of words, as in the rouge_score package."""
    return float(_scorer().score(other, one)["rougeL"].fmeasure)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


def _shown(
    rows: Sequence[Row], invented: Sequence[str], rng: np.random.Generator
) -> tuple[list[Row], list[str]]:
    """(training rows shown, all tasks shown, in drawn order)."""
    newer = rng.permutation(len(invented))[:INVENTED]
    own = [rows[i] for i in rng.permutation(len(rows))[: OWN + INVENTED - len(newer)]]
    texts = [asked(row) for row in own] + [invented[i] for i in newer]
    return own, [texts[i] for i in rng.permutation(len(texts))]


def _prompt(texts: Sequence[str]) -> str:
    listed = "\n".join(f"{n}. {' '.join(text.split())}" for n, text in enumerate(texts, 1))
    return (
        "These are tasks of one domain. Write one more task of the same kind about something else. "
        f"Write the task and nothing else.\n\n{listed}\n{len(texts) + 1}."
    )


def _task(reply: str) -> str:
    lines = [line for line in plain(reply).splitlines() if line.strip()]
    return _NUMBER.sub("", lines[0]).strip() if lines else ""


def _fault(task: str, pool: _Pool, tools: Tools) -> Fault | None:
    if len(words(task)) < 3:
        return "empty_reply", f"{tools.model} wrote {task!r}"
    if found := _IMPOSSIBLE.search(task):
        return "impossible", f"asks for {found.group()!r}"
    near = pool.nearest(task)
    return ("too_alike", f"ROUGE-L {near:.2f} with another task") if near else None


def _made(
    sources: Sequence[Row], number: int, task: str, answer: str, fault: Fault | None, tools: Tools
) -> Made:
    first, id = sources[0], f"{sources[0].id}~instruct{number}"
    if fault is None and not answer:
        fault = ("empty_reply", f"{tools.model} answered nothing to {task!r}")
    if fault is None and words(answer) == words(task):
        fault = ("echo", "the answer repeats the task")
    if fault is not None:
        return Made(source=first, id=id, row=None, fault=fault)
    shown = " ".join(row.id for row in sources)
    new = written(first, id, provenance(shown, "self_instruct", tools, written=True), task, answer)
    # A task of its own: it has neither the group nor the subject of any that was shown.
    row = replace(new, group=id, date=None, topic=None)
    return Made(source=first, id=id, row=row, after=task)
