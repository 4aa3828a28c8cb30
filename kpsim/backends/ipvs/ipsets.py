"""The ipsets of ipvs mode: names, types, comments, and which entries a service port has in them (IPVS-7)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from kpsim.addresses import Family, Network
from kpsim.backends.ipvs.frontends import Frontend, PortFrontends, number_of
from kpsim.config import ProxierSettings
from kpsim.kubeproxy.trackers import endpoints_on
from kpsim.maps import Map
from kpsim.ruleset import IPSET_KINDS, Element, Interval, Key, Role, Set, make_ipset

_LONGEST_NAME = 31  #: the kernel takes no longer name of a set


@dataclass(frozen=True, slots=True)
class Declared:
    """One of the sets. ``comment`` stands in the rules that look the set up, not in the set."""

    name: str  #: in IPv4
    kind: str  #: the type
    comment: str

    @property
    def parts(self) -> tuple[str, ...]:
        """What an entry consists of: ``ip``, ``port``, ``net``."""
        return IPSET_KINDS[self.kind].parts

    def named(self, family: Family) -> str:
        """The set's name in a family (IPVS-7.2)."""
        if family is Family.IPV4:
            return self.name
        return self.name.replace("KUBE-", "KUBE-6-")[:_LONGEST_NAME]

    def empty(self, family: Family) -> Set:
        """The set as kube-proxy creates it."""
        return make_ipset(self.named(family), self.kind, family)


_IP_PORT, _IP_PORT_IP, PORT = "hash:ip,port", "hash:ip,port,ip", "bitmap:port"
_SCTP = "with type 'hash ip:port'"

LOOP_BACK = Declared(
    "KUBE-LOOP-BACK", _IP_PORT_IP, "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose"
)
CLUSTER_IP = Declared("KUBE-CLUSTER-IP", _IP_PORT, "Kubernetes service cluster ip + port for masquerade purpose")
EXTERNAL_IP = Declared(
    "KUBE-EXTERNAL-IP", _IP_PORT, "Kubernetes service external ip + port for masquerade and filter purpose"
)
EXTERNAL_IP_LOCAL = Declared(
    "KUBE-EXTERNAL-IP-LOCAL", _IP_PORT, "Kubernetes service external ip + port with externalTrafficPolicy=local"
)
LOAD_BALANCER = Declared("KUBE-LOAD-BALANCER", _IP_PORT, "Kubernetes service lb portal")
LOAD_BALANCER_FW = Declared(
    "KUBE-LOAD-BALANCER-FW",
    _IP_PORT,
    "Kubernetes service load balancer ip + port for load balancer with sourceRange",
)
LOAD_BALANCER_LOCAL = Declared(
    "KUBE-LOAD-BALANCER-LOCAL",
    _IP_PORT,
    "Kubernetes service load balancer ip + port with externalTrafficPolicy=local",
)
LOAD_BALANCER_SOURCE_IP = Declared(
    "KUBE-LOAD-BALANCER-SOURCE-IP",
    _IP_PORT_IP,
    "Kubernetes service load balancer ip + port + source IP for packet filter purpose",
)
LOAD_BALANCER_SOURCE_CIDR = Declared(
    "KUBE-LOAD-BALANCER-SOURCE-CIDR",
    "hash:ip,port,net",
    "Kubernetes service load balancer ip + port + source cidr for packet filter purpose",
)
NODE_PORT_TCP = Declared("KUBE-NODE-PORT-TCP", PORT, "Kubernetes nodeport TCP port for masquerade purpose")
NODE_PORT_LOCAL_TCP = Declared(
    "KUBE-NODE-PORT-LOCAL-TCP", PORT, "Kubernetes nodeport TCP port with externalTrafficPolicy=local"
)
NODE_PORT_UDP = Declared("KUBE-NODE-PORT-UDP", PORT, "Kubernetes nodeport UDP port for masquerade purpose")
NODE_PORT_LOCAL_UDP = Declared(
    "KUBE-NODE-PORT-LOCAL-UDP", PORT, "Kubernetes nodeport UDP port with externalTrafficPolicy=local"
)
NODE_PORT_SCTP = Declared(
    "KUBE-NODE-PORT-SCTP-HASH", _IP_PORT, f"Kubernetes nodeport SCTP port for masquerade purpose {_SCTP}"
)
NODE_PORT_LOCAL_SCTP = Declared(
    "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
    _IP_PORT,
    f"Kubernetes nodeport SCTP port with externalTrafficPolicy=local {_SCTP}",
)
HEALTH_CHECK_NODE_PORT = Declared("KUBE-HEALTH-CHECK-NODE-PORT", PORT, "Kubernetes health check node port")
IPVS_IPS = Declared("KUBE-IPVS-IPS", "hash:ip", "Addresses on the ipvs interface")

