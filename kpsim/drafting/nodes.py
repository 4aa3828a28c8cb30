"""Makes the nodes of a draft: names, zones, addresses, pod networks and CPUs of the cluster's Nodes."""

from collections.abc import Iterable, Iterator, Sequence

from kpsim.addresses import Family, Network, canonical_ip, format_ip, parse_ip, parse_network
from kpsim.cluster import ClusterState
from kpsim.drafting.part import Ledger, Part
from kpsim.drafting.podspecs import taints_of
from kpsim.endpointslices import CONTROL_PLANE_LABELS
from kpsim.endpointslices.hints import auto_hints_wanted
from kpsim.manifests.allocation import service_ranges
from kpsim.objects import Node

MOST_NODES = 250  #: of a scenario
#: by family: the shortest and the longest prefix that a node's pod network may have in a draft
_PREFIXES = {Family.IPV4: range(8, 29), Family.IPV6: range(32, 125)}


def cluster_families(state: ClusterState) -> tuple[Family, ...]:
    """Return the cluster's families, its primary one first: those of its ServiceCIDRs, its Services and its pod networks."""
    services = [service.json for service in state.services]
    nodes = [node.json for node in state.nodes]
    families = service_ranges(services, nodes, [cidr.json for cidr in state.service_cidrs]).families
    shown = {Family.from_label(label) for service in state.services for label in service.ip_families}
    return (*families, *sorted(shown.difference(families)))


def nodes_part(state: ClusterState, ledger: Ledger) -> Part:
    """Return the ``nodes`` of a scenario. Addresses and pod networks that a Node lacks are left to the scenario's plan."""
    families, auto = cluster_families(state), any(map(auto_hints_wanted, state.services))
    part = Part()
    if families != (Family.IPV4,):
        part.put("ipFamilies", [family.label for family in families])
    plan = _Plan(state, families)
    part.put("list", [_node_part(node, families, plan, ledger, auto=auto) for node in state.nodes])
    return part


class _Plan:
    """What of addresses and pod networks each node has: no two nodes have the same, and who lacks a network gets a free one."""

    def __init__(self, state: ClusterState, families: Sequence[Family]) -> None:
        self._families = families
        self._ips: set[str] = set()
        self._networks: list[Network] = []
        self._candidates = {family: _candidates(family) for family in families}
        self._own = {node.metadata.name: self._given(node) for node in state.nodes}

    def _given(self, node: Node) -> list[Network]:
        return [network for network in _pod_cidrs(node, self._families) if self._takes(network)]

    def _takes(self, network: Network) -> bool:
        """Note a network, unless it overlaps one of another node."""
        if any(o.family is network.family and (o.base in network or network.base in o) for o in self._networks):
            return False
        self._networks.append(network)
        return True

    def ips(self, node: Node) -> tuple[list[str], list[str]]:
        """Return the addresses of a node, and those that an earlier node has already."""
        own = _of_families(node.ips, self._families)
        twice = [ip for ip in own if ip in self._ips]
        self._ips.update(own)
        return [ip for ip in own if ip not in twice], twice

    def networks(self, node: Node) -> tuple[list[Network], bool]:
        """Return the pod networks of a node, one of each family, and whether all of them were given."""
        own = {network.family: network for network in self._own[node.metadata.name]}
        made = (own[family] if family in own else self._free(family) for family in self._families)
        return [network for network in made if network is not None], len(own) == len(self._families)

    def _free(self, family: Family) -> Network | None:
        """Return a network that no node has; None: there is none, as nodes have very large ones."""
        return next(filter(self._takes, self._candidates[family]), None)


def _candidates(family: Family) -> Iterator[Network]:
    prefix = _POD_PREFIX[family]
    for base in _POD_NETWORKS[family]:
        for number in range(1, MOST_NODES + 1):
            network = parse_network(f"{format_ip(family, base + (number << (family.bits - prefix)))}/{prefix}")
            if network is not None:
                yield network


#: where pod networks for nodes without are taken from, and their prefix length
_POD_NETWORKS = {
    Family.IPV4: (10 << 24 | 180 << 16, 172 << 24 | 20 << 16, 100 << 24 | 64 << 16),
    Family.IPV6: (0xFD0000100180 << 80, 0xFD1000100180 << 80),
}
_POD_PREFIX = {Family.IPV4: 24, Family.IPV6: 64}


def _node_part(node: Node, families: Sequence[Family], plan: _Plan, ledger: Ledger, *, auto: bool) -> Part:
    part = Part({"name": node.metadata.name}, flow=True)
    name = node.metadata.name
    if node.zone:
        part["zone"] = node.zone
    # an ExternalIP is an address of the machine, too, and the node IP of a family without InternalIP (CFG-7.1)
    ips, twice = plan.ips(node)
    if twice:
        ledger.leave_out(f"addresses that another Node has already: {', '.join(twice)}", name)
    if any(kind == "ExternalIP" for kind, _ in node.addresses):
        ledger.guess(
            "ExternalIPs are addresses of the Nodes' own interfaces, as in their rules; clouds often translate them",
            name,
        )
    if ips:
        part["ips"] = ips
    if missing := [family.label for family in families if not any(_family(ip) is family for ip in ips)]:
        ledger.guess(f"addresses of {' and '.join(missing)} for Nodes without", name)
    cidrs, given = plan.networks(node)
    part["podCIDRs"] = [str(cidr) for cidr in cidrs]
    if not given:
        ledger.guess(
            "pod networks for Nodes without podCIDR: pods of the start keep their addresses, later ones get theirs there",
            name,
        )
    if (cpus := _cpus(node.allocatable_cpu)) is not None:
        part["cpu"] = cpus
        if auto and node.allocatable_cpu != str(cpus):
            ledger.guess(
                "CPUs of Nodes in whole numbers, rounded down, by which topology mode Auto shares endpoints out", name
            )
    _note_rest(node, ledger, auto=auto)
    return part


def _note_rest(node: Node, ledger: Ledger, *, auto: bool) -> None:
    name = node.metadata.name
    if not node.ready and (node.json.get("status") or {}).get("conditions"):
        ledger.leave_out("that Nodes are not Ready: nodeDown is the event for it", name)
    if auto and any(key in node.metadata.labels for key in CONTROL_PLANE_LABELS):
        ledger.leave_out("labels of control planes, which topology mode Auto leaves out (CP-3.8.2)", name)
    if any(True for _ in taints_of(node)):
        ledger.guess("tainted and cordoned Nodes get new pods only of workloads that tolerate it (placement)", name)


def _of_families(addresses: Iterable[str], families: Sequence[Family]) -> list[str]:
    found = (canonical_ip(address) for address in addresses)
    return list(dict.fromkeys(ip for ip in found if ip is not None and _family(ip) in families))


def _family(ip: str) -> Family | None:
    parsed = parse_ip(ip)
    return parsed[0] if parsed else None


def _pod_cidrs(node: Node, families: Sequence[Family]) -> list[Network]:
    """Return the first pod network of each family that is of a usual size."""
    found: dict[Family, Network] = {}
    for network in filter(None, map(parse_network, node.pod_cidrs)):
        if network.family in families and network.prefix in _PREFIXES[network.family]:
            found.setdefault(network.family, network)
    return list(found.values())


def _cpus(quantity: str) -> int | None:
    """Return whole CPUs of a quantity such as ``4`` or ``3920m``, rounded down, at least one; None if it is none."""
    number, milli = quantity.removesuffix("m"), quantity.endswith("m")
    if not number.isdecimal():
        return None
    return max(1, int(number) // 1000 if milli else int(number))
