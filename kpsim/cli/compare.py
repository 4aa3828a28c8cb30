"""``kpsim compare``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpsim.cli import app
from kpsim.cli.fields import complete_field
from kpsim.cli.options import Format, FormatOption, LongOption, complete_mode, complete_scenario
from kpsim.cli.printing import note
from kpsim.errors import InputError

if TYPE_CHECKING:
    from kpsim.comparison.runs import Account

_RUN = "A directory that kpsim run --out wrote, a scenario file, or a built-in scenario."


@app.command(
    short_help="Compare two runs connection by connection.",
    epilog="Examples: kpsim compare before/ after/; kpsim compare local-rollout --set workloads[web].termination.preStop=8s; "
    "kpsim compare mine.yaml --mode iptables --mode nftables. Exit code 1: B loses connections that A delivers.",
)
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=_RUN, show_default=False, autocompletion=complete_scenario)],
    b: Annotated[
        str | None,
        typer.Argument(
            metavar="[B]",
            help="The other; without it, A's scenario in another way.",
            show_default=False,
            autocompletion=complete_scenario,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Of one scenario: change a field in B. May be repeated.",
            show_default=False,
            autocompletion=complete_field,
        ),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            "--mode",
            metavar="MODE",
            help="Proxy mode of both; given twice, that of A and that of B.",
            show_default=False,
            autocompletion=complete_mode,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", help="Seed of both, instead of the scenario's own.", show_default=False),
    ] = None,
    long: LongOption = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Say which connections were lost in one run and not in the other, when, where and why, and which figures differ.

    Draws are paired: in two runs of a scenario and seed the same connections come from the same clients at the same times.
    """
    from kpsim.comparison.runs.pairing import compare_runs
    from kpsim.comparison.runs.words import comparison_json, comparison_lines

    modes = mode or []
    if len(modes) > 2:
        raise InputError("--mode is given once or twice")
    if b is not None and set_:
        raise InputError("--set changes B, which is A's scenario in another way: it goes with one scenario")
    if b is None and not set_ and len(modes) < 2:
        raise InputError("give two runs, or one scenario and --set or two --mode, which make B of it")
    first = _account(a, a, [], modes[0] if modes else None, seed, long=long)
    changes = [*(set_ or []), *([f"mode {modes[1]}"] if len(modes) == 2 and b is None else [])]
    name = b if b is not None else f"{a} with {', '.join(changes)}"
    second = _account(b or a, name, set_ or [], modes[-1] if modes else None, seed, long=long)
    found = compare_runs(first, second)
    if format is Format.JSON:
        typer.echo(json.dumps(comparison_json(found), indent=2, ensure_ascii=False))
    else:
        for line in comparison_lines(found):
            typer.echo(line)
    if found.lost_only("b"):
        sys.exit(1)


def _account(run: str, name: str, settings: list[str], mode: str | None, seed: int | None, *, long: bool) -> "Account":
    """Read a run from a directory, or run a scenario."""
    from kpsim.cli.progress import progress_bar
    from kpsim.comparison.runs import Account, ended_of
    from kpsim.comparison.runs.reading import read_run
    from kpsim.result import run as run_scenario

    if run and Path(run).is_dir():
        if settings or mode is not None or seed is not None:
            raise InputError(f"{run} is a run that is over: --set, --mode and --seed go with scenarios")
        return read_run(Path(run))
    with progress_bar() as progress:
        result = run_scenario(run, mode=mode, seed=seed, settings=settings, progress=progress, long=long, note=note)
    log = result.log
    return Account(name, log.scenario, log.seed, log.mode, ended_of(log.connections), result.figures)
