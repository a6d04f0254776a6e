"""Marked items on disk: written once, read back when nothing they depend on has changed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from domainwright.core.artifacts import read_manifest, write_folder
from domainwright.core.errors import DataError
from domainwright.evaluate.records import Item, Mark


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
            "marks": tuple(data.get("marks", ())),
        }
    )
