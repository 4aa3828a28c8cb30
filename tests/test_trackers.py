"""Services to service ports (O-4, O-5), slices to endpoints (O-6), and both change trackers (O-7, O-8)."""

from typing import Any

import pytest
from proxiers import NODE, START_NS, endpoint, endpoint_slice, port, service, slice_port

from kpsim.addresses import Family
from kpsim.kubeproxy.trackers import (
    Endpoint,
    EndpointsChange,
    EndpointsChangeTracker,
    ServiceChangeTracker,
    ServiceKey,
    ServicePort,
    ServicePortName,
    endpoints_on,
    merge_slices,
    service_ports,
)
from kpsim.objects import EndpointSlice, Service
from kpsim.units import SECOND_NS, format_rfc3339

WEB = ServiceKey("shop", "web")
HTTP = ServicePortName("shop", "web", "http", "TCP")
V4, V6 = Family.IPV4, Family.IPV6


def only_port(made: Service, family: Family = V4) -> ServicePort:
    (found,) = service_ports(made, family).values()
    return found


# --------------------------------------------------------------------------------------------------- Service to service ports


@pytest.mark.parametrize(
    "made",
    [
        service(cluster_ip=""),  # O-4.1
        service(cluster_ip="None"),
        service(type="ExternalName"),  # O-4.2, even with a cluster IP
        service(ipFamilies=["IPv6"], clusterIPs=["fd00:172::1"]),  # O-4.3
        service(ipFamilies=["IPv6", "IPv4"], clusterIPs=["fd00:172::1"]),  # index out of range
    ],
)
def test_services_that_produce_nothing(made: Service) -> None:
    assert service_ports(made, V4) == {}


def test_no_service_has_no_ports() -> None:
    assert service_ports(None, V4) == {}


@pytest.mark.parametrize(
    ("spec", "v4", "v6"),
    [
        ({}, "172.30.10.1", None),
        ({"cluster_ip": "fd00:172::1"}, None, "fd00:172::1"),
        ({"ipFamilies": ["IPv6", "IPv4"], "clusterIPs": ["fd00:172::1", "172.30.10.9"]}, "172.30.10.9", "fd00:172::1"),
        ({"cluster_ip": "172.030.010.001"}, "172.30.10.1", None),  # leading zeros are decimal
        ({"cluster_ip": "fd00:0172:0000::0001"}, None, "fd00:172::1"),
    ],
)
def test_cluster_ip_of_a_family(spec: dict[str, Any], v4: str | None, v6: str | None) -> None:  # O-5.1
    made = service(**spec)
    found = {family: [p.cluster_ip for p in service_ports(made, family).values()] for family in Family}
    assert found == {V4: [v4] if v4 else [], V6: [v6] if v6 else []}


def test_names_of_service_ports() -> None:  # O-5.2: the protocol is not in the text
    assert str(HTTP) == "shop/web:http"
    assert str(HTTP._replace(port="")) == "shop/web"
    assert [str(name) for name in service_ports(service(ports=[port(53, "dns", "UDP")]), V4)] == ["shop/web:dns"]


def test_contents_of_a_service_port() -> None:  # O-5.3
    made = service(
        ports=[port(443, "https", node_port=30443)],
        type="LoadBalancer",
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 600}},
        externalTrafficPolicy="Local",
        internalTrafficPolicy="Local",
        healthCheckNodePort=32100,
        externalIPs=["203.0.113.9", "fd00::9", "nonsense", "203.0.113.009"],
        ingress=["203.0.113.20", "fd00::20", {"hostname": "lb.example.com"}],
    )
    found = only_port(made)
    assert (found.port, found.protocol, found.node_port) == (443, "TCP", 30443)
    assert (found.session_affinity, found.sticky_seconds) == (True, 600)
    assert (found.external_policy_local, found.internal_policy_local) == (True, True)
    assert found.external_ips == ("203.0.113.9", "203.0.113.9")  # duplicates kept, other family and invalid ones not
    assert found.load_balancer_ips == ("203.0.113.20",)
    assert found.health_check_node_port == 32100


def test_affinity_none_has_no_sticky_seconds() -> None:
    made = service(sessionAffinityConfig={"clientIP": {"timeoutSeconds": 600}})
    assert (only_port(made).session_affinity, only_port(made).sticky_seconds) == (False, 0)


