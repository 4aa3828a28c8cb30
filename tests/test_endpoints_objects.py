"""The Endpoints object of a Service (CP-4.1, CP-4.2), slices that mirror hand-made ones (CP-4.3), and how large both are."""

from collections.abc import Iterable
from typing import Any

import pytest
from endpointslice_builders import make_pod, make_service

from kpsim.apisizes import ETCD_REQUEST_LIMIT, request_bytes, stored_bytes, watch_bytes
from kpsim.endpoints import count_addresses, mirror, reconcile_endpoints, repacked, should_mirror, subset_of
from kpsim.endpointslices import WriteVerb, reconcile
from kpsim.objects import (
    EndpointAddress,
    Endpoints,
    EndpointSlice,
    EndpointSubset,
    Pod,
    Service,
    SlicePort,
    TargetRef,
    endpoint_slice_from_json,
    endpoints_from_json,
)
from kpsim.units import parse_rfc3339_ns

NOON_NS = parse_rfc3339_ns("2026-01-01T12:00:00Z")


def written(
    service: Service,
    pods: Iterable[Pod],
    current: Endpoints | None = None,
    *,
    truncated: bool = True,
    at_ns: int | None = NOON_NS,
) -> Endpoints | None:
    listed = [found for pod in pods if (found := subset_of(service, pod)) is not None]
    return reconcile_endpoints(service, listed, current, trigger_time_ns=at_ns, truncated=truncated)


def first(service: Service, pods: Iterable[Pod], **how: Any) -> Endpoints:
    found = written(service, pods, **how)
    assert found is not None
    return found


def shape(endpoints: Endpoints) -> list[tuple[list[str], list[str], list[int | None]]]:
    return [
        ([a.ip for a in subset.addresses], [a.ip for a in subset.not_ready], [port.port for port in subset.ports])
        for subset in endpoints.subsets
    ]


# ------------------------------------------------------------------------------------------------- of a Service with pods


def test_ready_pods_stand_apart_from_those_that_are_not_and_terminating_ones_are_left_out() -> None:  # CP-4.1
    pods = [make_pod(1), make_pod(2, ready=False), make_pod(3, terminating=True), make_pod(4, phase="Succeeded")]
    made = first(make_service(labels={"team": "a"}), pods)
    assert shape(made) == [(["10.180.0.1"], ["10.180.0.2"], [8080])]
    assert made.json["metadata"] == {
        "name": "web",
        "namespace": "shop",
        "labels": {"team": "a", "endpoints.kubernetes.io/managed-by": "endpoint-controller"},
        "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T12:00:00Z"},
    }
    (address,) = made.json["subsets"][0]["addresses"]
    assert address == {
        "ip": "10.180.0.1",
        "nodeName": "node-1",
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": "web-001", "uid": "pod-1"},
    }
    # what an API server gives back is the same value
    assert endpoints_from_json(made.json).subsets == made.subsets


def test_published_addresses_are_all_ready_also_of_terminating_pods() -> None:  # CP-4.1
    pods = [make_pod(1, ready=False), make_pod(2, terminating=True, ready=False)]
    made = first(make_service(publishNotReadyAddresses=True), pods)
    assert shape(made) == [(["10.180.0.1", "10.180.0.2"], [], [8080])]


def test_only_the_first_family_is_listed() -> None:  # CP-4.1
    pod = make_pod(1, ips=["10.180.0.1", "fd00:10:180::1"])
    dual = make_service(ipFamilies=["IPv6", "IPv4"], clusterIP="fd00:172::10")
    assert shape(first(dual, [pod, make_pod(2)])) == [(["fd00:10:180::1"], [], [8080])]


def test_ports_that_the_same_pods_have_stand_together() -> None:  # CP-4.1
    service = make_service(
        ports=[
            {"name": "web", "port": 80, "protocol": "TCP", "targetPort": "web"},
            {"name": "admin", "port": 81, "protocol": "TCP", "targetPort": 9090},
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 9090},
        ]
    )

    def pod(number: int, port: int) -> Pod:
        return make_pod(number, containers=[{"name": "a", "ports": [{"name": "web", "containerPort": port}]}])

    made = first(service, [pod(1, 8080), pod(2, 8080), pod(3, 8081), make_pod(4)])
    # every pod has 9090 by both protocols; the name means 8080 or 8081, and the last pod does not have it
    everyone = [f"10.180.0.{n}" for n in (1, 2, 3, 4)]
    assert shape(made) == [(everyone, [], [9090, 9090]), (everyone[:2], [], [8080]), (everyone[2:3], [], [8081])]


