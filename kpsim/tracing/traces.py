"""Traces: a packet sent through a site, and its explanation, as ``kpsim trace`` and notebooks show it.

Counterpart: ovn-trace. ``explain`` writes the text of a trace, and ``kpsim.explore`` makes sites.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from kpsim.addresses import join_host_port
from kpsim.errors import preformatted
from kpsim.exchange import Exchange, WhatIf, exchange, is_request
from kpsim.fabric import Journey, send
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.replay import START_NS
from kpsim.tracing.deciding import ProbeResult
from kpsim.tracing.explain import Depth, minimal, render_trace, sentence, trace_record
from kpsim.tracing.explain.verdict import Decision, changed_source
from kpsim.tracing.outcomes import ExchangeOutcome, Sums, Weighted, exchange_outcome, explored, merged, seen_of
from kpsim.tracing.probes import Answer, Outcome, summarise
from kpsim.tracing.site import Sender, Site
from kpsim.tracing.standing import Standing, State, goes_back
from kpsim.units import MILLISECOND_NS


@dataclass(frozen=True, repr=False)
class Trace:
    """One packet's way, and what its sender gets. ``every`` has each outcome of the exchange with its odds.

    ``exchange`` None: the packet is none that its sender waits for an answer to. ``every`` None: it was not asked for.
    ``state`` is the connection entry that decided in place of the rules; None: the rules decided.
    """

    site: Site
    sender: Sender
    journey: Journey
    now_ns: int
    exchange: Exchange | None = None
    every: tuple[Weighted, ...] | None = None
    state: State | None = None

    @cached_property
    def answer(self) -> Answer | None:
        """Every outcome that ends as the likeliest do, as answers to probes have them; None: it was not asked for."""
        return None if self.every is None else _answer(self.every)

    @cached_property
    def outcomes(self) -> Sequence[tuple[Fraction, ExchangeOutcome]]:
        """Every outcome of the exchange, or the one that was drawn if not all were asked for. Each has its odds."""
        if self.every is not None:
            return merged(self.every)
        return () if self.exchange is None else ((Fraction(1), exchange_outcome(self.exchange)),)

    @cached_property
    def verdict(self) -> Sums:
        """The probability of each verdict; if not all outcomes were asked for, that of the drawn one is 1."""
        if self.every is not None:
            return Sums(self.every)
        return Sums() if self.exchange is None else Sums([(Fraction(1), self.exchange)])

    def text(self, depth: Depth | str = Depth.SUMMARY) -> str:
        """The explanation at one of three depths (minimal, summary, detailed), without a newline at the end."""
        depth = Depth(depth)
        if depth is Depth.MINIMAL:
            return minimal(self.journey, self.answer, self.verdict, self.state)
        return render_trace(
            self.journey, self.site, self.sender, depth=depth, exchange=self.exchange,
            outcomes=() if self.every is None else self.outcomes, verdict=self.verdict, state=self.state,
        )  # fmt: skip

    @property
    def words(self) -> str:
        """What became of the packet, in a sentence."""
        return sentence(self.journey, self.site.directory)

    def to_json(self) -> dict[str, Any]:
        expanded = None if self.every is None else self.outcomes
        return trace_record(
            self.journey, self.sender, self.site.directory, exchange=self.exchange, outcomes=expanded, verdict=self.verdict,
            state=self.state,
        )  # fmt: skip

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
        return preformatted(self.text())


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
    any_port: bool = False,
    standing: Standing | None = None,
) -> Trace:
    """Sends one packet. ``flow`` separates its draws from those of other packets; ``expand`` adds every outcome.

    ``any_port``: it begins a connection, by another source port if its own has one. ``standing`` compares the entry that
    the packet may follow with the rules; one that was used for earlier packets knows some answers. With ``commit`` the nodes remember the packet, but not the answer, which a capture has itself. InputError for an
    unknown node, if no source can be chosen, or if there are more than ``limit`` ways.
    """
    site.check_node(node)
    begun = site.begin(packet, node, sender)
    if any_port:
        site.use_free_port(begun, node, now_ns)
    local = sender is Sender.NODE
    standing = standing or Standing(site, limit=limit)
    asks = is_request(begun)
    every = None
    if expand and asks:
        every = tuple(explored(site, begun, node, local=local, now_ns=now_ns, trace=True, limit=limit))
    judged = None
    if asks:
        judged = exchange(
            WhatIf(site), begun, at_node=node, now_ns=now_ns, chooser=SeededChooser(seed, flow), local=local, trace=True,
            trace_answer=True,
        )  # fmt: skip
        if goes_back(judged.request):
            judged = every = None
    if judged is not None and not commit:
        state = standing.of(judged.request, local=local, now_ns=now_ns)
        return Trace(site, sender, judged.request, now_ns, judged, every, state)
    journey = send(
        site if commit else WhatIf(site), begun, at_node=node, now_ns=now_ns, chooser=SeededChooser(seed, flow),
        local=local, trace=True,
    )  # fmt: skip
    return Trace(site, sender, journey, now_ns, judged, every, standing.of(journey, local=local, now_ns=now_ns))


def _answer(every: Sequence[Weighted]) -> Answer:
    """Every outcome of a packet, followed from node to node to its end."""
    decided = [(weight, Decision.of(judged.request), judged) for weight, judged in every]
    steps = [(weight, decision.hop.walk) for weight, decision, _ in decided]
    found = summarise(steps, steps[0][1].trace)
    if found.result is ProbeResult.PASSED:
        first = next(judged for _, decision, judged in decided if decision.result is ProbeResult.PASSED)
        return replace(found, source=changed_source(first.request))
    if found.result is not ProbeResult.DELIVERED:
        return found
    delivered: dict[Outcome, Fraction] = {}
    for weight, decision, judged in decided:
        if decision.result is ProbeResult.DELIVERED:
            packet, drawn = judged.request.packet, judged.source_port_drawn
            end = join_host_port(packet.destination, packet.dport)
            outcome = Outcome(Fraction(0), end, judged.masquerade, seen_of(packet, port_drawn=drawn))
            delivered[outcome] = delivered.get(outcome, Fraction(0)) + weight
    return replace(found, outcomes=tuple(replace(outcome, weight=weight) for outcome, weight in delivered.items()))
