"""Expected losses against runs: the mean over many seeds lies around them; and what is refused because something else decides."""

from fractions import Fraction
from statistics import fmean, stdev

import pytest

import kpsim
from kpsim.errors import InputError
from kpsim.reports.expected import expected_json, expected_text, over_seeds_sentence
from kpsim.scenario import parse_scenario
from kpsim.simulation import run
from kpsim.simulation.expected import Expected, expected_losses
from kpsim.simulation.runlog import Fate, Reason
from kpsim.units import MILLISECOND_NS, SECOND_NS

HEAD = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: odds}
duration: 3s
nodes: {count: 2}
delays: {watchDelivery: 700ms, sync: {base: 20ms, perRule: 0s}}
workloads:
  - {name: web, replicas: 3, ports: [{containerPort: 8080}], startup: {delay: 400ms}}
objects:
  - apiVersion: v1
    kind: Service
    metadata: {name: web}
    spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""
CRASH = "events: [{at: 1s, crash: {workload: web, count: 1}}]\n"
TRAFFIC = "traffic:\n  - {{name: t, {}, service: web, perSecond: 6, arrivals: poisson}}\n"
NODES, PODS, BALANCER = "from: nodes", "from: pods, workload: web", "from: outside, via: loadBalancer, clients: 3"
NODE_PORT = "from: outside, via: nodePort, clients: 3"


def expected(text: str, *settings: str, head: str = HEAD) -> Expected:
    return expected_losses(parse_scenario(head + text, "odds.yaml", settings=settings))


@pytest.mark.parametrize("sender", [NODES, BALANCER], ids=["nodes", "load balancer"])
def test_the_mean_of_many_seeds_lies_around_the_expected_losses(sender: str) -> None:
    scenario = parse_scenario(HEAD + CRASH + TRAFFIC.format(sender), "odds.yaml")
    apart, total = [], 0.0
    for seed in range(1, 11):
        lost = sum(c.disposition is not Fate.DELIVERED for c in run(scenario, seed=seed).connections)
        computed = float(expected_losses(scenario.with_seed(seed)).lost)  # for the same course of the cluster
        apart.append(lost - computed)
        total += computed
    assert total > 3
    assert abs(fmean(apart)) < 2.5 * stdev(apart) / len(apart) ** 0.5


def test_expected_losses_are_rate_times_odds_times_time() -> None:
    found = expected("events: [{at: 1s, crash: {workload: web, count: 1, restarts: false}}]\n" + TRAFFIC.format(NODES))
    # the crashed pod stays in the rules until its status (10 + 5 ms), the slice (5 + 10 ms), the watch (700 ms) and a sync (20 ms) are done
    lost = [part for part in found.parts if part.disposition is not Fate.DELIVERED]
    assert {(part.cause, part.from_ns, part.until_ns) for part in lost} == {
        (Reason.ENDPOINT_GONE, SECOND_NS, lost[0].until_ns)
    }
    length = Fraction(lost[0].until_ns - SECOND_NS, SECOND_NS)
    assert found.lost == 6 * length * Fraction(1, 3)  # one of three endpoints
    assert found.sent == 6 * 3
    assert sum((part.connections for part in found.parts), Fraction(0)) == found.sent


def test_a_load_balancer_shares_its_connections_among_the_nodes_in_rotation() -> None:
    found = expected(TRAFFIC.format(BALANCER), "workloads[web].placement={nodes: [node-1]}")
    assert [(p.node, p.disposition, p.connections) for p in found.parts] == [("node-1", Fate.DELIVERED, 18)]
    # /healthz passes at both nodes: with Cluster both are in rotation
    cluster = expected(TRAFFIC.format(BALANCER), "objects[web].spec.externalTrafficPolicy=Cluster")
    assert {(p.node, p.connections) for p in cluster.parts} == {("node-1", 9), ("node-2", 9)}


