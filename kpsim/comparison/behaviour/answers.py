"""The answers that a comparison shows: what each side says to the probe of a difference.

An answer is asked for, or composed from fates, or carried from the answer of a component that is alike.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.comparison.behaviour.boxes import Box, Difference
from kpsim.comparison.behaviour.differences import Side
from kpsim.comparison.behaviour.fates import Own, decided
from kpsim.comparison.behaviour.following import first_packet, typical
from kpsim.comparison.behaviour.spaces import holds
from kpsim.comparison.behaviour.starts import Start
from kpsim.comparison.behaviour.unbound import UNBOUND
from kpsim.errors import InputError
from kpsim.exchange import Verdict
from kpsim.inputs import Json, JsonObject
from kpsim.netfilter import walk
from kpsim.packetpath.chooser import ScriptedChooser
from kpsim.tracing.probes import (
    Answer,
    Outcome,
    Probe,
    ProbeResult,
    Seen,
    answer,
    decided_by,
    probe_record,
    result_of,
)
from kpsim.tracing.site import Sender

Numbers = tuple[int, int, int]  #: source, destination and port of a packet


class Answers:
    """The answers of two sides. One that serves several differences is made once."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self._sides = sides
        self._shared: dict[object, Json] = {}
        self._originals: dict[tuple[int, int, Numbers], Json] = {}
        #: of each node the addresses of its pods, with their places in the order of names
        self._pods: dict[tuple[str, Family], list[tuple[int, int]]] = {}

    # --- the packet that is asked about -----------------------------------------------------------------------------

    def typical_of(self, box: Box) -> tuple[Numbers, bool]:
        """Numbers of a packet of the box, and whether a client of this kind may have its source.

        Of all sources one is taken that a probe without source would have, or a pod of the node.
        """
        destination, port = typical(box.destination), typical(box.port)
        if box.sender is Sender.NODE and box.source == UNBOUND:
            return (0, destination, port), True
        for source in self._natural_sources(box, destination, port):
            if holds(box.source, source) and (source != destination or box.sender is Sender.NODE):
                return (source, destination, port), True
        if box.sender is Sender.POD and (pod := self._pod_in(box, destination)) is not None:
            return (pod, destination, port), True
        return (typical(box.source, other_than=destination), destination, port), False

    def _pod_in(self, box: Box, other_than: int) -> int | None:
        """The first pod of the box's node, by name, that the box has as a source."""
        key = box.node, box.family
        pods = self._pods.get(key)
        if pods is None:
            named = enumerate(self._sides[0].site.directory.pods_on(*key))
            pods = self._pods[key] = sorted((address, place) for place, address in named)
        found = [
            (place, address)
            for low, high in box.source
            for address, place in pods[bisect_left(pods, (low, 0)) : bisect_left(pods, (high + 1, 0))]
            if address != other_than
        ]
        return min(found)[1] if found else None

    def _natural_sources(self, box: Box, destination: int, port: int) -> Iterator[int]:
        site = self._sides[0].site
        if box.sender is Sender.NODE:
            chosen = {
                side.site.netns(box.node, box.family).routing.source_for(box.family, destination) or 0
                for side in self._sides
            }
            yield from chosen if len(chosen) == 1 else ()
            return
        asked = replace(first_packet(box.family, self._start(0, box), 0, destination, port), sourced=False)
        try:
            yield site.begin(asked, box.node, box.sender).saddr
        except InputError:
            return

    def _start(self, place: int, box: Box) -> Start:
        machine = self._sides[place].site.machine(box.node)
        interface = {Sender.NODE: "", Sender.POD: machine.pod_interface}.get(box.sender, machine.uplink)
        return Start(box.node, box.protocol, interface)

    def probe(self, number: int, box: Box, numbers: Numbers) -> JsonObject:
        """The line of a probe that asks about the packet."""
        probe = probe_record(
            Probe(number, box.node, box.sender, first_packet(box.family, self._start(0, box), *numbers))
        )
        del probe["sport"]
        return probe

    # --- answers ----------------------------------------------------------------------------------------------------

    def of(self, difference: Difference, numbers: Numbers) -> tuple[Json, Json]:
        """What the two sides answer to the probe of a difference."""
        if difference.like is None:
            return self._original(0, difference, numbers), self._original(1, difference, numbers)
        return self._carried(0, difference, numbers), self._carried(1, difference, numbers)

    def _original(self, place: int, difference: Difference, numbers: Numbers) -> Json:
        """If the answer says nothing of the packet's own numbers, equal fates share one."""
        if (place, id(difference), numbers) in self._originals:
            return self._originals[place, id(difference), numbers]
        box, fate = difference.box, difference.fates[place]
        found = self._composed(place, difference, numbers)
        answered = {Verdict.WORKS, Verdict.MISDELIVERED}.intersection(verdict for verdict, _ in fate.exchange)
        own = fate.result is ProbeResult.DELIVERED or fate.seen is not None or answered  # who answers may be assumed
        if found is None and difference.alike and not own:
            items = tuple(decided(way.leaf) for way in difference.ways[place])
            key = place, box.node, box.family, fate, items
            if key not in self._shared:
                self._shared[key] = self._asked(place, box, numbers).to_json()
            found = self._shared[key]
        if found is None:
            found = self._asked(place, box, numbers).to_json()
        self._originals[place, id(difference), numbers] = found
        return found

    def _asked(self, place: int, box: Box, numbers: Numbers) -> Answer:
        side, start = self._sides[place], self._start(place, box)
        packet = first_packet(box.family, start, *numbers)
        return answer(side.site, packet, box.node, local=start.local, now_ns=side.now_ns)

    def _composed(self, place: int, difference: Difference, numbers: Numbers) -> Json | None:
        """The answer of a component whose fates were composed; None: the fate does not tell all of it.

        Outcomes are in the order in which the ruleset names the endpoints.
        """
        box, fate, member = difference.box, difference.fates[place], difference.member
        if member is None or fate.result is not ProbeResult.DELIVERED:
            return None
        order = member.order[place, box.node, box.family] or ()
        ranks = {member.addresses[at]: rank for rank, at in enumerate(order)}
        found = {
            ranks.get((box.family, seen.destination), -1): (seen, hidden, weight)
            for seen, hidden, weight in fate.outcomes
            if seen is not None
        }
        if -1 in found or len(found) < len(fate.outcomes):
            return None
        own = (*numbers, 0, 0)
        outcomes = []
        for _, (seen, hidden, weight) in sorted(found.items()):
            source, destination, dport = (
                own[each.axis] if isinstance(each, Own) else each
                for each in (seen.source, seen.destination, seen.dport)
            )
            told = Seen(format_ip(box.family, source), seen.sport, format_ip(box.family, destination), dport)
            outcomes.append(Outcome(weight, join_host_port(told.dst, dport), hidden, told).to_json())
        odds = dict(fate.exchange)
        line: JsonObject = {
            "disposition": str(fate.result), "outcomes": outcomes, "by": self._naming(place, box, numbers)["by"],
            "exchange": {str(verdict): str(odds[verdict]) for verdict in Verdict if verdict in odds},
        }  # fmt: skip
        assumed = sum((way.weight for way in difference.ways[place] if way.leaf.assumed), Fraction(0))
        return line | {"assumed": str(assumed)} if assumed else line

    def _carried(self, place: int, difference: Difference, numbers: Numbers) -> Json:
        """The answer to the probe of a carried difference. It names rules of its own Service."""
        assert difference.like is not None
        (original, swap), box = difference.like, difference.box
        back = swap.address(numbers[0]), swap.address(numbers[1]), swap.port(numbers[2])
        told = named = self._original(place, original, back)
        own = any(way.leaf.by is not None and way.leaf.by.origin.service for way in difference.ways[place])
        if own or original.fates[place].result is ProbeResult.DELIVERED:
            key = place, box.node, box.family, swap.other.component, told["by"], told.get("masqueradeBy")
            if key not in self._shared:
                self._shared[key] = self._naming(place, box, numbers)
            named = self._shared[key]
        by = {name: named[name] for name in ("by", "masqueradeBy") if name in told}
        found = swap.answer(told, by, (place, box.node, box.family))
        return self._asked(place, box, numbers).to_json() if found is None else found

    def _naming(self, place: int, box: Box, numbers: Numbers) -> Json:
        """An answer that names the rules that decided; of a delivered packet only one outcome may be there."""
        side, start = self._sides[place], self._start(place, box)
        packet = first_packet(box.family, start, *numbers)
        found = walk(
            side.site.netns(box.node, box.family), packet, now_ns=side.now_ns, chooser=ScriptedChooser(),
            local=start.local,
        )  # fmt: skip
        if result_of(found) is ProbeResult.DELIVERED:
            return {"by": decided_by(found, found.trace)}
        return self._asked(place, box, numbers).to_json()
