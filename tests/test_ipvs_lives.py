"""The lives of ip_vs' connections on one node (IPVS-11 to IPVS-14), held against the specification.

No kernel that tests run on has ip_vs, so none of this has been compared with a kernel.
"""

from dataclasses import replace

import pytest
from ipvs_nodes import BY_KUBE_PROXY, TCP, connection_of, from_node, ipvs_node, made, told, virtual
from packets import (
    CLIENT,
    CLUSTER_IP,
    OTHER_POD,
    POD,
    REMOTE_POD,
    established,
    flags,
    ip,
    packet,
    replied,
    rule,
    ruleset,
    run,
    table,
    to,
)

from kpsim.conntrack import Ending
from kpsim.ipvs.connections import IpvsTable
from kpsim.ipvs.servers import VirtualServerFlags
from kpsim.ipvs.states import State, Timeouts
from kpsim.netfilter import Cause, Disposition, expand
from kpsim.packetpath.steps import Scheduled, Served, Service
from kpsim.ruleset import NoTrack
from kpsim.units import SECOND_NS

REJECTED, DROPPED, DELIVERED = Disposition.REJECTED, Disposition.DROPPED, Disposition.DELIVERED


# --- connections that end ---------------------------------------------------------------------------------------------


def test_states_and_timers_follow_both_sides():  # IPVS-12
    netns = made([REMOTE_POD])
    first = run(netns, packet(CLIENT, CLUSTER_IP))
    assert (connection_of(netns, CLIENT).state, connection_of(netns, CLIENT).expires_ns) == (
        State.SYN_RECV,
        60 * SECOND_NS,
    )
    run(netns, replied(first), SECOND_NS)
    run(netns, packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK")), 2 * SECOND_NS)
    assert connection_of(netns, CLIENT).expires_ns == 902 * SECOND_NS
    run(netns, replied(first, "FIN ACK"), 3 * SECOND_NS)
    found = connection_of(netns, CLIENT)
    assert (found.state, found.expires_ns) == (State.FIN_WAIT, 123 * SECOND_NS)


def test_timeouts_that_kube_proxy_sets():  # IPVS-2.2
    programmed = replace(told({TCP: virtual([REMOTE_POD])}), ipvs_timeouts=Timeouts(tcp_s=5, tcp_fin_s=7))
    netns = ipvs_node(programmed)
    first = established(netns, packet(CLIENT, CLUSTER_IP))
    assert connection_of(netns, CLIENT).expires_ns == 5 * SECOND_NS
    run(netns, replied(first, "FIN ACK"))
    assert connection_of(netns, CLIENT).expires_ns == 7 * SECOND_NS


def test_an_idle_connection_is_forgotten_with_its_tracked_one():  # IPVS-12.3
    netns = made([REMOTE_POD])
    established(netns, packet(CLIENT, CLUSTER_IP))
    assert netns.conntrack.lookup(run(netns, packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK"))).entry.original, 0)
    late = run(netns, packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK")), 899 * SECOND_NS)
    assert to(late) == (REMOTE_POD, 8080)
    gone = run(netns, packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK")), (899 + 900) * SECOND_NS)
    assert (gone.disposition, to(gone), gone.ct_state) == (DELIVERED, (CLUSTER_IP, 80), "NEW")


def test_answers_too_keep_a_connection():
    netns = made([REMOTE_POD])
    first = established(netns, packet(CLIENT, CLUSTER_IP))
    run(netns, replied(first, "PSH ACK"), 800 * SECOND_NS)
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK")), 1600 * SECOND_NS)) == (REMOTE_POD, 8080)


def test_the_tables_are_cleared_of_what_has_expired():
    netns = made([REMOTE_POD])
    run(netns, packet(CLIENT, CLUSTER_IP))
    assert [gone.ending for gone in netns.collect(60 * SECOND_NS)] == [Ending.EXPIRED]
    assert len(netns.memory.ipvs) == len(netns.conntrack) == 0


def test_connections_of_a_deleted_server_end_with_it():  # IPVS-13.2
    netns = made([REMOTE_POD, POD])
    established(netns, packet(CLIENT, CLUSTER_IP))
    gone = netns.load(told({TCP: virtual([POD])}))
    assert [(str(each.entry.original), each.ending) for each in gone] == [
        (f"tcp {CLIENT}:40000 → {CLUSTER_IP}:80", Ending.SERVER_GONE)
    ]
    assert len(netns.conntrack) == 0
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK")))) == (CLUSTER_IP, 80)


def test_a_udp_flow_moves_when_its_server_is_deleted():  # IPVS-13.2
    netns = made([REMOTE_POD, POD], protocol="udp")
    asked = packet(CLIENT, CLUSTER_IP, protocol="udp")
    assert to(run(netns, asked)) == (REMOTE_POD, 8080)
    netns.load(told({(CLUSTER_IP, 80, "udp"): virtual([POD])}))
    assert to(run(netns, asked)) == (POD, 8080)


def test_without_expire_nodest_conn_packets_to_a_deleted_server_are_lost():  # IPVS-13.3
    netns = made([REMOTE_POD, POD], sysctls=replace(BY_KUBE_PROXY, vs_expire_nodest_conn=False))
    established(netns, packet(CLIENT, CLUSTER_IP))
    assert netns.load(told({TCP: virtual([POD])})) == ()
    lost = run(netns, packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK")))
    assert (lost.disposition, lost.cause, lost.local_error) == (DROPPED, Cause.SERVER_GONE, "")
    run(netns, from_node(protocol="tcp"), local=True)
    netns.load(told({TCP: virtual([OTHER_POD])}))
    assert run(netns, from_node(), local=True).local_error == ""
    netns.load(told({TCP: virtual([REMOTE_POD])}))  # it is there again
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK")))) == (REMOTE_POD, 8080)


def test_a_connection_whose_server_is_gone_ends_with_its_next_packet():  # IPVS-13.3
    netns = made([REMOTE_POD], sysctls=replace(BY_KUBE_PROXY, vs_expire_nodest_conn=False))
    established(netns, packet(CLIENT, CLUSTER_IP))
    netns.load(told({TCP: virtual([POD])}))
    netns.sysctls = BY_KUBE_PROXY  # set meanwhile
    assert run(netns, packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK"))).cause is Cause.NOT_RESCHEDULED
    assert to(run(netns, packet(CLIENT, CLUSTER_IP))) == (POD, 8080)


def test_a_draining_server_keeps_connections_and_gets_no_new_one():  # IPVS-13.1
    netns = made([REMOTE_POD, POD])
    established(netns, packet(CLIENT, CLUSTER_IP))
    netns.load(told({TCP: virtual([(REMOTE_POD, 0), POD])}))
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK")))) == (REMOTE_POD, 8080)
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, sport=2))) == (POD, 8080)
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, sport=3))) == (POD, 8080)


# --- a port that is used again ----------------------------------------------------------------------------------------


def test_a_syn_of_a_tracked_connection_to_a_draining_server_is_dropped_once():  # IPVS-11.6
    netns = made([REMOTE_POD, POD])
    established(netns, packet(CLIENT, CLUSTER_IP))
    netns.load(told({TCP: virtual([(REMOTE_POD, 0), POD])}))
    once = run(netns, packet(CLIENT, CLUSTER_IP))
    assert (once.disposition, once.cause) == (DROPPED, Cause.NOT_RESCHEDULED)
    assert [each.ending for each in once.effects.destroyed] == [Ending.SERVER_GONE]
    assert [step.service for step in once.trace if isinstance(step, Served)] == [Service.ENDED]
    assert len(netns.conntrack) == 0 and not connection_of(netns, CLIENT)
    assert to(run(netns, packet(CLIENT, CLUSTER_IP), SECOND_NS)) == (POD, 8080)


def test_a_syn_whose_tracked_connection_is_gone_is_scheduled_at_once():  # IPVS-11.6
    netns = made([REMOTE_POD, POD])
    original = established(netns, packet(CLIENT, CLUSTER_IP)).entry.original
    netns.load(told({TCP: virtual([(REMOTE_POD, 0), POD])}))
    netns.conntrack.delete_served(original)
    assert to(run(netns, packet(CLIENT, CLUSTER_IP))) == (POD, 8080)
    assert connection_of(netns, CLIENT).server == (ip(POD), 8080)


def test_a_syn_that_is_sent_again_keeps_its_server():  # IPVS-11.6
    netns = made([REMOTE_POD, POD])
    for _ in range(2):
        assert to(run(netns, packet(CLIENT, CLUSTER_IP))) == (REMOTE_POD, 8080)
    assert len(netns.memory.ipvs) == 1


def test_a_connection_ends_even_if_nobody_takes_its_client():  # IPVS-11.5, IPVS-11.6
    netns = made([REMOTE_POD])
    original = established(netns, packet(CLIENT, CLUSTER_IP)).entry.original
    netns.load(told({TCP: virtual([(REMOTE_POD, 0)])}))
    netns.conntrack.delete_served(original)
    assert run(netns, packet(CLIENT, CLUSTER_IP)).cause is Cause.NO_REAL_SERVER
    assert connection_of(netns, CLIENT) is None


def test_a_syn_that_a_rule_keeps_from_tracking_is_scheduled_at_once():  # IPVS-11.6
    rules = ruleset(table("raw", PREROUTING=(rule(NoTrack()),)), table("filter"))
    netns = ipvs_node(told({TCP: virtual([REMOTE_POD, POD])}, rules))
    run(netns, packet(CLIENT, CLUSTER_IP))
    netns.load(told({TCP: virtual([(REMOTE_POD, 0), POD])}, rules))
    assert to(run(netns, packet(CLIENT, CLUSTER_IP))) == (POD, 8080) and len(netns.conntrack) == 0


def closing(netns, sport=40000):
    first = established(netns, packet(CLIENT, CLUSTER_IP, sport=sport))
    run(netns, packet(CLIENT, CLUSTER_IP, sport=sport, tcp_flags=flags("FIN ACK")))
    run(netns, replied(first, "FIN ACK"))
    run(netns, packet(CLIENT, CLUSTER_IP, sport=sport, tcp_flags=flags("ACK")))
    assert connection_of(netns, CLIENT, sport).state is State.TIME_WAIT


def test_a_syn_begins_anew_where_a_connection_is_closing():  # IPVS-11.6
    netns = made([REMOTE_POD, POD])
    closing(netns)
    assert to(run(netns, packet(CLIENT, CLUSTER_IP))) == (POD, 8080)  # tracking, too, begins anew: TIME_WAIT


@pytest.mark.parametrize(
    ("sysctls", "persistent"),
    [(replace(BY_KUBE_PROXY, vs_conn_reuse_mode=0), False), (BY_KUBE_PROXY, True)],
)
def test_or_keeps_its_server(sysctls, persistent):  # IPVS-11.6
    more = {"flags": VirtualServerFlags.PERSISTENT, "timeout_s": 100} if persistent else {}
    netns = made([REMOTE_POD, POD], sysctls=sysctls, **more)
    closing(netns)
    again = run(netns, packet(CLIENT, CLUSTER_IP))
    assert to(again) == (REMOTE_POD, 8080) and again.server is None


def test_without_expire_nodest_conn_a_syn_stays_with_a_draining_server():
    netns = made([REMOTE_POD, POD], sysctls=replace(BY_KUBE_PROXY, vs_expire_nodest_conn=False))
    established(netns, packet(CLIENT, CLUSTER_IP))
    netns.load(told({TCP: virtual([(REMOTE_POD, 0), POD])}))
    assert to(run(netns, packet(CLIENT, CLUSTER_IP))) == (REMOTE_POD, 8080)


# --- persistence ------------------------------------------------------------------------------------------------------


def affine(servers, timeout_s=100, **more):
    return made(servers, flags=VirtualServerFlags.PERSISTENT, timeout_s=timeout_s, **more)


def test_a_client_keeps_its_server():  # IPVS-11.4
    netns = affine([POD, REMOTE_POD])
    servers = [to(run(netns, packet(CLIENT, CLUSTER_IP, sport=number)))[0] for number in (1, 2, 3)]
    assert servers == [POD] * 3
    assert to(run(netns, packet("203.0.113.10", CLUSTER_IP)))[0] == REMOTE_POD
    again = run(netns, packet(CLIENT, CLUSTER_IP, sport=4), 99 * SECOND_NS)
    assert to(again)[0] == POD
    assert [step.why for step in again.trace if isinstance(step, Scheduled)] == ["the client had it before"]
    # the timer ran anew at 99 s, and connections of 60 s hold it when it is looked at; the last ends at 159 s
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, sport=5), 198 * SECOND_NS))[0] == POD
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, sport=6), 298 * SECOND_NS + 1))[0] == POD


