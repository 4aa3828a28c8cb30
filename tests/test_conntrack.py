"""The connection table and its protocol machines (CT-3 … CT-7, K-1, K-2, K-6)."""

import pytest
from packets import CLIENT, NODE, POD, REMOTE_POD, flow_entry, ip

from kpsim.addresses import Family
from kpsim.conntrack import ConntrackTable, Destroyed, Ending, Entry, FlowTuple, StatusBit, tuple_of
from kpsim.packet import Packet, Window
from kpsim.packetpath.flowstate import (
    Action,
    Direction,
    Flow,
    FlowState,
    History,
    Reading,
    Segment,
    TcpInput,
    read,
    tcp_timeout_ns,
)
from kpsim.packetpath.sysctls import Sysctls
from kpsim.units import SECOND_NS

SYSCTLS = Sysctls()
ORIGINAL, REPLY = Direction.ORIGINAL, Direction.REPLY

# K-6.1, measured: (packet: c from the client, s from the server) → per state ctstate and state afterwards.
# "-": INVALID and unchanged; "NEW X": NAT is decided afresh; "gone": the entry is deleted, the packet passes.
STATES = [
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
]
MEASURED = """
c SYN     | SYN_SENT | SYN_RECV | ESTABLISHED | FIN_WAIT | CLOSE_WAIT | LAST_ACK | new | new | SYN_SENT2
c SYN ACK | - | SYN_RECV | - | - | - | - | - | - | SYN_RECV
c ACK     | - | ESTABLISHED | ESTABLISHED | CLOSE_WAIT | CLOSE_WAIT | TIME_WAIT | TIME_WAIT | CLOSE | -
c PSH ACK | - | ESTABLISHED | ESTABLISHED | CLOSE_WAIT | CLOSE_WAIT | TIME_WAIT | TIME_WAIT | CLOSE | -
c FIN ACK | - | FIN_WAIT | FIN_WAIT | LAST_ACK | LAST_ACK | LAST_ACK | TIME_WAIT | CLOSE | -
c RST     | gone | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE
c RST ACK | - | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE
c         | - | - | - | - | - | - | - | - | -
s SYN     | SYN_SENT2 | - | - | - | - | - | new | - | SYN_SENT2
s SYN ACK | SYN_RECV | SYN_RECV | ESTABLISHED | FIN_WAIT | CLOSE_WAIT | LAST_ACK | TIME_WAIT | CLOSE | SYN_RECV
s ACK     | SYN_SENT | SYN_RECV | ESTABLISHED | CLOSE_WAIT | CLOSE_WAIT | TIME_WAIT | TIME_WAIT | CLOSE | SYN_SENT2
s PSH ACK | SYN_SENT | SYN_RECV | ESTABLISHED | CLOSE_WAIT | CLOSE_WAIT | TIME_WAIT | TIME_WAIT | CLOSE | SYN_SENT2
s FIN ACK | - | FIN_WAIT | FIN_WAIT | LAST_ACK | LAST_ACK | LAST_ACK | TIME_WAIT | CLOSE | -
s RST     | gone | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE
s RST ACK | gone | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE | CLOSE
"""
CELLS = [
    (sender, tuple(flags), state, cell)
    for line in MEASURED.strip().splitlines()
    for (sender, *flags), cells in [(line.split("|")[0].split(), [c.strip() for c in line.split("|")[1:]])]
    for state, cell in zip(STATES, cells, strict=True)
]


def tcp(*flags: str, **more) -> Packet:
    return Packet(Family.IPV4, "tcp", ip(CLIENT), ip(POD), 40000, 80, frozenset(flags), **more)


def flow(state: FlowState, *, seen_reply: bool = True, assured: bool = False, history: History | None = None) -> Flow:
    """As the table was measured: the client was first to close, or reset the connection."""
    if history is None:
        last = Segment(ORIGINAL, TcpInput.RST) if state is FlowState.CLOSE else None
        history = History(last, closing=state is FlowState.TIME_WAIT)
    return Flow(state, seen_reply, assured, 0, history)


@pytest.mark.parametrize(("sender", "flags", "state", "cell"), CELLS)
def test_tcp_state_after_each_packet_is_as_measured(sender, flags, state, cell):
    before = flow(FlowState(state), seen_reply=state != "SYN_SENT")
    reading = read(tcp(*flags), before, ORIGINAL if sender == "c" else REPLY, 0, SYSCTLS)
    match cell:
        case "-":
            assert reading.action is Action.INVALID
        case "new":
            assert reading.action is Action.RESTART
        case "gone":
            assert reading.action is Action.DESTROY
        case _:
            assert (reading.action, reading.state) == (Action.KEEP, cell)


