"""What held up the news for want of which each lost connection was lost: a stage of the way to the rules, or nothing of that kind.

A connection is lost between truth and rule if the rules that it met said something that was no longer true, or not yet. When its
deciding packet was sent, the change that would have saved it was somewhere on its way: not noticed by a kubelet, noticed and not
written, and so on (CP-1.1). That stage held it up. A load balancer's rotation is such a stage, too (CP-15): a node's rules may be
right, and the load balancer still send to it.

Everything else is not a matter of time: state that nodes keep, policies and rules, nobody there who could answer, and open
connections that ended. Every lost connection has exactly one of all these, so their counts sum to what was lost. A pod that no slice
lists before the run ends is not known to belong to a Service, so nothing waits for it.
"""

import enum
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from kpsim.reports.faultspells import without_rules
from kpsim.reports.local_policy import HealthTimeline, health_timelines, service_of
from kpsim.reports.ways import NEVER_NS, Reach, Ways
from kpsim.simulation.runlog import (
    AnswerSpell,
    Cause,
    Connection,
    EndpointSpell,
    Frontend,
    HappeningKind,
    PodWrite,
    Reason,
    RunLog,
)


class Held(enum.StrEnum):
    """What held up the news, in the order of its way; then what is not a matter of time."""

    NOTICE = "notice"
    STATUS = "status"
    SEE = "see"
    SLICE = "slice"
    DELIVER = "deliver"
    WAIT = "wait"
    SYNC = "sync"
    ROTATION = "rotation"
    STATE = "state"  #: a connection entry, or another memory of a node, overrode the rules
    BROKEN = "broken"  #: an open connection came to its end: no rule could have kept it
    ABSENT = "absent"  #: nobody was there who could answer
    REMOVED = "removed"  #: another program had removed the node's rules
    NETWORK = "network"  #: a link lost the packet
    POLICY = "policy"  #: rules, policies and limits that are as they were configured

    @property
    def of_time(self) -> bool:
        """Whether the connection would have gone well somewhat earlier, or later."""
        return self not in (Held.STATE, Held.BROKEN, Held.ABSENT, Held.REMOVED, Held.NETWORK, Held.POLICY)


HELD_MEANING = {
    Held.NOTICE: "no kubelet or controller had noticed",
    Held.STATUS: "the pod's status was not written",
    Held.SEE: "the slice controller had not seen it",
    Held.SLICE: "the slice was not written",
    Held.DELIVER: "the node had not heard of it",
    Held.WAIT: "kube-proxy's sync had not begun",
    Held.SYNC: "kube-proxy's sync was not done",
    Held.ROTATION: "the load balancer had not changed its rotation",
    Held.STATE: "a node remembered it otherwise",
    Held.BROKEN: "an open connection ended",
    Held.ABSENT: "nobody was there to answer",
    Held.REMOVED: "somebody had removed the node's rules",
    Held.NETWORK: "a link lost the packet",
    Held.POLICY: "rules, policies, settings or a full table stood in the way",
}

_POLICY = frozenset({
    Reason.SOURCE_RANGES, Reason.FOREIGN_RULE, Reason.NO_HAIRPIN, Reason.REVERSE_PATH, Reason.TABLE_FULL,
    Reason.ASYMMETRIC_REPLY,
})  # fmt: skip
_STATE = frozenset({Reason.OLDER_THAN_SERVICE, Reason.FORGOTTEN, Reason.SERVER_DRAINING})
_WAY = tuple(held for held in Held if held.of_time)
_Key = tuple[str, str, str, bool]  #: service port, node, family, only endpoints of the node itself


@dataclass(frozen=True, slots=True)
class HeldUp:
    """Connections that one node lost for one service port, alike in cause and in what held up the news."""

    service: str
    node: str  #: empty: lost before it reached a node
    held: Held
    cause: Reason
    connections: int
    start_ns: int  #: when the first of them sent its deciding packet
    end_ns: int  #: when the last did


def held_up(log: RunLog) -> list[HeldUp]:
    """Return what held up the lost connections, most first."""
    times: dict[tuple[str, str, Held, Reason], list[int]] = {}
    for c, held in attributed(log):
        times.setdefault((c.service, c.node, held, c.cause), []).append(c.decisive_ns)
    found = [HeldUp(*key, len(at_ns), min(at_ns), max(at_ns)) for key, at_ns in times.items()]
    order = {held: number for number, held in enumerate(Held)}
    return sorted(found, key=lambda g: (-g.connections, g.service, g.node, order[g.held], g.cause))


def count_held(log: RunLog) -> dict[str, Counter[Held]]:
    """Return how many connections each stage or other reason cost each service port. The sum is what was lost."""
    found: dict[str, Counter[Held]] = {}
    for c, held in attributed(log):
        found.setdefault(c.service, Counter())[held] += 1
    return found


def attributed(log: RunLog) -> Iterator[tuple[Connection, Held]]:
    """Yield every lost connection, in the log's order, with what held up the news that would have saved it."""
    lost = [c for c in log.connections if c.lost]
    if lost:
        finder = _Finder(log)
        for c in lost:
            yield c, finder.held(c)


