"""The typer application, which the commands join, and how their errors become messages and exit codes."""

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import typer

from kpsim import __version__
from kpsim.cli.printing import ReaderGone
from kpsim.cli.words import Command, Group
from kpsim.errors import InputError, KpsimError, printable

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Application(typer.Typer):
    """Makes commands that read their words without a schema."""

    def command(self, *given: Any, **named: Any) -> Callable[[_Function], _Function]:
        return super().command(*given, **{"cls": Command, **named})


app = _Application(
    name="kpsim",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "color": True},  # the printing seam escapes colours
    help="What will kube-proxy 1.36 do to this packet, on this node, at this moment? An offline simulator.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kpsim {__version__} (models kube-proxy 1.36)")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
    ),
) -> None:
    """Options that every command shares."""


_HELP_WIDTH = 80  #: columns of help that goes to no terminal


def run_command() -> int:
    """Run the command that the process was asked for and return its exit code."""
    try:
        code = _run()
        if sys.stdout is not None:
            sys.stdout.flush()
    except ReaderGone:
        return 0
    except Exception as error:
        if os.environ.get("KPSIM_DEBUG") and not isinstance(error, KpsimError):
            raise
        return _explained(error)
    return code


def _run() -> int:
    from kpsim.cli.commands import register

    # kpsim has no plugins for pydantic, which would look for some in the metadata of every package that is installed
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    register(sys.argv[1:])
    width = None if sys.stdout is not None and sys.stdout.isatty() else _HELP_WIDTH
    try:
        app(prog_name="kpsim", terminal_width=width)  # also as python -m kpsim
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    return 0


def _explained(error: Exception) -> int:
    """Say what went wrong, on one line or a line for each problem, and return the exit code."""
    match error:
        case KpsimError():
            print_problems(error)
            return error.exit_code
        case OSError():  # for example a full disk
            name = f"{error.filename}: " if error.filename else ""
            _complain(f"error: {name}{error.strerror or error}")
        case RecursionError():
            _complain("error: the input is nested too deeply")
        case MemoryError():
            _complain("error: the input needs more memory than there is")
        case _:
            _complain(f"internal error: {type(error).__name__}: {error} (KPSIM_DEBUG=1 shows where)")
            return 3
    return 2


#: how many problems of one input are shown; the others are counted
MAX_SHOWN = 25


def print_problems(error: KpsimError) -> None:
    """Print one line for each problem on stderr."""
    if not isinstance(error, InputError):
        _complain(f"error: {error}")
        return
    for problem in error.problems[:MAX_SHOWN]:
        _complain(f"error: {problem}")
    if len(error.problems) > MAX_SHOWN:
        _complain(f"… and {len(error.problems) - MAX_SHOWN} more")


def _complain(text: str) -> None:
    typer.echo(printable(text), err=True)
