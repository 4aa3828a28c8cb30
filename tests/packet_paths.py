"""Builder for packet path tables: a cluster with a Service for every case, its real rules, and rows of first packets.

Rows read ``section source protocol destination → result`` with names in place of addresses, so a row holds in both IP
families. ``ADDRESSES`` explains the names, ``CATALOGUE`` the Services. N is node-1, whose hooks the packet passes.

==========  ================================================================================================
source      P pod of N; Q pod of M; H process of N, H@ADDRESS bound to one; L process on loopback; X client outside;
            B client outside the source ranges; OWN the dialled address itself, from outside; a1 … endpoints (PP-1.1)
destination SERVICE.C cluster IP, E external IP, V load balancer's address, n node port, hc health check node port;
            SERVICE.C:81 another port; SERVICE.n@ADDRESS the node port on that address; ADDRESS:PORT anything
result      ``a1 b1 keep``, ``a1 b1 masq``, ``a1 masq, b1 keep``: endpoints, each equally likely, and the source
            they see; REJ port unreachable; DROP by a rule; PASS out, PASS in: untouched, sent on or to the host;
            what the kernel itself refuses is told by its cause
==========  ================================================================================================

Commas in the source and in the kind of destination make one case each. A row may begin with v4 or v6; else it holds in
both families.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property
from typing import Any

from packets import build_fabric, net, packet_between
from proxiers import Json, endpoint, endpoint_slice, port, service, slice_port

from kpsim.addresses import Family, join_host_port
from kpsim.cluster import ClusterState
from kpsim.config import Host, LocalMode, Mode, ProxyConfig
from kpsim.explore import Cluster
from kpsim.fabric import Fabric
from kpsim.ipvs.connections import IpvsTable
from kpsim.netfilter import Cause, Netns, Walk, expand
from kpsim.nodes import sysctls_of
from kpsim.objects import ApiObject, Node, node_from_json
from kpsim.packet import Packet
from kpsim.packetpath.routing import Interface, InterfaceKind, OwnAddress, Routing
from kpsim.programmed import Programmed
from kpsim.replay import START_NS
from kpsim.ruleset import Chain, Ruleset, Verdict
from kpsim.tracing.probes import Outcome, Probe, Prober, ProbeResult, outcome_of, result_of
from kpsim.tracing.site import Sender, Site

V4, V6 = Family.IPV4, Family.IPV6
N, M = "node-1", "node-2"

#: name → address in IPv4 and IPv6. N2 is N's second address, cni the address of N's bridge.
ADDRESSES: dict[str, tuple[str, str]] = {
    "N": ("192.168.0.2", "2001:db8::2"), "N2": ("192.168.1.2", "2001:db8:1::2"), "M": ("192.168.0.3", "2001:db8::3"),
    "lo": ("127.0.0.1", "::1"), "cni": ("10.180.0.1", "fd00:180::1"), "cni-M": ("10.180.1.1", "fd00:180:0:1::1"),
    "P": ("10.180.0.9", "fd00:180::9"), "Q": ("10.180.1.9", "fd00:180:0:1::9"),
    "X": ("203.0.113.2", "2001:db8:71::2"), "B": ("203.0.113.130", "2001:db8:71:0:8000::82"),
    **{f"a{i}": (f"10.180.0.1{i}", f"fd00:180::1{i}") for i in range(1, 5)},
    **{f"b{i}": (f"10.180.1.1{i}", f"fd00:180:0:1::1{i}") for i in range(1, 5)},
    "h1": ("192.168.0.2", "2001:db8::2"), "h2": ("192.168.0.3", "2001:db8::3"),
    "unallocated": ("172.30.200.200", "fd00:172:30::c8c8"), "elsewhere": ("198.51.100.250", "2001:db8:51::fa"),
}  # fmt: skip
POD_CIDRS = {N: ("10.180.0.0/24", "fd00:180::/64"), M: ("10.180.1.0/24", "fd00:180:0:1::/64")}
CLUSTER_CIDR = "10.180.0.0/16,fd00:180::/48"
CLIENTS = (net("203.0.113.0/24"), net("2001:db8:71::/64"))
CLIENT_PORT, ENDPOINT_PORT = 40000, 8080

#: source ranges: half of the clients, with or without the nodes; all addresses; no address of this family
RANGES = {
    "nodes": ("192.168.0.0/24", " 203.0.113.0/25", "2001:db8::/64", "2001:db8:71::/65"),
    "clients": ("203.0.113.0/25", "2001:db8:71::/65"),
    "all": ("203.0.113.0/25", "0.0.0.0/0", "2001:db8:71::/65", "::/0"),
    "v6": ("2001:db8:71::/65",), "v4": ("203.0.113.0/25",),
}  # fmt: skip

_STATES = {"s": "serving-terminating", "t": "terminating", "u": "unready"}


@dataclass(frozen=True)
class Entry:
    """A Service of the catalogue.

    ``endpoints`` are names, with ``:s`` serving while terminating, ``:t`` not serving, ``:u`` unready. The internal and
    external traffic policies (iTP, eTP) are Cluster unless ``local`` says i, e or ie.
    """

    endpoints: str = ""
    local: str = ""
    ranges: str = ""
    protocol: str = "tcp"
    cluster_only: bool = False
    sticky: bool = False
    proxied: bool = False  #: ipMode Proxy
    external: str = ""  #: an address of that name as external IP
    port: int = 80


CATALOGUE: dict[str, Entry] = {
    "web": Entry("a1 b1"), "none": Entry(), "inner": Entry("a1 b1", "i"), "outer": Entry("a1 b1", "e"),
    "local": Entry("a1 b1", "ie"), "innerfar": Entry("b1 b2", "i"), "outerfar": Entry("b1 b2", "e"),
    "far": Entry("b1 b2", "ie"), "private": Entry("a1 b1", cluster_only=True),
    "privatefar": Entry("b1", "i", cluster_only=True), "privatenone": Entry(cluster_only=True),
    "localnone": Entry("", "ie"), "unready": Entry("a1:u b1:u"),
    # PP-12.6
    "t1": Entry("a1 a2 a3:s a4:t b1", "e"), "t2": Entry("a2:s a3:s a4:t b1", "e"), "t3": Entry("b1:s", "e"),
    "t4": Entry("a1:t b1:t", "e"), "t5": Entry("a2:s a3:s b1:t b2:s"), "t6": Entry("a1 a2 b1:s b2:t b3"),
    # PP-8
    "guarded": Entry("a1 b1", ranges="nodes"), "guardedlocal": Entry("a1 b1", "e", ranges="nodes"),
    "guardedfar": Entry("b1 b2", "e", ranges="nodes"), "clientsonly": Entry("a1 b1", ranges="clients"),
    "clientslocal": Entry("a1 b1", "e", ranges="clients"), "guardednone": Entry(ranges="nodes"),
    "clientsnone": Entry(ranges="clients"), "open": Entry("a1 b1", ranges="all"),
    "v6only": Entry("a1 b1", ranges="v6"), "v4only": Entry("a1 b1", ranges="v4"),
    # other kinds of frontends, endpoints and protocols
    "proxied": Entry("a1 b1", proxied=True), "host": Entry("h1 h2"), "hostlocal": Entry("h1 h2", "e"),
    "onnode": Entry("a1 b1", external="N2"), "nobodyonnode": Entry("", external="N2", port=81),
    "dns": Entry("a1 b1", protocol="udp"), "sctp": Entry("a1 b1", protocol="sctp"),
    "sticky": Entry("a1 a2 b1", sticky=True), "stickylocal": Entry("a1 a2 b1", "e", sticky=True),
    # one endpoint only: PP-11
    "here": Entry("a1"), "there": Entry("b1"), "herelocal": Entry("a1", "e"), "therelocal": Entry("b1", "e"),
    "proxiedhere": Entry("a1", proxied=True), "dnshere": Entry("a1", protocol="udp"),
}  # fmt: skip
_NUMBERS = {name: number for number, name in enumerate(CATALOGUE, 1)}

#: kube-proxy's configurations, by name
CONFIGURATIONS: dict[str, Json] = {
    "detector": {},
    "no detector": {"cluster_cidr": ""},
    "masqueradeAll": {"masquerade_all": True},
    "masqueradeAll, no detector": {"masquerade_all": True, "cluster_cidr": ""},
    "NodeCIDR": {"detect_local_mode": LocalMode.NODE_CIDR},
    "BridgeInterface": {"detect_local_mode": LocalMode.BRIDGE_INTERFACE, "bridge_interface": "cni0"},
    "InterfaceNamePrefix": {"detect_local_mode": LocalMode.INTERFACE_NAME_PREFIX, "interface_name_prefix": "cni"},
    "nodePortAddresses nodes": {"node_port_addresses": ("192.168.0.0/24", "2001:db8::/64")},
    "nodePortAddresses IPv4": {"node_port_addresses": ("192.168.0.0/24",)},
    "nodePortAddresses IPv6": {"node_port_addresses": ("2001:db8::/64",)},
    "nodePortAddresses loopback": {"node_port_addresses": ("127.0.0.0/8", "::1/128")},
    "nodePortAddresses primary": {"node_port_addresses": ("primary",)},
    "no localhostNodePorts": {"localhost_node_ports": False},
    "be_liberal": {"conntrack_tcp_be_liberal": True},
}


def at(name: str, family: Family) -> str:
    """The address of a name of the plan."""
    return ADDRESSES[name][family is V6]


def _named(text: str, family: Family) -> str:
    """The name of an address; the address itself if it has none."""
    return next((name for name, pair in ADDRESSES.items() if pair[family is V6] == text), text)


def frontend(name: str, kind: str, family: Family) -> tuple[str, int]:
    """The address and port of a Service's frontend on N."""
    number, of = _NUMBERS[name], CATALOGUE[name]
    if kind == "E" and of.external:
        return at(of.external, family), of.port
    match kind:
        case "C":
            return (f"172.30.0.{number}" if family is V4 else f"fd00:172:30::{number}"), of.port
        case "E":
            return (f"198.51.100.{number}" if family is V4 else f"2001:db8:51::{number}"), of.port
        case "V":
            return (f"192.0.2.{number}" if family is V4 else f"2001:db8:2::{number}"), of.port
        case "n":
            return at("N", family), 30000 + number
        case "hc":
            return at("N", family), 32000 + number
    raise AssertionError(f"no kind of frontend: {kind}")


