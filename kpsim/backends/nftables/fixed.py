"""What does not depend on Services: the table, its base chains, the sets and maps, and the rules that use them (NFT-3 to 5).

Only a full sync writes it, in the order of NFT-8.5.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kpsim.addresses import Family, Network, format_ip, parse_network
from kpsim.backends.nftables import names
from kpsim.config import LocalDetector, ProxierSettings
from kpsim.dialects.nft.spelling import in_braces
from kpsim.ruleset import (
    ALL_BITS,
    DROP,
    Assign,
    Base,
    Chain,
    ChainType,
    Compare,
    DataType,
    Dispatch,
    Expression,
    Field,
    Hook,
    Interval,
    Jump,
    Lookup,
    Masquerade,
    NamePattern,
    NatFlags,
    Origin,
    Reject,
    Role,
    Rule,
    Set,
    SetReference,
    SetType,
    Statement,
    Table,
    TableKey,
    among,
    equal,
    named,
    within,
)
from kpsim.ruleset.operations import Entry, Operation, Verb

_LOOPBACK = {Family.IPV4: Network(Family.IPV4, 127 << 24, 8), Family.IPV6: Network(Family.IPV6, 1, 128)}

_FILTER, _NAT = ChainType.FILTER, ChainType.NAT

#: in the order in which they are made
BASE_CHAINS: tuple[Chain, ...] = (
    Chain("filter-prerouting-pre-dnat", base=Base(_FILTER, Hook.PREROUTING, -110)),
    Chain("filter-output-pre-dnat", base=Base(_FILTER, Hook.OUTPUT, -110)),
    Chain("filter-input", base=Base(_FILTER, Hook.INPUT, 0)),
    Chain("filter-forward", base=Base(_FILTER, Hook.FORWARD, 0)),
    Chain("filter-output", base=Base(_FILTER, Hook.OUTPUT, 0)),
    Chain("nat-prerouting", base=Base(_NAT, Hook.PREROUTING, -100)),
    Chain("nat-output", base=Base(_NAT, Hook.OUTPUT, -100)),
    Chain("nat-postrouting", base=Base(_NAT, Hook.POSTROUTING, 100)),
)


class _Leads(NamedTuple):
    """A jump from a base chain. Chains of type filter jump for new connections only."""

    source: str
    to: str


_JUMPS: tuple[_Leads, ...] = (
    _Leads("filter-input", names.NODE_PORT_ENDPOINTS_CHECK),
    _Leads("filter-input", names.SERVICE_ENDPOINTS_CHECK),
    _Leads("filter-forward", names.SERVICE_ENDPOINTS_CHECK),
    _Leads("filter-output", names.SERVICE_ENDPOINTS_CHECK),
    _Leads("filter-prerouting-pre-dnat", names.FIREWALL_CHECK),
    _Leads("filter-output-pre-dnat", names.FIREWALL_CHECK),
    _Leads("nat-output", names.SERVICES),
    _Leads("nat-prerouting", names.SERVICES),
    _Leads("nat-postrouting", names.MASQUERADING),
    _Leads("filter-forward", names.CLUSTER_IPS_CHECK),
    _Leads("filter-output", names.CLUSTER_IPS_CHECK),
)


def address_type(family: Family) -> DataType:
    """The type of a set's addresses."""
    return DataType.IPV4_ADDRESS if family is Family.IPV4 else DataType.IPV6_ADDRESS


def declarations(family: Family) -> dict[str, Set]:
    """The sets and maps that every table of kube-proxy has, and ``nodeport-ips``, by name (NFT-4)."""
    address = address_type(family)
    to_node_port = (DataType.PROTOCOL, DataType.PORT)
    to_service = (address, *to_node_port)
    verdict = (DataType.VERDICT,)

    def declared(name: str, comment: str, key: tuple[DataType, ...], data: tuple[DataType, ...] | None = None) -> Set:
        return Set(name=name, type=SetType(key, data), comment=comment)

    no_endpoints = "vmap to drop or reject packets to"
    found = (
        declared(names.HAIRPIN_CONNECTIONS, "service hairpin connections", (address, *to_service)),
        declared(names.CLUSTER_IPS, "Active ClusterIPs", (address,)),
        declared(names.NODE_PORT_IPS, "IPs that accept NodePort traffic", (address,)),
        declared(names.NO_ENDPOINT_SERVICES, f"{no_endpoints} services with no endpoints", to_service, verdict),
        declared(names.NO_ENDPOINT_NODE_PORTS, f"{no_endpoints} service nodeports with no endpoints", to_node_port, verdict),
        declared(names.FIREWALL_IPS, "destinations that are subject to LoadBalancerSourceRanges", to_service, verdict),
        declared(names.SERVICE_IPS, "ClusterIP, ExternalIP and LoadBalancer IP traffic", to_service, verdict),
        declared(names.SERVICE_NODE_PORTS, "NodePort traffic", to_node_port, verdict),
    )  # fmt: skip
    return {each.name: each for each in found}


