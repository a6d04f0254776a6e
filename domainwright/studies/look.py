"""Rows as the model will see them, for `dw data show`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainwright.core.errors import DataError
from domainwright.curate.labelled import as_choices, label_set
from domainwright.curate.read import ReadResult, read
from domainwright.curate.tagged import as_extractions, kinds_of
from domainwright.models.forms import encode_rows
from domainwright.models.resolve import resolve
from domainwright.models.template import Template
from domainwright.prompting._sources import PromptSettings, ask
from domainwright.studies._asked import as_shown
from domainwright.studies.data import as_conversations


@dataclass(frozen=True, slots=True)
class Shown:
    id: str
    tokens: list[str]
    """Each token's text."""
    supervised: list[bool]


@dataclass(frozen=True, slots=True)
class Look:
    result: ReadResult
    rows: list[Shown]


def look(
    file: Path,
    base: str,
    rows: int,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    max_tokens: int = 1024,
) -> Look:
    """Read `file` and tokenise its first rows with the base's template; loads no weights."""
    result = read(file, format=format, columns=columns)
    kept = as_extractions(result.rows, kinds_of(result.rows, fewest=0))
    usable, _ = as_conversations(as_choices(kept, label_set(kept, fewest=1)))
    asked = [as_shown(row, ask(row, PromptSettings())) for row in usable[:rows]]
    tokenizer = tokenizer_of(base)
    shown = []
    for row in encode_rows(Template(tokenizer), asked, max_tokens):
        # The first token is predicted by nothing, so it is never supervised.
        marks = [on and i > 0 for i, on in enumerate(row.supervised)]
        shown.append(Shown(row.id, [str(tokenizer.decode([i])) for i in row.ids], marks))
    return Look(result, shown)


def tokenizer_of(base: str) -> Any:
    """The tokenizer of a base, without its weights.

    Raises:
        DataError: there is none.
    """
    from transformers import AutoTokenizer

    folder = resolve(base).folder
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise DataError(
            f"transformers finds no tokenizer in {folder}: {str(error).strip().splitlines()[0]}",
            "give the folder of a saved model, or another base with --base.",
        ) from error
