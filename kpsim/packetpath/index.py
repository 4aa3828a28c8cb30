"""Chains made ready to run: conditions as functions, and a dictionary over runs of rules that name a destination.

Counterpart: none in iptables (that is why 10,000 Services are slow there, K-10); the nearest is nftables' verdict map. The
index only leaves out rules whose destination, protocol or port certainly differ; the rest are tried in full and in order.
It never decides what a match means: that is ``matching``'s.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, groupby, takewhile
from typing import NamedTuple

from kpsim.packet import Packet
from kpsim.packetpath.matching import EFFECTIVE, HEADER, Condition, condition, protocol_name
from kpsim.ruleset import (
    FOREIGN,
    STATEMENTS,
    Chain,
    ConnMark,
    CtDirection,
    CtOriginalDestination,
    CtOriginalPort,
    CtState,
    Destination,
    DestinationPort,
    Goto,
    Jump,
    L4Module,
    Limit,
    Match,
    Protocol,
    Recent,
    Rule,
    SetConnMark,
    Statement,
    Unknown,
    moves_nothing,
)

#: what makes the kernel track connections
_TRACKING = (CtState, CtOriginalDestination, CtOriginalPort, CtDirection, ConnMark, SetConnMark)
_SHORTEST_RUN = 4  #: below this, comparing rule by rule is as fast

Stage = tuple[tuple[Condition, ...], Statement | None]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledRule:
    """A rule ready to run. ``first`` are the conditions before the first statement, ``then`` what follows it (nft only)."""

    position: int  #: in its chain, from 0
    rule: Rule
    first: tuple[Condition, ...]
    statement: Statement | None
    then: tuple[Stage, ...] = ()


class Shape(NamedTuple):
    """Which fields a group of rules compares. ``mask`` 0: not the destination."""

    mask: int
    protocol: bool
    port: bool


_Key = tuple[int, str, int]


class Run:
    """Consecutive rules that each compare some of destination, protocol and destination port: found by hash.

    Rules of one shape share a dictionary (tuple space search, as Open vSwitch's classifier does).
    """

    def __init__(self, rules: Sequence[tuple[CompiledRule, Shape, _Key]]) -> None:
        self._by_shape: dict[Shape, dict[_Key, tuple[CompiledRule, ...]]] = {}
        for rule, shape, key in rules:
            by_key = self._by_shape.setdefault(shape, {})
            by_key[key] = (*by_key.get(key, ()), rule)
        self._shapes = tuple((*shape, by_key) for shape, by_key in self._by_shape.items())

    def candidates(self, packet: Packet) -> Sequence[CompiledRule]:
        """The rules that may match, in their order."""
        found: list[CompiledRule] = []
        hits = 0
        for mask, protocol, port, by_key in self._shapes:
            key = (packet.daddr & mask, packet.protocol if protocol else "", packet.dport if port else -1)
            if rules := by_key.get(key):
                found.extend(rules)
                hits += 1
        if hits > 1:
            found.sort(key=lambda rule: rule.position)
        return found


class CompiledChain:
    """A chain ready to run. Kept on the chain, which is a value: a changed chain is another one."""

    __slots__ = ("_blocks", "name", "recent_lists", "rules", "targets", "tracks")

    def __init__(self, chain: Chain) -> None:
        self.name = chain.name
        buckets = count()  # rules that come and go before a limit do not take its bucket away
        self.rules = tuple(_compile(chain.name, position, rule, buckets) for position, rule in enumerate(chain.rules))
        self._blocks = tuple(_blocks(self.rules))
        parts = [part for rule in chain.rules for part in rule.body]
        self.recent_lists = frozenset(part.name for part in parts if isinstance(part, Recent))
        self.targets = tuple(dict.fromkeys(part.chain for part in parts if isinstance(part, Jump | Goto)))
        self.tracks = any(isinstance(part, _TRACKING) for part in parts)  #: some rule needs connection tracking

    def candidates(self, packet: Packet) -> Sequence[CompiledRule]:
        """A subset of ``rules``, in order, that contains every rule that matches the packet or has an effect on the way."""
        blocks = self._blocks
        if len(blocks) == 1:
            block = blocks[0]
            return block.candidates(packet) if isinstance(block, Run) else block
        found: list[CompiledRule] = []
        for block in blocks:
            found.extend(block.candidates(packet) if isinstance(block, Run) else block)
        return found


def compiled(chain: Chain) -> CompiledChain:
    """The chain ready to run, made at the first call."""
    made: CompiledChain | None = chain.compiled
    if made is None:
        made = chain.compiled = CompiledChain(chain)
    return made


def _compile(chain: str, position: int, rule: Rule, buckets: Iterator[int]) -> CompiledRule:
    if moves_nothing(rule.body) and any(isinstance(part, Unknown) for part in rule.body):
        return CompiledRule(position, rule, (_never,), None)  # whether it would have logged, nobody asks
    limited = any(type(part) is Limit for part in rule.body)
    keys: dict[type, Hashable] = {Limit: (chain, next(buckets))} if limited else {}
    key = draw_key(chain, rule)
    steps: list[Stage] = []
    matches: list[Match] = []
    for part in rule.body:
        if isinstance(part, STATEMENTS):
            steps.append((_conditions(matches, key, keys), part))  # type: ignore[arg-type]  # a tuple of types does not narrow
            matches = []
        else:
            matches.append(part)  # type: ignore[arg-type]
    if matches or not steps:
        steps.append((_conditions(matches, key, keys), None))
    (first, statement), *then = steps
    return CompiledRule(position, rule, first, statement, tuple(then))


def _never(_facts: object) -> bool:
    return False


def _conditions(matches: Sequence[Match], key: Hashable, keys: Mapping[type, Hashable]) -> tuple[Condition, ...]:
    named = {match.name for match in matches if isinstance(match, Protocol) and not match.negate}
    made = (
        condition(match, keys.get(type(match), key))
        for match in in_kernel_order(matches)
        if not (isinstance(match, L4Module) and match.protocol in named)  # -p tcp has said it
    )
    return tuple(c for c in made if c is not None)


def in_kernel_order(matches: Sequence[Match]) -> list[Match]:
    """Header comparisons first, as ip_packet_match does before any module; what is unknown last, since false decides."""
    return sorted(matches, key=lambda match: 0 if isinstance(match, HEADER) else 2 if isinstance(match, Unknown) else 1)


def draw_key(chain: str, rule: Rule) -> Hashable:
    """What a rule's draws are keyed by: why it exists, or, if nobody knows, from where to where it leads."""
    if rule.origin is not FOREIGN and rule.origin.service:
        role, service, protocol, endpoint = rule.origin
        return (str(role), service, protocol, endpoint)
    target = rule.target
    return (chain, target.chain if isinstance(target, Jump | Goto) else "")


def _shape_and_key(rule: Rule) -> tuple[Shape, _Key] | None:
    """What the index may compare: only conditions before the first match with an effect, only plain equality."""
    destination = protocol = port = None
    matches = list(takewhile(lambda part: not isinstance(part, STATEMENTS), rule.body))
    for match in in_kernel_order(matches):  # type: ignore[arg-type]  # a tuple of types does not narrow
        match match:
            case Protocol("all", False):
                pass
            case Destination(network, False) if network.prefix:
                destination = network
            case Protocol(name, False) | L4Module(name):
                protocol = protocol_name(name)
            case DestinationPort(low, high, False) if low == high:
                port = low
            case _ if isinstance(match, EFFECTIVE):
                break
            case _:
                pass
    if destination is None and port is None:
        return None  # a protocol alone tells too little apart
    shape = Shape(destination.mask if destination else 0, protocol is not None, port is not None)
    return shape, (destination.base if destination else 0, protocol or "", -1 if port is None else port)


def _blocks(rules: Iterable[CompiledRule]) -> Iterable[Run | tuple[CompiledRule, ...]]:
    """Splits a chain into indexed runs and plain stretches."""
    plain: list[CompiledRule] = []
    keyed = ((rule, _shape_and_key(rule.rule)) for rule in rules)
    for indexed, group in groupby(keyed, key=lambda item: item[1] is not None):
        stretch = list(group)
        if not indexed or len(stretch) < _SHORTEST_RUN:
            plain.extend(rule for rule, _ in stretch)
            continue
        if plain:
            yield tuple(plain)
            plain = []
        yield Run([(rule, *shaped) for rule, shaped in stretch if shaped])
    if plain:
        yield tuple(plain)
