"""`dw report`: show a finished study again."""

import json
from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Folder of `dw decide`.")],
    prices: Annotated[
        Path | None,
        typer.Option(help="Price book (YAML) to reckon the costs with instead of the study's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Print a study's verdict and write its report.html anew."""
    from domainwright.core.errors import DataError
    from domainwright.studies.costs import at_prices
    from domainwright.studies.prices import read_prices
    from domainwright.studies.records import read_verdict
    from domainwright.studies.report import write_report

    path = run / "verdict.json"
    if not path.is_file():
        raise DataError(
            f"{run} holds no verdict.json.", "give the folder of a finished `dw decide`."
        )
    verdict = read_verdict(path)
    if prices is not None:
        verdict = at_prices(verdict, read_prices(prices))
    if as_json:
        print(json.dumps(verdict.as_json(), ensure_ascii=False))
        return
    from domainwright.cli._verdict import show

    write_report(verdict, run / "report.html")
    show(verdict, run)
