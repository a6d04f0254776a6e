"""`dw`: the door. Turns errors into two lines and an exit code."""

import errno
import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from domainwright import __version__
from domainwright.cli import (
    chat,
    combine,
    curate,
    data,
    decide,
    doctor,
    domains,
    evaluate,
    export,
    methods,
    plan,
    rate,
    refine,
    report,
    trace,
    train,
)
from domainwright.cli._screen import visible
from domainwright.core.errors import DomainwrightError

RESUMABLE = ("decide", "train", "refine")
OUT_OF_REACH = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
)
"""What the disk refuses: not a fault of the program, so no traceback."""


class Door(TyperGroup):
    """Catches what a verb raises here, inside typer: newer ones bring a click of their own."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DomainwrightError as error:
            _fail(error.cause, error.fix, error.exit_code)
        except KeyboardInterrupt:
            more = dict.fromkeys(RESUMABLE, " Run the command with --resume to go on.")
            more["curate"] = " Run the command again to go on."
            print(f"interrupted.{more.get(ctx.invoked_subcommand, '')}", file=sys.stderr)
            sys.exit(130)
        except OSError as error:
            if error.errno not in OUT_OF_REACH:
                raise
            _fail(
                f"{error.strerror}: {error.filename or 'while writing'}.",
                "free space there, or name a folder that you may write to.",
                4,
            )


def _fail(cause: str, fix: str, code: int) -> None:
    print(f"error: {visible(cause)}\n  fix: {visible(fix)}", file=sys.stderr)
    sys.exit(code)


app = typer.Typer(
    name="dw",
    cls=Door,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measure prompting, retrieval and fine-tuning on your own data, and choose.",
)


def _say_version(asked: bool) -> None:
    if asked:
        print(f"domainwright {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    # Hidden: the help of the verbs fills a screen of 24 lines.
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, hidden=True, callback=_say_version)
    ] = False,
) -> None:
    """Options of no verb."""


app.command()(decide.decide)
app.command()(plan.plan)
app.command()(rate.rate)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(chat.chat)
app.command()(refine.refine)
app.command()(report.report)
app.command()(combine.combine)
app.command()(export.export)
app.command()(trace.trace)
app.command()(curate.curate)
app.add_typer(data.app, name="data")
app.command()(methods.methods)
app.command()(domains.domains)
app.command()(doctor.doctor)


def main() -> None:
    """Entry point of `dw` and `domainwright`."""
    # A terminal that cannot show a character must not end a study in an error.
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    try:
        try:
            app(prog_name="dw")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # `| head` has what it wants. Nothing is left to flush when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
