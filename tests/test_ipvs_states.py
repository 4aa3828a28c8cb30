"""States and timeouts of ip_vs connections (IPVS-12), worked out from the specification; no kernel at hand has ip_vs."""

import pytest
from packets import flags, packet

from kpsim.ipvs.states import ACTIVE, State, Timeouts, after, begins, begins_anew, timeout_ns
from kpsim.ipvs.states import Side as S
from kpsim.units import SECOND_NS


def segment(text):
    return packet("10.180.0.5", "172.30.0.10", tcp_flags=flags(text))


def chunk(name):
    return packet("10.180.0.5", "172.30.0.10", protocol="sctp", sctp_chunk=name)


def lives(steps, make, start=State.NONE):
    """The states that a connection goes through: a capital letter in front of each step says whose it is."""
    state, seen = start, []
    for step in steps:
        side, _, rest = step.partition(":")
        state = after(state, make(rest), S.CLIENT if side == "C" else S.SERVER)
        seen.append(str(state))
    return seen


@pytest.mark.parametrize(
    ("steps", "states"),
    [
        (
            ["C:SYN", "S:SYN ACK", "C:ACK", "C:PSH ACK", "S:ACK"],
            "SYN_RECV SYN_RECV ESTABLISHED ESTABLISHED ESTABLISHED",
        ),
        (["C:SYN", "S:ACK", "C:FIN ACK", "S:ACK", "S:FIN ACK"], "SYN_RECV ESTABLISHED CLOSE_WAIT CLOSE_WAIT TIME_WAIT"),
        (["C:SYN", "C:ACK", "S:FIN ACK", "C:ACK", "C:FIN ACK"], "SYN_RECV ESTABLISHED FIN_WAIT FIN_WAIT TIME_WAIT"),
        (["C:SYN", "C:ACK", "C:RST"], "SYN_RECV ESTABLISHED CLOSE"),
        (["C:SYN", "C:ACK", "S:RST ACK"], "SYN_RECV ESTABLISHED CLOSE"),
        (["C:SYN", "C:RST"], "SYN_RECV SYN_RECV"),
        (["C:SYN", "S:RST ACK", "S:ACK", "C:SYN"], "SYN_RECV CLOSE CLOSE SYN_RECV"),
        (["C:SYN", "C:FIN ACK", "S:RST", "C:RST"], "SYN_RECV TIME_WAIT TIME_WAIT CLOSE"),
        (["C:SYN", "S:FIN ACK", "S:SYN", "C:ACK"], "SYN_RECV TIME_WAIT SYN_SENT SYN_SENT"),
        (["C:SYN", "S:FIN ACK", "S:SYN", "C:SYN"], "SYN_RECV TIME_WAIT SYN_SENT ESTABLISHED"),
        (["C:SYN", "C:ACK", "S:SYN", "C:SYN", "C:PSH"], "SYN_RECV ESTABLISHED ESTABLISHED ESTABLISHED CLOSE"),
        (["C:SYN", "C:ACK", "C:FIN", "S:SYN", "S:RST"], "SYN_RECV ESTABLISHED CLOSE_WAIT SYN_SENT SYN_SENT"),
        (["C:SYN", "C:ACK", "S:FIN", "C:RST"], "SYN_RECV ESTABLISHED FIN_WAIT CLOSE"),
        (["C:SYN", "C:ACK", "S:FIN", "S:RST"], "SYN_RECV ESTABLISHED FIN_WAIT CLOSE"),
        (["C:SYN", "C:ACK", "C:FIN", "C:RST"], "SYN_RECV ESTABLISHED CLOSE_WAIT CLOSE"),
        (["C:SYN", "C:ACK", "C:FIN", "S:RST"], "SYN_RECV ESTABLISHED CLOSE_WAIT CLOSE"),
        (["C:SYN", "S:FIN", "S:SYN", "C:RST"], "SYN_RECV TIME_WAIT SYN_SENT CLOSE"),
        (["C:SYN", "S:FIN", "S:SYN", "S:ACK"], "SYN_RECV TIME_WAIT SYN_SENT SYN_SENT"),
        (["C:SYN", "C:ACK", "S:FIN", "C:SYN"], "SYN_RECV ESTABLISHED FIN_WAIT SYN_RECV"),
        (["C:SYN", "C:ACK", "C:FIN", "C:SYN"], "SYN_RECV ESTABLISHED CLOSE_WAIT SYN_RECV"),
        (["C:SYN", "S:FIN", "C:SYN"], "SYN_RECV TIME_WAIT SYN_RECV"),
        (["C:SYN", "C:ACK", "S:FIN", "S:SYN"], "SYN_RECV ESTABLISHED FIN_WAIT SYN_SENT"),
        (["C:SYN", "S:RST", "S:SYN"], "SYN_RECV CLOSE SYN_SENT"),
    ],
)
def test_lives_of_tcp(steps, states):
    assert " ".join(lives(steps, segment)) == states


