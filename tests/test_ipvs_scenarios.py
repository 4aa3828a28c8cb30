"""The built-in scenarios of ipvs mode, in the other modes and under other schedulers as well.

What is expected follows from the definitions in IPVS-6, IPVS-12, IPVS-13 and IPVS-14, worked out by hand.
"""

from collections import Counter
from functools import cache

import pytest

from kpsim.addresses import parse_ip
from kpsim.scenario import load_scenario
from kpsim.simulation import run
from kpsim.simulation.runlog import Connection, Fate, HappeningKind, Reason, RunLog
from kpsim.units import MILLISECOND_NS, SECOND_NS

MODES = ("ipvs", "iptables", "nftables")
DELETED_NS = 40 * SECOND_NS  #: the pod of scheduler-choice; its server drains 80 ms later
DRAINING_NS = DELETED_NS + 80 * MILLISECOND_NS


@cache
def rollout(mode: str) -> RunLog:
    return run(load_scenario("graceful-termination", mode=mode))


@cache
def spread(scheduler: str) -> RunLog:
    return run(load_scenario("scheduler-choice", settings=(f"proxy.ipvs.scheduler={scheduler}",)))


def of(log: RunLog, traffic: str) -> list[Connection]:
    return [c for c in log.connections if c.traffic == traffic]


def happened(log: RunLog, *kinds: HappeningKind) -> list[tuple[int, str, str]]:
    return [(h.at_ns, h.subject, h.detail) for h in log.happenings if h.kind in kinds]


# ---------------------------------------------------------------------------------------------------- graceful-termination


@pytest.mark.parametrize("mode", MODES)
def test_a_pod_that_is_deleted_keeps_its_connections_and_gets_no_other(mode: str) -> None:
    log = rollout(mode)
    gone = happened(log, HappeningKind.POD_GONE)
    assert [name for _, name, _ in gone] == ["shop/web-1", "shop/web-2"]
    # pods are deleted when their successors are ready, 2 s after the rollout; 60 s later they end
    assert [92 < at_ns / SECOND_NS < 97 for at_ns, _, _ in gone] == [True, True]
    assert {c.disposition for name in ("requests", "streams") for c in of(log, name)} == {Fate.DELIVERED}
    old = {c.endpoint for c in log.connections if c.service == "shop/web:http" and c.at_ns < 30 * SECOND_NS}
    later = [c for c in log.connections if c.service == "shop/web:http" and c.at_ns >= 37 * SECOND_NS]
    assert len(old) == 2 and later and not {c.endpoint for c in later} & old
    # some streams of an old pod were open when it got no more connections
    assert any(c.endpoint in old and (c.closes_ns or 0) > 60 * SECOND_NS for c in of(log, "streams"))


@pytest.mark.parametrize("mode", MODES)
def test_no_mode_keeps_a_pod_for_its_connections(mode: str) -> None:
    """kube-proxy's graceful termination is about the real server; the kubelet ends the pod (IPVS-6)."""
    sessions = of(rollout(mode), "sessions")
    assert len(sessions) == 15
    assert {(c.disposition, c.cause) for c in sessions} == {(Fate.FAILED, Reason.ENDPOINT_GONE)}
    ended = {c.endpoint: c.broken_ns for c in sorted(sessions, key=lambda c: c.broken_ns or 0, reverse=True)}
    assert all(at_ns is not None and at_ns > 92 * SECOND_NS for at_ns in ended.values())


def test_ip_vs_forgets_a_silent_connection_and_connection_tracking_does_not() -> None:
    """tcpTimeout is 40 s, a packet comes each minute (IPVS-12.3). Others wait for a day (CFG-4.2)."""
    broken = of(rollout("ipvs"), "idle")
    assert [(c.cause, (c.broken_ns or 0) - c.at_ns) for c in broken] == [(Reason.FORGOTTEN, 60 * SECOND_NS)] * 5
    for mode in ("iptables", "nftables"):
        assert [c.disposition for c in of(rollout(mode), "idle")] == [Fate.DELIVERED] * 5
    cured = run(load_scenario("graceful-termination", settings=("proxy.ipvs.tcpTimeout=70s", "duration=80s")))
    assert {c.broken_ns for c in of(cured, "idle")} == {None}


