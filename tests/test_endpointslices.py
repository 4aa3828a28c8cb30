"""What the EndpointSlice controller writes: CP-3.1 to CP-3.7, CP-3.10, CP-16.4, CP-16.5, O-10."""

import pytest
from endpointslice_builders import NODES, by_name, make_node, make_pod, make_service, pods_in, sync

from kpsim.endpointslices import (
    ExpectationTracker,
    TriggerTimeTracker,
    WriteVerb,
    derive_slices,
    has_managed_slices,
    labels_changed,
    pod_changed,
    services_for_pod_change,
    slices_of,
)
from kpsim.errors import InputError
from kpsim.objects import EndpointSlice, Pod, Service, endpoint_slice_from_json
from kpsim.units import SECOND_NS, parse_rfc3339_ns

TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"


def pods(first: int, last: int) -> list[Pod]:
    return [make_pod(number) for number in range(first, last + 1)]


def sizes(slices: tuple[EndpointSlice, ...]) -> list[int]:
    return sorted(len(item.endpoints) for item in slices)


def slices_with(service: Service, *groups: list[Pod]) -> list[EndpointSlice]:
    """One slice a group, named s0, s1, …, as earlier syncs would have left them."""
    slices = []
    for number, group in enumerate(groups):
        (created,) = sync(service, group, limit=1000).creates
        metadata = {**created.json["metadata"], "name": f"s{number}"}
        slices.append(endpoint_slice_from_json({**created.json, "metadata": metadata}))
    return slices


# --------------------------------------------------------------------------------------------------- pods and endpoints


def test_created_slice_is_complete() -> None:
    service = make_service(labels={"team": "shop", "kubernetes.io/service-name": "wrong"})
    trigger_ns = parse_rfc3339_ns("2026-01-01T00:01:00Z")
    (created,) = sync(service, [make_pod(1)], trigger_time_ns=trigger_ns).creates
    name = created.metadata.name
    assert created.json == {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "generateName": "web-",
            "namespace": "shop",
            "generation": 1,
            "labels": {
                "team": "shop",
                "kubernetes.io/service-name": "web",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "annotations": {TRIGGER: "2026-01-01T00:01:00Z"},
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": "web",
                    "uid": "uid-web",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.180.0.1"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "targetRef": {"kind": "Pod", "namespace": "shop", "name": "web-001", "uid": "pod-1"},
                "nodeName": "node-1",
                "zone": "a",
            }
        ],
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    }  # CP-3.10, CP-3.4
    prefix, _, suffix = name.rpartition("-")
    assert prefix == "web" and len(suffix) == 5


@pytest.mark.parametrize(
    ("ready", "terminating", "published", "conditions"),
    [
        (True, False, False, (True, True, False)),
        (False, False, False, (False, False, False)),
        (True, True, False, (False, True, True)),
        (False, True, False, (False, False, True)),
        (False, False, True, (True, False, False)),
        (False, True, True, (True, False, True)),
    ],
)
def test_conditions(
    ready: bool, terminating: bool, published: bool, conditions: tuple[bool, bool, bool]
) -> None:  # CP-3.4.2
    service = make_service(publishNotReadyAddresses=published)
    (created,) = sync(service, [make_pod(1, ready=ready, terminating=terminating)]).creates
    (endpoint,) = created.endpoints
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == conditions


def test_finished_pods_and_pods_without_address_are_left_out() -> None:
    unwanted = [make_pod(1, phase="Succeeded"), make_pod(2, phase="Failed"), make_pod(3, ips=[])]
    (created,) = sync(make_service(), [*unwanted, make_pod(4), make_pod(5, phase="Pending")]).creates
    assert pods_in(created) == ["web-004", "web-005"]  # CP-3.4.1


def test_pod_on_an_unknown_node_is_skipped_with_an_error_unless_not_ready_addresses_are_published() -> None:
    strays = [make_pod(1), make_pod(2, node="node-9")]
    result = sync(make_service(), strays)
    assert result.errors == ("skipping Pod web-002 for Service shop/web: Node node-9 Not Found",)
    assert pods_in(result.creates[0]) == ["web-001"]
    published = sync(make_service(publishNotReadyAddresses=True), strays)
    assert published.errors == ()
    assert pods_in(published.creates[0]) == ["web-001", "web-002"]  # CP-3.4.1


