"""The part of a report that says in words what was simulated, so that the report can be read a month later."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import yaml

from kpsim.objects import Service
from kpsim.reports.sentences import plural
from kpsim.scenario import Scenario
from kpsim.scenario.load_balancer_schema import LoadBalancerSpec
from kpsim.scenario.nodes import cluster_nodes
from kpsim.scenario.quantities import Delay, file_name
from kpsim.scenario.services import service_object_key
from kpsim.scenario.traffic_schema import Traffic, Via
from kpsim.scenario.workload_schema import Kind, Termination, Workload
from kpsim.units import format_duration

MODELLED = "kube-proxy 1.36"
MOST_FACTS = 8  #: of one kind; the scenario's text has all


@dataclass(frozen=True, slots=True)
class KeptTrace:
    """The way of a lost connection, as text."""

    name: str  #: ``SOURCE#NUMBER``
    at_ns: int
    node: str  #: empty: no node got it
    disposition: str
    cause: str
    text: str


@dataclass(frozen=True, slots=True)
class Simulated:
    """The scenario of a run for its report, and traces of connections that were lost."""

    facts: tuple[tuple[str, str], ...]
    yaml: str  #: the scenario as a file; empty: it was not made from one
    command: str  #: that repeats the run; empty: not known
    traces: tuple[KeptTrace, ...] = ()
    workloads: Mapping[str, str] = field(default_factory=dict)  #: Service → the one workload behind it
    inline: frozenset[str] = (
        frozenset()
    )  #: Services that the scenario's own ``objects`` hold, so that ``--set`` reaches them


def simulated(scenario: Scenario, command: str = "", traces: Sequence[KeptTrace] = ()) -> Simulated:
    """Return what a report says about a scenario. Equal scenarios give equal texts."""
    return Simulated(
        tuple(_facts(scenario)),
        scenario.yaml_text(),
        command,
        tuple(traces),
        _workloads_behind(scenario),
        _inline(scenario),
    )


def _facts(scenario: Scenario) -> Iterator[tuple[str, str]]:
    spec = scenario.spec
    named = dict.fromkeys(service_object_key(traffic.service) for traffic in spec.traffic)
    objects = {obj.key: obj for obj in (*scenario.created.values(), *scenario.objects)}
    services = [obj for key in named if isinstance(obj := objects.get(key), Service)]
    for service in services[:MOST_FACTS]:
        yield "Service", _service(service)
    for workload in spec.workloads[:MOST_FACTS]:
        yield "Pods", _workload(workload)
        yield "Their end", f"{workload.name}: {_termination(workload.termination)}"
    nodes = cluster_nodes(spec.nodes)
    zones = sorted({node.zone for node in nodes if node.zone is not None})
    yield (
        "Nodes",
        f"{len(nodes)}" + (f" in {len(zones)} zones ({', '.join(zones[:6])})" if zones else ", without zones"),
    )
    if _is_balanced(spec.traffic, services):
        for local in sorted({service.external_traffic_policy == "Local" for service in services}):
            yield "Load balancer", _balancer(spec.load_balancer.resolved(local=local), spec.load_balancer)
    for traffic in spec.traffic[:MOST_FACTS]:
        yield "Clients", _traffic(traffic)
    for event, written in list(zip(spec.events, scenario.content.get("events") or (), strict=False))[:MOST_FACTS]:
        what = {name: value for name, value in written.items() if name != "at"}
        yield "Event", f"at {format_duration(event.at_ns)}: {_flow(what)}"
    if len(spec.events) > MOST_FACTS:
        yield "Event", f"and {len(spec.events) - MOST_FACTS:,} more"
    yield "kube-proxy", f"{MODELLED} in {scenario.proxy.mode} mode{_settings(scenario)}"
    yield (
        "Simulated with",
        f"kpsim {version('kpsim')}, seed {scenario.seed}, {format_duration(spec.duration_ns)} of the cluster's time",
    )


def _is_balanced(traffic: Sequence[Traffic], services: Sequence[Service]) -> bool:
    return any(each.via is Via.LOAD_BALANCER for each in traffic) or any(s.type == "LoadBalancer" for s in services)


def _service(service: Service) -> str:
    ports = ", ".join(f"{port.port}/{port.protocol}" for port in service.ports)
    parts = [service.type, f"port {ports}" if ports else "no port"]
    if service.type in ("NodePort", "LoadBalancer") or service.external_ips:
        parts.append(f"externalTrafficPolicy {service.external_traffic_policy or 'Cluster'}")
    parts.append(f"internalTrafficPolicy {service.internal_traffic_policy or 'Cluster'}")
    if service.session_affinity == "ClientIP":
        parts.append(f"sessionAffinity ClientIP ({service.affinity_timeout_seconds or 10800} s)")
    if service.traffic_distribution:
        parts.append(f"trafficDistribution {service.traffic_distribution}")
    return f"{service.metadata.namespace}/{service.metadata.name}: {', '.join(parts)}"


def _workload(workload: Workload) -> str:
    many = "a pod on each node" if workload.kind is Kind.DAEMON_SET else plural(workload.replicas, "replica")
    start = f"answer {_delay(workload.startup.delay)} after their creation"
    return f"{workload.namespace}/{workload.name}: {workload.kind}, {many}, {start}"


def _termination(end: Termination) -> str:
    hook = "no preStop hook" if end.pre_stop == Delay.of(0) else f"preStop {_delay(end.pre_stop)}"
    if end.pre_stop != Delay.of(0) and not end.serves_during_pre_stop:
        hook += " (answers no more meanwhile)"
    after = (
        "exits on SIGTERM" if end.after_sigterm == Delay.of(0) else f"answers {_delay(end.after_sigterm)} after SIGTERM"
    )
    return f"{hook}, {after}, terminationGracePeriod {format_duration(end.grace_ns)}"


def _balancer(found: LoadBalancerSpec, given: LoadBalancerSpec) -> str:
    name = f"{given.preset}, " if given.preset is not None else ""
    return (
        f"{name}probes every {format_duration(found.interval_ns)} ({found.check}), out of rotation after "
        f"{found.unhealthy_threshold} failures and back after {found.healthy_threshold} passes, {found.distribution}; a node may "
        f"get traffic that it cannot serve for up to {format_duration(found.worst_window_ns)} (FIG-3)"
    )


def _traffic(traffic: Traffic) -> str:
    who = f"{traffic.clients:,} from {traffic.sender}" if traffic.clients > 1 else f"from {traffic.sender}"
    kind = ""
    if traffic.long is not None:
        kind = f", connections that last {_delay(traffic.long.lasts)}"
    elif traffic.keep_alive is not None:
        kind = f", requests over {traffic.keep_alive.connections} open connection(s) each"
    tries = "" if traffic.retries is None else f", try again up to {traffic.retries.count} times"
    return f"{traffic.name}: {who}, {traffic.per_second:g} a second to {traffic.frontend} by {traffic.via}{kind}{tries}"


def _settings(scenario: Scenario) -> str:
    given = {name: value for name, value in scenario.spec.proxy.items() if name != "mode"}
    return f", {_flow(given)}" if given else ""


def _delay(delay: Delay) -> str:
    if delay.constant_ns is not None:
        return format_duration(delay.constant_ns)
    (kind, drawn) = next(iter(delay.model_dump(exclude_none=True).items()))
    return f"{kind} ({_flow({file_name(name): _duration(name, value) for name, value in drawn.items() if value})})"


def _duration(name: str, value: Any) -> Any:
    if not name.endswith("_ns"):
        return list(value) if isinstance(value, tuple) else value
    return [format_duration(each) for each in value] if isinstance(value, tuple) else format_duration(value)


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10_000).strip()
    return text.removeprefix("{").removesuffix("}") if text.startswith("{") and text.endswith("}") else text


def _workloads_behind(scenario: Scenario) -> dict[str, str]:
    """The one workload that each Service selects, where it selects one."""
    found = {}
    for obj in scenario.objects:
        if not isinstance(obj, Service) or not obj.selector:
            continue
        behind = [
            workload
            for workload in scenario.spec.workloads
            if workload.namespace == obj.metadata.namespace and obj.selector.items() <= workload.pod_labels.items()
        ]
        if len(behind) == 1:
            found[f"{obj.metadata.namespace}/{obj.metadata.name}"] = behind[0].name
    return found


def _inline(scenario: Scenario) -> frozenset[str]:
    found = (each for each in scenario.spec.objects if each.get("kind") == "Service")
    names = (each.get("metadata") for each in found)
    return frozenset(f"{m.get('namespace', 'default')}/{m.get('name')}" for m in names if isinstance(m, dict))
