"""What clients do: they try again, keep connections open, try both families (RFC 8305), and wait until they are connected."""

from collections import Counter

import pytest
from simulations import HEAD, MS, simulate

from kpsim.errors import InputError
from kpsim.reports.balancing import connect_times
from kpsim.reports.figures import figures
from kpsim.reports.frames import CONNECTIONS
from kpsim.reports.sentences import client_lines
from kpsim.simulation.runlog import Connection, Fate, Reason, RunLog
from kpsim.units import SECOND_NS

LOCAL = "objects[0].spec.externalTrafficPolicy=Local"
#: node-1's only local endpoint goes at 5 s, without grace; its replacement starts for a second
AWAY = (LOCAL, "duration=12s", "events=[{at: 5s, deletePods: {workload: web, nodes: [node-1], force: true}}]")
NODE_1 = "traffic: [{name: t, service: web, via: nodePort, nodes: [node-1], perSecond: 10, clients: 5%s}]\n"


def lost(log: RunLog) -> list[Connection]:
    return [c for c in log.connections if c.disposition is not Fate.DELIVERED]


# -------------------------------------------------------------------------------------------------------- connect times


def test_connect_times_stand_beside_losses() -> None:
    """A hole of about a second: those who dial it are late by their first or second SYN repetition."""
    log = simulate(NODE_1 % ", connectTimeout: 5s", *AWAY)
    late = [c for c in log.connections if c.syn_retries and c.established]
    assert late
    assert {c.connect_time_ns for c in late} <= {SECOND_NS, 3 * SECOND_NS}
    assert all(c.connect_time_ns is None for c in lost(log))
    found = figures(log)
    assert found["traffic.t.connect_time.max_seconds"] == max(c.connect_time_ns or 0 for c in late) / SECOND_NS
    assert found["connect_time.p50_seconds"] == 0
    times = connect_times(log.connections)
    assert times.count == sum(c.established for c in log.connections)
    column = next(column for column in CONNECTIONS.columns if column.name == "connect_time_ns")
    assert max(column.read(c) or 0 for c in log.connections) == times.max_ns
    assert any(line.startswith("Connecting took p50 0 s") for line in client_lines(log))
    assert client_lines(simulate(NODE_1 % "", *AWAY)) == []


# -------------------------------------------------------------------------------------------------------------- retries


def test_a_client_that_is_refused_tries_again_from_another_port_after_its_back_off() -> None:
    """No endpoint from 2 s to about 4 s: refused at once, connected when the pod is back. One record for each."""
    gone = (
        "events=[{at: 2s, scale: {workload: web, replicas: 0}}, {at: 3s, scale: {workload: web, replicas: 2}}]",
        "duration=10s",
    )
    traffic = "traffic: [{name: t, from: nodes, nodes: [node-1], service: web, perSecond: 5, stop: 6s, connectTimeout: 1s%s}]\n"
    once = simulate(traffic % "", *gone, "icmpRateLimit=false")
    again = simulate(traffic % ", retries: {count: 4, backoff: 400ms}", *gone, "icmpRateLimit=false")
    refused = [c.at_ns for c in lost(once)]
    assert refused and [c.at_ns for c in once.connections] == [c.at_ns for c in again.connections]
    assert lost(again) == []
    late = [c for c in again.connections if c.tries > 1]
    assert [c.at_ns for c in late] == refused
    waits = {2: 400, 3: 1200, 4: 2800, 5: 6000}  # 400 ms, doubled each time
    assert all(c.connect_time_ns == waits[c.tries] * MS for c in late)
    assert len({c.source_port for c in again.connections}) == len(again.connections)
    found = figures(again)
    assert (found["tried_again"], found["tried_again_established"]) == (len(late), len(late))


def test_back_off_has_a_ceiling_and_jitter_shortens_it() -> None:
    never = (LOCAL, "workloads[0].replicas=0", "duration=10s", "icmpRateLimit=false")
    traffic = "traffic: [{name: t, from: nodes, nodes: [node-1], service: web, perSecond: 1, stop: 1s, connectTimeout: 1s, retries: {%s}}]\n"
    tries = {}
    for retries in (
        "count: 100, backoff: 1s, factor: 1",
        "count: 100, backoff: 1s, maxBackoff: 1s",
        "count: 100, backoff: 1s",
        "count: 2, backoff: 1s",
    ):
        (c,) = simulate(traffic % retries, *never).connections
        assert (c.disposition, c.at_ns) == (Fate.REJECTED, 0)
        tries[retries] = c.tries
    assert list(tries.values()) == [10, 10, 4, 3]
    (c,) = simulate(traffic % "count: 100, backoff: 1s, factor: 1, jitter: 1", *never).connections
    assert c.tries > 10