@pytest.mark.parametrize(
    ("flags", "state", "seconds"),  # K-6.1, K-6.2: timeout of the state a client's packet leads to
    [
        ("SYN", None, 120), ("ACK", None, 300), ("PSH ACK", None, 300), ("SYN ACK", "SYN_RECV", 60),
        ("ACK", "SYN_RECV", 432_000), ("PSH ACK", "SYN_RECV", 300), ("ACK", "ESTABLISHED", 432_000),
        ("PSH ACK", "ESTABLISHED", 300), ("FIN ACK", "ESTABLISHED", 120), ("ACK", "FIN_WAIT", 60),
        ("FIN ACK", "CLOSE_WAIT", 30), ("ACK", "LAST_ACK", 120), ("RST", "ESTABLISHED", 10),
    ],
)  # fmt: skip
def test_tcp_timeouts(flags, state, seconds):
    reading = read(tcp(*flags.split()), state and flow(FlowState(state)), ORIGINAL, 0, SYSCTLS)
    assert reading.timeout_ns == seconds * SECOND_NS


@pytest.mark.parametrize(
    ("life", "anew"),  # K-1.8, measured segment by segment: S SYN, A ACK, P data, F FIN, R RST; small letters: the server's
    [
        ("S sa A R S", True), ("S sa A r S", False), ("S sa A R a S", False), ("S sa A R r S", False),
        ("S sa A r R S", True), ("S sa R S", True), ("S sa r S", False), ("S sa A F R S", True), ("S sa A f r S", True),
        ("S sa A F a f A S", True), ("S sa A f A F a S", True), ("A a R S", True), ("A a r S", False),
        ("S sa A R F S", False), ("S sa A S", False), ("S S", False),
    ],
)  # fmt: skip
def test_a_syn_begins_anew_behind_a_fin_or_its_own_senders_reset(life, anew):
    *_, last = readings(life)
    assert (last.action is Action.RESTART) == anew


def test_an_answered_syn_that_was_ignored_brings_the_entry_to_the_handshake():  # measured
    assert readings("S sa A r S sa A")[-3].state is FlowState.CLOSE
    assert [reading.state for reading in readings("S sa A r S sa A")[-2:]] == ["SYN_RECV", "ESTABLISHED"]
    assert [reading.state for reading in readings("S sa A S sa A")[-3:]] == ["ESTABLISHED", "SYN_RECV", "ESTABLISHED"]
    assert readings("S sa A sa")[-1].state is FlowState.ESTABLISHED  # nobody asked


def test_an_acknowledgement_that_challenges_a_syn_acknowledges_no_fin():  # measured
    assert readings("S sa A F f a")[-1].state is FlowState.TIME_WAIT
    assert [reading.state for reading in readings("S sa A F f S a a")[-2:]] == ["LAST_ACK", "TIME_WAIT"]


@pytest.mark.parametrize(
    ("life", "seconds"),  # K-6.2: data waits for its acknowledgement by the other side
    [
        ("S sa A P", 300), ("S sa A P A", 300), ("S sa A P a", 432_000), ("S sa A P p", 300), ("S sa A P p A", 432_000),
        ("S sa P", 300), ("S sa P a", 432_000), ("P", 300), ("P a", 300), ("P a A", 432_000), ("P p A", 432_000),
        ("P p A P", 300),
    ],
)  # fmt: skip
def test_established_flows_with_data_under_way_have_a_short_timer(life, seconds):
    assert readings(life)[-1].timeout_ns == seconds * SECOND_NS


def readings(life: str) -> list[Reading]:
    """What each segment of a connection's life does."""
    now, found = None, []
    for word in life.split():
        flags = [
            {"S": "SYN", "A": "ACK", "P": "PSH ACK", "F": "FIN ACK", "R": "RST"}[letter] for letter in word.upper()
        ]
        direction = ORIGINAL if word.isupper() else REPLY
        reading = read(tcp(*" ".join(flags).split()), now, direction, 0, SYSCTLS)
        found.append(reading)
        seen_reply = now is not None and (now.seen_reply or direction is REPLY)
        now = Flow(reading.state, seen_reply, reading.assured, 0, reading.history)
    return found


