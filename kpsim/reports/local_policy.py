"""What ``externalTrafficPolicy: Local`` lost, per node over time, compared with the load balancer's view of the node.

A *local drop* is a connection to an external address of a Local service that a node dropped, or refused because it had
no local endpoint, or sent to an endpoint of another node, so that the client got its answer from another address (ipvs
mode falls back to all endpoints, IPVS-5.1, IPVS-15). Not counted are: drops by source ranges, which the Service's
author wants; refusals because there is no endpoint at all; such refusals that the rate limit kept from the client; pods
that were led to themselves behind a bridge without hairpin; packets that a reverse path filter dropped; and connections
that were set up and broke later.
"""

import enum
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import accumulate

from kpsim.simulation.runlog import Connection, Fate, Frontend, NodeHealth, Reason, RunLog
from kpsim.units import MILLISECOND_NS


class HealthView(enum.StrEnum):
    """The load balancer's view of the node when the node lost the connection."""

    CHECK_PASSES = "in rotation, health check passing"
    NOT_NOTICED = "in rotation, health check failing"  #: fewer probes have failed than the threshold says
    OUT_OF_ROTATION = "out of rotation"  #: the client dialled the node itself, or the node was chosen earlier
    NOT_WATCHED = "no load balancer"


@dataclass(frozen=True, slots=True)
class LocalDrop:
    """One lost connection and the node's health at that instant (None: no load balancer probed the node)."""

    connection: Connection
    health: NodeHealth | None

    @property
    def view(self) -> HealthView:
        """The load balancer's view of the node."""
        if self.health is None:
            return HealthView.NOT_WATCHED
        if not self.health.in_rotation:
            return HealthView.OUT_OF_ROTATION
        return HealthView.CHECK_PASSES if self.health.check_passes else HealthView.NOT_NOTICED


@dataclass(frozen=True, slots=True)
class LocalDropWindow:
    """A run of local drops at one node, with no delivery between them.

    The drops have the same end, the same cause and the same state of the node.
    """

    service: str
    node: str  #: empty: lost before it reached a node
    disposition: Fate  #: dropped or rejected
    cause: Reason
    start_ns: int  #: first drop
    end_ns: int  #: last drop
    dropped: int
    in_rotation: bool | None  #: None: no load balancer probed the node
    no_local_since_ns: int | None  #: when its rules lost the last usable local endpoint
    check_failed_ns: int | None  #: when the health check began to fail; None if it passed at the last drop
    left_rotation_ns: int | None  #: when the load balancer stopped sending to it


@dataclass(frozen=True, slots=True)
class LocalBin:
    """One node's external Local traffic for one service port in one stretch of time."""

    start_ns: int
    end_ns: int
    service: str
    node: str
    received: int
    delivered: int
    dropped: int
    in_rotation_ratio: float  #: share of the time in rotation; NaN where no load balancer probed the node
    usable_ratio: float  #: share of the time with a usable local endpoint; NaN where no load balancer probed the node


class HealthTimeline:
    """The health records of one service on one node, looked up by time."""

    def __init__(self, records: Iterable[NodeHealth] = ()) -> None:
        self.records = list(records)
        self._times = [record.at_ns for record in self.records]
        states = [(record.in_rotation, record.local_usable > 0) for record in self.records]
        changes = (i == 0 or state != states[i - 1] for i, state in enumerate(states))
        self._epochs = list(accumulate(map(int, changes)))

    def index(self, now_ns: int) -> int:
        """Return the index of the record in force, or -1 before the first.

        At one instant health changes come before packets.
        """
        return bisect_right(self._times, now_ns) - 1

    def at(self, now_ns: int) -> NodeHealth | None:
        """Return the record in force, or None before the first."""
        index = self.index(now_ns)
        return self.records[index] if index >= 0 else None

    def since(self, now_ns: int, holds: Callable[[NodeHealth], bool]) -> int | None:
        """Return the start of the stretch around ``now_ns`` in which ``holds`` is true, or None if it is false then."""
        start = None
        for record in reversed(self.records[: self.index(now_ns) + 1]):
            if not holds(record):
                break
            start = record.at_ns
        return start

    def spells(self, end_ns: int, holds: Callable[[NodeHealth], bool]) -> list[tuple[int, int]]:
        """Return the stretches until ``end_ns`` in which ``holds`` is true."""
        found: list[tuple[int, int]] = []
        for i, record in enumerate(self.records):
            stop_ns = self._times[i + 1] if i + 1 < len(self.records) else end_ns
            if not holds(record) or stop_ns <= record.at_ns:
                continue
            if found and found[-1][1] == record.at_ns:
                found[-1] = (found[-1][0], stop_ns)
            else:
                found.append((record.at_ns, stop_ns))
        return found

    def epoch(self, now_ns: int) -> int:
        """Count the changes so far of what decides about drops: the rotation, and having a usable local endpoint."""
        index = self.index(now_ns)
        return self._epochs[index] if index >= 0 else 0


