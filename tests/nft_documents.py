"""Reads the recorded documents of ``tests/dialects/nft_documents.txt``: commands or blocks, and what nft then lists and prints."""

import re
from functools import cache
from typing import NamedTuple

from kpsim.dialects import Form
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.ruleset import Ruleset, Table, TableKey
from tests.nft_forms import HERE

PATH = HERE / "nft_documents.txt"


class Document(NamedTuple):
    """A document in three forms. ``name`` says what it is about."""

    name: str
    sent: str
    listed: str
    printed: str  #: as JSON


@cache
def documents() -> tuple[Document, ...]:
    """All recorded documents."""
    found = re.split(r"^### (.*)\n|^--- (?:listed|JSON)\n", PATH.read_text(), flags=re.MULTILINE)[1:]
    return tuple(Document(found[at], found[at + 1], found[at + 3], found[at + 5]) for at in range(0, len(found), 6))


def only(text: str, **options: object) -> Ruleset:
    """The ruleset of a text that is of one family."""
    [ruleset] = DIALECT.parse(text, **options)  # type: ignore[arg-type]
    return ruleset


def tables_of(rulesets: tuple[Ruleset, ...]) -> dict[TableKey, Table]:
    """The tables of all families."""
    return {key: table for ruleset in rulesets for key, table in ruleset.tables.items()}


def listed_again(rulesets: tuple[Ruleset, ...]) -> str:
    """The listing of all families' tables, each of them once."""
    blocks = (
        block
        for ruleset in rulesets
        for block in re.findall(r"^table .*?^}\n", DIALECT.render(ruleset, Form.LISTED), re.M | re.S)
    )
    return "".join(dict.fromkeys(blocks))


def objects_of(listed: str) -> dict[tuple[str, str], str]:
    """The lines of each object of a listing, by its table and its name."""
    return {
        (table[1], each[1]): each[0]
        for table in re.finditer(r"^table (\S+ \S+) .*?^}\n", listed, re.M | re.S)
        for each in re.finditer(r"^\t(\w+ \S+) \{.*?^\t\}\n", table[0], re.M | re.S)
    }


def in_some_order(listed: str) -> list[str]:
    """A listing without the order in which nft lists objects, and elements of sets that have none in the kernel."""
    objects = re.findall(r"^table [^\n]*\n|^\t\w[^\n]*(?:\n\t\t[^\n]*)*(?:\n\t})?", listed, re.M)
    return sorted(_in_order(each) for each in objects)


def _in_order(words: str) -> str:
    before, found, elements = words.partition("elements = { ")
    inside, _, behind = elements.partition(" }")
    return before + found + str(sorted(re.split(r",\s+", inside))) + behind


TABLE = "add table ip t\n"
SET = TABLE + "add set ip t s { type inet_service ; }\n"
MAP = TABLE + "add map ip t m { type inet_service : verdict ; elements = { 1 : drop } }\n"
CHAIN = TABLE + "add chain ip t c { type filter hook input priority 0 ; }\n"
#: commands of which nft does not take the last one, and why
COMMANDS = [
    ("add chain ip t c\n", "there is no table ip t"),
    (TABLE + "add chain ip6 t c\n", "there is no table ip6 t"),
    (TABLE + "create table ip t\n", "there is a table ip t already"),
    ("delete table ip t\n", "there is no table ip t"),
    ("flush table ip t\n", "there is no table ip t"),
    (TABLE + "delete table ip u\n", "there is no table ip u"),
    (TABLE + "add rule ip t c accept\n", "there is no chain c in table t"),
    (TABLE + "insert rule ip t c accept\n", "there is no chain c in table t"),
    (TABLE + "flush chain ip t c\n", "there is no chain c in table t"),
    (TABLE + "delete chain ip t c\n", "there is no chain c in table t"),
    (CHAIN + "create chain ip t c\n", "there is a chain c already"),
    (CHAIN + "add chain ip t c { type filter hook input priority 5 ; }\n", "chain c exists with another type, hook or priority"),
    (CHAIN + "add chain ip t c { type filter hook forward priority 0 ; }\n", "chain c exists with another type, hook or priority"),
    (CHAIN + "add chain ip t c { type nat hook input priority 0 ; }\n", "chain c exists with another type, hook or priority"),
    (TABLE + "add chain ip t c\nadd chain ip t c { type filter hook input priority 0 ; }\n", "chain c exists with another type, hook or priority"),
    (TABLE + "add chain ip t c { policy drop ; }\n", "chain c: a policy is for a chain with a hook"),
    (TABLE + "add element ip t s { 1 }\n", "there is no set or map s"),
    (TABLE + "flush set ip t s\n", "there is no set s"),
    (TABLE + "delete set ip t s\n", "there is no set s"),
    (TABLE + "delete map ip t m\n", "there is no map m"),
    (SET + "create set ip t s { type inet_service ; }\n", "there is a set s already"),
    (SET + "add set ip t s { type mark ; }\n", "set s exists with another type or other flags"),
    (SET + "add set ip t s { type inet_service ; flags interval ; }\n", "set s exists with another type or other flags"),
    (MAP + "add map ip t m { type inet_service : mark ; }\n", "map m exists with another type or other flags"),
    (SET + "delete element ip t s { 2 }\n", "there is no such element in s"),
    (SET + "add element ip t s { 70000 }\n", "set s: not a number of 16 bits: 70000"),
    (SET + "add element ip t s { 1 : drop }\n", "set s: a set's element has no value"),
    (MAP + "add element ip t m { 1 : accept }\n", "map m: the same key twice with different values"),
    (MAP + "add element ip t m { 2 }\n", "map m: a map's element is a key and a value"),
    (TABLE + "add counter ip t n\ncreate counter ip t n\n", "there is a counter n already"),
    (TABLE + "add limit ip t l { rate 5/fortnight ; }\n", "limit l: not a rate: 5/fortnight"),
    (TABLE + "add set ip t s { flags interval ; }\n", "set s: a set needs a type"),
    (TABLE + "add set ip t s { type mark ; flags sorted ; }\n", "set s: not a flag of sets: sorted"),
    (TABLE + "add set ip t s { type inet_service ; elements = { 1-5 } }\n", "set s: intervals need the flag interval"),
    (TABLE + "add set ip t s { type inet_service ; flags interval ; elements = { 1-5, 3 } }\n", "set s: conflicting intervals: 1 to 5 holds 3"),
    (TABLE + "add chain ip t c { type fitler hook input priority 0 ; }\n", "not a type of chain: fitler"),
    (TABLE + "add chain ip t c { type filter hook inptu priority 0 ; }\n", "chain c: hook inptu is not modelled"),
    (TABLE + "add chain ip t c { type filter hook input priority fliter ; }\n", "chain c: not a priority: fliter"),
    (TABLE + "add chain ip t c { type filter hook forward priority dstnat - 5 ; }\n", "chain c: priority dstnat is not known at hook forward: write -100"),
    (TABLE + "add chain ip t c { type nat hook forward priority 0 ; }\n", "chain c: chains of type nat are not for hook forward"),
    (TABLE + "add chain ip t c { type nat hook prerouting priority -200 ; }\n", "chain c: chains of type nat need a priority of at least -199"),
    (TABLE + "add chain ip t c { type route hook input priority 0 ; }\n", "chain c: chains of type route are for hook output"),
]  # fmt: skip
