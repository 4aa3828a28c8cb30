"""Steps of a walk as a tree: hooks, the chains they ran, the rules that matched, and what each rule did.

Counterpart: ovn-trace's tree. It also says what the packet looked like when a rule was tried, so that one can tell why others did
not match. It never knows words; those are ``text``'s.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from kpsim.addresses import parse_ip, split_host_port
from kpsim.conntrack import Entry, tuple_of
from kpsim.flowstate import Direction
from kpsim.netfilter import Walk
from kpsim.packet import Packet
from kpsim.packetpath.steps import (
    ChainEntered,
    ChainLeft,
    Chosen,
    ConntrackChanged,
    Counted,
    Ended,
    FieldChanged,
    FieldName,
    HookEntered,
    Remembered,
    Routed,
    RuleMatched,
    Step,
    Tracking,
)
from kpsim.ruleset import RETURN, Goto, Hook


@dataclass(frozen=True, slots=True)
class Moment:
    """A packet and its connection's states at one point of its way."""

    packet: Packet
    ct_states: frozenset[str]
    entry: Entry | None = None
    direction: Direction = Direction.ORIGINAL


@dataclass(slots=True)
class RuleBlock:
    """A rule that matched. ``notes``: draws, counters, lists and marks that belong to it."""

    step: RuleMatched
    moment: Moment  #: when it was tried
    notes: list[Step] = field(default_factory=list)
    chain: "ChainBlock | None" = None  #: where it jumped to

    @property
    def idle(self) -> bool:
        """It led to a chain where nothing happened."""
        return self.chain is not None and self.chain.idle and not self.notes


@dataclass(slots=True)
class ChainBlock:
    """A chain that was run. ``items``: rules that matched, and draws that failed, in order."""

    table: str
    name: str
    moment: Moment  #: when the last rule was tried
    by_goto: bool = False
    at_end: bool = False  #: it was run to its end
    items: list[RuleBlock | Step] = field(default_factory=list)

    @property
    def rules(self) -> list[RuleBlock]:
        return [item for item in self.items if isinstance(item, RuleBlock)]

    @property
    def idle(self) -> bool:
        """No rule in it did anything."""
        return all(isinstance(item, RuleBlock) and item.idle for item in self.items)


@dataclass(slots=True)
class HookBlock:
    """One hook entry's work."""

    hook: Hook
    name: str
    items: list[ChainBlock | Step] = field(default_factory=list)


Item = HookBlock | Step


def build_tree(walk: Walk, arrived: Packet) -> list[Item]:
    """Hook entries in order, routing decisions between them, and how it ended. ``arrived``: the packet before the walk."""
    builder = _Builder(arrived)
    for step in walk.trace:
        builder.take(step)
    return builder.items