def test_headless_services() -> None:  # CP-4.1
    bare = make_service(clusterIP="None", ports=[])
    made = first(bare, [make_pod(1)])
    assert shape(made) == [(["10.180.0.1"], [], [])]
    assert made.metadata.labels["service.kubernetes.io/headless"] == ""
    assert shape(first(make_service(ports=[]), [make_pod(1)])) == []  # with an address a Service needs ports


def test_nothing_is_written_unless_addresses_or_labels_change() -> None:  # CP-4.1
    service, pods = make_service(), [make_pod(1), make_pod(2)]
    made = first(service, pods)
    assert written(service, reversed(pods), made, at_ns=None) is None
    assert written(make_service(labels={"team": "b"}), pods, made) is not None
    later = written(service, [make_pod(1)], made, at_ns=None)
    assert (
        later is not None and "annotations" not in later.json["metadata"]
    )  # a deletion has no trigger time (CP-3.7.3)
    # a label that somebody else put there goes
    marked = endpoints_from_json({**made.json, "metadata": {**made.json["metadata"], "labels": {"x": "y"}}})
    again = written(service, pods, marked)
    assert again is not None and "x" not in again.metadata.labels


def test_an_address_that_is_ready_and_not_ready_for_a_port_is_not_ready() -> None:  # CP-4.1
    def subset(group: str) -> dict[str, Any]:
        return {group: [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}

    both = endpoints_from_json(
        {"metadata": {"name": "x"}, "subsets": [subset("notReadyAddresses"), subset("addresses")]}
    )
    (only,) = repacked(both.subsets)
    assert [len(only.addresses), len(only.not_ready)] == [0, 1]


@pytest.mark.parametrize(
    ("ready", "not_ready", "kept"),
    [
        ((1000,), (0,), [(1000, 0)]),  # nothing is cut
        ((1001,), (0,), [(1000, 0)]),
        ((1001,), (500,), [(1000, 0)]),  # ready ones are too many: all others go
        ((600,), (401,), [(600, 400)]),
        ((900, 300), (0, 0), [(750, 0), (250, 0)]),  # each subset its share
        ((901, 300, 300), (7, 0, 0), [(601, 0), (200, 0), (199, 0)]),  # shares are rounded up until the room is used
        ((100, 300), (800, 400), [(100, 400), (300, 200)]),
    ],
)
def test_an_object_holds_a_thousand_addresses(
    ready: tuple[int, ...], not_ready: tuple[int, ...], kept: list[tuple[int, int]]
) -> None:  # CP-4.2
    service = make_service(ports=[{"name": "web", "port": 80, "protocol": "TCP", "targetPort": "web"}])
    pods, number = [], 0
    for place, counts in enumerate(zip(ready, not_ready, strict=True)):
        containers = [{"name": "a", "ports": [{"name": "web", "containerPort": 8080 + place}]}]
        for count, is_ready in zip(counts, (True, False), strict=True):
            for _ in range(count):
                number += 1
                pods.append(make_pod(number, ready=is_ready, containers=containers))
    made = first(service, pods)
    assert [(len(subset.addresses), len(subset.not_ready)) for subset in made.subsets] == kept
    over = sum(ready) + sum(not_ready) > 1000
    assert made.metadata.annotations.get("endpoints.kubernetes.io/over-capacity") == ("truncated" if over else None)
    whole = first(service, pods, truncated=False)
    assert count_addresses(whole.subsets) == sum(ready) + sum(not_ready)
    assert "endpoints.kubernetes.io/over-capacity" not in whole.metadata.annotations


def test_an_object_over_its_capacity_is_written_at_each_sync_and_loses_the_annotation_when_it_fits() -> None:  # CP-4.2
    service, pods = make_service(), [make_pod(n) for n in range(1, 1002)]
    made = first(service, pods)
    again = written(service, pods, made)
    assert again is not None and again.json == made.json  # the API server finds nothing to store
    fits = written(service, pods[:1000], made)
    assert fits is not None and "endpoints.kubernetes.io/over-capacity" not in fits.metadata.annotations


# ----------------------------------------------------------------------------------------------------------- mirrored


def by_hand(*subsets: dict[str, Any], **metadata: Any) -> Endpoints:
    return endpoints_from_json(
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"namespace": "shop", "name": "db", "uid": "uid-db", **metadata},
            "subsets": list(subsets),
        }
    )


def subset(*ips: str, not_ready: Iterable[str] = (), ports: Iterable[int] = (5432,)) -> dict[str, Any]:
    return {
        "addresses": [{"ip": ip} for ip in ips],
        "notReadyAddresses": [{"ip": ip} for ip in not_ready],
        "ports": [{"name": "" if n == 0 else f"p{n}", "port": port, "protocol": "TCP"} for n, port in enumerate(ports)],
    }


