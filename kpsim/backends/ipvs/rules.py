"""The iptables rules of ipvs mode: jumps from built-in chains, and all rules in the order of the document (IPVS-8).

Almost all of them look addresses and ports up in ipsets, so they hardly change when Services do.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from kpsim.addresses import Family, Network
from kpsim.backends.iptables.jumps import BuiltInJump, built_in_jump
from kpsim.backends.iptables.service_rules import LOOPBACK, Placed, from_pods
from kpsim.backends.iptables.static_rules import forward_rules, masquerade_rules
from kpsim.backends.ipvs import ipsets
from kpsim.backends.ipvs.frontends import PortFrontends
from kpsim.backends.ipvs.ipsets import Declared
from kpsim.config import ProxierSettings
from kpsim.dialects.iptables import Shape
from kpsim.ruleset import (
    ACCEPT,
    DROP,
    RETURN,
    BridgePort,
    Expression,
    Field,
    Jump,
    Masquerade,
    Origin,
    Reject,
    RejectWith,
    Role,
    Statement,
    equal,
    named,
    set_match,
    within,
)

SERVICES, POSTROUTING, NODE_PORT = "KUBE-SERVICES", "KUBE-POSTROUTING", "KUBE-NODE-PORT"
LOAD_BALANCER, MARK_MASQ, FORWARD = "KUBE-LOAD-BALANCER", "KUBE-MARK-MASQ", "KUBE-FORWARD"
PROXY_FIREWALL, SOURCE_RANGES = "KUBE-PROXY-FIREWALL", "KUBE-SOURCE-RANGES-FIREWALL"
IPVS_FILTER, IPVS_OUT_FILTER = "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER"

#: table → its chains, in the order of the document (IPVS-8.2)
CHAINS: Mapping[str, tuple[str, ...]] = {
    "nat": (SERVICES, POSTROUTING, NODE_PORT, LOAD_BALANCER, MARK_MASQ),
    "filter": (FORWARD, NODE_PORT, PROXY_FIREWALL, SOURCE_RANGES, IPVS_FILTER, IPVS_OUT_FILTER),
}

_FIREWALL, _ACCESS = "kube-proxy firewall rules", "kubernetes ipvs access filter"
_PORTALS = "kubernetes service portals"

#: in the order in which they are ensured; each goes to position 1 (IPVS-8.3)
BUILT_IN_JUMPS: tuple[BuiltInJump, ...] = (
    built_in_jump("nat", "OUTPUT", SERVICES, _PORTALS),
    built_in_jump("nat", "PREROUTING", SERVICES, _PORTALS),
    built_in_jump("nat", "POSTROUTING", POSTROUTING, "kubernetes postrouting rules"),
    built_in_jump("filter", "FORWARD", FORWARD, "kubernetes forwarding rules"),
    built_in_jump("filter", "INPUT", NODE_PORT, "kubernetes health check rules"),
    built_in_jump("filter", "INPUT", PROXY_FIREWALL, _FIREWALL),
    built_in_jump("filter", "FORWARD", PROXY_FIREWALL, _FIREWALL),
    built_in_jump("filter", "INPUT", IPVS_FILTER, _ACCESS),
    built_in_jump("filter", "OUTPUT", IPVS_OUT_FILTER, _ACCESS),
)


class Rules(NamedTuple):
    """All rules of a sync with their chains, in the order of the document."""

    nat: tuple[Placed, ...]
    filter: tuple[Placed, ...]


def write_rules(settings: ProxierSettings, ports: Iterable[PortFrontends], filled: Collection[Declared]) -> Rules:
    """The rules for these service ports. ``filled`` are the sets that have entries in this sync (IPVS-8.4, IPVS-8.5)."""
    write = _Writer(settings, filled)
    return Rules(tuple(write.nat()), tuple(write.filter(ports)))


_shape = cache(Shape)
_MARK = Jump(MARK_MASQ)


def _rule(
    chain: str, words: Sequence[str], origin: Origin, *parts: Expression | Statement, comment: str = ""
) -> Placed:
    """A rule and its chain. ``words`` are its options."""
    return chain, _shape(*words).rule(origin, comment, *parts)


class _Writer:
    def __init__(self, settings: ProxierSettings, filled: Collection[Declared]) -> None:
        self.settings = settings
        self.filled = filled

    def nat(self) -> Iterator[Placed]:
        yield self.not_from_loopback()
        yield from self.of_filled_sets()
        yield from self.masquerade_cluster_ips()
        yield from self.external_ips()
        to_local = named(Field.DADDR_TYPE, "LOCAL")
        yield _rule(SERVICES, ("--dst-type", "-j"), Origin(Role.NODE_PORTS), to_local, Jump(NODE_PORT))
        yield _rule(LOAD_BALANCER, ("-j",), Origin(Role.MASQUERADE_EXTERNAL), _MARK)
        for declared, role in ((ipsets.CLUSTER_IP, Role.CLUSTER_IP), (ipsets.LOAD_BALANCER, Role.LOAD_BALANCER)):
            if declared in self.filled:
                yield self.bare(SERVICES, role, declared, "dst,dst", ACCEPT)
        yield from masquerade_rules(self.settings)

    def filter(self, ports: Iterable[PortFrontends]) -> Iterator[Placed]:
        yield from self.source_ranges()
        for port in ports:
            yield from self.out_filter(port)
        yield from forward_rules(self.settings)
        yield self.on(NODE_PORT, Role.HEALTH_CHECK, ipsets.HEALTH_CHECK_NODE_PORT, "dst", ACCEPT)
        yield from self.access_filter()

    def match(self, declared: Declared, directions: str) -> Expression:
        """``-m set --match-set NAME DIRECTIONS``."""
        return set_match(declared.empty(self.settings.family), directions.split(","))

    def on(self, chain: str, role: Role, declared: Declared, directions: str, *parts: Expression | Statement) -> Placed:
        """A rule on packets that are in a set, with the set's comment."""
        how = "-j MASQUERADE" if isinstance(parts[-1], Masquerade) else "-j"
        words = ("--comment", "-m set", how)
        return _rule(chain, words, Origin(role), self.match(declared, directions), *parts, comment=declared.comment)

    def bare(self, chain: str, role: Role, declared: Declared, directions: str, target: Statement) -> Placed:
        """A rule on packets that are in a set, without comment."""
        return _rule(chain, ("-m set", "-j"), Origin(role), self.match(declared, directions), target)

    def not_from_loopback(self) -> Placed:
        """The first rule of KUBE-SERVICES: it leaves alone what comes from a loopback address."""
        family = self.settings.family
        network = LOOPBACK if family is Family.IPV4 else Network(family, 1, family.bits)
        return _rule(SERVICES, ("-s", "-j"), Origin(Role.LOOPBACK_SOURCE), within(Field.SADDR, network), RETURN)

    def of_filled_sets(self) -> Iterator[Placed]:
        """The rules of nat that exist only if their set has entries, in their fixed order (IPVS-8.5)."""
        if ipsets.LOOP_BACK in self.filled:
            yield self.on(POSTROUTING, Role.HAIRPIN, ipsets.LOOP_BACK, "dst,dst,src", Masquerade())
        if ipsets.LOAD_BALANCER in self.filled:
            yield self.on(SERVICES, Role.LOAD_BALANCER, ipsets.LOAD_BALANCER, "dst,dst", Jump(LOAD_BALANCER))
        if ipsets.LOAD_BALANCER_LOCAL in self.filled:
            yield self.on(LOAD_BALANCER, Role.EXTERNAL_POLICY, ipsets.LOAD_BALANCER_LOCAL, "dst,dst", RETURN)
        for protocol, (plain, local) in ipsets.NODE_PORT_SETS.items():
            for declared, role, target in (
                (local, Role.EXTERNAL_POLICY, RETURN),
                (plain, Role.MASQUERADE_EXTERNAL, _MARK),
            ):
                if declared in self.filled:
                    directions = "dst" if declared.kind == ipsets.PORT else "dst,dst"
                    parts = (named(Field.L4PROTO, protocol), self.match(declared, directions), target)
                    words = ("-p", "--comment", "-m set", "-j")
                    yield _rule(NODE_PORT, words, Origin(role), *parts, comment=declared.comment)

    def masquerade_cluster_ips(self) -> Iterator[Placed]:
        """The rule that marks packets to cluster IPs which local pods did not send."""
        declared, role = ipsets.CLUSTER_IP, Role.MASQUERADE_CLUSTER_IP
        if declared not in self.filled:
            return
        if self.settings.config.masquerade_all:
            yield self.on(SERVICES, role, declared, "dst,dst", _MARK)
        elif self.settings.detector is None:
            # the node dials a service address from that address (IPVS-3.5)
            yield self.on(SERVICES, role, declared, "src,dst", _MARK)
        else:
            elsewhere = from_pods(self.settings.detector, negate=True)
            words = ("--comment", "-m set", *elsewhere.words, "-j")
            parts = (self.match(declared, "dst,dst"), *elsewhere.parts, _MARK)
            yield _rule(SERVICES, words, Origin(role), *parts, comment=declared.comment)

    def external_ips(self) -> Iterator[Placed]:
        """The rules of external IPs: only those without Local policy are masqueraded."""
        if ipsets.EXTERNAL_IP in self.filled:
            yield self.on(SERVICES, Role.MASQUERADE_EXTERNAL, ipsets.EXTERNAL_IP, "dst,dst", _MARK)
        for declared in (ipsets.EXTERNAL_IP, ipsets.EXTERNAL_IP_LOCAL):
            if declared not in self.filled:
                continue
            match, origin = self.match(declared, "dst,dst"), Origin(Role.EXTERNAL_IP)
            not_bridged = BridgePort("in", None, negate=True)
            not_from_node = named(Field.SADDR_TYPE, "LOCAL", negate=True)
            words: tuple[str, ...] = "--comment", "-m set", "--physdev-is-in", "--src-type", "-j"
            parts: tuple[Expression | Statement, ...] = (match, not_bridged, not_from_node, ACCEPT)
            yield _rule(SERVICES, words, origin, *parts, comment=declared.comment)
            parts = (match, named(Field.DADDR_TYPE, "LOCAL"), ACCEPT)
            words = "--comment", "-m set", "--dst-type", "-j"
            yield _rule(SERVICES, words, origin, *parts, comment=declared.comment)

    def source_ranges(self) -> Iterator[Placed]:
        """The firewall of load balancers' addresses, for packets that the node did not send."""
        if ipsets.LOAD_BALANCER_FW in self.filled:
            yield self.on(PROXY_FIREWALL, Role.SOURCE_RANGE, ipsets.LOAD_BALANCER_FW, "dst,dst", Jump(SOURCE_RANGES))
        for declared in (ipsets.LOAD_BALANCER_SOURCE_CIDR, ipsets.LOAD_BALANCER_SOURCE_IP):
            if declared in self.filled:
                yield self.on(SOURCE_RANGES, Role.SOURCE_RANGE, declared, "dst,dst,src", RETURN)
        yield _rule(SOURCE_RANGES, ("-j",), Origin(Role.SOURCE_RANGE_DROP), DROP)

    def out_filter(self, port: PortFrontends) -> Iterator[Placed]:
        """Drops what the node itself sends to a load balancer's address whose source ranges leave it out."""
        if not port.plan.port.source_ranges or ipsets.allows_node(port, self.settings):
            return
        for frontend in port.of(Role.LOAD_BALANCER):
            address, number, protocol = frontend.key
            origin = port.origin(Role.SOURCE_RANGE_DROP)
            from_it = within(Field.SADDR, Network(self.settings.family, address, self.settings.family.bits))
            balanced = (
                equal(Field.IPVS_VADDR, address),
                named(Field.IPVS_PROTOCOL, protocol),
                equal(Field.IPVS_VPORT, number),
            )
            words = "-s=bare", "--vaddr=bare", "+--vproto", "+--vport", "-j"
            yield _rule(IPVS_OUT_FILTER, words, origin, from_it, *balanced, DROP)

    def access_filter(self) -> Iterator[Placed]:
        """Lets packets to frontends pass, and refuses all others to the addresses of kube-ipvs0."""
        for declared, role in (
            (ipsets.LOAD_BALANCER, Role.LOAD_BALANCER),
            (ipsets.CLUSTER_IP, Role.CLUSTER_IP),
            (ipsets.EXTERNAL_IP, Role.EXTERNAL_IP),
            (ipsets.EXTERNAL_IP_LOCAL, Role.EXTERNAL_IP),
        ):
            yield self.bare(IPVS_FILTER, role, declared, "dst,dst", RETURN)
        yield self.bare(IPVS_FILTER, Role.HEALTH_CHECK, ipsets.HEALTH_CHECK_NODE_PORT, "dst", RETURN)
        parts = (named(Field.CT_STATE, "NEW"), self.match(ipsets.IPVS_IPS, "dst"), Reject(RejectWith.PORT_UNREACHABLE))
        words = ("--ctstate", "-m set", "-j REJECT=unsaid")
        yield _rule(IPVS_FILTER, words, Origin(Role.UNDEFINED_SERVICE_PORT), *parts)