class _Builder:
    def __init__(self, arrived: Packet) -> None:
        self.items: list[Item] = []
        self._packet = arrived.copy()
        self._local = not arrived.in_interface
        self._device = ""  # that routing decided for
        self._ct_states = frozenset({"INVALID"})  # what an skb without entry counts as
        self._entry: Entry | None = None
        self._direction = Direction.ORIGINAL
        self._hook: HookBlock | None = None
        self._open: list[ChainBlock] = []
        self._waiting: list[Step] = []  # effects of conditions: the rule they belong to is not known yet

    def take(self, step: Step) -> None:
        match step:
            case HookEntered(hook, name):
                self._close()
                self._hook = HookBlock(hook, name)
                self.items.append(self._hook)
                self._arrive_at(hook)
            case ChainEntered(table, chain):
                self._enter(table, chain)
            case ChainLeft(_, chain):
                self._leave(chain)
            case RuleMatched():
                self._matched(step)
            case Chosen(_, true) | Remembered(_, _, true):
                self._flush() if not true else None
                self._waiting.append(step)
                if not true:
                    self._flush()
            case Counted():
                self._waiting.append(step)
            case FieldChanged():
                self._changed(step)
            case ConntrackChanged():
                self._tracked(step)
            case Routed(_, interface):
                self._close()
                self._hook, self._device = None, interface
                self.items.append(step)
            case Ended():
                self._close()
                self._hook = None
                self.items.append(step)

    def _moment(self) -> Moment:
        return Moment(self._packet.copy(), self._ct_states, self._entry, self._direction)

    def _close(self) -> None:
        self._flush()
        while self._open:
            self._open.pop().moment = self._moment()

    def _flush(self) -> None:
        """What waits belongs to a rule that did not match after all."""
        if self._open:
            self._open[-1].items += self._waiting
        self._waiting = []

    def _arrive_at(self, hook: Hook) -> None:
        """Input and output interfaces as rules of this hook see them."""
        packet = self._packet
        match hook:
            case Hook.OUTPUT:
                packet.in_interface, packet.out_interface = "", self._device
            case Hook.FORWARD | Hook.POSTROUTING:
                packet.out_interface = self._device
            case Hook.PREROUTING | Hook.INPUT:
                packet.out_interface = ""
                if self._local:
                    packet.in_interface = "lo"

    def _enter(self, table: str, chain: str) -> None:
        block = ChainBlock(table, chain, self._moment())
        if self._open:
            above = self._open[-1].rules[-1]
            above.chain = block
            block.by_goto = isinstance(above.step.statement, Goto)
        elif self._hook is not None:
            self._hook.items.append(block)
        self._open.append(block)

    def _leave(self, chain: str) -> None:
        self._flush()
        while self._open:
            left = self._open.pop()
            left.moment = self._moment()
            if left.name == chain:
                left.at_end = True
                if left.by_goto and self._open:
                    chain = self._open[-1].name  # who went there does not come back
                    self._open[-1].at_end = False
                    self._open.pop().moment = self._moment()
                return

    def _matched(self, step: RuleMatched) -> None:
        while self._open and self._open[-1].name != step.at.chain:
            self._open.pop()
        block = RuleBlock(step, self._moment(), self._waiting)
        self._waiting = []
        if self._open:
            self._open[-1].items.append(block)
            if step.statement == RETURN:
                self._open.pop()

    def _changed(self, step: FieldChanged) -> None:
        self._apply(step)
        of_rule = step.field in (FieldName.MARK, FieldName.CONNECTION_MARK, FieldName.TTL)
        if of_rule and self._open and self._open[-1].rules:
            self._open[-1].rules[-1].notes.append(step)
            return
        self._close()
        (self._hook.items if self._hook else self.items).append(step)

    def _apply(self, step: FieldChanged) -> None:
        packet = self._packet
        match step.field:
            case FieldName.MARK:
                packet.mark = int(step.after, 16)
            case FieldName.CONNECTION_MARK:
                assert self._entry is not None
                self._entry = self._entry._replace(mark=int(step.after, 16))
            case FieldName.TTL:
                packet.ttl = int(step.after)
            case FieldName.SOURCE:
                packet.saddr, packet.sport = _end(step.after, packet.sport)
            case FieldName.DESTINATION:
                packet.daddr, packet.dport = _end(step.after, packet.dport)

    def _tracked(self, step: ConntrackChanged) -> None:
        self._ct_states = _states(step, self._ct_states)
        self._entry = step.entry
        if step.entry is not None and step.tracking in (Tracking.NEW, Tracking.KNOWN, Tracking.RELATED):
            about = self._packet.related
            own = tuple_of(about).inverse() if about is not None else tuple_of(self._packet)
            self._direction = Direction.ORIGINAL if own == step.entry.original else Direction.REPLY
        if step.tracking is Tracking.UNTRACKED and self._open and self._open[-1].rules:
            self._open[-1].rules[-1].notes.append(step)  # NOTRACK: the chain goes on
            return
        self._close()
        (self._hook.items if self._hook else self.items).append(step)


def _end(text: str, port: int) -> tuple[int, int]:
    """Address and port of a changed end; where it shows no port there is none to change."""
    address = parse_ip(text)
    if address is None:
        host, port = split_host_port(text)
        address = parse_ip(host)
    assert address is not None
    return address[1], port


def _states(step: ConntrackChanged, before: frozenset[str]) -> frozenset[str]:
    """The packet's conntrack states after a step (CT-3.3)."""
    entry = step.entry
    match step.tracking:
        case Tracking.INVALID:
            state = "INVALID"
        case Tracking.UNTRACKED:
            state = "UNTRACKED"
        case Tracking.RELATED:
            state = "RELATED"
        case Tracking.NEW:
            state = "NEW"
        case Tracking.KNOWN:
            state = "ESTABLISHED" if entry is not None and entry.seen_reply else "NEW"
        case Tracking.BOUND | Tracking.CONFIRMED | Tracking.DESTROYED:
            state = next(iter(before - {"SNAT", "DNAT"}), "INVALID")
    found = {state}
    if entry is not None:
        found |= {"SNAT"} if entry.src_nat else set()
        found |= {"DNAT"} if entry.dst_nat else set()
    return frozenset(found)


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
