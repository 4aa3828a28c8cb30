"""TCP as connection tracking sees it (CT-4, K-6.1 … K-6.4), against what was measured on Linux 6.18."""

from pathlib import Path

import pytest
from flow_lives import TCP_PRELUDES, direction_of, flow_after, lead, packet_of, step

from kpsim.flowstate import Action, FlowState, Reading, read, tcp_timeout_ns
from kpsim.sysctls import Sysctls
from kpsim.units import SECOND_NS

_STATES = {
    "-": None, "SS": "SYN_SENT", "SR": "SYN_RECV", "ES": "ESTABLISHED", "FW": "FIN_WAIT", "CW": "CLOSE_WAIT",
    "LA": "LAST_ACK", "TW": "TIME_WAIT", "CL": "CLOSE", "S2": "SYN_SENT2",
}  # fmt: skip
_CT_STATES = {"N": "NEW", "E": "ESTABLISHED", "I": "INVALID"}


def _measured() -> list[tuple[str, str, str]]:
    """State, segment, cell."""
    lines = (Path(__file__).parent / "measured" / "tcp_states.txt").read_text().splitlines()
    head, *rows = (line.split() for line in lines if not line.startswith("#"))
    return [(state, word, cell) for word, *cells in rows for state, cell in zip(head, cells, strict=True)]


MEASURED = _measured()


def test_the_measured_table_is_complete():
    assert len(MEASURED) == 150
    assert {state for state, _, _ in MEASURED} == set(TCP_PRELUDES)


@pytest.mark.parametrize(("state", "word", "cell"), MEASURED)
def test_each_segment_in_each_state_does_what_was_measured(state, word, cell):  # K-6.1
    before = flow_after(TCP_PRELUDES[state])
    assert (before.state if before else "NONE") == (_STATES.get(state) or "NONE")
    ct_state, after, _ = step(before, packet_of(word), direction_of(word))
    expected_ct_state, expected_state, *seconds = cell.split(":")
    assert ct_state == _CT_STATES[expected_ct_state]
    assert (after.state if after else None) == _STATES[expected_state]
    if after:
        assert after.expires_ns // SECOND_NS - int(seconds[0]) in (0, 1)


def ends_in(life: str, sysctls: Sysctls | None = None) -> tuple[str, int | None]:
    """State and the seconds that the last segment of a life set the timer to; None: it left it alone."""
    *_, (_, _, reading) = lead(life, sysctls=sysctls)
    return reading.state, None if reading.timeout_ns is None else reading.timeout_ns // SECOND_NS


def last(life: str, sysctls: Sysctls | None = None) -> Reading:
    return lead(life, sysctls=sysctls)[-1].reading


# --- what begins a flow, and what begins one anew ----------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["SA", "F", "R", "RA", "N"])
def test_only_syn_and_ack_begin_a_flow(word):  # K-6.3
    assert last(word).action is Action.INVALID


def test_mid_stream_pick_up_needs_tcp_loose():  # K-6.3
    assert ends_in("A") == ("ESTABLISHED", 300)
    assert last("A", Sysctls(tcp_loose=False)).action is Action.INVALID
    assert last("S", Sysctls(tcp_loose=False)).action is Action.KEEP


@pytest.mark.parametrize(
    ("life", "anew"),  # K-1.8, measured segment by segment
    [
        ("S sa A R S", True), ("S sa A r S", False), ("S sa A R a S", False), ("S sa A R r S", False),
        ("S sa A r R S", True), ("S sa R S", True), ("S sa r S", False), ("S sa A F R S", True), ("S sa A f r S", True),
        ("S sa A F a f A S", True), ("S sa A f A F a S", True), ("A a R S", True), ("A a r S", False),
        ("S sa A R F S", False), ("S sa A S", False), ("S S", False), ("S sa A F a f A s", True), ("S sa A R s", False),
        ("S sa A r S sa A F a f A S", True), ("S sa A r R> S", True), ("S s r S", False), ("S s R S", True),
    ],
)  # fmt: skip
def test_a_syn_begins_anew_behind_a_fin_or_its_own_senders_reset(life, anew):
    earlier, _, word = life.rpartition(" ")
    reading = read(packet_of(word), flow_after(earlier), direction_of(word), 0, Sysctls())
    assert (reading.action is Action.RESTART) == anew