def in_rotation(record: NodeHealth) -> bool:
    """Return whether the load balancer sends new connections to the node."""
    return record.in_rotation


def usable(record: NodeHealth) -> bool:
    """Return whether the node's rules have a local endpoint to send to."""
    return record.local_usable > 0


def health_timelines(log: RunLog) -> dict[tuple[str, str], HealthTimeline]:
    """One timeline for each ``namespace/name`` and node, sorted by both."""
    records: dict[tuple[str, str], list[NodeHealth]] = {}
    for record in log.node_health:
        records.setdefault((record.service, record.node), []).append(record)
    return {key: HealthTimeline(records[key]) for key in sorted(records)}


def service_of(service_port: str) -> str:
    """Return ``namespace/name`` of ``namespace/name:port``."""
    return service_port.partition(":")[0]


def external_local(log: RunLog) -> list[Connection]:
    """Connections that externalTrafficPolicy Local applied to."""
    return [c for c in log.connections if c.traffic_policy == "Local" and c.frontend is not Frontend.CLUSTER_IP]


#: causes of drops that are not due to the Local policy
NOT_OF_THE_POLICY = (
    Reason.SOURCE_RANGES,
    Reason.RATE_LIMITED,
    Reason.NO_HAIRPIN,
    Reason.REVERSE_PATH,
    Reason.PACKET_LOST,
)


def is_local_drop(c: Connection) -> bool:
    """Return whether an external Local connection is a local drop, as the module's docstring defines it."""
    if c.cause in NOT_OF_THE_POLICY or c.established:
        return False
    lost_silently = c.disposition is Fate.DROPPED
    fell_back = c.cause is Reason.ASYMMETRIC_REPLY and c.endpoint_node != c.node
    return lost_silently or fell_back or (c.cause is Reason.NO_LOCAL_ENDPOINTS and c.disposition is not Fate.DELIVERED)


def local_drops(log: RunLog) -> list[LocalDrop]:
    """Every local drop in time order."""
    timelines, nobody = health_timelines(log), HealthTimeline()
    return [
        LocalDrop(c, timelines.get((service_of(c.service), c.node), nobody).at(c.last_try_ns))
        for c in external_local(log)
        if is_local_drop(c)
    ]