def test_a_clients_server_is_forgotten():
    netns = affine([POD, REMOTE_POD])
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, sport=1)))[0] == POD
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, sport=2), 100 * SECOND_NS))[0] == REMOTE_POD


def test_clients_of_one_network_are_one_client():
    netns = affine([POD, REMOTE_POD], netmask=24)
    assert to(run(netns, packet(CLIENT, CLUSTER_IP)))[0] == to(run(netns, packet("203.0.113.77", CLUSTER_IP)))[0] == POD
    assert to(run(netns, packet("203.0.112.77", CLUSTER_IP)))[0] == REMOTE_POD


def test_a_draining_server_loses_its_clients():  # IPVS-11.4
    draining = virtual([(POD, 0), REMOTE_POD], flags=VirtualServerFlags.PERSISTENT, timeout_s=100)
    netns = affine([POD, REMOTE_POD])
    run(netns, packet(CLIENT, CLUSTER_IP, sport=1))
    netns.load(told({TCP: draining}))
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, sport=2)))[0] == REMOTE_POD
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, sport=3)))[0] == REMOTE_POD
    kept = affine([POD, REMOTE_POD], sysctls=replace(BY_KUBE_PROXY, vs_expire_quiescent_template=False))
    run(kept, packet(CLIENT, CLUSTER_IP, sport=1))
    kept.load(told({TCP: draining}))
    assert to(run(kept, packet(CLIENT, CLUSTER_IP, sport=2)))[0] == POD


