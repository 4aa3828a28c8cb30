"""Makes the workloads that answer at the endpoints of slices that people, or the API server, wrote: on nodes and in pods of the cluster.

Endpoints outside the cluster need none: a run takes them to answer.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kpsim.addresses import canonical_ip
from kpsim.cluster import ClusterState
from kpsim.drafting.part import Part
from kpsim.drafting.pods import FoundPod
from kpsim.objects import EndpointSlice, SliceEndpoint

BY_HAND = "who answers at endpoints of "  #: how the comments on these workloads begin


@dataclass(frozen=True, slots=True)
class Listeners:
    """The workloads, and by Service (``namespace/name``) whether it has hand-written endpoints, of which a run then takes somebody to answer."""

    parts: tuple[Part, ...]
    answered: Mapping[str, bool]


def listeners(
    slices: Sequence[EndpointSlice], pods: Iterable[FoundPod], state: ClusterState, names: Collection[str]
) -> Listeners:  # fmt: skip
    """Return who answers. ``pods`` and ``names`` of workloads are those that the draft has already."""
    finder = _Finder(state, pods, {*names})
    answered: dict[str, bool] = {}
    for item in slices:
        service = f"{item.metadata.namespace}/{item.service_name}"
        for endpoint in item.endpoints:
            finder.find(service, item, endpoint)
        answered[service] = bool(item.endpoints) or answered.get(service, False)
    return Listeners((*finder.parts, *finder.on_nodes()), answered)


class _Finder:
    """Finds who answers at an endpoint: a process of a node, a Pod that was given, or a pod on the node that the endpoint names."""

    def __init__(self, state: ClusterState, drafted: Iterable[FoundPod], names: set[str]) -> None:
        self.parts: list[Part] = []
        self._drafted = {ip for pod in drafted for ip in pod.ips}
        self._names = names
        self._node_names = {node.metadata.name for node in state.nodes}
        self._nodes = {canonical_ip(ip) or ip: node.metadata.name for node in state.nodes for ip in node.ips}
        self._pods = {
            canonical_ip(ip) or ip: pod
            for pod in state.pods
            if not pod.host_network and pod.node_name in self._node_names and pod.phase not in ("Succeeded", "Failed")
            for ip in pod.ips
        }
        self._processes: dict[
            str, tuple[dict[str, None], dict[tuple[int, str], None]]
        ] = {}  #: by Service: nodes, ports

    def find(self, service: str, item: EndpointSlice, endpoint: SliceEndpoint) -> None:
        """Note which process or pod answers at an endpoint; none if it lies outside the cluster."""
        ips = [canonical_ip(ip) or ip for ip in endpoint.addresses]
        if (node := next((self._nodes[ip] for ip in ips if ip in self._nodes), None)) is not None:
            nodes, ports = self._processes.setdefault(service, ({}, {}))
            nodes[node] = None
            ports.update(dict.fromkeys((p.port, p.protocol) for p in item.ports if p.port is not None))
            return
        pod = next((self._pods[ip] for ip in ips if ip in self._pods), None)
        if pod is not None:
            own = [canonical_ip(ip) or ip for ip in pod.ips]
            self._add(service, (pod.metadata.namespace, pod.metadata.name), pod.node_name, own)
        elif endpoint.node_name in self._node_names and ips:
            namespace, _, name = service.partition("/")
            self._add(
                service, (namespace, f"{name}-{ips[0].replace(':', '-').strip('-')}"), endpoint.node_name or "", ips[:1]
            )

    def _add(self, service: str, key: tuple[str, str], node: str, ips: Sequence[str]) -> None:
        if self._drafted.isdisjoint(ips):
            self._drafted.update(ips)
            pod = Part({"name": key[1], "node": node, "ips": list(ips)}, flow=True)
            self.parts.append(_workload(service, key[0], key[1], self._names, [pod]))

    def on_nodes(self) -> Iterator[Part]:
        """Yield the workloads of processes on nodes, one for each Service."""
        for service, (nodes, ports) in self._processes.items():
            namespace, _, name = service.partition("/")
            made = _workload(service, namespace, f"{name}-on-nodes", self._names, list(_pods(name, nodes)))
            made["hostNetwork"] = True
            made["ports"] = [_port(number, protocol) for number, protocol in ports]
            yield made


def _pods(name: str, nodes: Mapping[str, None]) -> Iterator[Part]:
    for number, node in enumerate(nodes, 1):
        yield Part({"name": f"{name}-on-nodes-{number}", "node": node}, flow=True)


def _port(number: int, protocol: str) -> Part:
    return Part({"containerPort": number, **({"protocol": protocol} if protocol != "TCP" else {})}, flow=True)


def _workload(service: str, namespace: str, name: str, used: set[str], pods: list[Part]) -> Part:
    if name in used:
        name = f"{namespace}-{name}"
    used.add(name)
    part = Part({"name": name, "namespace": namespace})
    part.head = f"{BY_HAND}{service} that are written by hand"
    part["labels"] = Part({"kpsim.dev/role": name}, flow=True)
    part["replicas"] = len(pods)
    part["pods"] = pods
    return part
