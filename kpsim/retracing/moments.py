"""The cluster of a run at one moment: slices, pods, what load balancers believe, and the rules in force on each node."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kpsim.addresses import Family, join_host_port
from kpsim.cluster import ClusterState
from kpsim.errors import preformatted
from kpsim.programmed import Programmed
from kpsim.reports.sentences import TextTable, duration, instant, plural
from kpsim.retracing.connections import check_time
from kpsim.retracing.rerun import Rerun, probes_due
from kpsim.scenario import Scenario
from kpsim.scenario.nodes import cluster_families
from kpsim.simulation import Progress
from kpsim.simulation.engine import Run
from kpsim.simulation.podlife import PodLife
from kpsim.simulation.runlog import HappeningKind, NodeHealth, RunLog, Sync
from kpsim.units import SECOND_NS


@dataclass(frozen=True, slots=True)
class ListedEndpoint:
    """An endpoint as an EndpointSlice lists it."""

    service: str  #: ``namespace/name``
    slice: str
    endpoint: str  #: the first address, with the slice's ports: ``10.180.1.2:8080``
    pod: str  #: ``namespace/name``; empty: none is named
    node: str
    zone: str
    ready: bool
    serving: bool
    terminating: bool


@dataclass(frozen=True, slots=True)
class PodAt:
    """A pod, as it is, and as the API server has it."""

    pod: str  #: ``namespace/name``
    node: str  #: empty: it has none yet
    ip: str
    state: str  #: answers, starting, terminating, failed, off
    ready: bool  #: the API server has it as Ready


@dataclass(frozen=True, slots=True)
class RotationAt:
    """What a Service's load balancer does with a node."""

    service: str
    node: str
    in_rotation: bool
    check_passes: bool  #: what a probe would hear now
    contrary: int  #: answers in a row that contradict what it believes
    local_endpoints: int  #: local ready endpoints that the node's kube-proxy knows
    next_probe_ns: int | None  #: None: it sends none


@dataclass(frozen=True, slots=True)
class RulesAt:
    """The rules of one family that are in force on a node."""

    node: str
    family: str
    since_ns: int | None  #: end of the last successful sync; None: there was none since the node booted
    full: bool  #: that sync was a full one
    rules: int  #: of kube-proxy
    waiting: int  #: changes that the API server has and these rules have not
    oldest_ns: int | None  #: when the first of those was written
    off: bool  #: the machine is off