def test_a_deleted_server_loses_its_clients():  # IPVS-11.4
    netns = affine([POD, REMOTE_POD], sysctls=replace(BY_KUBE_PROXY, vs_expire_nodest_conn=False))
    run(netns, packet(CLIENT, CLUSTER_IP, sport=1))
    netns.load(told({TCP: virtual([REMOTE_POD], flags=VirtualServerFlags.PERSISTENT, timeout_s=100)}))
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, sport=2)))[0] == REMOTE_POD


def test_a_persistent_client_is_refused_without_a_server():
    assert run(affine([]), packet(CLIENT, CLUSTER_IP)).cause is Cause.NO_REAL_SERVER


def test_memory_of_one_virtual_server_is_not_that_of_another():  # CT-8.4
    other = virtual([POD, REMOTE_POD], flags=VirtualServerFlags.PERSISTENT, timeout_s=100)
    netns = ipvs_node(told({TCP: other, (CLUSTER_IP, 81, "tcp"): other}))
    assert to(run(netns, packet(CLIENT, CLUSTER_IP)))[0] == POD
    assert to(run(netns, packet("203.0.113.10", CLUSTER_IP, 81)))[0] == POD
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, 81)))[0] == REMOTE_POD


# --- schedulers on the way --------------------------------------------------------------------------------------------


