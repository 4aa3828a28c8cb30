"""What became of a packet on one node, and one result for worlds that end alike (``packetpath.worlds``)."""

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from kpsim.conntrack import Entry, FlowTuple
from kpsim.ipvs.connections import Connection
from kpsim.ipvs.servers import ServerReference
from kpsim.packet import Packet
from kpsim.packetpath.memory import Touched
from kpsim.packetpath.steps import Ended, Step, Supposed
from kpsim.packetpath.traversal import NO_EFFECTS, Cause, Disposition, Effects
from kpsim.ruleset import RuleReference
from kpsim.valueclass import dataclass


@dataclass(frozen=True, slots=True)
class Walk:
    """What became of a packet on one node, why, and what the node will remember once the effects are committed."""

    disposition: Disposition
    packet: Packet  #: as it is now: delivered, forwarded (``out_interface``), or where it ended
    effects: Effects
    trace: tuple[Step, ...]  #: empty if none was asked for
    came_by: str = ""  #: the interface by which the packet came in; ip_vs sends on what came in as if it was made here
    cause: Cause | None = None  #: of REJECTED and DROPPED
    rule: RuleReference | None = None  #: the rule that rejected or dropped
    with_: str | None = None  #: of REJECTED: ``icmp-port-unreachable``, ``tcp-reset``, …
    answer: Packet | None = None  #: of REJECTED: what the sender is told
    local_error: str = ""  #: what a local sender's system call returns: EPERM, ECONNREFUSED, … (K-3.2)
    next_hop: int | None = None  #: of FORWARDED: the address that the packet is sent to on the link
    ct_state: str = ""  #: NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED; empty if nothing tracks connections
    entry: Entry | None = None  #: the packet's connection, also when it was not confirmed
    dnat_rule: RuleReference | None = None  #: decided the destination; only for the packet that creates the entry
    snat_rule: RuleReference | None = None  #: decided the source; only for the packet that creates the entry
    server: ServerReference | None = None  #: the virtual server that chose a real server for the packet, or had none
    served: Connection | None = None  #: of ip_vs, if the packet is a client's
    source_ports: tuple[int, int] | None = (
        None  #: first and last of the ports from which the kernel drew the new source port
    )
    unknown: str = ""  #: of UNKNOWN: the words of the rule that are not modelled

    @property
    def redirected(self) -> bool:
        """Whether the destination of the packet's connection was changed, by a rule or by ip_vs, now or earlier."""
        return self.binds or self.served is not None or (self.entry is not None and self.entry.redirects)

    @property
    def binds(self) -> bool:
        """Whether the destination was decided for this packet: by a rule that translated it, or by a virtual server."""
        return self.dnat_rule is not None or (self.server is not None and self.server.server is not None)

    @property
    def refused_by(self) -> RuleReference | ServerReference | None:
        """What refused the packet: a rule, or a virtual server without a usable real server; None: neither did."""
        refused = self.server is not None and self.server.server is None
        return self.server if refused and self.rule is None else self.rule

    @property
    def source_port_drawn(self) -> bool:
        """Whether the kernel drew the new source port at random."""
        return self.source_ports is not None

    @property
    def masqueraded(self) -> bool:
        """Whether a rule translates the source of this connection, be it for this packet or an earlier one.

        True for the packet that met the rule even if the source stays the same address.
        """
        translated = self.entry is not None and self.entry.reply.daddr != self.entry.original.saddr
        return translated or self.snat_rule is not None

    @property
    def translation(self) -> Hashable:
        """The rule that decided the destination, and where answers come from.

        Ways through the rules that met in one state went on alike, to one translation.
        """
        at, entry = self.dnat_rule, self.entry
        by = None if at is None else (at.table, at.chain, at.number)
        return by, None if entry is None else (entry.reply.saddr, entry.reply.sport)

    def untraced(self) -> "Walk":
        """The same walk without its trace."""
        return replace(self, trace=())

    def towards(self, address: int, port: int, next_hop: int, at: RuleReference) -> "Walk":
        """The same walk to another endpoint, to which the rule ``at`` translates, by another next hop.

        It is right if nothing on the way tells the two endpoints apart (``packetpath.endpoints``).
        """
        assert self.entry is not None
        packet = self.packet.copy()
        packet.daddr, packet.dport = address, port
        family, protocol, _, _, daddr, dport = self.entry.reply
        entry = self.entry._replace(reply=FlowTuple(family, protocol, address, port, daddr, dport))
        return Walk(
            self.disposition, packet, Effects(entry), self.trace, self.came_by, self.cause, self.rule, self.with_,
            self.answer, self.local_error, next_hop, self.ct_state, entry, at, self.snat_rule, self.server, self.served,
            self.source_ports, self.unknown,
        )  # fmt: skip


