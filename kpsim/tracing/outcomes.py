"""Outcomes of whole exchanges, each with its exact probability, and the sums of the verdicts.

An exchange is explored draw by draw: the request, its end and the answer. ``kpsim.exchange`` judges each of them.
"""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

from kpsim.exchange import Exchange, Http, Target, Verdict, WhatIf, World, client_gets, exchange
from kpsim.fabric import Hop
from kpsim.inputs import JsonObject, json_line
from kpsim.packet import Packet
from kpsim.packetpath.chooser import MOST_WAYS, Chooser, ScriptedChooser, TooManyWays, explore
from kpsim.tracing.deciding import deciding_rule, rule_name
from kpsim.valueclass import dataclass

Weighted = tuple[Fraction, Exchange]

T = TypeVar("T")

#: so many ways are followed one by one sooner than their states can be compared
_FEW_WAYS = 256


class Seen(NamedTuple):
    """A packet as its receiver sees it. ``sport`` None: the kernel draws the port at random."""

    src: str
    sport: int | None
    dst: str
    dport: int

    def to_json(self) -> JsonObject:
        return {"src": self.src, "sport": self.sport, "dst": self.dst, "dport": self.dport}


def seen_of(packet: Packet, *, port_drawn: bool) -> Seen:
    return Seen(packet.source, None if port_drawn else packet.sport, packet.destination, packet.dport)


@dataclass(frozen=True, slots=True)
class ExchangeOutcome:
    """What may become of an exchange.

    ``endpoint`` is where the request went, or should have gone; None: it was translated nowhere and reached nobody.
    ``seen`` is None if nobody got the request.
    """

    verdict: Verdict
    node: str  #: where it was decided
    by: str | None  #: the rule that decided, as ``table/CHAIN`` and its text
    endpoint: str | None
    masquerade: bool
    seen: Seen | None
    client: str  #: what the client gets, in words
    with_: str = ""  #: of a refusal: its name
    error: str = ""  #: what the client's system call returns
    http: Http | None = None
    assumed: bool = False  #: it is not known whether something listens there
    relay: str = ""  #: the node that a load balancer between dials; empty: none is between

    def to_json(self) -> JsonObject:
        record: JsonObject = {
            "verdict": str(self.verdict), "node": self.node, "by": self.by, "endpoint": self.endpoint,
            "masquerade": self.masquerade, "seen": None if self.seen is None else self.seen.to_json(), "client": self.client,
        }  # fmt: skip
        if self.with_:
            record["with"] = self.with_
        if self.error:
            record["error"] = self.error
        if self.assumed:
            record["assumed"] = True
        if self.relay:
            record["relay"] = self.relay
        if self.http is not None:
            record["http"] = {"status": self.http.status, "body": _body(self.http)}
        return record


def _body(http: Http) -> Any:
    try:
        return json_line(http.body)
    except ValueError:
        return http.body


def explored(
    world: World, packet: Packet, node: str, *, local: bool, now_ns: int, trace: bool, limit: int | None = None
) -> Iterator[Weighted]:
    """Every exchange that a packet may begin at a node, with its probability. The world forgets them.

    Equal ones may come several times (:func:`merged`). TooManyWays if there are more than ``limit`` ways.
    """

    def once(chooser: Chooser) -> Exchange:
        return exchange(WhatIf(world), packet, at_node=node, now_ns=now_ns, chooser=chooser, local=local, trace=trace)

    yield from every_way(once, limit)


def every_way(once: Callable[[ScriptedChooser], T], limit: int | None = None) -> Iterator[tuple[Fraction, T]]:
    """What ``once`` returns for each combination of draws, with its probability: one by one if there are few, else merged.

    TooManyWays if there are more than ``limit`` ways.
    """
    most = MOST_WAYS if limit is None else limit
    try:
        yield from list(explore(once, as_written=True, limit=min(most, _FEW_WAYS), brief=True))
    except TooManyWays:
        yield from explore(once, as_written=True, limit=most, merge=True)


def exchange_outcome(judged: Exchange) -> ExchangeOutcome:
    """An exchange as a value that can be compared with others. Its request was followed with ``trace=True``."""
    seen, drawn = judged.seen, judged.source_port_drawn
    chosen = judged.last.request.packet if judged.reached or translating_hop(judged.last) is not None else None
    return ExchangeOutcome(
        judged.verdict,
        judged.node,
        decided_by(judged),
        None if chosen is None else str(Target.of(chosen)),
        judged.masquerade,
        None if seen is None else seen_of(seen, port_drawn=drawn),
        client_gets(judged),
        judged.told.with_,
        judged.told.error,
        judged.told.http,
        judged.assumed,
        "" if judged.relay is None else judged.relay.request.hops[0].node,
    )


def decided_by(judged: Exchange) -> str | None:
    """The rule that decided; None: no rule did. If an answer came, it is the rule that dispatched or translated."""
    family = judged.request.sent.family
    if judged.by is not None:
        return rule_name(judged.by, family)
    if judged.verdict not in (Verdict.WORKS, Verdict.MISDELIVERED):
        return None
    hop = translating_hop(judged.last)
    at = None if hop is None else deciding_rule(hop.walk, hop.walk.trace)
    return None if at is None else rule_name(at, family)


def translating_hop(judged: Exchange) -> Hop | None:
    """The last node that changed the request's destination; None: no node did."""
    found, before = None, Target.of(judged.request.sent)
    for hop in judged.request.hops:
        after = Target.of(hop.walk.packet)
        if after != before:
            found = hop
        before = after
    return found


def merged(outcomes: Iterable[Weighted]) -> list[tuple[Fraction, ExchangeOutcome]]:
    """Equal outcomes once, with the sum of their probabilities, in the order of the rules."""
    found: dict[ExchangeOutcome, Fraction] = {}
    for weight, judged in outcomes:
        outcome = exchange_outcome(judged)
        found[outcome] = found.get(outcome, Fraction(0)) + weight
    return [(weight, outcome) for outcome, weight in found.items()]


class Sums(dict[Verdict, Fraction]):
    """The probability of each verdict that may be, in the order of :class:`Verdict`.

    ``assumed`` is the part of it in which it is not known whether something listens where the request ended.
    """

    def __init__(self, outcomes: Iterable[Weighted] = ()) -> None:
        found: dict[Verdict, Fraction] = {}
        self.assumed = Fraction(0)
        for weight, judged in outcomes:
            found[judged.verdict] = found.get(judged.verdict, Fraction(0)) + weight
            self.assumed += weight if judged.assumed else 0
        super().__init__((verdict, found[verdict]) for verdict in Verdict if verdict in found)

    def to_json(self) -> JsonObject:
        return {str(verdict): str(weight) for verdict, weight in self.items()}

    def __str__(self) -> str:
        """``works 2/3 (1/3 assumed), answer-lost 1/3``; a verdict that is certain stands alone."""
        words = [str(verdict) if weight == 1 else f"{verdict} {weight}" for verdict, weight in self.items()]
        if self.assumed:
            words[0] += " (assumed)" if self.assumed == next(iter(self.values())) else f" ({self.assumed} assumed)"
        return ", ".join(words)