def test_node_without_zone_gives_an_endpoint_without_zone() -> None:
    (created,) = sync(make_service(), [make_pod(1)], nodes=by_name(make_node("node-1"))).creates
    assert created.endpoints[0].zone is None


def test_host_name_needs_the_services_subdomain() -> None:
    named = [
        make_pod(1, hostname="db-0", subdomain="web"),
        make_pod(2, hostname="db-1", subdomain="other"),
        make_pod(3, subdomain="web"),
    ]
    (created,) = sync(make_service(), named).creates
    assert [endpoint.hostname for endpoint in created.endpoints] == ["db-0", None, None]  # CP-3.4.3


def test_named_target_port_is_searched_in_containers_then_in_restartable_init_containers() -> None:
    def container(port: int, protocol: str = "TCP", **more: str) -> dict[str, object]:
        return {"ports": [{"name": "web", "containerPort": port, "protocol": protocol}], **more}

    named = [
        make_pod(1, containers=[container(8081)], initContainers=[container(9000, restartPolicy="Always")]),
        make_pod(2, initContainers=[container(9000, restartPolicy="Always")]),
        make_pod(3, initContainers=[container(9000)]),
        make_pod(4, containers=[container(8081, protocol="UDP")]),
    ]
    service = make_service(ports=[{"name": "http", "port": 80, "targetPort": "web"}])
    ports = {name: item.ports for item in sync(service, named).creates for name in pods_in(item)}
    numbers = {name: [port.port for port in found] for name, found in ports.items()}
    assert numbers == {"web-001": [8081], "web-002": [9000], "web-003": [], "web-004": []}  # CP-3.4.4


def test_pods_with_different_port_numbers_go_to_different_slices() -> None:
    service = make_service(
        ports=[{"name": "http", "port": 80, "targetPort": "web"}, {"name": "m", "port": 1, "targetPort": 1}]
    )
    named = [make_pod(n, containers=[{"ports": [{"name": "web", "containerPort": 8000 + n % 2}]}]) for n in range(1, 5)]
    created = sync(service, named).creates
    assert [pods_in(item) for item in created] == [["web-001", "web-003"], ["web-002", "web-004"]]  # O-10.4
    assert [[port.port for port in item.ports] for item in created] == [[8001, 1], [8000, 1]]


def test_headless_service_without_ports_gets_endpoints_and_the_headless_label() -> None:
    (created,) = sync(make_service(clusterIP="None", ports=[]), [make_pod(1)]).creates
    assert created.ports == ()
    assert created.metadata.labels["service.kubernetes.io/headless"] == ""
    assert pods_in(created) == ["web-001"]  # CP-3.4.4, O-10.6


# ----------------------------------------------------------------------------------------------------------- dual stack


def test_each_family_has_its_own_slices_and_pods_without_that_family_are_missing() -> None:
    dual = make_pod(1, ips=["10.180.0.1", "FD00:10:180::0001"])
    service = make_service(ipFamilies=["IPv6", "IPv4"])
    created = sync(service, [dual, make_pod(2)]).creates
    assert [(item.address_type, pods_in(item)) for item in created] == [
        ("IPv6", ["web-001"]),
        ("IPv4", ["web-001", "web-002"]),
    ]
    assert created[0].endpoints[0].addresses == ("fd00:10:180::1",)


def test_slices_of_a_family_no_longer_listed_are_deleted() -> None:
    dual = [make_pod(1, ips=["10.180.0.1", "fd00:10:180::1"])]
    before = sync(make_service(ipFamilies=["IPv4", "IPv6"]), dual).creates
    result = sync(make_service(ipFamilies=["IPv4"]), dual, before)
    assert [(write.verb, write.slice.address_type) for write in result.writes] == [(WriteVerb.DELETE, "IPv6")]


# -------------------------------------------------------------------------------------------------------------- packing


