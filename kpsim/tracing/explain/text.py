"""Traces as text for people: the way of a packet as a tree, at two depths.

Counterpart: ovn-trace's ``--summary`` and ``--detailed``. kube-proxy's rules are printed as kube-proxy sends them to
the tool. Rules of other programs are printed as the tool lists them.
"""

import enum
from collections.abc import Iterator, Sequence
from fractions import Fraction

from kpsim.addresses import Family
from kpsim.dialects import Form, dialect_of
from kpsim.exchange import Exchange, Verdict, client_gets
from kpsim.fabric import Hop, Journey
from kpsim.netfilter import Cause, Disposition, Netns
from kpsim.packet import Packet
from kpsim.packetpath.steps import (
    Chosen,
    ConntrackChanged,
    Ended,
    FieldChanged,
    FieldName,
    Moment,
    Routed,
    Step,
    Tracking,
    describe,
    shown,
)
from kpsim.ruleset import FOREIGN, Chain, RuleReference, Table
from kpsim.tracing.directory import Directory
from kpsim.tracing.explain.tree import ChainBlock, HookBlock, RuleBlock, build_tree
from kpsim.tracing.explain.unmatched import Skipped, unmatched
from kpsim.tracing.explain.verdict import ends, sentence, why, why_there
from kpsim.tracing.outcomes import ExchangeOutcome, Sums
from kpsim.tracing.site import Sender, Site
from kpsim.tracing.standing import State


class Depth(enum.StrEnum):
    """How much a trace tells."""

    MINIMAL = "minimal"
    SUMMARY = "summary"
    DETAILED = "detailed"


_FROM = {
    Sender.POD: "from a pod of {}", Sender.NODE: "from a process on {}", Sender.EXTERNAL: "from outside, met by {}",
    Sender.PEER: "from another node, met by {}",
}  # fmt: skip


def render_trace(
    journey: Journey,
    site: Site,
    sender: Sender,
    *,
    depth: Depth = Depth.SUMMARY,
    exchange: Exchange | None = None,
    outcomes: Sequence[tuple[Fraction, ExchangeOutcome]] = (),
    verdict: Sums | None = None,
    state: State | None = None,
) -> str:
    """The trace as text: the packet, the hops, the outcomes, what became of the packet, and what its sender gets.

    An entry that overrode the rules (``state``) has its line.
    """
    node = journey.hops[0].node
    lines = [f"{journey.sent} {_FROM[sender].format(node)}", ""]
    lines += _way(journey, site, detailed=depth is Depth.DETAILED)
    if depth is Depth.DETAILED and exchange is not None and exchange.answer is not None and exchange.answer.hops:
        lines += [f"what comes back: {exchange.answer.sent}", "", *_way(exchange.answer, site, detailed=True)]
    if outcomes:
        lines += [*outcome_lines(outcomes, verdict), ""]
    lines.append(sentence(journey, site.directory))
    if state is not None and state.kind is not None:
        lines.append(f"state against rules: {state}")
    if exchange is not None:
        lines += client_lines(exchange, site.directory)
    return "\n".join(lines)


def outcome_lines(outcomes: Sequence[tuple[Fraction, ExchangeOutcome]], verdict: Sums | None) -> Iterator[str]:
    """Every outcome of a first packet with its exact probability, and the sums of the verdicts."""
    yield "every outcome:"
    width = max(len(str(weight)) for weight, _ in outcomes)
    for weight, outcome in outcomes:
        parts = [outcome.endpoint or "nobody gets it"]
        if outcome.seen is not None:
            parts.append(_source_seen(outcome))
        if outcome.verdict is not Verdict.WORKS:
            parts.append(f"{outcome.verdict} at {outcome.node}" if outcome.node else str(outcome.verdict))
        yield f"  {weight!s:>{width}}  {'  '.join(parts)}"
    yield f"  exchange: {verdict}"


def _source_seen(outcome: ExchangeOutcome) -> str:
    """How the receiver sees the source. Behind a load balancer it never sees the client's."""
    assert outcome.seen is not None
    masqueraded = f"masqueraded as {outcome.seen.src}"
    if outcome.relay:
        by = f"by the load balancer and {outcome.relay}"
        return f"{by}, {masqueraded}" if outcome.masquerade else f"{by}, as {outcome.seen.src}"
    return masqueraded if outcome.masquerade else "source kept"


def client_lines(exchange: Exchange, directory: Directory) -> Iterator[str]:
    """What a load balancer between did, if there was one, and what the client gets."""
    if exchange.relay is not None:
        request = exchange.relay.request
        yield f"a load balancer takes it and dials {ends(request.sent)} on {request.hops[0].node}: {sentence(request, directory)}"
    reason = (
        f" ({why_there(exchange.by, exchange.last.request.hops[-1].walk)})"
        if exchange.by is not None and exchange.by.rule is not None
        else ""
    )
    yield f"the client gets: {client_gets(exchange)}{reason}"
    if (detour := exchange.detour) is not None:
        yield (
            f"the answer leaves {detour.node} by {detour.leaves_by}; the request came in by {detour.came_by}, so a router "
            "there may drop it"
        )


def _way(journey: Journey, site: Site, *, detailed: bool) -> Iterator[str]:
    """What each node on the way did, with an empty line behind each."""
    arrived = journey.sent
    for number, hop in enumerate(journey.hops):
        if number:
            arrived = _arrived(journey.hops[number - 1].walk.packet, site.machine(hop.node).uplink)
        yield from hop_lines(hop, arrived, site.netns(hop.node, hop.walk.packet.family), detailed=detailed)
        yield ""