@pytest.mark.parametrize(
    ("spec", "local", "health_port"),
    [
        ({"type": "LoadBalancer"}, True, 32100),
        ({"type": "NodePort"}, True, 0),
        ({"type": "ClusterIP", "externalIPs": ["203.0.113.9"]}, True, 0),
        ({"type": "ClusterIP"}, False, 0),  # not externally accessible in the API's sense
        ({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster"}, False, 0),
    ],
)
def test_external_policy_local(spec: dict[str, Any], local: bool, health_port: int) -> None:
    found = only_port(service(**{"externalTrafficPolicy": "Local", "healthCheckNodePort": 32100, **spec}))
    assert (found.external_policy_local, found.health_check_node_port) == (local, health_port)


@pytest.mark.parametrize(
    ("ranges", "kept"),
    [
        ([" 203.0.113.0/25 "], ["203.0.113.0/25"]),
        (["203.0.113.77/25"], ["203.0.113.0/25"]),
        (["203.0.113.0/25", "nonsense", "fd00::/64", "10.0.0.0/8"], ["203.0.113.0/25", "10.0.0.0/8"]),
        (["203.0.113.0/25", "0.0.0.0/0"], []),
        (["::/0", "203.0.113.0/25"], ["203.0.113.0/25"]),
    ],
)
def test_source_ranges(ranges: list[str], kept: list[str]) -> None:  # O-5.4
    found = only_port(service(type="LoadBalancer", loadBalancerSourceRanges=ranges))
    assert list(map(str, found.source_ranges or ())) == kept


@pytest.mark.parametrize("ranges", [[], ["fd00::/64"], ["nonsense"]])
def test_no_source_range_of_the_family_is_not_the_emptied_list(ranges: list[str]) -> None:  # O-7.1, the trap
    emptied = only_port(service(type="LoadBalancer", loadBalancerSourceRanges=["0.0.0.0/0"]))
    none = only_port(service(type="LoadBalancer", loadBalancerSourceRanges=ranges))
    assert emptied.source_ranges == ()
    assert none.source_ranges is None
    assert emptied != none


@pytest.mark.parametrize(("mode", "kept"), [(None, True), ("VIP", True), ("Proxy", False)])
def test_ip_mode_of_a_load_balancer_address(mode: str | None, kept: bool) -> None:  # O-5.5
    entry = {"ip": "203.0.113.20"} | ({"ipMode": mode} if mode else {})
    assert only_port(service(ingress=[entry])).load_balancer_ips == (("203.0.113.20",) if kept else ())


def test_externally_accessible_is_by_addresses_not_by_type() -> None:  # O-5.7
    assert not only_port(service(type="LoadBalancer")).externally_accessible
    assert only_port(service(type="ClusterIP", ingress=["203.0.113.20"])).externally_accessible
    assert only_port(service(ports=[port(node_port=30080)])).externally_accessible


def test_families_have_equal_ports_and_different_addresses() -> None:
    made = service(ipFamilies=["IPv4", "IPv6"], clusterIPs=["172.30.10.1", "fd00:172::1"])
    assert service_ports(made, V4).keys() == service_ports(made, V6).keys()


# --------------------------------------------------------------------------------------------------- slices to endpoints


def merge(*slices: EndpointSlice, family: Family = V4) -> dict[ServicePortName, tuple[Endpoint, ...]]:
    return merge_slices(WEB, slices, family)


def addresses(*slices: EndpointSlice) -> list[str]:
    return [e.address for e in merge(*slices).get(HTTP, ())]


def test_endpoints_are_sorted_as_text() -> None:  # O-6.5
    made = endpoint_slice(endpoints=["10.180.0.3", "10.180.0.30", "10.180.0.200", "10.180.0.12"])
    assert addresses(made) == ["10.180.0.12:8080", "10.180.0.200:8080", "10.180.0.30:8080", "10.180.0.3:8080"]
    six = endpoint_slice(endpoints=["fd00:10::21", "fd00:10:1::9"], family="IPv6")
    assert [e.address for e in merge(six, family=V6)[HTTP]] == ["[fd00:10:1::9]:8080", "[fd00:10::21]:8080"]


@pytest.mark.parametrize("skipped", [slice_port(name=None), slice_port(None), slice_port(0)])
def test_ports_without_name_or_number_are_skipped(skipped: dict[str, Any]) -> None:  # O-6.2
    assert merge(endpoint_slice(ports=[skipped])) == {}


def test_ports_are_matched_by_name_and_protocol_never_by_number() -> None:
    made = endpoint_slice(ports=[slice_port(8080), slice_port(53, "http", "UDP"), slice_port(9000, "other")])
    found = {(name.port, name.protocol): [e.port for e in each] for name, each in merge(made).items()}
    assert found == {("http", "TCP"): [8080], ("http", "UDP"): [53], ("other", "TCP"): [9000]}


def test_slices_may_carry_different_numbers_for_one_port() -> None:
    second = endpoint_slice(ports=[slice_port(9090)], name="web-2")
    assert addresses(endpoint_slice(), second) == ["10.180.0.3:8080", "10.180.0.3:9090"]


def test_only_the_first_address_counts() -> None:  # O-6.3
    several = endpoint("10.180.0.3") | {"addresses": ["10.180.000.003", "10.180.0.4"]}
    none = endpoint("10.180.0.5") | {"addresses": []}
    assert addresses(endpoint_slice(endpoints=[several, none])) == ["10.180.0.3:8080"]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, (True, True, False)),
        ({"ready": False}, (False, True, False)),  # serving does not fall back to ready
        ({"serving": False}, (True, False, False)),
        ({"ready": False, "serving": True, "terminating": True}, (False, True, True)),
    ],
)
def test_conditions_that_are_not_set(conditions: dict[str, bool], expected: tuple[bool, bool, bool]) -> None:
    (found,) = merge(endpoint_slice(endpoints=[endpoint("10.180.0.3") | {"conditions": conditions}]))[HTTP]
    assert (found.ready, found.serving, found.terminating) == expected


