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
from kpsim.sysctls import Sysctls, complaint


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