def test_endpoints_fill_slices_up_to_the_limit() -> None:
    assert sizes(sync(make_service(), pods(1, 250)).creates) == [50, 100, 100]
    assert sizes(sync(make_service(), pods(1, 250), limit=80).creates) == [10, 80, 80, 80]


def test_replaced_pod_stays_in_the_slice_that_has_to_be_written_anyway() -> None:
    before = sync(make_service(), pods(1, 101)).creates
    assert sizes(before) == [1, 100]
    result = sync(make_service(), [*pods(2, 101), make_pod(500)], before)
    (write,) = result.writes
    assert write.verb is WriteVerb.UPDATE
    assert len(write.slice.endpoints) == 100
    assert pods_in(write.slice)[-1] == "web-500"  # CP-16.4
    assert write.slice.metadata.generation == 2


def test_few_new_endpoints_go_to_the_fullest_unchanged_slice_that_takes_them_all() -> None:
    service = make_service()
    existing = slices_with(service, pods(1, 100), pods(101, 160), pods(161, 250))
    result = sync(service, pods(1, 260), existing)
    assert [(w.verb, w.slice.metadata.name, len(w.slice.endpoints)) for w in result.writes] == [("update", "s2", 100)]


def test_more_than_fit_into_any_unchanged_slice_make_a_new_one() -> None:
    service = make_service()
    existing = slices_with(service, pods(1, 100), pods(101, 160), pods(161, 250))
    result = sync(service, pods(1, 295), existing)
    assert [(w.verb, len(w.slice.endpoints)) for w in result.writes] == [("create", 45)]  # CP-16.5


def test_slices_to_update_are_filled_fullest_first() -> None:
    service = make_service()
    existing = slices_with(service, pods(1, 50), pods(51, 145))
    changed = [*pods(2, 50), *pods(52, 145), *pods(146, 155)]  # both slices lose one, ten are new
    result = sync(service, changed, existing)
    assert {item.metadata.name: len(item.endpoints) for item in result.updates} == {"s0": 53, "s1": 100}


def test_sparse_slices_are_neither_merged_nor_rebalanced() -> None:
    service = make_service()
    existing = slices_with(service, *(pods(n * 10 + 1, n * 10 + 10) for n in range(3)))
    assert sync(service, pods(1, 30), existing).writes == ()


def test_unchanged_pods_cause_no_write_and_a_changed_one_rewrites_its_slice_only() -> None:
    service = make_service()
    existing = slices_with(service, pods(1, 3), pods(4, 6))
    assert sync(service, pods(1, 6), existing).writes == ()
    (updated,) = sync(service, [*pods(1, 4), make_pod(5, ready=False), make_pod(6)], existing).updates
    assert updated.metadata.name == "s1"
    assert [endpoint.ready for endpoint in updated.endpoints] == [True, False, True]


def test_pod_with_the_same_name_and_another_address_is_another_endpoint() -> None:
    service = make_service()
    existing = slices_with(service, pods(1, 2))
    (updated,) = sync(service, [make_pod(1), make_pod(2, ips=["10.180.9.9"])], existing).updates
    assert [endpoint.addresses for endpoint in updated.endpoints] == [("10.180.0.1",), ("10.180.9.9",)]


def test_changed_service_labels_rewrite_every_slice() -> None:
    service = make_service(labels={"team": "shop"})
    existing = slices_with(make_service(), pods(1, 2), pods(3, 4))
    updated = sync(service, pods(1, 4), existing).updates
    assert [item.metadata.labels["team"] for item in updated] == ["shop", "shop"]


def test_slice_of_an_older_service_with_the_same_name_is_deleted_and_not_reused() -> None:
    old = make_service(metadata={"uid": "uid-of-the-deleted-one"})
    existing = slices_with(old, pods(1, 2))
    result = sync(make_service(), pods(1, 2), existing)
    assert [write.verb for write in result.writes] == [WriteVerb.CREATE, WriteVerb.DELETE]
    assert result.deletes[0].metadata.name == "s0"


# ---------------------------------------------------------------------------------------- placeholder, recycling, writes


def test_service_without_pods_keeps_one_empty_slice() -> None:
    (created,) = sync(make_service(), []).creates
    assert (created.endpoints, created.ports) == ((), ())
    assert sync(make_service(), [], [created]).writes == ()  # O-10.5


