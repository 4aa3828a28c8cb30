"""Explains a disagreement from both sides: the model's way through the rules, and the rules that counted the packet
in Linux.

Counterpart: ``kpsim trace`` beside the counters of ``iptables-save -c``. Model and Linux forget their connections,
then the packet is sent once more, alone.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from kpsim.fabric import Hop
from kpsim.lab.wires import Shot
from kpsim.tracing.explain import hop_lines
from kpsim.verify.prediction import error_of, sights_of, told
from kpsim.verify.twin import Exchange, Twin


class Sides(NamedTuple):
    """Both sides, in lines. ``again``: whether the two also disagreed about the packet alone; if not, earlier packets
    matter.
    """

    model: tuple[str, ...]
    linux: tuple[str, ...]
    again: bool

    def beside(self, width: int) -> Iterator[str]:
        """Yields the two sides as columns, each ``width`` characters wide."""
        yield f"{'the model':<{width}} │ Linux"
        for ours, theirs in zip_longest(_wrapped(self.model, width), _wrapped(self.linux, width), fillvalue=""):
            yield f"{ours:<{width}} │ {theirs}".rstrip()
        if not self.again:
            yield "sent once more, alone, the two agreed: it hangs on what went before"


def _wrapped(lines: Sequence[str], width: int) -> Iterator[str]:
    for line in lines:
        rest = line
        while len(rest) > width:
            cut = rest.rfind(" ", width // 2, width) + 1 or width
            yield rest[:cut].rstrip()
            rest = "      " + rest[cut:]
        yield rest


def both_sides(twin: Twin, shot: Shot, *, answer: bool = False) -> Sides:
    """Sends a packet once more, alone, and explains both sides. With ``answer`` it explains the answer to the packet."""
    twin.forget()
    if answer:
        answered = twin.send(shot).answer()
        if answered is None:
            return Sides((), ("this time nobody got the packet",), again=False)
        shot = Shot(answered)
    twin.linux.tool.reset_counters()
    exchange = twin.send(shot, trace=True)
    return Sides(
        tuple(_model_lines(twin, exchange)),
        tuple(_linux_lines(twin, exchange)),
        again=bool(exchange.differences),
    )


def _model_lines(twin: Twin, exchange: Exchange) -> Iterator[str]:
    way = exchange.walk
    yield from hop_lines(Hop("node", way), exchange.shot.packet, twin.model)
    sights = sights_of(twin.model, way)
    for sight in sights:
        yield f"seen: {sight.packet} at {sight.where}"
    if error := error_of(way):
        yield f"the sender is told {error}"
    if not sights:
        yield f"seen nowhere: {way.disposition}" + (f", {way.cause}" if way.cause else "")


def _linux_lines(twin: Twin, exchange: Exchange) -> Iterator[str]:
    yield from twin.linux.tool.counted()
    for sighting in exchange.heard.sightings:
        yield f"seen: {told(sighting.packet)} at {sighting.where} {sighting.name}".rstrip()
    if exchange.heard.error:
        yield f"the sender is told {exchange.heard.error}"
    if not exchange.heard.sightings:
        yield "seen nowhere"
