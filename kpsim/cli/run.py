"""``kpsim run``, ``kpsim scenarios`` and ``kpsim schema``."""

import enum
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpsim.cli import app
from kpsim.cli.completion import complete_workload
from kpsim.cli.fields import complete_connection, complete_field
from kpsim.cli.options import (
    WALKED,
    Format,
    FormatOption,
    LongOption,
    ModeOption,
    WalkAllOption,
    complete_scenario,
    path_given,
)
from kpsim.cli.printing import console, go_on_without_reader, note
from kpsim.cli.scenario import noted_draft
from kpsim.errors import InputError, printable

if TYPE_CHECKING:
    from kpsim.config import Mode
    from kpsim.drafting import Draft
    from kpsim.result import RunResult
    from kpsim.sweeping.result import SweepResult


class Report(enum.StrEnum):
    """The values of ``--report``."""

    WATCH_TRAFFIC = "watch-traffic"


@app.command(
    epilog="Examples: kpsim run local-rollout --set workloads[0].termination.preStop=10s --out report/. "
    "kpsim run local-rollout --trace customers#1436. kpsim run local-rollout --at 14.3s"
)
def run(
    context: typer.Context,
    scenario: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENARIO",
            help="A scenario file, or a built-in scenario by name (kpsim scenarios). With --rollout: a cluster's manifests.",
            autocompletion=complete_scenario,
        ),
    ],
    rollout: Annotated[
        str,
        typer.Option(
            "--rollout",
            metavar="NAMESPACE/NAME",
            help="Draft a scenario of a cluster's manifests that rolls this workload out, or those behind this Service, and run it.",
            show_default=False,
            autocompletion=complete_workload,
        ),
    ] = "",
    mode: ModeOption = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Seed, instead of the scenario's own.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="Change one field; may be repeated.", autocompletion=complete_field
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write frames, plots and the HTML report here.", parser=path_given),
    ] = None,
    figure: Annotated[
        list[str] | None,
        typer.Option(
            "--figure",
            metavar="NAME",
            help="Print only this figure, such as services.shop/web:http.dropped; may be repeated.",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            metavar="N",
            help="Run N seeds, this one and those after it, and say how far the losses vary. Expectations have to hold in all of them.",
            show_default=False,
        ),
    ] = 1,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Compute the losses to be expected, in place of drawing connections: where nothing but rates and odds decides.",
        ),
    ] = False,
    trace: Annotated[
        str,
        typer.Option(
            "--trace",
            metavar="SOURCE#N",
            help="Why was that connection lost? Show every step of the N-th connection of a traffic source, and what happened around "
            "it. SOURCE alone means its first lost one, from --at on.",
            show_default=False,
            autocompletion=complete_connection,
        ),
    ] = "",
    at: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="TIME",
            help="Show the cluster at this time of the run, such as 14.3s: slices, pods, rotation, rules of each node. With --trace: "
            "the last packet that the connection had sent by then.",
            show_default=False,
        ),
    ] = "",
    detailed: Annotated[
        bool,
        typer.Option("--detailed", help="With --trace: also rules that did not match, and why, and the way back."),
    ] = False,
    metrics: Annotated[
        Path | None,
        typer.Option(
            "--metrics",
            metavar="FILE",
            help="Write every kube-proxy's metrics here as a Prometheus would have stored them: OpenMetrics text, of which "
            "promtool tsdb create-blocks-from openmetrics makes a storage.",
            parser=path_given,
        ),
    ] = None,
    scrape_interval: Annotated[
        str, typer.Option("--scrape-interval", metavar="DURATION", help="How often that Prometheus reads metrics.")
    ] = "15s",
    perfetto: Annotated[
        Path | None,
        typer.Option(
            "--perfetto",
            metavar="FILE",
            help="Write the run here as a trace that ui.perfetto.dev opens: each change's way from its cause to every node's rules.",
            parser=path_given,
        ),
    ] = None,
    report: Annotated[
        Report | None,
        typer.Option(
            "--report",
            help="Print only this report. watch-traffic: what the API server sends to those who watch EndpointSlices and Endpoints.",
            show_default=False,
        ),
    ] = None,
    long: LongOption = False,
    walk_all: WalkAllOption = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Run a scenario and say what happened to every packet. Exit code 1 if an expectation does not hold."""
    from kpsim.cli.progress import count_bar, progress_bar
    from kpsim.cli.retrace import show_retraced, time_of
    from kpsim.cli.unused import note_unused
    from kpsim.result import run as run_scenario

    if out is not None:
        go_on_without_reader()
    _check_places(out, metrics, perfetto)
    given = {
        "--figure": figure, "--report": report, "--out": out, "--metrics": metrics, "--perfetto": perfetto, "--trace": trace,
        "--at": at,
    }  # fmt: skip
    _refuse_together([name for name, value in given.items() if value], exact=exact, one_run=seeds == 1)
    moment_ns = time_of(at) if at else None
    several_wanted = seeds != 1 and _several(seeds) > 1
    chosen = _chosen(scenario, rollout, mode)
    note_unused(context)
    if exact:
        _print_expected(chosen, mode, seed, set_ or [], seeds, format)
        return
    with progress_bar() as progress:
        result = run_scenario(
            chosen,
            mode=mode,
            seed=seed,
            settings=set_ or (),
            progress=progress,
            long=long,
            walk_all=walk_all,
            note=note,
            scrape_interval=None if metrics is None else scrape_interval,
            count_entries=perfetto is not None,
        )
    if walk_all:
        note(WALKED)
    for text in result.scenario.notes:
        note(text)
    several = None
    if several_wanted:
        with count_bar("seeds") as count:
            several = result.seeds(seeds, progress=count, long=long, note=note)
    if trace or moment_ns is not None:
        show_retraced(result, trace, moment_ns, format, detailed=detailed)
    elif report is not None:
        _print_report(result, format)
    elif figure:
        _print_figures(result, figure, format, several)
    else:
        _print(result, format, several)
    _write(result, out, metrics, perfetto)
    if not result.holds or (several is not None and not several.holds):
        sys.exit(1)


def _check_places(out: Path | None, *files: Path | None) -> None:
    """Refuse places that cannot be written to before anything runs."""
    from kpsim.outputs import check_directory, check_file

    if out is not None:
        check_directory(out)
    given = [file for file in files if file is not None]
    for file in given:
        check_file(file)
    if len(given) > len({file.absolute() for file in given}):
        raise InputError(f"{given[0]}: --metrics and --perfetto write different files: give each its own")


def _write(result: "RunResult", out: Path | None, metrics: Path | None, perfetto: Path | None) -> None:
    from kpsim.cli.progress import progress_bar
    from kpsim.outputs import write_file

    if out is not None:
        with progress_bar() as progress:
            files = result.write(out, progress)
        typer.echo(printable(f"{len(files)} files written to {out}; open {out / 'report.html'}"), err=True)
    if metrics is not None:
        write_file(metrics, result.openmetrics())
    if perfetto is not None:
        write_file(perfetto, result.perfetto())


def _refuse_together(given: list[str], *, exact: bool, one_run: bool) -> None:
    """Refuse options that each print one thing alone. ``given`` are those that were given; the report of a run is one of them."""
    if exact and given:
        raise InputError(f"--exact computes expected losses alone: {given[0]} goes with drawn runs")
    looking = [name for name in ("--trace", "--at") if name in given]
    if looking and ("--figure" in given or not one_run):
        raise InputError(
            f"{looking[0]} looks into one run: give it without {'--figure' if '--figure' in given else '--seeds'}"
        )
    if "--report" in given and (others := [name for name in ("--figure", "--trace", "--at") if name in given]):
        raise InputError(f"--report and {others[0]} each print one thing alone: give one of them")
    if "--report" in given and not one_run:
        raise InputError("--report is about one run: give it without --seeds")


def _chosen(scenario: list[str], rollout: str, mode: "Mode | None") -> "Draft | str":
    if rollout:
        return _drafted(scenario, rollout, mode)
    if len(scenario) > 1:
        from kpsim.scenario.document import instead_of_cluster

        raise InputError(instead_of_cluster(scenario))
    return scenario[0]


def _drafted(files: "Sequence[str]", rollout: str, mode: "Mode | None") -> "Draft":
    """Draft the scenario of a rollout from a cluster, and say what was taken, guessed and left out."""
    drafted = noted_draft([path_given(file) for file in files], rollout=rollout, mode=mode)
    note(f"kpsim scenario init {shlex.join(files)} --rollout {rollout} writes this scenario, to be filled in")
    return drafted


def _print_expected(
    chosen: "Draft | str", mode: "Mode | None", seed: int | None, settings: list[str], seeds: int, format: Format
) -> None:
    """Print the expected losses, with those of further seeds' courses of the cluster if there are several."""
    from kpsim.cli.progress import count_bar
    from kpsim.reports.expected import expected_json, expected_text, over_seeds_sentence
    from kpsim.result import expected

    first = expected(chosen, mode=mode, seed=seed, settings=settings, note=note)
    found = [first]
    with count_bar("seeds") as count:
        for number in range(1, _several(seeds)):
            found.append(expected(chosen, mode=mode, seed=first.seed + number, settings=settings))
            if count is not None:
                count(number, seeds - 1)
    if format is Format.JSON:
        over = [{"seed": each.seed, "lost": float(each.lost), "sent": float(each.sent)} for each in found]
        typer.echo(json.dumps({**expected_json(first), "over_seeds": over}, indent=2, ensure_ascii=False))
        return
    if len(found) > 1:
        typer.echo(over_seeds_sentence(found))
        typer.echo(f"What follows is the course with seed {first.seed} alone.\n")
    typer.echo(expected_text(first), nl=False)