def test_a_drained_server_is_deleted_at_the_first_look_after_its_last_connection_is_forgotten() -> None:
    log = rollout("ipvs")
    begun, ended = (happened(log, kind) for kind in (HappeningKind.SERVER_DRAINING, HappeningKind.SERVER_DELETED))
    # the clients dial node-1's node port; servers without connections, as of the cluster IP, are deleted at once (IPVS-6.1)
    where = "virtual server 192.168.0.1:30080/TCP"
    assert [what for _, _, what in begun] == [f"10.180.1.2:8080 of {where}", f"10.180.2.2:8080 of {where}"]
    assert {node for _, node, _ in (*begun, *ended)} == {"node-1"}
    assert sorted(what for _, _, what in ended) == sorted(what for _, _, what in begun)
    # streams that were opened before 33 s are closed before 73 s. TIME_WAIT holds 120 s (IPVS-12): later than 180 s, the third
    # look. sessions of a pod that is gone go on for 40 s after their last packet, tcpTimeout
    started_ns = min(sync.start_ns for sync in log.syncs)
    assert {(at_ns - started_ns) // SECOND_NS for at_ns, _, _ in ended} == {240}
    for mode in ("iptables", "nftables"):
        assert happened(rollout(mode), HappeningKind.SERVER_DRAINING, HappeningKind.SERVER_DELETED) == []


# -------------------------------------------------------------------------------------------------------- scheduler-choice


def before(log: RunLog, traffic: str) -> Counter[str]:
    return Counter(c.endpoint for c in of(log, traffic) if c.at_ns < DELETED_NS)


def open_at(log: RunLog, at_ns: int) -> Counter[str]:
    return Counter(c.endpoint for c in of(log, "homes") if c.at_ns < at_ns < (c.open_until_ns or 0))


def drained_endpoint(log: RunLog) -> str:
    ((_, _, what),) = happened(log, HappeningKind.SERVER_DRAINING)
    return what.partition(" ")[0]


def test_round_robin_counts_connections_whatever_they_cost() -> None:
    log = spread("rr")
    assert sorted((before(log, "office") + before(log, "homes")).values()) == [40] * 4
    # four connections a second to four servers: the long one has the same turn each second
    assert list(before(log, "homes").values()) == [40]
    assert len(before(log, "office")) == 3


def test_least_connections_spreads_the_open_ones() -> None:
    """A closed connection counts 1, an open one 257: fewer than 160 closed ones weigh less than one open one (IPVS-14)."""
    log = spread("lc")
    for second in range(20, 40):
        assert sorted(open_at(log, second * SECOND_NS + MILLISECOND_NS).values()) == [5] * 4, second
    assert {c.disposition for c in log.connections} == {Fate.DELIVERED}


def bucket(client: str) -> int:
    """The bucket of sh (IPVS-14): of 256, that are filled in turn with the servers of the list."""
    parsed = parse_ip(client)
    assert parsed is not None
    return (parsed[1] * 0x61C88647 % 2**32) >> 24


def test_source_hashing_binds_a_client_to_its_bucket() -> None:
    log = spread("sh")
    server_of = {bucket(c.source_ip) % 4: c.endpoint for c in log.connections if c.at_ns < DELETED_NS}
    assert len(set(server_of.values())) == 4
    for c in log.connections:
        if c.at_ns < DELETED_NS:
            assert c.endpoint == server_of[bucket(c.source_ip) % 4]
    # one address, one server: the three connections of each second
    assert list(before(log, "office").values()) == [120]
    # its buckets stay those of the draining server, so their clients are refused
    drained = drained_endpoint(log)
    for c in log.connections:
        if c.at_ns >= DRAINING_NS:
            meant = server_of[bucket(c.source_ip) % 4]
            told = (c.disposition, c.cause)
            assert told == (
                (Fate.REJECTED, Reason.SERVER_DRAINING) if meant == drained else (Fate.DELIVERED, Reason.NONE)
            )
            assert meant in (drained, c.endpoint)
    assert any(c.disposition is Fate.REJECTED for c in log.connections)


def test_maglev_spreads_the_ports_of_one_address_and_refuses_the_draining_servers_share() -> None:
    log = spread("mh")
    office = before(log, "office")
    # 120 draws of one in four: standard deviation 4.7
    assert len(office) == 4 and all(15 <= count <= 45 for count in office.values())
    later = [c for c in log.connections if c.at_ns >= DRAINING_NS]
    refused = [c for c in later if c.disposition is Fate.REJECTED]
    # 79 draws of one in four: standard deviation 3.8
    assert {c.cause for c in refused} == {Reason.SERVER_DRAINING} and 8 <= len(refused) <= 32
    assert {c.traffic for c in refused} == {"office", "homes"}


@pytest.mark.parametrize("scheduler", ["rr", "lc"])
def test_schedulers_that_choose_pass_a_draining_server_over(scheduler: str) -> None:
    log = spread(scheduler)
    drained = drained_endpoint(log)
    later = [c for c in log.connections if c.at_ns >= DRAINING_NS]
    assert drained not in {c.endpoint for c in later}
    assert {c.disposition for c in later} == {Fate.DELIVERED}
