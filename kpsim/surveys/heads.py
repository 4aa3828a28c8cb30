"""The first half of a request's way: to the node that chooses its endpoint, with every choice that the rules leave.

The rules that choose run once for each choice, from where connection tracking has made the packet's connection. All that lies before
them on the way is passed once.
"""

from fractions import Fraction
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.exchange import Target, WhatIf
from kpsim.fabric import Journey, send
from kpsim.netfilter import HookEntry, Netns
from kpsim.packet import Packet
from kpsim.packetpath.chooser import ScriptedChooser
from kpsim.packetpath.traversal import End, Traversal
from kpsim.packetpath.worlds import SameDraws
from kpsim.ruleset import Hook
from kpsim.tracing.site import Site

_BEFORE_NAT = -101  #: of destinations (K-9.1)
_HOOKS = (Hook.PREROUTING, Hook.OUTPUT)
_MOST_CHOICES = 512  #: a Service with more endpoints is followed in the ordinary way


class Choice(NamedTuple):
    """One choice: its odds, the draws that make it, and how the packet looks then. ``bound``: it has an endpoint."""

    weight: Fraction
    script: tuple[int, ...]
    bound: bool
    target: Target
    saddr: int
    sport: int
    mark: int
    remembered: bool  #: session affinity keeps the client to this endpoint


class Chosen(NamedTuple):
    """A node that chooses the endpoints of a packet, and its choices."""

    node: str
    dialled: Target  #: what the packet is addressed to when it comes to this node
    choices: tuple[Choice, ...]


class _Cut(Exception):
    """The endpoint of a packet is chosen: the first half of its way ends."""

    def __init__(self, chosen: Chosen) -> None:
        self.chosen = chosen


class Heads(WhatIf):
    """Nodes that stop a packet where its endpoint is chosen. They forget every packet."""

    def __init__(self, site: Site, now_ns: int) -> None:
        super().__init__(site)
        self._now_ns = now_ns
        self._watched: dict[tuple[str, Family], Netns] = {}

    def netns(self, node: str, family: Family) -> Netns:
        found = super().netns(node, family)
        if self._watched.get((node, family)) is not found:
            self._watched[node, family] = found
            for hook in _HOOKS:
                found.register(family, HookEntry(hook, _BEFORE_NAT, "the endpoint is chosen", self._choose))
        return found

    def follow(self, packet: Packet, node: str, *, local: bool) -> Chosen | Journey:
        """Where a packet's endpoint is chosen; a journey: no node chooses one by its rules, or there are very many."""
        chooser = ScriptedChooser(as_written=True)
        try:
            return send(
                self, packet, at_node=node, now_ns=self._now_ns, chooser=chooser, local=local, commit=False,
                until_translated=True,
            )  # fmt: skip
        except _Cut as cut:
            return cut.chosen

    def _choose(self, traversal: Traversal) -> End | None:
        """Runs the rules of nat for each choice. If they leave the packet alone, it goes on as if nothing had run."""
        if not traversal.unconfirmed or traversal.destination_done:
            return None
        node = traversal.node
        assert isinstance(node, Netns)
        nat = next((each for each in node.entries(traversal.family, traversal.hook) if each.name == "nat"), None)
        if nat is None:
            return None
        dialled, before, drawing = Target.of(traversal.packet), traversal.snapshot(0), traversal.chooser
        found: list[Choice] = []
        scripts: list[tuple[int, ...]] = [()]
        while scripts and len(found) <= _MOST_CHOICES:
            chooser = ScriptedChooser(scripts.pop(), as_written=True)
            traversal.chooser = SameDraws(chooser)
            found.append(_choice(traversal, nat.run(traversal), chooser))
            scripts += chooser.alternatives()
            traversal.restore(before, 0)
        traversal.chooser = drawing
        if len(found) > _MOST_CHOICES or (len(found) == 1 and not found[0].bound):
            return None
        raise _Cut(Chosen(node.name, dialled, tuple(found)))


def _choice(traversal: Traversal, end: End | None, chooser: ScriptedChooser) -> Choice:
    packet = traversal.packet
    return Choice(
        chooser.weight, tuple(chooser.taken), end is None and traversal.dnat_rule is not None, Target.of(packet), packet.saddr,
        packet.sport, packet.mark, bool(traversal.touches or traversal.members),
    )  # fmt: skip