#: in the order in which a sync creates them (upstream's order is arbitrary)
SETS = (
    LOOP_BACK,
    CLUSTER_IP,
    EXTERNAL_IP,
    EXTERNAL_IP_LOCAL,
    LOAD_BALANCER,
    LOAD_BALANCER_FW,
    LOAD_BALANCER_LOCAL,
    LOAD_BALANCER_SOURCE_IP,
    LOAD_BALANCER_SOURCE_CIDR,
    NODE_PORT_TCP,
    NODE_PORT_LOCAL_TCP,
    NODE_PORT_UDP,
    NODE_PORT_LOCAL_UDP,
    NODE_PORT_SCTP,
    NODE_PORT_LOCAL_SCTP,
    HEALTH_CHECK_NODE_PORT,
    IPVS_IPS,
)

#: protocol → the set of all its node ports, and that of those with the Local policy
NODE_PORT_SETS: Mapping[str, tuple[Declared, Declared]] = {
    "tcp": (NODE_PORT_TCP, NODE_PORT_LOCAL_TCP),
    "udp": (NODE_PORT_UDP, NODE_PORT_LOCAL_UDP),
    "sctp": (NODE_PORT_SCTP, NODE_PORT_LOCAL_SCTP),
}


class Entry(NamedTuple):
    """An entry that a service port has in a set."""

    of: Declared
    key: Key
    element: Element


def entries_of(port: PortFrontends, settings: ProxierSettings) -> Iterator[Entry]:
    """All entries of one service port (IPVS-7.3). Only those of KUBE-LOOP-BACK depend on endpoints."""
    yield from _loop_back(port, settings)
    for frontend in port.frontends:
        address, number, protocol = frontend.key
        for declared in _sets_of(frontend.role, port):
            yield Entry(declared, (address, protocol, number), Element(origin=frontend.server.origin))
        if frontend.role is Role.LOAD_BALANCER:
            yield from _source_ranges(frontend, port, settings)
        if frontend.bound:
            yield Entry(IPVS_IPS, (address,), Element(origin=frontend.server.origin))
    yield from _node_port(port)


def _loop_back(port: PortFrontends, settings: ProxierSettings) -> Iterator[Entry]:
    """The local endpoints of a port, whatever their state."""
    protocol = port.plan.name.protocol.lower()
    for endpoint in endpoints_on(settings.node_name, port.plan.endpoints):
        address = number_of(endpoint.ip)
        origin = port.origin(Role.HAIRPIN, endpoint.address)
        yield Entry(LOOP_BACK, (address, protocol, endpoint.port, address), Element(origin=origin))


def _sets_of(role: Role, port: PortFrontends) -> tuple[Declared, ...]:
    """The sets that have address and port of a frontend, but for those of source ranges and node ports."""
    policies = port.plan.port
    match role:
        case Role.CLUSTER_IP:
            return (CLUSTER_IP,)
        case Role.EXTERNAL_IP:
            return (EXTERNAL_IP_LOCAL if policies.external_policy_local else EXTERNAL_IP,)
        case Role.LOAD_BALANCER:
            restricted = (LOAD_BALANCER_FW,) if policies.source_ranges else ()
            local = (LOAD_BALANCER_LOCAL,) if policies.external_policy_local else ()
            return (LOAD_BALANCER, *restricted, *local)
        case _:
            return ()


def _source_ranges(frontend: Frontend, port: PortFrontends, settings: ProxierSettings) -> Iterator[Entry]:
    """The networks that may use a load balancer's address; if one has the node's IP, the address itself may, too."""
    address, number, protocol = frontend.key
    origin = port.origin(Role.SOURCE_RANGE)
    for network in port.plan.port.source_ranges or ():
        yield Entry(LOAD_BALANCER_SOURCE_CIDR, (address, protocol, number, _interval(network)), Element(origin=origin))
    if allows_node(port, settings):
        yield Entry(LOAD_BALANCER_SOURCE_IP, (address, protocol, number, address), Element(origin=origin))