def test_ignored_packets_do_not_re_arm_the_timer():
    assert read(tcp("SYN"), flow(FlowState.ESTABLISHED), ORIGINAL, 0, SYSCTLS).timeout_ns is None


def test_kube_proxys_sysctls_change_two_tcp_timeouts():
    changed = Sysctls(tcp_timeout_established_ns=86_400 * SECOND_NS, tcp_timeout_close_wait_ns=3600 * SECOND_NS)
    assert tcp_timeout_ns(FlowState.ESTABLISHED, changed) == 86_400 * SECOND_NS
    assert tcp_timeout_ns(FlowState.CLOSE_WAIT, changed) == 3600 * SECOND_NS


@pytest.mark.parametrize("flags", ["SYN ACK", "FIN ACK", "RST", "RST ACK", ""])
def test_only_syn_and_ack_begin_a_tcp_flow(flags):
    assert read(tcp(*flags.split()), None, ORIGINAL, 0, SYSCTLS).action is Action.INVALID  # K-6.3


def test_mid_stream_pick_up_needs_tcp_loose():
    assert read(tcp("ACK"), None, ORIGINAL, 0, SYSCTLS).state is FlowState.ESTABLISHED
    assert read(tcp("ACK"), None, ORIGINAL, 0, Sysctls(tcp_loose=False)).action is Action.INVALID


def test_assured_once_the_handshake_is_complete():
    assert not read(tcp("SYN", "ACK"), flow(FlowState.SYN_SENT, seen_reply=False), REPLY, 0, SYSCTLS).assured
    assert read(tcp("ACK"), flow(FlowState.SYN_RECV), ORIGINAL, 0, SYSCTLS).assured  # CT-4.3


def test_be_liberal_forgives_everything_but_a_reset():  # K-6.4
    data, reset = tcp("ACK", window=Window.OUTSIDE), tcp("RST", window=Window.OUTSIDE)
    established, liberal = flow(FlowState.ESTABLISHED), Sysctls(tcp_be_liberal=True)
    assert read(data, established, ORIGINAL, 0, SYSCTLS).action is Action.INVALID
    assert read(data, established, ORIGINAL, 0, liberal).state is FlowState.ESTABLISHED
    assert read(reset, established, ORIGINAL, 0, liberal).action is Action.INVALID


@pytest.mark.parametrize("state", ["FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE"])
def test_a_reset_behind_the_first_fin_counts_whatever_its_sequence(state):  # measured
    reset = tcp("RST", window=Window.OUTSIDE)
    assert read(reset, flow(FlowState(state)), REPLY, 0, SYSCTLS).state is FlowState.CLOSE
    assert read(tcp("ACK", window=Window.OUTSIDE), flow(FlowState(state)), REPLY, 0, SYSCTLS).action is Action.INVALID


def test_a_flow_that_was_picked_up_has_no_window():  # K-6.3; measured
    *_, picked_up = readings("A a A")
    now = Flow(picked_up.state, True, True, 0, picked_up.history)
    assert read(tcp("PSH", "ACK", window=Window.OUTSIDE), now, REPLY, 0, SYSCTLS).state is FlowState.ESTABLISHED
    assert read(tcp("RST", window=Window.OUTSIDE), now, REPLY, 0, SYSCTLS).action is Action.INVALID


def test_a_reset_inside_the_window_that_is_not_exact_keeps_established_for_ten_seconds():  # K-6.4
    reading = read(tcp("RST", window=Window.INSIDE), flow(FlowState.ESTABLISHED), REPLY, 0, SYSCTLS)
    assert (reading.state, reading.timeout_ns) == (FlowState.ESTABLISHED, 10 * SECOND_NS)


def test_bad_checksums_are_invalid():
    assert read(tcp("SYN", checksum_ok=False), None, ORIGINAL, 0, SYSCTLS).action is Action.INVALID  # K-6.6


@pytest.mark.parametrize(
    ("seen_reply", "age_seconds", "timeout", "assured"),
    [(False, 60, 30, False), (True, 1.9, 30, False), (True, 2, 120, True)],
)
def test_udp_becomes_a_stream_two_seconds_after_its_start_and_a_reply(
    seen_reply, age_seconds, timeout, assured
):  # K-6.2
    datagram = Packet(Family.IPV4, "udp", ip(CLIENT), ip(POD), 40000, 53)
    reading = read(
        datagram, Flow(FlowState.NONE, seen_reply, False, 0), ORIGINAL, int(age_seconds * SECOND_NS), SYSCTLS
    )
    assert (reading.timeout_ns, reading.assured) == (timeout * SECOND_NS, assured)


