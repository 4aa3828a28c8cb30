"""Topology hints that the EndpointSlice controller writes: CP-3.8, CP-3.9, T-6."""

from collections import Counter

import pytest
from endpointslice_builders import NODES, by_name, make_node, make_pod, make_service, sync

from kpsim.endpointslices import ControllerEvent, Reconciliation, Severity, TopologyCache
from kpsim.endpointslices.hints import ZoneShare, zone_cpu_ratios, zone_shares, zones_out_of_balance
from kpsim.errors import InputError
from kpsim.objects import EndpointSlice, Node, Pod, Service, endpoint_slice_from_json

AUTO = {"service.kubernetes.io/topology-mode": "Auto"}
TWO_ZONES = by_name(make_node("node-1", "a", cpu="6"), make_node("node-2", "b", cpu="2"))
THREE_ZONES = TopologyCache().with_nodes(NODES.values())


def pods_on(*nodes: str) -> list[Pod]:
    return [make_pod(number, node=node) for number, node in enumerate(nodes, start=1)]


def zones(item: EndpointSlice) -> list[list[str]]:
    return [sorted(endpoint.zone_hints) for endpoint in item.endpoints]


def nodes(item: EndpointSlice) -> list[list[str]]:
    return [sorted(endpoint.node_hints) for endpoint in item.endpoints]


def hint_counts(result: Reconciliation) -> dict[str, int]:
    return Counter(
        zone
        for item in (*result.creates, *result.updates)
        for endpoint in item.endpoints
        for zone in endpoint.zone_hints
    )


# -------------------------------------------------------------------------------------------------- trafficDistribution


@pytest.mark.parametrize("distribution", ["PreferClose", "PreferSameZone"])
def test_prefer_same_zone_hints_every_ready_endpoint_for_its_own_zone(distribution: str) -> None:
    service = make_service(trafficDistribution=distribution)
    (created,) = sync(
        service, [make_pod(1, node="node-1"), make_pod(2, node="node-2"), make_pod(3, ready=False)]
    ).creates
    assert zones(created) == [["a"], ["b"], []]
    assert nodes(created) == [[], [], []]
    assert created.json["endpoints"][0]["hints"] == {"forZones": [{"name": "a"}]}
    assert "hints" not in created.json["endpoints"][2]


def test_prefer_same_node_hints_node_and_zone() -> None:
    without_zone = by_name(make_node("node-1", "a"), make_node("node-2"))
    service = make_service(trafficDistribution="PreferSameNode")
    (created,) = sync(service, pods_on("node-1", "node-2"), nodes=without_zone).creates
    assert nodes(created) == [["node-1"], ["node-2"]]
    assert zones(created) == [["a"], []]


@pytest.mark.parametrize("distribution", [None, "SomethingNew"])
def test_unset_or_unknown_distribution_removes_hints(distribution: str | None) -> None:
    pods = pods_on("node-1", "node-2")
    before = sync(make_service(trafficDistribution="PreferSameZone"), pods).creates
    (updated,) = sync(make_service(trafficDistribution=distribution), pods, before).updates
    assert zones(updated) == [[], []]
    assert sync(make_service(trafficDistribution=distribution), pods, [updated]).writes == ()


def test_only_slices_with_missing_or_wrong_hints_are_rewritten() -> None:
    pods, service = pods_on("node-1", "node-2"), make_service(trafficDistribution="PreferSameZone")
    (unhinted,) = sync(make_service(), pods).creates
    (hinted,) = sync(service, pods, [unhinted]).updates
    assert zones(hinted) == [["a"], ["b"]]
    assert sync(service, pods, [hinted]).writes == ()
    endpoints = [{**endpoint, "hints": {"forZones": [{"name": "c"}]}} for endpoint in hinted.json["endpoints"]]
    (corrected,) = sync(service, pods, [endpoint_slice_from_json({**hinted.json, "endpoints": endpoints})]).updates
    assert zones(corrected) == [["a"], ["b"]]


# ------------------------------------------------------------------------------------------------------------ mode Auto


def auto_service(**spec: object) -> Service:
    return make_service(annotations=AUTO, **spec)


def test_shares_follow_the_cpu_of_ready_workers() -> None:
    cluster = [
        make_node("node-1", "a", cpu="1500m"),
        make_node("node-2", "a", cpu="0.5"),
        make_node("node-3", "b", cpu="6"),
        make_node("node-4", "b", cpu="64", ready=False),
        make_node("node-5", "c", cpu="64", labels=["node-role.kubernetes.io/control-plane"]),
        make_node("node-6", "c", cpu="64", labels=["node-role.kubernetes.io/master"]),
    ]
    assert zone_cpu_ratios(cluster) == {"a": 0.25, "b": 0.75}  # CP-3.8.2


