"""Transactions of nft, and what Linux 6.18 said to each: taken, or refused and why.

The model is asked in ``test_ruleset_operations``, and Linux again in ``kernel/test_transactions_in_linux``. Each case begins
with the table that ``BEGINNING`` makes.
"""

from dataclasses import replace
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.backends.nftables.document import document
from kpsim.maps import Map
from kpsim.ruleset import (
    ACCEPT,
    DROP,
    Base,
    Chain,
    ChainType,
    DataType,
    Dispatch,
    Dnat,
    Element,
    Expression,
    Field,
    Goto,
    Hook,
    Jump,
    Key,
    Lookup,
    Mapped,
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
    UpdateSet,
    named,
)
from kpsim.ruleset.operations import Entry, Operation, Refusal, Verb, apply
from kpsim.verify.drawing.choices import Choices, pick

KEY = TableKey(Space.IP, "t")
INPUT = Base(ChainType.FILTER, Hook.INPUT, 0)

VERDICTS = Set(name="verdicts", type=SetType((DataType.PORT,), (DataType.VERDICT,)))
PORTS = Set(name="ports", type=SetType((DataType.PORT,)))
CLIENTS = Set(
    name="clients",
    type=SetType((DataType.IPV4_ADDRESS,)),
    flags=SetFlags.DYNAMIC | SetFlags.TIMEOUT,
    timeout_ns=60_000_000_000,
)
SETS = {each.name: each for each in (VERDICTS, PORTS, CLIENTS)}


def add(made: Table | Chain | Set) -> Operation:
    return Operation(Verb.ADD, KEY, made)


def flush(what: Table | Chain | Set) -> Operation:
    return Operation(Verb.FLUSH, KEY, what)


def delete(what: Table | Chain | Set) -> Operation:
    return Operation(Verb.DELETE, KEY, what)


def rule(chain: str, *parts: Expression | Statement) -> Operation:
    return Operation(Verb.ADD, KEY, Rule(parts), chain)


def put(of: Set, key: int | str, value: Jump | Goto | Terminal | None = None, comment: str = "") -> Operation:
    return Operation(Verb.ADD, KEY, Entry((key,), Element(value, comment)), of.name)


def take(of: Set, key: int | str) -> Operation:
    return Operation(Verb.DELETE, KEY, Entry((key,)), of.name)


TABLE = Table(KEY)
A, B, C, ABSENT = (Chain(name) for name in ("a", "b", "c", "absent"))
HOOKED = Chain("hooked", base=INPUT)


def numbered(*values: Goto | tuple[int, int]) -> Set:
    elements: dict[Key, Element] = {(number,): Element(value) for number, value in enumerate(values)}
    return Set(Map(elements))


#: chain a jumps to b, and asks the set of clients; the map leads to c; a base chain holds a rule
BEGINNING = [
    add(TABLE),
    *map(add, (A, B, C, HOOKED, VERDICTS, PORTS, CLIENTS)),
    rule("a", Jump("b")),
    rule("a", Lookup((Field.SADDR,), SetReference("clients")), ACCEPT),
    rule("hooked", ACCEPT),
    put(VERDICTS, 80, Goto("c")),
    put(PORTS, 22),
]


class Case(NamedTuple):
    """A transaction, and why Linux refuses it; None: it takes it."""

    operations: list[Operation]
    refusal: Refusal | None = None


NO, THERE, BUSY, UNSUPPORTED = Refusal.ABSENT, Refusal.PRESENT, Refusal.BUSY, Refusal.UNSUPPORTED

