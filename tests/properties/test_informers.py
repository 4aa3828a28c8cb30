"""The controller's indexes answer what a scan over all objects answers, after any changes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from kpsim.cluster import ClusterState
from kpsim.endpointslices import selects, services_for_pod_change, slices_of
from kpsim.objects import LABEL_SERVICE_NAME, ApiObject, ObjectKey, Pod, Service, object_from_json
from kpsim.simulation.informers import Informers

NAMES, NAMESPACES = ("a", "b", "c"), ("shop", "other")
labels = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["x", "y"]), max_size=2)


def made(kind: str, namespace: str, name: str, labels: dict[str, str], **spec: object) -> ApiObject:
    metadata = {"namespace": namespace, "name": name, "labels": labels}
    found = object_from_json({"kind": kind, "metadata": metadata, **spec})
    assert found is not None
    return found


def a_slice(namespace: str, name: str, service: str, managed: bool) -> ApiObject:
    manager = {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"} if managed else {}
    return made("EndpointSlice", namespace, name, {LABEL_SERVICE_NAME: service, **manager}, addressType="IPv4")


where = (st.sampled_from(NAMESPACES), st.sampled_from(NAMES))
objects = st.one_of(
    st.builds(lambda ns, name, found: made("Pod", ns, name, found, status={"phase": "Running"}), *where, labels),
    st.builds(lambda ns, name, found: made("Service", ns, name, {}, spec={"selector": found}), *where, labels),
    st.builds(a_slice, *where, st.sampled_from(NAMES), st.booleans()),
    st.builds(lambda name, found: made("Node", "", name, found), st.sampled_from(NAMES), labels),
)
#: an object that is put, or removed
changes = st.lists(st.tuples(objects, st.booleans()), max_size=25)


@settings(max_examples=150)
@given(st.lists(objects, max_size=8), changes)
def test_the_indexes_answer_as_a_scan(at_first: list[ApiObject], changes: list[tuple[ApiObject, bool]]) -> None:
    state = ClusterState.of(at_first)
    informers = Informers(state)
    for obj, removed in changes:
        event, state = state.remove(obj.key) if removed else state.put(obj)
        if event is None:
            continue
        informers.apply(event)
        if isinstance(obj, Pod):
            old, new = (each if isinstance(each, Pod) else None for each in (event.old, event.new))
            found = services_for_pod_change(informers.services_selecting(old, new), old, new)
            assert found == services_for_pod_change(state.services, old, new)
    assert list(informers.nodes.items()) == [(node.metadata.name, node) for node in state.nodes]
    for service in state.services:
        assert informers.service(service.key) is service
        in_namespace = [pod for pod in state.pods if pod.metadata.namespace == service.metadata.namespace]
        assert informers.pods_of(service) == [pod for pod in in_namespace if selects(service, pod.metadata.labels)]
        assert slices_of(service, informers.slices_of(service.key)) == slices_of(service, state.endpoint_slices)
    for namespace in NAMESPACES:
        for name in NAMES:
            named = [
                item
                for item in state.endpoint_slices
                if (item.metadata.namespace, item.service_name) == (namespace, name)
            ]
            key = ObjectKey("Service", namespace, name)
            assert informers.slices_of(key) == named
            assert (informers.service(key) is None) == (not isinstance(state.get(key), Service))
