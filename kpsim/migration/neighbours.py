"""Which programs beside kube-proxy care: their rules on the nodes, held against what kube-proxy no longer does.

The rules are those that the nodes had before kube-proxy started (``--beside``). A dump of a running node also holds
kube-proxy's own; these are told apart by chains, tables and origins.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kpsim.addresses import Family
from kpsim.dialects import Form, dialect_of
from kpsim.explore import Cluster
from kpsim.migration.facts import Change
from kpsim.ruleset import (
    DROP,
    Assign,
    AssignFrom,
    Base,
    Chain,
    Compare,
    Field,
    Goto,
    Hook,
    Jump,
    Reject,
    Role,
    Rule,
    RuleReference,
    Ruleset,
    Space,
    Table,
    Verdict,
)  # fmt: skip
from kpsim.tracing.explain.owners import Space as Naming
from kpsim.tracing.explain.owners import owner_of, program_of

_OWN_TABLE = "kube-proxy"
_OWN_CHAINS = "KUBE-"
MOST_RULES = 5  #: of one kind that are shown of a node


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One thing that a program beside kube-proxy has on a node. ``node`` is empty for what every node has.

    ``rules`` are some of the rules that it is about, as their tool writes them, and ``count`` says how many there are.
    """

    node: str
    family: Family
    program: str
    what: str
    words: str
    see: str
    rules: tuple[str, ...] = ()
    count: int = 0


def neighbours(cluster: Cluster, change: Change) -> tuple[Neighbour, ...]:
    """What the rules beside kube-proxy's mean for the change, by node and family."""
    mark = 1 << cluster.config.masquerade_bit
    found: list[Neighbour] = []
    for node, family in sorted(cluster.beside, key=lambda key: (key[0], key[1].label)):
        view = _View(node, family, cluster.beside[node, family].ruleset)
        found += [
            *_programs(view, change),
            *_policies(view, change),
            *_references(view, change),
            *_marks(view, change, mark),
            *_orders(view, change),
        ]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _View:
    """The rules of one family that a node, or every node, had."""

    node: str
    family: Family
    ruleset: Ruleset

    def chains(self) -> Iterator[tuple[Table, Chain]]:
        """The chains that are not kube-proxy's."""
        for table in self.ruleset.in_order():
            if table.name != _OWN_TABLE:
                yield from ((table, chain) for chain in table.ordered() if not _is_own(chain.name))

    def rules(self) -> Iterator[tuple[RuleReference, Rule]]:
        """The rules that are not kube-proxy's."""
        for table, chain in self.chains():
            for number, rule in enumerate(chain.rules, 1):
                if rule.origin.role is Role.FOREIGN:
                    yield RuleReference(table.key, chain.name, number, rule), rule

    def text(self, reference: RuleReference) -> str:
        line = dialect_of(reference.table, reference.rule).spell(reference, self.family, Form.LISTED)
        return f"{line} (table {reference.table})"

    def found(
        self, program: str, what: str, said: tuple[str, str], references: Iterable[RuleReference] = ()
    ) -> Neighbour:
        listed = list(references)
        texts = tuple(map(self.text, listed[:MOST_RULES]))
        return Neighbour(self.node, self.family, program, what, *said, texts, len(listed))


def _is_own(chain: str) -> bool:
    """Whether a chain has a name of kube-proxy's, and none of another program that begins with KUBE, too."""
    return chain.startswith(_OWN_CHAINS) and not owner_of(Naming.CHAIN, chain)


def _programs(view: _View, change: Change) -> Iterator[Neighbour]:
    """The programs that the names tell, and what is known of them."""
    names = {owner_of(Naming.CHAIN, chain.name) for _, chain in view.chains()}
    names |= {program_of(reference) for reference, rule in view.rules()}
    for program in sorted(names - {""}):
        if program in change.programs:
            yield view.found(program, "has rules on the node", change.programs[program])


