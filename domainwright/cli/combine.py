"""`dw combine`: several runs of one method as one."""

from pathlib import Path
from typing import Annotated

import typer


def combine(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Runs or studies of one method on one base, or RUN/trials/NAME."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    how: Annotated[str, typer.Option(help="average or greedy.")] = "average",
    weights: Annotated[
        str | None,
        typer.Option(help="What each run counts, such as 2,1; divided by their sum."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make one run of several: the mean of what they changed.

    average takes all of them. greedy begins with the best on the development rows of the first
    run's study, and adds one more while that does not raise their loss.
    """
    import json
    from dataclasses import asdict

    from domainwright.cli._screen import progress
    from domainwright.core.errors import ConfigError
    from domainwright.studies.combine import combine_runs

    try:
        shares = [float(x) for x in weights.split(",")] if weights is not None else None
    except ValueError as error:
        raise ConfigError(
            f"--weights {weights!r} is no list of numbers.", "write such as --weights 2,1."
        ) from error
    with progress() as (listen, _):
        found = combine_runs(runs, output, how, weights=shares, listen=listen)
    if as_json:
        print(json.dumps({**asdict(found), "folder": str(found.folder)}))
        return
    for member in found.members:
        print(f"{member.weight:.3f}  {member.run}{'' if member.weight else '  (left out)'}")
    rank = "" if found.rank is None else f" of rank {found.rank}"
    print(f"{how} of {found.method}{rank}: {found.folder}")
