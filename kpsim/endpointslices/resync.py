"""One sync of Services whose slices are given: what the controller makes of them after an edit of a Service, Pod or Node.

Counterpart: the controller at the moment when nothing is left to do. Pods and Nodes that were not given are read from the slices.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from kpsim.cluster import ClusterState
from kpsim.endpointslices.hints import TopologyCache, auto_hints_wanted
from kpsim.endpointslices.packing import copied_labels
from kpsim.endpointslices.reconciler import (
    MAX_ENDPOINTS_PER_SLICE,
    address_types,
    has_managed_slices,
    reconcile,
    slices_of,
)
from kpsim.endpointslices.shown import ShownPods
from kpsim.endpointslices.triggers import selects
from kpsim.objects import (
    CLUSTER_IP_NONE,
    LABEL_HEADLESS,
    LABEL_ZONE,
    EndpointSlice,
    Metadata,
    Node,
    Pod,
    Service,
)


@dataclass(frozen=True, slots=True)
class Resync:
    """What the controller does with the slices of one Service.

    ``given`` are its slices before, ``written`` after. ``missing`` says in words what is not known; if it is not empty, nothing is written.
    ``events`` are the messages that the controller records on the Service.
    """

    service: Service
    given: tuple[EndpointSlice, ...]
    written: tuple[EndpointSlice, ...]
    missing: str = ""
    events: tuple[str, ...] = ()


def resync(state: ClusterState, before: ClusterState | None = None) -> Iterator[Resync]:
    """Yield what the controller does with the Services of ``state``, sorted by name.

    ``before`` is the state that the slices were written in: only Services whose Pods, Nodes or fields differ from it are synced. Without it
    all are that have slices, and the slices are taken for those of ``state``.
    """
    now = _View(state)
    then = now if before is None else _View(before)
    for service in state.services:
        if not has_managed_slices(service):
            continue
        if then is now:
            if now.slices(service):
                yield _sync(service, now, now)
        elif _inputs(service, now, then) != _inputs(then.service(service), then, then):
            yield _sync(service, now, then)


class _View:
    """A state as the controller looks at it, indexed."""

    def __init__(self, state: ClusterState) -> None:
        self.state = state

    def service(self, of: Service) -> Service | None:
        """Return this state's version of a Service."""
        found = self.state.get(of.key)
        return found if isinstance(found, Service) else None

    @cached_property
    def nodes(self) -> dict[str, Node]:
        return {node.metadata.name: node for node in self.state.nodes}

    @cached_property
    def topology(self) -> TopologyCache:
        return TopologyCache().with_nodes(self.nodes.values())

    @cached_property
    def _slices(self) -> dict[tuple[str, str], list[EndpointSlice]]:
        found: dict[tuple[str, str], list[EndpointSlice]] = {}
        for item in self.state.endpoint_slices:
            found.setdefault((item.metadata.namespace, item.service_name), []).append(item)
        return found

    def slices(self, service: Service) -> list[EndpointSlice]:
        """Return the slices of the Service that the controller manages."""
        return slices_of(service, self._slices.get((service.metadata.namespace, service.metadata.name), ()))

    @cached_property
    def _by_label(self) -> dict[tuple[str, str, str], list[Pod]]:
        found: dict[tuple[str, str, str], list[Pod]] = {}
        for pod in self.state.pods:
            for pair in pod.metadata.labels.items():
                found.setdefault((pod.metadata.namespace, *pair), []).append(pod)
        return found

    @cached_property
    def namespaces_with_pods(self) -> frozenset[str]:
        return frozenset(pod.metadata.namespace for pod in self.state.pods)

    def selected(self, service: Service) -> list[Pod]:
        """Return the given Pods that the Service selects."""
        candidates = (self._by_label.get((service.metadata.namespace, *pair), []) for pair in service.selector.items())
        return [pod for pod in min(candidates, key=len) if selects(service, pod.metadata.labels)]

    @cached_property
    def _shown(self) -> dict[str, ShownPods]:
        return {}

    def shown(self, namespace: str) -> ShownPods:
        """Return the Pods of a namespace as the slices show them."""
        if namespace not in self._shown:
            services = (service for service in self.state.services if service.metadata.namespace == namespace)
            own = ((service, self.slices(service)) for service in services if has_managed_slices(service))
            self._shown[namespace] = ShownPods((service, found) for service, found in own if found)
        return self._shown[namespace]


def _inputs(service: Service | None, view: _View, then: _View) -> object:
    """Return all that the controller reads of a view when it syncs a Service, to be compared. Its slices are those of ``then``."""
    if service is None or not has_managed_slices(service):
        return None
    pods = view.selected(service)
    names = {pod.node_name for pod in pods} | {e.node_name for item in then.slices(service) for e in item.endpoints}
    nodes: object = {name: (view.nodes[name].zone, view.nodes[name].ready) for name in names if name in view.nodes}
    if auto_hints_wanted(service):
        nodes = nodes, view.topology.cpu_ratios
    ports = [(port.name, port.protocol, port.target_port, port.app_protocol) for port in service.ports]
    return (
        service.selector,
        ports,
        address_types(service),
        service.publish_not_ready_addresses,
        service.traffic_distribution,
        auto_hints_wanted(service),
        _is_headless(service),
        copied_labels(service.metadata.labels),
        [pod.json for pod in pods],
        nodes,
    )


def _is_headless(service: Service) -> bool:
    return service.cluster_ip in ("", CLUSTER_IP_NONE)


def _sync(service: Service, now: _View, then: _View) -> Resync:
    given = tuple(now.slices(service))
    pods, missing = now.selected(service), ""
    if service.metadata.namespace not in now.namespaces_with_pods | then.namespaces_with_pods:
        pods, missing = then.shown(service.metadata.namespace).selected_by(service)
    lost = {name for name, node in then.nodes.items() if node.ready and name in now.nodes and not now.nodes[name].ready}
    # the node lifecycle controller makes the Pods of a lost Node not ready (CP-2.9)
    pods = [replace(pod, ready=False) if pod.node_name in lost else pod for pod in pods]
    if auto_hints_wanted(service) and not now.nodes:
        missing = missing or "which zones and CPUs the Nodes have"
    if missing:
        return Resync(service, given, given, missing)
    # A Service cannot become headless, or cease to be: it was made anew, and its old slices went with it.
    kept = [item for item in given if (LABEL_HEADLESS in item.metadata.labels) == _is_headless(service)]
    result = reconcile(
        service,
        pods,
        _nodes_of(pods, now, then, given),
        [item if item.owner_uids else replace(item, owner_uids=(service.metadata.uid,)) for item in kept],
        trigger_time_ns=None,
        max_endpoints_per_slice=max(MAX_ENDPOINTS_PER_SLICE, *(len(item.endpoints) for item in given)),
        topology=now.topology,
    )
    return Resync(service, given, result.apply(kept), events=tuple(event.message for event in result.events))


def _nodes_of(pods: Iterable[Pod], now: _View, then: _View, given: Sequence[EndpointSlice]) -> Mapping[str, Node]:
    """Return the Nodes by name. One that was never given exists, in the zone that the slices tell."""
    zones = {endpoint.node_name: endpoint.zone for item in given for endpoint in item.endpoints}
    nodes = dict(now.nodes)
    for name in (pod.node_name for pod in pods):
        if name and name not in then.nodes and (name in zones or not then.nodes):
            zone = zones.get(name)
            nodes.setdefault(name, Node(Metadata("", name, {LABEL_ZONE: zone} if zone else {}), {}))
    return nodes
