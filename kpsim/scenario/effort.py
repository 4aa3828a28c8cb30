"""How long a scenario would take to run."""

from collections.abc import Iterator, Mapping
from math import ceil

from kpsim.backends.table import traits_of
from kpsim.effort import (
    CONNECTION_S,
    FILLED_S,
    PACKET_S,
    POD_PROBE_S,
    PROBE_S,
    SYNC_ENDPOINT_S,
    SYNC_S,
    WRITE_S,
    WRITTEN_S,
    Effort,
)
from kpsim.objects import Service
from kpsim.scenario.event_schema import (
    Crash,
    DeletePods,
    NodeDown,
    OnNodes,
    RollingUpgrade,
    Rollout,
    Scale,
    ScenarioEvent,
)  # fmt: skip
from kpsim.scenario.load_balancer_schema import Check
from kpsim.scenario.loading import Scenario
from kpsim.scenario.service_names import qualified
from kpsim.scenario.settings import filled
from kpsim.scenario.workload_schema import Kind, Probe, Workload
from kpsim.units import SECOND_NS

_WRITES_OF_A_POD = 8  #: what its start and its end make of API writes
_CHANGES_OF_A_POD = 3  #: of them, what changes rules: it becomes ready, terminates, and is gone


def effort_of(scenario: Scenario) -> Effort:
    """The connections of all clients, the load balancers' probes, and the syncs of all nodes."""
    spec, duration_ns = scenario.spec, scenario.duration_ns
    nodes = spec.nodes.count or len(spec.nodes.named or ()) or 1
    number = {w.name: nodes if w.kind is Kind.DAEMON_SET else w.replicas for w in spec.workloads}
    pods = sum(number.values())
    changed = sum(_changed_pods(event, number, nodes) for event in spec.events)
    services = {
        qualified(f"{s.metadata.namespace}/{s.metadata.name}"): s for s in scenario.objects if isinstance(s, Service)
    }
    of_service = pods / max(1, len(spec.workloads))
    # a class of connections: where they come in, and their endpoint, as long as the rules stay as they are
    classes = nodes * max(1.0, of_service) * (1 + _CHANGES_OF_A_POD * changed / max(1, len(spec.workloads)))
    schedules = traits_of(scenario.proxy.mode).schedules
    connections = packets = walked = 0.0
    for traffic in spec.traffic:
        stop_ns = duration_ns if traffic.stop_ns is None else min(traffic.stop_ns, duration_ns)
        made = traffic.per_second * max(0, stop_ns - traffic.start_ns) / SECOND_NS
        if traffic.keep_alive is None:
            connections += made
            service = services.get(qualified(traffic.service))
            by_others = service is not None and service.session_affinity != "ClientIP" and not schedules
            walked += min(made, classes) if by_others else made
        else:
            packets += made
        if traffic.long is not None:
            packets += made * _packets(traffic.long.packet_every_ns, duration_ns)
    probes = 0.0
    for each in scenario.objects:
        if isinstance(each, Service) and each.type == "LoadBalancer":
            settings = spec.load_balancer.resolved(local=each.external_traffic_policy == "Local")
            asked = nodes * duration_ns / settings.interval_ns
            probes += asked
            by_packets = settings.check is Check.TRAFFIC_PORT and not each.health_check_node_port
            connections, walked = (connections + asked, walked + asked) if by_packets else (connections, walked)
    asked = sum(number[w.name] * duration_ns / probe.period_ns for w in spec.workloads for probe in _probes(w))
    writes = _WRITES_OF_A_POD * changed
    least_ns = max(scenario.proxy.min_sync_period_ns, 1)
    partial = nodes * (min(writes, duration_ns / least_ns) + duration_ns / max(scenario.proxy.sync_period_ns, 1))
    seconds = (
        walked * CONNECTION_S
        + (connections - walked) * WRITTEN_S
        + packets * PACKET_S
        + probes * PROBE_S
        + asked * POD_PROBE_S
        + nodes * (SYNC_S + pods * SYNC_ENDPOINT_S)
        # a partial sync writes the Service that changed (CP-9)
        + partial * (SYNC_S + of_service * SYNC_ENDPOINT_S)
        + writes * nodes * WRITE_S
        + sum(filled(spec, scenario.proxy).values()) * FILLED_S
        + _of_others(scenario, nodes, partial)
    )
    told = [f"{ceil(number):,} {name}" for number, name in ((connections, "connections"), (packets, "later packets"), (probes, "probes"), (asked, "probes of pods"), (nodes + partial, "syncs")) if number >= 1]  # fmt: skip
    return Effort(seconds, ", ".join(told) or "nothing to do")


#: endpoints that a Service without any costs as much as
_OF_A_SERVICE = 4


def _of_others(scenario: Scenario, nodes: int, partial: float) -> float:
    """Return the seconds of the Services that nobody calls, in full syncs: at each start, in some modes always."""
    others = scenario.spec.other_services
    if others is None:
        return 0.0
    starts = sum(bool(event.restart_proxy or event.node_up or event.reboot) for event in scenario.spec.events)
    full = nodes * (1 + starts) + (0 if traits_of(scenario.proxy.mode).partial_syncs else partial)
    return full * others.count * (_OF_A_SERVICE + others.endpoints) * SYNC_ENDPOINT_S


def _changed_pods(event: ScenarioEvent, number: Mapping[str, int], nodes: int) -> float:
    """Return how many pods start or end by an event."""
    of_node = sum(number.values()) / nodes
    match event:
        case ScenarioEvent(rollout=Rollout(workload=name)):
            return number.get(name, 0)
        case ScenarioEvent(scale=Scale(workload=name, replicas=replicas)):
            return abs(replicas - number.get(name, 0))
        case ScenarioEvent(crash=Crash(count=count)) | ScenarioEvent(delete_pods=DeletePods(count=count)):
            return count
        case ScenarioEvent(rolling_upgrade=RollingUpgrade(nodes=named)):
            return of_node * (len(named) or nodes)
        case ScenarioEvent(node_down=NodeDown(nodes=named)) | ScenarioEvent(node_up=OnNodes(nodes=named)):
            return of_node * len(named)
        case _:
            pass
    if event.drain or event.reboot or event.delete_node:
        return of_node
    return 0 if event.label_node or event.taint_node or event.untaint_node or event.cordon or event.uncordon else 1


def _probes(workload: Workload) -> Iterator[Probe]:
    """Those that are sent all the time."""
    yield from (probe for probe in (workload.probes.readiness, workload.probes.liveness) if probe is not None)


def _packets(every_ns: int, duration_ns: int) -> float:
    """Packets of a long connection: it lasts half the run on average."""
    return duration_ns / every_ns / 2
