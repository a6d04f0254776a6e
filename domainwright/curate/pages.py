"""How every self-contained page is made from its template: strict names, all texts escaped."""

from pathlib import Path
from typing import TYPE_CHECKING

from domainwright import core

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(folder: Path) -> "Environment":
    """Templates of one folder, and what all pages share (`core`)."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader([folder, Path(core.__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
