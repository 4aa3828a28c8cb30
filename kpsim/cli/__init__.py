"""The command line. Each command imports what it needs when it runs, so that ``--help`` and short commands start fast.

Exit codes: 0 holds; 1 an expectation or check failed; 2 bad input or usage; 3 internal error.
"""

import io
import os
import sys

import typer

from kpsim import __version__
from kpsim.errors import InputError, KpsimError

app = typer.Typer(
    name="kpsim",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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


def main() -> None:
    """Entry point: run a command, and turn errors into messages and exit codes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for arrows, if the encoding has none
    try:
        from kpsim.cli import commands  # noqa: F401 - registers the commands

        app(prog_name="kpsim")  # also as python -m kpsim
    except KpsimError as error:
        print_problems(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader is gone, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # for example a full disk
        if os.environ.get("KPSIM_DEBUG"):
            raise
        name = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {name}{error.strerror or error}", err=True)
        sys.exit(2)
    except RecursionError:
        typer.echo("error: the input is nested too deeply", err=True)
        sys.exit(2)
    except Exception as error:
        if os.environ.get("KPSIM_DEBUG"):
            raise
        typer.echo(f"internal error: {type(error).__name__}: {error} (KPSIM_DEBUG=1 shows where)", err=True)
        sys.exit(3)


#: how many problems of one input are shown; the others are counted
MAX_SHOWN = 25


def print_problems(error: KpsimError) -> None:
    """Print one line for each problem on stderr."""
    if not isinstance(error, InputError):
        typer.echo(f"error: {error}", err=True)
        return
    for problem in error.problems[:MAX_SHOWN]:
        typer.echo(f"error: {problem}", err=True)
    if len(error.problems) > MAX_SHOWN:
        typer.echo(f"… and {len(error.problems) - MAX_SHOWN} more", err=True)
