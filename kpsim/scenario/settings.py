"""Kernel settings of a scenario's nodes: whether they are possible, and what kube-proxy's start changes in them.

Counterpart: sysctl.d of the machines, and kube-proxy's start after it (CFG-4, CFG-6, I-1).
"""

from collections.abc import Iterator

from kpsim.addresses import Family
from kpsim.config import Host, ProxyConfig, resolve
from kpsim.manifests.places import Finding, Path
from kpsim.nodes import overwritten, pod_interface_of, sysctls_of
from kpsim.scenario.document import Document
from kpsim.scenario.node_schema import Nodes
from kpsim.scenario.nodes import ClusterNode, cluster_nodes
from kpsim.scenario.schema import ScenarioSpec
from kpsim.sysctls import Sysctls, complaint

MOST_FILLED = 2_000_000  #: connections of others in all tables: each takes a kilobyte


def kernel_settings(node: ClusterNode, proxy: ProxyConfig) -> Sysctls:
    """Return the settings of a node whose kube-proxy has started. InputError for a setting that cannot be written."""
    before = Sysctls().written(node.sysctls)
    found = resolve(proxy, Host(node.ips), None, Family.IPV4)
    return sysctls_of(
        proxy,
        route_localnet=found.localhost_node_ports,
        liberal=found.liberal,
        ipvs=found.uses_ipvs,
        cores=node.cpu,
        before=before,
    )


def check_settings(nodes: Nodes, proxy: ProxyConfig | None, document: Document) -> list[Finding]:
    """Return what is wrong with the nodes' kernel settings.

    What kube-proxy overwrites is checked only if its configuration has no errors (``proxy`` is not None).
    """
    found = dict(_refused(nodes))
    bridge = "" if proxy is None else pod_interface_of(proxy)
    for number, named in enumerate(nodes.named or ()):
        if bridge in [each.name for each in named.interfaces]:
            found["nodes", "list", number, "interfaces"] = f"{bridge} is the interface of the node's pods"
    if not found and proxy is not None:
        for number, node in enumerate(cluster_nodes(nodes)):
            for name, words in overwritten(node.sysctls, kernel_settings(node, proxy)):
                found.setdefault(_place(nodes, number, name), words)
    return [document.finding(message, path) for path, message in found.items()]


def filled(spec: ScenarioSpec, proxy: ProxyConfig) -> dict[int, int]:
    """Return how many connections of others each ``fillConntrack`` event puts into tables at most, by its position."""
    limits = {node.name: kernel_settings(node, proxy).nf_conntrack_max for node in cluster_nodes(spec.nodes)}
    found = {}
    for number, event in enumerate(spec.events):
        if (fill := event.fill_conntrack) is not None:
            rooms = [limits.get(name, 0) for name in fill.nodes or limits]
            found[number] = sum(
                room if fill.entries is None else min(fill.entries, room or fill.entries) for room in rooms
            )
    return found


def check_fills(spec: ScenarioSpec, proxy: ProxyConfig, document: Document) -> list[Finding]:
    """Return the event with which tables would hold more connections of others than a run keeps."""
    total = 0
    for number, entries in filled(spec, proxy).items():
        total += entries
        if total > MOST_FILLED:
            words = (
                f"{total:,} connections of others in all, and a run keeps at most {MOST_FILLED:,}: name fewer nodes, or give"
                " them smaller tables (proxy.conntrack)"
            )
            return [document.finding(words, ("events", number, "fillConntrack"))]
    return []


def _refused(nodes: Nodes) -> Iterator[tuple[Path, str]]:
    places: list[tuple[Path, dict[str, int]]] = [(("nodes", "sysctls"), nodes.sysctls)]
    places += [(("nodes", "list", number, "sysctls"), node.sysctls) for number, node in enumerate(nodes.named or ())]
    for path, values in places:
        for name, value in values.items():
            if words := complaint(name, value):
                yield (*path, name), words


def _place(nodes: Nodes, number: int, name: str) -> Path:
    """Return the path of a node's setting in the file."""
    if nodes.named is not None and name in nodes.named[number].sysctls:
        return "nodes", "list", number, "sysctls", name
    return "nodes", "sysctls", name
