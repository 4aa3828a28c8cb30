"""Shares of endpoints and zones, what a run knows of endpoints, and when shares count as unequal."""

import math
from dataclasses import replace

import pytest
from runlogs import connection, empty, ms, programming
from simulations import MS, simulate

from kpsim.reports.figures import figures
from kpsim.reports.sentences import share_sentence
from kpsim.reports.shares import address_of, imbalances, shares_of
from kpsim.result import run
from kpsim.scenario import parse_scenario
from kpsim.simulation.runlog import Connection, EndpointSpell, Fate, Frontend, Reason, RunLog

FIRST, SECOND = "10.180.1.5:8080", "10.180.2.5:8080"


def test_shares_count_what_was_set_up() -> None:
    """A connection that broke had its endpoint, one that somebody else answered had none, and a lost one neither."""
    counted = shares_of(
        [
            connection(1),
            connection(2, endpoint=SECOND, endpoint_node="node-2", disposition=Fate.FAILED, broken_ns=ms(9)),
            connection(3, disposition=Fate.MISDELIVERED, cause=Reason.MISDELIVERED),
            connection(4, disposition=Fate.FAILED, cause=Reason.ENDPOINT_GONE),
        ],
        {"node-1": "a", "node-2": "b"},
    )
    assert (counted.total, counted.established(FIRST), counted.established(SECOND)) == (2, 1, 1)
    assert counted.largest == 0.5
    assert (counted.of_endpoint("10.180.1.5"), counted.of_endpoint("10.180.9.9:80")) == (0.5, 0.0)
    assert (counted.cross_share, counted.of_zone("b"), counted.cross_share_from("a")) == (0.5, 0.5, 0.5)
    assert math.isnan(counted.cross_share_from("b"))


def test_nodes_without_zone_have_no_part_in_zones() -> None:
    counted = shares_of([connection(1), connection(2, endpoint_node="node-2")], {"node-1": "a"})
    assert (counted.cross_share, counted.of_zone("a")) == (0.0, 1.0)
    assert math.isnan(shares_of([connection(1)], {}).cross_share)


@pytest.mark.parametrize(("endpoint", "address"), [("10.180.1.5:80", "10.180.1.5"), ("[fd00::5]:80", "fd00::5")])
def test_address_of(endpoint: str, address: str) -> None:
    assert address_of(endpoint) == address


# ----------------------------------------------------------------------------------------------------------- imbalance


def shared(first: int, second: int, **changes: object) -> RunLog:
    """So many connections to two endpoints that have been there from the start."""
    inside = {"frontend": Frontend.NODE_PORT, "traffic_policy": "Cluster", **changes}
    sent = [connection(number, **inside) for number in range(first)]
    sent += [connection(first + number, endpoint=SECOND, endpoint_node="node-2", **inside) for number in range(second)]
    spells = [EndpointSpell("shop/web:http", FIRST, "node-1", 0), EndpointSpell("shop/web:http", SECOND, "node-2", 0)]
    return replace(empty(), connections=sent, endpoints=spells)


def test_unequal_shares_are_said() -> None:
    (found,) = imbalances(shared(300, 100))
    assert [(endpoint, share) for endpoint, _, share in found.shares] == [(FIRST, 0.75), (SECOND, 0.25)]
    text = share_sentence(found)
    assert "10.180.1.5:8080 (node-1) 75.0 %" in text and "equal shares would be 50.0 %" in text
    assert "affinity" not in text
    (sticky,) = imbalances(shared(300, 100, session_affinity=True))
    assert "Session affinity keeps 1 client with their endpoint" in share_sentence(sticky)


def test_flows_that_entries_hold_are_said() -> None:
    (found,) = imbalances(shared(300, 100, new_flow=False))
    assert "Connection entries keep most of them where they were" in share_sentence(found)
    (drawn,) = imbalances(shared(300, 100))
    assert "entries" not in share_sentence(drawn)


