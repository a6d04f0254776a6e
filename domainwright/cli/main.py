"""`dw`: the door. Turns errors into two lines and an exit code."""

import sys

import typer
from click.exceptions import Abort, ClickException
from click.exceptions import Exit as ClickExit

from domainwright.cli import (
    chat,
    data,
    decide,
    doctor,
    domains,
    evaluate,
    export,
    methods,
    report,
    trace,
    train,
)
from domainwright.core.errors import DomainwrightError

app = typer.Typer(
    name="dw",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measure prompting, retrieval and fine-tuning on your own data, and know which to use.",
)
app.command()(decide.decide)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(chat.chat)
app.command()(report.report)
app.command()(export.export)
app.command()(trace.trace)
app.add_typer(data.app, name="data")
app.command()(methods.methods)
app.command()(domains.domains)
app.command()(doctor.doctor)


def main() -> None:
    """Entry point of `dw` and `domainwright`."""
    try:
        code = app(standalone_mode=False)
    except DomainwrightError as error:
        print(f"error: {error.cause}\n  fix: {error.fix}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, Abort):
        print("interrupted. Run the same command with --resume to go on.", file=sys.stderr)
        sys.exit(130)
    except ClickExit as done:
        sys.exit(done.exit_code)
    except ClickException as error:
        error.show()
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)