def slices_of(endpoints: Endpoints, existing: Iterable[EndpointSlice] = ()) -> list[EndpointSlice]:
    held = {item.key: item for item in existing}
    for verb, item in mirror(endpoints, held.values()).writes:
        if verb is WriteVerb.DELETE:
            del held[item.key]
        else:
            held[item.key] = item
    return [held[key] for key in sorted(held)]


def test_each_set_of_ports_and_each_family_has_one_slice() -> None:  # CP-4.3
    made = mirror(by_hand(subset("10.0.0.1", "fd00::1", not_ready=["10.0.0.2"]), subset("10.0.0.1", ports=[80])), ())
    assert [verb for verb, _ in made.writes] == [WriteVerb.CREATE] * 3 and not made.events
    # 10.0.0.1 has both ports, the others have one: ports that the same addresses have stand together first
    found = {
        (item.address_type, tuple(port.port for port in item.ports)): [
            (e.addresses[0], e.ready) for e in item.endpoints
        ]
        for _, item in made.writes
    }
    assert found == {
        ("IPv4", (80,)): [("10.0.0.1", True)],
        ("IPv4", (5432,)): [("10.0.0.1", True), ("10.0.0.2", False)],
        ("IPv6", (5432,)): [("fd00::1", True)],
    }


def test_a_mirrored_slice_says_ready_alone_and_takes_over_labels_and_annotations() -> None:  # CP-4.3
    trigger = "endpoints.kubernetes.io/last-change-trigger-time"
    given = by_hand(
        {
            "addresses": [
                {"ip": "10.0.0.1", "nodeName": "n1", "hostname": "h", "targetRef": {"kind": "Pod", "name": "p"}}
            ],
            "ports": [{"port": 5432, "protocol": "TCP", "appProtocol": "x/y"}],
        },
        labels={"team": "a"},
        annotations={
            "note": "mine",
            trigger: "2026-01-01T12:00:00Z",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
        },
    )
    (made,) = slices_of(given)
    (endpoint,) = made.endpoints
    assert made.json["endpoints"][0]["conditions"] == {"ready": True}  # kube-proxy takes it to serve (O-6.3)
    assert (endpoint.node_name, endpoint.hostname, endpoint.zone) == ("n1", "h", None)
    assert made.metadata.labels == {
        "team": "a",
        "kubernetes.io/service-name": "db",
        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
    }
    assert made.metadata.annotations == {"note": "mine"}  # no trigger time, so no latency sample
    assert made.json["metadata"]["ownerReferences"][0]["kind"] == "Endpoints"
    assert (made.ports[0].name, made.ports[0].app_protocol) == ("", "x/y")


def test_a_slice_is_rewritten_in_place_and_further_ones_of_its_group_are_deleted() -> None:  # CP-4.3
    given = by_hand(subset("10.0.0.1"))
    (made,) = slices_of(given)
    assert mirror(given, [made]).writes == ()
    grown = mirror(by_hand(subset("10.0.0.1", "10.0.0.2")), [made])
    assert [(verb, item.metadata.name, item.metadata.generation) for verb, item in grown.writes] == [
        (WriteVerb.UPDATE, made.metadata.name, 2)
    ]
    labelled = mirror(by_hand(subset("10.0.0.1"), labels={"a": "b"}), [made])
    assert [verb for verb, _ in labelled.writes] == [WriteVerb.UPDATE]
    double = endpoint_slice_from_json({**made.json, "metadata": {**made.json["metadata"], "name": "db-zzzzz"}})
    assert [(verb, item.metadata.name) for verb, item in mirror(given, [made, double]).writes] == [
        (WriteVerb.DELETE, "db-zzzzz")
    ]
    # another port: the slice that would go takes the new content, and keeps its name
    moved = mirror(by_hand(subset("10.0.0.1", ports=[3306])), [made])
    assert [(verb, item.metadata.name, item.ports[0].port) for verb, item in moved.writes] == [
        (WriteVerb.UPDATE, made.metadata.name, 3306)
    ]
    assert [verb for verb, _ in mirror(by_hand(), [made]).writes] == [WriteVerb.DELETE]


