"""Load balancers: presets, what they ask of nodes, how they choose, and what becomes of connections that are open (FIG-3)."""

from collections import Counter

import pytest
from simulations import HEAD, MS, simulate

from kpsim.errors import InputError
from kpsim.reports.balancing import black_holes
from kpsim.reports.figures import figures
from kpsim.reports.sentences import black_hole_lines
from kpsim.scenario import parse_scenario
from kpsim.scenario.load_balancer_schema import PRESETS, LoadBalancerSpec, Preset
from kpsim.simulation.runlog import Fate, Reason, RunLog
from kpsim.units import SECOND_NS

VIP = (
    "objects[0].spec.type=LoadBalancer",
    "objects[0].status={loadBalancer: {ingress: [{ip: 198.51.100.10}]}}",
    "duration=20s",
)
LOCAL = "objects[0].spec.externalTrafficPolicy=Local"
LONG = (
    "traffic: [{name: t, service: web, via: loadBalancer, perSecond: 10, stop: 1s, clients: 10, long: {lasts: 60s}}]\n"
)
IDLE = "traffic: []\n"
SHORT = "traffic: [{name: t, service: web, via: loadBalancer, perSecond: 5, clients: 10%s}]\n"


def balanced(fields: str, traffic: str, *settings: str, events: str = "") -> RunLog:
    return simulate(f"loadBalancer: {{{fields}}}\nevents: [{events}]\n{traffic}", *VIP, *settings)


def left_ns(log: RunLog, node: str) -> int:
    """When the load balancer ceased to send to a node."""
    return next(h.at_ns for h in log.node_health if h.node == node and not h.in_rotation)


# ------------------------------------------------------------------------------------------------------------- presets


#: interval, timeout, healthy and unhealthy threshold in seconds and numbers, as FIG-3 has them
PUBLISHED = {
    (Preset.AWS_CLB, False): (10, 5, 2, 6),
    (Preset.AWS_NLB, False): (30, 10, 3, 3),
    (Preset.AWS_NLB, True): (10, 10, 2, 2),
    (Preset.AWS_NLB_CONTROLLER, False): (10, 10, 3, 3),
    (Preset.GCP, False): (8, 1, 1, 3),
}


@pytest.mark.parametrize(("preset", "local"), PUBLISHED)
def test_a_preset_has_the_published_values(preset: Preset, local: bool) -> None:
    found = LoadBalancerSpec(preset=preset).resolved(local=local)
    times = found.interval_ns // SECOND_NS, found.timeout_ns // SECOND_NS
    assert (*times, found.healthy_threshold, found.unhealthy_threshold) == PUBLISHED[preset, local]


