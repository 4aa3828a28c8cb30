"""Connection tables that fill, links that lose packets, and load balancers that are late (CT-7, CFG-4, CP-14)."""

import pytest
from simulations import HEAD, MS, simulate

from kpsim.errors import InputError
from kpsim.scenario import parse_scenario
from kpsim.simulation.engine import Run
from kpsim.simulation.runlog import Connection, Fate, Reason, RunLog
from kpsim.units import SECOND_NS

TRAFFIC = "traffic: [{name: t, from: nodes, nodes: [node-1], service: web, perSecond: 10}]\n"
OUTSIDE = "traffic: [{name: t, service: web, via: nodePort, nodes: [node-1], perSecond: 20%s}]\n"
#: pods on node-2 only
REMOTE = "workloads[0].placement={nodes: [node-2]}"
#: a table of 1,000 connections (CFG-4.1)
SMALL = "proxy={conntrack: {maxPerCore: 1, min: 1000}}"


def played(
    *events: str, settings: tuple[str, ...] = ("duration=60s",), text: str = TRAFFIC, head: str = HEAD
) -> RunLog:
    return simulate(f"events: [{', '.join(events)}]\n{text}", *settings, head=head)


def told(log: RunLog, kind: str) -> list[tuple[int, str]]:
    return [(h.at_ns // MS, h.detail) for h in log.happenings if h.kind == kind]


def between(log: RunLog, start_s: float, end_s: float) -> list[Connection]:
    return [c for c in log.connections if start_s * SECOND_NS <= c.at_ns < end_s * SECOND_NS]


def causes(connections: list[Connection]) -> dict[str, int]:
    found: dict[str, int] = {}
    for c in connections:
        found[c.cause.value] = found.get(c.cause.value, 0) + 1
    return found


# ------------------------------------------------------------------------------------------------------------ full tables

FULL = Reason.TABLE_FULL.value


def test_a_table_full_of_established_connections_turns_every_new_one_away() -> None:  # CT-7.3, K-6.7
    log = played("{at: 10s, fillConntrack: {nodes: [node-1], for: 20s}}", settings=("duration=60s", SMALL))
    (filled,) = told(log, "connection table filled")
    # without the connections of the first ten seconds, which are in TIME_WAIT
    assert filled == (10_000, "900 established connections, for 20s")
    assert causes(between(log, 10, 30)) == {FULL: 200}
    assert causes(between(log, 30, 60)) == {"": 300}


def test_unreplied_entries_make_room() -> None:  # CT-7.2
    log = played(
        "{at: 10s, fillConntrack: {nodes: [node-1], for: 20s, unreplied: true}}", settings=("duration=60s", SMALL)
    )
    # 900 of them in 262,144 buckets: early drop finds one with 1 - (1 - 8/262,144)^1,800 = 5.3 %
    expected = 200 * (1 - (1 - 8 / 262_144) ** 1800)
    assert 200 - causes(between(log, 10, 30)).get(FULL, 0) == pytest.approx(expected, abs=3 * expected**0.5)


def test_some_entries_leave_room_for_others() -> None:
    entries = "{at: 10s, fillConntrack: {nodes: [node-1], entries: 850, for: 20s}}"
    assert causes(between(played(entries, settings=("duration=30s", SMALL)), 10, 30)) == {"": 50, FULL: 150}


def test_a_lower_limit_stops_new_connections_and_spares_those_that_are_open() -> None:  # CT-7.3
    long = "traffic: [{name: t, from: nodes, nodes: [node-1], service: web, perSecond: 2, long: {lasts: 60s, packetEvery: 1s}}]\n"
    log = played(
        "{at: 10s, setConntrackMax: {nodes: [node-1], max: 25, for: 10s}}", text=long, settings=("duration=30s",)
    )
    assert causes(between(log, 0, 10)) == {"": 20}  # none of them breaks later
    assert causes(between(log, 10, 20)) == {"": 5, FULL: 15}
    assert causes(between(log, 20, 30)) == {"": 20}


@pytest.mark.parametrize(("per_core", "again"), [(32_768, True), (0, False)])
def test_kube_proxy_writes_its_limit_when_it_starts(
    per_core: int, again: bool
) -> None:  # CFG-4.1: 0 leaves the kernel's
    events = "{at: 10s, setConntrackMax: {nodes: [node-1], max: 1}}", "{at: 20s, restartProxy: {nodes: [node-1]}}"
    log = played(*events, settings=("duration=30s", f"proxy={{conntrack: {{maxPerCore: {per_core}}}}}"))
    assert (FULL in causes(between(log, 21, 30))) is not again
    assert FULL in causes(between(log, 10, 20))


def test_a_boot_empties_the_table_and_ends_the_limit() -> None:
    events = (
        "{at: 10s, fillConntrack: {nodes: [node-1]}}", "{at: 11s, setConntrackMax: {nodes: [node-1], max: 1, for: 9s}}",
        "{at: 12s, reboot: {node: node-1, takes: 1s}}",
    )  # fmt: skip
    log = played(*events, settings=("duration=40s", REMOTE, SMALL))
    assert causes(between(log, 14, 40)) == {"": 260}
    assert [at for at, _ in told(log, "nf_conntrack_max written")] == [
        11_000
    ]  # nobody writes the former value after a boot


def test_two_limits_end_by_the_later_event() -> None:
    events = "{at: 10s, setConntrackMax: {max: 1, for: 5s}}", "{at: 12s, setConntrackMax: {max: 2}}"
    log = played(*events, settings=("duration=30s", "nodes={count: 1}"))
    assert told(log, "nf_conntrack_max written") == [(10_000, "1"), (12_000, "2")]


def test_what_fills_a_table_that_cannot_be_full() -> None:
    unlimited = (
        "duration=20s",
        "nodes={count: 1, sysctls: {net.netfilter.nf_conntrack_max: 0}}",
        "proxy={conntrack: {maxPerCore: 0}}",
    )
    log = played("{at: 10s, fillConntrack: {}}", settings=unlimited)
    assert told(log, "event without effect") == [
        (10_000, "fillConntrack: the table has no limit, so it cannot be full")
    ]
    twice = played(
        "{at: 10s, fillConntrack: {nodes: [node-1]}}",
        "{at: 10s, fillConntrack: {nodes: [node-1]}}",
        settings=("duration=12s", SMALL),
    )
    assert told(twice, "event without effect") == [(10_000, "fillConntrack: the table is full already")]


# ------------------------------------------------------------------------------------------------------------ lost packets

LOST = Reason.PACKET_LOST.value


def loss(share: float, **fields: str) -> str:
    inner = "".join(f", {name}: {value}" for name, value in fields.items())
    return f"{{at: 10s, losePackets: {{nodes: [node-1], share: {share}, for: 20s{inner}}}}}"


def test_a_link_that_loses_everything_lets_nothing_through() -> None:
    log = played(loss(1), text=OUTSIDE % "")
    assert causes(between(log, 10, 30)) == {LOST: 400}
    assert causes(between(log, 0, 10)) == {"": 200} and causes(between(log, 30, 60)) == {"": 600}


def test_request_and_answer_are_drawn_apart() -> None:
    log = played(loss(0.2), text=OUTSIDE % "", settings=("duration=60s", "workloads[0].placement={nodes: [node-1]}"))
    lost = causes(between(log, 10, 30))[LOST]
    assert lost == pytest.approx(400 * (1 - 0.8**2), abs=3 * (400 * 0.36 * 0.64) ** 0.5)


def test_every_crossing_counts() -> None:
    # from outside over node-1 to node-2 and back: the link of node-1 is crossed four times
    log = played(loss(0.2), text=OUTSIDE % "", settings=("duration=60s", REMOTE))
    lost = causes(between(log, 10, 30))[LOST]
    assert lost == pytest.approx(400 * (1 - 0.8**4), abs=3 * (400 * 0.41 * 0.59) ** 0.5)


def test_a_lost_syn_is_repeated_after_1_3_and_7_seconds() -> None:
    log = played(loss(1), text=OUTSIDE % ", connectTimeout: 20s")
    inside = between(log, 10, 30)
    # the fault ends while those wait that began after 15 s: their last SYN within 20 s is sent 15 s after the first
    assert {c.disposition for c in between(log, 15, 30)} == {Fate.DELIVERED}
    late = [c for c in inside if c.decided_ns is not None]
    assert {(c.decided_ns - c.at_ns) // SECOND_NS for c in late if c.decided_ns} == {1, 3, 7, 15}
    last = [c for c in between(log, 29, 30) if c.decided_ns is not None]
    assert {c.syn_retries for c in last} == {1}


def test_a_lost_answer_is_known_to_the_nodes_and_its_repeated_syn_finds_the_entry() -> None:  # K-1.3
    log = played(loss(0.5), text=OUTSIDE % ", connectTimeout: 20s")
    again = [c for c in between(log, 10, 20) if c.syn_retries and c.disposition is Fate.DELIVERED]
    assert {c.new_flow for c in again} == {True, False}


def test_losses_between_nodes_spare_the_outside_and_the_reverse() -> None:
    local = ("duration=60s", "workloads[0].placement={nodes: [node-1]}")
    assert LOST not in causes(played(loss(1, peers="nodes"), text=OUTSIDE % "", settings=local).connections)
    remote = played(loss(1, peers="nodes"), text=OUTSIDE % "", settings=("duration=60s", REMOTE))
    assert causes(between(remote, 10, 30)) == {LOST: 400}
    inside = played(loss(1, peers="outside"), settings=("duration=60s", REMOTE))
    assert LOST not in causes(inside.connections)
    assert LOST in causes(played(loss(1), settings=("duration=60s", REMOTE)).connections)


def test_the_first_node_remembers_a_packet_that_is_lost_behind_it() -> None:
    text = HEAD + "events: [" + loss(1, peers="nodes") + "]\n" + OUTSIDE % ""
    run = Run(parse_scenario(text, "t.yaml", settings=("duration=11s", REMOTE, "traffic[0].start=10s")), 1)
    run.run(None)
    assert len(run.machines.netns("node-1").conntrack) == 20 and len(run.machines.netns("node-2").conntrack) == 0
    assert {entry.seen_reply for entry in run.machines.netns("node-1").conntrack} == {False}


def test_open_connections_repeat_what_is_lost() -> None:
    long = OUTSIDE % ", stop: 5s, long: {lasts: 40s, packetEvery: 1s}"
    assert causes(played(loss(1), text=long).connections) == {"": 100}


def test_datagrams_are_sent_once() -> None:
    head = HEAD.replace("{port: 80, targetPort: 8080,", "{port: 80, targetPort: 8080, protocol: UDP,")
    head = head.replace("{containerPort: 8080}", "{containerPort: 8080, protocol: UDP}")
    log = played(loss(1), text=OUTSIDE % "", head=head)
    assert causes(between(log, 10, 30)) == {LOST: 400}


def test_losses_of_two_events_come_on_top_of_each_other() -> None:
    local = ("duration=60s", "workloads[0].placement={nodes: [node-1]}")
    both = played(loss(0.2), loss(0.2), text=OUTSIDE % "", settings=local)
    lost = causes(between(both, 10, 30))[LOST]
    assert lost == pytest.approx(400 * (1 - 0.8**4), abs=3 * (400 * 0.41 * 0.59) ** 0.5)


def test_a_node_that_is_named_twice_is_hit_once() -> None:
    twice = loss(0.5).replace("nodes: [node-1]", "nodes: [node-1, node-1]")
    assert played(twice, text=OUTSIDE % "").connections == played(loss(0.5), text=OUTSIDE % "").connections


def test_a_run_with_losses_is_a_function_of_its_seed() -> None:
    one, same = (played(loss(0.5), text=OUTSIDE % "") for _ in range(2))
    assert one == same
    other = simulate(f"events: [{loss(0.5)}]\n" + OUTSIDE % "", "duration=60s", seed=2)
    assert [c.cause for c in other.connections] != [c.cause for c in one.connections]


def test_a_loss_changes_only_what_it_hits() -> None:  # draws of endpoints are keyed by connection
    calm, lossy = played(text=OUTSIDE % ""), played(loss(0.5), text=OUTSIDE % "")
    pairs = zip(calm.connections, lossy.connections, strict=True)
    assert all(a.endpoint == b.endpoint for a, b in pairs if b.disposition is Fate.DELIVERED)


# ---------------------------------------------------------------------------------------------------------- load balancers

BALANCED = HEAD.replace(
    "spec: {type: NodePort,", "spec: {type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32000,"
)
PROBES = "loadBalancer={interval: 2s, unhealthyThreshold: 2, healthyThreshold: 1}"
GONE = "{at: 20s, readiness: {workload: web, nodes: [node-1]}}"


def out_of_rotation_ms(log: RunLog) -> int:
    return next(h.at_ns // MS for h in log.node_health if h.node == "node-1" and not h.in_rotation)


def balanced(*events: str, settings: tuple[str, ...] = (PROBES, "duration=90s")) -> RunLog:
    return played(*events, settings=settings, text="", head=BALANCED)


def test_slow_probes_find_out_later() -> None:
    calm, slow = balanced(GONE), balanced("{at: 1s, slowLoadBalancer: {probes: 4s, for: 80s}}", GONE)
    # two failed probes: 2 s apart, or 6 s
    assert 22_000 <= out_of_rotation_ms(calm) <= 24_300
    assert 26_000 <= out_of_rotation_ms(slow) <= 32_300


def test_slow_programming_is_late_by_its_time() -> None:
    calm, slow = balanced(GONE), balanced("{at: 1s, slowLoadBalancer: {programming: 15s, for: 80s}}", GONE)
    assert out_of_rotation_ms(slow) == out_of_rotation_ms(calm) + 15_000
    before = balanced("{at: 1s, slowLoadBalancer: {programming: 15s, for: 10s}}", GONE)
    assert out_of_rotation_ms(before) == out_of_rotation_ms(calm)  # the slowness was over when it decided


def test_decisions_reach_connections_in_their_order() -> None:
    back = "{at: 30s, readiness: {workload: web, nodes: [node-1], ready: true}}"
    calm = balanced(GONE, back)
    slow = balanced("{at: 1s, slowLoadBalancer: {programming: 15s, for: 80s}}", GONE, back)
    turns = [[(h.at_ns // MS, h.in_rotation) for h in log.node_health if h.node == "node-1"] for log in (calm, slow)]
    out, again = out_of_rotation_ms(calm), max(at for at, rotating in turns[0] if rotating)
    states = dict(turns[1])
    assert states[out + 15_000] is False and states[again + 15_000] is True
    # the end of the slowness lets the second decision overtake the first, which then comes too late to count
    overtaken = balanced(f"{{at: 1s, slowLoadBalancer: {{programming: 15s, for: {again - 1500}ms}}}}", GONE, back)
    assert [h for h in overtaken.node_health if h.node == "node-1" and not h.in_rotation] == []


def test_the_set_of_nodes_is_programmed_late_too() -> None:  # CP-14.3
    label = (
        "{at: 20s, labelNode: {node: node-1, labels: {node.kubernetes.io/exclude-from-external-load-balancers: ''}}}"
    )
    calm, slow = balanced(label), balanced("{at: 1s, slowLoadBalancer: {programming: 15s, for: 80s}}", label)
    assert out_of_rotation_ms(slow) == out_of_rotation_ms(calm) + 15_000


def test_probes_get_lost_like_other_packets() -> None:
    lossy = balanced("{at: 10s, losePackets: {nodes: [node-1], peers: outside, share: 1, for: 30s}}")
    assert 12_000 <= out_of_rotation_ms(lossy) <= 14_300
    between_nodes = balanced("{at: 10s, losePackets: {nodes: [node-1], peers: nodes, share: 1, for: 30s}}")
    assert [h for h in between_nodes.node_health if not h.in_rotation] == []


def test_a_probe_that_waits_repeats_its_syn() -> None:
    timeout = "loadBalancer={interval: 10s, timeout: 8s, unhealthyThreshold: 1, healthyThreshold: 1}"
    event = "{at: 1s, losePackets: {nodes: [node-1], peers: outside, share: 0.3, for: 890s}}"
    patient = balanced(event, settings=(timeout, "duration=900s"))
    hasty = balanced(event, settings=(timeout.replace("8s", "0s"), "duration=900s"))
    outs = [sum(not h.in_rotation for h in log.node_health if h.node == "node-1") for log in (patient, hasty)]
    # a try succeeds with 0.49: of 90 probes some 46 fail at once, and some 6 after four tries
    assert outs[0] < 15 < outs[1]


def test_a_service_without_load_balancer_is_slowed_down_by_nobody() -> None:
    log = played("{at: 1s, slowLoadBalancer: {probes: 1s, for: 1s}}", text="", settings=("duration=5s",))
    assert told(log, "event without effect") == [(1000, "slowLoadBalancer: there is no load balancer")]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("losePackets: {nodes: [node-1], share: 0, for: 1s}", "losePackets.share"),
        ("losePackets: {nodes: [node-1], share: 1.5, for: 1s}", "losePackets.share"),
        ("losePackets: {nodes: [], share: 1, for: 1s}", "losePackets.nodes"),
        ("losePackets: {nodes: [node-1], share: 1}", "losePackets.for"),
        ("losePackets: {nodes: [node-1], share: 1, for: 1s, peers: pods}", "losePackets.peers"),
        ("setConntrackMax: {max: 0}", "setConntrackMax.max"),
        ("setConntrackMax: {max: 1, nodes: [node-9]}", "setConntrackMax.nodes[0]: there is no node 'node-9'"),
        ("fillConntrack: {entries: 0}", "fillConntrack.entries"),
        ("slowLoadBalancer: {for: 1s}", "slowLoadBalancer: expected probes or programming above 0"),
        ("slowLoadBalancer: {probes: 1s, for: 1s, services: [nobody]}", "slowLoadBalancer.services[0]: there is no Service 'default/nobody'"),
    ],
)  # fmt: skip
def test_impossible_faults_are_refused(event: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_scenario(f"{HEAD}events: [{{at: 1s, {event}}}]\n", "t.yaml")
    assert f"events[0].{message}" in str(refused.value)


def test_families_share_the_table() -> None:  # CT-7.1
    head = HEAD.replace("nodes: {count: 2, ", "nodes: {count: 2, ipFamilies: [IPv6], ").replace(
        "172.30.0.10", "'fd00:30::10'"
    )
    log = played("{at: 10s, fillConntrack: {nodes: [node-1], for: 20s}}", head=head, settings=("duration=60s", SMALL))
    assert causes(between(log, 10, 30)) == {FULL: 200}
