"""TCP clients that repeat a SYN without answer, as Linux does after 1, 3, 7, 15, 31 and 63 s (CT-9)."""

from collections import Counter

import pytest
from simulations import MS, simulate

from kpsim.errors import InputError
from kpsim.reports.figures import figures
from kpsim.reports.local_policy import local_drop_windows
from kpsim.reports.sentences import traffic_sentence
from kpsim.simulation.runlog import Fate, Reason
from kpsim.units import SECOND_NS

#: node-1's only local endpoint is away for a while; its replacement starts for a second (CT-3.4: a drop leaves no entry)
AWAY = (
    "objects[0].spec.externalTrafficPolicy=Local",
    "duration=20s",
    "events=[{at: 5s, deletePods: {workload: web, nodes: [node-1], force: true}}]",
)
CLIENTS = "traffic: [{name: t, service: web, via: nodePort, nodes: [node-1], perSecond: 20, clients: 50%s}]\n"


def test_a_drop_costs_delay_and_not_the_connection() -> None:
    once, again = simulate(CLIENTS % "", *AWAY), simulate(CLIENTS % ", connectTimeout: 5s", *AWAY)
    dropped = [c for c in once.connections if c.cause is Reason.NO_LOCAL_ENDPOINTS]
    assert len(again.connections) == len(once.connections) == 400
    late = [c for c in again.connections if c.syn_retries]
    assert [(c.at_ns, c.client) for c in late] == [(c.at_ns, c.client) for c in dropped] != []
    assert {c.disposition for c in late} == {Fate.DELIVERED}
    # each is as late as the first repetition that finds an endpoint: rules in force again from the last drop on, about
    back_ns = dropped[-1].at_ns
    for c in late:
        wait_ns = {1: SECOND_NS, 2: 3 * SECOND_NS}[c.syn_retries]
        before_ns = {1: 0, 2: SECOND_NS}[c.syn_retries]
        assert c.at_ns + wait_ns > back_ns >= c.at_ns + before_ns
    found = figures(again)
    assert (found["retried"], found["retried_established"], found["dropped"]) == (len(late), len(late), 0)
    assert f"; {len(late)} with a repeated SYN" in traffic_sentence(again)
    assert local_drop_windows(again) == []
    # what a pod that is gone was sent is refused or led astray, not dropped: its entry stays (CT-3.5)
    gone = [c for c in once.connections if c.cause is Reason.ENDPOINT_GONE]
    assert [c.at_ns for c in again.connections if c.disposition is Fate.FAILED] == [c.at_ns for c in gone]


def test_a_client_gives_up_at_its_timeout() -> None:
    never = ("objects[0].spec.externalTrafficPolicy=Local", "workloads[0].placement={nodes: [node-2]}", "duration=80s")
    stop = CLIENTS.replace("perSecond: 20", "perSecond: 1, stop: 1s")
    tries = {}
    for timeout in ("1s", "1001ms", "7s", "8s", "64s", "10m"):
        (c,) = simulate(stop % f", connectTimeout: {timeout}", *never).connections
        assert (c.disposition, c.cause, c.at_ns) == (Fate.DROPPED, Reason.NO_LOCAL_ENDPOINTS, 0)
        tries[timeout] = c.syn_retries
    assert tries == {"1s": 0, "1001ms": 1, "7s": 2, "8s": 3, "64s": 6, "10m": 6}


def test_a_refusal_ends_the_attempt_and_silence_does_not() -> None:
    """Without endpoints a client is refused 6 times at once, then once a second (K-3.4); a repeated SYN may be refused."""
    log = simulate(
        CLIENTS.replace("clients: 50", "clients: 1") % ", connectTimeout: 8s", "workloads[0].replicas=0", "duration=3s"
    )
    ends = Counter((c.disposition, c.syn_retries > 0) for c in log.connections)
    assert ends[Fate.REJECTED, False] >= 6
    assert all(c.syn_retries > 0 for c in log.connections if c.disposition is Fate.DROPPED and c.at_ns < 1900 * MS)


def test_a_node_that_is_off_and_a_load_balancer_without_node_are_silent() -> None:
    events = "events: [{at: 2s, restartProxy: {down: 10s}}]\nloadBalancer: {interval: 1s, unhealthyThreshold: 1, healthyThreshold: 1}\n"
    balanced = (
        "objects[0].spec.type=LoadBalancer",
        "objects[0].status={loadBalancer: {ingress: [{ip: 198.51.100.10}]}}",
        "duration=40s",
    )
    traffic = "traffic: [{name: t, service: web, via: loadBalancer, perSecond: 10, stop: 12s, connectTimeout: 20s}]\n"
    log = simulate(events + traffic, *balanced)
    assert {c.disposition for c in log.connections} == {Fate.DELIVERED}
    assert {c.syn_retries for c in log.connections} >= {0, 1, 2, 3, 4}


def test_long_connections_begin_when_they_are_set_up() -> None:
    text = CLIENTS.replace("perSecond: 20", "perSecond: 20, stop: 6s") % ", connectTimeout: 5s, long: {lasts: 4s}"
    log = simulate(text, *AWAY)
    late = [c for c in log.connections if c.syn_retries]
    assert late and {(c.disposition, c.broken_ns) for c in late} == {(Fate.DELIVERED, None)}


@pytest.mark.parametrize(
    ("field", "settings", "message"),
    [
        (", connectTimeout: 5s, sourcePorts: 2", (), "connectTimeout goes with a fresh port"),
        (
            ", connectTimeout: 5s",
            ("objects[0].spec.ports=[{port: 80, targetPort: 8080, protocol: UDP, nodePort: 30080}]",),
            "connectTimeout: only TCP clients repeat their first packet; the port is UDP",
        ),
    ],
)
def test_what_connect_timeout_goes_with(field: str, settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate(CLIENTS % field, *settings)