@pytest.mark.parametrize(
    ("own", "where", "local"), [(NODE, NODE, True), (NODE, "node-2", False), (NODE, None, False), ("", "", False)]
)
def test_local_endpoints(own: str, where: str | None, local: bool) -> None:
    made = endpoint_slice(endpoints=[endpoint("10.180.0.3", None) | {"nodeName": where}])
    found = merge(made)[HTTP]
    assert endpoints_on(own, found) == (list(found) if local else [])


def test_hints() -> None:
    made = endpoint_slice(endpoints=[endpoint("10.180.0.3", zones=["A", "B"], nodes=["node-2"]), "10.180.0.4"])
    first, second = merge(made)[HTTP]
    assert (first.zone_hints, first.node_hints) == ({"A", "B"}, {"node-2"})
    assert (second.zone_hints, second.node_hints) == (frozenset(), frozenset())


@pytest.mark.parametrize(
    ("states", "winner"),
    [
        (["serving-terminating", "ready"], (True, True, False)),  # a running pod beats one that still holds its address
        (["ready", "serving-terminating"], (True, True, False)),
        (["ready", "unready"], (False, False, False)),  # of two that run the later counts
        (["serving-terminating", "terminating"], (False, True, True)),  # of two that end the first
    ],
)
def test_one_address_twice(states: list[str], winner: tuple[bool, bool, bool]) -> None:  # O-6.4
    made = endpoint_slice(endpoints=[endpoint("10.180.0.3", state=state) for state in states])
    (found,) = merge(made)[HTTP]
    assert (found.ready, found.serving, found.terminating) == winner


def test_a_key_without_endpoints_is_absent() -> None:
    assert merge(endpoint_slice(endpoints=[])) == {}


@pytest.mark.parametrize(
    "ignored",
    [
        endpoint_slice(family="IPv6"),
        endpoint_slice(family="FQDN"),
        endpoint_slice(labels={}),
        endpoint_slice(labels={"kubernetes.io/service-name": ""}),
        endpoint_slice("/web"),  # no namespace
    ],
)
def test_slices_that_are_not_the_trackers(ignored: EndpointSlice) -> None:  # O-6.1
    assert not EndpointsChangeTracker(V4, START_NS).accepts(ignored)
    assert EndpointsChangeTracker(V4, START_NS).accepts(endpoint_slice())


