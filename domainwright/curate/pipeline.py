"""Files to a dataset one can trust: read, repair, drop with a reason, find copies, account for all.

    records in = kept + dropped

The files are read twice: the first rows teach the filters what this data is like, then
every record is judged, a thousand at a time, by one process for each core, and written to a
folder beside the dataset.
Copies are found over keys, and the dataset is written from the pieces. After a kill, the
same command goes on behind the last piece and ends with the same dataset.
"""

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainwright.core.artifacts import sha256_file
from domainwright.core.config import as_mapping
from domainwright.core.errors import ConfigError, DataError
from domainwright.core.lock import lock
from domainwright.core.machine import cores
from domainwright.core.progress import Listener, Step, quiet
from domainwright.core.records import Row, SetAside
from domainwright.curate import files as any_files
from domainwright.curate._chunks import CHUNK_ROWS, Workshop
from domainwright.curate._judging import Judging, Task, judging
from domainwright.curate._on_ray import ray_judging
from domainwright.curate._pick import check_without_base, unpicked
from domainwright.curate._sources import Sources, sources_of
from domainwright.curate.copies import Copies, copies
from domainwright.curate.curated import KIND, Curated, write_curated
from domainwright.curate.filters import Sample
from domainwright.curate.judge import bulk_language
from domainwright.curate.preset import chosen, described, preset
from domainwright.curate.read import read
from domainwright.curate.select import SelectSettings

VERSION = 5
"""Of what the pieces mean. Another version throws old pieces away."""
_SMALL_BYTES = 8 * 2**20
PLACES = ("here", "ray")
"""Where records can be judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user asked for."""

    files: tuple[Path, ...]
    """Files, and folders with files below them."""
    as_documents: bool = False
    """Read what retrieval may quote, with title, section and page, not rows to learn from."""
    against: tuple[Path, ...] = ()
    """Evaluation files: rows that give their items away are dropped."""
    domain: str | None = None
    use: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    select: SelectSettings | None = None
    """Keep some of the rows that are left in the end."""
    keep_secrets: bool = False
    """Whether the result should know what stood behind the placeholders."""
    workers: int | None = None
    """Processes that judge. None: one for each core, or one alone where there is little to do.
    The dataset is the same."""
    on: str = "here"
    """"here", or "ray": Ray's workers, on as many machines as it has."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(
                f"workers is {self.workers}.", "give the number of processes, from 1."
            )
        if self.on not in PLACES:
            raise ConfigError(f"on is {self.on!r}.", f"use one of: {', '.join(PLACES)}.")


def curate(
    wish: Wish, folder: str | Path, *, fresh: bool = False, listen: Listener = quiet
) -> Curated:
    """Curate files into the dataset folder `folder`.

    Args:
        fresh: replace a curated dataset that is there.
        listen: is told how far the work is.

    Raises:
        ConfigError: the folder holds something else, a file is listed twice, or more rows are to
            be selected than are left.
        DataError: nothing can be read, or no row is left.
        UnknownName: no such domain or filter.
    """
    folder = Path(folder)
    sources = sources_of(wish.files, as_documents=wish.as_documents)
    for path in wish.against:
        any_files.check(path)
    filters = chosen(preset(wish.domain), wish.use, wish.leave_out)
    if wish.select:
        check_without_base(wish.select)
    target = wish.select.read_target() if wish.select else None
    _check_folder(folder, fresh)
    work = folder.parent / f".{folder.name}.curating"
    with lock(work):
        parents = {str(path): sha256_file(path) for path in (*sources.paths, *wish.against)}
        settings: dict[str, Any] = {
            "version": VERSION,
            "domain": wish.domain,
            "files": [str(path) for path in sources.paths],
            "against": [str(path) for path in wish.against],
            "filters": described(filters),
        }
        if wish.as_documents:
            settings["as_documents"] = True
        if sources.left_out:
            settings["left_out"] = [entry.file for entry in sources.left_out]
        shop = Workshop(work)
        shop.begin({**settings, "parents": parents, "secrets": wish.keep_secrets})
        try:
            sample = _sample(sources, wish.against)
            task = Task(tuple(filters), sample, str(work), wish.keep_secrets)
            pieces = _judge_all(sources, task, shop, wish, listen)
            found = _copies(shop, pieces, listen)
            facts = {**settings, "language": sample.language}
            out = dict[int, tuple[str, str]]()
            if wish.select:
                facts["select"] = as_mapping(wish.select)
                if target:
                    parents[target.file] = target.sha256
                out = unpicked(wish.select, target, shop, pieces, found, listen)
            result = write_curated(folder, shop, pieces, found, out, parents, facts, listen)
        except (ConfigError, DataError):
            # It would fail again at the same place. A kill or Ctrl-C leaves the pieces.
            shop.close()
            raise
        shop.close()
    return result


def _check_folder(folder: Path, fresh: bool) -> None:
    if folder.is_file():
        raise ConfigError(f"{folder} is a file, not a folder.", "give another folder with -o.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    manifest = folder / "manifest.json"
    ours = manifest.is_file() and f'"kind": "{KIND}"' in manifest.read_text("utf-8")
    if not ours:
        raise ConfigError(
            f"{folder} was not made by dw curate and would be overwritten.",
            "give an empty or new folder with -o.",
        )
    if not fresh:
        raise ConfigError(
            f"{folder} holds a curated dataset.",
            "add --fresh to replace it, or give another folder with -o.",
        )


def _sample(sources: Sources, against: Sequence[Path]) -> Sample:
    rows = sources.sample()
    items = tuple(row for path in against for row in read(path).rows)
    return Sample(rows=tuple(rows), against=items, language=bulk_language(rows))


def _judge_all(sources: Sources, task: Task, shop: Workshop, wish: Wish, listen: Listener) -> int:
    """Judge every record, a piece at a time; pieces that are there already are skipped."""
    total = max(1, sources.total_bytes)
    done, records = 0, sources.records()
    with _judge_of(task, wish, total) as judge:
        for number in itertools.count():
            batch = list(itertools.islice(records, CHUNK_ROWS))
            if not batch:
                break
            done += len(batch)
            if not shop.has(number):
                judge(number, batch)
            listen(Step("curate", done, max(done, _guess(total, batch)), {}))
    if not done:
        raise DataError("The files hold no record.", "give files with data.")
    return number


def _judge_of(task: Task, wish: Wish, total_bytes: int) -> AbstractContextManager[Judging]:
    if wish.on == "ray":
        return ray_judging(task, wish.workers)
    # A worker takes a second or two to begin.
    usual = cores() if total_bytes >= _SMALL_BYTES else 1
    return judging(task, usual if wish.workers is None else wish.workers)


def _guess(total_bytes: int, batch: Sequence[Row | SetAside]) -> int:
    """Records in all, from the size of some: for the bar only."""
    some = batch[:50]
    return int(total_bytes * len(some) / max(1, sum(len(str(item)) for item in some)))


def _copies(shop: Workshop, pieces: int, listen: Listener) -> Copies:
    listen(Step("copies", 0, 1))
    keys = shop.keys(pieces)
    found = copies(keys.key_T6, keys.sketch, shop.row, shop.folder / "copies.bin")
    listen(Step("copies", 1, 1))
    return found