CASES: dict[str, Case] = {
    "a chain that is there": Case([add(A)]),
    "a chain with its own rules only": Case([delete(A)]),
    "a chain that a rule jumps to": Case([delete(B)], BUSY),
    "a chain that a map leads to": Case([delete(C)], BUSY),
    "a chain whose jump was flushed before": Case([flush(A), delete(B)]),
    "a chain whose jump goes with its own chain": Case([delete(A), delete(B)]),
    "a chain whose jump is flushed afterwards": Case([delete(B), flush(A)], BUSY),
    "a chain whose element was deleted before": Case([take(VERDICTS, 80), delete(C)]),
    "a chain whose map was flushed before": Case([flush(VERDICTS), delete(C)]),
    "a chain whose map was deleted before": Case([delete(VERDICTS), delete(C)]),
    "a chain that two things lead to, one of them gone": Case([rule("a", Goto("c")), take(VERDICTS, 80), delete(C)], BUSY),
    "a chain that two things led to": Case([rule("b", Goto("c")), take(VERDICTS, 80), flush(B), delete(C)]),
    "a chain that jumps to itself": Case([rule("b", Jump("b")), flush(A), delete(B)], BUSY),
    "a chain that jumped to itself": Case([rule("b", Jump("b")), flush(A), flush(B), delete(B)]),
    "a chain that a map in a rule leads to": Case(
        [rule("b", Dispatch((Numgen(2),), numbered(Goto("c"), Goto("c")))), take(VERDICTS, 80), delete(C)], BUSY
    ),
    "a chain that is missing": Case([delete(ABSENT)], NO),
    "flush a chain that is missing": Case([flush(ABSENT)], NO),
    "a chain deleted twice": Case([delete(A), delete(A)], NO),
    "a chain deleted and made": Case([delete(A), add(A), rule("a", Goto("b"))]),
    "a base chain without saying so": Case([add(Chain("hooked"))]),
    "a base chain as it is": Case([add(HOOKED)]),
    "a base chain at another priority": Case([add(Chain("hooked", base=replace(INPUT, priority=5)))], UNSUPPORTED),
    "a base chain at another hook": Case([add(Chain("hooked", base=replace(INPUT, hook=Hook.OUTPUT)))], UNSUPPORTED),
    "a base chain of another type": Case([add(Chain("hooked", base=replace(INPUT, type=ChainType.NAT)))], THERE),
    "a base chain where a plain one is": Case([add(Chain("b", base=INPUT))], THERE),
    "a base chain deleted and made elsewhere": Case(
        [add(Chain("hooked")), delete(Chain("hooked")), add(Chain("hooked", base=replace(INPUT, priority=5)))]
    ),
    "a jump to a chain that is missing": Case([rule("b", Jump("absent"))], NO),
    "a jump to a chain that is made later": Case([rule("b", Jump("absent")), add(ABSENT)], NO),
    "a jump to a chain that is made before": Case([add(ABSENT), rule("b", Jump("absent"))]),
    "a rule in a chain that is missing": Case([rule("absent", ACCEPT)], NO),
    "a look-up in a set that is missing": Case([rule("b", Lookup((Field.SADDR,), SetReference("absent")), ACCEPT)], NO),
    "an update of a set that is missing": Case([rule("b", UpdateSet(SetReference("absent"), (Field.SADDR,)))], NO),
    "a map in a rule that leads nowhere": Case([rule("b", Dispatch((Numgen(1),), numbered(Goto("absent"))))], NO),
    "a draw of a target": Case(
        [
            add(Chain("n", base=Base(ChainType.NAT, Hook.PREROUTING, -100))),
            rule("n", named(Field.L4PROTO, "tcp"), Dnat(None, mapped=Mapped((Numgen(1),), numbered((1, 80)), port=True))),
        ]
    ),
    "a set that is there": Case([add(PORTS)]),
    "a set of another type": Case([add(replace(PORTS, type=SetType((DataType.MARK,))))], THERE),
    "a map where a set is": Case([add(replace(VERDICTS, name="ports"))], THERE),
    "a set with other flags": Case([add(replace(CLIENTS, flags=SetFlags.TIMEOUT))], THERE),
    "a set with another time": Case([add(replace(CLIENTS, timeout_ns=120_000_000_000))]),
    "a set that a rule asks": Case([delete(CLIENTS)], BUSY),
    "a set that a rule asked": Case([flush(A), delete(CLIENTS)]),
    "a set that nothing asks": Case([delete(PORTS)]),
    "a set that is missing": Case([delete(replace(PORTS, name="absent"))], NO),
    "a set made and deleted": Case([add(replace(PORTS, name="more")), delete(replace(PORTS, name="more"))]),
    "an element that is there": Case([put(PORTS, 22)]),
    "an element that is there, with a comment": Case([put(VERDICTS, 80, Goto("c"), "again")]),
    "an element with another value": Case([put(VERDICTS, 80, DROP)], THERE),
    "an element deleted and added with another value": Case([take(VERDICTS, 80), put(VERDICTS, 80, Goto("b"))]),
    "two values for a new key": Case([put(VERDICTS, 81, Goto("b")), put(VERDICTS, 81, Goto("c"))], THERE),
    "an element that leads nowhere": Case([put(VERDICTS, 81, Goto("absent"))], NO),
    "an element that is missing": Case([take(PORTS, 23)], NO),
    "an element deleted twice": Case([take(PORTS, 22), take(PORTS, 22)], NO),
    "an element of a set that is missing": Case([take(replace(PORTS, name="absent"), 22)], NO),
    "an element of a deleted set": Case([delete(PORTS), take(PORTS, 22)], NO),
    "an element of a flushed set": Case([flush(PORTS), take(PORTS, 22)], NO),
    "flush a table": Case([flush(TABLE), delete(B), delete(CLIENTS)]),
    "flush a table that has lost a chain": Case([delete(A), flush(TABLE), delete(B)]),
    "a flushed table keeps its elements": Case([flush(TABLE), delete(C)], BUSY),
    "a table that is there": Case([add(TABLE)]),
    "a table": Case([delete(TABLE)]),
    "a chain of a deleted table": Case([delete(TABLE), add(A)], NO),
    "a table deleted and made": Case([delete(TABLE), add(TABLE), add(A), delete(B)], NO),
    "a table that is missing": Case([Operation(Verb.DELETE, TableKey(Space.IP, "absent"), Table(TableKey(Space.IP, "absent")))], NO),
}  # fmt: skip


def text(operations: list[Operation]) -> str:
    """What nft is given."""
    return document(operations, SETS | {"absent": replace(PORTS, name="absent")})


def drawn(choices: Choices) -> list[Operation]:
    """A transaction of a few operations. About half of them are refused."""
    return [_drawn_operation(choices) for _ in range(1 + choices.below(5))]


def _drawn_operation(choices: Choices) -> Operation:
    chain = Chain(pick(choices, "abcd"))
    of = pick(choices, (VERDICTS, PORTS, CLIENTS))
    leads = pick(choices, (Goto, Jump))(pick(choices, "abcd"))
    port = pick(choices, (22, 80, 81))
    match pick(
        choices,
        ["chain", "chain", "set", "rule", "rule", "element", "element", "element", "element", "flush", "delete"],
    ):
        case "chain":
            return add(chain)
        case "set":
            return add(of)
        case "rule":
            asks = Lookup((Field.SADDR,), SetReference("clients"))
            return rule(chain.name, *pick(choices, ((leads,), (asks, ACCEPT), (asks, leads))))
        case "element":
            if of is CLIENTS:
                return put(PORTS, port)
            if choices.below(5) < 2:
                return take(of, port)
            return put(of, port, leads if of is VERDICTS else None)
        case "flush":
            return flush(pick(choices, (chain, of)))
        case _:
            return delete(pick(choices, (chain, chain, of)))


def begun() -> Ruleset:
    """The model's ruleset with the table of ``BEGINNING``."""
    return apply(Ruleset(Family.IPV4), BEGINNING)