def _several(seeds: int) -> int:
    from kpsim.sweeping.sweep import MOST_SEEDS

    if not 1 <= seeds <= MOST_SEEDS:
        raise InputError(f"--seeds {seeds}: expected 1 to {MOST_SEEDS:,}")
    return seeds


def _print_figures(result: "RunResult", names: list[str], format: Format, several: "SweepResult | None") -> None:
    """Print figures, a line each, or one JSON object. An undefined one is null there. Of several seeds, how far each varies."""
    import math

    from kpsim.errors import Problem
    from kpsim.reports.expectations import format_figure
    from kpsim.reports.figures import lookup

    found = {name: lookup(result.figures, name, Problem("", file="--figure")) for name in names}
    if format is Format.JSON:
        shown = {name: None if math.isnan(value) else value for name, value in found.items()}
        over = {} if several is None else {"over_seeds": {name: several.figure(name) for name in names}}
        typer.echo(json.dumps({**shown, **over}, indent=2, ensure_ascii=False))
        return
    for name, value in found.items():
        if several is None:
            typer.echo(f"{name} {format_figure(value)}")
        else:
            from kpsim.sweeping.sentences import figure_sentence

            typer.echo(figure_sentence(several.outcome, name))


def _print_report(result: "RunResult", format: Format) -> None:
    from kpsim.reports.summary import plain_tables
    from kpsim.reports.watch_traffic import watch_json, watch_parts

    if format is Format.JSON:
        typer.echo(json.dumps(watch_json(result.log), indent=2))
    else:
        typer.echo(plain_tables(watch_parts(result.log)))


