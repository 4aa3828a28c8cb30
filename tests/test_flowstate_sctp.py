"""SCTP as connection tracking sees it (CT-5), against what was measured on Linux 6.18."""

from pathlib import Path

import pytest
from flow_lives import CHUNKS, SCTP_PRELUDES, direction_of, flow_after, lead, packet_of, step

from kpsim.flowstate import Action, FlowState, sctp_timeout_ns
from kpsim.sysctls import Sysctls
from kpsim.units import SECOND_NS

_STATES = {
    "-": None, "CL": "CLOSED", "CW": "COOKIE_WAIT", "CE": "COOKIE_ECHOED", "ES": "ESTABLISHED", "SS": "SHUTDOWN_SENT",
    "SR": "SHUTDOWN_RECD", "SA": "SHUTDOWN_ACK_SENT", "HS": "HEARTBEAT_SENT",
}  # fmt: skip
_CT_STATES = {"N": "NEW", "E": "ESTABLISHED", "I": "INVALID"}


def _measured() -> list[tuple[str, str, str]]:
    """Life, packet, cell."""
    lines = (Path(__file__).parent / "measured" / "sctp_states.txt").read_text().splitlines()
    (_, *words), *rows = (line.split() for line in lines if not line.startswith("#"))
    lives = [("" if life == "-" else life.replace(",", " "), cells) for life, *cells in rows]
    return [(life, word, cell) for life, cells in lives for word, cell in zip(words, cells, strict=True)]


MEASURED = _measured()


def test_the_measured_table_is_complete():
    assert len(MEASURED) == len(SCTP_PRELUDES) * 2 * len(CHUNKS)
    assert {life for life, _, _ in MEASURED} == set(SCTP_PRELUDES)
    reached = {flow_after(life, "sctp").state for life in SCTP_PRELUDES if life}
    assert reached == {state for state in _STATES.values() if state}


@pytest.mark.parametrize(("life", "word", "cell"), MEASURED)
def test_each_packet_behind_each_life_does_what_was_measured(life, word, cell):
    before = flow_after(life, "sctp")
    ct_state, after, reading = step(before, packet_of(word, "sctp"), direction_of(word))
    expected_ct_state, expected_state, *seconds = cell.split(":")
    assert ct_state == _CT_STATES[expected_ct_state]
    assert (after.state if after else None) == _STATES[expected_state]
    if before or after:
        assert reading.timeout_ns == (int(seconds[0]) * SECOND_NS if seconds else None)


def test_an_association_is_assured_from_the_first_time_that_it_is_established():  # measured
    assert [each.flow.assured for each in lead("I ia CE ca", "sctp")] == [False, False, False, True]
    assert flow_after("I ia CE ca AB", "sctp").assured
    assert flow_after("HB ha", "sctp").assured
    assert not flow_after("HB hb D d", "sctp").assured


@pytest.mark.parametrize(
    ("life", "states"),
    [
        ("I ia CE ca D d SK sk", "CL CW CE ES ES ES ES ES"), ("I ia CE ca SD sa SC", "CL CW CE ES SS SA CL"),
        ("I ia CE ca sd SA sc I ia CE ca", "CL CW CE ES SR SA CL CL CW CE ES"), ("I ab I ia CE ca", "CL CL CL CW CE ES"),
        ("HB ha SD sa SC", "HS ES SS SA CL"), ("I i IA ia ce CA", "CL CL CL CW CE ES"),
    ],
)  # fmt: skip
def test_lives_of_associations(life, states):  # measured
    assert [each.flow.state for each in lead(life, "sctp")] == [_STATES[state] for state in states.split()]


def test_every_timer_is_a_sysctl():
    names = [f"sctp_timeout_{state.lower()}_ns" for state in _STATES.values() if state]
    sysctls = Sysctls(**{name: seconds * SECOND_NS for seconds, name in enumerate(names, 101)})
    timers = [sctp_timeout_ns(FlowState(state), sysctls) // SECOND_NS for state in _STATES.values() if state]
    assert timers == list(range(101, 109))
    assert lead("I ia", "sctp", sysctls)[-1].reading.timeout_ns == 102 * SECOND_NS
    with pytest.raises(ValueError, match="SYN_SENT"):
        sctp_timeout_ns(FlowState.SYN_SENT, sysctls)


def test_an_init_that_repeats_itself_keeps_no_entry_alive():  # measured
    first, second = (each.reading for each in lead("I I", "sctp"))
    assert (first.timeout_ns, second.timeout_ns) == (10 * SECOND_NS, None)
    assert second.action is Action.KEEP
