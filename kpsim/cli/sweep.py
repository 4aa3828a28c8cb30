"""``kpsim sweep``."""

import enum
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpsim.cli import app
from kpsim.cli.fields import complete_field
from kpsim.cli.options import WALKED, JobsOption, LongOption, ModeOption, WalkAllOption, complete_scenario, path_given
from kpsim.cli.printing import console, go_on_without_reader, note
from kpsim.errors import InputError, printable

if TYPE_CHECKING:
    from kpsim.sweeping.result import SweepResult


class SweepFormat(enum.StrEnum):
    """The values of ``--format``."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"


@app.command(
    short_help="Run a scenario over values of its fields, and over seeds.",
    epilog="Example: kpsim sweep local-rollout --vary 'workloads[web].termination.preStop=0s,4s,8s,12s' --vary loadBalancer.interval=2s,5s "
    "--seeds 20 --out sweep/. Exit code 1: the goal is reached nowhere; without --goal: at no point all expectations hold in all seeds.",
)
def sweep(
    context: typer.Context,
    scenario: Annotated[
        str,
        typer.Argument(
            metavar="SCENARIO",
            help="A scenario file, or a built-in scenario by name (kpsim scenarios).",
            show_default=False,
            autocompletion=complete_scenario,
        ),
    ],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            metavar="PATH=VALUES",
            help="Values of one field: PATH=A,B,C, or PATH=LOW..HIGH/STEP of numbers and durations. May be repeated.",
            show_default=False,
            autocompletion=complete_field,
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", help="Seeds at each point: the scenario's own and those after it.")
    ] = 10,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="First seed, instead of the scenario's own.")
    ] = None,
    goal: Annotated[
        str,
        typer.Option(
            "--goal",
            metavar="CONDITION",
            help="Search the least value of the first --vary for which this holds in all seeds, such as 'lost == 0'. Takes it for monotone.",
            show_default=False,
        ),
    ] = "",
    figure: Annotated[
        list[str] | None,
        typer.Option(
            "--figure",
            metavar="NAME",
            help="Report this figure, too, with a picture; may be repeated.",
            show_default=False,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="Change one field; may be repeated.", autocompletion=complete_field
        ),
    ] = None,
    mode: ModeOption = None,
    jobs: JobsOption = None,
    scheduler: Annotated[
        str,
        typer.Option(
            "--scheduler",
            metavar="ADDRESS",
            help="Let the workers of a Dask cluster compute: tcp://HOST:PORT of its scheduler.",
            show_default=False,
        ),
    ] = "",
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="DIR",
            help="Where finished runs are kept, so that a sweep that was ended goes on; by default the user's cache directory.",
            show_default=False,
            parser=path_given,
        ),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither take nor keep finished runs.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write frames, pictures and a page here.", parser=path_given),
    ] = None,
    long: LongOption = False,
    walk_all: WalkAllOption = False,
    format: Annotated[SweepFormat, typer.Option("--format", help="How to print.")] = SweepFormat.TEXT,
) -> None:
    """Run a scenario for every combination of values, each with the same seeds, and say how figures vary.

    Every point says how many connections are lost: mean with its interval, least, median, most, and in how many seeds none is.
    """
    from kpsim.cli.progress import count_bar
    from kpsim.cli.unused import note_unused
    from kpsim.outputs import check_directory
    from kpsim.sweeping import sweep as run_sweep

    if cache is not None and no_cache:
        raise InputError("--cache says where runs are kept, --no-cache that none are")
    note_unused(context)
    if out is not None:
        check_directory(out)
        go_on_without_reader()
    with count_bar("runs") as progress:
        result = run_sweep(
            scenario, vary=vary or (), seeds=seeds, seed=seed, mode=mode, settings=set_ or (), goal=goal, figures=figure or (),
            jobs=jobs, scheduler=scheduler, keep=False if no_cache else cache or True, progress=progress, long=long,
            walk_all=walk_all, note=note,
        )  # fmt: skip
    if walk_all:
        note(WALKED)
    _print(result, format)
    if out is not None:
        files = result.write(out)
        typer.echo(printable(f"{len(files)} files written to {out}; open {out / 'report.html'}"), err=True)
    if not result.holds:
        sys.exit(1)


def _print(result: "SweepResult", format: SweepFormat) -> None:
    match format:
        case SweepFormat.JSON:
            typer.echo(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
        case SweepFormat.CSV:
            from kpsim.reports.columns import csv_of

            typer.echo(csv_of(result.frames()["points"]), nl=False)
        case SweepFormat.TEXT:
            from kpsim.sweeping.pages import print_summary

            terminal = console()
            if terminal is not None:
                print_summary(result.outcome, terminal)
            else:
                typer.echo(result.summary(), nl=False)