def test_behind_a_router_each_try_has_a_port_of_its_own() -> None:
    nat = NODE_1 % ", nat: true, stop: 1s, connectTimeout: 1s, retries: {count: 1, backoff: 200ms}"
    never = (LOCAL, "workloads[0].placement={nodes: [node-2]}", "duration=4s")
    log = simulate(nat, *never)
    assert {c.tries for c in log.connections} == {2}
    ports = [c.source_port for c in log.connections]
    first = [
        c.source_port for c in simulate(nat.replace(", retries: {count: 1, backoff: 200ms}", ""), *never).connections
    ]
    assert len({*ports, *first}) == 20


def test_a_pod_tries_again_itself_whatever_other_pods_came() -> None:
    events = "events: [{at: 1s, scale: {workload: web, replicas: 5}}]\n"
    traffic = (
        "traffic: [{name: t, from: pods, workload: web, service: none, perSecond: 2, stop: 4s, connectTimeout: 1s%s}]\n"
    )
    none = HEAD.replace("metadata: {name: web}\n    spec", "metadata: {name: none}\n    spec").replace(
        "{app: web}", "{app: none}"
    )
    logs = [
        simulate(events + traffic % retries, "duration=9s", "icmpRateLimit=false", head=none)
        for retries in ("", ", retries: {count: 3, backoff: 1s, factor: 1}")
    ]
    once, again = ([(c.at_ns, c.client) for c in log.connections] for log in logs)
    assert once == again and len({client for _, client in once}) > 2
    assert {c.tries for c in logs[1].connections} == {4}


def test_a_try_without_answer_ends_at_the_connect_timeout() -> None:
    never = (LOCAL, "workloads[0].placement={nodes: [node-2]}", "duration=10s")
    stop = NODE_1.replace("perSecond: 10", "perSecond: 1, stop: 1s")
    (c,) = simulate(stop % ", connectTimeout: 2s, retries: {count: 1, backoff: 1s}", *never).connections
    # SYNs at 0 and 1 s, given up at 2 s, SYNs at 3 and 4 s
    assert (c.disposition, c.cause, c.tries, c.syn_retries) == (Fate.DROPPED, Reason.NO_LOCAL_ENDPOINTS, 2, 2)
    assert (c.at_ns, c.last_try_ns) == (0, 4 * SECOND_NS)


# ---------------------------------------------------------------------------------------------------------------- pools


POOL = "traffic: [{name: t, from: nodes, nodes: [node-1], service: web, perSecond: 10%s}]\n"


def test_requests_go_over_open_connections_in_turn() -> None:
    log = simulate(POOL % ", keepAlive: {connections: 3}", "duration=4s")
    assert [c.reused for c in log.connections] == [False] * 3 + [True] * 37
    assert {c.disposition for c in log.connections} == {Fate.DELIVERED}
    ports = [c.source_port for c in log.connections]
    assert ports == [ports[n % 3] for n in range(40)]
    assert all(c.endpoint == log.connections[n % 3].endpoint for n, c in enumerate(log.connections))
    assert (figures(log)["reused"], figures(log)["connect_time.p50_seconds"]) == (37, 0)


def test_a_request_on_a_connection_whose_pod_is_gone_fails_and_the_next_one_connects() -> None:
    events = "events: [{at: 1950ms, deletePods: {workload: web, count: 2, force: true}}]\n"
    log = simulate(events + POOL % ", keepAlive: {connections: 2}", "duration=8s")
    failed = [c for c in lost(log) if c.reused]
    assert [(c.at_ns, c.disposition, c.cause) for c in failed] == [
        (2000 * MS, Fate.FAILED, Reason.ENDPOINT_GONE),
        (2100 * MS, Fate.FAILED, Reason.ENDPOINT_GONE),
    ]
    assert not [c for c in log.connections if c.reused and 2100 * MS < c.at_ns < 3 * SECOND_NS]
    assert figures(log)["reused_failed"] == 2
    assert log.connections[-1].reused and log.connections[-1].disposition is Fate.DELIVERED
    # with retries the same requests are sent again over new connections
    again = simulate(
        events + POOL % ", keepAlive: {connections: 2}, connectTimeout: 4s, retries: {count: 9}", "duration=8s"
    )
    assert lost(again) == [] and len(again.connections) == len(log.connections)
    assert [c.tries > 1 for c in again.connections[20:22]] == [True, True]


