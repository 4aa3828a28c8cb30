"""The rules of one service port, spelled out for iptables: R1 to R21 of I-7 and the balancing rules of I-8.

Counterpart: the loop body of pkg/proxy/iptables syncProxyRules. It never knows which sync writes the rules, nor of other ports.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

from kpsim.addresses import Network, host_network, parse_ip
from kpsim.backends.iptables import names
from kpsim.config import LocalDetector, ProxierSettings
from kpsim.dialects.iptables import Style, render_rule
from kpsim.kubeproxy.plan import Refusal, ServicePlan
from kpsim.kubeproxy.trackers import Endpoint
from kpsim.ruleset import (
    ACCEPT,
    DROP,
    AddrType,
    Chain,
    Comment,
    Destination,
    DestinationPort,
    Dnat,
    InInterface,
    Jump,
    L4Module,
    Match,
    NfAcct,
    Origin,
    Protocol,
    Recent,
    Reject,
    Role,
    Rule,
    Source,
    Statement,
    Statistic,
)

LOCALHOST_ACCEPTED_COUNTER = "localhost_nps_accepted_pkts"
LOOPBACK = Network(host_network("127.0.0.1").family, 127 << 24, 8)

_MARK_MASQ = Jump(names.MARK_MASQ)
_TO_LOCAL = AddrType("dst", "LOCAL")
_FROM_LOCAL = AddrType("src", "LOCAL")


@cache
def _protocol(protocol: str) -> tuple[Match, ...]:
    return L4Module(protocol), Protocol(protocol)


@cache
def _one_in(remaining: int) -> Statistic:
    """1/n as kube-proxy prints it, ten decimals, and as the kernel stores it (I-8.2, K-5)."""
    text = f"{1 / remaining:.10f}"
    return Statistic(round(float(text) * 2**31), text)


@cache
def _destination_port(port: int) -> DestinationPort:
    return DestinationPort(port, port)


def local_match(detector: LocalDetector, *, negate: bool) -> Match:
    """How traffic from a local pod is matched, or everything else (I-10)."""
    if detector.cidr is not None:
        return Source(detector.cidr, negate)
    return InInterface(detector.interface, negate)


#: a rule and the chain it goes to
Placed = tuple[str, Rule]


@dataclass(frozen=True)
class ServiceRules:
    """What one service port writes. ``dispatch`` and ``filter`` go to shared chains and are written by every sync;
    ``chains`` belong to the port and are written only when its Service changed (I-13.3)."""

    dispatch: tuple[Placed, ...]  #: nat: R1, R2, R3, R6
    filter: tuple[Placed, ...]  #: filter: R1', R2', R4, R5, R7, R8
    chains: tuple[Chain, ...]  #: nat, in document order: EXT, FW, SVC, SVL, SEP…
    masquerade: Placed | None  #: R9: first rule of the internal chain, but written before all chains
    refusals: tuple[bool, bool] = (False, False)  #: counts as "no local endpoints", internal and external (I-6)
    chain_rule_count: int = field(default=0)

    @cached_property
    def dispatch_text(self) -> str:
        return rules_text(self.dispatch)

    @cached_property
    def filter_text(self) -> str:
        return rules_text(self.filter)

    @cached_property
    def chain_lines_text(self) -> str:
        return "".join(f":{chain.name} - [0:0]\n" for chain in self.chains)

    @cached_property
    def chain_rules_text(self) -> str:
        return rules_text(self._chain_rules())

    def _chain_rules(self) -> Iterator[Placed]:
        if self.masquerade is not None:
            yield self.masquerade
        for chain in self.chains:
            for rule in chain.rules:
                if self.masquerade is None or rule is not self.masquerade[1]:
                    yield chain.name, rule


def rules_text(rules: Iterable[Placed]) -> str:
    """Rules as kube-proxy writes them, a line each."""
    return "".join([f"{render_rule(chain, rule, Style.KUBE_PROXY)}\n" for chain, rule in rules])


class _Writer:
    """Collects the rules of one service port in the order of I-7."""

    def __init__(self, plan: ServicePlan, settings: ProxierSettings, *, comments: bool) -> None:
        self.plan = plan
        self.port = plan.port
        self.settings = settings
        self.comments = comments  # large clusters leave the comments of I-8 out (I-12.3)
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
        self.use_ext = plan.has_any and self.port.externally_accessible
        self.use_fw = plan.has_any and bool(self.port.load_balancer_ips) and bool(self.port.source_ranges)

    def origin(self, role: Role, endpoint: str = "") -> Origin:
        return Origin(role, self.name, self.plan.name.protocol, endpoint)

    def to_port(self, network: Network | None, port: int) -> tuple[Match, ...]:
        """``-m tcp -p tcp -d … --dport …``."""
        destination = () if network is None else (Destination(network),)
        return (*_protocol(self.protocol), *destination, _destination_port(port))

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
                chains.append(Chain(name, (*first, *self.balancing(endpoints))))
        chains.extend(map(self.endpoint_chain, self.plan.reachable))
        return ServiceRules(
            dispatch=tuple(self.dispatch),
            filter=tuple(self.filter),
            chains=tuple(chains),
            masquerade=None if masquerade is None else (internal_chain, masquerade),
            refusals=(self.plan.internal_refusal is Refusal.DROP, self.plan.external_refusal is Refusal.DROP),
            chain_rule_count=sum(len(chain.rules) for chain in chains),
        )

    def refuse(self, chain: str, refusal: Refusal, matches: tuple[Match, ...]) -> None:
        """R1', R2', R5, R7."""
        reject = refusal is Refusal.REJECT
        reason = "no endpoints" if reject else "no local endpoints"
        role = Role.NO_ENDPOINTS if reject else Role.NO_LOCAL_ENDPOINTS
        target: Statement = Reject() if reject else DROP
        body = (Comment(f"{self.name} has {reason}"), *matches, target)
        self.filter.append((chain, Rule(body, self.origin(role))))

    def cluster_ip(self) -> None:
        matches = self.to_port(host_network(self.port.cluster_ip), self.port.port)
        refusal = self.plan.internal_refusal
        if refusal is not None:
            self.refuse(names.SERVICES, refusal, matches)
            return
        chain = self.svl if self.port.internal_policy_local else self.svc
        body = (Comment(f"{self.name} cluster IP"), *matches, Jump(chain))
        self.dispatch.append((names.SERVICES, Rule(body, self.origin(Role.CLUSTER_IP))))

    def external_ips(self) -> None:
        if not self.settings.config.allow_service_external_ips:
            return
        for ip in self.port.external_ips:
            matches = self.to_port(host_network(ip), self.port.port)
            if self.plan.has_any:
                body = (Comment(f"{self.name} external IP"), *matches, Jump(self.ext))
                self.dispatch.append((names.SERVICES, Rule(body, self.origin(Role.EXTERNAL_IP))))
            if self.plan.external_refusal is not None:
                self.refuse(names.EXTERNAL_SERVICES, self.plan.external_refusal, matches)

    def load_balancer_ips(self) -> None:
        refusal = self.plan.external_refusal
        for ip in self.port.load_balancer_ips:
            matches = self.to_port(host_network(ip), self.port.port)
            if self.plan.has_any:
                chain = self.fw if self.use_fw else self.ext
                body = (Comment(f"{self.name} loadbalancer IP"), *matches, Jump(chain))
                self.dispatch.append((names.SERVICES, Rule(body, self.origin(Role.LOAD_BALANCER))))
            if self.use_fw:
                # traffic that FW did not let into EXT comes here without DNAT
                drop = (Comment(f"{self.name} traffic not accepted by {self.fw}"), *matches, DROP)
                self.filter.append((names.PROXY_FIREWALL, Rule(drop, self.origin(Role.SOURCE_RANGE_DROP))))
        if refusal is not None:
            for ip in self.port.load_balancer_ips:
                self.refuse(names.EXTERNAL_SERVICES, refusal, self.to_port(host_network(ip), self.port.port))

    def node_port(self) -> None:
        if not self.port.node_port:
            return
        origin = self.origin(Role.NODE_PORT)
        if self.plan.has_any:
            if self.settings.localhost_node_ports and self.settings.nfacct:
                counted = (*self.to_port(LOOPBACK, self.port.node_port), NfAcct(LOCALHOST_ACCEPTED_COUNTER))
                body = (Comment(self.name), *counted, Jump(self.ext))
                self.dispatch.append((names.NODE_PORTS, Rule(body, origin)))
            body = (Comment(self.name), *self.to_port(None, self.port.node_port), Jump(self.ext))
            self.dispatch.append((names.NODE_PORTS, Rule(body, origin)))
        if self.plan.external_refusal is not None:
            # whatever nodePortAddresses says (I-7.5)
            matches = (_TO_LOCAL, *self.to_port(None, self.port.node_port))
            self.refuse(names.EXTERNAL_SERVICES, self.plan.external_refusal, matches)

    def health_check(self) -> None:
        if self.port.health_check_node_port:
            matches = (*_protocol("tcp"), _destination_port(self.port.health_check_node_port))
            body = (Comment(f"{self.name} health check node port"), *matches, ACCEPT)
            self.filter.append((names.NODE_PORTS, Rule(body, self.origin(Role.HEALTH_CHECK))))

    def internal_masquerade(self) -> tuple[str, Rule | None]:
        """The chain for the cluster IP and R9 or R9', which goes first into it."""
        chain = self.svl if self.port.internal_policy_local else self.svc
        if self.plan.internal_refusal is not None:
            return chain, None
        matches = self.to_port(host_network(self.port.cluster_ip), self.port.port)
        if not self.settings.config.masquerade_all:
            if self.settings.detector is None:
                return chain, None
            matches = (*matches, local_match(self.settings.detector, negate=True))
        body = (Comment(f"{self.name} cluster IP"), *matches, _MARK_MASQ)
        return chain, Rule(body, self.origin(Role.MASQUERADE_CLUSTER_IP))

    def external_rules(self) -> tuple[Rule, ...]:
        """R11 to R15."""
        rules: list[Rule] = []

        def add(role: Role, comment: str, *rest: Match | Statement) -> None:
            text = (Comment(comment),) if comment else ()
            rules.append(Rule((*text, *rest), self.origin(role)))

        where = f"{self.name} external destinations"
        if not self.port.external_policy_local:
            add(Role.MASQUERADE_EXTERNAL, f"masquerade traffic for {where}", _MARK_MASQ)
        else:
            # pods and the node itself are short-circuited to all endpoints: the Local policy is for outsiders
            if self.settings.detector is not None:
                from_pod = local_match(self.settings.detector, negate=False)
                add(Role.SHORT_CIRCUIT_POD, f"pod traffic for {where}", from_pod, Jump(self.svc))
            add(Role.MASQUERADE_EXTERNAL, f"masquerade LOCAL traffic for {where}", _FROM_LOCAL, _MARK_MASQ)
            add(Role.SHORT_CIRCUIT_LOCAL, f"route LOCAL traffic for {where}", _FROM_LOCAL, Jump(self.svc))
        if self.plan.external_refusal is None:
            add(Role.EXTERNAL_POLICY, "", Jump(self.svl if self.port.external_policy_local else self.svc))
        return tuple(rules)

    def firewall_rules(self) -> tuple[Rule, ...]:
        """R16 to R18."""
        ranges = self.port.source_ranges or ()
        sources = list(ranges)
        if any(self.settings.node_ip in network for network in ranges):
            # the node may reach the VIP, also from the VIP's own address when it is bound here
            sources.extend(map(host_network, self.port.load_balancer_ips))
        comment, jump, origin = (
            Comment(f"{self.name} loadbalancer IP"),
            Jump(self.ext),
            self.origin(Role.SOURCE_RANGE),
        )
        rules = [Rule((comment, Source(network), jump), origin) for network in sources]
        rest = Comment(f"other traffic to {self.name} will be dropped by {names.PROXY_FIREWALL}")
        return (*rules, Rule((rest,), self.origin(Role.SOURCE_RANGE_DROP)))

    def balancing(self, endpoints: Sequence[Endpoint]) -> Iterator[Rule]:
        """I-8.1 and I-8.2."""
        targets = [(endpoint.address, self.endpoint_chains[endpoint.address]) for endpoint in endpoints]
        comments = [(Comment(f"{self.name} -> {address}"),) if self.comments else () for address, _ in targets]
        if self.port.session_affinity:
            for comment, (address, chain) in zip(comments, targets, strict=True):
                remembered = Recent(chain, "rcheck", seconds=self.port.sticky_seconds, reap=True)
                yield Rule((*comment, remembered, Jump(chain)), self.origin(Role.AFFINITY, address))
        for number, (comment, (address, chain)) in enumerate(zip(comments, targets, strict=True)):
            remaining = len(targets) - number
            odds = (_one_in(remaining),) if remaining > 1 else ()
            yield Rule((*comment, *odds, Jump(chain)), self.origin(Role.BALANCE, address))

    def endpoint_chain(self, endpoint: Endpoint) -> Chain:
        """I-8.3."""
        name = self.endpoint_chains[endpoint.address]
        comment = (Comment(self.name),) if self.comments else ()
        parsed = parse_ip(endpoint.ip)
        assert parsed is not None
        hairpin = Rule(
            (*comment, Source(host_network(endpoint.ip)), _MARK_MASQ), self.origin(Role.HAIRPIN, endpoint.address)
        )
        remember = (Recent(name, "set"),) if self.port.session_affinity else ()
        dnat = Rule(
            (*comment, *remember, *_protocol(self.protocol), Dnat(*parsed, endpoint.port)),
            self.origin(Role.ENDPOINT, endpoint.address),
        )
        return Chain(name, (hairpin, dnat))


def write_service_rules(plan: ServicePlan, settings: ProxierSettings, *, large_cluster: bool) -> ServiceRules:
    """The rules of one service port on one node."""
    return _Writer(plan, settings, comments=not large_cluster).write()
