"""Makes the workloads that answer at the endpoints of slices that people, or the API server, wrote: on nodes and in pods of the cluster."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kpsim.addresses import canonical_ip
from kpsim.cluster import ClusterState
from kpsim.drafting.part import Ledger, Part
from kpsim.objects import EndpointSlice


@dataclass(frozen=True, slots=True)
class Listeners:
    """The workloads, and by Service (``namespace/name``) whether anybody in the cluster answers at its hand-written endpoints."""

    parts: tuple[Part, ...]
    answered: Mapping[str, bool]


def listeners(
    slices: Sequence[EndpointSlice], taken: Collection[tuple[str, str]], state: ClusterState, names: Collection[str], ledger: Ledger
) -> Listeners:  # fmt: skip
    """Return who answers. ``taken`` are the pods (namespace, name) and ``names`` the workloads that the draft has already."""
    on_nodes = {canonical_ip(ip) or ip: node.metadata.name for node in state.nodes for ip in node.ips}
    of_pods = {
        canonical_ip(ip) or ip: pod
        for pod in state.pods
        if not pod.host_network and pod.node_name and pod.phase not in ("Succeeded", "Failed")
        for ip in pod.ips
    }
    found: dict[str, tuple[dict[str, None], dict[tuple[int, str], None]]] = {}
    answered: dict[str, bool] = {}
    drafted = set(taken)
    parts: list[Part] = []
    used = set(names)
    for item in slices:
        service = f"{item.metadata.namespace}/{item.service_name}"
        nodes, ports = found.setdefault(service, ({}, {}))
        answered.setdefault(service, False)
        for ip in (canonical_ip(ip) or ip for endpoint in item.endpoints for ip in endpoint.addresses):
            if ip in on_nodes:
                nodes[on_nodes[ip]] = None
                ports.update(dict.fromkeys((p.port, p.protocol) for p in item.ports if p.port is not None))
                answered[service] = True
            elif (pod := of_pods.get(ip)) is not None:
                answered[service] = True
                key = (pod.metadata.namespace, pod.metadata.name)
                if key not in drafted:
                    drafted.add(key)
                    given = Part({"name": key[1], "node": pod.node_name, "ips": list(pod.ips)}, flow=True)
                    parts.append(_workload(service, key[0], key[1], used, [given]))
    for service, (nodes, ports) in found.items():
        if nodes:
            namespace, _, name = service.partition("/")
            made = _workload(service, namespace, f"{name}-on-nodes", used, list(_pods(name, nodes)))
            made["hostNetwork"] = True
            made["ports"] = [_port(number, protocol) for number, protocol in ports]
            parts.append(made)
        if not answered[service]:
            ledger.leave_out("traffic to endpoints outside the cluster, where nothing answers in a scenario", service)
    return Listeners(tuple(parts), answered)


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
    part.head = f"who answers at endpoints of {service} that are written by hand"
    part["labels"] = Part({"kpsim.dev/role": name}, flow=True)
    part["replicas"] = len(pods)
    part["pods"] = pods
    return part