def test_icmp_answers_need_a_request():
    echo_reply = Packet(Family.IPV4, "icmp", ip(POD), ip(CLIENT), 7, icmp_type=0)
    assert read(echo_reply, None, ORIGINAL, 0, SYSCTLS).action is Action.INVALID
    assert read(echo_reply, flow(FlowState.NONE), REPLY, 0, SYSCTLS).timeout_ns == 30 * SECOND_NS


@pytest.mark.parametrize(
    ("chunk", "state"),
    [("INIT", "COOKIE_WAIT"), ("HEARTBEAT", "HEARTBEAT_SENT"), ("DATA", None), ("COOKIE_ECHO", None)],
)
def test_sctp_begins_with_init_or_heartbeat(chunk, state):  # K-6.6
    reading = read(Packet(Family.IPV4, "sctp", 1, 2, 3, 4, sctp_chunk=chunk), None, ORIGINAL, 0, SYSCTLS)
    assert reading.state == (state or "")
    assert (reading.action is Action.INVALID) == (state is None)


def test_sctp_handshake():  # CT-5
    state = FlowState.COOKIE_WAIT
    for direction, chunk, then, seconds in [
        (REPLY, "INIT_ACK", FlowState.COOKIE_WAIT, 3),
        (ORIGINAL, "COOKIE_ECHO", FlowState.COOKIE_ECHOED, 3),
        (REPLY, "COOKIE_ACK", FlowState.ESTABLISHED, 210),
        (ORIGINAL, "DATA", FlowState.ESTABLISHED, 210),
        (ORIGINAL, "SHUTDOWN", FlowState.SHUTDOWN_SENT, 3),
        (REPLY, "SHUTDOWN_ACK", FlowState.SHUTDOWN_ACK_SENT, 3),
        (ORIGINAL, "SHUTDOWN_COMPLETE", FlowState.CLOSED, 10),
    ]:
        reading = read(Packet(Family.IPV4, "sctp", 1, 2, 3, 4, sctp_chunk=chunk), flow(state), direction, 0, SYSCTLS)
        assert (reading.state, reading.timeout_ns) == (then, seconds * SECOND_NS), chunk
        state = reading.state


# --- the table -------------------------------------------------------------------------------------------------------------


def udp_entry(sport: int = 40000, *, expires_s: int = 30, assured: bool = False, created_s: int = 0) -> Entry:
    entry = flow_entry(
        "udp", (CLIENT, sport, "172.30.0.10", 53), (POD, 5353, CLIENT, sport),
        created_ns=created_s * SECOND_NS, expires_ns=expires_s * SECOND_NS,
    )  # fmt: skip
    return entry._replace(assured=assured)


def test_an_entry_is_found_by_both_its_tuples():
    table = ConntrackTable()
    entry = udp_entry()
    assert table.insert(entry, 0)
    assert table.lookup(entry.original, 1) == (entry, ORIGINAL)
    answer = Packet(Family.IPV4, "udp", ip(POD), ip(CLIENT), 5353, 40000)
    assert table.lookup(tuple_of(answer), 1) == (entry, REPLY)
    assert table.lookup(entry.original.inverse(), 1) is None


def test_status_bits_follow_from_the_binding():
    assert udp_entry().status == {StatusBit.CONFIRMED, StatusBit.DST_NAT}
    masqueraded = flow_entry(
        "udp", (CLIENT, 40000, "172.30.0.10", 53), (REMOTE_POD, 53, NODE, 2000), created_ns=0, expires_ns=1
    )  # fmt: skip
    assert masqueraded.status == {StatusBit.CONFIRMED, StatusBit.DST_NAT, StatusBit.SRC_NAT}
    plain = flow_entry("udp", (CLIENT, 1, POD, 2), (POD, 2, CLIENT, 1), created_ns=0, expires_ns=1)
    assert plain._replace(seen_reply=True, assured=True).status == {
        StatusBit.CONFIRMED, StatusBit.SEEN_REPLY, StatusBit.ASSURED,
    }  # fmt: skip