def local_drop_windows(log: RunLog) -> list[LocalDropWindow]:
    """Return the windows, sorted by start, service, node, end and cause."""
    timelines, nobody = health_timelines(log), HealthTimeline()
    #: for each service port and node: by disposition and cause, the open window and the epoch that it belongs to
    open_windows: dict[tuple[str, str], dict[tuple[Fate, Reason], tuple[int, LocalDropWindow]]] = {}
    done: list[LocalDropWindow] = []
    for c in sorted(external_local(log), key=lambda c: c.last_try_ns):
        here = open_windows.setdefault((c.service, c.node), {})
        if c.connect_time_ns == 0 and not c.syn_retries:  # the node serves again
            done += [window for _, window in here.values()]
            here.clear()
        if not is_local_drop(c):
            continue
        how = (c.disposition, c.cause)
        timeline = timelines.get((service_of(c.service), c.node), nobody)
        epoch = timeline.epoch(c.last_try_ns)
        opened = here.get(how)
        if opened and opened[0] == epoch:
            here[how] = (epoch, replace(opened[1], end_ns=c.last_try_ns, dropped=opened[1].dropped + 1))
            continue
        if opened:
            done.append(opened[1])
        health = timeline.at(c.last_try_ns)
        rotation = health.in_rotation if health else None
        here[how] = (
            epoch,
            LocalDropWindow(c.service, c.node, *how, c.last_try_ns, c.last_try_ns, 1, rotation, None, None, None),
        )
    done += [window for here in open_windows.values() for _, window in here.values()]
    found = [_explained(w, timelines.get((service_of(w.service), w.node), nobody)) for w in done]
    return sorted(found, key=lambda w: (w.start_ns, w.service, w.node, w.disposition.value, w.cause.value))


def _explained(window: LocalDropWindow, timeline: HealthTimeline) -> LocalDropWindow:
    left_ns = None
    if window.in_rotation:
        for record in timeline.records[timeline.index(window.start_ns) + 1 :]:
            if usable(record):  # the endpoint came back, so a later departure has nothing to do with these drops
                break
            if not record.in_rotation:
                left_ns = record.at_ns
                break
    return replace(
        window,
        no_local_since_ns=timeline.since(window.start_ns, lambda record: not usable(record)),
        check_failed_ns=timeline.since(window.end_ns, lambda record: not record.check_passes),
        left_rotation_ns=left_ns,
    )


def bin_width_ns(duration_ns: int, most: int = 120) -> int:
    """Return a width of 1, 2 or 5 times a power of ten, from 1 ms, that cuts the run into at most ``most`` bins."""
    unit_ns = MILLISECOND_NS
    while True:
        for factor in (1, 2, 5):
            if factor * unit_ns * most >= duration_ns:
                return factor * unit_ns
        unit_ns *= 10


def local_bins(log: RunLog, width_ns: int | None = None) -> list[LocalBin]:
    """Count external Local traffic in bins, for each service port and node that received any.

    Empty bins are included.
    """
    width_ns = width_ns or bin_width_ns(log.duration_ns)
    timelines, nobody = health_timelines(log), HealthTimeline()
    parts: dict[tuple[str, str], list[Connection]] = {}
    for c in external_local(log):
        parts.setdefault((c.service, c.node), []).append(c)
    bins = []
    for service, node in sorted(parts):
        timeline = timelines.get((service_of(service), node), nobody)
        rotation, endpoint = timeline.spells(log.duration_ns, in_rotation), timeline.spells(log.duration_ns, usable)
        watched = timeline.spells(log.duration_ns, lambda _record: True)
        inside: dict[int, list[Connection]] = {}
        for c in parts[service, node]:
            inside.setdefault(c.at_ns // width_ns, []).append(c)
        last = max(-(-log.duration_ns // width_ns) - 1, *inside)  # the last instant belongs to a bin too
        for i in range(last + 1):
            here, span = inside.get(i, []), (i * width_ns, (i + 1) * width_ns)
            bins.append(
                LocalBin(
                    *span,
                    service,
                    node,
                    received=len(here),
                    delivered=sum(c.established for c in here),
                    dropped=sum(map(is_local_drop, here)),
                    in_rotation_ratio=_covered(rotation, watched, span),
                    usable_ratio=_covered(endpoint, watched, span),
                )
            )
    return sorted(bins, key=lambda b: (b.start_ns, b.service, b.node))


def _covered(spells: list[tuple[int, int]], watched: list[tuple[int, int]], span: tuple[int, int]) -> float:
    known_ns = _overlap_ns(watched, span)
    return _overlap_ns(spells, span) / known_ns if known_ns else math.nan


def _overlap_ns(spells: list[tuple[int, int]], span: tuple[int, int]) -> int:
    return sum(max(0, min(stop, span[1]) - max(start, span[0])) for start, stop in spells)