def objects_of(name: str, family: Family) -> Iterator[ApiObject]:
    """The Service and its slice."""
    of = CATALOGUE[name]
    protocol = of.protocol.upper()
    spec: Json = {}
    if not of.cluster_only:
        spec |= {"type": "LoadBalancer", "externalIPs": [frontend(name, "E", family)[0]]}
        if "e" in of.local:
            spec |= {"externalTrafficPolicy": "Local", "healthCheckNodePort": frontend(name, "hc", family)[1]}
    if "i" in of.local:
        spec["internalTrafficPolicy"] = "Local"
    if of.ranges:
        spec["loadBalancerSourceRanges"] = list(RANGES[of.ranges])
    if of.sticky:
        spec |= {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}}
    mode = {"ipMode": "Proxy"} if of.proxied else {}
    node_port = 0 if of.cluster_only else frontend(name, "n", family)[1]
    yield service(
        f"shop/{name}",
        [port(of.port, "p", protocol, node_port)],
        cluster_ip=frontend(name, "C", family)[0],
        ingress=[] if of.cluster_only else [{"ip": frontend(name, "V", family)[0]} | mode],
        **spec,
    )
    yield endpoint_slice(
        f"shop/{name}",
        [_endpoint(text, family) for text in of.endpoints.split()],
        [slice_port(ENDPOINT_PORT, "p", protocol)],
        family=family.label,
    )


