"""The rules of a scenario that are not kube-proxy's: read from files beside it, or written in it.

Counterpart: what firewalls, container engines and administrators load.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from kpsim.addresses import Family
from kpsim.dialects import Kind, dialect_reading, kind_of
from kpsim.errors import InputError, Problem
from kpsim.inputs import read_text
from kpsim.manifests.places import Path
from kpsim.ruleset import Ruleset, joined
from kpsim.scenario.document import Document
from kpsim.scenario.event_schema import LoadRules
from kpsim.scenario.nodes import cluster_families, cluster_nodes
from kpsim.scenario.schema import ScenarioSpec


@dataclass(frozen=True, slots=True)
class RulesBeside:
    """Rules of some nodes, by family, and the text that they were read from. ``nodes`` empty: every node has them."""

    nodes: tuple[str, ...]
    rules: Mapping[Family, Ruleset]
    text: str

    def __reduce__(self) -> tuple[Callable[..., "RulesBeside"], tuple[object, ...]]:
        """Go to another process as text: rules hold functions of their dialect."""
        return _read_again, (self.nodes, tuple(self.rules), self.text)

    def of(self, node: str, family: Family) -> Ruleset | None:
        """Return the rules that a node has of a family, or None."""
        return self.rules.get(family) if not self.nodes or node in self.nodes else None


@dataclass(slots=True)
class AllBeside:
    """Those at the start, and those of each ``loadRules`` event by the event's position."""

    initial: tuple[RulesBeside, ...] = ()
    loaded: dict[int, RulesBeside] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_beside(spec: ScenarioSpec, document: Document, file: str) -> AllBeside:
    """Read all rules beside kube-proxy's. ``problems`` holds all that is wrong with them."""
    found = AllBeside()
    initial = []
    for path, asked in _asked(spec):
        try:
            rules = _read(asked, path, spec, document, file, found)
        except InputError as error:
            found.problems += error.problems
            continue
        if path[0] == "events":
            assert isinstance(path[1], int)
            found.loaded[path[1]] = rules
        else:
            initial.append(rules)
    found.initial = tuple(initial)
    if not found.problems:
        _try(spec, found, document)
    return found


def _asked(spec: ScenarioSpec) -> Iterator[tuple[Path, LoadRules]]:
    yield from ((("beside", number), asked) for number, asked in enumerate(spec.beside))
    for number, event in enumerate(spec.events):
        if event.load_rules is not None:
            yield ("events", number, "loadRules"), event.load_rules


def _read(
    asked: LoadRules, path: Path, spec: ScenarioSpec, document: Document, file: str, found: AllBeside
) -> RulesBeside:
    if asked.file is not None:
        name = str(FilePath(file).parent / asked.file)
        text = read_text(name)
    else:
        name, text = document.problem("", (*path, "rules")).file or file, asked.rules or ""
    if kind_of(text) is not Kind.RULES:
        words = "expected rules, as iptables-save or nft list ruleset print them; ipsets and virtual servers are not for scenarios"
        raise InputError(document.problem(words, path))
    families = cluster_families(spec.nodes)
    try:
        rulesets = _parsed(text, families, name)
    except InputError as error:
        if asked.file is not None:
            raise
        raise InputError(
            [document.problem(f"line {p.line}: {p.message}", (*path, "rules")) for p in error.problems]
        ) from None
    for ruleset in rulesets:
        if ruleset.family not in families and ruleset.tables:
            found.notes.append(f"{name}: its rules of {ruleset.family.label} decide nothing: no node has that family")
    return RulesBeside(asked.nodes, {each.family: each for each in rulesets if each.family in families}, text)


def _parsed(text: str, families: Sequence[Family], file: str) -> Sequence[Ruleset]:
    dialect = dialect_reading(text)
    told = dialect.families(text, file=file)
    return dialect.parse(text, None if told else families[0], file=file)


def _read_again(nodes: tuple[str, ...], families: tuple[Family, ...], text: str) -> RulesBeside:
    rulesets = _parsed(text, families, "")
    return RulesBeside(nodes, {each.family: each for each in rulesets if each.family in families}, text)


def _try(spec: ScenarioSpec, found: AllBeside, document: Document) -> None:
    """Load the rules of each node one after the other, to find what a kernel would refuse."""
    refused: dict[int, str] = {}
    for node in cluster_nodes(spec.nodes):
        for family in cluster_families(spec.nodes):
            held = Ruleset(family)
            for number, beside in enumerate(found.initial):
                rules = beside.of(node.name, family)
                try:
                    held = held if rules is None else joined(held, rules)
                except ValueError as problem:
                    refused.setdefault(number, str(problem))
    found.problems += [document.problem(words, ("beside", number)) for number, words in refused.items()]
