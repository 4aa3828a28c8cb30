"""Which endpoints the Services had in the course of a run, and whether a pod is an endpoint of a Service.

It only observes: watchers of the API server.
"""

from dataclasses import replace

from kpsim.addresses import format_ip, join_host_port
from kpsim.endpointslices import selects
from kpsim.exchange import Target
from kpsim.kubeproxy.trackers import ServiceKey
from kpsim.objects import ApiObject, EndpointSlice, ObjectKey, Pod, Service, SliceEndpoint
from kpsim.simulation.answering import Listener
from kpsim.simulation.apiserver import ApiServer, Change
from kpsim.simulation.elsewhere import Elsewhere
from kpsim.simulation.rulestimes import RulesTimes
from kpsim.simulation.runlog import EndpointSpell, PodWrite, RunLog

_Listed = tuple[str, str, str, str]  # service port, endpoint, node, pod


class EndpointWatch:
    """Keeps the log's list of endpoints. An endpoint that two slices list is one endpoint."""

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._slices: dict[ObjectKey, frozenset[_Listed]] = {}
        self._holders: dict[_Listed, int] = {}  #: in how many slices an endpoint stands
        self._open: dict[_Listed, int] = {}  #: the place of its record in the log

    def on_change(self, change: Change) -> None:
        """Take in one write."""
        if not isinstance(change.event.object, EndpointSlice):
            return
        new = change.event.new
        after = frozenset(_ready(new)) if isinstance(new, EndpointSlice) else frozenset()
        before = self._slices.pop(change.key, frozenset())
        if after:
            self._slices[change.key] = after
        for listed in sorted(after - before):
            self._holders[listed] = self._holders.get(listed, 0) + 1
            if listed not in self._open:
                self._open[listed] = len(self._log.endpoints)
                service, address, node, pod = listed
                self._log.endpoints.append(
                    EndpointSpell(service, address, node, change.written_ns, pod=pod, listed=change.cause)
                )
        for listed in sorted(before - after):
            self._holders[listed] -= 1
            if not self._holders[listed]:
                del self._holders[listed]
                place = self._open.pop(listed)
                self._log.endpoints[place] = replace(
                    self._log.endpoints[place],
                    until_ns=change.written_ns,
                    unlisted=change.cause,
                )


class PodWatch:
    """Keeps the log's list of what the API server was told of pods."""

    def __init__(self, log: RunLog) -> None:
        self._log = log

    def on_change(self, change: Change) -> None:
        """Take in one write. It is logged if it says something new."""
        pod = change.event.object
        if isinstance(pod, Pod):
            old, new = (_told(obj) for obj in (change.event.old, change.event.new))
            if old != new:
                name = f"{change.key.namespace}/{change.key.name}"
                self._log.pod_writes.append(PodWrite(str(change), name, pod.node_name, new, change.cause))


def _told(obj: ApiObject | None) -> str:
    if not isinstance(obj, Pod):
        return "gone"
    if obj.phase in ("Failed", "Succeeded"):
        return "ended"
    if obj.terminating:
        return "terminating"
    return "ready" if obj.ready else "not ready"


def _ready(item: EndpointSlice) -> list[_Listed]:
    service = f"{item.metadata.namespace}/{item.service_name}"
    return [
        (
            f"{service}:{port.name}" if port.name else service,
            join_host_port(address, port.port),
            endpoint.node_name or "",
            _pod_name(item, endpoint),
        )
        for endpoint in item.endpoints
        if endpoint.ready is not False
        for address in endpoint.addresses[:1]
        for port in item.ports
        if port.port is not None
    ]


def _pod_name(item: EndpointSlice, endpoint: SliceEndpoint) -> str:
    target = endpoint.target_ref
    named = target is not None and target.kind == "Pod"
    return f"{target.namespace or item.metadata.namespace}/{target.name}" if target is not None and named else ""


def serving_nodes(api: ApiServer, service: ServiceKey) -> frozenset[str]:
    """Return the nodes with an endpoint of a Service that is ready or serves while it terminates."""
    slices = (item for item in api.state.endpoint_slices if item.metadata.namespace == service.namespace)
    return frozenset(
        endpoint.node_name or ""
        for item in slices
        if item.service_name == service.name
        for endpoint in item.endpoints
        if endpoint.ready is not False or endpoint.serving
    )


class Members:
    """Says whether a pod is an endpoint of a Service.

    A Service with selector has the pods that it selects, one without has whatever is at the addresses of its slices. A
    pod that was an endpoint and is none any more still counts as one for a node whose rules have not heard of it.
    """

    def __init__(self, api: ApiServer, service: ObjectKey, times: RulesTimes) -> None:
        self._key = service
        self._times = times
        self._current: Service | None = None
        self._former: list[Service] = []
        self._slices: dict[ObjectKey, EndpointSlice] = {}
        api.watch(self._on_change)

    def _on_change(self, change: Change) -> None:
        old, new = change.event.old, change.event.new
        if change.key == self._key:
            if isinstance(old, Service):
                self._former.append(old)
            self._current = new if isinstance(new, Service) else None
        elif isinstance(change.event.object, EndpointSlice) and change.key.namespace == self._key.namespace:
            self._slices.pop(change.key, None)
            if isinstance(new, EndpointSlice) and new.service_name == self._key.name:
                self._slices[change.key] = new

    @property
    def service_exists(self) -> bool:
        return self._current is not None

    def serves(self, port: str, protocol: str, listener: Listener, target: Target, node: str) -> bool:
        """Return whether who answers at a target is an endpoint of a service port, as ``node`` may know."""
        if self._current is not None and self._is_of(self._current, listener, target):
            return True
        if not any(self._is_of(version, listener, target) for version in self._former):
            return False
        rules = self._times.now(node, target.family.label, port, protocol)
        return str(target) in rules.cluster | rules.local

    def _is_of(self, service: Service, listener: Listener, target: Target) -> bool:
        if service.selector:
            if isinstance(listener, Elsewhere):
                return False
            return listener.workload.namespace == self._key.namespace and selects(service, listener.labels)
        address = format_ip(target.family, target.address)
        return any(address in endpoint.addresses for item in self._slices.values() for endpoint in item.endpoints)
