"""What nft and the kernel refuse of rules that each are well formed: statements in the wrong place, jumps that form a loop.

Measured with nft 1.0.6 on Linux 6.18. The kernel looks at every chain that a base chain reaches. A chain that none reaches
may hold anything.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from kpsim.dialects.nft.datatypes import Style
from kpsim.dialects.nft.spelling import Spelling, texts
from kpsim.ruleset import (
    AssignFrom,
    Base,
    Chain,
    ChainType,
    Compare,
    Dispatch,
    Dnat,
    Expression,
    Field,
    Goto,
    Hook,
    Jump,
    LocalSocket,
    Lookup,
    Masked,
    Masquerade,
    Redirect,
    Reject,
    ReversePath,
    Rule,
    Set,
    Snat,
    Space,
    Statement,
    Table,
    Unknown,
    UpdateSet,
)

_IN, _OUT = frozenset({Hook.PREROUTING, Hook.OUTPUT}), frozenset({Hook.POSTROUTING, Hook.INPUT})
_BEHIND_ROUTING = frozenset({Hook.FORWARD, Hook.OUTPUT, Hook.POSTROUTING})
_WITH_INPUT = frozenset({Hook.PREROUTING, Hook.INPUT, Hook.FORWARD})
_NOT_POSTROUTING = frozenset(Hook) - {Hook.POSTROUTING}
_SOCKETS = frozenset({Hook.PREROUTING, Hook.INPUT, Hook.OUTPUT})
_NAT_HOOKS: Mapping[type, frozenset[Hook]] = {
    Dnat: _IN, Redirect: _IN, Snat: _OUT, Masquerade: frozenset({Hook.POSTROUTING}),
}  # fmt: skip
_FIELD_HOOKS: Mapping[Field, frozenset[Hook]] = {
    Field.SADDR_TYPE_IN: _WITH_INPUT, Field.DADDR_TYPE_IN: _WITH_INPUT,
    Field.SADDR_TYPE_OUT: _BEHIND_ROUTING, Field.DADDR_TYPE_OUT: _BEHIND_ROUTING,
}  # fmt: skip
_DEEPEST = 16  #: chains on the way of a packet, the base chain among them
_LOWEST_NAT = -199  #: connections must have been looked up before


class Refused(NamedTuple):
    """A rule that is refused where it stands, by its chain and number; number 0: the chain itself."""

    chain: str
    number: int
    why: str


def refused_base(base: Base) -> str | None:
    """Why no chain can stand there; None if one can."""
    if base.type is ChainType.ROUTE and base.hook is not Hook.OUTPUT:
        return "chains of type route are for hook output"
    if base.type is ChainType.NAT:
        if base.hook is Hook.FORWARD:
            return "chains of type nat are not for hook forward"
        if base.priority < _LOWEST_NAT:
            return f"chains of type nat need a priority of at least {_LOWEST_NAT}"
    return None


def refused_in(table: Table) -> Iterator[Refused]:
    """The rules that the kernel refuses because of the base chains that reach them, and the chains that loop."""
    reported: set[tuple[str, int]] = set()
    for chain in table.chains.values():
        if chain.base is None:
            continue
        heights, loop = _heights(table, chain)
        if loop and (loop, 0) not in reported:
            reported.add((loop, 0))
            yield Refused(loop, 0, "its jumps lead back to itself")
        elif heights[chain.name] > _DEEPEST:
            yield Refused(chain.name, 0, f"its jumps nest deeper than {_DEEPEST} chains")
        for name in heights:
            for number, rule in enumerate(table.chains[name].rules, 1):
                for part in rule.body:
                    why = _misplaced(part, chain.base)
                    if why is not None and (name, number) not in reported:
                        reported.add((name, number))
                        yield Refused(name, number, f"{why}, and {chain.name} leads here")


def asked_limits(chains: Sequence[Chain], limited: Iterable[str]) -> Iterator[tuple[str, int, str]]:
    """The look-ups in sets whose elements have limits for themselves, which the kernel asks then: chain, number, set.

    ``limited`` are sets of which a listing shows it; rules say it of others.
    """
    parts = [part for chain in chains for rule in chain.rules for part in rule.body]
    names = {*limited, *(part.set.name for part in parts if isinstance(part, UpdateSet) and part.each)}
    for chain in chains:
        for number, rule in enumerate(chain.rules, 1):
            for part in rule.body:
                if isinstance(part, Lookup) and part.set.name in names:
                    yield chain.name, number, part.set.name


def with_unknown_lookups(chain: Chain, number: int, of: str, space: Space, style: Style) -> Chain:
    """The chain in which the look-ups of one rule in a set are conditions that may be true or false. Its text stays."""
    rule = chain.rules[number - 1]
    written = texts(rule, space, style)
    body = tuple(
        Unknown(next(text for text, first in reversed(written) if first <= at))
        if isinstance(part, Lookup) and part.set.name == of
        else part
        for at, part in enumerate(rule.body)
    )
    kept = Rule(body, rule.comment, rule.origin, Spelling(style, written))
    return Chain(chain.name, (*chain.rules[: number - 1], kept, *chain.rules[number:]), chain.base, chain.comment)


def _heights(table: Table, base: Chain) -> tuple[dict[str, int], str]:
    """The chains that a chain leads to, itself among them, and how many chains nest below each, itself included.

    Also one of them that leads back to itself, if any.
    """
    found: dict[str, int] = {base.name: 1}
    way: list[tuple[str, Iterator[str]]] = [(base.name, _targets(table, base))]
    on_way, loop = {base.name}, ""
    while way:
        name, targets = way[-1]
        target = next(targets, None)
        if target is None:
            way.pop()
            on_way.discard(name)
            if way:
                above = way[-1][0]
                found[above] = max(found[above], found[name] + 1)
        elif target in on_way:
            loop = loop or target
        elif target in found:
            found[name] = max(found[name], found[target] + 1)
        elif target in table.chains:
            found[target] = 1
            on_way.add(target)
            way.append((target, _targets(table, table.chains[target])))
    return found, loop


def _targets(table: Table, chain: Chain) -> Iterator[str]:
    for rule in chain.rules:
        for part in rule.body:
            if isinstance(part, Jump | Goto):
                yield part.chain
            elif isinstance(part, Dispatch):
                of = part.map if isinstance(part.map, Set) else table.sets.get(part.map.name)
                values = (element.value for element in of.elements.values()) if of is not None else ()
                yield from (value.chain for value in values if isinstance(value, Jump | Goto))


def _misplaced(part: Expression | Statement, base: Base) -> str | None:
    hooks = _hooks(part)
    if type(part) in _NAT_HOOKS and base.type is not ChainType.NAT:
        return "it translates, which only chains of type nat do"
    if hooks is None or base.hook in hooks:
        return None
    allowed = ", ".join(hook.lower() for hook in Hook if hook in hooks)
    return f"it works at the hooks {allowed} only"


def _hooks(part: Expression | Statement) -> frozenset[Hook] | None:
    """The hooks that the kernel takes a part at; None: all."""
    match part:
        case Dnat() | Redirect() | Snat() | Masquerade():
            return _NAT_HOOKS[type(part)]
        case Reject():
            return _NOT_POSTROUTING
        case ReversePath():
            return _WITH_INPUT
        case LocalSocket():
            return _SOCKETS
        case Compare(field):
            return _FIELD_HOOKS.get(field)
        case Lookup(key) | Dispatch(key) | AssignFrom(_, key):
            fields = [each.field if isinstance(each, Masked) else each for each in key]
            found = [_FIELD_HOOKS[each] for each in fields if isinstance(each, Field) and each in _FIELD_HOOKS]
            return frozenset.intersection(*found) if found else None
        case _:
            return None
