"""A controller's view of the cluster, indexed for the questions that controllers of endpoints ask (CP-3, CP-4).

Counterpart: the controller's shared informers with their indexers. A question costs time for what it finds, not for all
objects. The answers are those of a scan over all objects, in the same order.
"""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from kpsim.cluster import ClusterState, Event
from kpsim.endpointslices import selects
from kpsim.objects import ApiObject, Endpoints, EndpointSlice, Node, ObjectKey, Pod, Service

_Label = tuple[str, str, str]  # namespace, key, value
_Entry = TypeVar("_Entry")
_Object = TypeVar("_Object")


class Informers:
    """Services, Pods, Nodes and EndpointSlices as of the events seen so far."""

    def __init__(self, state: ClusterState) -> None:
        self._objects: dict[ObjectKey, ApiObject] = {}
        self._pods: dict[_Label, dict[ObjectKey, Pod]] = {}
        self._services: dict[_Label, dict[ObjectKey, Service]] = {}  #: by the first label of their selector
        self._slices: dict[
            tuple[str, str], dict[ObjectKey, EndpointSlice]
        ] = {}  #: by namespace and name of the Service
        self._nodes: dict[str, Node] = {}
        self._nodes_in_order: dict[str, Node] | None = None
        for obj in state.in_order():
            self._add(obj)

    def apply(self, event: Event) -> None:
        """Take in one watch event."""
        known = self._objects.pop(event.key, None)
        if known is not None:
            self._drop(known)
        if event.new is not None:
            self._add(event.new)

    def _add(self, obj: ApiObject) -> None:
        self._objects[obj.key] = obj
        match obj:
            case Pod():
                for label in _labels(obj):
                    self._pods.setdefault(label, {})[obj.key] = obj
            case Service():
                if obj.selector:
                    self._services.setdefault(_selecting(obj), {})[obj.key] = obj
            case EndpointSlice():
                self._slices.setdefault(_owner(obj), {})[obj.key] = obj
            case Node():
                self._nodes[obj.metadata.name] = obj
                self._nodes_in_order = None
            case _:
                pass  # the controller reads no other kind

    def _drop(self, obj: ApiObject) -> None:
        match obj:
            case Pod():
                for label in _labels(obj):
                    _forget(self._pods, label, obj.key)
            case Service():
                if obj.selector:
                    _forget(self._services, _selecting(obj), obj.key)
            case EndpointSlice():
                _forget(self._slices, _owner(obj), obj.key)
            case Node():
                del self._nodes[obj.metadata.name]
                self._nodes_in_order = None
            case _:
                pass

    def service(self, key: ObjectKey) -> Service | None:
        """Return the Service of this key, or None if it is gone."""
        found = self._objects.get(key)
        return found if isinstance(found, Service) else None

    def endpoints(self, key: ObjectKey) -> Endpoints | None:
        """Return the Endpoints object of this key, or None if there is none."""
        found = self._objects.get(key)
        return found if isinstance(found, Endpoints) else None

    @property
    def service_keys(self) -> list[ObjectKey]:
        """All Services, sorted by name."""
        return sorted(key for key in self._objects if key.kind == "Service")

    def services_selecting(self, *pods: Pod | None) -> Iterator[Service]:
        """Yield every Service that selects at least one of these versions of a pod, each once, sorted by name."""
        found = {
            key: service
            for pod in pods
            if pod is not None
            for label in _labels(pod)
            for key, service in self._services.get(label, {}).items()
            if selects(service, pod.metadata.labels)
        }
        return (found[key] for key in sorted(found))

    def pods_of(self, service: Service) -> list[Pod]:
        """Return the pods that the Service selects, sorted by name. There are none if it has no selector."""
        if not service.selector:
            return []
        candidates = self._pods.get(_selecting(service), {})
        return [candidates[key] for key in sorted(candidates) if selects(service, candidates[key].metadata.labels)]

    def slices_of(self, service: ObjectKey) -> list[EndpointSlice]:
        """Return the slices whose label names the Service, sorted by name, including those of other managers."""
        found = self._slices.get((service.namespace, service.name), {})
        return [found[key] for key in sorted(found)]

    @property
    def nodes(self) -> Mapping[str, Node]:
        """All nodes by name, sorted by name."""
        if self._nodes_in_order is None:
            self._nodes_in_order = {name: self._nodes[name] for name in sorted(self._nodes)}
        return self._nodes_in_order


def _labels(pod: Pod) -> Iterator[_Label]:
    return ((pod.metadata.namespace, key, value) for key, value in pod.metadata.labels.items())


def _selecting(service: Service) -> _Label:
    """Return one label that every pod selected by the Service has. The Service must have a selector."""
    key, value = min(service.selector.items())
    return service.metadata.namespace, key, value


def _owner(item: EndpointSlice) -> tuple[str, str]:
    return item.metadata.namespace, item.service_name


def _forget(index: dict[_Entry, dict[ObjectKey, _Object]], entry: _Entry, key: ObjectKey) -> None:
    """Remove an object from an index, and its entry once that is empty, so that the index does not grow for ever."""
    index[entry].pop(key)
    if not index[entry]:
        del index[entry]
