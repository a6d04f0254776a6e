"""`dw domains`: what each domain brings."""

import json
from typing import Annotated

import typer


def domains(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the domains that a study can name."""
    from domainwright.studies.study import DOMAINS, read_domain

    listed = [read_domain(p.parent.name) for p in sorted(DOMAINS.glob("*/domain.yaml"))]
    if as_json:
        print(json.dumps(listed, ensure_ascii=False))
        return
    for domain in listed:
        print(f"{domain['name']:<10} {domain['summary']}\n{'':<10} not for: {domain['not_for']}")