def _policies(view: _View, change: Change) -> Iterator[Neighbour]:
    """The base chains that drop or reject what no rule of theirs accepts.

    kube-proxy's iptables rules stand in iptables' own tables. An accept there never ruled over other tables (K-9.1).
    """
    for table, chain in view.chains():
        base = chain.base
        if base is None or base.hook not in change.closed or not _shared_with_iptables(table):
            continue
        last = chain.rules[-1] if chain.rules else None
        if base.policy is Verdict.DROP:
            what, rules = f"policy DROP of {table.key}/{chain.name}", []
        elif last is not None and _refuses_all(last):
            what = f"{table.key}/{chain.name} ends with a rule that refuses the rest"
            rules = [RuleReference(table.key, chain.name, len(chain.rules), last)]
        else:
            continue
        yield view.found(_program(table, chain.name), what, change.closed[base.hook], rules)


def _refuses_all(rule: Rule) -> bool:
    return len(rule.body) == 1 and (rule.target == DROP or isinstance(rule.target, Reject))


def _references(view: _View, change: Change) -> Iterator[Neighbour]:
    """The rules that lead to chains of kube-proxy's."""
    if not change.referred[0]:
        return
    found: dict[tuple[str, str], list[RuleReference]] = {}
    for reference, rule in view.rules():
        target = rule.target
        if isinstance(target, Jump | Goto) and _is_own(target.chain):
            found.setdefault((program_of(reference), target.chain), []).append(reference)
    for (program, chain), references in sorted(found.items()):
        yield view.found(program, f"leads to {chain}", change.referred, references)


def _marks(view: _View, change: Change, mark: int) -> Iterator[Neighbour]:
    """The rules that compare or write the bit of the masquerade mark."""
    if not change.marked[0]:
        return
    found: dict[str, list[RuleReference]] = {}
    for reference, rule in view.rules():
        if any(_touches(part, mark) for part in rule.body):
            found.setdefault(program_of(reference), []).append(reference)
    for program, references in sorted(found.items()):
        yield view.found(program, f"reads or writes the mark {mark:#x}", change.marked, references)


def _touches(part: object, mark: int) -> bool:
    match part:
        case Compare(field=Field.MARK, mask=mask):
            return mask is None or bool(mask & mark)
        case Assign(to=Field.MARK, keep=keep, flip=flip, take=take):
            return bool(~keep & mark or flip & mark or take & mark)
        case AssignFrom(to=Field.MARK):
            return True
        case _:
            return False


def _orders(view: _View, change: Change) -> Iterator[Neighbour]:
    """The base chains of other tables whose place in the order means something else now."""
    for table, chain in view.chains():
        if chain.base is None or _shared_with_iptables(table):
            continue
        for order in change.orders:
            if chain.base.hook in order.hooks and order.low <= chain.base.priority < order.high:
                what = f"chain {chain.name}, {_place(chain.base)}"
                yield view.found(_program(table, chain.name), what, (order.words, order.see))


def _shared_with_iptables(table: Table) -> bool:
    """Whether it is one of the tables of iptables, in which kube-proxy's iptables rules stand too."""
    return table.name in ("filter", "nat", "mangle", "raw", "security") and table.key.space is not Space.INET


def _program(table: Table, chain: str) -> str:
    return owner_of(Naming.CHAIN, chain) or ("" if _shared_with_iptables(table) else _table_words(table))


def _table_words(table: Table) -> str:
    return f"table {table.key.space.value} {table.name}"


def _place(base: Base) -> str:
    return f"hook {base.hook.lower()}, priority {base.priority}"


def policy_known(found: Iterable[Neighbour], cluster: Cluster) -> bool:
    """Whether the rules beside kube-proxy's were given for every node."""
    return ("", Family.IPV4) in cluster.beside or all((n, Family.IPV4) in cluster.beside for n in cluster.node_names)


HOOKS_OF_POLICY = (Hook.INPUT, Hook.FORWARD)