def test_an_answered_syn_that_was_let_through_brings_the_entry_to_the_handshake():  # measured
    assert [each.flow.state for each in lead("S sa A r S sa A")[-3:]] == ["CLOSE", "SYN_RECV", "ESTABLISHED"]
    assert [each.flow.state for each in lead("S sa A S sa A")[-3:]] == ["ESTABLISHED", "SYN_RECV", "ESTABLISHED"]
    assert ends_in("S sa A F a f S a sa") == ("SYN_RECV", 60)
    assert ends_in("S sa A sa") == ("ESTABLISHED", None)  # a SYN ACK without a new SYN
    assert ends_in("S sa A r S a sa") == ("CLOSE", None)  # something came between


def test_an_acknowledgement_that_challenges_a_syn_acknowledges_no_fin():  # measured
    assert ends_in("S sa A F f a") == ("TIME_WAIT", 120)
    assert [each.flow.state for each in lead("S sa A F f S a a")[-2:]] == ["LAST_ACK", "TIME_WAIT"]
    assert [each.flow.state for each in lead("S sa A F f S a S a a")[-3:]] == ["LAST_ACK", "LAST_ACK", "TIME_WAIT"]


# --- a simultaneous open (measured) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", ["SA a", "sa a", "SA A", "sa A", "SA sa a", "SA sa A"])
def test_both_ends_may_open_at_once(answers):
    steps = lead(f"S s {answers}")
    assert [each.flow.state for each in steps[:3]] == ["SYN_SENT", "SYN_SENT2", "SYN_RECV"]
    assert (steps[-1].flow.state, steps[-1].flow.assured) == ("ESTABLISHED", True)


def test_the_servers_ack_completes_a_handshake_only_of_two_openers():
    assert ends_in("S sa a") == ("SYN_RECV", 60)
    assert ends_in("S s sa a") == ("ESTABLISHED", 432_000)
    assert ends_in("S s SA S a") == ("SYN_RECV", 60)  # a SYN that was let through makes the entry forget


# --- timers (CT-4.1, K-6.2) ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("life", "seconds"),
    [
        ("S sa A P", 300), ("S sa A P A", 300), ("S sa A P a", 432_000), ("S sa A P p", 300), ("S sa A P p A", 432_000),
        ("S sa P", 300), ("S sa P a", 432_000), ("P", 300), ("P a", 300), ("P a A", 432_000), ("P p A", 432_000),
        ("P p A P", 300), ("A P P a A", 300), ("A P P a A a", 432_000),
    ],
)  # fmt: skip
def test_data_waits_for_its_acknowledgement_by_the_other_side(life, seconds):
    assert ends_in(life) == ("ESTABLISHED", seconds)


@pytest.mark.parametrize(
    ("life", "seconds"),  # measured with kube-proxy's setting
    [("F a", 3600), ("F A", 300), ("F A a", 3600), ("F a p", 300), ("F a p A", 3600), ("F a A A A A", 300)],
)
def test_close_wait_is_cut_short_too(life, seconds):
    hour = Sysctls(tcp_timeout_close_wait_ns=3600 * SECOND_NS)
    assert ends_in(f"S sa A {life}", hour) == ("CLOSE_WAIT", seconds)


@pytest.mark.parametrize(
    ("life", "seconds"),  # measured: same sequence and acknowledgement number, length and sender
    [
        ("A A A", 432_000), ("A A A A", 300), ("A A A A a", 432_000), ("A A A a A", 432_000), ("A A A A a A", 432_000),
        ("A a a a", 432_000), ("A a a a a", 300), ("A p A A A A", 300), ("A A A S A", 432_000),
    ],
)  # fmt: skip
def test_three_repeats_of_a_segment_shorten_the_timer(life, seconds):
    assert ends_in(f"S sa {life}") == ("ESTABLISHED", seconds)


def test_data_that_is_sent_again_is_a_repeat_and_new_data_is_not():
    sysctls = Sysctls(tcp_timeout_max_retrans_ns=200 * SECOND_NS)
    assert [ends_in(f"S sa A P{' P=' * times}", sysctls)[1] for times in range(5)] == [300, 300, 300, 200, 200]
    assert ends_in("S sa A P P= P= P= P", sysctls)[1] == 300
    assert ends_in("S sa A P P P P", sysctls)[1] == 300
    once = Sysctls(tcp_timeout_max_retrans_ns=200 * SECOND_NS, tcp_max_retrans=1)
    assert ends_in("S sa A P P=", once)[1] == 200