def test_every_preset_says_where_it_comes_from_and_a_given_field_overrides_it() -> None:
    assert set(PRESETS) == set(Preset)
    for preset, row in PRESETS.items():
        assert row.source and row.meaning, preset
        found = LoadBalancerSpec.model_validate({"preset": preset, "unhealthyThreshold": 9, "interval": "1s"}).resolved(
            local=True
        )
        assert (found.unhealthy_threshold, found.interval_ns) == (9, SECOND_NS)
        assert found.timeout_ns <= SECOND_NS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("preset: aws-elb", "expected 'aws-nlb', 'aws-nlb-controller'"),
        ("interval: 1s, timeout: 2s", "expected timeout to be at most interval"),
        ("tracking: false, distribution: roundRobin", "distribution roundRobin goes with tracking"),
        ("tracking: false, preserveClientIP: false", "a proxy keeps its connections"),
        ("tracking: false, unhealthyConnections: cut", "unhealthyConnections goes with tracking"),
        ("tracking: false, deregistrationDelay: 1s", "deregistrationDelay goes with tracking"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        balanced(fields, SHORT % "")


def test_a_service_with_several_load_balancers_is_refused_by_name() -> None:
    several = "objects[0].status={loadBalancer: {ingress: [{ip: 198.51.100.10}, {ip: 198.51.100.11, ipMode: Proxy}]}}"
    with pytest.raises(InputError, match=r"several load balancers, 198.51.100.10 \(VIP\), 198.51.100.11 \(Proxy\)"):
        balanced("", SHORT % "", several)


def test_a_port_probe_of_a_service_without_tcp_is_refused() -> None:
    udp = "objects[0].spec.ports=[{port: 53, protocol: UDP, targetPort: 8080, nodePort: 30053}]"
    with pytest.raises(InputError, match="Service default/web has no TCP port"):
        balanced("check: trafficPort", SHORT % "", udp)
    from_preset = balanced("preset: azure", IDLE, udp)  # which asks /healthz in its place, and says so
    assert all(h.in_rotation for h in from_preset.node_health)
    scenario = parse_scenario(HEAD + "loadBalancer: {preset: azure}\n", "test.yaml", settings=[*VIP, udp])
    assert "loadBalancer.preset: Service default/web has no TCP port to probe" in " ".join(scenario.notes)


# -------------------------------------------------------------------------------------------------------------- checks


def test_a_probe_without_answer_fails_after_its_timeout_and_a_refusal_at_once() -> None:
    down, stopped = "{at: 5s, nodeDown: {nodes: [node-2]}}", "{at: 5s, restartProxy: {nodes: [node-2], down: 1m}}"
    for event, late_ns in ((down, 700 * MS), (stopped, 0)):
        left = [left_ns(balanced(f"interval: 1s, timeout: {t}", IDLE, events=event), "node-2") for t in ("0s", "700ms")]
        assert left[1] - left[0] == late_ns


def test_a_probe_of_the_node_port_passes_where_clients_are_served() -> None:
    """It does not ask kube-proxy, so it passes while kube-proxy is away, and fails when no endpoint is left."""
    stopped = "{at: 5s, restartProxy: {nodes: [node-2], down: 1m}}"
    asked, dialled = (
        balanced(f"interval: 1s, check: {check}", IDLE, events=stopped) for check in ("serviceHealth", "trafficPort")
    )
    assert 5 * SECOND_NS < left_ns(asked, "node-2") < 7 * SECOND_NS
    assert all(h.in_rotation for h in dialled.node_health)
    gone = balanced("interval: 1s, check: trafficPort", IDLE, events="{at: 5s, scale: {workload: web, replicas: 0}}")
    assert {h.node for h in gone.node_health if not h.in_rotation} == {"node-1", "node-2"}


def test_a_node_announces_while_it_has_an_endpoint_that_can_serve() -> None:
    """MetalLB's speakers read EndpointSlices: a node leaves with its last endpoint, not with probes of kube-proxy."""
    event = "{at: 5s, deletePods: {workload: web, nodes: [node-2], force: true}}"
    log = balanced("interval: 10s, check: announcement", SHORT % "", LOCAL, events=event)
    left = left_ns(log, "node-2")
    assert 5 * SECOND_NS < left < 5100 * MS
    assert not [c for c in log.connections if c.node == "node-2" and left < c.at_ns < 6 * SECOND_NS]
    cluster = balanced("interval: 10s, check: announcement", SHORT % "", events=event)
    assert all(h.in_rotation for h in cluster.node_health)  # any node may announce while one has an endpoint


# -------------------------------------------------------------------------------------------------------- distribution


def test_round_robin_takes_turns_and_one_node_gets_all() -> None:
    turns = [c.node for c in balanced("distribution: roundRobin", SHORT % "").connections]
    assert turns == ["node-1", "node-2"] * 50
    assert len({c.node for c in balanced("distribution: oneNode", SHORT % "").connections}) == 1


def test_a_hash_moves_most_flows_when_a_node_leaves_and_a_consistent_one_its_own() -> None:
    sockets = SHORT.replace("clients: 10", "clients: 8") % ", sourcePorts: 3"
    event, moved = "{at: 10s, nodeDown: {nodes: [node-3]}}", {}
    for kind in ("hash", "consistentHash"):
        log = balanced(
            f"distribution: {kind}, interval: 1s", sockets, "nodes.count=3", "workloads[0].replicas=3", events=event
        )
        nodes: dict[tuple[str, int], list[str]] = {}
        for c in log.connections:
            nodes.setdefault((c.client, c.source_port), []).append(c.node)
        others = [seen for seen in nodes.values() if seen[0] != "node-3"]
        moved[kind] = sum(seen[0] != seen[-1] for seen in others)
    assert moved["consistentHash"] == 0
    assert moved["hash"] > 3


def test_least_connections_fills_the_node_that_has_fewest() -> None:
    traffic = LONG.replace("stop: 1s", "stop: 9s").replace("perSecond: 10", "perSecond: 5")
    event = "{at: 2s, nodeDown: {nodes: [node-2]}}, {at: 5s, nodeUp: {nodes: [node-2]}}"
    log = balanced("distribution: leastConnections, interval: 500ms", traffic, events=event)
    back = next(h.at_ns for h in log.node_health if h.node == "node-2" and h.in_rotation and h.at_ns > 5 * SECOND_NS)
    late = [c.node for c in log.connections if c.at_ns > back]
    assert late[:8] == ["node-2"] * 8
    even = balanced("distribution: leastConnections", LONG)
    assert Counter(c.node for c in even.connections) == {"node-1": 5, "node-2": 5}


def test_when_all_are_unhealthy_a_load_balancer_that_fails_open_sends_to_all() -> None:
    """The rules still serve when both kube-proxies are away."""
    event = "{at: 5s, restartProxy: {down: 1m}}"
    for fails_open, fates in ((False, {Fate.DELIVERED, Fate.DROPPED}), (True, {Fate.DELIVERED})):
        log = balanced(f"interval: 1s, failOpen: {str(fails_open).lower()}", SHORT % "", events=event)
        assert {c.disposition for c in log.connections} == fates
        assert {h.in_rotation for h in log.node_health if h.at_ns > 8 * SECOND_NS} <= {fails_open}


# ---------------------------------------------------------------------------------------------------- open connections


def test_open_connections_of_an_unhealthy_node_are_kept_or_cut() -> None:
    event = "{at: 5s, restartProxy: {nodes: [node-2], down: 1m}}"
    for what, broken in (("keep", set()), ("cut", {("node-2", Reason.CUT)})):
        log = balanced(f"interval: 1s, unhealthyConnections: {what}", LONG, events=event)
        lost = [c for c in log.connections if c.broken_ns is not None]
        assert {(c.node, c.cause) for c in lost} == broken
        assert {c.node for c in log.connections} == {"node-1", "node-2"}
        for c in lost:  # told at the next packet, one second apart
            assert c.broken_ns is not None
            assert 0 < c.broken_ns - left_ns(log, "node-2") <= SECOND_NS


def test_a_node_that_leaves_drains_for_the_deregistration_delay() -> None:
    label = "node.kubernetes.io/exclude-from-external-load-balancers"
    event = f'{{at: 5s, labelNode: {{node: node-2, labels: {{{label}: "true"}}}}}}'
    assert not [c for c in balanced("", LONG, events=event).connections if c.broken_ns]
    lost = [c for c in balanced("deregistrationDelay: 3s", LONG, events=event).connections if c.broken_ns]
    assert {(c.node, c.cause) for c in lost} == {("node-2", Reason.CUT)}
    assert all(c.broken_ns is not None and 8 * SECOND_NS <= c.broken_ns <= 9 * SECOND_NS for c in lost)


def test_routers_without_memory_break_flows_that_had_nothing_to_do_with_the_node() -> None:
    """ECMP: losing a node re-hashes (FIG-3); the new node does not know the connection and its pod resets it."""
    event = "{at: 5s, nodeDown: {nodes: [node-3]}}"
    settings = ("nodes.count=3", "workloads[0].replicas=3", LOCAL)
    fields = "interval: 1s, distribution: hash, tracking: %s"
    traffic = LONG.replace("perSecond: 10", "perSecond: 30")
    kept, moved = (balanced(fields % tracking, traffic, *settings, events=event) for tracking in ("true", "false"))
    assert {c.cause for c in kept.connections if c.node != "node-3"} == {Reason.NONE}
    causes = Counter(c.cause for c in moved.connections if c.node != "node-3")
    assert causes[Reason.REHASHED] > 3


def test_a_proxy_dials_node_ports_from_its_own_address() -> None:
    """Policy Local keeps the source that the node sees, so pods see the load balancer's address and not the clients'."""
    for keeps, sources in (
        ("true", set(map("203.0.113.{}".format, range(1, 11)))),
        ("false", {"198.51.100.10"}),
    ):
        log = balanced(f"preserveClientIP: {keeps}", SHORT % "", LOCAL)
        assert {c.disposition for c in log.connections} == {Fate.DELIVERED}
        assert {c.seen_source_ip for c in log.connections} == sources


# -------------------------------------------------------------------------------------------------------------- report


def test_the_worst_window_stands_beside_what_happened() -> None:
    event = "{at: 5s, deletePods: {workload: web, nodes: [node-2], force: true}}"
    log = balanced(
        "interval: 2s, unhealthyThreshold: 2", SHORT % "", LOCAL, "workloads[0].startup.delay=30s", events=event
    )
    (hole,) = black_holes(log)
    lost = [c.at_ns for c in log.connections if c.disposition is Fate.DROPPED]
    assert (hole.node, hole.balancer.worst_window_ns) == ("node-2", 6 * SECOND_NS)
    assert hole.start_ns <= lost[0] <= lost[-1] < hole.end_ns
    assert 2 * SECOND_NS < hole.length_ns <= 6 * SECOND_NS
    found = figures(log)
    assert found["load_balancers.worst_window_seconds"] == 6
    assert found["load_balancers.longest_window_seconds"] == pytest.approx(hole.length_ns / SECOND_NS)
    (line,) = black_hole_lines(log)
    assert "for up to 6 s, (2 + 1) × 2 s (FIG-3)" in line and "at node-2 from" in line


def test_settings_that_decide_nothing_are_named() -> None:
    text = "traffic: [{name: t, service: web, perSecond: 1}]\nloadBalancer: {tracking: false}\n"

    def notes(*settings: str) -> str:
        return " ".join(parse_scenario(HEAD + text, "test.yaml", settings=settings).notes)

    assert "loadBalancer decides nothing: no Service has the type LoadBalancer" in notes()
    assert "loadBalancer.tracking decides nothing" in notes(*VIP)