@pytest.mark.parametrize(
    "spoiler",
    [make_node("node-9", None), make_node("node-9", "a", cpu="0"), make_node("node-9", "a", cpu=None)],
    ids=["no zone", "zero CPU", "no CPU"],
)
def test_one_node_without_zone_or_cpu_spoils_it_for_the_cluster(spoiler: Node) -> None:
    assert zone_cpu_ratios(NODES.values()) is not None
    assert zone_cpu_ratios([*NODES.values(), spoiler]) is None


def test_one_zone_is_not_enough_and_a_malformed_quantity_is_refused() -> None:
    assert zone_cpu_ratios([make_node("node-1", "a"), make_node("node-2", "a")]) is None
    with pytest.raises(InputError, match=r"allocatable\.cpu: Node node-1: not a quantity: 'four'"):
        zone_cpu_ratios([make_node("node-1", "a", cpu="four")])


def test_shares_have_a_minimum_a_desired_number_and_a_maximum() -> None:
    shares = zone_shares({"a": 0.75, "b": 0.25}, 9)
    assert isinstance(shares, dict)
    # 6.75/1.2 and 2.25/1.2 rounded up; what is left of 9 may go anywhere (CP-3.8.3).
    assert [(s.minimum, s.desired, s.maximum) for s in shares.values()] == [(6, 6.75, 7), (2, 2.25, 3)]
    small = zone_shares({"a": 0.9, "b": 0.1}, 5)
    assert isinstance(small, dict)
    assert [(s.minimum, s.desired) for s in small.values()] == [(4, 4.5), (1, 1)]  # never less than the minimum


def test_endpoints_are_hinted_away_from_a_zone_with_more_than_its_share() -> None:
    cache = TopologyCache().with_nodes(TWO_ZONES.values())
    result = sync(auto_service(), pods_on(*["node-1"] * 4), nodes=TWO_ZONES, topology=cache)
    assert hint_counts(result) == {"a": 3, "b": 1}
    assert zones(result.creates[0]) == [["b"], ["a"], ["a"], ["a"]]  # the first by pod name moves
    assert result.events == (
        ControllerEvent(
            Severity.NORMAL,
            "TopologyAwareHintsEnabled",
            "Topology Aware Hints has been enabled, addressType: IPv4",
        ),
    )


def test_balanced_endpoints_keep_their_own_zone_and_unready_ones_get_no_hint() -> None:
    pods = [*pods_on("node-1", "node-2", "node-3"), make_pod(9, node="node-1", ready=False)]
    (created,) = sync(auto_service(), pods, topology=THREE_ZONES).creates
    assert zones(created) == [["a"], ["b"], ["c"], []]


@pytest.mark.parametrize(
    ("number", "cache", "message"),
    [
        (2, THREE_ZONES, "Insufficient number of endpoints (2 endpoints, 3 zones)"),
        (
            4,  # 4/3/1.2 rounded up is 2 for each of three zones
            THREE_ZONES,
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold "
            "(4 endpoints, 3 zones)",
        ),
        (
            3,
            TopologyCache(),
            "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes",
        ),
    ],
)
def test_failure_removes_all_hints_and_warns(number: int, cache: TopologyCache, message: str) -> None:
    pods = pods_on(*["node-1", "node-2", "node-3", "node-1"][:number])
    before = sync(make_service(trafficDistribution="PreferSameZone"), pods).creates
    result = sync(auto_service(), pods, before, topology=cache)
    assert hint_counts(result) == {}
    assert result.events == (
        ControllerEvent(Severity.WARNING, "TopologyAwareHintsDisabled", f"{message}, addressType: IPv4"),
    )  # CP-3.8.3


def test_ready_endpoint_without_zone_disables_the_hints() -> None:
    cluster = NODES | by_name(make_node("node-9"))
    pods = pods_on("node-1", "node-2", "node-9")
    result = sync(auto_service(), pods, nodes=cluster, topology=THREE_ZONES)
    assert hint_counts(result) == {}
    assert [event.severity for event in result.events] == [Severity.WARNING]  # CP-3.8.4 step 2


