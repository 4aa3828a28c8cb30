"""The controllers of Endpoints objects on the clock (CP-4), what etcd refuses, and what is sent to those who watch."""

from pathlib import Path

import pytest
from simulations import DELAYS, HEAD, MS, simulate

import kpsim
from kpsim.errors import InputError
from kpsim.reports.figures import figures
from kpsim.reports.watch_traffic import bytes_text, watch_sums, watch_totals
from kpsim.scenario import parse_scenario
from kpsim.simulation.runlog import HappeningKind, RunLog, WatchWrite

DB = """
  - {apiVersion: v1, kind: Service, metadata: {name: db}, spec: {clusterIP: 172.30.0.11, ports: [{port: 5432}]}}
"""
BY_HAND = """
  - {apiVersion: v1, kind: Endpoints, metadata: {name: db},
     subsets: [{addresses: [{ip: 198.51.100.1}], ports: [{port: 5432}]}]}
"""
WRITTEN = "endpoints.written=true"
SCALE = "events: [{at: 5s, scale: {workload: web, replicas: 3}}]\n"


def writes(log: RunLog, kind: str, service: str = "default/web") -> list[tuple[str, int, int]]:
    """Event, time in ms, and number of endpoints of each write."""
    found = (w for w in log.watched if w.kind == kind and w.service == service)
    return [(w.event, w.at_ns // MS, w.endpoints) for w in found]


def endpoints_at_end(log: RunLog, service: str = "default/db") -> list[str]:
    return sorted(s.endpoint for s in log.endpoints if s.until_ns is None and s.service == service)


# ------------------------------------------------------------------------------------------ of Services with a selector


def test_without_being_asked_for_nobody_writes_them() -> None:
    assert writes(simulate(SCALE, "duration=9s"), "Endpoints") == []


def test_a_change_of_pods_is_written_beside_the_slices() -> None:  # CP-4.1: the same handlers
    log = simulate(SCALE, "duration=9s", WRITTEN)
    # the pod has an address at 6.000, is ready at 6.100: 11 + 7 to its status, 13 to be seen, 17 for the write
    assert writes(log, "Endpoints") == [("MODIFIED", 6048, 3), ("MODIFIED", 6148, 3)]
    assert writes(log, "Endpoints") == writes(log, "EndpointSlice")
    later = simulate(SCALE, "duration=9s", WRITTEN, "endpoints.batchPeriod=2s")
    assert writes(later, "Endpoints") == [("MODIFIED", 7037, 3)]  # one sync, 2 s after the pod was seen first
    assert writes(later, "EndpointSlice") == writes(log, "EndpointSlice")


def test_a_terminating_pod_leaves_at_once_while_its_slice_keeps_it() -> None:  # CP-4.1
    log = simulate(
        "events: [{at: 5s, deletePods: {workload: web}}]\n",
        "duration=30s",
        WRITTEN,
        "workloads[0].termination.preStop=10s",
    )
    # the deletion is stored at 5.007 and seen at 5.020; the replacement is created then, and has an address a second later
    assert writes(log, "Endpoints")[0] == ("MODIFIED", 5037, 1)
    assert writes(log, "EndpointSlice")[0] == ("MODIFIED", 5037, 2)


def test_a_sync_with_an_old_cache_is_tried_again_after_milliseconds() -> None:  # CP-4.1: 5 ms doubled, not 1 s
    # the pod is ready 10 ms after it has an address: its second status is seen before the own write of the first
    quick = ("duration=9s", WRITTEN, "workloads[0].readiness.probeDelay=10ms")
    log = simulate(SCALE, *quick)
    stale = [h.at_ns // MS for h in log.happenings if h.kind is HappeningKind.ENDPOINTS_SYNC_STALE]
    # seen at 6.031 and 6.041. The write of 6.048 is seen at 6.061; the second change waits for the sync to be done at 6.048,
    # finds the cache old, and again 5 ms and 10 ms later: 6.063 is late enough
    assert stale == [6048, 6053]
    # the first write has the time of the change; the second has none, as the sync that failed has already remembered it
    sizes = [w.bytes for w in log.watched if w.kind == "Endpoints"]
    assert sizes[0] - sizes[1] > 100
    assert [at for _, at, _ in writes(log, "Endpoints")] == [6048, 6063 + 17]
    # the slice controller waits a second for the same
    assert [at for _, at, _ in writes(log, "EndpointSlice")] == [6048, 6048 + 1000 + 17]


def test_an_object_that_somebody_deletes_is_not_known_to_scenarios_of_a_selector() -> None:
    with pytest.raises(InputError, match="has a selector: the Endpoints controller writes its Endpoints"):
        simulate("events: [{at: 1s, deleteEndpoints: {endpoints: web}}]\n", WRITTEN)


def test_over_a_thousand_addresses_the_object_is_truncated_or_too_large() -> None:  # CP-4.2
    many = ("duration=9s", "nodes={count: 5}", "workloads[0].replicas=1005", WRITTEN, "endpoints.requestLimit=107000")
    event = "events: [{at: 5s, scale: {workload: web, replicas: 1006}}]\n"
    log = simulate(event, *many)
    # truncated: the second write would hold the same addresses, so that the API server has nothing to store but the trigger time
    assert {number for _, _, number in writes(log, "Endpoints")} == {1000}
    assert figures(log)["watch_traffic.endpoints.refused"] == 0
    whole = simulate(event, *many, "endpoints.truncated=false", "endpoints.requestLimit=1000000")
    assert {number for _, _, number in writes(whole, "Endpoints")} == {1006}
    refused = simulate(event, *many, "endpoints.truncated=false", "endpoints.requestLimit=50000")
    assert writes(refused, "Endpoints") == []  # nobody hears of the new pod
    assert len(writes(refused, "EndpointSlice")) == 2
    count = figures(refused)["watch_traffic.endpoints.refused"]
    # one before the run; then each sync is tried again after 5 ms, 10 ms, ...: nine or ten times until 9 s
    assert 9 <= count <= 12
    assert count == figures(refused)["happenings.endpoints-refused"]


# --------------------------------------------------------------------------------------------------------- made by hand


def test_a_hand_made_object_is_mirrored_from_the_start_and_followed() -> None:  # CP-4.3
    events = """
events:
  - {at: 5s, patchEndpoints: {endpoints: db, patch: {subsets: [{addresses: [{ip: 198.51.100.2}, {ip: "fd00::2"}], ports: [{port: 5432}]}]}}}
  - {at: 7s, deleteEndpoints: {endpoints: default/db}}
"""
    log = simulate(events, "duration=9s", head=HEAD + DB + BY_HAND)
    assert log.endpoints[0].from_ns == 0
    starts = {
        s.endpoint: (s.from_ns // MS, s.until_ns and s.until_ns // MS) for s in log.endpoints if "db" in s.service
    }
    # stored after 7, seen after 13, each write takes 17: first the new slice of IPv6, then the old slice is updated
    assert starts["198.51.100.1:5432"] == (0, 5054)
    assert starts["[fd00::2]:5432"] == (5037, 7037)
    assert starts["198.51.100.2:5432"] == (5054, 7054)
    assert [event for event, _, _ in writes(log, "EndpointSlice", "default/db")] == [
        "ADDED",
        "MODIFIED",
        "DELETED",
        "DELETED",
    ]
    assert all(row.reported_ns is None for row in log.programming)  # mirrored slices yield no latency samples


def test_an_object_that_comes_later_is_mirrored_when_its_service_comes() -> None:  # CP-4.3
    events = """
events:
  - at: 2s
    createEndpoints: {apiVersion: v1, kind: Endpoints, metadata: {name: db}, subsets: [{addresses: [{ip: 198.51.100.9}], ports: [{port: 5432}]}]}
  - at: 4s
    createService: {apiVersion: v1, kind: Service, metadata: {name: db}, spec: {clusterIP: 172.30.0.11, ports: [{port: 5432}]}}
  - {at: 6s, deleteService: {service: db}}
"""
    log = simulate(events, "duration=9s")
    assert writes(log, "EndpointSlice", "default/db") == [("ADDED", 4037, 1), ("DELETED", 6037, 1)]
    # the object of a Service that goes is deleted by the Endpoints controller, also one that it never wrote (CP-4.1)
    assert writes(log, "Endpoints", "default/db") == [("ADDED", 2007, 1), ("DELETED", 6037, 1)]


def test_a_selector_ends_the_mirroring_and_slices_that_somebody_deletes_come_back() -> None:  # CP-4.3
    log = simulate(
        "events: [{at: 5s, patchService: {service: db, patch: {spec: {selector: {app: web}}}}}]\n",
        "duration=9s", head=HEAD + DB + BY_HAND,
    )  # fmt: skip
    assert endpoints_at_end(log) == ["10.180.1.2:5432", "10.180.2.2:5432"]
    deleted = simulate(
        "events: [{at: 5s, deleteEndpointSlice: {service: db}}]\n", "duration=9s", head=HEAD + DB + BY_HAND
    )
    # seen at 5.020 and made anew at once: this controller waits for no second
    assert writes(deleted, "EndpointSlice", "default/db") == [("DELETED", 5007, 1), ("ADDED", 5037, 1)]


def test_a_service_that_loses_its_selector_keeps_its_object_which_is_mirrored_from_then_on() -> None:  # CP-4.1, CP-4.3
    log = simulate(
        "events: [{at: 5s, patchService: {service: web, patch: {spec: {selector: null}}}}]\n", "duration=9s", WRITTEN
    )
    # the slice controller leaves its own slice there (CP-3.3), so that both list the pods
    assert writes(log, "EndpointSlice") == [("ADDED", 5037, 2)]
    assert endpoints_at_end(log, "default/web") == ["10.180.1.2:8080", "10.180.2.2:8080"]


def test_objects_of_services_with_a_selector_are_left_aside() -> None:  # a dump of a cluster has both
    given = BY_HAND.replace("name: db", "name: web")
    scenario = parse_scenario(HEAD + given + DELAYS, "test.yaml")
    assert any("left aside, as their controller writes them: default/web" in note for note in scenario.notes)
    assert endpoints_at_end(simulate("", "duration=1s", head=HEAD + given), "default/web") == [
        "10.180.1.2:8080",
        "10.180.2.2:8080",
    ]


def test_more_than_a_subset_may_have_earns_an_event() -> None:  # CP-4.3
    ips = ", ".join(f"{{ip: 198.18.{n >> 8}.{n & 255}}}" for n in range(1, 1004))
    given = BY_HAND.replace("{ip: 198.51.100.1}", ips)
    log = simulate("", "duration=1s", head=HEAD + DB + given)
    (event,) = (h for h in log.happenings if h.kind is HappeningKind.TOO_MANY_ADDRESSES)
    assert "3 addresses were skipped" in event.detail
    assert len(endpoints_at_end(log)) == 1000


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ("patchEndpoints: {endpoints: db, patch: {subsets: []}}", "there is no Endpoints default/db at that time"),
        ("deleteEndpoints: {endpoints: web}", "Service default/web has a selector"),
        ("createEndpoints: {apiVersion: v1, kind: Endpoints, metadata: {name: web}}", "Service default/web has a selector"),
        ("createEndpoints: {apiVersion: v1, kind: Service, metadata: {name: x}, spec: {clusterIP: None}}", "expected an Endpoints object"),
        (
            "createEndpoints: {apiVersion: v1, kind: Endpoints, metadata: {name: x}, subsets: [{addresses: [{ip: 1.2.3}]}]}",
            "1.2.3",
        ),
    ],
)  # fmt: skip
def test_events_that_an_api_server_refuses_name_the_field(event: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        simulate(f"events: [{{at: 1s, {event}}}]\n")
    assert words in str(refused.value) and "events[0]" in str(refused.value)


def test_settings_without_effect_earn_a_note() -> None:
    scenario = parse_scenario(HEAD + "endpoints: {truncated: false}\n", "test.yaml")
    assert any("endpoints: truncated decides nothing without written" in note for note in scenario.notes)


# ------------------------------------------------------------------------------------------------------------- watchers


def test_the_documents_scenario_of_5000_pods() -> None:
    """KEP 0752 estimates 10 KB a slice of 100 and 100 B an endpoint, so that one change sends 50 MB with slices to 5,000 nodes."""
    result = kpsim.run(Path(__file__).parent.parent / "docs" / "slices-against-endpoints.yaml")
    assert result.holds, [str(each) for each in result.expectations]
    assert all(
        45e6 < w.sent_bytes < 55e6 for w in result.log.watched if w.kind == "EndpointSlice" and w.endpoints == 100
    )
    assert all(2.2e9 < w.sent_bytes < 2.6e9 for w in result.log.watched if w.kind == "Endpoints")
    # each replaced pod is two changes of the Endpoints object, and three of slices: terminating, gone, another ready
    counts = [sum(w.kind == kind for w in result.log.watched) for kind in ("Endpoints", "EndpointSlice")]
    assert counts == [6, 9]


def test_each_write_goes_to_every_kube_proxy_that_runs_and_to_the_controllers() -> None:  # O-1.2, O-1.5, CP-5.1
    events = """
events:
  - {at: 5s, scale: {workload: web, replicas: 3}}
  - {at: 10s, restartProxy: {nodes: [node-1], down: 5s}}
  - {at: 11s, scale: {workload: web, replicas: 2}}
"""
    log = simulate(events, "duration=20s", WRITTEN)
    slices = [w for w in log.watched if w.kind == "EndpointSlice"]
    assert [(w.proxies, w.others) for w in slices if w.at_ns < 10_000 * MS] == [(2, 1)] * 2
    assert {(w.proxies, w.others) for w in slices if w.at_ns > 10_000 * MS} == {(1, 1)}
    assert {(w.proxies, w.others) for w in log.watched if w.kind == "Endpoints"} == {(0, 1)}
    counted = simulate(
        events, "duration=20s", WRITTEN, "watchers={kubeProxies: 5000, endpointSlices: 3, endpoints: 5000}"
    )
    assert {(w.kind, w.proxies, w.others) for w in counted.watched} == {
        ("EndpointSlice", 5000, 4),
        ("Endpoints", 0, 5001),
    }
    # nothing else depends on it
    assert (counted.syncs, counted.programming, counted.happenings) == (log.syncs, log.programming, log.happenings)


def test_slices_of_a_headless_service_go_to_no_kube_proxy() -> None:  # O-1.2
    headless = (
        "  - {apiVersion: v1, kind: Service, metadata: {name: h}, spec: {clusterIP: None, selector: {app: web}}}\n"
    )
    log = simulate(SCALE, "duration=9s", head=HEAD + headless)
    assert {w.proxies for w in log.watched if w.service == "default/h"} == {0}
    assert {w.proxies for w in log.watched if w.service == "default/web"} == {2}


def test_totals_are_sums_over_writes_and_watchers() -> None:
    log = RunLog("x", 1, 1, "iptables")
    log.watched.extend(
        [
            WatchWrite(1, "EndpointSlice", "MODIFIED", "web-1", "shop/web", 100, 10_000, 5000, 1),
            WatchWrite(2, "EndpointSlice", "ADDED", "web-2", "shop/web", 7, 1_000, 10, 1),
            WatchWrite(3, "EndpointSlice", "ADDED", "api-1", "shop/api", 1, 600, 0, 1),
            WatchWrite(4, "Endpoints", "MODIFIED", "web", "shop/web", 20_000, 2_000_000, 0, 5001),
        ]
    )
    rows = [
        (t.service, t.kind, t.writes, t.most_endpoints, t.largest_bytes, t.object_bytes, t.events, t.sent_bytes)
        for t in watch_totals(log)
    ]
    assert rows == [
        ("shop/api", "EndpointSlice", 1, 1, 600, 600, 1, 600),
        ("shop/web", "EndpointSlice", 2, 100, 10_000, 11_000, 5012, 50_010_000 + 11_000),
        ("shop/web", "Endpoints", 1, 20_000, 2_000_000, 2_000_000, 5001, 10_002_000_000),
    ]
    slices, whole = watch_sums(log)
    assert (slices.sent_bytes, whole.sent_bytes) == (50_021_600, 10_002_000_000)
    known = figures(log)
    assert known["watch_traffic.slices.sent_bytes"] == 50_021_600
    assert known["watch_traffic.endpoints.largest_bytes"] == 2_000_000


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 KB"), (12_730, "12.7 KB"), (50e6, "50 MB"), (10.02e9, "10 GB"), (2e14, "200 TB"), (5e15, "5,000 TB")],
)  # fmt: skip
def test_bytes_in_words(count: float, text: str) -> None:
    assert bytes_text(count) == text
