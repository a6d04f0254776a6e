"""`dw trace`: an artifact back to the files it came from."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def trace(
    artifact: Annotated[Path, typer.Argument(help="Folder with a manifest.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Verify an artifact's files and print what it was made from."""
    from domainwright.studies.trace import trace as run

    node = run(artifact)
    if as_json:
        print(json.dumps(node, ensure_ascii=False))
        return
    _print(node, "")


def _print(node: dict[str, Any], indent: str) -> None:
    place = f"  {node['folder']}" if node.get("folder") else ""
    print(f"{indent}{node['name']}  {node['hash'][:12]}{place}")
    for parent in node.get("parents", []):
        _print(parent, indent + "  ")