# --------------------------------------------------------------------------------------------------- Service changes


def test_adding_a_service_is_a_change_until_checkout() -> None:  # O-7.1, O-7.4
    tracker = ServiceChangeTracker(V4)
    assert tracker.update(None, service())
    (change,) = tracker.checkout().values()
    assert (dict(change.previous), list(change.current)) == ({}, [HTTP])
    assert tracker.checkout() == {}


@pytest.mark.parametrize(
    "spec",
    [
        {"labels": {"app": "web"}},
        {"selector": {"app": "web"}},
        {"publishNotReadyAddresses": True},
        {"trafficDistribution": "PreferClose"},
        {"ports": [port() | {"targetPort": 9090}]},
    ],
)
def test_what_is_not_in_a_service_port_is_no_change(spec: dict[str, Any]) -> None:  # O-7.2
    assert not ServiceChangeTracker(V4).update(service(), service(**spec))


@pytest.mark.parametrize(
    "spec",
    [
        {"cluster_ip": "172.30.10.2"},
        {"ports": [port(81)]},
        {"ports": [port(node_port=30080)]},
        {"ports": [port(name="web")]},
        {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}},
        {"internalTrafficPolicy": "Local"},
        {"externalIPs": ["203.0.113.9"]},
        {"ingress": ["203.0.113.20"]},
        {"loadBalancerSourceRanges": ["203.0.113.0/24"]},
        {"loadBalancerSourceRanges": ["0.0.0.0/0"]},  # allows what none allows, and is a change all the same
        {"type": "ExternalName"},
    ],
)
def test_what_is_in_a_service_port_is_a_change(spec: dict[str, Any]) -> None:
    assert ServiceChangeTracker(V4).update(service(), service(**spec))


def test_add_and_delete_cancel_out() -> None:  # O-7.2
    tracker = ServiceChangeTracker(V4)
    assert tracker.update(None, service())
    assert not tracker.update(service(), None)
    assert tracker.checkout() == {}


def test_the_answer_is_about_any_service() -> None:  # O-7.3
    tracker = ServiceChangeTracker(V4)
    tracker.update(None, service())
    assert tracker.update(service("shop/api"), service("shop/api"))
    assert tracker.pending == 1


def test_previous_is_what_the_last_sync_saw() -> None:
    tracker = ServiceChangeTracker(V4)
    first, second, third = (service(ports=[port(number)]) for number in (80, 81, 82))
    tracker.update(first, second)
    tracker.update(second, third)
    (change,) = tracker.checkout().values()
    assert (change.previous[HTTP].port, change.current[HTTP].port) == (80, 82)


def test_a_renamed_port_is_a_delete_and_an_add() -> None:  # O-7.5
    tracker = ServiceChangeTracker(V4)
    tracker.update(service(), service(ports=[port(name="web")]))
    (change,) = tracker.checkout().values()
    assert (list(change.previous), list(change.current)) == ([HTTP], [HTTP._replace(port="web")])


# --------------------------------------------------------------------------------------------------- slice changes


def slice_tracker(*applied: EndpointSlice) -> EndpointsChangeTracker:
    tracker = EndpointsChangeTracker(V4, START_NS)
    for each in applied:
        tracker.update(each, removed=False)
    tracker.checkout()
    return tracker


def test_a_slice_like_the_applied_one_is_no_change() -> None:  # O-8.1
    tracker = slice_tracker(endpoint_slice())
    assert not tracker.update(endpoint_slice(), removed=False)
    assert tracker.checkout().changes == {}


def test_a_new_resource_version_alone_is_a_change() -> None:  # O-8.2
    tracker = slice_tracker(endpoint_slice())
    assert tracker.update(endpoint_slice(version=2), removed=False)
    assert list(tracker.checkout().changes) == [WEB]


def test_removal_of_an_unknown_slice_is_no_change() -> None:
    assert not slice_tracker().update(endpoint_slice(), removed=True)


def test_a_pending_entry_is_what_an_event_is_compared_with() -> None:
    tracker = slice_tracker()
    assert tracker.update(endpoint_slice(), removed=False)
    assert not tracker.update(endpoint_slice(), removed=False)
    assert tracker.update(endpoint_slice(), removed=True)
    assert not tracker.update(endpoint_slice(), removed=True)
    assert tracker.pending == 2


