"""Files to a dataset one can trust: read, repair, drop with a reason, find copies, account for all.

    records in = kept + dropped

The files are read twice: the first rows teach the filters what this data is like, then
every record is judged, a thousand at a time, and written to a folder beside the dataset.
Copies are found over keys, and the dataset is written from the pieces. After a kill, the
same command goes on behind the last piece and ends with the same dataset.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from domainwright.core.artifacts import sha256_file
from domainwright.core.config import as_mapping
from domainwright.core.errors import ConfigError, DataError, DomainwrightError
from domainwright.core.lock import lock
from domainwright.core.progress import Listener, Step, quiet
from domainwright.core.records import Row, SetAside
from domainwright.curate import files as any_files
from domainwright.curate._chunks import CHUNK_ROWS, Piece, Workshop
from domainwright.curate._columns import all_readers
from domainwright.curate._one_file import Stream
from domainwright.curate._pick import check_without_base, unpicked
from domainwright.curate._unread import dropped_unread
from domainwright.curate.copies import Copy, copies
from domainwright.curate.curated import KIND, Curated, dropped_line, write_curated
from domainwright.curate.filters import Sample
from domainwright.curate.judge import Judge, Outcome, bulk_language
from domainwright.curate.preset import chosen, described, preset
from domainwright.curate.read import read
from domainwright.curate.select import SelectSettings

VERSION = 1
"""Of what the pieces mean. Another version throws old pieces away."""
_SAMPLE_ROWS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user asked for."""

    files: tuple[Path, ...]
    against: tuple[Path, ...] = ()
    """Evaluation files: rows that give their items away are dropped."""
    domain: str | None = None
    use: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    select: SelectSettings | None = None
    """Keep some of the rows that are left in the end."""
    keep_secrets: bool = False
    """Whether the result should know what stood behind the placeholders."""


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
    sources = _sources(wish.files)
    filters = chosen(preset(wish.domain), wish.use, wish.leave_out)
    if wish.select:
        check_without_base(wish.select)
    _check_folder(folder, fresh)
    work = folder.parent / f".{folder.name}.curating"
    with lock(work):
        parents = {str(path): sha256_file(path) for path in (*sources, *wish.against)}
        settings = {
            "version": VERSION,
            "domain": wish.domain,
            "files": [str(path) for path in sources],
            "against": [str(path) for path in wish.against],
            "filters": described(filters),
        }
        shop = Workshop(work, {**settings, "parents": parents, "secrets": wish.keep_secrets})
        try:
            sample = _sample(sources, wish.against)
            pieces = _judge_all(sources, Judge(filters, sample), shop, wish.keep_secrets, listen)
            found = _copies(shop, pieces, listen)
            facts = {**settings, "language": sample.language}
            out = dict[int, tuple[str, str]]()
            if wish.select:
                facts["select"] = as_mapping(wish.select)
                out = unpicked(wish.select, shop, pieces, found, listen)
            result = write_curated(folder, shop, pieces, found, out, parents, facts, listen)
        except DomainwrightError:
            # It would fail again at the same place. A kill or Ctrl-C leaves the pieces.
            shop.close()
            raise
        shop.close()
    return result


def _sources(paths: Sequence[Path]) -> list[Path]:
    """The files, in the order given; every file checked before work begins."""
    seen = set[Path]()
    for path in paths:
        any_files.check(path)
        if path.resolve() in seen:
            raise ConfigError(f"{path} is listed twice.", "remove one of the two.")
        seen.add(path.resolve())
    if not paths:
        raise ConfigError("No file is given.", "write dw curate FILE… -o DATASET.")
    return list(paths)


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


def _sample(sources: Sequence[Path], against: Sequence[Path]) -> Sample:
    rows = list[Row]()
    for path in sources:
        stream = iter(Stream(path, any_files.stem(path), all_readers(), {}))
        head = itertools.islice(stream, max(50, _SAMPLE_ROWS // len(sources)))
        rows += [row for row in head if isinstance(row, Row)]
    items = tuple(row for path in against for row in read(path).rows)
    return Sample(rows=tuple(rows), against=items, language=bulk_language(rows))


def _records(sources: Sequence[Path]) -> Iterator[Row | SetAside]:
    """Every record of every file; an id that was used before gets its place added."""
    used = set[int]()
    for path in sources:
        stream = Stream(path, any_files.stem(path), all_readers(), {})
        for item in stream:
            if isinstance(item, Row):
                item = _with_own_id(item, used)
            yield item


def _with_own_id(row: Row, used: set[int]) -> Row:
    # Hashes of ids, not ids: that is all a row leaves in memory.
    own = hash(row.id)
    if own in used:
        return replace(row, id=f"{row.id}#{Path(row.file).name}:{row.line}")
    used.add(own)
    return row


def _judge_all(
    sources: Sequence[Path], judge: Judge, shop: Workshop, keep_secrets: bool, listen: Listener
) -> int:
    """Judge every record, a piece at a time; pieces that are there already are skipped."""
    total = max(1, sum(path.stat().st_size for path in sources))
    done, records = 0, _records(sources)
    for number in itertools.count():
        batch = list(itertools.islice(records, CHUNK_ROWS))
        if not batch:
            break
        done += len(batch)
        if not shop.has(number):
            rows, piece = _judged(batch, judge, keep_secrets)
            shop.write(number, rows, piece)
        listen(Step("curate", done, max(done, _guess(total, batch)), {}))
    if not done:
        raise DataError("The files hold no record.", "give files with data.")
    return number


def _guess(total_bytes: int, batch: Sequence[Row | SetAside]) -> int:
    """Records in all, from the size of some: for the bar only."""
    some = batch[:50]
    return int(total_bytes * len(some) / max(1, sum(len(str(item)) for item in some)))


def _judged(
    items: Sequence[Row | SetAside], judge: Judge, keep_secrets: bool
) -> tuple[list[Row], Piece]:
    rows, dropped, changed = list[Row](), list[dict[str, Any]](), list[dict[str, Any]]()
    secrets = dict[str, dict[str, str]]()
    for item in items:
        if isinstance(item, SetAside):
            dropped.append(dropped_unread(item))
            continue
        outcome = judge(item)
        if outcome.dropped is not None:
            name, drop = outcome.dropped
            dropped.append(dropped_line(item, name, drop.reason, drop.detail))
            continue
        rows.append(outcome.row)
        changed += _changes(item, outcome)
        stood = {key: text for _, change in outcome.changes for key, text in change.secrets.items()}
        if keep_secrets and stood:
            secrets[item.id] = stood
    kinds = dict(Counter(type(row).__name__.lower() for row in rows))
    return rows, Piece(
        records=len(items), dropped=dropped, changed=changed, secrets=secrets, kinds=kinds
    )


def _changes(row: Row, outcome: Outcome) -> list[dict[str, Any]]:
    """Lines of changed.jsonl: what was done and how often, never what stood there."""
    return [
        {
            "file": row.file,
            "line": row.line,
            "id": row.id,
            "filter": name,
            "what": change.what,
            "before": change.count,
            "after": 0,
            **({"kinds": dict(change.kinds)} if change.kinds else {}),
        }
        for name, change in outcome.changes
    ]


def _copies(shop: Workshop, pieces: int, listen: Listener) -> dict[int, Copy]:
    listen(Step("copies", 0, 1))
    keys = shop.keys(pieces)
    found = copies(keys.exact_T2, keys.question_T2, keys.judgement_T2, keys.signature_TK, shop.row)
    listen(Step("copies", 1, 1))
    return found
