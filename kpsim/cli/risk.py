"""``kpsim risk``."""

import enum
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpsim.cli import app
from kpsim.cli.completion import complete_service_name
from kpsim.cli.options import ClusterArgument, ClusterCommand, LoadBalancerOption, ModeOption, path_given
from kpsim.cli.printing import go_on_without_reader, note
from kpsim.errors import InputError, printable

if TYPE_CHECKING:
    from kpsim.cluster import ClusterState
    from kpsim.risk import Assessment
    from kpsim.scenario.load_balancer_schema import LoadBalancerSpec


class RiskFormat(enum.StrEnum):
    """The values of ``--format``."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"
    MARKDOWN = "markdown"


class FailOn(enum.StrEnum):
    """The values of ``--fail-on``."""

    NEVER = "never"
    RISK = "risk"


@app.command(
    cls=ClusterCommand,
    short_help="Say which Services suffer when nodes are drained or lost.",
    epilog="Examples: kpsim risk cluster.yaml. kpsim risk cluster.yaml --load-balancer aws-nlb --fail-on risk. "
    "Exit code 1: with --fail-on risk, a Service is at risk.",
)
def risk(
    cluster: ClusterArgument,
    service: Annotated[
        list[str] | None,
        typer.Option(
            "--service",
            metavar="NAMESPACE/NAME",
            help="Judge only this Service. May be repeated.",
            show_default=False,
            autocompletion=complete_service_name,
        ),
    ] = None,
    load_balancer: LoadBalancerOption = "",
    probe_interval: Annotated[
        str,
        typer.Option(
            "--probe-interval",
            metavar="DURATION",
            help="How often they probe: 5s, unless a preset says otherwise.",
            show_default=False,
        ),
    ] = "",
    unhealthy_threshold: Annotated[
        int | None,
        typer.Option(
            "--unhealthy-threshold",
            min=1,
            help="How many failures they believe: 2, unless a preset says otherwise.",
            show_default=False,
        ),
    ] = None,
    mode: ModeOption = None,
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="End with exit code 1 if a Service is at risk.")
    ] = FailOn.NEVER,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the result here.", parser=path_given)
    ] = None,
    format: Annotated[RiskFormat, typer.Option("--format", help="What the result is written as.")] = RiskFormat.TEXT,
) -> None:
    """Judge each Service: what its clients get while each node is drained, each node or zone lost, and in a rollout.

    CLUSTER is what kubectl get nodes,services,endpointslices,pods,deployments,statefulsets,daemonsets,replicasets,pdb -A -o yaml prints, and
    kube-proxy's ConfigMap. Nothing is simulated.
    """
    from kpsim.cli.progress import count_bar
    from kpsim.explore import load
    from kpsim.manifests.kinds import MAKERS_NOTE
    from kpsim.outputs import check_file, write_file
    from kpsim.risk import assess

    balancer = _balancer(load_balancer, probe_interval, unhealthy_threshold)
    if out is not None:
        check_file(out)
        go_on_without_reader()
    loaded = load(cluster, mode=mode)
    for words in loaded.notes:
        if not words.startswith(MAKERS_NOTE):  # they are read here
            note(words)
    if not (load_balancer or probe_interval or unhealthy_threshold is not None):
        balancer = _as_objects_tell(loaded.state, service or (), balancer)
    with count_bar("judging") as progress:
        found = assess(
            loaded.state,
            loaded.config,
            loaded.controllers,
            services=service or (),
            balancer=balancer,
            progress=progress,
        )
    written = _written(found, format)
    if out is None:
        typer.echo(written, nl=False)
    else:
        write_file(out, written)
        typer.echo(printable(f"{len(found.verdicts):,} verdicts written to {out}"), err=True)
    if fail_on is FailOn.RISK and found.at_risk:
        sys.exit(1)


def _as_objects_tell(state: "ClusterState", names: Sequence[str], otherwise: "LoadBalancerSpec") -> "LoadBalancerSpec":
    """Return the kind that the load balancers of all Services asked about are, as drafts have it, with a note; else ``otherwise``."""
    from kpsim.drafting.balancers import kind_of_all

    asked = {name if "/" in name else f"default/{name}" for name in names}
    services = [
        each for each in state.services
        if each.type == "LoadBalancer" and (not asked or f"{each.metadata.namespace}/{each.metadata.name}" in asked)
    ]  # fmt: skip
    preset, why, some = kind_of_all(services, list(state.nodes))
    if preset:
        note(f"load balancers are taken for {preset} ({why}); --load-balancer says another")
        return _balancer(preset, "", None)
    if some:
        note(
            f"load balancers are of several kinds, {', '.join(some)}: --load-balancer says which; --service asks about some"
        )
    return otherwise


def _balancer(preset: str, interval: str, threshold: int | None) -> "LoadBalancerSpec":
    from kpsim.scenario.load_balancer_schema import LoadBalancerSpec, Preset
    from kpsim.units import MILLISECOND_NS, parse_duration_ns

    given: dict[str, object] = {}
    if preset:
        if preset not in list(Preset):
            raise InputError(f"--load-balancer {preset}: there is no such preset; there is {', '.join(Preset)}")
        given["preset"] = Preset(preset)
    if interval:
        try:
            every_ns = parse_duration_ns(interval)
        except ValueError:
            every_ns = 0
        if every_ns < 10 * MILLISECOND_NS:
            raise InputError(f"--probe-interval {interval}: expected a duration of at least 10ms, such as 5s")
        given["interval"] = interval
    if threshold is not None:
        given["unhealthyThreshold"] = threshold
    return LoadBalancerSpec.model_validate(given)


def _written(found: "Assessment", format: RiskFormat) -> str:
    from kpsim.risk.writing import junit, markdown, text

    match format:
        case RiskFormat.TEXT:
            return text(found)
        case RiskFormat.JSON:
            return json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n"
        case RiskFormat.JUNIT:
            return junit(found)
        case RiskFormat.MARKDOWN:
            return markdown(found)
