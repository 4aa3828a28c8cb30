"""Clusters in ipvs mode: traces, probes, odds, exchanges and runs name what ip_vs did (IPVS-10, IPVS-11, IPVS-15, PP-10).

What is expected follows from the specification; no kernel at hand has ip_vs.
"""

import json
from collections import Counter
from itertools import pairwise

import pytest
from shop import cluster_text
from simulations import simulate

import kpsim
from kpsim.simulation.runlog import Fate, Reason, RunLog

IPVS = "proxy.mode=ipvs"


@pytest.fixture(scope="module")
def cluster():
    return kpsim.load(text=cluster_text(), mode="ipvs")


def test_a_trace_names_the_virtual_server_its_scheduler_and_its_choice(cluster) -> None:
    traced = str(cluster.trace("node-1", dst="172.30.0.10:80", sender="pod"))
    (line,) = [line for line in traced.splitlines() if "ip_vs: virtual server" in line]
    assert line.strip().startswith("ip_vs: virtual server 172.30.0.10:80/TCP, rr: 10.180.")
    assert line.endswith("(earlier connections are not known, so it may be any server)")
    hooks = [line.strip() for line in traced.splitlines() if line.strip() in ("INPUT", "FORWARD", "POSTROUTING")]
    assert hooks[:2] == ["INPUT", "POSTROUTING"]  # never FORWARD (IPVS-10.2)
    assert "the client gets: a SYN-ACK from 172.30.0.10:80" in traced


def test_without_history_every_endpoint_has_the_same_odds(cluster) -> None:
    traced = str(cluster.trace("node-1", dst="172.30.0.10:80", sender="pod", expand=True))
    after = traced[traced.index("every outcome:") :].splitlines()[1:]
    weights = [line.split()[0] for line in after if line.startswith("  ") and "/" in line.split()[0]]
    assert len(weights) > 1 and weights == [f"1/{len(weights)}"] * len(weights)


EMPTY = """
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: default}
spec: {clusterIP: 172.30.0.99, ports: [{name: http, port: 80}]}
"""


def test_a_service_without_endpoints_is_refused_by_ip_vs() -> None:  # IPVS-11.5
    empty = kpsim.load(text=cluster_text() + EMPTY, mode="ipvs")
    traced = str(empty.trace("node-1", dst="172.30.0.99:80", sender="pod"))
    assert (
        "rejected with icmp-port-unreachable by ip_vs on node-1 (virtual server 172.30.0.99:80/TCP of default/empty:http: "
        "no real server takes the connection)"
    ) in traced
    assert "it has no server" in traced


# --- runs -------------------------------------------------------------------------------------------------------------


def told(log: RunLog) -> Counter[tuple[str, str]]:
    return Counter((each.node, each.endpoint) for each in log.connections)


def test_round_robin_is_exact_at_each_node() -> None:  # IPVS-14
    log = simulate("traffic: [{name: t, from: nodes, service: web, perSecond: 20}]\n", IPVS, "duration=6s")
    assert set(told(log).values()) == {30} and len(told(log)) == 4
    for node in ("node-1", "node-2"):
        chosen = [each.endpoint for each in log.connections if each.node == node]
        assert all(one != other for one, other in pairwise(chosen))


def test_a_client_keeps_its_endpoint_and_clients_are_told_apart() -> None:  # IPVS-11.4
    traffic = "traffic: [{name: t, from: outside, service: web, via: nodePort, perSecond: 20, clients: 4}]\n"
    log = simulate(traffic, IPVS, "duration=6s", "objects[0].spec.sessionAffinity=ClientIP")
    by_client: dict[tuple[str, str], set[str]] = {}
    for each in log.connections:
        by_client.setdefault((each.node, each.client), set()).add(each.endpoint)
    assert all(len(endpoints) == 1 for endpoints in by_client.values())
    assert len({*map(frozenset, by_client.values())}) == 2
    assert {each.affinity_break for each in log.connections} <= {"", "other node"}


GONE = """
events:
  - {at: 3s, deletePods: {workload: web, force: true, nodes: [node-1]}}
traffic:
  - {name: t, from: outside, service: web, via: nodePort, nodes: [node-1], perSecond: 20}
"""


def test_a_local_policy_falls_back_to_other_nodes_whose_answers_bypass_the_service() -> None:  # IPVS-15
    log = simulate(GONE, IPVS, "duration=9s", "objects[0].spec.externalTrafficPolicy=Local")
    lost = [each for each in log.connections if each.disposition is not Fate.DELIVERED]
    assert lost and {each.cause for each in lost} <= {Reason.ENDPOINT_GONE, Reason.ASYMMETRIC_REPLY}
    asymmetric = [each for each in lost if each.cause is Reason.ASYMMETRIC_REPLY]
    assert asymmetric and {each.endpoint_node for each in asymmetric} == {"node-2"}
    assert {each.seen_source_ip for each in asymmetric} == {each.source_ip for each in asymmetric}


def test_an_affine_client_whose_endpoint_is_gone_gets_another() -> None:
    log = simulate(GONE, IPVS, "duration=9s", "objects[0].spec.sessionAffinity=ClientIP")
    breaks = [each.affinity_break for each in log.connections if each.affinity_break]
    first = log.connections[0].endpoint
    gone = first not in {each.endpoint for each in log.connections if each.at_ns > 6 * 10**9}
    assert breaks == (["endpoint gone"] if gone else [])


NOBODY = """
events:
  - {at: 2s, scale: {workload: web, replicas: 0}}
traffic:
  - {name: t, from: nodes, service: web, perSecond: 10}
"""


def test_a_run_names_the_virtual_server_that_refuses() -> None:
    log = simulate(NOBODY, IPVS, "duration=50s", "traffic[0].start=45s")
    assert {each.cause for each in log.connections} == {Reason.NO_ENDPOINTS}
    assert {each.rule for each in log.connections} == {"virtual server 172.30.0.10:80/TCP"}


def test_a_run_is_the_same_every_time() -> None:
    logs = [simulate(GONE, IPVS, "duration=6s").connections for _ in range(2)]
    assert json.dumps(list(map(str, logs[0]))) == json.dumps(list(map(str, logs[1])))