@dataclass(frozen=True, repr=False)
class ClusterAt:
    """The cluster of a run at one moment, when everything that happens at this instant has happened."""

    at_ns: int
    title: str
    state: ClusterState  #: the API server's objects
    endpoints: tuple[ListedEndpoint, ...]
    pods: tuple[PodAt, ...]
    rotation: tuple[RotationAt, ...]
    in_force: tuple[RulesAt, ...]
    programmed: Mapping[tuple[str, Family], Programmed]  #: what each node's kernel was told

    def text(self, width: int = 120) -> str:
        """Return the tables as plain text."""
        from kpsim.reports.summary import plain_tables

        parts: list[str | TextTable] = [f"{self.title}, at {instant(self.at_ns)}"]
        for heading, table in self.tables():
            parts += ["", heading, table]
        return plain_tables(parts, width)

    def tables(self) -> Iterator[tuple[str, TextTable]]:
        """Yield each table that has rows, with its heading."""
        if self.endpoints:
            yield "EndpointSlices", _endpoints_table(self.endpoints)
        if self.pods:
            yield "Pods", _pods_table(self.pods)
        if self.rotation:
            yield "Load balancers", _rotation_table(self.rotation)
        yield "Rules in force", _rules_table(self.in_force, self.at_ns)

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values; times in seconds since the start of the run."""
        return {
            "at_seconds": self.at_ns / SECOND_NS,
            "endpoints": [asdict(row) for row in self.endpoints],
            "pods": [asdict(row) for row in self.pods],
            "rotation": [_in_seconds(asdict(row)) for row in self.rotation],
            "rules": [_in_seconds(asdict(row)) for row in self.in_force],
        }

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<{self.title}, at {instant(self.at_ns)}: {plural(len(self.pods), 'pod')}>"

    def _repr_html_(self) -> str:
        return preformatted(self.text())


def _in_seconds(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removesuffix("_ns") + ("_seconds" if name.endswith("_ns") else ""): (
            value / SECOND_NS if name.endswith("_ns") and value is not None else value
        )
        for name, value in row.items()
    }


def cluster_at(scenario: Scenario, log: RunLog, at_ns: int, progress: Progress | None = None) -> ClusterAt:
    """Run a scenario again until a time, and return the cluster as it is then. InputError for a time outside the run."""
    check_time(log, at_ns)
    rerun = Rerun(scenario)
    rerun.until(at_ns, progress)
    run = rerun.run
    return ClusterAt(
        at_ns,
        f"{log.scenario}, mode {log.mode}, seed {log.seed}",
        run.api.state,
        tuple(_endpoints(run.api.state)),
        tuple(_pods(run)),
        tuple(_rotation(run)),
        tuple(_rules(run)),
        {
            (node.name, family): told
            for node in run.nodes
            for family, told in sorted(run.machines.netns(node.name).programmed.items())
        },
    )


def _endpoints(state: ClusterState) -> Iterator[ListedEndpoint]:
    for item in state.endpoint_slices:
        ports = [port.port for port in item.ports if port.port is not None]
        for each in item.endpoints:
            target = each.target_ref
            pod = f"{target.namespace or item.metadata.namespace}/{target.name}" if target is not None else ""
            address = each.addresses[0]
            end = join_host_port(address, ports[0]) if ports else address
            more = "".join(f",{port}" for port in ports[1:])
            # a condition that is absent counts as the API says: ready and serving, not terminating (O-6.3)
            ready = each.ready is not False
            yield ListedEndpoint(
                f"{item.metadata.namespace}/{item.service_name}", item.metadata.name, end + more, pod, each.node_name or "",
                each.zone or "", ready, ready if each.serving is None else each.serving, bool(each.terminating),
            )  # fmt: skip


def _pods(run: Run) -> Iterator[PodAt]:
    for key in sorted(run.workloads.kubelets.pods):
        pod = run.workloads.kubelets.pods[key]
        yield PodAt(f"{key.namespace}/{key.name}", pod.node, ",".join(pod.ips), _state_of(run, pod), pod.told.ready)


def _state_of(run: Run, pod: PodLife) -> str:
    if pod.node and run.machines.is_off(pod.node):
        return "off"
    if pod.failed:
        return "failed"
    if pod.terminating or pod.shutting_down:
        return "terminating, answers" if pod.answers else "terminating"
    if not pod.node:
        return "waits for a node"
    return "answers" if pod.answers else "starting"


def _rotation(run: Run) -> Iterator[RotationAt]:
    last: dict[tuple[str, str], NodeHealth] = {}
    for record in run.log.node_health:
        last[record.service, record.node] = record
    for probe in probes_due(run):
        health = last.get((probe.service, probe.node))
        if health is not None:
            yield RotationAt(
                probe.service, probe.node, health.in_rotation, health.check_passes, probe.contrary,
                health.local_endpoints, probe.next_ns,
            )  # fmt: skip


def _rules(run: Run) -> Iterator[RulesAt]:
    done: dict[tuple[str, str], Sync] = {}
    for sync in run.log.syncs:
        if sync.success:
            done[sync.node, sync.family] = sync
    booted = {h.subject: h.at_ns for h in run.log.happenings if h.kind is HappeningKind.NODE_UP}
    for node in run.nodes:
        waiting: dict[str, list[int]] = {}
        for late in run.proxies[node.name].unprogrammed():
            waiting.setdefault(late.family, []).append(late.written_ns)
        for family in cluster_families(run.spec.nodes):
            last = done.get((node.name, family.label))
            if last is not None and last.end_ns < booted.get(node.name, 0):
                last = None
            written = waiting.get(family.label, [])
            yield RulesAt(
                node.name, family.label, None if last is None else last.end_ns, last is not None and last.full,
                0 if last is None else last.rules, len(written), min(written, default=None), run.machines.is_off(node.name),
            )  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- tables


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _endpoints_table(rows: Sequence[ListedEndpoint]) -> TextTable:
    return TextTable(
        ("service", "endpoint", "pod", "node", "ready", "serving", "terminating", "slice"),
        tuple(
            (e.service, e.endpoint, e.pod, e.node, _yes(e.ready), _yes(e.serving), _yes(e.terminating), e.slice)
            for e in rows
        ),
    )


def _pods_table(rows: Sequence[PodAt]) -> TextTable:
    return TextTable(
        ("pod", "node", "address", "state", "Ready in the API"),
        tuple((p.pod, p.node, p.ip, p.state, _yes(p.ready)) for p in rows),
    )


def _rotation_table(rows: Sequence[RotationAt]) -> TextTable:
    def due(row: RotationAt) -> str:
        return "–" if row.next_probe_ns is None else f"{instant(row.next_probe_ns)}"

    return TextTable(
        ("service", "node", "in rotation", "check passes", "contrary answers", "local endpoints", "next probe"),
        tuple(
            (
                r.service, r.node, _yes(r.in_rotation), _yes(r.check_passes), str(r.contrary), str(r.local_endpoints), due(r),
            )
            for r in rows
        ),
        frozenset({4, 5, 6}),
    )  # fmt: skip


def _rules_table(rows: Sequence[RulesAt], at_ns: int) -> TextTable:
    def cells(r: RulesAt) -> tuple[str, ...]:
        if r.off:
            return r.node, r.family, "the machine is off", "", "", ""
        if r.since_ns is None:
            return r.node, r.family, "none since it booted", "", str(r.waiting), ""
        oldest = "" if r.oldest_ns is None else f"the first since {instant(r.oldest_ns)}"
        return r.node, r.family, instant(r.since_ns), duration(at_ns - r.since_ns), str(r.waiting), oldest

    return TextTable(
        ("node", "family", "in force since", "age", "changes not in them", ""),
        tuple(map(cells, rows)),
        frozenset({2, 3, 4}),
    )