def test_last_pod_gone_and_first_pod_back_reach_watchers_as_updates_of_one_slice() -> None:
    service = make_service()
    (first,) = slices_with(service, pods(1, 1))
    (emptied,) = sync(service, [], [first]).updates
    assert (emptied.metadata.name, emptied.endpoints, emptied.ports) == ("s0", (), ())
    (refilled,) = sync(service, pods(1, 1), [emptied]).updates
    assert (refilled.metadata.name, pods_in(refilled)) == ("s0", ["web-001"])
    assert refilled.metadata.generation == 3  # CP-3.6.1, CP-3.6.3


def test_changed_port_recycles_the_slices() -> None:
    existing = slices_with(make_service(), pods(1, 5), pods(6, 10))
    other_port = make_service(ports=[{"name": "http", "port": 80, "targetPort": 9090}])
    result = sync(other_port, pods(1, 10), existing)
    assert [(write.verb, write.slice.metadata.name) for write in result.writes] == [("update", "s0"), ("delete", "s1")]
    assert [port.port for port in result.updates[0].ports] == [9090]
    assert sizes(result.apply(existing)) == [10]


def test_last_new_slice_takes_the_place_of_the_first_doomed_one() -> None:
    existing = slices_with(make_service(), pods(1, 5))
    other_port = make_service(ports=[{"name": "http", "port": 80, "targetPort": 9090}])
    result = sync(other_port, pods(1, 150), existing)
    assert [(write.verb, len(write.slice.endpoints)) for write in result.writes] == [("create", 100), ("update", 50)]


def test_placeholder_is_rewritten_when_the_services_labels_change() -> None:
    (placeholder,) = sync(make_service(), []).creates
    (updated,) = sync(make_service(labels={"team": "shop"}), [], [placeholder]).updates
    assert updated.metadata.name == placeholder.metadata.name
    assert updated.metadata.labels["team"] == "shop"


def test_update_keeps_what_the_controller_does_not_own_and_recycling_does_not() -> None:
    (first,) = slices_with(make_service(clusterIP="None"), pods(1, 1))
    metadata = {**first.json["metadata"], "annotations": {"example.com/note": "x"}, "uid": "uid-s0"}
    noted = endpoint_slice_from_json({**first.json, "metadata": metadata})
    (updated,) = sync(make_service(), pods(1, 2), [noted]).updates
    assert updated.metadata.annotations == {"example.com/note": "x"}
    # Only gaining an endpoint does not touch the labels, not even one that no longer fits.
    assert updated.metadata.labels == noted.metadata.labels
    (recycled,) = sync(make_service(), [], [noted]).updates
    assert recycled.metadata.annotations == {}
    assert "service.kubernetes.io/headless" not in recycled.metadata.labels
    assert recycled.metadata.uid == "uid-s0"


def test_creates_come_before_updates_before_deletes() -> None:
    service = make_service()
    existing = slices_with(service, pods(1, 3), pods(4, 6))
    metadata = {**existing[1].json["metadata"], "ownerReferences": []}
    existing[1] = endpoint_slice_from_json({**existing[1].json, "metadata": metadata})
    result = sync(service, [*pods(2, 3), *pods(10, 14)], existing, limit=3)
    assert [write.verb for write in result.writes] == ["create", "create", "update", "delete"]  # CP-3.6.2


def test_service_that_is_being_deleted_gets_no_new_slices() -> None:
    existing = slices_with(make_service(), pods(1, 1))
    going = make_service(metadata={"deletionTimestamp": "2026-01-01T00:09:00Z"})
    assert [write.verb for write in sync(make_service(), pods(1, 200), existing).writes] == ["create", "update"]
    assert [write.verb for write in sync(going, pods(1, 200), existing).writes] == ["update"]  # CP-3.6.2


def test_generated_names_depend_on_the_seed_and_differ_from_existing_ones() -> None:
    service = make_service()
    names = [item.metadata.name for item in sync(service, pods(1, 300)).creates]
    assert len(set(names)) == 3
    assert names == [item.metadata.name for item in sync(service, pods(1, 300)).creates]
    assert names != [item.metadata.name for item in sync(service, pods(1, 300), seed=1).creates]