def _print(result: "RunResult", format: Format, several: "SweepResult | None") -> None:
    """Print for a terminal at its width and in colours, else as plain text that does not depend on where it goes.

    What several seeds say comes first: one of them is not the answer.
    """
    if format is Format.JSON:
        over = {} if several is None else {"over_seeds": several.to_json()}
        typer.echo(json.dumps({**result.to_json(), **over}, indent=2, ensure_ascii=False))
        return
    if several is not None:
        from kpsim.sweeping.sentences import over_seeds_lines

        for line in over_seeds_lines(several.outcome):
            typer.echo(line)
        typer.echo(f"What follows is seed {result.scenario.seed} alone.\n")
    terminal = console()
    if terminal is not None:
        from kpsim.reports.summary import print_summary

        print_summary(result.log, result.expectations, terminal)
    else:
        typer.echo(result.summary(), nl=False)


@app.command(epilog="Example: kpsim scenarios --format json")
def scenarios(format: FormatOption = Format.TEXT) -> None:
    """List the built-in scenarios, a line each."""
    from kpsim.scenario import load_scenario
    from kpsim.scenarios import scenario_names, scenario_path

    found = {name: load_scenario(name).spec.description for name in scenario_names()}
    if format is Format.JSON:
        listed = [{"name": n, "description": d, "file": str(scenario_path(n))} for n, d in found.items()]
        typer.echo(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    width = max(map(len, found), default=0)
    for name, description in found.items():
        typer.echo(f"{name:<{width}}  {description}")


@app.command(
    short_help="Print the JSON Schema of scenario files.", epilog="Example: kpsim schema > scenario.schema.json"
)
def schema(
    presets: Annotated[
        bool,
        typer.Option("--presets", help="List the load balancers that loadBalancer.preset names, with their sources."),
    ] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Print the JSON Schema of scenario files, for editors and validators. With --presets: the load balancers known by name."""
    from kpsim.scenario import scenario_json_schema
    from kpsim.scenario.load_balancer_schema import preset_values

    if not presets:
        typer.echo(json.dumps(scenario_json_schema(), indent=2, ensure_ascii=False))
        return
    found = preset_values()
    if format is Format.JSON:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for each in found:
        typer.echo(f"{each['preset']}: {each['meaning']}")
        for policy in ("Cluster", "Local"):
            values = ", ".join(f"{name}: {json.dumps(value)}" for name, value in each[policy].items())
            typer.echo(f"  {policy:<7} {values}")
        typer.echo(f"  source  {each['source']} (read {each['read']})")