def from_pods(detector: LocalDetector, *, negate: bool) -> Compare:
    """True for traffic of a local pod; with ``negate``, for all other traffic (NFT-1.11)."""
    if detector.cidr is not None:
        return within(Field.SADDR, detector.cidr, negate=negate)
    name = detector.interface
    if name.endswith("+"):
        return Compare(Field.IIFNAME, NamePattern(name[:-1]), negate)
    return named(Field.IIFNAME, name, negate=negate)


def mark_for_masquerade(settings: ProxierSettings) -> Assign:
    """Sets the bit that says that the packet will be masqueraded (NFT-1.6)."""
    mark = settings.masquerade_mark
    return Assign(Field.MARK, ALL_BITS ^ mark, mark)


def of_ranges(field: Field, ranges: Iterable[Interval], family: Family, *, negate: bool = False) -> Compare:
    """True if an address lies in one of the ranges, as the kernel holds that: merged, a single network under its mask."""
    merged = among(ranges)
    low, high = merged[0]
    size = high - low + 1
    if len(merged) == 1 and size & (size - 1) == 0 and low % size == 0:
        return within(field, Network(family, low, family.bits - size.bit_length() + 1), negate=negate)
    return Compare(field, merged, negate)


def recreate_base_chains(key: TableKey) -> Iterator[Operation]:
    """Deletes the base chains, also if an older version left them with other priorities (NFT-8.5)."""
    for chain in BASE_CHAINS:
        yield Operation(Verb.ADD, key, Chain(chain.name))
        yield Operation(Verb.DELETE, key, Chain(chain.name))


