"""``kpsim upgrade``."""

import enum
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpsim.cli import app
from kpsim.cli.completion import complete_service_name
from kpsim.cli.options import (
    ClusterArgument,
    ClusterCommand,
    JobsOption,
    LoadBalancerOption,
    LongOption,
    ModeOption,
    path_given,
)
from kpsim.cli.printing import go_on_without_reader, note
from kpsim.errors import InputError, printable

if TYPE_CHECKING:
    from kpsim.upgrading import UpgradeResult


class UpgradeFormat(enum.StrEnum):
    """The values of ``--format``."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"
    MARKDOWN = "markdown"
    CSV = "csv"


class FailOn(enum.StrEnum):
    """The values of ``--fail-on``."""

    NEVER = "never"
    RISK = "risk"


@app.command(
    cls=ClusterCommand,
    short_help="Simulate a node upgrade: which Services lose, and what helps.",
    epilog="Examples: kpsim upgrade cluster.yaml kube-proxy.yaml. kpsim upgrade cluster.yaml --service shop/web --load-balancer aws-nlb "
    "--patch fix.yaml. kpsim upgrade cluster.yaml --no-remedies --fail-on risk --format junit. Exit code 1: with --fail-on risk, a Service is "
    "at risk.",
)
def upgrade(
    context: typer.Context,
    cluster: ClusterArgument,
    service: Annotated[
        list[str] | None,
        typer.Option(
            "--service",
            metavar="NAMESPACE/NAME",
            help="Only this Service and the workloads behind it. May be repeated.",
            show_default=False,
            autocompletion=complete_service_name,
        ),
    ] = None,
    max_unavailable: Annotated[
        str,
        typer.Option(
            "--max-unavailable", metavar="N", help="Nodes that are upgraded at once: a number or a percentage."
        ),
    ] = "1",
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", help="How often it is run, each time with another seed.")
    ] = 5,
    load_balancer: LoadBalancerOption = "",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Change a field of the drafted scenario, such as events[0].rollingUpgrade.takes=3m. May be repeated.",
            show_default=False,
        ),
    ] = None,
    mode: ModeOption = None,
    no_remedies: Annotated[bool, typer.Option("--no-remedies", help="Do not try what avoids the losses.")] = False,
    jobs: JobsOption = None,
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="End with exit code 1 if a Service is at risk.")
    ] = FailOn.NEVER,
    patch: Annotated[
        Path | None,
        typer.Option(
            "--patch", metavar="FILE", help="Write the remedies here, as YAML for kubectl.", parser=path_given
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write the drafted scenario here, for kpsim run.", parser=path_given
        ),
    ] = None,
    long: LongOption = False,
    format: Annotated[
        UpgradeFormat, typer.Option("--format", help="What the verdicts are written as.")
    ] = UpgradeFormat.TEXT,
) -> None:
    """Upgrade all nodes one after the other in a simulation: which Services lose connections, in which drain, why, and what avoids it.

    CLUSTER is what kubectl get nodes,services,endpointslices,pods,deployments,statefulsets,daemonsets,replicasets,pdb -A -o yaml prints, and
    kube-proxy's ConfigMap. Each remedy is tried in the same simulation, the cheapest first.
    """
    from kpsim.cli.progress import count_bar
    from kpsim.cli.unused import note_unused
    from kpsim.explore import load
    from kpsim.manifests.kinds import MAKERS_NOTE
    from kpsim.outputs import check_file, write_file
    from kpsim.upgrading import upgrade as run_upgrade

    note_unused(context)
    share = _share(max_unavailable)
    balancer = _balancer(load_balancer)
    for file in filter(None, (patch, out)):
        check_file(file)
        go_on_without_reader()
    loaded = load(cluster, mode=mode)
    for words in loaded.notes:
        if not words.startswith(MAKERS_NOTE):  # they are read here
            note(words)
    with count_bar("upgrades") as progress:
        found = run_upgrade(
            loaded, services=service or (), max_unavailable=share, seeds=seeds, settings=set_ or (), balancer=balancer,
            remedies=not no_remedies, jobs=jobs, progress=progress, long=long, note=note,
        )  # fmt: skip
    typer.echo(_written(found, format), nl=False)
    if out is not None:
        write_file(out, found.scenario)
        typer.echo(printable(f"scenario written to {out}"), err=True)
    if patch is not None:
        write_file(patch, found.patch or "# no remedy was found, or none is needed\n")
        typer.echo(printable(f"{len(found.outcome.changes):,} changes written to {patch}"), err=True)
    if fail_on is FailOn.RISK and found.at_risk:
        sys.exit(1)


def _share(text: str) -> int | str:
    """Return how many nodes are upgraded at once. InputError unless it is a number from 1 on or a percentage."""
    if re.fullmatch(r"[0-9]{1,4}", text) and int(text):
        return int(text)
    if re.fullmatch(r"[0-9]{1,3}%", text) and 0 < int(text[:-1]) <= 100:
        return text
    raise InputError(f"--max-unavailable {text}: expected a number of nodes from 1 on, or a percentage such as 25%")


def _balancer(preset: str) -> dict[str, str] | None:
    from kpsim.scenario.load_balancer_schema import Preset

    if not preset:
        return None
    if preset not in list(Preset):
        raise InputError(f"--load-balancer {preset}: there is no such preset; there is {', '.join(Preset)}")
    return {"preset": preset}


def _written(found: "UpgradeResult", format: UpgradeFormat) -> str:
    from kpsim.upgrading.writing import junit, markdown

    match format:
        case UpgradeFormat.TEXT:
            return found.text()
        case UpgradeFormat.JSON:
            return json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n"
        case UpgradeFormat.JUNIT:
            return junit(found.outcome)
        case UpgradeFormat.MARKDOWN:
            return markdown(found.outcome)
        case UpgradeFormat.CSV:
            return found.to_csv()