class _Finder:
    """Asks the ways of a run's changes where the one was that a connection wanted."""

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._removed: dict[str, list[tuple[int, int]]] = {}  #: by node: stretches without rules that were flushed
        self._nodes = log.nodes
        self._ways = Ways(log)
        self._health = health_timelines(log)
        self._listed: dict[str, list[EndpointSpell]] = {}  #: by service port
        self._spells: dict[tuple[str, str], list[EndpointSpell]] = {}  #: by service port and endpoint
        for spell in log.endpoints:
            self._listed.setdefault(spell.service, []).append(spell)
            self._spells.setdefault((spell.service, spell.endpoint), []).append(spell)
        self._answers: dict[str, list[AnswerSpell]] = {}
        for answer in log.answering:
            self._answers.setdefault(answer.pod, []).append(answer)
        self._writes: dict[str, list[PodWrite]] = {}
        for write in log.pod_writes:
            self._writes.setdefault(write.pod, []).append(write)
        self._unready: dict[str, list[int]] = {}  #: by pod: when its kubelet noticed that it is not ready
        for h in log.happenings:
            if h.kind is HappeningKind.POD_NOT_READY:
                self._unready.setdefault(h.subject, []).append(h.at_ns)
        self._steps: dict[_Key, list[int]] = {}
        self._found: dict[tuple[_Key, int], Held] = {}

    def held(self, c: Connection) -> Held:
        """Return what held up the news that this connection wanted."""
        if c.pin is not None or c.cause in _STATE:
            return Held.STATE
        if c.broken_ns is not None:
            return Held.BROKEN
        if c.cause is Reason.ASYMMETRIC_REPLY and c.traffic_policy == "Local" and c.endpoint_node != c.node:
            return self._of_local(c)  # ipvs mode falls back to the endpoints of other nodes (IPVS-5.1)
        if (found := self._of_kernel(c)) is not None:
            return found
        if c.endpoint:
            return self._led_astray(c)
        match c.cause:
            case Reason.NO_ENDPOINTS | Reason.RATE_LIMITED:
                return self._awaited(c)
            case Reason.NO_LOCAL_ENDPOINTS:
                return self._of_local(c)
            case Reason.NO_HEALTHY_NODE:
                found = self._awaited(c)
                return Held.ROTATION if found is Held.POLICY else found
            case Reason.NODE_DOWN:
                return Held.ROTATION if self._sent_by_balancer(c) else Held.ABSENT
            case Reason.NOT_CAPTURED:
                return _of_node(self._ways.of_service(c.node, _family(c), service_of(c.service), c.decisive_ns), c)
            case _:
                return Held.POLICY

    def _of_kernel(self, c: Connection) -> Held | None:
        """Return why no news would have helped: limits, links, or rules that were removed. None: it may have."""
        if c.cause in _POLICY:
            return Held.POLICY
        if c.cause is Reason.PACKET_LOST:
            return Held.NETWORK
        of_rules = c.cause in (Reason.NOT_CAPTURED, Reason.OTHER)
        return Held.REMOVED if of_rules and self._without_rules(c.node, c.decisive_ns) else None

    def _without_rules(self, node: str, now_ns: int) -> bool:
        """Return whether the node lacked rules that somebody had removed."""
        if node not in self._removed:
            self._removed[node] = [(a, b) for a, b, _ in without_rules(self._log, node)]
        return any(a <= now_ns <= b for a, b in self._removed[node])

    def _of_local(self, c: Connection) -> Held:
        """The node had no endpoint of its own, and the policy Local allows no other."""
        found = self._awaited(c, local=True)
        if found.of_time:
            return found
        return Held.ROTATION if self._sent_by_balancer(c) else Held.POLICY

    def _sent_by_balancer(self, c: Connection) -> bool:
        state = self._health.get((service_of(c.service), c.node), HealthTimeline()).at(c.decisive_ns)
        return c.frontend is Frontend.LOAD_BALANCER and state is not None and state.in_rotation

    # ------------------------------------------------------------------------------------ rules that led to nobody

    def _led_astray(self, c: Connection) -> Held:
        """The rules led to an endpoint that was none any more."""
        now_ns = c.decisive_ns
        spells = self._spells.get((c.service, c.endpoint), [])
        begun = [spell for spell in spells if spell.from_ns <= now_ns]
        if not begun:
            return Held.POLICY
        spell = begun[-1]
        if spell.until_ns is not None and spell.until_ns <= now_ns:
            reach = self._ways.reach(c.node, _family(c), f"EndpointSlice {service_of(c.service)}", spell.until_ns)
            found = _on_node(reach, now_ns)
            if found is None:  # the rules knew, and had nobody better
                found = self._awaited(c)
            return Held.STATE if found is Held.POLICY else found
        if spell.unlisted is not None and spell.unlisted.trigger_ns <= now_ns:
            return _before_slice(spell.unlisted, now_ns)
        if self._answers_at(spell.pod, now_ns) is not None:
            return Held.POLICY
        return self._unheard(spell.pod, now_ns)

    def _unheard(self, pod: str, now_ns: int) -> Held:
        """Nobody answers at the endpoint, and no slice says so before the run ends, or not for this reason.

        Whether the controller had seen what the API server had is not known then: the slice was not written.
        """
        ended = [a.until_ns for a in self._answers.get(pod, ()) if a.until_ns is not None and a.until_ns <= now_ns]
        if not ended:
            return Held.ABSENT
        for write in self._writes.get(pod, ()):
            if write.what != "ready" and ended[-1] <= write.cause.trigger_ns <= now_ns:
                return _before_slice(write.cause, now_ns)
        noticed = (at_ns for at_ns in self._unready.get(pod, ()) if ended[-1] <= at_ns <= now_ns)
        return Held.STATUS if any(noticed) else Held.NOTICE

    # --------------------------------------------------------------------------------- rules that knew of nobody

    def _awaited(self, c: Connection, *, local: bool = False) -> Held:
        """Where the nearest endpoint was that could have answered. POLICY: in the rules. ABSENT: there was none."""
        key = c.service, c.node, _family(c), local
        if key not in self._steps:
            self._steps[key] = self._moments(key)
        step = bisect_right(self._steps[key], c.decisive_ns)
        if (key, step) not in self._found:
            found = {self._coming(spell, key, c.decisive_ns) for spell in self._of(key)}
            timely = [held for held in _WAY if held in found]
            self._found[key, step] = timely[-1] if timely else Held.POLICY if Held.POLICY in found else Held.ABSENT
        return self._found[key, step]

    def _of(self, key: _Key) -> list[EndpointSpell]:
        service, node, family, local = key
        spells = self._listed.get(service, [])
        return [s for s in spells if (s.endpoint[0] == "[") is (family == "IPv6") and (not local or s.node == node)]

    def _moments(self, key: _Key) -> list[int]:
        """All times at which an answer of :meth:`_coming` may change."""
        found: set[int] = set()
        for spell in self._of(key):
            found.update(self._reach(spell, key) or ())
            found.update((spell.from_ns, NEVER_NS if spell.until_ns is None else spell.until_ns))
            if spell.listed is not None:
                found.update(
                    (spell.listed.trigger_ns, spell.listed.noticed_ns, spell.listed.stored_ns, spell.listed.seen_ns)
                )
            for answer in self._answers.get(spell.pod, ()):
                found.update((answer.from_ns, NEVER_NS if answer.until_ns is None else answer.until_ns))
        return sorted(found)

    def _coming(self, spell: EndpointSpell, key: _Key, now_ns: int) -> Held | None:
        """Where the news of an endpoint is on its way to a node. None: it could not answer now, or is not to be asked."""
        answer = self._answers_at(spell.pod, now_ns) if spell.pod else None
        if (spell.until_ns is not None and spell.until_ns <= now_ns) or (spell.pod and answer is None):
            return None
        if spell.from_ns <= now_ns:
            return _on_node(self._reach(spell, key), now_ns) or Held.POLICY
        if answer is None:
            return None
        if spell.listed is None or now_ns < spell.listed.trigger_ns:
            # one that was listed before, and answers all the while, wants no connections until it is ready again
            before = [s for s in self._spells[spell.service, spell.endpoint] if answer.from_ns <= s.from_ns < now_ns]
            return None if before else Held.NOTICE
        return _before_slice(spell.listed, now_ns)

    def _reach(self, spell: EndpointSpell, key: _Key) -> Reach | None:
        """When the node had the endpoint; without a node, when the first of all had it."""
        service, node, family, _ = key
        kind = f"EndpointSlice {service_of(service)}"
        if node:
            return self._ways.reach(node, family, kind, spell.from_ns)
        found = [self._ways.reach(each, family, kind, spell.from_ns) for each in self._nodes]
        known = [reach for reach in found if reach is not None]
        return min(known, key=lambda reach: reach[2]) if known and len(known) == len(found) else None

    def _answers_at(self, pod: str, now_ns: int) -> AnswerSpell | None:
        for answer in self._answers.get(pod, ()):
            if answer.from_ns <= now_ns and (answer.until_ns is None or now_ns < answer.until_ns):
                return answer
        return None


def _family(c: Connection) -> str:
    return "IPv6" if ":" in c.source_ip else "IPv4"


def _before_slice(cause: Cause, now_ns: int) -> Held:
    """Where the news is before a slice says it."""
    for held, end_ns in ((Held.NOTICE, cause.noticed_ns), (Held.STATUS, cause.stored_ns), (Held.SEE, cause.seen_ns)):
        if now_ns < end_ns:
            return held
    return Held.SLICE


def _on_node(reach: Reach | None, now_ns: int) -> Held | None:
    """Where the news is on its way from the API server to a node's rules. None: in the rules."""
    for held, end_ns in zip((Held.DELIVER, Held.WAIT, Held.SYNC), reach or (), strict=False):
        if now_ns < end_ns:
            return held
    return None


def _of_node(reach: Reach | None, c: Connection) -> Held:
    return _on_node(reach, c.decisive_ns) or Held.POLICY