def test_icmp_tuples_are_inverted_by_type():
    echo = FlowTuple(Family.IPV4, "icmp", ip(CLIENT), 7, ip(POD), 8 * 256)
    assert echo.inverse() == FlowTuple(Family.IPV4, "icmp", ip(POD), 7, ip(CLIENT), 0)
    assert echo.inverse().inverse() == echo
    plain = Entry(echo, echo.inverse(), FlowState.NONE, False, False, 0, 1)
    assert not plain.src_nat and not plain.dst_nat
    assert plain._replace(reply=plain.reply._replace(daddr=ip(NODE))).src_nat
    assert plain._replace(reply=plain.reply._replace(sport=8)).src_nat
    assert plain._replace(reply=plain.reply._replace(saddr=ip(REMOTE_POD))).dst_nat


def test_expired_entries_never_match_and_are_told_in_order():  # K-1.7
    table = ConntrackTable()
    late, early = udp_entry(1, expires_s=30), udp_entry(2, expires_s=20)
    table.insert(late, 0)
    table.insert(early, 0)
    assert table.lookup(early.original, 20 * SECOND_NS - 1) is not None
    assert table.lookup(early.original, 20 * SECOND_NS) is None
    table.update(late._replace(expires_ns=40 * SECOND_NS))
    assert [(gone.entry, gone.ending) for gone in table.expire(35 * SECOND_NS)] == [(early, Ending.EXPIRED)]
    assert [gone.entry.original for gone in table.expire(40 * SECOND_NS)] == [late.original]
    assert len(table) == 0
    assert table.expire(100 * SECOND_NS) == ()


def test_a_tuple_can_be_used_again_after_deletion_and_expires_anew():
    table = ConntrackTable()
    first = udp_entry(expires_s=30)
    table.insert(first, 0)
    assert table.delete(first.original, first.reply) == first
    again = udp_entry(expires_s=50)
    assert table.insert(again, 5 * SECOND_NS)
    assert table.expire(40 * SECOND_NS) == ()
    assert [gone.entry for gone in table.expire(50 * SECOND_NS)] == [again]


def test_deletion_needs_both_tuples_exactly():  # CT-2.4
    table = ConntrackTable()
    entry = udp_entry()
    table.insert(entry, 0)
    assert table.delete(entry.original, entry.reply._replace(sport=1)) is None
    assert table.delete(entry.original, entry.reply) == entry
    assert table.delete(entry.original, entry.reply) is None


def test_a_tuple_belongs_to_one_live_entry():
    table = ConntrackTable()
    table.insert(udp_entry(), 0)
    rival = flow_entry(
        "udp", (CLIENT, 40000, "172.30.0.11", 53), (POD, 5353, CLIENT, 40000), created_ns=0, expires_ns=1
    )
    assert not table.insert(rival, 0)
    assert table.insert(rival, 30 * SECOND_NS)  # the other has expired
    assert list(table) == [rival]


def test_udp_listing_is_of_one_family_and_protocol():
    table = ConntrackTable()
    for entry in (
        udp_entry(),
        flow_entry("tcp", (CLIENT, 1, POD, 2), (POD, 2, CLIENT, 1), created_ns=0, expires_ns=1),
        flow_entry(
            "udp", ("2001:db8::9", 1, "fd00::1", 2), ("fd00::1", 2, "2001:db8::9", 1), created_ns=0, expires_ns=1
        ),
    ):
        table.insert(entry, 0)
    assert table.udp_entries(Family.IPV4) == (udp_entry(),)
    assert [str(entry.original) for entry in table.udp_entries(Family.IPV6)] == ["udp [2001:db8::9]:1 → [fd00::1]:2"]


def test_a_masquerade_ends_with_its_interface():  # K-1.9
    table = ConntrackTable()
    borrowed, plain = udp_entry(1)._replace(masquerade_device="eth0"), udp_entry(2)
    table.insert(borrowed, 0)
    table.insert(plain, 0)
    assert table.interface_down("eth1") == ()
    assert [(gone.entry, gone.ending) for gone in table.interface_down("eth0")] == [(borrowed, Ending.INTERFACE_DOWN)]
    assert list(table) == [plain]


def test_a_masquerade_ends_with_the_address_it_borrowed():  # K-1.9
    table = ConntrackTable()
    borrowed = udp_entry(1)._replace(masquerade_device="eth0")
    [address] = {borrowed.reply.daddr}
    table.insert(borrowed, 0)
    assert table.address_removed("eth0", Family.IPV4, address + 1) == ()
    assert table.address_removed("eth0", Family.IPV6, address) == ()
    assert table.address_removed("eth1", Family.IPV4, address) == ()
    gone = table.address_removed("eth0", Family.IPV4, address)
    assert gone == (Destroyed(borrowed, Ending.ADDRESS_GONE),)
    assert len(table) == 0