def _arrived(packet: Packet, interface: str) -> Packet:
    """A packet that one node sent, as the next node gets it."""
    arrived = packet.copy()
    arrived.in_interface, arrived.out_interface, arrived.mark = interface, "", 0
    return arrived


def hop_lines(hop: Hop, arrived: Packet, netns: Netns, *, detailed: bool = False) -> Iterator[str]:
    """What one node did to a packet, as lines. ``netns`` has the rules that the packet met."""
    node, walk = hop
    packet = walk.packet
    entrance = f", in by {arrived.in_interface}" if arrived.in_interface else ", made here"
    yield f"{node}: {arrived}{entrance}"
    printer = _Printer(netns, packet.family, detailed=detailed)
    yield from printer.lines(build_tree(walk))
    if walk.disposition is Disposition.FORWARDED:
        drawn = " (source port drawn at random)" if walk.source_port_drawn else ""
        yield f"  leaves by {packet.out_interface}: {packet}{drawn}"
    if walk.answer is not None:
        yield f"  answer: {walk.with_} from {walk.answer.source} to {walk.answer.destination}"


class _Printer:
    """One node's part of a trace."""

    def __init__(self, netns: Netns, family: Family, *, detailed: bool) -> None:
        self._netns = netns
        self._family = family
        self._detailed = detailed

    def lines(self, items: list[HookBlock | Step]) -> Iterator[str]:
        hook = None
        for item in items:
            if not isinstance(item, HookBlock):
                hook = None
                yield from self._step(item, "  ")
                continue
            inner = list(self._hook(item))
            if not inner:
                continue
            if item.hook is not hook:
                hook = item.hook
                yield f"  {hook}"
            yield from inner

    def _hook(self, block: HookBlock) -> Iterator[str]:
        for item in block.items:
            if isinstance(item, ChainBlock):
                if self._detailed or not item.idle:
                    yield from self._chain(item, "    ")
            else:
                yield from self._step(item, "    ")

    def _chain(self, block: ChainBlock, indent: str) -> Iterator[str]:
        yield f"{indent}{block.table}/{block.name}"
        tried = 0
        inner = indent + "  "
        for item in block.items:
            if isinstance(item, RuleBlock):
                number = item.step.at.number
                yield from self._unmatched(block, tried + 1, number - 1, item.step.moment, inner)
                tried = number
                if self._detailed or not item.idle:
                    yield from self._rule(item, inner)
            elif not self._detailed:
                yield from self._step(item, inner)
        if block.end is not None:
            rules = len(self._chain_of(block).rules)
            yield from self._unmatched(block, tried + 1, rules, block.end, inner)

    def _rule(self, block: RuleBlock, indent: str) -> Iterator[str]:
        at = block.step.at
        if at.rule is None:
            yield f"{indent}policy"
            return
        yield f"{indent}rule {at.number}: {why(at)}"
        dialect, form = dialect_of(at.table, at.rule), Form.LISTED if at.rule.origin == FOREIGN else Form.SENT
        yield f"{indent}  {dialect.spell(at, self._family, form)}"
        if at.element is not None:
            yield f"{indent}  {dialect.element(at, self._family)}"
        for note in block.notes:
            yield from self._step(note, indent + "  ")
        if block.chain is not None:
            yield from self._chain(block.chain, indent + "  ")

    def _chain_of(self, block: ChainBlock) -> Chain:
        """The chain that a block tells of, with all its rules."""
        return self._table_of(block).chains[block.name]

    def _table_of(self, block: ChainBlock) -> Table:
        return self._netns.rulesets[self._family].tables[block.table]

    def _unmatched(self, block: ChainBlock, first: int, last: int, moment: Moment, indent: str) -> Iterator[str]:
        if not self._detailed:
            return
        chain = self._chain_of(block)
        sets = self._netns.ipsets[self._family]
        for found in unmatched(self._table_of(block), chain, first, last, moment, self._netns.routing, sets):
            if isinstance(found, Skipped):
                yield f"{indent}rules {found.first} to {found.last}: for other destinations"
            else:
                words = found.reason.words if found.reason is not None else "a condition did not hold"
                at = RuleReference(block.table, block.name, found.number, found.rule)
                yield f"{indent}rule {found.number}: {why(at)}: no, {words}"

    def _step(self, step: Step, indent: str) -> Iterator[str]:
        match step:
            case ConntrackChanged(Tracking.BOUND | Tracking.CONFIRMED as tracking, entry) if not self._detailed:
                if tracking is Tracking.CONFIRMED and entry is not None:
                    yield f"{indent}conntrack remembers {entry}"
            case ConntrackChanged(Tracking.NEW, _):
                yield f"{indent}conntrack: new connection"
            case FieldChanged(FieldName.SOURCE, (0, _), after):
                yield f"{indent}source chosen by routing: {shown(step.field, after, self._family)}"
            case FieldChanged(FieldName.TTL, _, _) if not self._detailed:
                return
            case Chosen(table, rule, chance, true):
                written = dialect_of(table, rule).probability(rule, chance, self._family)
                yield f"{indent}drawn with probability {written}: {'yes' if true else 'no'}"
            case Routed(route, interface):
                device = f", by {interface}" if interface and interface not in route else ""
                yield f"{indent}routing: {route}{device}"
            case Ended(disposition, cause):
                if cause not in (Cause.RULE, Cause.POLICY) and disposition != Disposition.FORWARDED:
                    yield f"{indent}{disposition}" + (f": {cause}" if cause else "")
            case _:
                yield indent + describe(step, self._family)
