"""A connection's trace is the way that its packet took in the run: it ends as the log says, in every mode.

What the log says comes from the run that nobody watched, what the trace says from the same run, run again.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulations import DELAYS, HEAD

from kpsim.errors import InputError
from kpsim.exchange import Verdict
from kpsim.fabric import Whose
from kpsim.result import RunResult, run
from kpsim.retracing.choosing import chosen_losses
from kpsim.retracing.connections import ConnectionTrace, trace_all
from kpsim.scenario import parse_scenario
from kpsim.simulation.runlog import Connection, Fate, Reason
from kpsim.tracing.site import Sender
from kpsim.units import SECOND_NS

MODES = ("iptables", "nftables", "ipvs")
#: what a client is told, by what the log calls it. A refusal that the end itself sends is a failure to the log.
VERDICTS = {
    Fate.DELIVERED: {Verdict.WORKS},
    Fate.MISDELIVERED: {Verdict.MISDELIVERED},
    Fate.REJECTED: {Verdict.REFUSED},
    Fate.DROPPED: {Verdict.REQUEST_LOST, Verdict.ANSWER_LOST},
    Fate.FAILED: {Verdict.REFUSED, Verdict.REQUEST_LOST, Verdict.ANSWER_LOST},
}

SOURCES = """
traffic:
  - {name: outside, service: web, via: nodePort, perSecond: 8, clients: 7}
  - {name: nodes, from: nodes, service: web, perSecond: 3}
  - {name: pods, from: pods, workload: web, service: web, perSecond: 3}
"""
BALANCED = """
traffic:
  - {name: balanced, service: web, via: loadBalancer, perSecond: 12, clients: 9}
"""
PATIENT = """
traffic:
  - {name: outside, service: web, via: nodePort, perSecond: 4, clients: 7, connectTimeout: 2s, retries: {count: 1}}
"""
LONG = """
traffic:
  - {name: long, service: web, via: nodePort, perSecond: 4, long: {lasts: 9s, packetEvery: 700ms}}
  - {name: pooled, from: nodes, service: web, perSecond: 5, keepAlive: {connections: 2}}
"""
UDP = (
    "objects[0].spec.ports=[{port: 80, targetPort: 8080, protocol: UDP, nodePort: 30080}]",
    "workloads[0].ports=[{containerPort: 8080, protocol: UDP}]",
)
SOCKETS = """
traffic:
  - {name: kept, from: nodes, service: web, perSecond: 10, sourcePorts: 1}
