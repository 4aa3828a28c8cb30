"""What became of a packet, as the answer to a probe tells it: the parts in which two answers are compared."""

from collections.abc import Hashable, Iterable
from fractions import Fraction
from typing import Any, NamedTuple

from kpsim.comparison.behaviour.asking import AXES, ENDPOINT
from kpsim.comparison.behaviour.tree import Way
from kpsim.exchange import Exchange, Verdict
from kpsim.netfilter import Cause
from kpsim.ruleset import RuleReference
from kpsim.tracing.probes import ProbeResult, result_of


class Seen(NamedTuple):
    """How a packet leaves the first node. An axis stands for the packet's own number."""

    source: Any
    sport: int | None
    destination: Any
    dport: Any


class Item(NamedTuple):
    """What became of a packet on one way, as an answer to a probe tells it."""

    result: ProbeResult
    with_: str  #: of a rejected packet
    masquerade: bool
    seen: Seen | None  #: of a delivered packet, and of one that passed with another source
    verdict: Verdict
    by: (
        RuleReference | None
    )  #: the rule that refused the packet or lost the answer; neither this nor the cause is compared
    cause: Cause | None = None
    assumed: bool = False  #: whether something listens there; not compared either
    #: of a packet that another node passed on: the nodes that would know its connection
    met: frozenset[str] = frozenset()


class Own(NamedTuple):
    """Stands for a packet's own number on an axis."""

    axis: int


def abstract(value: Any) -> Hashable:
    """A value whose numbers of the packet are replaced by their axes."""
    axis = AXES.get(type(value))
    if axis is not None:
        return Own(axis)
    if isinstance(value, tuple):
        return tuple([abstract(each) for each in value])
    return value  # type: ignore[no-any-return]


def item_of(judged: Exchange) -> Item:
    """An exchange as the answer to a probe tells it."""
    step = judged.request.hops[0].walk
    result = result_of(step)
    masquerade = step.masqueraded
    seen = None
    if result is ProbeResult.DELIVERED or (result is ProbeResult.PASSED and masquerade):
        packet = step.packet
        sport = None if step.source_port_drawn else packet.sport
        numbers = abstract((packet.saddr, packet.daddr, packet.dport))
        seen = Seen(numbers[0], sport, numbers[1], numbers[2])  # type: ignore[index]
    with_ = (step.with_ or step.local_error) if result is ProbeResult.REJECTED else ""
    rule = step.rule if result in (ProbeResult.REJECTED, ProbeResult.DROPPED) else judged.by
    return Item(result, with_, masquerade and seen is not None, seen, judged.verdict, rule, step.cause, judged.assumed)


def passed_item(judged: Exchange, met: frozenset[str]) -> Item:
    """An exchange as the answer to a probe tells it at a node that passed the packet on as it is."""
    return Item(ProbeResult.PASSED, "", False, None, judged.verdict, judged.by, None, judged.assumed, met)


def settled(item: Item, endpoint: tuple[int, ...]) -> Item:
    """The item with the numbers of its endpoint."""
    if item.seen is None:
        return item

    def number(value: Any) -> Any:
        return endpoint[value.axis - ENDPOINT] if isinstance(value, Own) and value.axis >= ENDPOINT else value

    seen = item.seen
    return item._replace(seen=Seen(number(seen.source), seen.sport, number(seen.destination), number(seen.dport)))


_NONE = Fraction(0)


class Fate(NamedTuple):
    """What an answer to a probe says, but for the rule that decided: two packets with equal fates get equal answers."""

    result: ProbeResult
    outcomes: frozenset[tuple[Seen | None, bool, Fraction]]
    with_: str
    seen: Seen | None
    exchange: frozenset[tuple[Verdict, Fraction]]


def fate_of(ways: list[Way[Item]]) -> Fate:
    """The fate of the packets that go these ways. As in an answer, the likeliest result counts."""
    results: dict[ProbeResult, Fraction] = {}
    verdicts: dict[Verdict, Fraction] = {}
    for _, weight, item, *_ in ways:
        results[item.result] = results.get(item.result, _NONE) + weight
        verdicts[item.verdict] = verdicts.get(item.verdict, _NONE) + weight
    likeliest = max(results, key=lambda result: results[result])
    outcomes: dict[tuple[Seen | None, bool], Fraction] = {}
    first = next(item for _, _, item, *_ in ways if item.result is likeliest)
    if likeliest is ProbeResult.DELIVERED:
        for _, weight, item, *_ in ways:
            if item.result is likeliest:
                key = item.seen, item.masquerade
                outcomes[key] = outcomes.get(key, _NONE) + weight
    return Fate(
        likeliest,
        frozenset((*key, weight) for key, weight in outcomes.items()),
        first.with_ if likeliest is ProbeResult.REJECTED else "",
        first.seen if likeliest is ProbeResult.PASSED else None,
        frozenset(verdicts.items()),
    )


def endpoints(fate: Fate) -> dict[tuple[object, object], Fraction]:
    """The odds of each endpoint: address and port."""
    found: dict[tuple[object, object], Fraction] = {}
    for seen, _, odds in fate.outcomes:
        if seen is not None:
            at = seen.destination, seen.dport
            found[at] = found.get(at, _NONE) + odds
    return found


def without_source_ports(fate: Fate) -> Fate:
    """The fate of packets as somebody sees it who does not look at source ports."""
    outcomes: dict[tuple[Seen | None, bool], Fraction] = {}
    for seen, masquerade, weight in fate.outcomes:
        key = _without_port(seen), masquerade
        outcomes[key] = outcomes.get(key, _NONE) + weight
    merged = frozenset((*key, weight) for key, weight in outcomes.items())
    return fate._replace(outcomes=merged, seen=_without_port(fate.seen))


def _without_port(seen: Seen | None) -> Seen | None:
    return None if seen is None else seen._replace(sport=None)


def decided(item: Item) -> Hashable:
    """What of an answer is not compared: the rule or the cause that decided. What is merely assumed depends on addresses."""
    return item.by, item.cause


def deciding(fate: Fate, ways: Iterable[Way[Item]]) -> Hashable:
    """What decided about packets that are not delivered: a rule or a cause, for each of their ways."""
    return None if fate.result is ProbeResult.DELIVERED else tuple([decided(way.leaf) for way in ways])


def is_orderless(ways: list[Way[Item]]) -> bool:
    """Whether the fate of packets, and the rule that an answer names, would be the same for another order of the ways."""
    if len(ways) == 1:
        return True
    results: dict[ProbeResult, Fraction] = {}
    for way in ways:
        results[way.leaf.result] = results.get(way.leaf.result, _NONE) + way.weight
    most = max(results.values())
    likeliest = [result for result, weight in results.items() if weight == most]
    if len(likeliest) > 1:
        return False
    if likeliest == [ProbeResult.DELIVERED]:
        return True
    told = {(item.with_, item.seen, decided(item)) for _, _, item, *_ in ways if item.result in likeliest}
    return len(told) == 1
