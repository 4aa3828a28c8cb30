"""How the text of two sides' rules, ipsets and virtual servers differs, node by node, in the canonical form of their tools."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import ndiff

from kpsim.addresses import Family, format_ip
from kpsim.comparison.behaviour.report import Subject
from kpsim.dialects import Form, dialect_of, saved_ipset, saved_server
from kpsim.inputs import JsonObject
from kpsim.programmed import Programmed
from kpsim.ruleset import RuleReference, Ruleset, Table


@dataclass(frozen=True, slots=True)
class ChainDifference:
    """A chain, a set, a virtual server, or the addresses of a device, whose text differs. ``a`` and ``b`` are its lines; None: that side does not have it."""

    node: str
    family: Family
    name: str
    a: tuple[str, ...] | None
    b: tuple[str, ...] | None

    def to_json(self) -> JsonObject:
        sides = {name: None if lines is None else list(lines) for name, lines in (("a", self.a), ("b", self.b))}
        return {"node": self.node, "family": self.family.label, "chain": self.name, **sides}

    def lines(self, *, fenced: bool) -> Iterator[str]:
        """The lines of both sides: ``-`` stands before those of a alone, ``+`` before those of b alone."""
        only = " (only in b)" if self.a is None else " (only in a)" if self.b is None else ""
        yield f"{'## ' if fenced else ''}{self.node}, {self.family.label}, {self.name}{only}"
        if fenced:
            yield "```diff"
        yield from (line.rstrip() for line in ndiff(self.a or (), self.b or ()) if not line.startswith("?"))
        if fenced:
            yield "```"


def rule_differences(a: Subject, b: Subject) -> Iterator[ChainDifference]:
    """Everything that kernels were told and whose text differs, at nodes of both."""
    nodes = [node for node in a.side.site.node_names or ("node",) if node in (b.side.site.node_names or ("node",))]
    for node in nodes:
        for family in (family for family in a.side.families if family in b.side.families):
            first, second = (_texts(subject.side.site.netns(node, family).programmed[family]) for subject in (a, b))
            for name in sorted({**first, **second}):
                if first.get(name) != second.get(name):
                    yield ChainDifference(node, family, name, first.get(name), second.get(name))


def _texts(told: Programmed) -> dict[str, tuple[str, ...]]:
    """The lines of each chain, set and virtual server, and the addresses of each device that makes some local."""
    found = _of_tables(told.ruleset)
    for name, of in told.ipsets.items():
        found[f"ipset {name}"] = tuple(saved_ipset(of))
    for key, made in told.virtual_servers.items():
        lines = saved_server(told.family, key, made)
        # kube-proxy adds real servers in any order (IPVS-5.3)
        found[f"virtual server {' '.join(lines[0].split()[1:3])}"] = (lines[0], *sorted(lines[1:]))
    for device in {*told.local_addresses.values()}:
        own = sorted(address for address, name in told.local_addresses.items() if name == device)
        found[f"addresses of {device}"] = tuple(format_ip(told.family, address) for address in own)
    return found


def _of_tables(ruleset: Ruleset) -> dict[str, tuple[str, ...]]:
    """The lines of each chain, and the elements of each set in order of their names."""
    found: dict[str, tuple[str, ...]] = {}
    for table in ruleset.in_order():
        for name in sorted(table.chains):
            found[f"{table.key}/{name}"] = tuple(_rules(table, name, ruleset.family))
        for name in sorted(table.sets):
            elements = table.sets[name].elements
            found[f"{table.key}/{name} (set)"] = tuple(
                sorted(
                    _said(key) + ("" if elements[key].value is None else f" : {_said(elements[key].value)}")
                    for key in elements
                )
            )
    return found


def _rules(table: Table, chain: str, family: Family) -> Iterator[str]:
    dialect = dialect_of(table.key)
    for number, rule in enumerate(table.chains[chain].rules, 1):
        yield dialect.words(RuleReference(table.key, chain, number, rule), family, Form.LISTED)


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return " . ".join(map(str, value))
    return str(value)
