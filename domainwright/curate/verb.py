"""Curation as a function for programs: what `dw curate` does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from domainwright.core.config import from_mapping
from domainwright.core.progress import Listener, quiet
from domainwright.curate.curated import Curated
from domainwright.curate.pipeline import Wish, curate
from domainwright.curate.select import SelectSettings


def curate_files(
    files: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    as_documents: bool = False,
    domain: str | None = None,
    against: str | Path | Sequence[str | Path] = (),
    use: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    select: SelectSettings | Mapping[str, Any] | None = None,
    keep_secrets: bool = False,
    fresh: bool = False,
    workers: int | None = None,
    on: str = "here",
    listen: Listener = quiet,
) -> Curated:
    """Curate files into the dataset folder `output`; what `dw curate` does.

    Args:
        files: one or several, or folders of files.
        as_documents: read what retrieval may quote, with title, section and page.
        domain: use this domain's preset.
        against: evaluation files; rows that give them away are dropped.
        use: filters to run besides those of the preset.
        leave_out: filters not to run.
        select: `SelectSettings`, or {"method": "k_center", "rows": 200}: keep some of the rows.
        keep_secrets: tell in `secrets` what the placeholders replaced.
        fresh: replace a dataset that is there.
        workers: processes that judge; None: one for each core, where there is much to do.
        on: "here", or "ray": Ray's workers, on as many machines as it has.

    Returns:
        What became of the records; `.table()` has it as rows.
    """
    if select is not None and not isinstance(select, SelectSettings):
        select = from_mapping(SelectSettings, select, "select")
    wish = Wish(
        files=_paths(files),
        against=_paths(against),
        as_documents=as_documents,
        domain=domain,
        use=tuple(use),
        leave_out=tuple(leave_out),
        select=select,
        keep_secrets=keep_secrets,
        workers=workers,
        on=on,
    )
    return curate(wish, output, fresh=fresh, listen=listen)


def _paths(given: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    entries = [given] if isinstance(given, (str, Path)) else given
    return tuple(Path(entry).expanduser() for entry in entries)
