"""State against rules in traces: the connection entry that a packet followed, beside what the rules do with a new flow.

``kpsim.pins`` judges the entry. The rules are asked for every way of a first packet of the same client to the same
destination, over all nodes and back.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from kpsim.conntrack import Entry, tuple_of
from kpsim.exchange import NewFlow
from kpsim.fabric import Journey
from kpsim.inputs import JsonObject
from kpsim.kubeproxy.stale_flows import CleanUp
from kpsim.netfilter import Disposition
from kpsim.packet import Window
from kpsim.packetpath.chooser import TooManyWays
from kpsim.pins import Followed, NewWay, PinKind, deciding_hop, end_of, kind_of, listed_flow
from kpsim.ruleset import FOREIGN, RuleReference
from kpsim.tracing.outcomes import ExchangeOutcome, Sums, Weighted, explored, merged
from kpsim.tracing.site import Site
from kpsim.units import SECOND_NS

_SHOWN = 3  #: so many endpoints are named in words


@dataclass(frozen=True, slots=True)
class State:
    """The connection entry that a packet followed, and what the rules do with a new flow in its place."""

    node: str  #: whose table holds the entry
    entry: Entry
    age_ns: int | None  #: how long ago it was made; None: not known
    kind: PinKind | None  #: how it differs from the rules; None: they may do the same, or it is not known
    new: tuple[Weighted, ...]  #: every way of a new flow; empty: there are more than may be followed
    clean_up: CleanUp | None  #: why kube-proxy's clean-up left it; None: not known, or there is no difference

    @property
    def leads_to(self) -> str:
        """The ``ip:port`` to which the entry sends the flow."""
        return end_of(self.entry)

    @property
    def outcomes(self) -> Sequence[tuple[Fraction, ExchangeOutcome]]:
        """What may become of a new flow, each with its odds."""
        return merged(self.new)

    def __str__(self) -> str:
        """The difference in words, without a full stop."""
        made = "" if self.age_ns is None else f" made {self.age_ns / SECOND_NS:g} s ago"
        entry, leads = f"an entry of {self.node}{made}", f"sends the flow to {self.leads_to}"
        match self.kind:
            case None:
                said = f"{entry} {leads}{', as the rules may do with a new one' if self.new else ''}"
            case PinKind.FORMER_ENDPOINT:
                said = f"{entry} still {leads}, a former endpoint; the rules {self._rules}"
            case PinKind.OLDER:
                said = (
                    f"{entry} keeps the flow untranslated: older than the Service's rules (CT-3.5); they {self._rules}"
                )
            case PinKind.REFUSED | PinKind.SERVICE_GONE:
                said = f"{entry} still {leads}; the rules {self._rules}"
        return f"{said}; {self.clean_up}" if self.clean_up is not None else said

    @property
    def _rules(self) -> str:
        """What the rules do with a new flow, in words."""
        refused = [judged for _, judged in self.new if NewWay.of([judged.request]).refuses]
        if refused and len(refused) == len(self.new):
            last = refused[0].request.hops[-1].walk
            assert last.rule is not None
            return f"{f'refuse a new one with {last.with_}' if last.with_ else 'drop a new one'}{_named(last.rule)}"
        ends = sorted({end for _, judged in self.new for end in _targets(judged.request)})
        if not ends:
            return "leave a new one alone"
        more = f" and {len(ends) - _SHOWN} more" if len(ends) > _SHOWN else ""
        return f"send a new one to {', '.join(ends[:_SHOWN])}{more}"

    def to_json(self) -> JsonObject:
        original, reply = self.entry.original, self.entry.reply
        return {
            "kind": None if self.kind is None else str(self.kind),
            "node": self.node,
            "entry": {
                "state": str(self.entry.state), "original": str(original), "reply": str(reply),
                "ageSeconds": None if self.age_ns is None else self.age_ns / SECOND_NS, "leadsTo": self.leads_to,
            },
            "rules": {
                "verdict": Sums(self.new).to_json(),
                "outcomes": [{"weight": str(weight)} | outcome.to_json() for weight, outcome in self.outcomes],
            },
            "cleanUp": None if self.clean_up is None else str(self.clean_up),
            "words": str(self),
        }  # fmt: skip


def _named(at: RuleReference) -> str:
    if at.origin == FOREIGN:
        return f" ({at})"
    return f" ({at.origin.role}{f' of {at.origin.service}' if at.origin.service else ''})"


class Standing:
    """Compares connection entries of a site with its rules. What the rules do with a new flow is asked once."""

    def __init__(self, site: Site, *, limit: int | None = None) -> None:
        self._site = site
        self._limit = limit
        self._known: dict[tuple[object, ...], tuple[Weighted, ...]] = {}

    def of(self, journey: Journey, *, local: bool, now_ns: int) -> State | None:
        """The state that decided a packet's way; None: the rules did, or the packet goes back to the client.

        ``local``: a process of the first node sent it. Connections that began with a packet to the site itself are no such
        state: its rules do not change.
        """
        if not journey.hops or journey.sent.related is not None or goes_back(journey):
            return None
        held = [
            Followed(node, walk.entry)
            for node, walk in journey.hops
            if walk.effects.updated is not None and walk.entry is not None and self._site.remembered(node, walk.entry)
        ]
        if not held or deciding_hop(journey).walk.refused_by is not None:
            return None
        new = self._new_ways(journey, local=local, now_ns=now_ns)
        followed = _deciding(held, new)
        entry, kind = followed.entry, _kind(followed.entry, new)
        if kind is PinKind.FORMER_ENDPOINT:  # what session affinity chose for this client may be one of several
            kind = _kind(entry, self._new_ways(journey, local=local, now_ns=now_ns, lists=False))
        age_ns = now_ns - entry.created_ns if entry.created_ns else None
        return State(followed.node, entry, age_ns, kind, new, None if kind is None else self._clean_up(followed))

    def _new_ways(self, journey: Journey, *, local: bool, now_ns: int, lists: bool = True) -> tuple[Weighted, ...]:
        """Every way of a first packet like the one that was sent; none if there are more than the limit."""
        sent, node = journey.sent, journey.hops[0].node
        memories = (self._site.netns(hop.node, sent.family).memory for hop in journey.hops)
        lists = lists and not all(memory.is_empty for memory in memories)
        first = replace(
            sent, tcp_flags=frozenset({"SYN"}), sctp_chunk="INIT", numbers=None, window=Window.EXACT, repeated=False
        )
        key = (
            node, local, now_ns if lists else None, first.in_interface, *tuple_of(first), first.uid, first.gid, first.ttl, first.traffic_class,
        )  # fmt: skip
        if key not in self._known:
            world = NewFlow(self._site, lists=lists)
            try:
                ways = explored(world, first, node, local=local, now_ns=now_ns, trace=True, limit=self._limit)
                self._known[key] = tuple(ways)
            except TooManyWays:
                self._known[key] = ()
        return self._known[key]

    def _clean_up(self, followed: Followed) -> CleanUp | None:
        original, reply = followed.entry.original, followed.entry.reply
        return self._site.why_left(followed.node, original.family, listed_flow(original, reply))


def goes_back(journey: Journey) -> bool:
    """Whether a packet belongs to a connection that the other end began, so that it is an answer itself."""
    entry = journey.hops[0].walk.entry
    return entry is not None and entry.reply == tuple_of(journey.sent) != entry.original


def _kind(entry: Entry, new: Sequence[Weighted]) -> PinKind | None:
    if not new or any(judged.request.disposition is Disposition.UNKNOWN for _, judged in new):
        return None
    ways = [judged.request for _, judged in new]
    return kind_of(entry, NewWay.of(ways), {end for way in ways for end in _targets(way)})


def _targets(way: Journey) -> Iterator[str]:
    """The ``ip:port`` to which nodes translated the destination of a new flow."""
    for hop in way.hops:
        if hop.walk.entry is not None and hop.walk.binds:
            yield end_of(hop.walk.entry)


def _deciding(held: Sequence[Followed], new: Iterable[Weighted]) -> Followed:
    """The entry that translates, else the one at the node whose rules decide about a new flow, else the first."""
    nodes = {deciding_hop(judged.request).node for _, judged in new}
    translating = (each for each in held if each.entry.redirects)
    there = (each for each in held if each.node in nodes)
    return next(translating, None) or next(there, None) or held[0]
