"""The API server's view: states as values, the events between them, and what kube-proxy's watches select (O-1)."""

import pytest

from kpsim.cluster import ClusterState, Event, EventType, diff, selected, through_selector
from kpsim.objects import ApiObject, ObjectKey, object_from_json


def made(kind: str, name: str = "web", labels: dict[str, str] | None = None, **fields: object) -> ApiObject:
    found = object_from_json(
        {"kind": kind, "metadata": {"namespace": "shop", "name": name, "labels": labels or {}}, **fields}
    )
    assert found is not None
    return found


SERVICE = made("Service", spec={"clusterIP": "172.30.0.10"})
CHANGED = made("Service", spec={"clusterIP": "172.30.0.10", "type": "NodePort"})
PROXY_NAME = {"service.kubernetes.io/service-proxy-name": ""}
HEADLESS = {"service.kubernetes.io/headless": ""}


def test_put_and_remove_leave_the_former_state_as_it_was() -> None:
    empty = ClusterState()
    event, one = empty.put(SERVICE)
    assert event == Event(EventType.ADDED, None, SERVICE)
    event, other = one.put(CHANGED)
    assert event == Event(EventType.MODIFIED, SERVICE, CHANGED)
    gone, none = other.remove(CHANGED.key)
    assert gone == Event(EventType.DELETED, CHANGED, None)
    assert [list(state.services) for state in (empty, one, other, none)] == [[], [SERVICE], [CHANGED], []]
    assert none.remove(CHANGED.key) == (None, none)
    assert none == empty


def test_objects_of_a_kind_are_listed_by_namespace_and_name_however_the_state_came_about() -> None:
    services = [made("Service", name) for name in ("c", "a", "b")]
    node = made("Node", "node-1")
    at_once = ClusterState.of([*services, node])
    step_by_step = ClusterState()
    for obj in (node, *reversed(services)):
        _, step_by_step = step_by_step.put(obj)
    assert at_once == step_by_step
    for state in (at_once, step_by_step):
        assert [service.metadata.name for service in state.services] == ["a", "b", "c"]
        assert list(state.nodes) == [node]
        assert list(state.pods) == []


def test_differences_are_the_events_that_lead_from_one_state_to_the_other() -> None:
    kept, gone, new = made("Service", "kept"), made("Service", "gone"), made("EndpointSlice", "new")
    before, after = ClusterState.of([SERVICE, kept, gone]), ClusterState.of([CHANGED, kept, new])
    events = diff(before, after)
    assert [(event.type, event.key.name) for event in events] == [
        (EventType.DELETED, "gone"),
        (EventType.ADDED, "new"),
        (EventType.MODIFIED, "web"),
    ]
    for event in events:
        before = before.apply(event)
    assert before == after


@pytest.mark.parametrize(
    ("obj", "delivered"),
    [
        (SERVICE, True),
        (made("Service", labels=PROXY_NAME, spec={"clusterIP": "172.30.0.10"}), False),  # any value, even empty
        (made("Service", spec={"clusterIP": "None"}), False),
        (made("Service", spec={}), True),  # no address yet is not headless
        (made("EndpointSlice"), True),
        (made("EndpointSlice", labels=HEADLESS), False),
        (made("EndpointSlice", labels=PROXY_NAME), True),  # tracked, though no service port refers to it
        (made("Node", "node-1"), True),
        (made("Node", "node-2"), False),
        (made("ServiceCIDR"), True),
        (made("Pod"), False),
    ],
    ids=lambda value: value if isinstance(value, bool) else value.key.kind,
)
def test_what_kube_proxy_watches(obj: ApiObject, delivered: bool) -> None:  # O-1.1 to O-1.5
    assert selected(obj, "node-1") is delivered


def test_leaving_the_selection_is_a_deletion_and_entering_an_addition() -> None:  # O-1.1, CP-5.2
    outside = made("Service", labels=PROXY_NAME, spec={"clusterIP": "172.30.0.10"})
    seen = through_selector(Event(EventType.MODIFIED, SERVICE, outside), "node-1")
    assert seen == Event(EventType.DELETED, SERVICE, None)
    seen = through_selector(Event(EventType.MODIFIED, outside, SERVICE), "node-1")
    assert seen == Event(EventType.ADDED, None, SERVICE)
    assert through_selector(Event(EventType.DELETED, outside, None), "node-1") is None
    modified = Event(EventType.MODIFIED, SERVICE, CHANGED)
    assert through_selector(modified, "node-1") == modified


def test_keys_are_spoken_with_their_kind() -> None:
    assert str(SERVICE.key) == "Service shop/web"
    assert str(ObjectKey("Node", "", "node-1")) == "Node node-1"


def test_all_objects_in_order_are_sorted_by_their_keys() -> None:
    objects = [made("Service", "c"), made("Node", "node-1"), made("EndpointSlice", "z"), made("Service", "a")]
    state = ClusterState.of(objects)
    for change in (made("Service", "b"), made("Pod", "p"), made("Node", "node-1", labels={"x": "y"})):
        assert [obj.key for obj in state.in_order()] == sorted(state.objects)
        _, state = state.put(change)
    _, state = state.remove(ObjectKey("Pod", "shop", "p"))
    assert [obj.key for obj in state.in_order()] == sorted(state.objects)
