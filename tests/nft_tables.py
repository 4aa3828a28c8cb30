"""Builds tables as nft has them: base chains anywhere, sets by name, in one space."""

from collections.abc import Iterable, Mapping
from typing import Any

from packets import node

from kpsim.addresses import Family
from kpsim.maps import Map
from kpsim.netfilter import Netns, Walk
from kpsim.ruleset import (
    NO_SET_FLAGS,
    Base,
    Chain,
    ChainType,
    Compare,
    DataType,
    Element,
    Field,
    Hook,
    Key,
    Numgen,
    Rule,
    Ruleset,
    Set,
    SetFlags,
    SetReference,
    SetType,
    Space,
    Statement,
    Table,
    TableKey,
    Terminal,
    Verdict,
    equal,
    named,
)
from kpsim.ruleset.verdicts import Goto, Jump

#: the key by which kube-proxy finds a Service (NFT-4)
SERVICE_KEY = (Field.DADDR, Field.L4PROTO, Field.DPORT)
FILTER, NAT, ROUTE = ChainType.FILTER, ChainType.NAT, ChainType.ROUTE
ADDRESSES = SetType((DataType.IPV4_ADDRESS,))
Value = Terminal | Jump | Goto | tuple[int, ...] | None


def base(
    hook: Hook, *rules: Rule, priority: int = 0, of: ChainType = FILTER, policy: Verdict = Verdict.ACCEPT,
    name: str = "", registered: int = 0,
) -> Chain:  # fmt: skip
    """A base chain, named after its type and hook unless ``name`` is given."""
    where = Base(of, hook, priority, policy, registered)
    return Chain(name or f"{of.value}-{hook.lower()}", rules, where)


def nft_table(
    *chains: Chain, sets: Iterable[Set] = (), space: Space = Space.IP, name: str = "t", dormant: bool = False
) -> Table:
    return Table(
        TableKey(space, name), Map({each.name: each for each in chains}), Map({each.name: each for each in sets}),
        dormant=dormant,
    )  # fmt: skip


def with_tables(*tables: Table, family: Family = Family.IPV4) -> Netns:
    """Node n1 with these tables."""
    return node(Ruleset.of(family, *tables))


def forwarding(*rules: Rule, sets: tuple[Set, ...] = (), more: tuple[Chain, ...] = ()) -> Netns:
    """Node n1 with these rules in FORWARD."""
    return with_tables(nft_table(base(Hook.FORWARD, *rules), *more, sets=sets))


def translating(statement: Statement, hook: Hook = Hook.PREROUTING, **more: Any) -> Netns:
    """Node n1 where TCP packets meet this translation in a hook."""
    priority = -100 if hook in (Hook.PREROUTING, Hook.OUTPUT) else 100
    return with_tables(nft_table(base(hook, Rule((tcp(), statement)), of=NAT, priority=priority), **more))


def names(outcome: Walk) -> list[str]:
    """The counters that a packet met."""
    return [name for name, _ in outcome.effects.touched.counters]


def map_of(values: Mapping[Key, Value]) -> Set:
    """A map that is written in a rule."""
    return Set(Map({key: Element(value) for key, value in values.items()}))


def named_map(name: str, values: Mapping[Key, Value], flags: SetFlags = NO_SET_FLAGS) -> Set:
    return Set(Map({key: Element(value) for key, value in values.items()}), name, flags=flags)


def set_of(name: str, *keys: Key, flags: SetFlags = NO_SET_FLAGS) -> Set:
    return Set(Map(dict.fromkeys(keys, Element())), name, flags=flags)


def dynamic(
    name: str = "s", *keys: Key, timeout_ns: int | None = None, size: int | None = None, gc_ns: int | None = None,
    generation: int = 0,
) -> Set:  # fmt: skip
    """A set of addresses to which rules add members."""
    flags = SetFlags.DYNAMIC | (SetFlags.TIMEOUT if timeout_ns is not None else NO_SET_FLAGS)
    elements = Map(dict.fromkeys(keys, Element()))
    return Set(elements, name, ADDRESSES, flags, timeout_ns, gc_ns, size, generation=generation)


def to_set(name: str = "s") -> SetReference:
    return SetReference(name)


def drawn(modulus: int, offset: int = 0) -> tuple[Numgen, ...]:
    return (Numgen(modulus, offset),)


def tcp() -> Compare:
    return named(Field.L4PROTO, "tcp")


def dport(number: int) -> Compare:
    return equal(Field.DPORT, number)
