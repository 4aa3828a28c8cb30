"""Nodes that are assumed because nobody gave them, and what a bundle without Nodes or endpoints is told.

Most bundles in public hold Services and Deployments only: a cluster adds Nodes, Pods and EndpointSlices. What is assumed
here is said in notes, never silently.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from kpsim.addresses import Family, Network, format_ip, parse_ip, parse_network
from kpsim.cluster import ClusterState
from kpsim.errors import InputError, Problem
from kpsim.manifests.validation import SUBDOMAIN_WORDS, is_dns_subdomain
from kpsim.objects import EndpointSlice, Node, Pod, Service, node_from_json

#: networks for the addresses of assumed nodes and, with a number in it, for their pods; the first free one is taken
_NODE_NETWORKS = {
    Family.IPV4: ("192.168.0.0/24", "172.31.0.0/24", "10.250.0.0/24"),
    Family.IPV6: ("fd00:192:168::/64", "fd00:172:31::/64"),
}
_POD_PREFIX = {Family.IPV4: 24, Family.IPV6: 64}
_POD_RANGES = {Family.IPV4: "10.180.0.0/16", Family.IPV6: "fd00:10:180::/48"}

GET_NODES = "kubectl get nodes -o yaml"
GET_ENDPOINTS = "kubectl get endpointslices,pods -A -o yaml"


def node_example(name: str) -> str:
    """Return the five lines of a Node, as text to add to a file."""
    return (
        f"apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDR: 10.244.1.0/24}}\n"
        "status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}"
    )


def without_nodes(name: str) -> list[Problem]:
    """Return what to do about a cluster without nodes, in which somebody asks for the node ``name``, or for none by name.

    The lines of an example follow as problems of their own, because a problem is one line.
    """
    asked, name = f"no node {name!r}: " if name else "", name or "node-1"
    advice = (
        f"{asked}the cluster has no nodes. Add them ({GET_NODES}), let one be assumed (--assume-node {name}), or add these five "
        "lines with your own addresses:"
    )
    return [Problem(advice), *(Problem(f"  {line}") for line in node_example(name).splitlines())]


@dataclass(frozen=True, slots=True)
class Assumed:
    """Nodes that were made, and in words what was assumed of them."""

    nodes: tuple[Node, ...]
    notes: tuple[str, ...]


def assume_nodes(name: str, state: ClusterState, cluster_cidr: str) -> Assumed:
    """Make the Node ``name``; if there are no Nodes at all, also those that Pods and EndpointSlices name.

    An empty ``name`` stands for the first node that they name, or for node-1. InputError for a name that no Node has.
    """
    present = {node.metadata.name for node in state.nodes}
    named = set() if present else _names(state)
    name = name or min(named, default="node-1")
    if not is_dns_subdomain(name):
        raise InputError(f"--assume-node {name}: a node's name is made of {SUBDOMAIN_WORDS}")
    if name in present:
        return Assumed((), (f"nothing is assumed: there is a Node {name}",))
    made, notes = [], []
    plan = _Plan(state, cluster_cidr)
    for number, each in enumerate(sorted({name, *named}), 1):
        node, words = plan.node(each, number)
        made.append(node)
        notes.append(f"assumed the Node {each}: {words}")
    return Assumed(tuple(made), tuple(notes))


def _names(state: ClusterState) -> set[str]:
    names = {pod.node_name for pod in state.pods if pod.node_name}
    return names | {e.node_name for s in state.endpoint_slices for e in s.endpoints if e.node_name}


class _Plan:
    """Addresses for assumed nodes beside all addresses that the cluster has."""

    def __init__(self, state: ClusterState, cluster_cidr: str) -> None:
        self._pods: dict[str, set[tuple[Family, int]]] = {}
        taken: set[tuple[Family, int]] = set()
        for pod in state.pods:
            ips = _parsed(pod.ips)
            taken |= ips
            if not pod.host_network:
                self._pods.setdefault(pod.node_name, set()).update(ips)
        for item in state.endpoint_slices:
            for endpoint in item.endpoints:
                ips = _parsed(endpoint.addresses)
                taken |= ips
                self._pods.setdefault(endpoint.node_name or "", set()).update(ips)
        for service in state.services:
            taken |= _parsed((*service.cluster_ips, *service.external_ips, *(i.ip for i in service.ingress)))
        for node in state.nodes:
            taken |= _parsed(node.ips)
        self._taken = taken
        shown = {family for family, _ in taken}
        self._families = tuple(family for family in Family if family in shown) or (Family.IPV4,)
        given = [found for found in map(parse_network, map(str.strip, cluster_cidr.split(","))) if found is not None]
        self._ranges = {network.family: network for network in given}
        self._networks: list[Network] = [
            network for node in state.nodes for network in map(parse_network, node.pod_cidrs) if network is not None
        ]

    def node(self, name: str, number: int) -> tuple[Node, str]:
        addresses = [self._address(family, number) for family in self._families]
        cidrs = [
            str(network) for network in (self._network(name, family, number) for family in self._families) if network
        ]
        spec = {"podCIDR": cidrs[0], "podCIDRs": cidrs} if cidrs else {}
        node = node_from_json(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name},
                "spec": spec,
                "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
            }
        )
        return node, f"address {' and '.join(addresses)}, pod network {' and '.join(cidrs) or 'none'}, no zone"

    def _address(self, family: Family, number: int) -> str:
        """Return the address of the assumed node with this number, in a network where the cluster has none if there is one."""
        networks = [network for text in _NODE_NETWORKS[family] if (network := parse_network(text)) is not None]
        empty = (n for n in networks if not any(of is family and value in n for of, value in self._taken))
        network = next(empty, networks[-1])
        free = (n for n in range(1, 250) if (family, network.base + n) not in self._taken)
        return format_ip(family, network.base + next(islice(free, number - 1, None), number))

    def _network(self, name: str, family: Family, number: int) -> Network | None:
        """Return the network around the node's pods, if it holds all of them and no other pods; else a free one if it has none."""
        prefix = _POD_PREFIX[family]
        own = {value for of, value in self._pods.get(name, ()) if of is family}
        others = {value for node, pods in self._pods.items() if node != name for of, value in pods if of is family}
        if own:
            around = parse_network(f"{format_ip(family, min(own))}/{prefix}")
            assert around is not None
            alone = all(value in around for value in own) and not any(value in around for value in others)
            return around if alone and self._is_free(around) else None
        whole = self._ranges.get(family) or parse_network(_POD_RANGES[family])
        assert whole is not None
        if whole.prefix >= prefix:
            return None
        step, count = 1 << (family.bits - prefix), min(1 << (prefix - whole.prefix), 256)
        candidates = (Network(family, whole.base + n * step, prefix) for n in (*range(number, count), *range(number)))
        found = next((n for n in candidates if self._is_free(n) and not any(value in n for value in others)), None)
        if found is not None:
            self._networks.append(found)
        return found

    def _is_free(self, network: Network) -> bool:
        same = (other for other in self._networks if other.family is network.family)
        return not any(network.base in other or other.base in network for other in same)