def test_a_scheduler_sees_the_connections_of_each_server():
    netns = made([POD, REMOTE_POD], "lc")
    taken = [to(established(netns, packet(CLIENT, CLUSTER_IP, sport=number)))[0] for number in range(1, 5)]
    assert taken == [POD, REMOTE_POD, POD, REMOTE_POD]
    run(netns, packet(CLIENT, CLUSTER_IP, sport=2, tcp_flags=flags("RST")))  # REMOTE_POD has one active connection now
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, sport=5)))[0] == REMOTE_POD


def test_flags_of_hashing_schedulers():
    clients = range(21, 80)
    plain = made([POD, REMOTE_POD, OTHER_POD], "mh")
    assert len({to(run(plain, packet(CLIENT, CLUSTER_IP, sport=each)))[0] for each in clients}) == 1
    by_port = made([POD, REMOTE_POD, OTHER_POD], "mh", flags=VirtualServerFlags.SCHEDULER_2)
    assert len({to(run(by_port, packet(CLIENT, CLUSTER_IP, sport=each)))[0] for each in clients}) == 3
    drained = [(POD, 0), (REMOTE_POD, 0), OTHER_POD]
    refused = [run(made(drained, "sh"), packet(f"203.0.113.{each}", CLUSTER_IP)).disposition for each in (1, 2, 3, 4)]
    assert REJECTED in refused
    lenient = made(drained, "sh", flags=VirtualServerFlags.SCHEDULER_1)
    # the bucket of 172.30.0.10 is 66
    assert to(run(made([POD, REMOTE_POD, OTHER_POD], "dh"), packet(CLIENT, CLUSTER_IP)))[0] == POD
    assert {to(run(lenient, packet(f"203.0.113.{each}", CLUSTER_IP)))[0] for each in (1, 2, 3, 4)} == {OTHER_POD}