def test_who_sends_when_and_to_whom_counts() -> None:
    text = TRAFFIC.format(f"{NODE_PORT}, start: 1s, stop: 2s")
    assert expected(text).sent == 6
    # node-2 has no endpoint of its own: half of the connections by node port are dropped there
    alone = expected(text, "workloads[web].placement={nodes: [node-1]}")
    assert alone.lost == 3 and {part.cause for part in alone.parts} == {Reason.NONE, Reason.NO_LOCAL_ENDPOINTS}
    ranges = "objects[web].spec.loadBalancerSourceRanges=[203.0.113.0/31]"
    of_clients = expected(TRAFFIC.format(BALANCER), ranges, "objects[web].spec.externalTrafficPolicy=Cluster")
    logged = run(
        parse_scenario(
            HEAD + TRAFFIC.format(BALANCER), "o", settings=[ranges, "objects[web].spec.externalTrafficPolicy=Cluster"]
        )
    )
    refused = {c.client for c in logged.connections if c.disposition is not Fate.DELIVERED}
    assert of_clients.lost == Fraction(18 * len(refused), 3)
    assert (
        expected(
            TRAFFIC.format("from: pods, workload: none"), "workloads=[{name: none, replicas: 0}, {name: web}]"
        ).sent
        == 0
    )


def test_refusals_are_counted_whether_or_not_linux_sends_them() -> None:
    found = expected(TRAFFIC.format(NODES), "workloads[web].replicas=0")
    assert found.of(Fate.REJECTED) == 18
    assert found.notes == ("refusals that Linux's rate limit would hold back count as rejected",)
    assert expected(TRAFFIC.format(NODES), "workloads[web].replicas=0", "icmpRateLimit=false").notes == ()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["traffic[t].long={lasts: 1s}"], ".traffic[0].long: --exact: connections that last"),
        (["traffic[t].connectTimeout=5s"], ".traffic[0].connectTimeout: --exact: a repeated SYN"),
        (["traffic[t].connectTimeout=5s", "traffic[t].retries={count: 1}"], ".traffic[0].retries: --exact: a client"),
        (["traffic[t].keepAlive={}"], ".traffic[0].keepAlive: --exact: requests go over"),
        (["traffic[t].sourcePorts=2"], ".traffic[0].sourcePorts: --exact: sockets"),
        (["traffic[t].perSecond=20000"], ".traffic[0]: --exact: its source ports come around"),
        (["objects[web].spec.sessionAffinity=ClientIP"], "--exact: session affinity of default/web"),
        (["proxy.mode=ipvs"], "--exact: the schedulers of virtual servers"),
        (["proxy.conntrack={maxPerCore: 10, min: 10}"], "node-1 has room for 40 connections"),
        (["beside=[{rules: '# Generated by iptables-save v1.8.9\n*filter\nCOMMIT\n'}]"], "rules beside kube-proxy's"),
    ],
)  # fmt: skip
def test_what_else_decides_is_refused_by_name(settings: list[str], why: str) -> None:
    settings = [*settings, "traffic[t].perSecond=20"] if "room" in why else settings
    with pytest.raises(InputError) as refused:
        expected(TRAFFIC.format(NODES), *settings)
    assert why in str(refused.value)


def test_words_and_plain_values() -> None:
    found = expected(CRASH + TRAFFIC.format(NODES))
    text = expected_text(found)
    assert text.splitlines()[0] == "odds: 3 s, mode iptables, expected losses, not drawn"
    assert "of 18 connections are expected to be lost" in text and "endpoint gone" in text
    plain = expected_json(found)
    assert plain["expected"]["lost"] == pytest.approx(
        sum(p["connections"] for p in plain["parts"] if p["disposition"] != "delivered")
    )
    assert over_seeds_sentence([found, found]).endswith(f"are {float(found.lost):,.2f} in each.")
    assert found.parts[0].until_ns > MILLISECOND_NS


def test_expected_losses_show_themselves_in_a_notebook() -> None:
    found = kpsim.expected("local-rollout", settings=["workloads[web].termination.preStop=0s", "duration=20s"])
    shown = found._repr_html_()
    assert "connections are expected to be lost" in shown and "shop/web:http" in shown and shown.count("<table>") == 2
    assert repr(found).startswith("<local-rollout, seed 1: ")
