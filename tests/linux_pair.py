"""A node twice, in the model and in Linux: the same rules, the same packets, and what each lets out.

Pods 10.180.0.0/24 are on cni0, 10.180.1.0/24 is behind 192.168.0.2 on eth0, and so is everything else.
"""

import os
import time
from dataclasses import replace
from itertools import count

from linux_conntrack import LinuxConntrack
from linux_lab import Lab
from packets import flags, ip

from kpsim.addresses import Family, parse_network
from kpsim.dialects.iptables import parse
from kpsim.netfilter import Disposition, Netns, Walk, walk
from kpsim.nodes import Machine, make_machine
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.routing import Route, Routing

V4, V6 = Family.IPV4, Family.IPV6
POD, OTHER_POD, REMOTE_POD, CLIENT = "10.180.0.5", "10.180.0.6", "10.180.1.7", "203.0.113.9"
_NUMBERS = count()  #: of pairs
_LOWEST_PORT = {511: 1, 424: 600, 64512: 1024}  # by the size of the class (K-2.3)


class Follower(SeededChooser):
    """Draws the source port that Linux drew; endpoints leave it no choice here."""

    def __init__(self, drawn: int) -> None:
        super().__init__(1, "follower")
        self._drawn = drawn

    def victim(self, limit: int, key: object) -> int:
        return 0

    def port(self, limit: int, key: object) -> int:
        return self._drawn - _LOWEST_PORT[limit] if limit in _LOWEST_PORT else self._drawn % limit


class Pair:
    """A node twice. ``close`` it."""

    def __init__(self, rules: str, family: Family = V4) -> None:
        self.family = family
        machine = _machine(family)
        self.model = Netns("n1", machine.routing, machine.sysctls)
        self.model.load(parse(rules, family))
        self.linux = Lab(f"kpct{os.getpid()}x{next(_NUMBERS)}", family)
        self.table = LinuxConntrack(self.linux.node)
        try:
            self.linux.build(machine, rules)
        except AssertionError:
            self.close()
            raise

    def close(self) -> None:
        self.table.close()
        self.linux.close()

    def load(self, rules: str) -> None:
        self.linux.load(rules)
        self.model.load(parse(rules, self.family))

    def send(self, sent: Packet, sequence: tuple[int, int] = (0, 0)) -> tuple[Walk, list[Packet]]:
        """A packet in both, committed in the model; what Linux let out must be what the model lets out."""
        now_ns = clock_ns()
        came_out = self.linux.send(sent, sequence)
        outcome = self.walk(sent, came_out, now_ns)
        self.model.commit(outcome.effects, now_ns)
        expected = let_out(outcome)
        if expected is not None:  # else the node itself got it, and may answer
            assert list(map(told, came_out)) == expected
        return outcome, came_out

    def walk(self, sent: Packet, came_out: list[Packet], now_ns: int) -> Walk:
        drawn = came_out[0].sport if came_out else 0
        return walk(
            self.model, sent, now_ns=now_ns, chooser=Follower(drawn), local=not sent.in_interface, trace=False
        )  # fmt: skip


def _machine(family: Family) -> Machine:
    if family is V6:
        return make_machine(["fd00:192::1/64", "2001:db8:7::1/64"], ["fd00:180::/64"])
    made = make_machine(["192.168.0.1", "192.168.7.1"], ["10.180.0.0/24"])
    remote = Route(parse_network("10.180.1.0/24"), "eth0", ip("192.168.0.2"))
    return replace(made, routing=Routing(made.routing.interfaces.values(), [*made.routing.routes, remote]))


def told(sent: Packet) -> str:
    return f"{sent} {'+'.join(sorted(sent.tcp_flags)) if sent.protocol == 'tcp' else ''} by {sent.out_interface}"


def let_out(outcome: Walk) -> list[str] | None:
    match outcome.disposition:
        case Disposition.FORWARDED:
            return [told(outcome.packet)]
        case Disposition.REJECTED if outcome.answer is not None:
            return [told(replace(outcome.answer, out_interface=outcome.packet.in_interface))]
        case Disposition.DELIVERED:
            return None
        case _:
            return []


def clock_ns() -> int:
    return time.monotonic_ns()  # noqa: TID251 - Linux lives in real time


def answer_of(request: Packet, text: str = "SYN ACK") -> Packet:
    """What whoever got a packet sends back."""
    return Packet(
        request.family, request.protocol, request.daddr, request.saddr, request.dport, request.sport, flags(text),
        in_interface=request.out_interface,
    )  # fmt: skip
