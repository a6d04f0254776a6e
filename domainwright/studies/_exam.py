"""Asking the test items and measuring what was retained, each at most once a study."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from domainwright.core.artifacts import sha256_json
from domainwright.core.config import as_mapping
from domainwright.core.errors import DataError
from domainwright.core.progress import Listener
from domainwright.core.records import Choice, Row, Text
from domainwright.curate.labelled import as_texts
from domainwright.curate.read import read_all
from domainwright.evaluate.records import Item
from domainwright.evaluate.retained import Retained, Suite, shipped_suite
from domainwright.maths.balanced import effective
from domainwright.models.base import Base
from domainwright.prompting import PROMPTINGS
from domainwright.studies._alike import labels_in, weights_of
from domainwright.studies._asked import Prompters
from domainwright.studies._retention_tasks import RetentionTasks
from domainwright.studies._scorecards import Asking, read_items, retained
from domainwright.studies.data import StudyData
from domainwright.studies.records import Example, Reply
from domainwright.studies.study import StudySettings

EXAMPLES = 8
"""Test items shown side by side in the report."""


@dataclass
class Exam:
    """The locked test items of one study, and the retention suite."""

    study: StudySettings
    base: Base
    data: StudyData
    task: Any
    """Of `evaluate.tasks`."""
    rows: list[Row]
    score: str
    new_tokens: int
    prompters: Prompters
    suite: Suite
    general: RetentionTasks
    folder: Path
    resume: bool
    listen: Listener
    items: dict[str, list[Item]] = field(default_factory=dict)
    """Strategy -> its marked answers, in the order of the rows."""

    @cached_property
    def weights(self) -> dict[str, float]:
        """Right answer -> how much its items count; empty where all count alike."""
        return weights_of(self.rows, self.score)

    @property
    def telling(self) -> float:
        """As many items, of labels equally frequent, tell as much."""
        if not self.weights:
            return len(self.rows)
        return effective(list(labels_in(self.rows).values()))

    def ask(
        self,
        name: str,
        prompting: str,
        adapter_hash: str,
        part: str = "scorecard",
        rows: list[Row] | None = None,
    ) -> list[Item]:
        """Test items, answered and marked, or read back.

        Args:
            part: folder within the strategy's; further training seeds have their own.
            rows: some of the test items. None: all.
        """
        rows = self.rows if rows is None else rows
        parents = self.parents(name, prompting, adapter_hash, rows)
        folder = self.folder / "trials" / name / part
        if found := read_items(folder, parents, "items.jsonl") if self.resume else None:
            return found
        asking = Asking(
            base=self.base,
            task=self.task,
            score=self.score,
            new_tokens=self.new_tokens,
            listen=self.listen,
            weights=self.weights,
        )
        prompt = self.prompters.get(prompting).prompt
        return asking.answered(rows, prompt, folder, parents, name)

    def parents(
        self, name: str, prompting: str, adapter_hash: str, rows: Sequence[Row]
    ) -> dict[str, str]:
        """All that the answers of a strategy come from, by content hash."""
        parents = {
            "dataset": self.data.hash,
            "base": self.base.sha256,
            "asked": sha256_json(
                {
                    "strategy": name,
                    "rows": [r.id for r in rows],
                    "score": self.score,
                    "prompting": as_mapping(self.study.prompting),
                    "new_tokens": self.new_tokens,
                    "task": self.task.version,
                    "domain": self.study.domain,
                }
            ),
        }
        if adapter_hash:
            parents["adapter"] = adapter_hash
        if "documents" in PROMPTINGS.get(prompting).needs:
            parents |= {s.file: s.sha256 for s in self.data.sources if s.role == "documents"}
        return parents | self.prompters.parents(prompting)

    def examples(self) -> list[Example]:
        """The first test items, as every strategy answered them."""
        names = list(self.items)
        shown = []
        for number in range(min(EXAMPLES, len(self.rows))):
            first = self.items[names[0]][number]
            shown.append(
                Example(
                    id=first.id,
                    question=first.question,
                    reference=first.reference,
                    replies=[
                        Reply(
                            strategy=n,
                            text=self.items[n][number].reply,
                            score=self.items[n][number].mark.correct,
                            passages=list(self.items[n][number].passages),
                        )
                        for n in names
                    ],
                )
            )
        return shown

    def retained(self, name: str, context: Any, adapter_hash: str = "") -> Retained:
        """What `context` makes of the base, on the retention suite and tasks."""
        # Also without --resume: lora and lora+rag share one adapter, measured once.
        places = [self.folder / "trials" / name]
        suite, general = self.suite, self.general
        return retained(self.base, suite, general, adapter_hash, context, places, self.listen, name)


def suite_of(study: StudySettings) -> Suite:
    """The shipped retention suite and the study's own files.

    Raises:
        DataError: a file holds other rows than text or choices.
    """
    suite = shipped_suite()
    extra = []
    for result in read_all(study.evaluate.retention):
        rows = as_texts(result.rows)
        other = [r for r in rows if not isinstance(r, (Text, Choice))]
        if other:
            raise DataError(
                f"evaluate.retention: {result.file} holds {type(other[0]).__name__.lower()} rows.",
                "give plain text or multiple choice.",
            )
        extra += rows
    return Suite(
        suite.texts + tuple(r for r in extra if isinstance(r, Text)),
        suite.choices + tuple(r for r in extra if isinstance(r, Choice)),
    )