# --- worlds that end alike -------------------------------------------------------------------------------------------


def agreed(first: Walk, other: Walk) -> Walk | None:
    """One walk for two that end alike; None for two that differ.

    Which rule decided, and what was counted, may differ. So may marks, and what lists and limits remember: afterwards it is
    not known what they hold.
    """
    if first == other:
        return first
    mine, theirs = first.effects, other.effects
    if _outcome(first) != _outcome(other) or mine.destroyed != theirs.destroyed:
        return None
    entries = [
        _same_but_for_marks(*pair)
        for pair in ((first.entry, other.entry), (mine.created, theirs.created), (mine.updated, theirs.updated))
    ]
    if any(entry is _DIFFER for entry in entries):
        return None
    entry, created, updated = entries
    touched = mine.touched._replace(unsure=_unsure(mine.touched, theirs.touched))
    return replace(first, entry=entry, effects=replace(mine, created=created, updated=updated, touched=touched))


def _unsure(mine: Touched, theirs: Touched) -> frozenset[Hashable]:
    """The buckets and numbers, the lists with a source and the sets with a key that only one of two worlds changed."""
    ours: dict[Hashable, object] = dict((*mine.buckets, *mine.numbers))
    others: dict[Hashable, object] = dict((*theirs.buckets, *theirs.numbers))
    ours |= {(touch.at, touch.key): touch for touch in mine.sets}
    others |= {(touch.at, touch.key): touch for touch in theirs.sets}
    differ: set[Hashable] = {key for key in {**ours, **others} if ours.get(key) != others.get(key)}
    if mine.recent != theirs.recent:
        differ |= {(touch.match.name, touch.source) for touch in (*mine.recent, *theirs.recent)}
    return mine.unsure | theirs.unsure | differ


_DIFFER = object()


def _same_but_for_marks(mine: Entry | None, theirs: Entry | None) -> Any:
    """One entry for two that differ in their marks at most; _DIFFER if they differ in more."""
    if mine is None or theirs is None:
        return mine if mine is theirs else _DIFFER
    unsure = mine.unsure_mark | theirs.unsure_mark | (mine.mark ^ theirs.mark)
    both = mine._replace(unsure_mark=unsure)
    return both if both == theirs._replace(mark=mine.mark, unsure_mark=unsure) else _DIFFER


def _outcome(step: Walk) -> tuple[object, ...]:
    """What two walks must have in common to end alike."""
    sent = replace(step.packet, mark=0) if step.disposition in (Disposition.FORWARDED, Disposition.DELIVERED) else None
    translated = (step.dnat_rule is None, step.snat_rule is None, step.source_port_drawn, step.server is None)
    cause = Cause.RULE if step.cause is Cause.POLICY else step.cause
    return (
        step.disposition,
        sent,
        cause,
        step.with_,
        step.answer,
        step.local_error,
        step.next_hop,
        step.ct_state,
        translated,
    )


def undecided(step: Walk, words: str) -> Walk:
    """The walk of a packet whose end depends on a match that is not modelled."""
    end = Ended(Disposition.UNKNOWN, Cause.UNKNOWN_RULE)
    asked = [at for at, each in enumerate(step.trace) if isinstance(each, Supposed) and each.words == words]
    shown = (*step.trace[: asked[-1] + 1], end) if asked else step.trace
    return replace(
        step, disposition=Disposition.UNKNOWN, cause=Cause.UNKNOWN_RULE, unknown=words, effects=NO_EFFECTS, trace=shown,
        rule=None, with_=None, answer=None, local_error="", next_hop=None, entry=None, dnat_rule=None, snat_rule=None,
        server=None, served=None,
    )  # fmt: skip