def test_a_client_that_repeats_its_syn_keeps_no_entry_alive():  # measured
    assert ends_in("S S") == ("SYN_SENT", None)
    assert ends_in("S s") == ("SYN_SENT2", None)
    assert ends_in("S a S") == ("SYN_SENT", 120)  # somebody is there


def test_segments_that_are_let_through_do_not_re_arm_the_timer():
    assert ends_in("S sa A S") == ("ESTABLISHED", None)


def test_every_timer_is_a_sysctl():
    names = [f"tcp_timeout_{state.lower()}_ns" for state in _STATES.values() if state and state != "SYN_SENT2"]
    sysctls = Sysctls(**{name: seconds * SECOND_NS for seconds, name in enumerate(names, 101)})
    lives = [life for state, life in TCP_PRELUDES.items() if state not in ("NONE", "S2")]
    assert [ends_in(life, sysctls)[1] for life in lives] == list(range(101, 109))
    with pytest.raises(ValueError, match="CLOSED"):
        tcp_timeout_ns(FlowState.CLOSED, sysctls)


def test_assured_once_the_handshake_is_complete_or_a_flow_that_was_picked_up_is_answered():  # CT-4.3
    assert [each.flow.assured for each in lead("S sa A")] == [False, False, True]
    assert [each.flow.assured for each in lead("A a A")] == [False, False, True]
    assert flow_after("S sa A F a f A").assured


def test_a_refused_connection_leaves_nothing():  # CT-4.3
    for life in ("S r", "S ra", "S R", "A r", "A R", "A S r"):
        assert last(life).action is Action.DESTROY, life
    assert ends_in("S a R") == ("CLOSE", 10)


# --- windows (CT-4.4, K-6.4); measured where no section is named ---------------------------------------------------------------


def left(life: str, sysctls: Sysctls | None = None) -> str:
    """ctstate, and what the last segment of a life left behind."""
    *_, (ct_state, flow, reading) = lead(life, sysctls=sysctls)
    timer = "" if reading.timeout_ns is None else f" {reading.timeout_ns // SECOND_NS}"
    return f"{ct_state} {flow.state if flow else '-'}{timer}"


def test_what_is_out_of_window_is_invalid_unless_liberal():  # K-6.4
    liberal = Sysctls(tcp_be_liberal=True)
    assert left("S sa A P>") == left("S sa A A>") == "INVALID ESTABLISHED"
    assert left("S sa A P>", liberal) == "ESTABLISHED ESTABLISHED 432000"
    assert left("S sa A>", liberal) == "ESTABLISHED ESTABLISHED 300"  # no window was seen yet
    assert left("S sa A R<", liberal) == "INVALID ESTABLISHED"  # K-6.4
    assert left("S sa A R>", liberal) == "ESTABLISHED ESTABLISHED 10"


def test_what_was_acknowledged_long_ago_passes_without_effect():
    assert left("S sa A P<") == "ESTABLISHED ESTABLISHED"
    assert left("S sa A F a f A<") == "ESTABLISHED LAST_ACK"
    assert left("S sa r<") == "ESTABLISHED SYN_RECV"  # of the client nothing is acknowledged yet
    assert left("S sa R<") == "INVALID SYN_RECV"
    assert left("S sa A R<") == left("S sa A r<") == "INVALID ESTABLISHED"


@pytest.mark.parametrize("life", ["F", "f", "F a", "F a f", "F a f A", "R", "r"])
@pytest.mark.parametrize("reset", ["R<", "R>", "R~", "r<", "r>", "r~"])
def test_behind_a_fin_or_rst_any_reset_counts(life, reset):
    assert left(f"S sa A {life} {reset}") == "ESTABLISHED CLOSE 10"


def test_a_reset_inside_the_window_that_is_not_exact_keeps_established_for_ten_seconds():  # K-6.4
    assert left("S sa A R~") == left("S sa A r~") == "ESTABLISHED ESTABLISHED 10"
    assert left("S sa A R~ R") == left("S sa R~") == "ESTABLISHED CLOSE 10"
    assert left("S sa A r~ A a") == "ESTABLISHED ESTABLISHED 300"  # what it seems to have sent is never acknowledged


def test_a_reset_that_may_answer_a_syn_counts_wherever_it_is():
    assert left("S sa A S ra~") == left("S s R>") == "ESTABLISHED CLOSE 10"
    assert left("S sa S R<") == "ESTABLISHED SYN_RECV"