def test_a_thousand_addresses_of_a_subset_are_mirrored_ready_ones_first() -> None:  # CP-4.3
    ready = [f"10.0.{n >> 8}.{n & 255}" for n in range(1, 701)]
    others = [f"10.1.{n >> 8}.{n & 255}" for n in range(1, 401)]
    made = mirror(by_hand(subset(*ready, not_ready=others)), ())
    ((_, item),) = made.writes
    assert [sum(bool(e.ready) is wanted for e in item.endpoints) for wanted in (True, False)] == [700, 300]
    (event,) = made.events
    assert event.reason == "TooManyAddressesToMirror" and "100 addresses were skipped" in event.message
    bad = mirror(by_hand(subset("10.0.0.1", "db.example")), ())
    assert [event.reason for event in bad.events] == ["InvalidIPAddress"]
    assert len(bad.writes[0].slice.endpoints) == 1


def test_objects_that_say_so_are_not_mirrored() -> None:  # CP-4.3
    assert should_mirror(by_hand())
    assert not should_mirror(by_hand(labels={"endpointslice.kubernetes.io/skip-mirror": "true"}))
    assert should_mirror(by_hand(labels={"endpointslice.kubernetes.io/skip-mirror": "yes"}))
    assert not should_mirror(by_hand(annotations={"control-plane.alpha.kubernetes.io/leader": "{}"}))


# -------------------------------------------------------------------------------------------------------------- sizes


def pods(count: int) -> list[Pod]:
    return [make_pod(n, node=f"node-{n % 100}") for n in range(1, count + 1)]


def test_a_port_and_an_address_take_the_bytes_of_their_encoding() -> None:
    """Differences of two objects are the bytes that the second has more, as protobuf writes them."""
    two = first(make_service(), [make_pod(1), make_pod(2)])
    three = first(make_service(), [make_pod(1), make_pod(2), make_pod(3)])
    reference = b"\x0a\x03Pod\x12\x04shop\x1a\x07web-003\x22\x24" + b"0" * 36 + b"\x2a\x00\x32\x00\x3a\x00"
    address = b"\x0a\x0a10.180.0.3" + b"\x12" + bytes([len(reference)]) + reference + b"\x1a\x00\x22\x06node-1"
    assert stored_bytes(three) - stored_bytes(two) == 2 + len(address)  # with its own tag and length
    more = make_service(
        ports=[
            {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080},
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 9053},
        ]
    )
    port = b"\x0a\x03dns\x10\xdd\x46\x1a\x03UDP"  # 9053 = 0xdd 0x46 in groups of seven bits
    assert stored_bytes(first(more, [make_pod(1), make_pod(2)])) - stored_bytes(two) == 2 + len(port)


def test_sizes_are_those_of_the_published_estimate() -> None:
    """KEP 0752, sample case 1: about 100 B an endpoint, 10 KB a slice of 100, 2.0 MB an object of 20,000; 5,000 nodes."""
    published = make_service(publishNotReadyAddresses=True)  # so no Node needs to be known
    ((_, item),) = reconcile(published, pods(100), {}, (), trigger_time_ns=NOON_NS).writes
    assert 9_000 < watch_bytes(item, "MODIFIED") < 14_000
    whole = large(20_000)
    assert 1_800_000 < watch_bytes(whole, "MODIFIED") < 2_300_000
    # one change at 5,000 watchers: about 50 MB with slices, about 10 GB with Endpoints
    assert 45e6 < 5000 * watch_bytes(item, "MODIFIED") < 70e6
    assert 9e9 < 5000 * watch_bytes(whole, "MODIFIED") < 11.5e9
    # a rollout of all pods, one write for each: about 1 TB, and about 200 TB
    assert 0.9e12 < 20_000 * 5000 * watch_bytes(item, "MODIFIED") < 1.4e12
    assert 180e12 < 20_000 * 5000 * watch_bytes(whole, "MODIFIED") < 230e12


def large(count: int, node: str = "node-10") -> Endpoints:
    """An object that was not truncated."""
    addresses = tuple(
        EndpointAddress(
            f"10.{180 + (n >> 16)}.{n >> 8 & 255}.{n & 255}", "", node, TargetRef("Pod", "shop", f"web-{n:05}", f"{n}")
        )
        for n in range(count)
    )
    listed = [EndpointSubset(addresses, (), (SlicePort("http", "TCP", 8080),))]
    made = reconcile_endpoints(make_service(), listed, None, trigger_time_ns=NOON_NS, truncated=False)
    assert made is not None
    return made


def test_without_truncation_an_object_outgrows_what_etcd_takes() -> None:
    assert ETCD_REQUEST_LIMIT == 1_572_864
    assert request_bytes(large(15_000)) < ETCD_REQUEST_LIMIT < request_bytes(large(17_000))
    # the longer the names, the sooner: machines of a cloud have names such as this
    machine = "ip-10-180-200-100.eu-central-1.compute.internal"
    assert request_bytes(large(10_000, machine)) < ETCD_REQUEST_LIMIT < request_bytes(large(12_500, machine))