def _endpoint(text: str, family: Family) -> Json:
    name, _, state = text.partition(":")
    node = N if name[0] == "a" or name == "h1" else M
    return endpoint(at(name, family), node, _STATES.get(state, "ready"))


def _node(name: str, own: Sequence[str]) -> Node:
    kinds = {"N2": "ExternalIP"}
    addresses = [
        {"type": kinds.get(address, "InternalIP"), "address": text} for address in own for text in ADDRESSES[address]
    ]
    return node_from_json(
        {"kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": list(POD_CIDRS[name])}}
        | {"status": {"addresses": addresses}}
    )


NODES = (_node(N, ("N", "N2")), _node(M, ("M",)))


class World:
    """Two nodes with the whole catalogue, in one family, under one configuration."""

    def __init__(
        self, family: Family, configuration: str = "detector", *, mode: Mode = Mode.IPTABLES, host: Host | None = None
    ) -> None:
        self.family = family
        self.configuration = configuration
        config: dict[str, Any] = {"mode": mode, "cluster_cidr": CLUSTER_CIDR} | CONFIGURATIONS[configuration]
        services = [obj for name in CATALOGUE for obj in objects_of(name, family)]
        self.cluster = Cluster(ClusterState.of([*NODES, *services]), ProxyConfig(**config), host or Host())
        self._told: dict[str, Programmed] = {}

    def told(self, node: str) -> Programmed:
        """What kube-proxy tells a node's kernel."""
        if node not in self._told:
            self._told[node] = self.cluster.told(node, self.family)
        return self._told[node]

    def rules(self, node: str, family: Family | None = None) -> Ruleset:
        """The rules that kube-proxy writes on a node."""
        assert family in (None, self.family)
        return self.told(node).ruleset

    @cached_property
    def site(self) -> Site:
        return self.cluster.site_with(lambda node, _: self.told(node))

    @cached_property
    def prober(self) -> Prober:
        return Prober(self.site, START_NS)

    @cached_property
    def node(self) -> Netns:
        """N without any connection or list. No test commits to it."""
        return self.fabric().nodes[N]

    def fabric(self, *, interfaces: Sequence[Interface] = ()) -> Fabric:
        """Fresh nodes with their rules. ``interfaces`` are further interfaces of N."""
        plan = {node.metadata.name: (node.ips, node.pod_cidrs) for node in NODES}
        made = build_fabric(plan)
        for name, netns in made.nodes.items():
            settings = self.cluster.settings(name, self.family)
            netns.sysctls = sysctls_of(
                self.cluster.config,
                route_localnet=settings.localhost_node_ports,
                liberal=settings.liberal,
                ipvs=settings.uses_ipvs,
            )
            netns.memory.ipvs = IpvsTable(known=False)  # so a row tells every server that may be next
            netns.load(self.told(name))
        if interfaces:
            routing = made.nodes[N].routing
            own = [*routing.interfaces.values(), *interfaces]
            made.nodes[N].routing = Routing(own, routing.routes)
        return made

    # --- packets ------------------------------------------------------------------------------------------------------

    def packet(self, source: str, protocol: str, destination: str, *, sport: int = CLIENT_PORT) -> Packet:
        """The first packet of a row, as N gets it. The source is 0 if a process did not bind."""
        address, number = self.address_of(destination)
        if protocol == "icmp":
            protocol, number = ("icmp" if self.family is V4 else "icmpv6"), 0
        return packet_between(protocol, self.source_of(source, address), address, sport=sport, dport=number)

    def address_of(self, destination: str) -> tuple[str, int]:
        """Turn ``web.n@lo`` into address and port."""
        text, _, place = destination.partition("@")
        text, _, number = text.partition(":")
        name, _, kind = text.partition(".")
        address, default = frontend(name, kind, self.family) if kind else (at(name, self.family), 0)
        return (at(place, self.family) if place else address), int(number or default)

    def source_of(self, source: str, destination: str) -> str:
        if source == "H":
            return ""
        if source == "OWN":
            return destination
        return at({"L": "lo"}.get(source, source.removeprefix("H@")), self.family)

    def dummy(self, destination: str) -> Interface:
        """An interface of N that carries the address of a destination."""
        return Interface("dummy0", (OwnAddress.parse(self.address_of(destination)[0]),), InterfaceKind.DUMMY)

    # --- results ------------------------------------------------------------------------------------------------------

    def walked(self, source: str, protocol: str, destination: str, *, netns: Netns | None = None) -> str:
        """Follow the packet of a row through N's hooks and return the result."""
        netns = netns or self.node
        sent = self.packet(source, protocol, destination)
        outcomes = expand(netns, sent, now_ns=START_NS, local=is_local(source), as_written=True)
        return self.result(outcomes, sent)

    def result(self, outcomes: Sequence[tuple[Fraction, Walk]], sent: Packet) -> str:
        """Format weighted walks as the result of a row."""
        if all(result_of(step) is ProbeResult.DELIVERED for _, step in outcomes):
            return self.delivered([outcome_of(weight, step) for weight, step in outcomes], sent)
        return " or ".join(sorted({self._not_delivered(step, sent) for _, step in outcomes}))

    def _not_delivered(self, step: Walk, sent: Packet) -> str:
        match result_of(step):
            case ProbeResult.REJECTED:
                decided = step.cause in (Cause.RULE, Cause.NO_REAL_SERVER)
                return _rejected((not decided and step.local_error) or step.with_ or "")
            case ProbeResult.DROPPED:
                return "DROP" if step.cause is Cause.RULE else f"DROP {step.cause}"
            case ProbeResult.PASSED:
                way = "in" if step.next_hop is None else "out"
                seen = step.packet
                kept = (seen.source, seen.sport, seen.dport) == (self.sender(sent), sent.sport, sent.dport)
                return f"PASS {way}" + ("" if kept else f" as {seen}")
            case result:
                return str(result)

    def probed(self, source: str, protocol: str, destination: str) -> str:
        """Return the result of a row as a probe answers it.

        Probes do not tell ways or causes, so only its first word is compared.
        """
        sent = self.packet(source, protocol, destination)
        answer = self.prober.answer(Probe(destination, N, sender_kind(source), sent))
        match answer.result:
            case ProbeResult.DELIVERED:
                return self.delivered(answer.outcomes, sent)
            case ProbeResult.REJECTED:
                return _rejected(answer.with_ or "")
            case ProbeResult.DROPPED:
                return "DROP"
            case ProbeResult.PASSED:
                return "PASS"
            case result:
                return str(result)

    def sender(self, sent: Packet) -> str:
        """The source that the sender has.

        An unbound process has the address on the way to what it dials, before DNAT (PP-3.3).
        """
        if sent.saddr:
            return sent.source
        dialled = self.name(sent.destination)
        if dialled in ("N", "N2", "lo") or sent.daddr in self.told(N).local_addresses:
            return sent.destination
        return at("cni" if dialled[0] == "a" else "N", self.family)

    def delivered(self, outcomes: Sequence[Outcome], sent: Packet) -> str:
        """The endpoints, grouped by what they see. They must be equally likely."""
        if any(outcome.weight != Fraction(1, len(outcomes)) for outcome in outcomes):
            return "not uniform: " + ", ".join(f"{outcome.endpoint} {outcome.weight}" for outcome in outcomes)
        sources: dict[str, list[str]] = {}
        for outcome in outcomes:
            name = self.endpoint_name(outcome.endpoint)
            sources.setdefault(self._source(name, outcome, sent), []).append(name)
        return ", ".join(sorted(f"{' '.join(sorted(names))} {source}" for source, names in sources.items()))

    def _source(self, name: str, outcome: Outcome, sent: Packet) -> str:
        """Return keep or masq. masq means the address towards the endpoint and a random port (PP-1.5)."""
        word, source, sport = "keep", self.sender(sent), sent.sport
        if outcome.masquerade:
            word, source, sport = "masq", at("cni" if name[0] == "a" else "N", self.family), None
        seen = outcome.seen
        return word if (seen.src, seen.sport) == (source, sport) else f"{word} as {seen.src}:{seen.sport}"

    def endpoint_name(self, text: str) -> str:
        """Turn ``10.180.0.11:8080`` into a1."""
        ends = {join_host_port(at(name, self.family), ENDPOINT_PORT): name for name in ADDRESSES if name[0] in "abh"}
        return ends.get(text, text)

    def name(self, address: str) -> str:
        return _named(address, self.family)