def test_nothing_may_be_sent_before_a_window_is_told():
    assert left("S sa p p") == "ESTABLISHED SYN_RECV"
    assert left("S sa pf p") == "ESTABLISHED FIN_WAIT"
    assert left("S sa p A p") == "ESTABLISHED ESTABLISHED 300"


def test_a_flow_that_was_picked_up_has_no_window():  # K-6.3
    assert left("A a A p>") == "ESTABLISHED ESTABLISHED 432000"
    assert left("A a A r<") == "INVALID ESTABLISHED"
    assert left("A a r<") == "ESTABLISHED CLOSE 10"  # nothing of the client's was noticed as an acknowledgement
    # a handshake gives the client one
    assert left("A a A S sa A P>") == "INVALID ESTABLISHED"
    assert left("A a A S sa A p>") == "ESTABLISHED ESTABLISHED 432000"


@pytest.mark.parametrize("endings", ["F> f>", "R> r>", "r> R>", "F> r>"])
def test_endings_out_of_window_from_both_sides_shorten_the_timer(endings):
    first, second = endings.split()
    assert left(f"S sa A {first}") == "INVALID ESTABLISHED"
    assert left(f"S sa A {endings}") == "INVALID ESTABLISHED 300"
    assert left(f"S sa A {first} P {second}") == "INVALID ESTABLISHED"  # it lives
    assert left(f"S sa A {first} {first}") == "INVALID ESTABLISHED"  # of one side only
    assert left(f"S sa {endings}") == "INVALID SYN_RECV"  # not assured


def test_endings_out_of_window_leave_a_timer_alone_that_has_less_than_two_minutes_to_go():
    sysctls = Sysctls(tcp_timeout_unacknowledged_ns=50 * SECOND_NS)
    flow = flow_after("S sa A F>", sysctls=sysctls)
    for left_s, timeout_s in ((119, None), (120, 50)):
        reading = read(packet_of("f>"), flow._replace(expires_ns=left_s * SECOND_NS), direction_of("f>"), 0, sysctls)
        assert reading.timeout_ns == (timeout_s and timeout_s * SECOND_NS)


@pytest.mark.parametrize(
    ("life", "expected"),  # in the kernel tests too
    [
        ("S sa sa RA>", "INVALID SYN_RECV"), ("S a RA", "ESTABLISHED CLOSE 10"), ("S a RA>", "ESTABLISHED CLOSE 10"),
        ("S sa A A~ R~", "ESTABLISHED CLOSE 10"),
        ("P a a A< a a", "ESTABLISHED ESTABLISHED 432000"), ("P P a a", "ESTABLISHED ESTABLISHED 432000"),
        ("S a R< f", "ESTABLISHED CLOSE 10"), ("S sa p p= P", "ESTABLISHED ESTABLISHED 300"),
        ("S R<", "NEW -"),
    ],
)  # fmt: skip
def test_rare_lives(life, expected):
    assert left(life) == expected


#: measured on Linux 6.18: caps for repeats and for outstanding data, then the timer behind SYN, SYN-ACK and a FIN
@pytest.mark.parametrize(
    ("repeats", "outstanding", "seconds"),
    [(50, 300, (50, 50, 50)), (50, 100, (50, 50, 100)), (100, 50, (100, 60, 50)), (30, 20, (30, 30, 20))],
)
def test_before_the_first_ack_the_window_counts_as_closed(repeats, outstanding, seconds):  # CT-4.1
    sysctls = Sysctls(
        tcp_timeout_max_retrans_ns=repeats * SECOND_NS, tcp_timeout_unacknowledged_ns=outstanding * SECOND_NS
    )
    assert tuple(ends_in(life, sysctls)[1] for life in ("S", "S sa", "S sa F")) == seconds


@pytest.mark.parametrize(("max_retrans_s", "unacknowledged_s"), [(50, 300), (300, 40), (50, 40)])
def test_a_flow_that_was_picked_up_waits_as_for_a_window_of_zero(max_retrans_s, unacknowledged_s):  # K-6.2
    sysctls = Sysctls(
        tcp_timeout_max_retrans_ns=max_retrans_s * SECOND_NS, tcp_timeout_unacknowledged_ns=unacknowledged_s * SECOND_NS
    )
    begun = flow_after("P", sysctls=sysctls)
    assert begun is not None and begun.expires_ns == min(max_retrans_s, unacknowledged_s) * SECOND_NS