def test_long_service_name_is_cut_so_that_the_name_fits() -> None:
    (created,) = sync(make_service(name="w" * 63), []).creates
    assert len(created.metadata.name) == 63


# --------------------------------------------------------------------------------------------------------- trigger times


def test_write_without_trigger_time_removes_the_annotation() -> None:
    service = make_service()
    (created,) = sync(service, pods(1, 1), trigger_time_ns=parse_rfc3339_ns("2026-01-01T00:01:00Z")).creates
    assert TRIGGER in created.metadata.annotations
    (updated,) = sync(service, pods(1, 2), [created]).updates
    assert TRIGGER not in updated.metadata.annotations  # CP-3.7.2


def test_first_sync_gives_the_services_creation_and_later_ones_the_oldest_change() -> None:
    tracker, service = TriggerTimeTracker(), make_service()
    created_ns = parse_rfc3339_ns("2026-01-01T00:00:00Z")

    def pod(number: int, second: int) -> Pod:
        return make_pod(number, since=f"2026-01-01T00:01:{second:02}Z")

    assert tracker.compute(service, [pod(1, 1), pod(2, 2)]) == created_ns
    assert tracker.compute(service, [pod(1, 1), pod(2, 2)]) is None
    assert tracker.compute(service, [pod(1, 9), pod(2, 5)]) == created_ns + 65 * SECOND_NS
    assert tracker.compute(service, [pod(1, 9)]) is None  # a deletion has no time
    assert tracker.compute(service, [pod(1, 9), pod(2, 5)]) == created_ns + 65 * SECOND_NS  # forgotten, so new
    tracker.forget(service.key)
    assert tracker.compute(service, [pod(1, 30)]) == created_ns  # CP-3.7.1


def test_service_created_again_counts_as_a_change() -> None:
    tracker = TriggerTimeTracker()
    tracker.compute(make_service(), [])
    again = make_service(metadata={"creationTimestamp": "2026-01-01T00:02:00Z"})
    assert tracker.compute(again, []) == parse_rfc3339_ns("2026-01-01T00:02:00Z")


def test_malformed_time_is_an_input_error_that_names_the_field() -> None:
    with pytest.raises(InputError, match=r"creationTimestamp.*Service shop/web.*yesterday"):
        TriggerTimeTracker().compute(make_service(metadata={"creationTimestamp": "yesterday"}), [])


# ---------------------------------------------------------------------------------------------------------- pod events


def test_pod_changes_that_matter() -> None:
    pod = make_pod(1)
    assert not pod_changed(pod, make_pod(1, phase="Failed"))  # the phase does not count
    assert pod_changed(pod, make_pod(1, ready=False))
    assert pod_changed(pod, make_pod(1, ips=["10.180.1.1"]))
    assert pod_changed(pod, make_pod(1, terminating=True))
    # Upstream compares the deletion timestamps as pointers, so any update of a terminating pod counts (CP-3.1).
    assert pod_changed(make_pod(1, terminating=True), make_pod(1, terminating=True))
    assert not labels_changed(pod, make_pod(1, ready=False))
    assert labels_changed(pod, make_pod(1, labels={"app": "other"}))
    assert labels_changed(pod, make_pod(1, hostname="db-0"))


def test_services_to_sync_after_a_pod_event() -> None:
    services = [make_service("web"), make_service("api"), make_service("all", selector={"team": "shop"})]
    services.append(make_service("web", metadata={"namespace": "other"}))
    services.append(make_service("manual", selector=None))
    web = make_pod(1, labels={"app": "web", "team": "shop"})
    api = make_pod(1, labels={"app": "api", "team": "shop"})
    api_unready = make_pod(1, labels={"app": "api", "team": "shop"}, ready=False)

    def names(old: Pod | None, new: Pod | None) -> list[str]:
        return [service.metadata.name for service in services_for_pod_change(services, old, new)]

    assert names(None, web) == names(web, None) == ["all", "web"]
    assert names(web, web) == []
    assert names(web, make_pod(1, labels={"app": "web", "team": "shop"}, ready=False)) == ["all", "web"]
    assert names(web, api) == ["api", "web"]  # labels alone: those that gain or lose the pod
    assert names(web, api_unready) == ["all", "api", "web"]  # the pod too: all that had it or have it (CP-3.1.1)


