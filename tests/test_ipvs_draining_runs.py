"""Runs in ipvs mode in which a real server is drained: kube-proxy's list meets the node's own connections (IPVS-6, IPVS-12)."""

from simulations import HEAD

from kpsim.addresses import Family
from kpsim.ipvs.servers import VirtualServerKey
from kpsim.reports.sentences import note_lines
from kpsim.scenario import parse_scenario
from kpsim.simulation import run
from kpsim.simulation.engine import Run
from kpsim.simulation.runlog import HappeningKind
from kpsim.units import SECOND_NS

#: web-2 ends at 10 s with a connection from node-1, which its application serves for 5 minutes
DRAINED = """
events: [{at: 10s, scale: {workload: web, replicas: 1}}]
traffic:
  - name: t
    from: nodes
    nodes: [node-1]
    service: web
    perSecond: 1
    stop: 2s
    long: {lasts: 100s}
"""
WEB = VirtualServerKey(0xAC1E000A, 80, "tcp")  # 172.30.0.10


def weights(*settings: str, node: str = "node-1") -> list[tuple[int, list[int]]]:
    """When the weights of web's real servers on a node changed, in seconds, and what they were from then on."""
    given = (
        "proxy.mode=ipvs",
        "duration=310s",
        "workloads[0].termination={grace: 320s, afterSigterm: 310s}",
        *settings,
    )
    run = Run(parse_scenario(HEAD + DRAINED, "test.yaml", settings=given), seed=1)
    found: list[tuple[int, list[int]]] = []
    for now_ns in run.steps(None):
        told = run.machines.netns(node).programmed[Family.IPV4]
        now = sorted(server.weight for server in told.virtual_servers[WEB].servers)
        if not found or found[-1][1] != now:
            found.append((now_ns // SECOND_NS, now))
    return found


def test_an_open_connection_keeps_its_server_and_so_does_a_closed_one_for_two_minutes() -> None:
    """The list is looked through at 60, 120, 180 s …: the connection closes at 100 s and is forgotten at 220 s."""
    assert weights() == [(0, [1, 1]), (10, [0, 1]), (240, [1])]


def test_a_node_without_a_connection_deletes_the_server_at_once() -> None:  # IPVS-6.1
    assert weights("duration=130s", node="node-2") == [(0, [1, 1]), (10, [1])]


def test_nothing_limits_how_long_a_server_is_kept() -> None:  # IPVS-6.2
    assert weights("traffic[0].long.lasts=400s") == [(0, [1, 1]), (10, [0, 1])]


def test_a_process_that_starts_lists_the_server_again_and_counts_the_minutes_from_its_start() -> None:  # IPVS-6.5
    events = "events=[{at: 10s, scale: {workload: web, replicas: 1}}, {at: 70s, restartProxy: {nodes: [node-1]}}]"
    assert weights(events) == [(0, [1, 1]), (10, [0, 1]), (250, [1])]


def test_a_server_that_comes_back_while_it_drains_is_told_as_a_race() -> None:
    """Deleted and added again (IPVS-6.4): what becomes of its connections is up to the kernel (IPVS-13.4)."""
    text = DRAINED.replace(
        "{at: 10s, scale: {workload: web, replicas: 1}}", "{at: 10s, readiness: {workload: web, for: 5s}}"
    )
    given = ("proxy.mode=ipvs", "proxy.ipvs.minSyncPeriod=1s", "duration=20s")
    log = run(parse_scenario(HEAD + text, "test.yaml", settings=given), seed=1)
    kinds = [h.kind for h in log.happenings if h.subject == "node-1" and "drain" in h.kind]
    assert kinds == [HappeningKind.SERVER_DRAINING, HappeningKind.SERVER_BACK]
    (said,) = note_lines(log)
    assert said.startswith("1 real server came back while draining, the first at 15") and "race" in said
    assert all(c.broken_ns is None for c in log.connections)
