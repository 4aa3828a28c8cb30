"""What one service port wants in the table: its chains, affinity sets and elements, in the order of NFT-8.9.

Counterpart: the loop body of pkg/proxy/nftables syncProxyRules. The objects depend neither on the kind of sync nor on
other service ports.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kpsim.addresses import parse_ip
from kpsim.backends.nftables import names
from kpsim.backends.nftables.fixed import address_type, from_pods, mark_for_masquerade, of_ranges
from kpsim.config import ProxierSettings
from kpsim.dialects.nft.spelling import in_braces
from kpsim.kubeproxy.plan import Refusal, ServicePlan
from kpsim.kubeproxy.trackers import Endpoint
from kpsim.maps import Map
from kpsim.ruleset import (
    DROP,
    Chain,
    Dispatch,
    Dnat,
    Element,
    Expression,
    Field,
    Goto,
    Key,
    Lookup,
    Mapped,
    Numgen,
    Origin,
    Role,
    Rule,
    Set,
    SetFlags,
    SetReference,
    SetType,
    SetVerb,
    Statement,
    UpdateSet,
    named,
)
from kpsim.ruleset.operations import Operation, Verb
from kpsim.units import SECOND_NS


class Claim(NamedTuple):
    """An element that a service port wants in a set or map. Several ports may want the same."""

    container: str
    key: Key
    element: Element


@dataclass(frozen=True, slots=True)
class PortObjects:
    """The objects of one service port."""

    plan: ServicePlan  #: that they were written for
    #: operations that make and empty its chains, and its claims among them; an unchanged port has only its claims done
    opening: tuple[Operation | Claim, ...]
    filling: tuple[Operation, ...]  #: what fills the chains, and makes the affinity sets
    chains: tuple[str, ...]
    affinity_sets: tuple[str, ...]
    rule_count: int
    refusals: tuple[bool, bool]  #: counts as "no local endpoints": internal, external (NFT-8.12)

    @property
    def map_count(self) -> int:
        """How many maps stand in its rules: those that choose an endpoint. Each is an object of the kernel."""
        return bool(self.plan.cluster) + bool(self.plan.local)

    @property
    def claims(self) -> Iterator[Claim]:
        for step in self.opening:
            if isinstance(step, Claim):
                yield step


#: elements that several service ports may want
_CLUSTER_IP = Element(origin=Origin(Role.CLUSTER_IP))
_HAIRPIN = Element(origin=Origin(Role.HAIRPIN))


class _Way(NamedTuple):
    """An endpoint with the names of its chain and its affinity set."""

    endpoint: Endpoint
    ip: int
    chain: str
    affinity: str


class _Writer:
    """Collects the objects of one service port."""

    def __init__(self, plan: ServicePlan, settings: ProxierSettings) -> None:
        self.plan = plan
        self.port = plan.port
        self.settings = settings
        self.key = names.table_key(settings.family)
        self.name = str(plan.name)
        self.protocol = plan.name.protocol.lower()
        base = names.service_base(plan.name)
        self.service, self.local = f"service-{base}", f"local-{base}"
        self.external, self.firewall = f"external-{base}", f"firewall-{base}"
        self.ways = {endpoint.address: self.way(endpoint) for endpoint in plan.reachable}
        self.use_external = plan.has_any and self.port.externally_accessible
        self.use_firewall = bool(self.port.load_balancer_ips) and bool(self.port.source_ranges)
        self.opening: list[Operation | Claim] = []
        self.filling: list[Operation] = []
        self.chains: list[str] = []

    def way(self, endpoint: Endpoint) -> _Way:
        base = names.endpoint_base(self.plan.name, endpoint) if self.port.session_affinity else ""
        return _Way(endpoint, _address(endpoint.ip), f"endpoint-{base}", f"{names.AFFINITY_PREFIX}{base}")

    def origin(self, role: Role, endpoint: str = "") -> Origin:
        return Origin(role, self.name, self.plan.name.protocol, endpoint)

    def write(self) -> PortObjects:
        self.open_endpoints()
        if self.plan.cluster:
            self.open(self.service)
        if self.plan.local:
            self.open(self.local)
        if self.use_external:
            self.open(self.external)
        self.claim_cluster_ip()
        self.claim_external_ips()
        self.claim_load_balancer_ips()
        self.claim_node_port()
        self.fill_external()
        self.fill_firewall()
        self.make_affinity_sets()
        self.balance(self.service, self.plan.cluster)
        self.balance(self.local, self.plan.local)
        self.fill_endpoints()
        return PortObjects(
            plan=self.plan,
            opening=tuple(self.opening),
            filling=tuple(self.filling),
            chains=tuple(self.chains),
            affinity_sets=tuple(way.affinity for way in self.ways.values()) if self.port.session_affinity else (),
            rule_count=sum(isinstance(each.object, Rule) for each in self.filling),
            refusals=(self.plan.internal_refusal is Refusal.DROP, self.plan.external_refusal is Refusal.DROP),
        )

    def open(self, chain: str) -> None:
        """Makes a chain and empties it."""
        self.chains.append(chain)
        made = Chain(chain)
        self.opening += (Operation(Verb.ADD, self.key, made), Operation(Verb.FLUSH, self.key, made))

    def claim(self, container: str, key: Key, role: Role, chain: str) -> None:
        """An element that leads to a chain."""
        self.opening.append(Claim(container, key, Element(Goto(chain), origin=self.origin(role))))

    def refuse(self, container: str, key: Key, refusal: Refusal) -> None:
        """An element that refuses packets (NFT-6.4)."""
        reject = refusal is Refusal.REJECT
        role = Role.NO_ENDPOINTS if reject else Role.NO_LOCAL_ENDPOINTS
        element = Element(Goto(names.REJECT) if reject else DROP, self.name, origin=self.origin(role))
        self.opening.append(Claim(container, key, element))

    def add_rule(self, chain: str, rule: Rule) -> None:
        self.filling.append(Operation(Verb.ADD, self.key, rule, chain))

    def rule(
        self, chain: str, role: Role, *parts: Expression | Statement, comment: str = "", endpoint: str = ""
    ) -> None:
        self.add_rule(chain, Rule(parts, comment, self.origin(role, endpoint)))

    # --- elements, and the chains among them ---------------------------------------------------------------------------

    def open_endpoints(self) -> None:
        for way in self.ways.values():
            if self.port.session_affinity:
                self.open(way.chain)
            if self.settings.node_name and way.endpoint.node_name == self.settings.node_name:
                key = (way.ip, way.ip, self.protocol, way.endpoint.port)
                self.opening.append(Claim(names.HAIRPIN_CONNECTIONS, key, _HAIRPIN))

    def to_address(self, ip: str) -> Key:
        return _address(ip), self.protocol, self.port.port

    def claim_cluster_ip(self) -> None:
        ip, refusal = self.port.cluster_ip, self.plan.internal_refusal
        self.opening.append(Claim(names.CLUSTER_IPS, (_address(ip),), _CLUSTER_IP))
        if refusal is not None:
            self.refuse(names.NO_ENDPOINT_SERVICES, self.to_address(ip), refusal)
            return
        chain = self.local if self.port.internal_policy_local else self.service
        self.claim(names.SERVICE_IPS, self.to_address(ip), Role.CLUSTER_IP, chain)

    def claim_external_ips(self) -> None:
        if not self.settings.config.allow_service_external_ips:
            return
        for ip in self.port.external_ips:
            if self.plan.has_any:
                self.claim(names.SERVICE_IPS, self.to_address(ip), Role.EXTERNAL_IP, self.external)
            if self.plan.external_refusal is not None:
                self.refuse(names.NO_ENDPOINT_SERVICES, self.to_address(ip), self.plan.external_refusal)

    def claim_load_balancer_ips(self) -> None:
        if self.use_firewall:
            self.open(self.firewall)
        for ip in self.port.load_balancer_ips:
            if self.plan.has_any:
                self.claim(names.SERVICE_IPS, self.to_address(ip), Role.LOAD_BALANCER, self.external)
            if self.use_firewall:
                self.claim(names.FIREWALL_IPS, self.to_address(ip), Role.SOURCE_RANGE, self.firewall)
        if self.plan.external_refusal is not None:
            for ip in self.port.load_balancer_ips:
                self.refuse(names.NO_ENDPOINT_SERVICES, self.to_address(ip), self.plan.external_refusal)

    def claim_node_port(self) -> None:
        if not self.port.node_port:
            return
        key = self.protocol, self.port.node_port
        if self.plan.has_any:
            self.claim(names.SERVICE_NODE_PORTS, key, Role.NODE_PORT, self.external)
        if self.plan.external_refusal is not None:
            self.refuse(names.NO_ENDPOINT_NODE_PORTS, key, self.plan.external_refusal)

    # --- what fills the chains -----------------------------------------------------------------------------------------

    def fill_external(self) -> None:
        """The chain of external addresses (NFT-6.7)."""
        if not self.use_external:
            return
        chain, mark = self.external, mark_for_masquerade(self.settings)
        if not self.port.external_policy_local:
            self.rule(chain, Role.MASQUERADE_EXTERNAL, mark, comment="masquerade")
        else:
            # pods and the node itself are short-circuited to all endpoints: the Local policy is for outside clients
            from_node = named(Field.SADDR_TYPE, "LOCAL")
            to_all = Goto(self.service)
            if self.settings.detector is not None:
                pods = from_pods(self.settings.detector, negate=False)
                self.rule(chain, Role.SHORT_CIRCUIT_POD, pods, to_all, comment="short-circuit pod traffic")
            self.rule(chain, Role.MASQUERADE_EXTERNAL, from_node, mark, comment="masquerade local traffic")
            self.rule(chain, Role.SHORT_CIRCUIT_LOCAL, from_node, to_all, comment="short-circuit local traffic")
        if self.plan.external_refusal is None:
            to = self.local if self.port.external_policy_local else self.service
            self.rule(chain, Role.EXTERNAL_POLICY, Goto(to))

    def fill_firewall(self) -> None:
        """Drops all but the source ranges; a node among them may use the VIP, also as its own address (NFT-6.8)."""
        if not self.use_firewall:
            return
        ranges = self.port.source_ranges or ()
        words = [str(network) for network in ranges]
        allowed = [(network.base, network.last) for network in ranges]
        if any(self.settings.node_ip in network for network in ranges):
            words += self.port.load_balancer_ips
            allowed += [(address, address) for address in map(_address, self.port.load_balancer_ips)]
        elsewhere = of_ranges(Field.SADDR, allowed, self.settings.family, negate=True)
        origin = self.origin(Role.SOURCE_RANGE_DROP)
        self.add_rule(self.firewall, Rule((elsewhere, DROP), "", origin, in_braces(0, words)))

    def make_affinity_sets(self) -> None:
        if not self.port.session_affinity:
            return
        for way in self.ways.values():
            made = Set(
                name=way.affinity,
                type=SetType((address_type(self.settings.family),)),
                flags=SetFlags.DYNAMIC | SetFlags.TIMEOUT,
                timeout_ns=self.port.sticky_seconds * SECOND_NS,
            )
            self.filling.append(Operation(Verb.ADD, self.key, made))

    def balance(self, chain: str, endpoints: Sequence[Endpoint]) -> None:
        """The rules that choose an endpoint: by affinity, then by chance (NFT-6.9, 6.10)."""
        if not endpoints:
            return
        ways = [self.ways[endpoint.address] for endpoint in endpoints]
        draw = (Numgen(len(ways)),)
        if not self.port.session_affinity:
            targets = _numbered(
                Element((way.ip, way.endpoint.port), origin=self.origin(Role.ENDPOINT, way.endpoint.address))
                for way in ways
            )
            to = Dnat(None, mapped=Mapped(draw, targets, port=True))
            self.rule(chain, Role.BALANCE, named(Field.L4PROTO, self.protocol), to)
            return
        for way in ways:
            known = Lookup((Field.SADDR,), SetReference(way.affinity))
            self.rule(chain, Role.AFFINITY, known, Goto(way.chain), endpoint=way.endpoint.address)
        verdicts = _numbered(
            Element(Goto(way.chain), origin=self.origin(Role.BALANCE, way.endpoint.address)) for way in ways
        )
        self.rule(chain, Role.BALANCE, Dispatch(draw, verdicts))

    def fill_endpoints(self) -> None:
        """The chain of an endpoint with affinity: it remembers the client, then translates (NFT-6.10)."""
        if not self.port.session_affinity:
            return
        for way in self.ways.values():
            remember = UpdateSet(SetReference(way.affinity), (Field.SADDR,), SetVerb.UPDATE)
            address = way.endpoint.address
            self.rule(way.chain, Role.ENDPOINT, remember, endpoint=address)
            to = Dnat(way.ip, way.endpoint.port)
            self.rule(way.chain, Role.ENDPOINT, named(Field.L4PROTO, self.protocol), to, endpoint=address)


def _numbered(elements: Iterable[Element]) -> Set:
    """The map of a draw: what it gives for 0, for 1 and so on."""
    by_number: dict[Key, Element] = {(number,): element for number, element in enumerate(elements)}
    return Set(Map(by_number))


def _address(ip: str) -> int:
    parsed = parse_ip(ip)
    assert parsed is not None
    return parsed[1]


def write_port_objects(plan: ServicePlan, settings: ProxierSettings) -> PortObjects:
    """The objects of one service port on one node."""
    return _Writer(plan, settings).write()
