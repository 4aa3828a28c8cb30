"""The nodes of a scenario with every address filled in from the address plan.

Plan: nodes 192.168.0.0/24 and fd00:192:168::/64, pods 10.180.N.0/24 and fd00:10:180:N::/64.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kpsim.addresses import Family, parse_ip, parse_network
from kpsim.nodes import UPLINK, Link, node_address
from kpsim.scenario.event_schema import ScenarioEvent
from kpsim.scenario.node_schema import NamedNode, Nodes

CLUSTER_CIDRS = {Family.IPV4: "10.180.0.0/16", Family.IPV6: "fd00:10:180::/48"}

_MOST = 255


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node. ``ips`` and ``pod_cidrs`` have one entry for each family of the cluster, in the cluster's order.

    ``more_ips`` are further InternalIPs, and ``links`` its interfaces to other machines. ``sysctls`` are the kernel
    settings, by name, that the node has before kube-proxy starts. ``hairpin`` is a flag of the ports of its bridge.
    """

    name: str
    zone: str | None
    cpu: int
    ips: tuple[str, ...]
    pod_cidrs: tuple[str, ...]
    sysctls: Mapping[str, int] = field(default_factory=dict)
    hairpin: bool = True
    more_ips: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()

    def link_with(self, address: str) -> str:
        """The name of the link that has an address; empty: none has."""
        return next((link.name for link in self.links if address in map(_without_prefix, link.addresses)), "")

    def ip_on(self, link: str, family: Family) -> str:
        """The first address of a family on a link; empty if there is none."""
        addresses = (_without_prefix(text) for each in self.links if each.name == link for text in each.addresses)
        return next((ip for ip in addresses if _ip_family(ip) is family), "")

    def ip(self, family: Family) -> str:
        """The node's address of a family; empty if it has none."""
        return next((ip for ip in self.ips if _ip_family(ip) is family), "")


def _without_prefix(text: str) -> str:
    return text.partition("/")[0]


def _ip_family(text: str) -> Family | None:
    parsed = parse_ip(text)
    return parsed[0] if parsed else None


def _network_family(text: str) -> Family | None:
    parsed = parse_network(text)
    return parsed.family if parsed else None


def cluster_families(nodes: Nodes) -> tuple[Family, ...]:
    """The cluster's families, its primary one first."""
    return tuple(Family.from_label(label) for label in nodes.ip_families)


def cluster_nodes(nodes: Nodes) -> tuple[ClusterNode, ...]:
    """Every node of the scenario, in order."""
    named = nodes.named or tuple(_counted(nodes))
    families = cluster_families(nodes)
    given = [_given_ips(node) for node in named]
    ips = {family: _free(family, _plan_ips(family), (ip for each in given for ip in each)) for family in families}
    cidrs = {
        family: _free(family, _plan_cidrs(family), (cidr for node in named for cidr in node.pod_cidrs))
        for family in families
    }
    return tuple(_cluster_node(nodes, node, own, families, ips, cidrs) for node, own in zip(named, given, strict=True))


def _cluster_node(
    nodes: Nodes,
    node: NamedNode,
    given: Sequence[str],
    families: Sequence[Family],
    free_ips: Mapping[Family, Iterator[str]],
    free_cidrs: Mapping[Family, Iterator[str]],
) -> ClusterNode:
    ips = tuple(next((ip for ip in given if _ip_family(ip) is f), None) or next(free_ips[f]) for f in families)
    more = tuple(ip for ip in node.ips if ip not in ips)
    links = [Link(each.name, each.addresses, each.routes) for each in node.interfaces]
    links = links or [Link(UPLINK, tuple(str(node_address(ip)) for ip in (*ips, *more)))]
    return ClusterNode(
        node.name,
        node.zone,
        node.cpu,
        ips,
        tuple(
            next((c for c in node.pod_cidrs if _network_family(c) is f), None) or next(free_cidrs[f]) for f in families
        ),
        {**nodes.sysctls, **node.sysctls},
        nodes.hairpin if node.hairpin is None else node.hairpin,
        more,
        tuple(links),
    )


def _given_ips(node: NamedNode) -> tuple[str, ...]:
    """The addresses that the file names, the InternalIPs first."""
    return (*node.ips, *(_without_prefix(text) for each in node.interfaces for text in each.addresses))


def joining(events: Iterable[ScenarioEvent]) -> frozenset[str]:
    """The nodes that are not there at the start: those that an event adds before any deletes them."""
    first: dict[str, bool] = {}
    for event in sorted(events, key=lambda event: event.at_ns):
        if event.add_node is not None:
            first.setdefault(event.add_node.node, True)
        if event.delete_node is not None:
            first.setdefault(event.delete_node.node, False)
    return frozenset(name for name, joins in first.items() if joins)


def _counted(nodes: Nodes) -> Iterator[NamedNode]:
    zones = nodes.zones or (None,)
    for number in range(1, (nodes.count or 0) + 1):
        yield NamedNode(name=f"node-{number}", zone=zones[(number - 1) % len(zones)])


def _plan_ips(family: Family) -> Iterator[str]:
    for number in range(1, _MOST):
        yield f"192.168.0.{number}" if family is Family.IPV4 else f"fd00:192:168::{number:x}"


def _plan_cidrs(family: Family) -> Iterator[str]:
    for number in range(1, _MOST + 1):
        yield f"10.180.{number}.0/24" if family is Family.IPV4 else f"fd00:10:180:{number:x}::/64"


def _free(family: Family, plan: Iterator[str], given: Iterable[str]) -> Iterator[str]:
    taken = set(given)
    return (text for text in plan if text not in taken)