def test_reverting_does_not_cancel() -> None:  # O-8.3
    tracker = slice_tracker(endpoint_slice())
    assert tracker.update(endpoint_slice(version=2), removed=False)
    assert tracker.update(endpoint_slice(), removed=False)
    (change,) = tracker.checkout().changes.values()
    assert change.previous == change.current != {}


def test_checkout_gives_the_endpoints_before_and_after() -> None:  # O-8.4
    tracker = slice_tracker(endpoint_slice())
    tracker.update(endpoint_slice(endpoints=["10.180.0.4"], version=2), removed=False)
    (change,) = tracker.checkout().changes.values()
    assert [e.ip for e in change.previous[HTTP]] == ["10.180.0.3"]
    assert [e.ip for e in change.current[HTTP]] == ["10.180.0.4"]
    assert tracker.checkout().changes == {}


def test_a_relabelled_slice_stays_with_its_first_service() -> None:  # O-8.5
    tracker = slice_tracker(endpoint_slice())
    moved = endpoint_slice("shop/api", name="web-1", ports=[slice_port()])
    tracker.update(moved, removed=False)
    assert set(tracker.checkout().changes) == {ServiceKey("shop", "api")}
    tracker.update(moved, removed=True)
    assert set(tracker.checkout().changes) == {ServiceKey("shop", "api")}
    tracker.update(endpoint_slice(name="web-2", endpoints=["10.180.0.9"]), removed=False)
    (change,) = tracker.checkout().changes.values()
    assert [e.ip for e in change.current[HTTP]] == ["10.180.0.3", "10.180.0.9"]


# --------------------------------------------------------------------------------------------------- trigger times


def triggered(after_s: float, name: str = "web-1", version: int = 1) -> EndpointSlice:
    at = format_rfc3339(START_NS + round(after_s * SECOND_NS))
    return endpoint_slice(
        name=name, version=version, annotations={"endpoints.kubernetes.io/last-change-trigger-time": at}
    )


def test_every_change_adds_its_trigger_time() -> None:  # O-8.6: duplicates kept
    tracker = slice_tracker()
    for version in (1, 2):
        tracker.update(triggered(2.5, version=version), removed=False)
    tracker.update(triggered(2.5, version=2), removed=False)  # no change
    assert tracker.checkout().trigger_times_ns == {WEB: [START_NS + 2_500_000_000] * 2}
    assert tracker.checkout().trigger_times_ns == {}


@pytest.mark.parametrize("after_s", [-1, 0])
def test_trigger_times_before_the_tracker_are_ignored(after_s: float) -> None:
    tracker = slice_tracker()
    tracker.update(triggered(after_s), removed=False)
    assert tracker.checkout().trigger_times_ns == {}


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-01 00:00:05Z", "2026-13-01T00:00:00Z"])
def test_unreadable_trigger_times_are_ignored(text: str) -> None:
    tracker = slice_tracker()
    annotations = {"endpoints.kubernetes.io/last-change-trigger-time": text}
    assert tracker.update(endpoint_slice(annotations=annotations), removed=False)
    assert tracker.checkout().trigger_times_ns == {}


def test_a_removal_forgets_the_times_of_the_whole_service() -> None:
    tracker = slice_tracker(endpoint_slice(name="web-2"))
    tracker.update(triggered(1), removed=False)
    tracker.update(endpoint_slice(name="web-2"), removed=True)
    tracker.update(triggered(3, version=2), removed=False)
    assert tracker.checkout().trigger_times_ns == {WEB: [START_NS + 3 * SECOND_NS]}


# --------------------------------------------------------------------------------------------------- stale UDP flows


def test_udp_before_or_after_asks_for_a_look_at_stale_flows() -> None:  # O-12.1
    tcp, udp = merge(endpoint_slice()), merge(endpoint_slice(ports=[slice_port(53, "dns", "UDP")]))
    assert EndpointsChange(udp, {}).touches_udp
    assert EndpointsChange(tcp, udp).touches_udp
    assert not EndpointsChange(tcp, tcp).touches_udp