def test_slices_of_a_service_are_the_controllers_own_and_not_those_being_deleted() -> None:
    service = make_service()
    (mine,) = slices_with(service, pods(1, 1))

    def changed(**metadata: object) -> EndpointSlice:
        return endpoint_slice_from_json({**mine.json, "metadata": {**mine.json["metadata"], **metadata}})

    others = [
        changed(namespace="other"),
        changed(deletionTimestamp="2026-01-01T00:09:00Z"),
        changed(labels={"kubernetes.io/service-name": "web"}),
        changed(labels={**mine.metadata.labels, "kubernetes.io/service-name": "api"}),
    ]
    assert slices_of(service, [mine, *others]) == [mine]


# --------------------------------------------------------------------------------------------------------- expectations


def at_generation(generation: int, name: str = "s0") -> EndpointSlice:
    (item,) = slices_with(make_service(), pods(1, 1))
    metadata = {**item.json["metadata"], "name": name, "uid": f"uid-{name}", "generation": generation}
    return endpoint_slice_from_json({**item.json, "metadata": metadata})


def test_cache_is_stale_until_it_shows_the_controllers_own_write() -> None:
    tracker, service = ExpectationTracker(), make_service()
    assert not tracker.is_stale(service, [at_generation(1)])
    tracker.wrote(at_generation(2))
    assert tracker.is_stale(service, [])
    assert tracker.is_stale(service, [at_generation(1)])
    assert not tracker.is_stale(service, [at_generation(2)])
    assert not tracker.is_stale(make_service("api"), [])
    tracker.deleted(at_generation(2))
    assert tracker.is_stale(service, [at_generation(2)])
    assert not tracker.is_stale(service, [])  # CP-3.11


# --------------------------------------------------------------------------------------------------------------- derive


def test_slices_are_derived_for_services_with_selectors_only() -> None:
    services = [
        make_service("web"),
        make_service("api"),
        make_service("manual", selector=None),
        make_service("outside", type="ExternalName"),
    ]
    assert [has_managed_slices(service) for service in services] == [True, True, False, False]
    derived = derive_slices(services, pods(1, 3), NODES.values())
    assert [(item.service_name, len(item.endpoints)) for item in derived] == [("api", 0), ("web", 3)]
    assert derived[0].metadata.annotations[TRIGGER] == "2026-01-01T00:00:00Z"


def test_selector_must_match_in_full_and_in_the_namespace() -> None:
    service = make_service(selector={"app": "web", "tier": "front"})
    candidates = [
        make_pod(1),
        make_pod(2, labels={"app": "web", "tier": "front"}),
        make_pod(3, labels={"tier": "front"}),
    ]
    (derived,) = derive_slices([service], candidates, NODES.values())
    assert pods_in(derived) == ["web-002"]
    (elsewhere,) = derive_slices([make_service(metadata={"namespace": "other"})], candidates, NODES.values())
    assert pods_in(elsewhere) == []


def test_order_of_the_input_does_not_matter() -> None:
    services, many = [make_service("web"), make_service("api")], pods(1, 120)
    derived = derive_slices(services, many, NODES.values())
    assert [pods_in(item)[:1] for item in derived if item.endpoints]
    assert derive_slices(services[::-1], many[::-1], list(NODES.values())[::-1]) == derived


def test_selected_pods_on_unknown_nodes_are_refused_together() -> None:
    with pytest.raises(InputError) as caught:
        derive_slices([make_service()], [make_pod(1, node="node-9"), make_pod(2, node=""), make_pod(3)], NODES.values())
    assert [str(problem) for problem in caught.value.problems] == [
        ".spec.nodeName: Pod shop/web-001, selected by Service shop/web, runs on node node-9, which is not among the Nodes",
        ".spec.nodeName: Pod shop/web-002, selected by Service shop/web, names no node",
    ]
