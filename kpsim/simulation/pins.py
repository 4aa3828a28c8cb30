"""State against rules in a run: connections that a connection entry lost although the rules in force say otherwise.

``kpsim.pins`` judges an entry. Since when the rules say otherwise is known from the syncs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kpsim.kubeproxy.stale_flows import why_left
from kpsim.packet import Packet
from kpsim.pins import Followed, NewWay, PinKind, kind_of
from kpsim.programmed import Programmed
from kpsim.simulation.attempts import Attempt
from kpsim.simulation.machines import Machines
from kpsim.simulation.rulestimes import Dialled, PortRules, RulesTimes
from kpsim.simulation.runlog import Fate, Pin, Reason


@dataclass(frozen=True, slots=True)
class Dial:
    """A client's packet and what it was meant for."""

    packet: Packet
    at_node: str
    local: bool
    port: str  #: ``namespace/name:port``
    protocol: str
    dialled: Dialled


class Pins:
    """Judges lost connections. ``times`` knows since when rules have been in force."""

    def __init__(self, machines: Machines, times: RulesTimes) -> None:
        self._machines = machines
        self._times = times
        self._ways: dict[tuple[object, ...], tuple[Programmed | None, NewWay]] = {}

    def explain(self, outcome: Attempt, dial: Dial, now_ns: int) -> tuple[Reason, Pin | None]:
        """Return the cause of an attempt's end, and the entry that overrode the rules if it lost the connection."""
        if outcome.followed is None or outcome.disposition is Fate.DELIVERED:
            return outcome.cause, None
        pin = self.judge(outcome.followed, dial, now_ns)
        if pin is not None and pin.kind is PinKind.OLDER and outcome.cause is Reason.NOT_CAPTURED:
            return Reason.OLDER_THAN_SERVICE, pin
        return outcome.cause, pin

    def judge(self, followed: Followed, dial: Dial, now_ns: int) -> Pin | None:
        """Return how the entry differed from the rules, or None if they would have done the same."""
        node, entry, family, leads_to = followed.node, followed.entry, dial.packet.family.label, followed.leads_to
        rules = self._times.now(node, family, dial.port, dial.protocol)
        kind = kind_of(entry, self._new_way(dial, node, now_ns), rules.endpoints(dial.dialled))
        if kind is None:
            return None
        holds: Mapping[PinKind, Callable[[PortRules], bool]] = {
            PinKind.REFUSED: lambda rules: rules.refuses(dial.dialled),
            PinKind.FORMER_ENDPOINT: lambda rules: leads_to not in rules.endpoints(dial.dialled),
            PinKind.SERVICE_GONE: lambda rules: not rules.known,
            PinKind.OLDER: lambda rules: rules.known,
        }
        since_ns = self._times.since(node, family, dial.port, dial.protocol, holds[kind])
        clean_up = why_left(dial.protocol, leads_to, rules.known, rules.serving)
        return Pin(kind, node, entry.created_ns, leads_to, since_ns, clean_up)

    def _new_way(self, dial: Dial, node: str, now_ns: int) -> NewWay:
        """Return what the rules of the node do with a new flow. It is the same as long as the rules are."""
        packet = dial.packet
        key = (dial.at_node, dial.local, node, packet.protocol, packet.saddr, packet.daddr, packet.dport)
        in_force = self._machines.netns(node).programmed.get(packet.family)
        if key in self._ways and self._ways[key][0] is in_force:
            return self._ways[key][1]
        way = NewWay.of([self._machines.new_flow_way(packet, dial.at_node, now_ns, local=dial.local)])
        self._ways[key] = (in_force, way)
        return way
