"""Traces: a packet sent through a site, and its explanation, as ``kpsim trace`` and notebooks show it.

Counterpart: ovn-trace. ``explain`` writes the text of a trace, and ``kpsim.explore`` makes sites.
"""

from dataclasses import dataclass
from html import escape
from typing import Any

from kpsim.fabric import Journey, send
from kpsim.netfilter import Walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import Chooser, SeededChooser, explore
from kpsim.replay import START_NS
from kpsim.tracing.explain import Depth, minimal, render_trace, sentence, trace_record
from kpsim.tracing.explain.verdict import Verdict
from kpsim.tracing.probes import Answer, summarise
from kpsim.tracing.site import Sender, Site
from kpsim.units import MILLISECOND_NS


@dataclass(frozen=True, repr=False)
class Trace:
    """One packet's way. ``answer`` holds every outcome with its odds; None: it was not asked for."""

    site: Site
    sender: Sender
    journey: Journey
    now_ns: int
    answer: Answer | None = None

    def text(self, depth: Depth | str = Depth.SUMMARY) -> str:
        """The explanation at one of three depths (minimal, summary, detailed), without a newline at the end."""
        depth = Depth(depth)
        if depth is Depth.MINIMAL:
            return minimal(self.journey, self.answer)
        return render_trace(self.journey, self.site, self.sender, depth=depth, answer=self.answer)

    @property
    def words(self) -> str:
        """What became of the packet, in a sentence."""
        return sentence(self.journey, self.site.directory)

    def to_json(self) -> dict[str, Any]:
        return trace_record(self.journey, self.sender, self.site.directory, self.answer)

    def sightings(self) -> list[tuple[int, Packet]]:
        """The packets that a capture on the way would hold, each with its time in nanoseconds since 1970.

        They are the packet as sent, as each node sends it on, and the answer to a rejection, a millisecond apart.
        """
        packets = [self.journey.sent]
        for hop in self.journey.hops:
            if hop.walk.next_hop is not None:
                packets.append(hop.walk.packet)
            if hop.walk.answer is not None:
                packets.append(hop.walk.answer)
        return [(self.now_ns + number * MILLISECOND_NS, packet) for number, packet in enumerate(packets)]

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<trace of {self.journey.sent}: {self.words}>"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.text())}</pre>"


def trace_packet(
    site: Site,
    packet: Packet,
    *,
    node: str,
    sender: Sender,
    seed: int = 0,
    flow: int = 0,
    expand: bool = False,
    commit: bool = False,
    now_ns: int = START_NS,
    limit: int | None = None,
) -> Trace:
    """Sends one packet. ``flow`` separates its draws from those of other packets; ``expand`` adds every outcome.

    InputError for an unknown node, if no source can be chosen, or if there are more than ``limit`` ways.
    """
    site.check_node(node)
    begun = site.begin(packet, node, sender)
    local = sender is Sender.NODE
    every = _every_outcome(site, begun, node, local=local, now_ns=now_ns, limit=limit) if expand else None
    chooser = SeededChooser(seed, flow)
    journey = send(site, begun, at_node=node, now_ns=now_ns, chooser=chooser, local=local, trace=True, commit=commit)
    return Trace(site, sender, journey, now_ns, every)


def _every_outcome(site: Site, packet: Packet, node: str, *, local: bool, now_ns: int, limit: int | None) -> Answer:
    """Every outcome of a packet, followed from node to node until its endpoint is decided."""

    def once(chooser: Chooser) -> Walk:
        journey = send(
            site, packet, at_node=node, now_ns=now_ns, chooser=chooser, local=local, trace=True, commit=False,
            until_translated=True,
        )  # fmt: skip
        return Verdict.of(journey).hop.walk

    outcomes = list(explore(once, as_written=True, limit=limit))
    return summarise(outcomes, outcomes[0][1].trace)
