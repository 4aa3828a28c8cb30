"""Connections that are over give way to a new one that a DNAT with one port leads to their tuple (K-2.3)."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from labs import agreed, passed
from packets import NODE, POD, REMOTE_POD, flags, packet

from kpsim.conntrack import tuple_of
from kpsim.lab.frames import TCP_WINDOW
from kpsim.lab.wires import Shot
from kpsim.packet import Numbers, Packet
from kpsim.verify.twin import Twin

pytestmark = pytest.mark.kernel
Maker = Callable[..., Twin]
VIP = "172.30.0.10"
LIFE = (("SYN", 0, 100, 0), ("SYN ACK", 1, 500, 101), ("ACK", 0, 101, 501), ("FIN ACK", 0, 101, 501), ("ACK", 1, 501, 102),
        ("FIN ACK", 1, 501, 102), ("ACK", 0, 102, 502))  # fmt: skip
RULES = f"""*nat
-A OUTPUT -d {VIP}/32 -p tcp -m tcp --dport {{asked}} -j DNAT --to-destination {REMOTE_POD}:8080
-A POSTROUTING -o eth0 -p tcp -j MASQUERADE {{random}}
COMMIT
"""


def numbered(sent: Packet, words: str, sequence: int, acknowledged: int) -> Shot:
    """The packet with these numbers, in the model too."""
    numbers = Numbers(sequence, acknowledged, window=TCP_WINDOW)
    return Shot(replace(sent, tcp_flags=flags(words), numbers=numbers), sequence, acknowledged)


@pytest.mark.parametrize("random", ["", "--random-fully"])
@pytest.mark.parametrize("asked", [80, 8080])
@pytest.mark.parametrize("segments", [3, 4, 6, 7])
@pytest.mark.parametrize("number", [50, 101, 102, 100_000])
def test_what_a_dnat_with_one_port_evicts(twin_of: Maker, random: str, asked: int, segments: int, number: int) -> None:
    """A pod's masqueraded connection has the node's port; a process of the node uses that port towards a Service.

    The pod's FIN had the number 101. A DNAT that keeps the port searches nothing, so it evicts nothing.
    """
    twin = twin_of(RULES.format(asked=asked, random=random))
    request = packet(POD, REMOTE_POD, 8080, came_by="cni0")
    first = passed(twin.send(numbered(request, "SYN", 100, 0)))
    ends = {"saddr": first.daddr, "daddr": first.saddr, "sport": 8080, "dport": first.sport}
    answer = replace(first, **ends, in_interface="eth0", out_interface="", ttl=64)
    for words, who, sequence, acknowledged in LIFE[1:segments]:
        passed(twin.send(numbered((request, answer)[who], words, sequence, acknowledged)))
    before = twin.linux.conntrack.get(tuple_of(request))
    assert before is not None
    agreed(twin.send(numbered(packet(NODE, VIP, asked, sport=first.sport), "SYN", number, 0)))
    after = twin.linux.conntrack.get(tuple_of(request))
    in_model = twin.model.conntrack.lookup(tuple_of(request), twin.clock.now_ns())
    over = before.state == "TIME_WAIT" and asked != 8080 and number + 1 > 102
    assert (after is None, in_model is None) == (over, over)
