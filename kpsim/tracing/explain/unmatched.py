"""Why rules did not match: the first condition that was false, in the order in which the kernel compares them.

iptables' TRACE has no counterpart of this: it shows only what matched. What a condition means is asked of ``packetpath.matching``.
"""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, takewhile

from kpsim.addresses import Network
from kpsim.packet import Packet
from kpsim.packetpath.index import in_kernel_order
from kpsim.packetpath.matching import UnknownMatch, condition
from kpsim.packetpath.routing import AddressType, Decision, Routing
from kpsim.packetpath.steps import Moment
from kpsim.ruleset import (
    STATEMENTS,
    AddressRange,
    AddrType,
    Chain,
    ConnMark,
    CtDirection,
    CtOriginalDestination,
    CtOriginalPort,
    CtState,
    Destination,
    DestinationPort,
    IcmpType,
    InInterface,
    L4Module,
    Limit,
    MarkMatch,
    Match,
    MultiPort,
    OutInterface,
    Protocol,
    Recent,
    ReversePath,
    RoutingHeader,
    Rule,
    Source,
    SourcePort,
    Statistic,
    TcpFlags,
    TimeToLive,
    Unknown,
)


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A rule that was tried in vain. ``match`` None: no reason is known."""

    number: int
    rule: Rule
    match: Match | None


@dataclass(frozen=True, slots=True)
class Skipped:
    """Consecutive rules for other destinations, protocols or ports, too many to tell one by one."""

    first: int
    last: int


_MANY = 3
_ELSEWHERE = (Destination, DestinationPort, Protocol, L4Module)


class _Effective(Exception):
    """A condition that draws or remembers: what it said is in the steps."""


class _Facts:
    """What conditions may ask, at one moment."""

    def __init__(self, moment: Moment, routing: Routing) -> None:
        self.packet: Packet = moment.packet
        self.ct_states = moment.ct_states
        self.entry = moment.entry
        self.direction = moment.direction
        self._routing = routing

    def address_type(self, address: int) -> AddressType:
        return self._routing.address_type(self.packet.family, address)

    def way_back(self, address: int) -> Decision | None:
        return self._routing.way_back(self.packet.family, address)

    def chance(self, statistic: Statistic, key: Hashable) -> bool:
        raise _Effective

    def recent(self, match: Recent) -> bool:
        raise _Effective

    def limit(self, match: Limit, key: Hashable) -> bool:
        raise _Effective

    def count(self, counter: str) -> None:
        """Counting has happened already."""


def why_not(rule: Rule, moment: Moment, routing: Routing) -> Match | None:
    """The condition at which the kernel gave the rule up; None if it cannot be told."""
    facts = _Facts(moment, routing)
    matches = list(takewhile(lambda part: not isinstance(part, STATEMENTS), rule.body))
    for match in in_kernel_order(matches):  # type: ignore[arg-type]  # a tuple of types does not narrow
        holds = condition(match, "")
        try:
            if holds is not None and not holds(facts):
                return match
        except (_Effective, UnknownMatch):
            return match
    return None


def unmatched(
    chain: Chain, first: int, last: int, moment: Moment, routing: Routing, besides: Iterable[int] = ()
) -> Iterator[Unmatched | Skipped]:
    """The rules of a chain from number ``first`` to ``last`` with the reasons, runs of other destinations as one."""
    left_out = set(besides)
    found = [
        Unmatched(number, chain.rules[number - 1], why_not(chain.rules[number - 1], moment, routing))
        for number in range(first, last + 1)
        if number not in left_out
    ]
    for elsewhere, group in groupby(found, key=lambda rule: isinstance(rule.match, _ELSEWHERE)):
        rules = list(group)
        if elsewhere and len(rules) >= _MANY:
            yield Skipped(rules[0].number, rules[-1].number)
        else:
            yield from rules


def reason(match: Match | None) -> str:  # noqa: C901 - one case per kind of match
    """Why a condition was false, in words."""
    match match:
        case None:
            return "a condition did not hold"
        case Source(network, negate):
            return _is("source", network, negate)
        case Destination(network, negate):
            return _is("destination", network, negate)
        case SourcePort(low, high, negate):
            return _is("source port", _range(low, high), negate)
        case DestinationPort(low, high, negate):
            return _is("destination port", _range(low, high), negate)
        case Protocol(name, negate):
            return _is("protocol", name, negate)
        case L4Module(name):
            return _is("protocol", name, False)
        case InInterface(name, negate):
            return _is("input interface", name, negate)
        case OutInterface(name, negate):
            return _is("output interface", name, negate)
        case AddrType(side, kind, negate):
            return _is(f"{'source' if side == 'src' else 'destination'} type", kind.replace(",", " or "), negate)
        case CtState(states, negate):
            return _is("conntrack state", " or ".join(states), negate)
        case MarkMatch(value, mask, negate):
            return _is("mark", f"{value:#x}/{mask:#x}", negate)
        case Statistic(_, text):
            return f"not drawn (probability {text})"
        case CtOriginalDestination(network, negate):
            return _is("original destination", network, negate)
        case CtOriginalPort(low, high, negate):
            return _is("original destination port", _range(low, high), negate)
        case CtDirection(direction):
            return _is("direction", direction, False)
        case ConnMark(value, mask, negate):
            return _is("connection mark", f"{value:#x}/{mask:#x}", negate)
        case AddressRange(side, _, _, negate):
            return _is("source" if side == "src" else "destination", "in the range", negate)
        case MultiPort(_, ranges, negate):
            return _is("port", " or ".join(_range(low, high) for low, high in ranges), negate)
        case TcpFlags(mask, value, negate):
            return _is(f"of {' '.join(sorted(mask))}", f"{' '.join(sorted(value)) or 'none'} set", negate)
        case IcmpType(_, kind, code, negate):
            return _is("ICMP type", kind if code is None else f"{kind}/{code}", negate)
        case TimeToLive(option, value, negate):
            words = {"lt": "below ", "gt": "above "}
            return _is("time to live", f"{words.get(option[-2:], '')}{value}", negate)
        case ReversePath(invert=invert):
            return f"an answer would {'' if invert else 'not '}leave by the interface that it came by"
        case RoutingHeader():
            return "there is no routing header"
        case Limit(count, unit, burst):
            return f"the limit of {count} a {unit} and a burst of {burst} is used up"
        case Recent(name):
            return f"the list {name} says no"
        case Unknown(text):
            return f"{text} is not modelled, and the rule would only log"
        case other:
            return f"{type(other).__name__} does not hold"


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _is(what: str, value: Network | int | str, negate: bool) -> str:
    return f"{what} is {value}" if negate else f"{what} is not {value}"