@pytest.mark.parametrize(
    ("steps", "states"),
    [
        (
            "C:INIT S:INIT_ACK C:COOKIE_ECHO S:COOKIE_ACK C:DATA C:SHUTDOWN S:SHUTDOWN_ACK C:SHUTDOWN_COMPLETE C:INIT",
            "INIT1 C-SENT C-REPLIED ESTABLISHED ESTABLISHED S-RECEIVED S-ACK-SENT CLOSED INIT",
        ),
        (
            "C:INIT C:INIT S:INIT_ACK S:COOKIE_ACK S:SHUTDOWN C:SHUTDOWN_ACK",
            "INIT1 INIT C-SENT ESTABLISHED S-SENT CLOSED",
        ),
        ("C:INIT S:ABORT C:INIT C:ABORT", "INIT1 REJECTED INIT CLOSED"),
        (
            "C:INIT S:INIT C:INIT_ACK S:COOKIE_ECHO C:COOKIE_ACK C:ABORT",
            "INIT1 C-WAIT COOKIE C-ECHOED ESTABLISHED CLOSED",
        ),
        ("C:INIT S:INIT C:ABORT S:ABORT", "INIT1 C-WAIT REJECTED CLOSED"),
        ("C:INIT C:INIT_ACK C:INIT_ACK S:COOKIE_ACK S:INIT", "INIT1 C-WAIT COOKIE ESTABLISHED ESTABLISHED"),
        ("C:INIT S:ERROR S:COOKIE_ECHO", "INIT1 CLOSED CLOSED"),
        ("C:INIT S:INIT S:COOKIE_ECHO C:ERROR", "INIT1 C-WAIT C-ECHOED CLOSED"),
        ("C:INIT S:COOKIE_ECHO S:SHUTDOWN S:SHUTDOWN_ACK C:SHUTDOWN_ACK", "INIT1 C-ECHOED S-SENT S-ACK-SENT CLOSED"),
        ("C:INIT C:COOKIE_ECHO C:SHUTDOWN_COMPLETE", "INIT1 INIT CLOSED"),
        ("C:INIT C:SHUTDOWN_ACK S:SHUTDOWN_ACK S:SHUTDOWN_COMPLETE", "INIT1 INIT S-ACK-SENT S-ACK-SENT"),
        ("C:INIT C:SHUTDOWN_COMPLETE S:INIT", "INIT1 CLOSED C-WAIT"),
        ("C:INIT S:COOKIE_ACK C:SHUTDOWN S:SHUTDOWN S:INIT", "INIT1 ESTABLISHED S-RECEIVED S-RECEIVED C-WAIT"),
    ],
)
def test_lives_of_sctp(steps, states):
    assert " ".join(lives(steps.split(), chunk)) == states


def test_udp_has_one_state():
    asked = packet("10.180.0.5", "172.30.0.10", protocol="udp")
    assert after(State.NONE, asked, S.CLIENT) is after(State.UDP, asked, S.SERVER) is State.UDP


@pytest.mark.parametrize(
    ("protocol", "state", "seconds"),
    [
        ("tcp", State.NONE, 2), ("tcp", State.SYN_SENT, 120), ("tcp", State.SYN_RECV, 60),
        ("tcp", State.ESTABLISHED, 900), ("tcp", State.FIN_WAIT, 120), ("tcp", State.TIME_WAIT, 120),
        ("tcp", State.CLOSE_WAIT, 60), ("tcp", State.CLOSE, 10), ("udp", State.UDP, 300), ("sctp", State.INIT1, 4),
        ("sctp", State.REJECTED, 4), ("sctp", State.ESTABLISHED, 900), ("sctp", State.INIT, 61), ("sctp", State.CLOSED, 61),
        ("sctp", State.SHUTDOWN_SENT, 61),
    ],
)  # fmt: skip
def test_timeouts(protocol, state, seconds):  # IPVS-12
    assert timeout_ns(protocol, state, Timeouts()) == seconds * SECOND_NS


def test_three_timeouts_can_be_set():  # IPVS-2.2
    own = Timeouts(tcp_s=1, tcp_fin_s=2, udp_s=3)
    settable = (("tcp", State.ESTABLISHED), ("tcp", State.FIN_WAIT), ("udp", State.UDP), ("sctp", State.ESTABLISHED))
    assert [timeout_ns(*each, own) // SECOND_NS for each in settable] == [1, 2, 3, 900]


def test_what_counts_as_active():  # IPVS-12.1
    assert {State.SYN_SENT, State.SYN_RECV, State.ESTABLISHED} == ACTIVE


def test_what_begins_a_connection():  # IPVS-11.1
    begin = [text for text in ("SYN", "SYN ACK", "ACK", "SYN RST", "FIN", "") if begins(segment(text))]
    assert begin == ["SYN", "SYN ACK"]
    assert begins(chunk("INIT")) and not begins(chunk("DATA"))
    assert begins(packet("10.180.0.5", "172.30.0.10", protocol="udp"))
    assert not begins(packet("10.180.0.5", "172.30.0.10", protocol="icmp"))


def test_what_asks_for_a_connection_anew():  # IPVS-11.6
    assert begins_anew(segment("SYN")) and begins_anew(chunk("INIT"))
    assert not begins_anew(segment("ACK")) and not begins_anew(chunk("DATA"))
    assert not begins_anew(packet("10.180.0.5", "172.30.0.10", protocol="udp"))