def is_local(source: str) -> bool:
    """Whether the source is a process of N."""
    return source[0] in "HL"


def sender_kind(source: str) -> Sender:
    """The sender, as a probe names it."""
    if is_local(source):
        return Sender.NODE
    if source == "P" or source[0] == "a":
        return Sender.POD
    return Sender.PEER if source in ("Q", "M") or source[0] == "b" else Sender.EXTERNAL


def _rejected(with_: str) -> str:
    return "REJ" if with_ in ("icmp-port-unreachable", "icmp6-port-unreachable") else f"REJ {with_}"


@cache
def world(family: Family, configuration: str = "detector", mode: Mode = Mode.IPTABLES) -> World:
    """The world that all rows share. No row commits anything to it."""
    return World(family, configuration, mode=mode)


def with_policy_drop(ruleset: Ruleset, chain: str) -> Ruleset:
    """The rules after another program has set a filter chain's policy to DROP."""
    table = ruleset.table("filter")
    base = table[chain].base
    assert base is not None
    changed = Chain(chain, table[chain].rules, replace(base, policy=Verdict.DROP))
    return replace(
        ruleset, tables=ruleset.tables.set(table.key, replace(table, chains=table.chains.set(chain, changed)))
    )


# --- rows ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One first packet and its expected result."""

    section: str
    family: Family
    configuration: str
    source: str
    protocol: str
    destination: str
    expected: str

    def __str__(self) -> str:
        return (
            f"{self.section} {self.source} {self.protocol} {self.destination} → {self.expected}"
            f" [{self.family.label}, {self.configuration}]"
        )

    @property
    def summary(self) -> str:
        """The part of the expectation that a probe can tell."""
        first = self.expected.split()[0]
        return first if first in ("PASS", "DROP") else self.expected


