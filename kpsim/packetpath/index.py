"""Chains made ready to run: conditions as functions, and dictionaries over runs of rules that name a destination.

kube-proxy's dispatch chains have a rule for each service port. iptables tries them one by one, which is why 10,000
Services are slow there (K-10); nftables looks a packet up in a verdict map, and this index does the same. A run of
rules costs one look-up for each shape (:class:`Shape`), however many rules it has. In KUBE-SERVICES nearly all rules
have one shape, so a packet is compared with one or two rules in full instead of with 10,000. The price is paid once for
each chain, when it is compiled.

The index only leaves out rules whose destination, protocol or port certainly differ. The rules left are tried in full
and in order. ``matching`` alone says what a match means.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from typing import Any, NamedTuple

from kpsim.packet import Packet
from kpsim.packetpath.matching import Condition, Facts, condition, has_effect, updating
from kpsim.packetpath.resolving import Resolve, resolver
from kpsim.ruleset import (
    FOREIGN,
    Assign,
    Body,
    Chain,
    Chance,
    Compare,
    Dispatch,
    Expression,
    Field,
    Goto,
    Hashed,
    Jump,
    Limit,
    Numgen,
    Quota,
    Recent,
    Rule,
    Statement,
    Unknown,
    UpdateSet,
    moves_nothing,
    sources_of,
    target_of,
)

_ALL_BITS = (1 << 128) - 1  #: of an address of either family
_SHORTEST_RUN = 4  #: below this, comparing rule by rule is as fast


class Stage(NamedTuple):
    """A statement of a rule and the conditions before it."""

    conditions: tuple[Condition, ...]
    statement: Statement | None
    resolve: Resolve | None = None  #: asks the statement's map, if it has one


#: makes a function of an expression and of the key of its draws or of its bucket
MakeCondition = Callable[[Expression, Hashable], Condition]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledRule:
    """A rule ready to run.

    ``first`` are the conditions before the first statement, ``resolve`` asks that statement's map, and ``then`` follows
    it (nft only). A change of a set is a condition: a full set ends the rule.
    """

    position: int  #: in its chain, from 0
    rule: Rule
    first: tuple[Condition, ...]
    statement: Statement | None
    resolve: Resolve | None = None
    then: tuple[Stage, ...] = ()
    perhaps: str = ""  #: words of a match that is not modelled, if only a mark depends on it


class Shape(NamedTuple):
    """Which fields a group of rules compares. With ``mask`` 0 they do not compare the destination."""

    mask: int
    protocol: bool
    port: bool


_Key = tuple[int, str, int]


class Run:
    """Consecutive rules that compare the destination, the destination port or both, found by hash.

    Rules of one shape share a dictionary (tuple space search, as Open vSwitch's classifier does). So looking a packet
    up costs one hash for each shape, not one comparison for each rule.
    """

    def __init__(self, rules: Sequence[tuple[CompiledRule, Shape, _Key]]) -> None:
        #: shape → key → rules of that key
        self.by_shape: dict[Shape, dict[_Key, tuple[CompiledRule, ...]]] = {}
        for rule, shape, key in rules:
            by_key = self.by_shape.setdefault(shape, {})
            by_key[key] = (*by_key.get(key, ()), rule)
        self._shapes = tuple((*shape, by_key) for shape, by_key in self.by_shape.items())

    def candidates(self, packet: Packet) -> Sequence[CompiledRule]:
        """The rules that may match the packet, in their order in the chain."""
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
    """A chain ready to run. It is kept on the chain and stays valid, because a changed chain is another object."""

    __slots__ = ("_blocks", "forks", "known", "name", "recent_lists", "rules")

    def __init__(self, chain: Chain, make: MakeCondition = condition) -> None:
        self.name = chain.name
        self.known: dict[Hashable, Any] = {}  #: what ``packetpath.asked`` and ``endpoints`` found out about the chain
        # limits and counters are numbered, not rules: a rule added before a limit leaves it its bucket
        buckets = count()
        self.rules = tuple(
            self._finished(_compile(chain.name, position, rule, buckets, make))
            for position, rule in enumerate(chain.rules)
        )
        self._blocks = tuple(_blocks(self.rules))
        parts = [part for rule in chain.rules for part in rule.body]
        self.recent_lists = frozenset(part.name for part in parts if isinstance(part, Recent))
        #: whether a rule may draw, or lead to a chain where one does
        self.forks = any(map(_forks, parts))

    def _finished(self, rule: CompiledRule) -> CompiledRule:
        """The rule as this chain runs it; a watched chain adds to it."""
        return rule

    def candidates(self, packet: Packet) -> Sequence[CompiledRule]:
        """The ``rules`` that the packet has to be compared with, in order.

        Every rule that matches the packet is among them, and every rule that has an effect even if it does not match.
        """
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


def _forks(part: Expression | Statement) -> bool:
    return isinstance(part, Chance | Jump | Goto | Dispatch) or any(
        isinstance(source, Numgen | Hashed) for source in sources_of(part)
    )


def _counts(part: Expression | Statement) -> bool:
    """Whether a part of a rule has a state of its own: a bucket, a counter, the numbers of a hash."""
    return isinstance(part, Limit | Quota) or any(
        isinstance(source, Hashed) or (isinstance(source, Numgen) and not source.random) for source in sources_of(part)
    )


def _compile(chain: str, position: int, rule: Rule, buckets: Iterator[int], make: MakeCondition) -> CompiledRule:
    if moves_nothing(rule.body) and any(isinstance(part, Unknown) for part in rule.body):
        # whether an unknown match would have logged the packet does not matter, so the rule never matches
        return CompiledRule(position, rule, (_never,), None)
    if (words := _only_marks(rule.body)) is not None:
        rest = tuple(
            make(part, "") for part in rule.body if isinstance(part, Expression) and not isinstance(part, Unknown)
        )
        return CompiledRule(position, rule, rest, rule.target, perhaps=words)
    drawn = draw_key(chain, rule)
    bucket = (chain, next(buckets)) if any(map(_counts, rule.body)) else ()
    stages: list[Stage] = []
    conditions: list[Condition] = []
    for part in _known_first(rule.body):
        key = bucket if bucket and _counts(part) else drawn
        if isinstance(part, UpdateSet):
            conditions.append(updating(part, key))
        elif isinstance(part, Statement):
            stages.append(Stage(tuple(conditions), part, resolver(part, key)))
            conditions = [_has_connection] if _reads_connection_mark(part) else []
        else:
            conditions.append(make(part, key))
    if conditions or not stages:
        stages.append(Stage(tuple(conditions), None))
    first, *then = stages
    return CompiledRule(position, rule, *first, tuple(then))


def _only_marks(body: Body) -> str | None:
    """The words of a match that is not modelled if only a mark depends on it; None otherwise."""
    unknown = [part.words for part in body if isinstance(part, Unknown)]
    if not unknown or not isinstance(target_of(body), Assign) or sum(isinstance(part, Statement) for part in body) > 1:
        return None
    effective = any(has_effect(part) and not isinstance(part, Unknown) for part in body)
    return None if effective else " ".join(unknown)


def _known_first(body: Body) -> Body:
    """The body with matches that are not modelled behind those that can be compared.

    A rule with a false part does not match, whatever the others say. The order of parts that draw, count or remember
    stays: such a part is reached only if all before it are true.
    """
    if not any(isinstance(part, Unknown) for part in body):
        return body
    ordered: list[Expression | Statement] = []
    waiting: list[Expression | Statement] = []
    for part in body:
        if isinstance(part, Unknown):
            waiting.append(part)
            continue
        if isinstance(part, Statement) or has_effect(part):
            ordered += waiting
            waiting = []
        ordered.append(part)
    return (*ordered, *waiting)


def _never(_facts: object) -> bool:
    return False


def _reads_connection_mark(statement: Statement) -> bool:
    """Whether an assignment asks for the mark of a connection; without one an nft rule ends there (K-9.12)."""
    if not isinstance(statement, Assign):
        return False
    return Field.CT_MARK in (statement.source, statement.to if statement.keep else None)


def _has_connection(facts: Facts) -> bool:
    return facts.entry is not None


def draw_key(chain: str, rule: Rule) -> Hashable:
    """The key of a rule's draws: why the rule exists or, if unknown, its chain and the chain that it jumps to."""
    if rule.origin is not FOREIGN and rule.origin.service:
        role, service, protocol, endpoint = rule.origin
        return (str(role), service, protocol, endpoint)
    target = rule.target
    return (chain, target.chain if isinstance(target, Jump | Goto) else "")


def _shape_and_key(rule: Rule) -> tuple[Shape, _Key] | None:
    """The shape and key by which a rule is found; None if it has to be tried for every packet.

    Only comparisons for equality count, and only those before the first statement and the first expression with an
    effect. A packet that reaches such an expression causes the effect, so the rule must not be left out for what
    follows.
    """
    destination: Compare | None = None
    protocol: str | None = None
    port: int | None = None
    for part in rule.body:
        if isinstance(part, Statement) or has_effect(part):
            break
        if not isinstance(part, Compare) or part.negate or part.absent:
            continue
        match part.field:
            case Field.DADDR if part.value is not None:
                destination = part
            case Field.L4PROTO if part.name is not None:
                protocol = part.name
            case Field.DPORT if part.mask is None and part.value is not None:
                port = part.value
            case _:
                pass
    if destination is None and port is None:
        return None  # a look-up by protocol alone would leave out too few rules
    mask = 0 if destination is None else _ALL_BITS if destination.mask is None else destination.mask
    address = 0 if destination is None else destination.value or 0
    key = (address, protocol or "", -1 if port is None else port)
    return Shape(mask, protocol is not None, port is not None), key


def _blocks(rules: Iterable[CompiledRule]) -> Iterable[Run | tuple[CompiledRule, ...]]:
    """Splits a chain into indexed runs and plain stretches. A run of fewer than ``_SHORTEST_RUN`` rules stays plain."""
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