def _parsed(texts: Iterable[str]) -> set[tuple[Family, int]]:
    return {parsed for parsed in map(parse_ip, texts) if parsed is not None}


# ----------------------------------------------------------------------------------------------------- what is missing

_LISTED = 10


def missing_notes(objects: Sequence[object]) -> list[str]:
    """Say which Services have no endpoints because nobody gave them, and that nodes are known by name only."""
    notes = []
    pods = [obj for obj in objects if isinstance(obj, Pod)]
    slices = [obj for obj in objects if isinstance(obj, EndpointSlice)]
    sliced = {(item.metadata.namespace, item.service_name) for item in slices}
    filled = {(item.metadata.namespace, item.service_name) for item in slices if item.endpoints}
    services = [obj for obj in objects if isinstance(obj, Service) and obj.type != "ExternalName"]
    bare = [s for s in services if (s.metadata.namespace, s.metadata.name) not in sliced]
    if bare:
        what = "neither a Pod nor an EndpointSlice" if not pods else "no EndpointSlice"
        notes.append(
            f"Services without endpoints, as {what} of theirs was given ({GET_ENDPOINTS} gives them): {_listed(bare)}"
        )
    keys = {(pod.metadata.namespace, name, value) for pod in pods for name, value in pod.metadata.labels.items()}
    unmatched = [
        service
        for service in services
        if pods
        and service.selector
        and (service.metadata.namespace, service.metadata.name) in sliced - filled
        and not all((service.metadata.namespace, *pair) in keys for pair in service.selector.items())
    ]
    if unmatched:
        notes.append(f"Services whose selector no Pod that was given has: {_listed(unmatched)}")
    if not any(isinstance(obj, Node) for obj in objects):
        names = sorted({e.node_name for item in slices for e in item.endpoints if e.node_name})
        if names:
            shown = ", ".join(names[:_LISTED]) + (" and more" if len(names) > _LISTED else "")
            notes.append(
                f"there are no Nodes, so of {shown} only the name is known: no address, pod network or zone ({GET_NODES} gives "
                "them, --assume-node assumes them)"
            )
    return notes


def _listed(services: Sequence[Service]) -> str:
    names = [f"{service.metadata.namespace}/{service.metadata.name}" for service in services]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