def allows_node(port: PortFrontends, settings: ProxierSettings) -> bool:
    """Whether a source range of the port contains the node's IP."""
    return any(settings.node_ip in network for network in port.plan.port.source_ranges or ())


def _interval(network: Network) -> int | Interval:
    return network.base if network.prefix == network.family.bits else (network.base, network.last)


def _node_port(port: PortFrontends) -> Iterator[Entry]:
    """The node port, and the health check node port that goes with it (IPVS-4.3)."""
    policies = port.plan.port
    served = [*port.of(Role.NODE_PORT)]
    if policies.node_port and not served:
        return
    for frontend in served:
        plain, local = NODE_PORT_SETS[frontend.key.protocol]
        key: Key = (frontend.key.port,)
        if plain.kind != PORT:
            key = (frontend.key.address, frontend.key.protocol, frontend.key.port)
        for declared in (plain, local) if policies.external_policy_local else (plain,):
            yield Entry(declared, key, Element(origin=frontend.server.origin))
    if policies.health_check_node_port:
        element = Element(origin=port.origin(Role.HEALTH_CHECK))
        yield Entry(HEALTH_CHECK_NODE_PORT, (policies.health_check_node_port,), element)


#: the entries of each set that has any
Contents = Mapping[Declared, Mapping[Key, Element]]


def contents_of(entries: Iterable[Entry]) -> Contents:
    """The entries by set. What two service ports both want counts once, for the later of them."""
    found: dict[Declared, dict[Key, Element]] = {}
    for declared, key, element in entries:
        found.setdefault(declared, {})[key] = element
    return found


def with_sets(ipsets: Map[str, Set], family: Family) -> tuple[Map[str, Set], str]:
    """Does ``ipset create … -exist`` for each set. Returns the ipsets then, and why one could not be created (IPVS-7.1).

    The sets before it in the table exist then, those behind it may not.
    """
    for declared in SETS:
        wanted = declared.empty(family)
        present = ipsets.get(wanted.name)
        if present is None:
            ipsets = ipsets.set(wanted.name, wanted)
        elif not _is_same(present, wanted):
            return (
                ipsets,
                f"ipset {wanted.name}: exists, and is not of the type {declared.kind} that kube-proxy creates",
            )
    return ipsets, ""


def _is_same(present: Set, wanted: Set) -> bool:
    """Whether the kernel takes a set for the one that is to be created. How large its hash is does not matter."""
    assert present.ipset is not None and wanted.ipset is not None
    like_it = replace(present.ipset, hash_size=wanted.ipset.hash_size, bucket_size=wanted.ipset.bucket_size)
    return (like_it, present.size, present.timeout_ns) == (wanted.ipset, wanted.size, wanted.timeout_ns)


def with_contents(ipsets: Map[str, Set], family: Family, contents: Contents) -> Map[str, Set]:
    """Deletes what no service port wants from kube-proxy's sets, then adds what is missing (IPVS-7.5).

    A single address as a source range is deleted and added again each time, which leaves the set as it was. A set that
    is full takes no further entry (IPVS-7.6).
    """
    changing = ipsets.mutate()
    for declared in SETS:
        present = ipsets[declared.named(family)]
        wanted = contents.get(declared, {})
        if not _holds(present, wanted):
            kept = {key: wanted[key] for key in present.elements if key in wanted}
            missing = sorted((key for key in wanted if key not in kept), key=_rank)
            room = len(missing) if present.size is None else present.size - len(kept)
            kept |= {key: wanted[key] for key in missing[:room]}
            changing[present.name] = replace(present, elements=Map(kept))
    return changing.finish()


def _rank(key: Key) -> Any:
    """By what keys are sorted: a single address counts as the network that it is."""
    return [part if isinstance(part, tuple) else (part, part) for part in key]


def _holds(present: Set, wanted: Mapping[Key, Element]) -> bool:
    elements = present.elements
    return len(elements) == len(wanted) and all(
        key in elements and elements[key].origin == element.origin for key, element in wanted.items()
    )