def test_untouched_slice_with_valid_hints_stays_so_the_result_depends_on_history() -> None:
    pods = pods_on("node-3", "node-3", "node-3")
    first = sync(auto_service(), pods, topology=THREE_ZONES)
    assert hint_counts(first) == {"a": 1, "b": 1, "c": 1}
    assert first.topology is not None
    again = sync(auto_service(), pods, first.creates, topology=first.topology)
    assert again.writes == ()
    assert again.events == ()  # enabled is said once


def test_untouched_slice_that_overfills_a_zone_is_hinted_anew() -> None:
    pods = pods_on(*["node-1"] * 4)
    cache = TopologyCache().with_nodes(TWO_ZONES.values())
    first = sync(auto_service(), pods, nodes=TWO_ZONES, topology=cache)
    assert hint_counts(first) == {"a": 3, "b": 1}
    even = by_name(make_node("node-1", "a"), make_node("node-2", "b"))  # at most 2 each (CP-3.8.4 step 1)
    assert first.topology is not None
    again = sync(auto_service(), pods, first.creates, nodes=even, topology=first.topology.with_nodes(even.values()))
    assert hint_counts(again) == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("annotations", "auto"),
    [
        ({"service.kubernetes.io/topology-mode": "auto"}, True),
        ({"service.kubernetes.io/topology-mode": "aUto"}, False),
        ({"service.kubernetes.io/topology-aware-hints": "Auto"}, True),
        (AUTO | {"service.kubernetes.io/topology-aware-hints": "disabled"}, False),
        ({}, False),
    ],
)
def test_annotation_wins_over_traffic_distribution(annotations: dict[str, str], auto: bool) -> None:
    service = make_service(annotations=annotations, trafficDistribution="PreferSameZone")
    result = sync(service, pods_on("node-3", "node-3", "node-3"), topology=THREE_ZONES)
    assert hint_counts(result) == ({"a": 1, "b": 1, "c": 1} if auto else {"c": 3})  # CP-3.8.1


def test_cache_remembers_hinted_services_until_the_annotation_goes() -> None:
    pods, service = pods_on("node-1", "node-2", "node-3"), auto_service()
    first = sync(service, pods, topology=THREE_ZONES)
    assert first.topology is not None
    assert first.topology.has_hints(service.key)
    after = sync(make_service(), pods, first.creates, topology=first.topology)
    assert after.topology is not None
    assert not after.topology.has_hints(service.key)
    assert hint_counts(after) == {}


def test_services_are_overloaded_when_the_nodes_no_longer_fit_their_hints() -> None:
    service = auto_service()
    cache = TopologyCache().with_nodes(TWO_ZONES.values())
    hinted = sync(service, pods_on(*["node-1"] * 4), nodes=TWO_ZONES, topology=cache).topology
    assert hinted is not None
    assert hinted.overloaded() == ()  # a: 3 of at least 3, b: 1 of at least 1
    even = hinted.with_nodes([make_node("node-1", "a"), make_node("node-2", "b")])
    assert even.overloaded() == (service.key,)  # b: 1 of at least ceil(4 * 0.5 / 1.2) = 2
    third = hinted.with_nodes([*TWO_ZONES.values(), make_node("node-3", "c", cpu="1m")])
    assert third.overloaded() == (service.key,)  # no hints for c
    assert hinted.with_nodes([]).overloaded() == (service.key,)  # CP-3.8.5


@pytest.mark.parametrize(
    ("counts", "desired", "giving", "receiving"),
    [
        ({"a": 2, "b": 2}, {"a": 2.4, "b": 1.6}, {}, {}),  # both below one
        ({"a": 4}, {"a": 2.4, "b": 1.6}, {"a": 1}, {"b": 1}),  # 1.6 to 1.6, then 0.6 to 0.6 stops
        ({"a": 3}, {"a": 1.6, "b": 0.4, "c": 1.0}, {"a": 1}, {"c": 1}),  # 1.4 to 1.0, then 0.4 to 0.4 stops
        ({"a": 2, "b": 0}, {"a": 0.8, "b": 0.4}, {}, {}),  # 1.2 to 0.4: the receiver is below a half
    ],
)
def test_endpoints_move_from_the_largest_surplus_to_the_largest_deficit(
    counts: dict[str, int], desired: dict[str, float], giving: dict[str, int], receiving: dict[str, int]
) -> None:
    shares = {zone: ZoneShare(number, 0, 99) for zone, number in desired.items()}
    assert zones_out_of_balance(counts, shares) == (giving, receiving)  # CP-3.8.4 step 3