def test_of_one_packet_services_no_connection_stays():
    netns = made([POD, REMOTE_POD], protocol="udp", flags=VirtualServerFlags.ONE_PACKET)
    asked = packet(CLIENT, CLUSTER_IP, protocol="udp")
    assert [to(run(netns, asked))[0] for _ in range(2)] == [POD, REMOTE_POD] and len(netns.memory.ipvs) == 0


def test_every_server_has_its_odds_if_the_history_is_unknown():
    netns = made([POD, REMOTE_POD, (OTHER_POD, 0)])
    netns.memory.ipvs = IpvsTable(known=False)
    ways = expand(netns, packet(CLIENT, CLUSTER_IP), now_ns=0)
    assert {(str(weight), to(way)[0]) for weight, way in ways} == {("1/2", POD), ("1/2", REMOTE_POD)}
    run(netns, packet(CLIENT, CLUSTER_IP), flow=3)
    assert len(expand(netns, packet(CLIENT, CLUSTER_IP, sport=7), now_ns=0)) == 1  # rr goes on from there


def test_where_the_history_is_known_the_next_server_is_the_only_way():
    netns = made([POD, REMOTE_POD])
    assert [to(way)[0] for _, way in expand(netns, packet(CLIENT, CLUSTER_IP), now_ns=0)] == [POD]
    three = expand(made([POD, REMOTE_POD], "twos"), packet(CLIENT, CLUSTER_IP), now_ns=0)
    assert sum(weight for weight, way in three if to(way)[0] == POD) * 3 == 2


def test_a_local_sender_of_datagrams_to_a_deleted_server_is_told_at_once():
    netns = made([REMOTE_POD], protocol="udp", sysctls=replace(BY_KUBE_PROXY, vs_expire_nodest_conn=False))
    run(netns, from_node(protocol="udp"), local=True)
    netns.load(told({(CLUSTER_IP, 80, "udp"): virtual([POD])}))
    lost = run(netns, from_node(protocol="udp"), local=True)
    assert (lost.cause, lost.local_error) == (Cause.SERVER_GONE, "EPERM")


def test_tcp_knows_no_services_of_one_packet():
    netns = made([POD, REMOTE_POD], flags=VirtualServerFlags.ONE_PACKET)
    run(netns, packet(CLIENT, CLUSTER_IP))
    assert connection_of(netns, CLIENT) is not None
