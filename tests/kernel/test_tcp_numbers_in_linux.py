"""TCP windows in numbers of the wire, segment by segment, in the model and in Linux (CT-4.4, K-6.4)."""

import struct
from collections.abc import Iterator
from itertools import islice

import pytest
from flow_lives import step
from linux_flows import Router
from tcp_numbers import ORIGINAL, REPLY, Drawn, lives

from kpsim.addresses import Family
from kpsim.flowstate import Flow
from kpsim.sysctls import Sysctls
from kpsim.units import SECOND_NS

pytestmark = pytest.mark.kernel
_DPORT, _ODD_S, _LIVES = 3868, 7, 400


@pytest.fixture(scope="module")
def router(kernel: None) -> Iterator[Router]:
    made = Router(Family.IPV4)
    try:
        yield made
    finally:
        made.close()


def play(router: Router, life: list[Drawn], sport: int, sysctls: Sysctls) -> str:
    """The first disagreement, told with the segments before it; empty: there is none."""
    flow: Flow | None = None
    flow_tuple = router.flow("tcp", sport, _DPORT)
    router.table.delete(flow_tuple)
    story = []
    for drawn in life:
        if flow is None and drawn.direction is REPLY:
            return ""  # the server would begin an entry of its own
        if flow is not None:
            router.table.set_timer(flow_tuple, _ODD_S)
            flow = flow._replace(expires_ns=_ODD_S * SECOND_NS)
        ports = (sport, _DPORT) if drawn.direction is ORIGINAL else (_DPORT, sport)
        linux = router.send("tcp", drawn.direction, struct.pack("!HH", *ports) + drawn.header)
        ct_state, flow, _ = step(flow, drawn.packet, drawn.direction, sysctls)
        if ct_state == "NEW" and drawn.direction is REPLY:
            return ""  # the server began a new one, as original
        real = router.table.get(flow_tuple)
        model = flow and (str(flow.state), flow.seen_reply, flow.assured)
        found = real and (real.state, real.seen_reply, real.assured)
        left = flow is not None and real is not None and flow.expires_ns // SECOND_NS - real.seconds_left
        story.append(
            f"{drawn}: model {ct_state} {model}, Linux {linux} {found} timer {flow and flow.expires_ns // SECOND_NS} {real and real.seconds_left}"
        )
        if (ct_state, model) != (linux, found) or left not in (False, 0, 1):
            return "\n".join(story)
    return ""


@pytest.mark.parametrize("liberal", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_lives_in_numbers_of_the_wire(router: Router, seed: int, liberal: bool) -> None:
    router.set_sysctls({"net.netfilter.nf_conntrack_tcp_be_liberal": int(liberal)})
    sysctls = Sysctls(tcp_be_liberal=liberal)
    for number, life in enumerate(islice(lives(seed), _LIVES)):
        assert play(router, life, 20_000 + number, sysctls) == ""
