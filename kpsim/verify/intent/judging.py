"""Compares what a walk did, and Linux with it, with what is due."""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from ipaddress import ip_address
from typing import NamedTuple

from kpsim.addresses import Family, format_ip, join_host_port, parse_ip
from kpsim.inputs import Json
from kpsim.netfilter import Cause, Disposition, Netns, Walk, expand
from kpsim.nodes import Machine
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.verify.intent.due import Asked, Due, Fate, MeantNode
from kpsim.verify.intent.nftables import NftablesNode
from kpsim.verify.intent.objects import End, meant_ports
from kpsim.verify.intent.settings import MeantSettings, covers_loopback, detector, networks_of, node_port_networks

#: a thing that a rule or a policy decided, not routing
_DECIDED = frozenset({Cause.RULE, Cause.POLICY, Cause.UNANSWERABLE, Cause.ICMP_RATE, Cause.ANSWER_DROPPED})
_TOLERANCE = Fraction(1, 10**8)  #: kube-proxy writes ten decimals (I-8.2)


#: what is due at a node, by the mode of its kube-proxy
_NODES: Mapping[str, type[MeantNode]] = {"iptables": MeantNode, "nftables": NftablesNode}


class Unmeant(NamedTuple):
    """Something that both the model and Linux do, and that is not due."""

    what: str
    due: str
    done: str

    def __str__(self) -> str:
        return f"{self.what}: due is {self.due}, the rules do {self.done}"


class Intent:
    """What a node's kube-proxy is there for, in one family.

    ``closed`` are the hooks whose base chain in ``filter`` has the policy DROP: FORWARD, INPUT.
    """

    def __init__(self, node: MeantNode, closed: frozenset[str] = frozenset()) -> None:
        self.node, self._closed = node, closed
        self._weighed: set[tuple[object, ...]] = set()

    def judge(self, packet: Packet, way: Walk) -> list[Unmeant]:
        """What a walk of ``packet``, as it was sent, does that is not due.

        Only first packets are judged, INVALID ones, and whether what belongs to known connections is forwarded (I-11).
        """
        if not packet.checksum_ok:
            return []
        if (
            way.ct_state in ("ESTABLISHED", "RELATED")
            and way.cause is Cause.POLICY
            and way.packet.out_interface
            and packet.in_interface
        ):
            return [Unmeant(f"a {way.ct_state} packet", "to be forwarded", _told(packet.family, way, None))]
        if packet.related is not None:
            return []
        if way.ct_state == "INVALID":
            arrived = bool(packet.in_interface)  # OUTPUT has no such rule (I-11)
            passes = arrived and way.disposition is Disposition.FORWARDED and not self.node.settings.liberal
            return [Unmeant("an INVALID packet", "a drop", "forward it")] if passes else []
        effects = way.effects
        later = effects.updated is not None or (effects.destroyed and effects.created is None)
        if way.ct_state not in ("NEW", "") or later:
            return []  # a later packet follows the binding of the first
        due = self.node.due(asked_of(packet))
        if due.fate is Fate.OPEN:
            return []
        if way.cause is not None and (way.cause not in _DECIDED or way.rule is None):
            return []  # routing, a bridge or a full table ended it
        return list(self._objections(packet, way, due))

    def _objections(self, packet: Packet, way: Walk, due: Due) -> Iterable[Unmeant]:
        if way.entry is None:
            return
        end, family = end_of(way), packet.family
        if due.fate is not Fate.ENDPOINT:
            expected = Fate.DROP if due.fate is Fate.ALONE and self._is_shut(packet, way, False) else due.fate
            if end is not None or _fate(way) is not expected:
                yield Unmeant(_about(due), str(expected), _told(family, way, end))
        elif end is None or end not in due.ends:
            yield Unmeant(_about(due), _told_ends(family, due), _told(family, way, end))
        else:
            yield from self._on_the_way(packet, way, due, end)

    def _on_the_way(self, packet: Packet, way: Walk, due: Due, end: End) -> Iterable[Unmeant]:
        """What is not meant behind the choice of a right endpoint."""
        masquerade = due.masquerades(packet.saddr, end)
        if self._is_shut(packet, way, masquerade):
            if way.cause is not Cause.POLICY:
                yield Unmeant(_about(due), "a drop by the chain's policy", _told(packet.family, way, end))
        elif self.node.is_guarded(packet.protocol, end):
            if way.disposition is not Disposition.DROPPED:
                yield Unmeant(_about(due), "a drop by a load balancer's guard", _told(packet.family, way, end))
        elif way.disposition in (Disposition.DROPPED, Disposition.REJECTED):
            yield Unmeant(_about(due), _told_ends(packet.family, due), _told(packet.family, way, end))
        elif not self._leaves(packet, way):
            return
        elif (way.snat_rule is not None) != masquerade:
            words = ("no masquerading", "masquerade")
            yield Unmeant(f"{_about(due)} from {packet.source}", words[masquerade], words[not masquerade])
        elif masquerade:
            yield from self._odd_masquerade(packet, way)

    def _odd_masquerade(self, packet: Packet, way: Walk) -> Iterable[Unmeant]:
        if way.packet.mark & self.node.settings.mask:
            yield Unmeant("the mark of a masqueraded packet", "none behind kube-proxy's rules", f"{way.packet.mark:#x}")
        if self.node.settings.random_fully and not way.source_port_drawn:
            yield Unmeant("the source port of a masqueraded packet", "a random one", "keep it")

    def _leaves(self, packet: Packet, way: Walk) -> bool:
        """Whether the packet passed POSTROUTING: it did unless it came in and stayed (K-2.5)."""
        return way.disposition is Disposition.FORWARDED or not packet.in_interface

    def _is_shut(self, packet: Packet, way: Walk, masquerade: bool) -> bool:
        """Whether a policy of DROP is due to end the packet: in some modes kube-proxy accepts what it masquerades, and
        health checks.
        """
        if way.packet.out_interface:
            opened = masquerade and self.node.opens
            return bool(packet.in_interface) and "FORWARD" in self._closed and not opened
        if way.packet.in_interface and "INPUT" in self._closed:  # over lo, too
            return not (packet.protocol == "tcp" and packet.dport in set(self.node.health_ports()))
        return False

    # --- how often -------------------------------------------------------------------------------------------------------

    def weigh(self, netns: Netns, packet: Packet) -> list[Unmeant]:
        """Whether the rules draw every endpoint that is due equally often. Each question is asked once.

        ``netns`` must remember no affinity.
        """
        due = self.node.due(asked_of(packet))
        if due.fate is not Fate.ENDPOINT or len(due.ends) < 2 or due.port is None or packet.protocol in ICMP_PROTOCOLS:
            return []
        key = (due.port.name, due.port.protocol, due.ends)
        if key in self._weighed:
            return []
        self._weighed.add(key)
        weights: dict[End, Fraction] = {}
        for weight, way in expand(netns, packet, now_ns=0, local=not packet.in_interface):
            if (end := end_of(way)) is not None:
                weights[end] = weights.get(end, Fraction(0)) + weight
        share = Fraction(1, len(due.ends))
        if not weights or all(abs(weights.get(end, Fraction(0)) - share) < _TOLERANCE for end in due.ends):
            return []
        told = {_shown(packet.family, end): f"{float(weight):.10f}" for end, weight in sorted(weights.items())}
        return [Unmeant(f"{_about(due)}: shares of the endpoints", f"{share} each", str(told))]