"""
LOCAL = "objects[0].spec.externalTrafficPolicy=Local"
BALANCER = (
    "objects[0].spec.type=LoadBalancer",
    "objects[0].status={loadBalancer: {ingress: [{ip: 198.51.100.10}]}}",
    "loadBalancer={interval: 1s}",
)
DELETED = "events=[{at: 2s, deletePods: {workload: web, force: true}}]"
NONE = "events=[{at: 2s, scale: {workload: web, replicas: 0}}]"
DOWN = "events=[{at: 2s, nodeDown: {nodes: [node-2]}}]"
CASES = {
    "pods that end": (SOURCES, (NONE,)),
    "the Local policy": (SOURCES, (DELETED, LOCAL)),
    "a load balancer": (BALANCED, (DELETED, LOCAL, *BALANCER)),
    "a node that is off": (BALANCED, (DOWN, *BALANCER)),
    "clients that try again": (PATIENT, (NONE, LOCAL)),
    "connections that last": (LONG, (DELETED,)),
    "a node that takes connections with it": (LONG, (DOWN,)),
    "entries that outlive the rules": (SOCKETS, (NONE, *UDP)),
    "affinity": (SOURCES, (NONE, "objects[0].spec.sessionAffinity=ClientIP")),
}


def ran(text: str, *given: str, seed: int = 1) -> RunResult:
    return run(parse_scenario(HEAD + DELAYS + text, "test.yaml", settings=("duration=6s", *given)), seed=seed)


def traces(result: RunResult, connections: list[Connection]) -> list[ConnectionTrace]:
    return trace_all(result.scenario, result.log, {(c.traffic, c.number): c.decisive_ns for c in connections})


def ends_as_logged(found: ConnectionTrace) -> None:
    c, trace = found.connection, found.trace
    assert found.at_ns == c.decisive_ns and found.seals
    if trace is None:
        assert c.cause in (Reason.NO_HEALTHY_NODE, Reason.NODE_DOWN, Reason.CUT)
        return
    last = trace.journey.hops[-1].walk
    assert str(last.refused_by or "") == c.rule or not c.rule
    if c.node:
        assert c.node in {hop.node for hop in trace.journey.hops}
    if trace.exchange is None:  # a packet of a connection that was open
        assert c.broken_ns is not None or c.reused
        return
    assert trace.exchange.verdict in VERDICTS[c.disposition], (c, trace.exchange.verdict)
    if c.endpoint:
        assert f"{trace.journey.packet.destination}:{trace.journey.packet.dport}" == c.endpoint
    assert (
        (trace.sender is Sender.EXTERNAL)
        == (trace.journey.origin.whose is Whose.OUTSIDE)
        == c.client.startswith("203.")
    )
    assert all(hop.walk.trace for hop in trace.journey.hops), "every node's steps are kept"
    assert found.text().splitlines()[0].endswith(f"{c.disposition}{f' ({c.cause})' if c.cause else ''}") or c.cause


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_every_lost_connection_ends_in_its_trace_as_in_the_log(case: str, mode: str) -> None:
    text, given = CASES[case]
    result = ran(text, *given, f"proxy.mode={mode}")
    lost = [c for c in result.log.connections if c.lost]
    assert lost, "the case loses something"
    kept = [c for c in result.log.connections if not c.lost][-3:]
    for found in traces(result, lost + kept):
        ends_as_logged(found)


@given(
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 2**32),
    policy=st.sampled_from(["Local", "Cluster"]),
    replicas=st.integers(1, 3),
    grace=st.sampled_from(["0s", "1s", "3s"]),
    at=st.integers(0, 3000),
)
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_traces_of_drawn_rollouts_end_as_the_log_says(
    mode: str, seed: int, policy: str, replicas: int, grace: str, at: int
) -> None:
    result = ran(
        BALANCED, *BALANCER, f"proxy.mode={mode}", f"objects[0].spec.externalTrafficPolicy={policy}", "duration=5s",
        f"workloads[0].replicas={replicas}", f"workloads[0].termination={{grace: {grace}}}",
        f"events=[{{at: {at}ms, rollout: {{workload: web, maxSurge: 0, maxUnavailable: 1}}}}]", seed=seed,
    )  # fmt: skip
    for found in traces(result, [c for c in result.log.connections if c.lost]):
        ends_as_logged(found)


def test_watching_changes_nothing() -> None:
    """The run that is watched has the log of the one that is not, as far as it goes."""
    from kpsim.retracing.rerun import Rerun

    result = ran(SOURCES, DELETED, LOCAL)
    everyone = {(c.traffic, c.number): result.log.duration_ns for c in result.log.connections}
    rerun = Rerun(result.scenario, everyone)
    rerun.until(result.log.duration_ns)
    assert rerun.run.log.connections == result.log.connections
    assert rerun.run.log.happenings == result.log.happenings
    assert set(rerun.found) == set(everyone)


# ------------------------------------------------------------------------------------------------------------- naming


@pytest.fixture(scope="module")
def lossy() -> RunResult:
    """Clients of a Service with the Local policy dial node ports while its pods are replaced."""
    return ran(SOURCES, DELETED, LOCAL)


def test_connections_are_numbered_from_one_in_the_order_of_their_source(lossy: RunResult) -> None:
    for source in lossy.log.traffic:
        numbers = [c.number for c in lossy.log.connections if c.traffic == source]
        assert numbers == list(range(1, len(numbers) + 1))
    assert lossy.frames()["connections"].number.tolist() == [c.number for c in lossy.log.connections]


def test_requests_over_open_connections_have_numbers_of_their_own() -> None:
    result = ran(LONG)
    pooled = [c for c in result.log.connections if c.traffic == "pooled"]
    assert any(c.reused for c in pooled)
    assert [c.number for c in pooled] == list(range(1, len(pooled) + 1))
    reused = next(c for c in pooled if c.reused)
    found = result.trace(reused.name)
    assert found.trace is not None and found.trace.exchange is None
    assert "conntrack: established" in found.text() or "conntrack" in found.text()


def test_a_source_alone_means_its_first_lost_connection(lossy: RunResult) -> None:
    lost = [c for c in lossy.log.connections if c.traffic == "outside" and c.lost]
    assert lossy.trace("outside").connection == lost[0]
    assert lossy.trace("outside", at=lost[3].at_ns).connection == lost[3]


@pytest.mark.parametrize(
    ("name", "at", "words"),
    [
        ("outside#0", None, "expected SOURCE#NUMBER"),
        ("outside#x", None, "expected SOURCE#NUMBER"),
        (f"outside#{'9' * 5000}", None, "expected SOURCE#NUMBER"),
        ("outside#91", None, "outside has the connections 1 to 48"),
        ("outsid#1", None, "no traffic source 'outsid'; did you mean outside?"),
        (7, None, "say of which traffic source: outside, nodes, pods"),
        ("outside#1", "10s", "the run lasts from 0 s to 6 s"),
        ("outside#1", "-1s", "the run lasts from 0 s to 6 s"),
        ("outside#1", "soon", "not a duration"),
        ("outside#41", "1s", "outside#41 begins at 5 s only"),
        ("outside", "5.99s", "outside lost no connection from 5.99 s on"),
    ],
)
def test_what_there_is_not_is_said(lossy: RunResult, name: str | int, at: str | None, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        lossy.trace(name, at)


def test_connections_that_could_not_be_attempted_say_why() -> None:
    result = ran(
        "traffic: [{name: t, from: pods, workload: web, service: web, perSecond: 5}]", "workloads[0].replicas=0"
    )
    with pytest.raises(InputError, match="t could not attempt it: no pod of workload web runs"):
        result.trace(3)


def test_a_time_picks_an_earlier_packet_of_the_connection() -> None:
    """A client repeats its SYN after 1 and 3 s (CT-9)."""
    result = ran(PATIENT, DELETED, LOCAL, "duration=6s")
    late = next(c for c in result.log.connections if c.syn_retries >= 1 and c.tries == 1)
    first = result.trace(late.name, at=late.at_ns)
    assert first.at_ns == late.at_ns and not first.seals
    assert first.trace is not None and first.trace.exchange is not None
    assert first.trace.exchange.verdict is Verdict.REQUEST_LOST
    assert f"{late.name} sends this packet; in the end it is {late.disposition}" in first.text()
    assert result.trace(late.name).at_ns == late.last_try_ns > late.at_ns


# ------------------------------------------------------------------------------------------------------------- around


def test_around_a_loss_stand_its_causes_and_what_followed() -> None:
    """Pod gone, slice written, rules in force, health check, next probe: each at the time that the log has (CP-1.2)."""
    result = ran(BALANCED, DELETED, LOCAL, *BALANCER)
    c = next(c for c in result.log.connections if c.cause is Reason.NO_LOCAL_ENDPOINTS)
    found = result.trace(c.name)
    spell = next(s for s in result.log.endpoints if s.node == c.node and s.until_ns is not None)
    rules = next(p for p in result.log.programming if p.node == c.node and p.written_ns == spell.until_ns)
    health = next(h for h in result.log.node_health if h.node == c.node and not h.local_usable)
    before = [(each.at_ns, each.what) for each in found.around.before]
    assert before == sorted(before, key=lambda each: each[0])
    assert (
        spell.until_ns,
        f"slice written: {spell.endpoint} ({spell.pod}, {spell.node}) is no ready endpoint any more",
    ) in before
    assert any(
        at == rules.programmed_ns and what.startswith(f"{c.node}: rules in force with {rules.change}")
        for at, what in before
    )
    assert any(at == health.at_ns and "the health check fails" in what for at, what in before)
    (due,) = [each for each in found.around.after if "next probe" in each.what]
    assert c.node in due.what and c.at_ns <= due.at_ns <= c.at_ns + result.scenario.spec.load_balancer.interval_ns
    assert all(each.at_ns > c.at_ns for each in found.around.after)
    lines = found.text().splitlines()
    assert sum(line.startswith("→") for line in lines) == 1


def test_an_entry_that_overrode_the_rules_is_named() -> None:
    result = ran(SOCKETS, NONE, *UDP)
    pinned = next(c for c in result.log.connections if c.pin is not None)
    assert pinned.pin is not None
    found = result.trace(pinned.name)
    assert f"still sends the flow to {pinned.pin.leads_to}; the rules refuse since" in found.text()


# ------------------------------------------------------------------------------------------------------- the cluster


def test_the_cluster_at_a_moment_is_that_of_the_log(lossy: RunResult) -> None:
    for at_ns in (0, 2 * SECOND_NS, 2 * SECOND_NS + 60_000_000, lossy.log.duration_ns):
        cluster = lossy.cluster_at(at_ns)
        ready = {(e.service, e.endpoint) for e in cluster.endpoints if e.ready}
        listed = {
            (s.service.partition(":")[0], s.endpoint)
            for s in lossy.log.endpoints
            if s.from_ns <= at_ns and (s.until_ns is None or s.until_ns > at_ns)
        }
        assert ready == listed
        for row in cluster.in_force:
            ends = [s.end_ns for s in lossy.log.syncs if s.success and s.node == row.node and s.end_ns <= at_ns]
            assert row.since_ns == max(ends)
            late = [p for p in lossy.log.programming if p.node == row.node and p.written_ns <= at_ns < p.programmed_ns]
            assert row.waiting == len(late)
            assert row.oldest_ns == min((p.written_ns for p in late), default=None)


def test_rotation_at_a_moment() -> None:
    result = ran(BALANCED, DOWN, *BALANCER)
    rows = {row.node: row for row in result.cluster_at("6s").rotation}
    out = next(h for h in result.log.node_health if h.node == "node-2" and not h.in_rotation)
    assert rows["node-1"].in_rotation and rows["node-2"].in_rotation is False and out.at_ns < 6 * SECOND_NS
    assert not rows["node-2"].check_passes
    words = result.cluster_at("6s").text()
    assert "the machine is off" in words and "EndpointSlices" in words


# ------------------------------------------------------------------------------------------------------- the command


def test_the_command_prints_what_python_returns(
    lossy: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kpsim.cli import main

    (tmp_path / "test.yaml").write_text(HEAD + DELAYS + SOURCES)
    given = [word for each in ("duration=6s", DELETED, LOCAL) for word in ("--set", each)]

    def printed(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["kpsim", "run", str(tmp_path / "test.yaml"), *given, *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    lost = next(c for c in lossy.log.connections if c.lost)
    assert printed("--trace", lost.name) == f"{lossy.trace(lost.name)}\n"
    assert json.loads(printed("--trace", lost.name, "--format", "json")) == json.loads(
        json.dumps(lossy.trace(lost.name).to_json())
    )
    assert printed("--at", "2.05s") == f"{lossy.cluster_at('2.05s')}\n"
    assert json.loads(printed("--at", "2.05s", "--format", "json")) == lossy.cluster_at("2.05s").to_json()


# ------------------------------------------------------------------------------------------- losses that a page keeps


def test_one_loss_of_each_kind_comes_first() -> None:
    result = ran(SOURCES, DELETED, LOCAL)
    lost = [c for c in result.log.connections if c.lost]
    kinds = {(c.disposition, c.cause, c.node) for c in lost}
    chosen = chosen_losses(result.log, len(kinds))
    assert {(c.disposition, c.cause, c.node) for c in chosen} == kinds
    assert len(chosen_losses(result.log, 2)) == 2
    every = chosen_losses(result.log, 10**6)
    assert len(every) <= 3 * len(kinds) and len({c.name for c in every}) == len(every)
    assert chosen_losses(replace(result.log, connections=[])) == []
