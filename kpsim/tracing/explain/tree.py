"""Steps of a walk as a tree: hooks, the chains they ran, the rules that matched, and what each rule did.

Counterpart: ovn-trace's tree. The tree only groups steps. The steps hold the packet with which a rule was compared, and
``text`` makes the words.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from kpsim.netfilter import Walk
from kpsim.packetpath.steps import (
    ChainEntered,
    ChainLeft,
    Chosen,
    ConntrackChanged,
    Counted,
    Drawn,
    Ended,
    FieldChanged,
    FieldName,
    HookEntered,
    MayMatch,
    Moment,
    Remembered,
    Routed,
    RuleMatched,
    Scheduled,
    Served,
    SetAsked,
    SetTold,
    Step,
    Supposed,
    Tracking,
)
from kpsim.ruleset import RETURN, Goto, Hook, TableKey

_BY_RULES = (
    FieldName.MARK,
    FieldName.CONNECTION_MARK,
    FieldName.TTL,
    FieldName.TRAFFIC_CLASS,
)  #: parts of a packet that a rule changes at once


@dataclass(slots=True)
class RuleBlock:
    """A rule that matched. ``notes`` are the draws, counters, lists and marks that belong to it."""

    step: RuleMatched
    notes: list[Step] = field(default_factory=list)
    chain: "ChainBlock | None" = None  #: the chain that it jumped to

    @property
    def idle(self) -> bool:
        """Whether the rule only led to a chain in which nothing happened."""
        return self.chain is not None and self.chain.idle and not self.notes


@dataclass(slots=True)
class ChainBlock:
    """A chain that was run. ``items`` are the rules that matched and the draws that failed, in order."""

    table: TableKey
    name: str
    by_goto: bool = False
    end: Moment | None = None  #: the moment after its last rule was tried; None: a rule left the chain before
    items: list[RuleBlock | Step] = field(default_factory=list)

    @property
    def rules(self) -> list[RuleBlock]:
        return [item for item in self.items if isinstance(item, RuleBlock)]

    @property
    def at_end(self) -> bool:
        """Whether the chain was run to its end."""
        return self.end is not None

    @property
    def idle(self) -> bool:
        """Whether no rule in the chain did anything."""
        return all(isinstance(item, RuleBlock) and item.idle for item in self.items)


@dataclass(slots=True)
class HookBlock:
    """What one hook entry did."""

    hook: Hook
    name: str
    items: list[ChainBlock | Step] = field(default_factory=list)


Item = HookBlock | Step


def build_tree(walk: Walk) -> list[Item]:
    """The hook entries in order, the routing decisions between them, and the end.

    Empty for a walk that was not traced.
    """
    builder = _Builder()
    for step in walk.trace:
        builder.take(step)
    return builder.items


class _Builder:
    def __init__(self) -> None:
        self.items: list[Item] = []
        self._hook: HookBlock | None = None
        self._open: list[ChainBlock] = []
        self._waiting: list[Step] = []  # effects of conditions; the rule that they belong to is not known yet

    def take(self, step: Step) -> None:  # noqa: C901 - one case per kind of step
        match step:
            case HookEntered(hook, name):
                self._close()
                self._hook = HookBlock(hook, name)
                self.items.append(self._hook)
            case ChainEntered(table, chain):
                self._enter(table, chain)
            case ChainLeft():
                self._leave(step)
            case RuleMatched():
                self._matched(step)
            case MayMatch():
                while self._open and self._open[-1].name != step.at.chain:
                    self._open.pop()
                self._flush()
                (self._open[-1].items if self._open else self.items).append(step)
            case (
                Chosen(true=true)
                | Remembered(true=true)
                | Supposed(true=true)
                | SetAsked(found=true)
                | SetTold(kept=true)
            ):
                if not true:
                    self._flush()
                self._waiting.append(step)
                if not true:
                    self._flush()
            case Counted() | Drawn():
                self._waiting.append(step)
            case FieldChanged():
                self._beside_rules(step, of_rule=step.field in _BY_RULES)
            case ConntrackChanged():
                self._beside_rules(step, of_rule=step.tracking is Tracking.UNTRACKED)  # NOTRACK: the chain goes on
            case Scheduled() | Served():
                (self._hook.items if self._hook else self.items).append(step)
            case Routed() | Ended():
                self._close()
                self._hook = None
                self.items.append(step)

    def _close(self) -> None:
        """Closes all chains, because the packet has left them."""
        self._flush()
        self._open.clear()

    def _flush(self) -> None:
        """Gives the waiting steps to the chain, because the rule that they belong to did not match."""
        if self._open:
            self._open[-1].items += self._waiting
        self._waiting = []

    def _enter(self, table: TableKey, chain: str) -> None:
        block = ChainBlock(table, chain)
        if self._open:
            above = self._open[-1].rules[-1]
            above.chain = block
            block.by_goto = isinstance(above.step.statement, Goto)
        elif self._hook is not None:
            self._hook.items.append(block)
        self._open.append(block)

    def _leave(self, step: ChainLeft) -> None:
        self._flush()
        while self._open:
            left = self._open.pop()
            if left.name == step.chain:
                left.end = step.moment
                if left.by_goto and self._open:
                    self._open.pop()  # a packet does not come back to a chain that it left by goto
                return

    def _matched(self, step: RuleMatched) -> None:
        while self._open and self._open[-1].name != step.at.chain:
            self._open.pop()
        block = RuleBlock(step, self._waiting)
        self._waiting = []
        if self._open:
            self._open[-1].items.append(block)
            if step.statement == RETURN:
                self._open.pop()

    def _beside_rules(self, step: FieldChanged | ConntrackChanged, *, of_rule: bool) -> None:
        """Adds a step to the rule that caused it; if no rule did, closes the chains and adds it after them."""
        if of_rule and self._open and self._open[-1].rules:
            self._open[-1].rules[-1].notes.append(step)
            return
        self._close()
        (self._hook.items if self._hook else self.items).append(step)


def matched_rules(items: Iterable[Item]) -> Iterable[RuleBlock]:
    """All rules that matched, in order."""
    for item in items:
        if isinstance(item, HookBlock):
            for inner in item.items:
                if isinstance(inner, ChainBlock):
                    yield from _rules_of(inner)


def _rules_of(chain: ChainBlock) -> Iterable[RuleBlock]:
    for rule in chain.rules:
        yield rule
        if rule.chain is not None:
            yield from _rules_of(rule.chain)