_ROW = re.compile(r"(?:(v4|v6) )?(\S+) +(\S+) +(tcp|udp|sctp|icmp) +(\S+) +→ *(.*)")


def table(text: str, *configurations: str) -> list[Case]:
    """Return the cases of a text with one row a line.

    Results for several configurations stand one after the other, separated by ``|``. A row with one result has it in
    every configuration. Lines that begin with # are remarks.
    """
    columns = configurations or ("detector",)
    cases = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("#"):
            continue
        row = _ROW.fullmatch(line)
        assert row, f"not a row: {line!r}"
        only, section, sources, protocol, destinations, told = row.groups()
        results = [result.strip() for result in told.split("|")]
        assert len(results) in (1, len(columns)), f"{len(columns)} results, please: {line!r}"
        by_column: Mapping[str, str] = dict(zip(columns, results * (len(columns) // len(results)), strict=True))
        families = {"v4": (V4,), "v6": (V6,), None: tuple(Family)}[only]
        cases += [
            Case(f"PP-{section}", family, configuration, source, protocol, destination, expected)
            for source in sources.split(",")
            for destination in _kinds(destinations)
            for configuration, expected in by_column.items()
            for family in families
        ]
    return cases


def _kinds(text: str) -> list[str]:
    """Turn ``web.E,V@lo`` into web.E@lo and web.V@lo."""
    match = re.fullmatch(r"(\w+)\.([A-Za-z,]+)(.*)", text)
    return [f"{match[1]}.{kind}{match[3]}" for kind in match[2].split(",")] if match else [text]
