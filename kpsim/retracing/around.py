"""What happened around a connection: pods, slices, rules, and the load balancer, as far as they bear on it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from kpsim.reports.local_policy import service_of
from kpsim.reports.sentences import duration, instant
from kpsim.retracing.rerun import ProbeDue
from kpsim.simulation.runlog import Connection, Frontend, Happening, HappeningKind, NodeHealth, RunLog

MOST_BEFORE, MOST_AFTER = 8, 5

#: events of the scenario; their consequences are told pod by pod and node by node
_CAUSES = frozenset(
    {
        HappeningKind.ROLLOUT, HappeningKind.SCALE, HappeningKind.NODE_DRAINED, HappeningKind.NODE_DOWN,
        HappeningKind.ROLLING_UPGRADE, HappeningKind.SERVICE_CREATED, HappeningKind.SERVICE_PATCHED,
    }
)  # fmt: skip


class Nearby(NamedTuple):
    """Something that happened, or was due, near a connection in time."""

    at_ns: int
    what: str


class Around(NamedTuple):
    """The nearest things before and after a packet, in time order, and how many further ones there are."""

    before: tuple[Nearby, ...]
    after: tuple[Nearby, ...]
    earlier: int
    later: int


def around(log: RunLog, c: Connection, at_ns: int, probes: Sequence[ProbeDue]) -> Around:
    """Return what bears on a connection's packet of ``at_ns``: on its Service, and on the nodes that it met."""
    found = [*_of_pods(log, c), *_of_slices(log, c), *_of_rules(log, c), *_of_health(log, c), *_of_entry(c)]
    found = sorted(dict.fromkeys(found), key=_time)  # within one instant causes stand before what follows from them
    before = [each for each in found if each.at_ns <= at_ns]
    after = [each for each in found if each.at_ns > at_ns]
    shown = sorted([*after[:MOST_AFTER], *_due(c, at_ns, probes)], key=_time)
    return Around(
        tuple(before[-MOST_BEFORE:]), tuple(shown), max(0, len(before) - MOST_BEFORE), max(0, len(after) - MOST_AFTER)
    )


def _time(each: Nearby) -> int:
    return each.at_ns


def lines_of(around: Around, at_ns: int, what: str) -> Iterator[str]:
    """The same as lines, with the packet itself between."""
    if around.earlier:
        yield f"  … {around.earlier:,} more before that"
    rows = [*around.before, None, *around.after]
    width = max(len(instant(at_ns if row is None else row.at_ns)) for row in rows)
    for row in rows:
        mark, time_ns, said = ("→", at_ns, what) if row is None else (" ", row.at_ns, row.what)
        yield f"{mark} {instant(time_ns):>{width}}  {said}"
    if around.later:
        yield f"  … {around.later:,} more after that"


def _nodes(c: Connection) -> set[str]:
    """The nodes that the connection met; empty: none, so all of them bear on it."""
    return {c.node, c.endpoint_node} - {""}


def _concerns(c: Connection, node: str) -> bool:
    nodes = _nodes(c)
    return not nodes or node in nodes


def _of_pods(log: RunLog, c: Connection) -> Iterator[Nearby]:
    service = service_of(c.service)
    pods = {spell.pod for spell in log.endpoints if service_of(spell.service) == service and spell.pod}
    node_of = {spell.pod: spell.node for spell in log.endpoints if spell.pod}
    for h in log.happenings:
        if h.kind is HappeningKind.NO_EFFECT:
            continue
        if h.kind in _CAUSES or h.subject == service or (h.subject in log.nodes and _concerns(c, h.subject)):
            yield Nearby(h.at_ns, _said(h))
        elif h.subject in pods and _concerns(c, node_of[h.subject]):
            yield Nearby(h.at_ns, _said(h, f" on {node_of[h.subject]}"))


def _said(h: Happening, where: str = "") -> str:
    detail = "" if where else (f": {h.detail}" if h.detail else "")
    return f"{h.subject}: {h.kind}{where}{detail}"


def _of_slices(log: RunLog, c: Connection) -> Iterator[Nearby]:
    for spell in log.endpoints:
        if spell.service != c.service or not (_concerns(c, spell.node) or spell.endpoint == c.endpoint):
            continue
        whose = ", ".join(filter(None, (spell.pod, spell.node)))
        end = f"{spell.endpoint} ({whose})" if whose else spell.endpoint
        if spell.from_ns:
            yield Nearby(spell.from_ns, f"slice written: {end} is a ready endpoint")
        if spell.until_ns is not None:
            yield Nearby(spell.until_ns, f"slice written: {end} is no ready endpoint any more")


def _of_rules(log: RunLog, c: Connection) -> Iterator[Nearby]:
    service = service_of(c.service)
    nodes = {c.node} - {""}
    for p in log.programming:
        if p.service == service and (not nodes or p.node in nodes):
            late = f", {duration(p.programmed_ns - p.trigger_ns)} after its cause"
            yield Nearby(p.programmed_ns, f"{p.node}: rules in force with {p.change}{late}")
    for u in log.unprogrammed:
        if u.service == service and (not nodes or u.node in nodes):
            yield Nearby(u.written_ns, f"{u.node}: {u.change} written; it reached the rules no more in this run")


def _of_health(log: RunLog, c: Connection) -> Iterator[Nearby]:
    if c.frontend is Frontend.CLUSTER_IP:
        return
    service = service_of(c.service)
    last: dict[str, NodeHealth] = {}
    for record in log.node_health:
        if record.service != service or (c.node and record.node != c.node):
            continue
        before = last.get(record.node)
        last[record.node] = record
        if before is None:
            continue
        if said := ", ".join(_changes(before, record)):
            yield Nearby(record.at_ns, f"{record.node}: {said}")


def _changes(before: NodeHealth, after: NodeHealth) -> Iterator[str]:
    if before.local_usable != after.local_usable:
        yield f"{after.local_usable} local endpoint{'s' if after.local_usable != 1 else ''} that its rules use"
    if before.check_passes is not after.check_passes:
        yield f"the health check {'passes' if after.check_passes else 'fails'} from now on"
    if before.in_rotation is not after.in_rotation:
        yield f"the load balancer {'sends to it again' if after.in_rotation else 'takes it out of rotation'}"


def _of_entry(c: Connection) -> Iterable[Nearby]:
    if c.pin is None:
        return ()
    return [Nearby(c.pin.entry_ns, f"{c.pin.node}: the connection entry is made that leads to {c.pin.leads_to}")]


def _due(c: Connection, at_ns: int, probes: Sequence[ProbeDue]) -> Iterator[Nearby]:
    if c.frontend is Frontend.CLUSTER_IP:
        return
    service = service_of(c.service)
    for probe in probes:
        if probe.service == service and probe.next_ns is not None and (not c.node or probe.node == c.node):
            so_far = f"; {probe.contrary} failed in a row so far" if probe.in_rotation and probe.contrary else ""
            yield Nearby(max(probe.next_ns, at_ns), f"the load balancer's next probe of {probe.node} is due{so_far}")