def test_idle_and_old_connections_are_closed_by_the_client() -> None:
    for field, seldom, opened in (
        ("idleTimeout: 900ms", 1, 6),
        ("idleTimeout: 1100ms", 1, 1),
        ("maxAge: 2s", 1, 3),
        ("idleTimeout: 900ms", 10, 1),
    ):
        traffic = POOL.replace("perSecond: 10", f"perSecond: {seldom}") % f", keepAlive: {{{field}}}"
        log = simulate(traffic, "duration=6s")
        assert sum(not c.reused for c in log.connections) == opened, field
        assert lost(log) == []


# ------------------------------------------------------------------------------------------------------- happy eyeballs


DUAL = (
    "nodes.ipFamilies=[IPv4, IPv6]",
    "objects[0].spec.ipFamilies=[IPv4, IPv6]",
    "objects[0].spec.ipFamilyPolicy=RequireDualStack",
    "duration=4s",
)
BOTH = "traffic: [{name: t, from: nodes, nodes: [node-1], service: web, perSecond: 5, happyEyeballs: {%s}%s}]\n"
#: a slice by hand for one family; the other family has no endpoint and refuses
ONE_FAMILY = """\
objects:
  - apiVersion: v1
    kind: Service
    metadata: {name: web}
    spec: {type: NodePort, clusterIP: 172.30.0.10, ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack,
           externalTrafficPolicy: Local, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
  - apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata: {name: web-4, labels: {kubernetes.io/service-name: web}}
    addressType: IPv4
    ports: [{name: "", port: 8080}]
    endpoints: [{addresses: [10.180.1.2], nodeName: node-1}, {addresses: [10.180.2.2], nodeName: node-2}]
"""
FOUR_ONLY = HEAD[: HEAD.index("objects:")] + ONE_FAMILY


def test_both_families_work_and_ipv6_is_first() -> None:
    log = simulate(BOTH % ("", ""), *DUAL)
    assert {c.disposition for c in log.connections} == {Fate.DELIVERED}
    assert all(c.endpoint.startswith("[") and c.connect_time_ns == 0 for c in log.connections)
    four = simulate(BOTH % ("", ", ipFamily: IPv4"), *DUAL)
    assert not any(c.endpoint.startswith("[") for c in four.connections)


def test_a_refusal_starts_the_other_family_at_once_and_silence_after_the_delay() -> None:
    refused = simulate(BOTH % ("", ""), DUAL[0], DUAL[3], "icmpRateLimit=false", head=FOUR_ONLY)
    assert {(c.disposition, c.endpoint[:7], c.connect_time_ns) for c in refused.connections} == {
        (Fate.DELIVERED, "10.180.", 0)
    }
    # from outside, a node without endpoint for the Local policy drops: the other family has its turn after the delay
    outside = "traffic: [{name: t, service: web, via: nodePort, nodes: [node-1], perSecond: 5, stop: 3s, happyEyeballs: {%s}}]\n"
    six = ONE_FAMILY.replace("web-4", "web-6").split("  - apiVersion: discovery")[1].replace("IPv4", "IPv6")
    six = six.replace(
        "{addresses: [10.180.1.2], nodeName: node-1}, {addresses: [10.180.2.2]", '{addresses: ["fd00:10:180:2::2"]'
    )
    head = FOUR_ONLY + "  - apiVersion: discovery" + six
    for delay, late in (("", 250), ("delay: 400ms", 400)):
        silent = simulate(outside % delay, DUAL[0], DUAL[3], head=head)
        ends = Counter((c.disposition, c.connect_time_ns) for c in silent.connections)
        assert ends == {(Fate.DELIVERED, late * MS): 15}


# -------------------------------------------------------------------------------------------------- what goes together


@pytest.mark.parametrize(
    ("fields", "settings", "message"),
    [
        (", retries: {count: 1}", (), "retries goes with connectTimeout"),
        (", keepAlive: {}, sourcePorts: 1", (), "go with fresh ports"),
        (", keepAlive: {}, long: {lasts: 1s}", (), "expected long or keepAlive"),
        (", happyEyeballs: {}", (), "happyEyeballs: the Service has one family only, IPv4"),
        (", happyEyeballs: {}, clientNetwork: 203.0.113.0/24", DUAL[:3], "happyEyeballs goes with both families"),
        (
            ", keepAlive: {}",
            ("objects[0].spec.ports=[{port: 80, targetPort: 8080, protocol: UDP, nodePort: 30080}]",),
            "pools hold TCP connections; the port is UDP",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(fields: str, settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate(NODE_1 % fields, *settings)
