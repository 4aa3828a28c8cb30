"""Makes the nodes of a draft: names, zones, addresses, pod networks and CPUs of the cluster's Nodes."""

from collections.abc import Iterable, Sequence

from kpsim.addresses import Family, Network, canonical_ip, parse_ip, parse_network
from kpsim.cluster import ClusterState
from kpsim.drafting.part import Ledger, Part
from kpsim.drafting.podspecs import taints_of
from kpsim.endpointslices import CONTROL_PLANE_LABELS
from kpsim.manifests.allocation import service_ranges
from kpsim.objects import Node

MOST_NODES = 250  #: of a scenario
_LEAST_BITS = 4  #: of a pod network: it has 16 addresses at least


def cluster_families(state: ClusterState) -> tuple[Family, ...]:
    """Return the cluster's families, its primary one first: those of its Services, then of its pod networks."""
    services = [service.json for service in state.services]
    nodes = [node.json for node in state.nodes]
    return service_ranges(services, nodes, [cidr.json for cidr in state.service_cidrs]).families


def nodes_part(nodes: Sequence[Node], families: Sequence[Family], ledger: Ledger) -> Part:
    """Return the ``nodes`` of a scenario. Addresses and pod networks that a Node lacks are left to the scenario's plan."""
    part = Part()
    if families != (Family.IPV4,):
        part.put("ipFamilies", [family.label for family in families])
    networks: list[Network] = []
    part.put("list", [_node_part(node, families, networks, ledger) for node in nodes])
    return part


def _node_part(node: Node, families: Sequence[Family], networks: list[Network], ledger: Ledger) -> Part:
    part = Part({"name": node.metadata.name}, flow=True)
    name, words = node.metadata.name, []
    if node.zone:
        part["zone"] = node.zone
    internal = _of_families((a for kind, a in node.addresses if kind == "InternalIP"), families)
    external = _of_families((a for kind, a in node.addresses if kind == "ExternalIP"), families)
    ips = list(internal)
    for family in families:
        # kube-proxy takes the first InternalIP of a family, else the first ExternalIP, for the node's own (CFG-7.1)
        if not any(_family(ip) is family for ip in internal):
            ips += [ip for ip in external if _family(ip) is family][:1]
    if left := [ip for ip in external if ip not in ips]:
        ledger.leave_out("ExternalIPs of Nodes: clouds translate them on the way", name)
        words.append(f"ExternalIP {', '.join(left)} left out")
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
    _note_rest(node, ledger)
    if words:
        part.beside["name"] = "; ".join(words)
    return part


def _note_rest(node: Node, ledger: Ledger) -> None:
    name = node.metadata.name
    if not node.ready and (node.json.get("status") or {}).get("conditions"):
        ledger.leave_out("that Nodes are not Ready: nodeDown is the event for it", name)
    if any(key in node.metadata.labels for key in CONTROL_PLANE_LABELS):
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
