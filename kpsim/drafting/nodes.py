"""Makes the nodes of a draft: names, zones, addresses, pod networks and CPUs of the cluster's Nodes."""

from collections.abc import Iterable, Sequence

from kpsim.addresses import Family, Network, canonical_ip, parse_ip, parse_network
from kpsim.cluster import ClusterState
from kpsim.drafting.part import Ledger, Part
from kpsim.drafting.podspecs import taints_of
from kpsim.endpointslices import CONTROL_PLANE_LABELS
from kpsim.endpointslices.hints import auto_hints_wanted
from kpsim.manifests.allocation import service_ranges
from kpsim.objects import Node

MOST_NODES = 250  #: of a scenario
_LEAST_BITS = 4  #: of a pod network: it has 16 addresses at least


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
    networks: list[Network] = []
    part.put("list", [_node_part(node, families, networks, ledger, auto=auto) for node in state.nodes])
    return part


def _node_part(node: Node, families: Sequence[Family], networks: list[Network], ledger: Ledger, *, auto: bool) -> Part:
    part = Part({"name": node.metadata.name}, flow=True)
    name = node.metadata.name
    if node.zone:
        part["zone"] = node.zone
    # an ExternalIP is an address of the machine, too, and the node IP of a family without InternalIP (CFG-7.1)
    ips = _of_families(node.ips, families)
    if any(kind == "ExternalIP" for kind, _ in node.addresses):
        ledger.guess(
            "ExternalIPs are addresses of the Nodes' own interfaces, as in their rules; clouds often translate them",
            name,
        )
    if ips:
        part["ips"] = ips
    if missing := [family.label for family in families if not any(_family(ip) is family for ip in ips)]:
        ledger.guess(f"addresses of {' and '.join(missing)} for Nodes without", name)
    cidrs = [cidr for cidr in _pod_cidrs(node, families) if _takes(cidr, networks)]
    if cidrs:
        part["podCIDRs"] = [str(cidr) for cidr in cidrs]
    if len(cidrs) < len(families):
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
    """Return the first pod network of each family that is large enough."""
    found: dict[Family, Network] = {}
    for network in filter(None, map(parse_network, node.pod_cidrs)):
        if network.family in families and network.family.bits - network.prefix >= _LEAST_BITS:
            found.setdefault(network.family, network)
    return list(found.values())


def _takes(network: Network, taken: list[Network]) -> bool:
    """Note a network, unless it overlaps one of another node."""
    if any(o.family is network.family and (o.base in network or network.base in o) for o in taken):
        return False
    taken.append(network)
    return True


def _cpus(quantity: str) -> int | None:
    """Return whole CPUs of a quantity such as ``4`` or ``3920m``, rounded down, at least one; None if it is none."""
    number, milli = quantity.removesuffix("m"), quantity.endswith("m")
    if not number.isdecimal():
        return None
    return max(1, int(number) // 1000 if milli else int(number))
