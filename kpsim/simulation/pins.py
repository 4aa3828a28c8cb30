"""State against rules: connections that a connection entry lost although the rules in force say otherwise (CT-2.6, CT-3.5).

Counterpart: what an operator would find out from ``conntrack -L`` beside ``iptables-save``. What the rules say is asked
of the rules: by the way of a new flow like the lost one. Since when they say so is known from the syncs.
"""

from dataclasses import dataclass

from kpsim.addresses import format_ip, join_host_port
from kpsim.conntrack import Entry
from kpsim.fabric import Journey
from kpsim.packet import Packet
from kpsim.programmed import Programmed
from kpsim.simulation.attempts import REFUSING, Attempt, Followed
from kpsim.simulation.machines import Machines
from kpsim.simulation.rulestimes import Dialled, PortRules, RulesTimes
from kpsim.simulation.runlog import CleanUp, Fate, Pin, PinKind, Reason


@dataclass(frozen=True, slots=True)
class Dial:
    """A client's packet and what it was meant for."""

    packet: Packet
    at_node: str
    local: bool
    port: str  #: ``namespace/name:port``
    protocol: str
    dialled: Dialled


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the rules do with a new flow."""

    translates: bool
    refuses: bool


class Pins:
    """Judges lost connections. ``times`` knows since when rules have been in force."""

    def __init__(self, machines: Machines, times: RulesTimes) -> None:
        self._machines = machines
        self._times = times
        self._verdicts: dict[tuple[object, ...], tuple[Programmed | None, _Verdict]] = {}

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
        node, entry, family = followed.node, followed.entry, dial.packet.family.label
        verdict = self._verdict(dial, node, now_ns)
        rules = self._times.now(node, family, dial.port, dial.protocol)
        leads_to = _end_of(entry)
        kind, holds = None, _known
        if not entry.dst_nat:
            kind = PinKind.OLDER if verdict.translates or verdict.refuses else None
        elif verdict.refuses:
            kind, holds = PinKind.REFUSED, lambda rules: rules.refuses(dial.dialled)
        elif not verdict.translates:
            kind, holds = PinKind.SERVICE_GONE, _unknown
        elif leads_to not in rules.endpoints(dial.dialled):
            kind, holds = PinKind.FORMER_ENDPOINT, lambda rules: leads_to not in rules.endpoints(dial.dialled)
        if kind is None:
            return None
        since_ns = self._times.since(node, family, dial.port, dial.protocol, holds)
        clean_up = self._clean_up(followed, dial, rules, since_ns)
        return Pin(kind, node, entry.created_ns, leads_to, since_ns, clean_up)

    def _clean_up(self, followed: Followed, dial: Dial, rules: PortRules, since_ns: int | None) -> CleanUp:
        if dial.protocol != "UDP":
            return CleanUp.NOT_ITS_PROTOCOL
        if not rules.known:
            return CleanUp.NO_SERVICE
        if not rules.serving:
            return CleanUp.NOT_SERVING
        cleaned_ns = self._times.cleaned_ns(followed.node, dial.packet.family.label)
        if cleaned_ns is None or cleaned_ns < max(since_ns or 0, followed.entry.created_ns):
            return CleanUp.NOT_RUN
        return CleanUp.STILL_SERVES

    def _verdict(self, dial: Dial, node: str, now_ns: int) -> _Verdict:
        """Return what the rules of the node do with a new flow. It is the same as long as the rules are."""
        packet = dial.packet
        key = (dial.at_node, dial.local, node, packet.protocol, packet.saddr, packet.daddr, packet.dport)
        in_force = self._machines.netns(node).programmed.get(packet.family)
        if key in self._verdicts and self._verdicts[key][0] is in_force:
            return self._verdicts[key][1]
        verdict = _read(self._machines.new_flow_way(packet, dial.at_node, now_ns, local=dial.local))
        self._verdicts[key] = (in_force, verdict)
        return verdict


def _read(way: Journey) -> _Verdict:
    refused = any(
        hop.walk.rule is not None and hop.walk.rule.rule is not None and hop.walk.rule.rule.origin.role in REFUSING
        for hop in way.hops
    )
    return _Verdict(translates=any(hop.walk.dnat_rule is not None for hop in way.hops), refuses=refused)


def _end_of(entry: Entry) -> str:
    return join_host_port(format_ip(entry.reply.family, entry.reply.saddr), entry.reply.sport)


def _known(rules: PortRules) -> bool:
    return rules.known


def _unknown(rules: PortRules) -> bool:
    return not rules.known
