"""State against rules: connection entries that lead packets elsewhere than the rules in force would (CT-2.6, CT-3.5).

Counterpart: what an operator finds out from ``conntrack -L`` beside ``iptables-save``. The rules are asked by the way of
a new flow like the packet's (``exchange.NewFlow``). Runs and traces judge with this.
"""

import enum
from collections.abc import Collection, Iterable
from typing import NamedTuple

from kpsim.addresses import format_ip, join_host_port
from kpsim.conntrack import Entry, FlowTuple
from kpsim.fabric import Hop, Journey
from kpsim.kubeproxy.stale_flows import UdpFlow
from kpsim.netfilter import Disposition


class PinKind(enum.StrEnum):
    """How a connection entry differs from the rules that are in force."""

    REFUSED = "entry against refusal"  #: the entry leads to an endpoint; the rules refuse
    FORMER_ENDPOINT = "former endpoint"  #: the entry leads to what is no endpoint any more; the rules have others
    SERVICE_GONE = "entry outlives its Service"  #: the entry leads to an endpoint; the rules no longer know the Service
    OLDER = "older than its Service"  #: the entry translates nothing, because it is older than the Service's rules


class Followed(NamedTuple):
    """A connection entry that decided where a packet went, in place of the rules."""

    node: str
    entry: Entry

    @property
    def leads_to(self) -> str:
        """The ``ip:port`` to which the entry sends the flow."""
        return end_of(self.entry)


class NewWay(NamedTuple):
    """What the rules do with a new flow."""

    translates: bool
    refuses: bool

    @classmethod
    def of(cls, ways: Iterable[Journey]) -> "NewWay":
        """What they do, by all ways that it may take: it is refused if each of them ends by a rule."""
        found = list(ways)
        return cls(
            translates=any(hop.walk.binds for way in found for hop in way.hops),
            refuses=all(_is_refused(way) for way in found),
        )


def _is_refused(way: Journey) -> bool:
    last = way.hops[-1].walk
    return last.refused_by is not None and last.disposition in (Disposition.REJECTED, Disposition.DROPPED)


def followed_entry(journey: Journey) -> Followed | None:
    """The connection entry that led a packet where it went; None: the rules decided that."""
    hop = deciding_hop(journey)
    walk = hop.walk
    if walk.effects.updated is None or walk.entry is None or walk.refused_by is not None:
        return None
    return Followed(hop.node, walk.entry)


def deciding_hop(journey: Journey) -> Hop:
    """The hop that translated the destination or refused the packet; the first hop if none did."""
    for hop in journey.hops:
        entry = hop.walk.entry
        if hop.walk.refused_by is not None or hop.walk.binds or (entry is not None and entry.redirects):
            return hop
    return journey.hops[0]


def kind_of(entry: Entry, new: NewWay, endpoints: Collection[str]) -> PinKind | None:
    """How an entry differs from the rules; None: they may do the same with a new flow.

    ``endpoints`` are the ``ip:port`` that the rules send the flow's client to.
    """
    if not entry.redirects:
        return PinKind.OLDER if new.translates or new.refuses else None
    if new.refuses:
        return PinKind.REFUSED
    if not new.translates:
        return PinKind.SERVICE_GONE
    return None if end_of(entry) in endpoints else PinKind.FORMER_ENDPOINT


def end_of(entry: Entry) -> str:
    """The ``ip:port`` to which an entry sends its flow."""
    return join_host_port(format_ip(entry.reply.family, entry.reply.saddr), entry.reply.sport)


def listed_flow(original: FlowTuple, answer: FlowTuple) -> UdpFlow:
    """A connection as kube-proxy lists it. ``answer`` is the tuple of its replies."""
    return UdpFlow(
        original.protocol,
        format_ip(original.family, original.saddr),
        original.sport,
        format_ip(original.family, original.daddr),
        original.dport,
        format_ip(answer.family, answer.saddr),
        answer.sport,
        format_ip(answer.family, answer.daddr),
        answer.dport,
    )
