"""Marked items on disk: written once, read back when nothing they depend on has changed."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domainwright.core.artifacts import read_manifest, sha256_json, write_folder
from domainwright.core.errors import DataError
from domainwright.core.progress import Listener
from domainwright.core.records import Row
from domainwright.evaluate.records import Item, Mark
from domainwright.evaluate.retained import Retained, Suite, measure
from domainwright.models.base import Base
from domainwright.models.forms import Prompt

if TYPE_CHECKING:
    from domainwright.studies._retention_tasks import RetentionTasks

RETENTION = "retention"


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How rows are answered and marked; with the prompts, all that an item depends on."""

    base: Base
    task: Any
    """Of `evaluate.tasks`."""
    score: str
    new_tokens: int
    listen: Listener
    weights: Mapping[str, float] = field(default_factory=dict)
    """Right answer -> how much its items count, where that is not 1."""

    def answered(
        self,
        rows: Sequence[Row],
        prompt: Callable[[Row], Prompt],
        folder: Path,
        parents: Mapping[str, str],
        stage: str,
    ) -> list[Item]:
        """The marked items of `rows`, kept in `folder`."""
        begun = time.perf_counter()
        prompts = [prompt(row) for row in rows]
        # Finding examples and passages is part of answering.
        search = (time.perf_counter() - begun) / len(rows)
        items = [
            replace(
                item,
                seconds=item.seconds + search,
                weight=self.weights.get(item.reference, 1.0),
            )
            for item in self.task.run(
                self.base,
                rows,
                prompts,
                decide_by=self.score,
                new_tokens=self.new_tokens,
                listen=self.listen,
                stage=stage,
            )
        ]
        write_items(folder, "scorecard", {"items.jsonl": items}, parents)
        return items


def retained(
    base: Base,
    suite: Suite,
    general: "RetentionTasks",
    adapter_hash: str,
    context: AbstractContextManager[Any],
    folders: Sequence[Path],
    listen: Listener,
    stage: str,
) -> Retained:
    """What `context` makes of the base, on the retention suite and tasks; measured at most once.

    Args:
        adapter_hash: "" for the bare base.
        folders: where it may have been kept; it is written into the last.
    """
    with context:
        kept = _on_suite(base, suite, adapter_hash, folders, listen, stage)
        tasks = general.asked(base, adapter_hash, folders, listen, f"retention {stage}: tasks")
    return replace(kept, tasks=tasks)


def _on_suite(
    base: Base,
    suite: Suite,
    adapter_hash: str,
    folders: Sequence[Path],
    listen: Listener,
    stage: str,
) -> Retained:
    asked = sha256_json([[asdict(r) for r in rows] for rows in (suite.texts, suite.choices)])
    parents = {"base": base.sha256, "suite": asked, "adapter": adapter_hash}
    for folder in folders:
        texts = read_items(folder / RETENTION, parents, "texts.jsonl")
        choices = read_items(folder / RETENTION, parents, "choices.jsonl")
        if texts and choices:
            return Retained(tuple(texts), tuple(choices))
    now = measure(base, suite, listen=listen, stage=f"retention {stage}")
    files = {"texts.jsonl": now.texts, "choices.jsonl": now.choices}
    write_items(folders[-1] / RETENTION, "retention", files, parents)
    return now


def write_items(
    folder: Path, kind: str, files: Mapping[str, Sequence[Item]], parents: Mapping[str, str]
) -> None:
    def fill(out: Path) -> None:
        for name, items in files.items():
            lines = "".join(json.dumps(asdict(x), ensure_ascii=False) + "\n" for x in items)
            (out / name).write_text(lines, encoding="utf-8")

    write_folder(folder, kind, fill, parents=parents)


def read_items(folder: Path, parents: Mapping[str, str], name: str) -> list[Item] | None:
    """Items measured before under the same conditions, or None."""
    try:
        manifest = read_manifest(folder)
    except DataError:
        return None
    if manifest["parents"] != parents:
        return None
    # Not splitlines: it also breaks at characters that JSON leaves as they are, such as U+2028.
    lines = (folder / name).read_text(encoding="utf-8").split("\n")
    return [_item(json.loads(line)) for line in lines if line]


def _item(data: Mapping[str, Any]) -> Item:
    return Item(
        **{
            **data,
            "mark": Mark(*data["mark"]),
            "passages": tuple(data["passages"]),
            "entities": {k: tuple(n) for k, n in data.get("entities", {}).items()},
            "marks": tuple(data.get("marks", ())),
        }
    )