def test_an_endpoint_that_gets_nothing_is_unequal_too() -> None:
    (found,) = imbalances(shared(100, 0))
    assert [share for _, _, share in found.shares] == [1.0, 0.0]


def test_chance_few_connections_and_the_local_policy_are_no_imbalance() -> None:
    assert imbalances(shared(52, 48)) == []
    assert imbalances(shared(60, 50)) == []  # 2 standard deviations above a half
    assert imbalances(shared(30, 10)) == []
    assert imbalances(shared(300, 100, traffic_policy="Local")) == []
    # with affinity no connection is drawn anew, so chance is no excuse
    assert len(imbalances(shared(60, 50, session_affinity=True))) == 0  # 9 % above equal shares
    assert len(imbalances(shared(60, 40, session_affinity=True))) == 1


def test_only_the_time_since_the_last_change_counts() -> None:
    log = shared(300, 300)  # the second endpoint's 300 come last
    late = replace(programming(250, (1, 1, 1, 47)), service="shop/web")
    (found,) = imbalances(replace(log, programming=[late]))
    assert found.since_ns == ms(300) and found.shares[0][:1] == (SECOND,)
    gone = [replace(log.endpoints[0], until_ns=ms(300)), log.endpoints[1]]
    assert imbalances(replace(log, endpoints=gone)) == []  # one endpoint is left


# ------------------------------------------------------------------------------------------------------------ of a run


def test_a_run_knows_its_endpoints_and_when_they_were_ready() -> None:
    log = simulate("events: [{at: 5s, scale: {workload: web, replicas: 1}}]\n", "duration=10s")
    (stays, goes) = log.endpoints
    assert (stays.service, stays.endpoint, stays.node, stays.from_ns, stays.until_ns) == (
        "default/web", "10.180.1.2:8080", "node-1", 0, None,
    )  # fmt: skip
    # 5.000 deleted, +7 written, +13 seen by the controller, +17 the slice is written: the pod is terminating, so not ready
    assert (goes.endpoint, goes.until_ns) == ("10.180.2.2:8080", 5037 * MS)


def test_expectations_about_endpoints_and_zones() -> None:
    text = """
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: shares}
duration: 10s
nodes: {count: 2, zones: [a, b]}
workloads:
  - {name: web, replicas: 2, ports: [{containerPort: 8080}]}
  - {name: idle, replicas: 1}
objects:
  - apiVersion: v1
    kind: Service
    metadata: {name: web}
    spec: {clusterIP: 172.30.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
traffic: [{name: t, from: nodes, nodes: [node-1], service: web, perSecond: 100}]
expect:
  - endpoints."10.180.1.2".share between 40% and 60%
  - services.default/web.endpoints."10.180.2.2:8080".share > 0.4
  - traffic.t.endpoints."10.180.2.2".established > 400
  - zones.cross_share between 0.4 and 0.6
  - zones."a".share between 0.4 and 0.6
"""
    result = run(parse_scenario(text, "shares.yaml"))
    assert [str(each) for each in result.expectations if not each.holds] == []
    found = figures(result.log)
    assert found['endpoints."10.180.1.2".share'] + found['endpoints."10.180.2.2".share'] == pytest.approx(1)
    assert found["zones.cross_share"] == found['endpoints."10.180.2.2".share']  # node-2 is in the other zone


def answered(log: RunLog) -> list[Connection]:
    return [c for c in log.connections if c.established]


def test_an_endpoint_that_nobody_was_sent_to_has_a_share_of_nothing() -> None:
    """internalTrafficPolicy Local keeps node-1's traffic on node-1."""
    traffic = "traffic: [{name: t, from: nodes, nodes: [node-1], service: web, perSecond: 20}]\n"
    log = simulate(traffic, "duration=5s", "objects[0].spec.internalTrafficPolicy=Local")
    found = figures(log)
    assert len(answered(log)) == 100
    assert (found['endpoints."10.180.1.2".share'], found['endpoints."10.180.2.2".share']) == (1.0, 0.0)
