"""The rules of one service port, spelled out for iptables: R1 to R21 of I-7 and the balancing rules of I-8.

Counterpart: the loop body of pkg/proxy/iptables syncProxyRules. The rules depend neither on the kind of sync nor on
other service ports.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache, partial
from typing import NamedTuple

from kpsim.addresses import Family, Network, host_network, parse_ip
from kpsim.backends.iptables import names
from kpsim.backends.iptables.later import LaterChain
from kpsim.config import LocalDetector, ProxierSettings
from kpsim.dialects.iptables import Shape, Style, render_rule
from kpsim.kubeproxy.plan import Refusal, ServicePlan
from kpsim.kubeproxy.trackers import Endpoint
from kpsim.ruleset import (
    ACCEPT,
    DROP,
    Chain,
    Chance,
    Compare,
    Counter,
    Dnat,
    Expression,
    Field,
    Jump,
    NamePattern,
    Origin,
    Recent,
    Reject,
    Role,
    Rule,
    Statement,
    equal,
    named,
    within,
)

LOCALHOST_ACCEPTED_COUNTER = "localhost_nps_accepted_pkts"
LOOPBACK = Network(host_network("127.0.0.1").family, 127 << 24, 8)

_MARK_MASQ = Jump(names.MARK_MASQ)
_TO_MARK_MASQ = (names.MARK_MASQ,)
_TO_LOCAL = named(Field.DADDR_TYPE, "LOCAL")
_FROM_LOCAL = named(Field.SADDR_TYPE, "LOCAL")
_REJECT = "-j REJECT=unsaid"


#: rules with the same options share one shape
_shape = cache(Shape)


@cache
def _protocol(protocol: str) -> Compare:
    return named(Field.L4PROTO, protocol)


@cache
def _one_in(remaining: int) -> tuple[Chance, str]:
    """1/n as the kernel stores it, and the option as kube-proxy writes it, with ten decimals (I-8.2, K-5)."""
    text = f"{1 / remaining:.10f}"
    return Chance(round(float(text) * 2**31)), f"-m statistic={text}"


@cache
def _destination_port(port: int) -> Compare:
    return equal(Field.DPORT, port)


@lru_cache(maxsize=1 << 16)
def _host(field: Field, ip: str) -> Compare:
    return within(field, host_network(ip))


#: a rule and the chain it goes to
Placed = tuple[str, Rule]


@dataclass(frozen=True)
class ServiceRules:
    """The rules of one service port: its block.

    ``dispatch`` and ``filter`` go to shared chains, which every sync writes. ``chains`` belong to the port and are
    written only if its Service changed (I-13.3).
    """

    family: Family
    dispatch: tuple[Placed, ...]  #: nat: R1, R2, R3, R6
    filter: tuple[Placed, ...]  #: filter: R1', R2', R4, R5, R7, R8
    chains: tuple[Chain, ...]  #: nat, in document order: EXT, FW, SVC, SVL, SEP…
    masquerade: Placed | None  #: R9: first rule of the internal chain, but written before all chains
    refusals: tuple[bool, bool] = (False, False)  #: counts as "no local endpoints": internal, external (I-6)
    chain_rule_count: int = field(default=0)

    @cached_property
    def dispatch_text(self) -> str:
        return rules_text(self.dispatch, self.family)

    @cached_property
    def filter_text(self) -> str:
        return rules_text(self.filter, self.family)

    @cached_property
    def chain_lines_text(self) -> str:
        return "".join(f":{chain.name} - [0:0]\n" for chain in self.chains)

    @cached_property
    def chain_rules_text(self) -> str:
        return rules_text(self._chain_rules(), self.family)

    def _chain_rules(self) -> Iterator[Placed]:
        if self.masquerade is not None:
            yield self.masquerade
        for chain in self.chains:
            for rule in chain.rules:
                if self.masquerade is None or rule is not self.masquerade[1]:
                    yield chain.name, rule


def rules_text(rules: Iterable[Placed], family: Family) -> str:
    """The rules as kube-proxy writes them, one line each."""
    return "".join([f"{render_rule(chain, rule, Style.KUBE_PROXY, family)}\n" for chain, rule in rules])


class Where(NamedTuple):
    """Options that restrict a rule to some packets, as kube-proxy writes them, and their expressions."""

    words: tuple[str, ...]
    parts: tuple[Expression, ...]


def from_pods(detector: LocalDetector, *, negate: bool) -> Where:
    """Matches traffic from a local pod; with ``negate``, all other traffic (I-10)."""
    name = detector.interface
    if detector.cidr is not None:
        return _from_network(detector.cidr, negate=negate)
    if name == "+" and not negate:
        return Where(("-i~+",), ())  # any interface: iptables drops it
    if name.endswith("+"):
        return Where(("-i",), (Compare(Field.IIFNAME, NamePattern(name[:-1]), negate),))
    return Where(("-i",), (named(Field.IIFNAME, name, negate=negate),))


def _from_network(network: Network, *, negate: bool = False) -> Where:
    """Matches traffic from a network. iptables drops ``-s`` of all addresses, so the rule then has no such part (I-17)."""
    if network.is_zero and not negate:
        return Where((f"-s~{network}",), ())
    return Where(("-s",), (within(Field.SADDR, network, negate=negate),))


class _Writer:
    """Collects the rules of one service port in the order of I-7."""

    def __init__(self, plan: ServicePlan, settings: ProxierSettings, *, comments: bool) -> None:
        self.plan = plan
        self.port = plan.port
        self.settings = settings
        self.comment = ("--comment",) if comments else ()  # large clusters leave the comments of I-8 out (I-12.3)
        self.name = str(plan.name)
        self.protocol = plan.name.protocol.lower()
        hash_input = names.service_hash_input(plan.name)
        hashed = names.chain_hash(hash_input)
        self.svc, self.svl = f"KUBE-SVC-{hashed}", f"KUBE-SVL-{hashed}"
        self.ext, self.fw = f"KUBE-EXT-{hashed}", f"KUBE-FW-{hashed}"
        self.dispatch: list[Placed] = []
        self.filter: list[Placed] = []
        self.endpoint_chains = {
            endpoint.address: "KUBE-SEP-" + names.chain_hash(hash_input + endpoint.address)
            for endpoint in plan.reachable
        }
        self.tcp = f"-m {self.protocol}"
        remember = ("-m recent",) if self.port.session_affinity else ()
        self.hairpin = _shape(*self.comment, "-s=bare", "-j")
        self.dnat = _shape(*self.comment, *remember, self.tcp, "-p", "-j DNAT")
        self.use_ext = plan.has_any and self.port.externally_accessible
        self.use_fw = plan.has_any and bool(self.port.load_balancer_ips) and bool(self.port.source_ranges)

    def origin(self, role: Role, endpoint: str = "") -> Origin:
        return Origin(role, self.name, self.plan.name.protocol, endpoint)

    def to_address(self, ip: str) -> Where:
        """``-m tcp -p tcp -d … --dport …`` with the Service's port."""
        parts = (_protocol(self.protocol), _host(Field.DADDR, ip), _destination_port(self.port.port))
        return Where((self.tcp, "-p", "-d=bare", "--dport"), parts)

    def to_node_port(self) -> Where:
        """``-m tcp -p tcp --dport …``."""
        parts = (_protocol(self.protocol), _destination_port(self.port.node_port))
        return Where((self.tcp, "-p", "--dport"), parts)

    def rule(self, role: Role, comment: str, where: Where, target: Statement) -> Rule:
        """A rule with a comment, restricted by ``where``."""
        how = _REJECT if isinstance(target, Reject) else "-j"
        return _shape("--comment", *where.words, how).rule(self.origin(role), comment, *where.parts, target)

    def write(self) -> ServiceRules:
        self.cluster_ip()
        self.external_ips()
        self.load_balancer_ips()
        self.node_port()
        self.health_check()
        internal_chain, masquerade = self.internal_masquerade()
        chains: list[Chain] = []
        if self.use_ext:
            chains.append(Chain(self.ext, self.external_rules()))
        if self.use_fw:
            chains.append(Chain(self.fw, self.firewall_rules()))
        for name, endpoints in ((self.svc, self.plan.cluster), (self.svl, self.plan.local)):
            if endpoints:
                first = (masquerade,) if masquerade is not None and name == internal_chain else ()
                chains.append(self.balancing_chain(name, first, endpoints))
        chains.extend(map(self.endpoint_chain, self.plan.reachable))
        return ServiceRules(
            family=self.settings.family,
            dispatch=tuple(self.dispatch),
            filter=tuple(self.filter),
            chains=tuple(chains),
            masquerade=None if masquerade is None else (internal_chain, masquerade),
            refusals=(self.plan.internal_refusal is Refusal.DROP, self.plan.external_refusal is Refusal.DROP),
            chain_rule_count=sum(
                chain.rule_count if isinstance(chain, LaterChain) else len(chain.rules) for chain in chains
            ),
        )

    def refuse(self, chain: str, refusal: Refusal, where: Where) -> None:
        """Adds a rule that refuses packets: R1', R2', R5 or R7 of I-7."""
        reject = refusal is Refusal.REJECT
        reason = "no endpoints" if reject else "no local endpoints"
        role = Role.NO_ENDPOINTS if reject else Role.NO_LOCAL_ENDPOINTS
        target: Statement = Reject() if reject else DROP
        self.filter.append((chain, self.rule(role, f"{self.name} has {reason}", where, target)))

    def cluster_ip(self) -> None:
        where = self.to_address(self.port.cluster_ip)
        refusal = self.plan.internal_refusal
        if refusal is not None:
            self.refuse(names.SERVICES, refusal, where)
            return
        chain = self.svl if self.port.internal_policy_local else self.svc
        rule = self.rule(Role.CLUSTER_IP, f"{self.name} cluster IP", where, Jump(chain))
        self.dispatch.append((names.SERVICES, rule))

    def external_ips(self) -> None:
        if not self.settings.config.allow_service_external_ips:
            return
        for ip in self.port.external_ips:
            where = self.to_address(ip)
            if self.plan.has_any:
                rule = self.rule(Role.EXTERNAL_IP, f"{self.name} external IP", where, Jump(self.ext))
                self.dispatch.append((names.SERVICES, rule))
            if self.plan.external_refusal is not None:
                self.refuse(names.EXTERNAL_SERVICES, self.plan.external_refusal, where)

    def load_balancer_ips(self) -> None:
        refusal = self.plan.external_refusal
        for ip in self.port.load_balancer_ips:
            where = self.to_address(ip)
            if self.plan.has_any:
                chain = self.fw if self.use_fw else self.ext
                rule = self.rule(Role.LOAD_BALANCER, f"{self.name} loadbalancer IP", where, Jump(chain))
                self.dispatch.append((names.SERVICES, rule))
            if self.use_fw:
                # traffic that FW did not let into EXT comes here without DNAT
                comment = f"{self.name} traffic not accepted by {self.fw}"
                self.filter.append((names.PROXY_FIREWALL, self.rule(Role.SOURCE_RANGE_DROP, comment, where, DROP)))
        if refusal is not None:
            for ip in self.port.load_balancer_ips:
                self.refuse(names.EXTERNAL_SERVICES, refusal, self.to_address(ip))

    def node_port(self) -> None:
        if not self.port.node_port:
            return
        where = self.to_node_port()
        if self.plan.has_any:
            if self.settings.localhost_node_ports and self.settings.nfacct:
                counted = Where(
                    (self.tcp, "-p", "-d", "--dport", "--nfacct-name"),
                    (
                        where.parts[0],
                        within(Field.DADDR, LOOPBACK),
                        where.parts[1],
                        Counter(LOCALHOST_ACCEPTED_COUNTER),
                    ),
                )
                rule = self.rule(Role.NODE_PORT, self.name, counted, Jump(self.ext))
                self.dispatch.append((names.NODE_PORTS, rule))
            self.dispatch.append((names.NODE_PORTS, self.rule(Role.NODE_PORT, self.name, where, Jump(self.ext))))
        if self.plan.external_refusal is not None:
            # nodePortAddresses does not matter here (I-7.5)
            to_local = Where(("--dst-type", *where.words), (_TO_LOCAL, *where.parts))
            self.refuse(names.EXTERNAL_SERVICES, self.plan.external_refusal, to_local)

    def health_check(self) -> None:
        if self.port.health_check_node_port:
            parts = (_protocol("tcp"), _destination_port(self.port.health_check_node_port))
            where = Where(("-m tcp", "-p", "--dport"), parts)
            rule = self.rule(Role.HEALTH_CHECK, f"{self.name} health check node port", where, ACCEPT)
            self.filter.append((names.NODE_PORTS, rule))

    def internal_masquerade(self) -> tuple[str, Rule | None]:
        """The chain for the cluster IP, and R9 or R9', which is the chain's first rule; None: there is no such rule."""
        chain = self.svl if self.port.internal_policy_local else self.svc
        if self.plan.internal_refusal is not None:
            return chain, None
        where = self.to_address(self.port.cluster_ip)
        if not self.settings.config.masquerade_all:
            if self.settings.detector is None:
                return chain, None
            elsewhere = from_pods(self.settings.detector, negate=True)
            where = Where((*where.words, *elsewhere.words), (*where.parts, *elsewhere.parts))
        return chain, self.rule(Role.MASQUERADE_CLUSTER_IP, f"{self.name} cluster IP", where, _MARK_MASQ)

    def external_rules(self) -> tuple[Rule, ...]:
        """The rules of the EXT chain: R11 to R15 of I-7."""
        rules: list[Rule] = []
        destinations = f"{self.name} external destinations"
        local = Where(("--src-type",), (_FROM_LOCAL,))
        if not self.port.external_policy_local:
            comment = f"masquerade traffic for {destinations}"
            rules.append(self.rule(Role.MASQUERADE_EXTERNAL, comment, _ANYWHERE, _MARK_MASQ))
        else:
            # pods and the node itself are short-circuited to all endpoints: the Local policy is for outside clients
            if self.settings.detector is not None:
                pods = from_pods(self.settings.detector, negate=False)
                comment = f"pod traffic for {destinations}"
                rules.append(self.rule(Role.SHORT_CIRCUIT_POD, comment, pods, Jump(self.svc)))
            comment = f"masquerade LOCAL traffic for {destinations}"
            rules.append(self.rule(Role.MASQUERADE_EXTERNAL, comment, local, _MARK_MASQ))
            comment = f"route LOCAL traffic for {destinations}"
            rules.append(self.rule(Role.SHORT_CIRCUIT_LOCAL, comment, local, Jump(self.svc)))
        if self.plan.external_refusal is None:
            chain = self.svl if self.port.external_policy_local else self.svc
            rules.append(_shape("-j").rule(self.origin(Role.EXTERNAL_POLICY), "", Jump(chain)))
        return tuple(rules)

    def firewall_rules(self) -> tuple[Rule, ...]:
        """The rules of the FW chain: R16 to R18 of I-7."""
        ranges = self.port.source_ranges or ()
        comment, jump = f"{self.name} loadbalancer IP", Jump(self.ext)
        sources = [_from_network(network) for network in ranges]
        if any(self.settings.node_ip in network for network in ranges):
            # the node may reach the VIP, also from the VIP's own address if that is bound on the node
            sources += [Where(("-s=bare",), (_host(Field.SADDR, ip),)) for ip in self.port.load_balancer_ips]
        rules = [self.rule(Role.SOURCE_RANGE, comment, source, jump) for source in sources]
        rest = f"other traffic to {self.name} will be dropped by {names.PROXY_FIREWALL}"
        return (*rules, _shape("--comment").rule(self.origin(Role.SOURCE_RANGE_DROP), rest))

    def balancing_chain(self, name: str, first: tuple[Rule, ...], endpoints: Sequence[Endpoint]) -> Chain:
        """The chain that chooses an endpoint; the rule that masquerades stands in front, if it is this chain's."""
        targets = tuple([self.endpoint_chains[endpoint.address] for endpoint in endpoints])
        asked = targets * (2 if self.port.session_affinity else 1)
        return LaterChain(
            name,
            lambda: (*first, *self.balancing(endpoints)),
            len(first) + len(asked),
            (*[names.MARK_MASQ] * len(first), *asked),
        )

    def balancing(self, endpoints: Sequence[Endpoint]) -> Iterator[Rule]:
        """The rules that choose an endpoint: by affinity (I-8.1), then by chance (I-8.2)."""
        targets = [(endpoint.address, self.endpoint_chains[endpoint.address]) for endpoint in endpoints]
        if self.port.session_affinity:
            for address, chain in targets:
                remembered = Recent(chain, "rcheck", seconds=self.port.sticky_seconds, reap=True)
                shape = _shape(*self.comment, "-m recent", "-j")
                yield shape.rule(
                    self.origin(Role.AFFINITY, address), self.to_endpoint(address), remembered, Jump(chain)
                )
        for number, (address, chain) in enumerate(targets):
            origin, comment, remaining = (
                self.origin(Role.BALANCE, address),
                self.to_endpoint(address),
                len(targets) - number,
            )
            if remaining > 1:
                chance, option = _one_in(remaining)
                yield _shape(*self.comment, option, "-j").rule(origin, comment, chance, Jump(chain))
            else:
                yield _shape(*self.comment, "-j").rule(origin, comment, Jump(chain))

    def to_endpoint(self, address: str) -> str:
        """The comment on rules that choose an endpoint."""
        return f"{self.name} -> {address}" if self.comment else ""

    def endpoint_chain(self, endpoint: Endpoint) -> Chain:
        """The chain of one endpoint."""
        return LaterChain(
            self.endpoint_chains[endpoint.address], partial(self.endpoint_rules, endpoint), 2, _TO_MARK_MASQ
        )

    def endpoint_rules(self, endpoint: Endpoint) -> tuple[Rule, ...]:
        """Hairpin mark and DNAT (I-8.3)."""
        name = self.endpoint_chains[endpoint.address]
        parsed = parse_ip(endpoint.ip)
        assert parsed is not None
        comment = self.name if self.comment else ""
        hairpin = self.hairpin.rule(
            self.origin(Role.HAIRPIN, endpoint.address), comment, _host(Field.SADDR, endpoint.ip), _MARK_MASQ
        )
        origin, target = self.origin(Role.ENDPOINT, endpoint.address), Dnat(parsed[1], endpoint.port)
        if self.port.session_affinity:
            dnat = self.dnat.rule(origin, comment, Recent(name, "set"), _protocol(self.protocol), target)
        else:
            dnat = self.dnat.rule(origin, comment, _protocol(self.protocol), target)
        return hairpin, dnat


_ANYWHERE = Where((), ())


def write_service_rules(plan: ServicePlan, settings: ProxierSettings, *, large_cluster: bool) -> ServiceRules:
    """The rules of one service port on one node."""
    return _Writer(plan, settings, comments=not large_cluster).write()
