"""Sends a client's first packet and the answer to it, and describes a packet's way in a line."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from kpsim.addresses import Network, format_ip
from kpsim.conntrack import tuple_of
from kpsim.fabric import Fabric, Journey, Place, Whose, reply, send
from kpsim.netfilter import Disposition
from kpsim.packet import Packet
from kpsim.packetpath.chooser import Chooser


class Failure(enum.StrEnum):
    """Why a client's connection does not work."""

    NONE = ""
    REJECTED = "the request was rejected"
    DROPPED = "the request was dropped"
    UNKNOWN = "the request met a rule that is not modelled"
    NOBODY_THERE = "the request left to where nobody answers"
    ANSWER_LOST = "the answer was dropped on its way"
    ANSWER_ELSEWHERE = "the answer went to somebody else"
    ANSWER_FROM_WRONG_ADDRESS = "the answer reached the client from an address it does not talk to"  #: PP-5.5


@dataclass(frozen=True, slots=True)
class Exchange:
    """A first packet and its answer. ``works`` says whether the client's connection works."""

    request: Journey
    answer: Journey | None
    failure: Failure

    @property
    def works(self) -> bool:
        return self.failure is Failure.NONE


def exchange(
    fabric: Fabric,
    packet: Packet,
    *,
    at_node: str,
    now_ns: int,
    chooser: Chooser,
    local: bool = False,
    outside: Iterable[Network] = (),
) -> Exchange:
    """Send a first packet and its answer, and find out whether the client gets the answer that it waits for.

    Outside the cluster, only hosts in the networks ``outside`` answer.
    """
    request = send(fabric, packet, at_node=at_node, now_ns=now_ns, chooser=chooser, local=local)
    failures = {
        Disposition.REJECTED: Failure.REJECTED, Disposition.DROPPED: Failure.DROPPED, Disposition.STOLEN: Failure.DROPPED,
        Disposition.UNKNOWN: Failure.UNKNOWN,
    }  # fmt: skip
    if request.disposition in failures:
        return Exchange(request, None, failures[request.disposition])
    if request.end == Place(Whose.OUTSIDE) and not any(
        network.family is packet.family and request.packet.daddr in network for network in outside
    ):
        return Exchange(request, None, Failure.NOBODY_THERE)
    answer = reply(fabric, request, now_ns=now_ns, chooser=chooser)
    return Exchange(request, answer, _judge(request, answer))


def _judge(request: Journey, answer: Journey) -> Failure:
    if answer.end is None:
        return Failure.ANSWER_LOST
    if answer.end != request.origin:
        return Failure.ANSWER_ELSEWHERE
    if tuple_of(answer.packet) != tuple_of(request.sent).inverse():
        return Failure.ANSWER_FROM_WRONG_ADDRESS
    return Failure.NONE


def describe(journey: Journey) -> str:
    """Return the way in a line: ``n1 → n2 → pod 10.180.1.7``."""
    parts = [hop.node for hop in journey.hops]
    if journey.end is None:
        parts.append(str(journey.disposition))
    elif journey.end.whose is Whose.POD:
        parts.append(f"pod {format_ip(journey.packet.family, journey.end.address)}")
    elif journey.end.whose is Whose.OUTSIDE:
        parts.append("outside")
    else:
        parts.append("process")
    return " → ".join(parts)
