"""The API server's view of a cluster: which objects exist, the watch events between two such states, and apply/diff.

Counterpart: the API server with its watch selectors. ``kubeproxy.trackers`` reads what matters to kube-proxy.
"""

import enum
from collections.abc import Iterable, Iterator
from dataclasses import field
from itertools import chain
from typing import TypeVar

from kpsim.maps import Map
from kpsim.objects import (
    CLUSTER_IP_NONE,
    LABEL_HEADLESS,
    LABEL_SERVICE_PROXY_NAME,
    ApiObject,
    Endpoints,
    EndpointSlice,
    Node,
    ObjectKey,
    Pod,
    Service,
    ServiceCIDR,
)
from kpsim.valueclass import dataclass


class EventType(enum.StrEnum):
    """A watch event's type."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one object as a watcher sees it: ``old`` is None for ADDED, ``new`` is None for DELETED."""

    type: EventType
    old: ApiObject | None
    new: ApiObject | None

    @property
    def object(self) -> ApiObject:
        """The object that the event is about: the new version, or the last known version if it was deleted."""
        present = self.new if self.new is not None else self.old
        assert present is not None
        return present

    @property
    def key(self) -> ObjectKey:
        return self.object.key


class _OfKind:
    """All objects of one kind. They are sorted at the first call of ``sorted``, and the order is kept."""

    __slots__ = ("_sorted", "objects")

    def __init__(self, objects: Map[ObjectKey, ApiObject]) -> None:
        self.objects = objects
        self._sorted: tuple[ApiObject, ...] | None = None

    def sorted(self) -> tuple[ApiObject, ...]:
        """The objects, sorted by namespace and name."""
        if self._sorted is None:
            self._sorted = tuple(self.objects[key] for key in sorted(self.objects))
        return self._sorted


_NONE = _OfKind(Map())

_Kind = TypeVar("_Kind", Service, EndpointSlice, Endpoints, Node, Pod, ServiceCIDR)


@dataclass(frozen=True)
class ClusterState:
    """All objects at one moment. It is a value: ``apply`` returns the next state and keeps this one.

    The two states share the objects of all kinds that the event is not about, and their sorted order.
    """

    objects: Map[ObjectKey, ApiObject] = field(default_factory=Map)
    _by_kind: Map[str, _OfKind] = field(default_factory=Map, compare=False, repr=False)

    @classmethod
    def of(cls, objects: Iterable[ApiObject]) -> "ClusterState":
        """The state with these objects. If two have the same key, the later counts."""
        by_kind: dict[str, dict[ObjectKey, ApiObject]] = {}
        for obj in objects:
            by_kind.setdefault(obj.key.kind, {})[obj.key] = obj
        merged = {key: obj for kind in by_kind.values() for key, obj in kind.items()}
        return cls(Map(merged), Map({kind: _OfKind(Map(found)) for kind, found in by_kind.items()}))

    def get(self, key: ObjectKey) -> ApiObject | None:
        return self.objects.get(key)

    def apply(self, event: Event) -> "ClusterState":
        key = event.key
        of_kind = self._by_kind.get(key.kind, _NONE).objects
        if event.new is not None:
            kinds = self._by_kind.set(key.kind, _OfKind(of_kind.set(key, event.new)))
            return ClusterState(self.objects.set(key, event.new), kinds)
        if key not in self.objects:
            return self
        return ClusterState(self.objects.delete(key), self._by_kind.set(key.kind, _OfKind(of_kind.delete(key))))

    def put(self, obj: ApiObject) -> tuple[Event, "ClusterState"]:
        """Creates or updates an object. Returns the event that a watcher sees, and the next state."""
        old = self.objects.get(obj.key)
        event = Event(EventType.ADDED if old is None else EventType.MODIFIED, old, obj)
        return event, self.apply(event)

    def remove(self, key: ObjectKey) -> tuple[Event | None, "ClusterState"]:
        """Deletes an object. Returns the event, or None if the object did not exist, and the next state."""
        old = self.objects.get(key)
        if old is None:
            return None, self
        event = Event(EventType.DELETED, old, None)
        return event, self.apply(event)

    def _of_kind(self, kind: type[_Kind]) -> Iterator[_Kind]:
        return (obj for obj in self._by_kind.get(kind.__name__, _NONE).sorted() if isinstance(obj, kind))

    def in_order(self) -> Iterator[ApiObject]:
        """All objects, sorted by kind, namespace and name."""
        return chain.from_iterable(self._by_kind[kind].sorted() for kind in sorted(self._by_kind))

    @property
    def services(self) -> Iterator[Service]:
        """All Services, sorted by namespace and name."""
        return self._of_kind(Service)

    @property
    def endpoint_slices(self) -> Iterator[EndpointSlice]:
        """All EndpointSlices, sorted by namespace and name."""
        return self._of_kind(EndpointSlice)

    @property
    def endpoints(self) -> Iterator[Endpoints]:
        """All Endpoints objects, sorted by namespace and name."""
        return self._of_kind(Endpoints)

    @property
    def nodes(self) -> Iterator[Node]:
        """All Nodes, sorted by name."""
        return self._of_kind(Node)

    @property
    def pods(self) -> Iterator[Pod]:
        """All Pods, sorted by namespace and name."""
        return self._of_kind(Pod)

    @property
    def service_cidrs(self) -> Iterator[ServiceCIDR]:
        """All ServiceCIDRs, sorted by name."""
        return self._of_kind(ServiceCIDR)

    def node(self, name: str) -> Node | None:
        found = self.objects.get(ObjectKey("Node", "", name))
        return found if isinstance(found, Node) else None


def diff(old: ClusterState, new: ClusterState) -> list[Event]:
    """The events that lead from one state to the other: deletions first, then the rest, each sorted by key."""
    gone = sorted(key for key in old.objects if key not in new.objects)
    events = [Event(EventType.DELETED, old.objects[key], None) for key in gone]
    for key in sorted(new.objects):
        before, after = old.objects.get(key), new.objects[key]
        if before is None:
            events.append(Event(EventType.ADDED, None, after))
        elif before is not after and before.json != after.json:
            events.append(Event(EventType.MODIFIED, before, after))
    return events


def selected(obj: ApiObject, node_name: str) -> bool:
    """Whether kube-proxy's informers on ``node_name`` select the object on the server's side (O-1)."""
    match obj:
        case Service():
            return LABEL_SERVICE_PROXY_NAME not in obj.metadata.labels and obj.cluster_ip != CLUSTER_IP_NONE
        case EndpointSlice():
            return LABEL_HEADLESS not in obj.metadata.labels
        case Node():
            return obj.metadata.name == node_name
        case ServiceCIDR():
            return True
        case Pod() | Endpoints():
            return False  # kube-proxy never reads them (O-1.5)


def through_selector(event: Event, node_name: str) -> Event | None:
    """The event as a watcher with kube-proxy's selectors sees it; None: the watcher does not see it (O-1).

    An object that begins to match the selectors is ADDED, one that no longer matches is DELETED.
    """
    old = event.old if event.old is not None and selected(event.old, node_name) else None
    new = event.new if event.new is not None and selected(event.new, node_name) else None
    if old is None and new is None:
        return None
    if old is None:
        return Event(EventType.ADDED, None, new)
    return Event(EventType.MODIFIED if new is not None else EventType.DELETED, old, new)
