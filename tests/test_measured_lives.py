"""Lives of connections that Linux led, packet by packet, led again by the protocol machines (CT-4, CT-5, K-6).

``measured/tcp_lives.txt`` and ``sctp_lives.txt`` hold what Linux 6.18 made of each packet. Each line is a life.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from flow_lives import direction_of, flow_after, packet_of, step

from kpsim.flowstate import Direction, Flow
from kpsim.sysctls import Sysctls
from kpsim.units import SECOND_NS

_STATES = {
    "SS": "SYN_SENT", "SR": "SYN_RECV", "ES": "ESTABLISHED", "FW": "FIN_WAIT", "CW": "CLOSE_WAIT", "LA": "LAST_ACK",
    "TW": "TIME_WAIT", "CL": "CLOSE", "S2": "SYN_SENT2",
}  # fmt: skip
#: how Linux was set
_SETTINGS = {
    "-": Sysctls(),
    "liberal": Sysctls(tcp_be_liberal=True),
    "not-loose": Sysctls(tcp_loose=False),
    "kube-proxy": Sysctls(tcp_timeout_close_wait_ns=3600 * SECOND_NS, tcp_max_retrans=1),
}
_ODD_S = 7


def measured(protocol: str) -> list[str]:
    lines = (Path(__file__).parent / "measured" / f"{protocol}_lives.txt").read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def entry(flow: Flow | None, protocol: str, seconds: int) -> str:
    """As the file writes it; a timer may have been read a moment after it was set."""
    if flow is None:
        return "-"
    short = {long: name for name, long in _STATES.items()} if protocol == "tcp" else {}
    left = flow.expires_ns // SECOND_NS
    shown = seconds if left - seconds in (0, 1) else left
    state = str(flow.state)
    return f"{short.get(state, state)}{'+' * flow.seen_reply}{'!' * flow.assured}:{shown}"


def led(line: str, protocol: str) -> str:
    """The line, as the machines have it."""
    settings, timers, *steps = line.split()
    flow, told = None, [settings, timers]
    for word, _, _, *seconds in (each.split(":") for each in steps):
        if flow is not None and timers == "odd":
            flow = flow._replace(expires_ns=_ODD_S * SECOND_NS)
        ct_state, flow, _ = step(flow, packet_of(word, protocol), direction_of(word), _SETTINGS[settings])
        told.append(f"{word}:{ct_state[0]}:{entry(flow, protocol, int(*seconds))}")
    return " ".join(told)


@pytest.mark.parametrize("protocol", ["tcp", "sctp"])
def test_the_machines_lead_the_lives_that_linux_led(protocol: str) -> None:
    lines = measured(protocol)
    assert len(lines) > 30
    for line in lines:
        assert led(line, protocol) == line


@pytest.mark.parametrize(
    ("flags", "begins", "in_established"),  # measured on Linux 6.18: ctstate of a first packet, and of one in ESTABLISHED
    [
        ("SYN URG", "NEW", "ESTABLISHED"), ("ACK URG", "NEW", "ESTABLISHED"), ("SYN PSH", "NEW", "ESTABLISHED"),
        ("ACK PSH URG", "NEW", "ESTABLISHED"), ("FIN ACK URG", "INVALID", "ESTABLISHED"),
        ("FIN ACK PSH", "INVALID", "ESTABLISHED"), ("SYN ACK URG", "INVALID", "INVALID"), ("RST URG", "INVALID", "INVALID"),
        ("FIN URG", "INVALID", "INVALID"), ("URG", "INVALID", "INVALID"), ("SYN FIN", "INVALID", "INVALID"),
        ("SYN RST", "INVALID", "INVALID"), ("FIN", "INVALID", "INVALID"), ("RST FIN", "INVALID", "INVALID"),
    ],
)  # fmt: skip
def test_flags_that_no_stack_combines(flags: str, begins: str, in_established: str) -> None:
    packet = replace(packet_of("S"), tcp_flags=frozenset(flags.split()))
    assert step(None, packet, Direction.ORIGINAL).ct_state == begins
    after = step(flow_after("S sa A"), packet, Direction.ORIGINAL)
    assert after.ct_state == in_established
    finished = "FIN" in flags and in_established == "ESTABLISHED"
    assert after.flow is not None and after.flow.state == ("FIN_WAIT" if finished else "ESTABLISHED")