def intent_of(
    objects: Sequence[Json], settings: MeantSettings, name: str, family: Family, machine: Machine,
    *, bind_address: str = "", closed: frozenset[str] = frozenset(),
) -> Intent:  # fmt: skip
    """What is due at a node. ``objects`` are the cluster's, as JSON. ValueError for addresses not written as usual."""
    node = next((each for each in objects if each.get("kind") == "Node" and each["metadata"]["name"] == name), {})
    ips = _node_ips(node)
    if bind_address and int(ip_address(bind_address)):
        ips = [bind_address, *ips]
    of_family = [parsed[1] for parsed in map(parse_ip, ips) if parsed is not None and parsed[0] is family]
    loopback = 1 if family is Family.IPV6 else 127 << 24 | 1
    own = frozenset({*machine.routing.addresses(family), loopback})
    networks = [
        text for each in objects if each.get("kind") == "ServiceCIDR" for text in each["spec"].get("cidrs") or ()
    ]
    return Intent(
        _NODES[settings.mode](
            family, settings, list(meant_ports(objects, name, family, external_ips=settings.external_ips)), own,
            of_family[0] if of_family else loopback, node_port_networks(settings, ips, family),
            family is Family.IPV4 and covers_loopback(settings, ips),
            detector(settings, (node.get("spec") or {}).get("podCIDRs") or (), family), networks_of(networks, family),
        ),
        closed,
    )  # fmt: skip


def _node_ips(node: Json) -> list[str]:
    addresses: Sequence[Mapping[str, str]] = (node.get("status") or {}).get("addresses") or ()
    return [each["address"] for kind in ("InternalIP", "ExternalIP") for each in addresses if each["type"] == kind]


def asked_of(packet: Packet) -> Asked:
    """What a packet asks for, as its sender sent it."""
    return Asked(packet.protocol, packet.saddr, packet.daddr, packet.dport, packet.in_interface)


def end_of(way: Walk) -> End | None:
    """The endpoint that the walk's connection got; None: its destination was not translated."""
    entry = way.entry
    return (entry.reply.saddr, entry.reply.sport) if entry is not None and way.binds else None


def _fate(way: Walk) -> Fate:
    if way.disposition is Disposition.REJECTED or way.cause in (
        Cause.UNANSWERABLE, Cause.ICMP_RATE, Cause.ANSWER_DROPPED,
    ):  # fmt: skip
        return Fate.REJECT
    return Fate.DROP if way.disposition is Disposition.DROPPED else Fate.ALONE


def _about(due: Due) -> str:
    return f"{due.port.name} ({due.port.protocol})" if due.port is not None else "a packet for no Service"


def _shown(family: Family, end: End) -> str:
    return join_host_port(format_ip(family, end[0]), end[1])


def _told_ends(family: Family, due: Due) -> str:
    ends = ", ".join(_shown(family, end) for end in sorted(due.ends))
    return f"{'masquerading and ' if due.masquerade else ''}one of {ends}"


def _told(family: Family, way: Walk, end: End | None) -> str:
    where = f" to {_shown(family, end)}" if end is not None else ""
    return f"{way.disposition}{where}" + (f" ({way.cause})" if way.cause else "")