class FixedPart:
    """The fixed part of full syncs. ``rule_count`` is the number of rules that the last one wrote."""

    def __init__(self, settings: ProxierSettings) -> None:
        self._settings = settings
        self._key = names.table_key(settings.family)
        self.sets = declarations(settings.family)
        self.rule_count = 0

    def operations(
        self, interface_addresses: tuple[int, ...], service_cidrs: tuple[str, ...], *, first: bool
    ) -> list[Operation]:
        """All of the fixed part. ``first``: the process has not written it before."""
        found = [self._operation(Table(self._key, comment="rules for kube-proxy"))]
        if first:
            found += recreate_base_chains(self._key)
        for chain in BASE_CHAINS:
            found += self._chain(chain)
        found += self._jumps()
        found += self._masquerading()
        found += self._cluster_ips(service_cidrs)
        found += self._node_port_ips(interface_addresses)
        found += self._no_endpoints()
        found += self._firewall()
        found += self._services()
        self.rule_count = sum(isinstance(each.object, Rule) for each in found)
        return found

    def _operation(self, made: Table | Set) -> Operation:
        return Operation(Verb.ADD, self._key, made)

    def _chain(self, chain: Chain) -> Iterator[Operation]:
        yield Operation(Verb.ADD, self._key, chain)
        yield Operation(Verb.FLUSH, self._key, chain)

    def _rule(self, chain: str, role: Role, *parts: Expression | Statement, comment: str = "") -> Operation:
        return Operation(Verb.ADD, self._key, Rule(parts, comment, Origin(role)), chain)

    def _jumps(self) -> Iterator[Operation]:
        made: set[str] = set()
        for source, to in _JUMPS:
            if to not in made:
                made.add(to)
                yield from self._chain(Chain(to))
            new = () if source.startswith("nat-") else (named(Field.CT_STATE, "NEW"),)
            yield self._rule(source, Role.JUMP, *new, Jump(to))

    def _masquerading(self) -> Iterator[Operation]:
        """The mark is known to be set where it is cleared, so XOR clears it (NFT-5.5)."""
        mark, flags = self._settings.masquerade_mark, NatFlags.FULLY_RANDOM
        yield self._operation(self.sets[names.HAIRPIN_CONNECTIONS])
        yield self._rule(
            names.MASQUERADING,
            Role.POSTROUTING,
            equal(Field.MARK, 0, negate=True, mask=mark),
            Assign(Field.MARK, ALL_BITS, mark),
            Masquerade(flags=flags),
        )
        yield self._rule(
            names.MASQUERADING,
            Role.HAIRPIN,
            named(Field.CT_STATUS, "DNAT"),
            Lookup((Field.SADDR, *_DESTINATION), SetReference(names.HAIRPIN_CONNECTIONS)),
            Masquerade(flags=flags),
        )

    def _cluster_ips(self, service_cidrs: tuple[str, ...]) -> Iterator[Operation]:
        """Packets that are still for a service address behind the DNAT were for no service port (NFT-5.8, 5.9)."""
        yield self._operation(self.sets[names.CLUSTER_IPS])
        yield self._rule(
            names.CLUSTER_IPS_CHECK,
            Role.UNDEFINED_PORT,
            _TO_CLUSTER_IP,
            Reject(),
            comment="Reject traffic to invalid ports of ClusterIPs",
        )
        networks = [network for text in service_cidrs if (network := parse_network(text)) is not None]
        if networks:
            unallocated = of_ranges(Field.DADDR, ((each.base, each.last) for each in networks), self._settings.family)
            rule = Rule(
                (unallocated, DROP),
                "Drop traffic to unallocated ClusterIPs",
                Origin(Role.UNALLOCATED_CLUSTER_IP),
                in_braces(0, service_cidrs, ","),
            )
            yield Operation(Verb.ADD, self._key, rule, names.CLUSTER_IPS_CHECK)

    def _node_port_ips(self, interface_addresses: tuple[int, ...]) -> Iterator[Operation]:
        """The node's addresses that take node ports. Loopback never does in this mode (NFT-5.7, 5.10)."""
        declared = self.sets[names.NODE_PORT_IPS]
        yield self._operation(declared)
        if self._settings.node_ports.match_all:
            yield Operation(Verb.DELETE, self._key, declared)
            return
        yield Operation(Verb.FLUSH, self._key, declared)
        family = self._settings.family
        usable = [a for a in self._settings.node_ports.matching(interface_addresses) if not _is_loopback(a, family)]
        # upstream's order is arbitrary here; kpsim sorts by text
        for address in sorted(usable, key=lambda each: format_ip(family, each)):
            yield Operation(Verb.ADD, self._key, Entry((address,)), declared.name)

    def _no_endpoints(self) -> Iterator[Operation]:
        yield self._operation(self.sets[names.NO_ENDPOINT_SERVICES])
        yield self._operation(self.sets[names.NO_ENDPOINT_NODE_PORTS])
        comment = f"helper for @{names.NO_ENDPOINT_SERVICES} / @{names.NO_ENDPOINT_NODE_PORTS}"
        yield from self._chain(Chain(names.REJECT, comment=comment))
        yield self._rule(names.REJECT, Role.NO_ENDPOINTS, Reject())
        services = Dispatch(_DESTINATION, SetReference(names.NO_ENDPOINT_SERVICES))
        yield self._rule(names.SERVICE_ENDPOINTS_CHECK, Role.NO_ENDPOINTS, services)
        node_ports = Dispatch(_NODE_PORT, SetReference(names.NO_ENDPOINT_NODE_PORTS))
        to_node = self._to_node_port_address()
        yield self._rule(names.NODE_PORT_ENDPOINTS_CHECK, Role.NO_ENDPOINTS, to_node, node_ports)

    def _to_node_port_address(self) -> Expression:
        """Whether a local address may take node ports."""
        if self._settings.node_ports.match_all:
            return within(Field.DADDR, _LOOPBACK[self._settings.family], negate=True)
        return Lookup((Field.DADDR,), SetReference(names.NODE_PORT_IPS))

    def _firewall(self) -> Iterator[Operation]:
        yield self._operation(self.sets[names.FIREWALL_IPS])
        firewall = Dispatch(_DESTINATION, SetReference(names.FIREWALL_IPS))
        yield self._rule(names.FIREWALL_CHECK, Role.SOURCE_RANGE, firewall)

    def _services(self) -> Iterator[Operation]:
        settings = self._settings
        yield self._operation(self.sets[names.SERVICE_IPS])
        yield self._operation(self.sets[names.SERVICE_NODE_PORTS])
        mark, role = mark_for_masquerade(settings), Role.MASQUERADE_CLUSTER_IP
        if settings.config.masquerade_all:
            comment = "masquerade all clusterIP traffic"
            yield self._rule(names.SERVICES, role, _TO_CLUSTER_IP, mark, comment=comment)
        elif settings.detector is not None:
            comment = "masquerade clusterIP traffic from outside cluster"
            elsewhere = from_pods(settings.detector, negate=True)
            yield self._rule(names.SERVICES, role, _TO_CLUSTER_IP, elsewhere, mark, comment=comment)
        services = Dispatch(_DESTINATION, SetReference(names.SERVICE_IPS))
        yield self._rule(names.SERVICES, Role.SERVICES, services)
        node_ports = Dispatch(_NODE_PORT, SetReference(names.SERVICE_NODE_PORTS))
        local = (named(Field.DADDR_TYPE, "LOCAL"),) if settings.node_ports.match_all else ()
        yield self._rule(names.SERVICES, Role.NODE_PORTS, *local, self._to_node_port_address(), node_ports)


_NODE_PORT = (Field.L4PROTO, Field.DPORT)
_DESTINATION = (Field.DADDR, *_NODE_PORT)
_TO_CLUSTER_IP = Lookup((Field.DADDR,), SetReference(names.CLUSTER_IPS))


def _is_loopback(address: int, family: Family) -> bool:
    return address in _LOOPBACK[family]
