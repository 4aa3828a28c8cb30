"""Running a chain: rules in order, jumps and returns, and what each statement does to the packet.

Counterpart: ipt_do_table and nft_do_chain. This module sees one table at a time. ``netfilter`` decides which tables
there are and when their chains run.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, assert_never

from kpsim.errors import InputError, Problem
from kpsim.packetpath import branching, nat
from kpsim.packetpath.chooser import ScriptedChooser, TooManyWays
from kpsim.packetpath.index import CompiledRule
from kpsim.packetpath.reject import answer_name, error_of_drop, error_of_reject
from kpsim.packetpath.steps import ChainEntered, ChainLeft, MayMatch, RuleMatched, Tracking
from kpsim.packetpath.traversal import Cause, Disposition, End, Snapshot, Traversal
from kpsim.packetpath.worlds import UnknownEnd
from kpsim.ruleset import (
    ALL_BITS,
    FOREIGN,
    Adjust,
    Assign,
    AssignFrom,
    Chain,
    Dispatch,
    Dnat,
    ElementReference,
    Field,
    Goto,
    Hook,
    Jump,
    Log,
    MapNetwork,
    Masquerade,
    NoTrack,
    Redirect,
    Reject,
    RuleReference,
    SetTimeToLive,
    SetTrafficClass,
    Snat,
    Statement,
    Table,
    Terminal,
    Unmodelled,
    UpdateSet,
    Verdict,
)

#: how a chain ended: None: the packet reached its end or returned; ACCEPT: go on to the next hook entry; an End is
#: final
ChainEnd = Verdict | End | None

#: chains that a packet may enter before the walk begins to remember what they did: kube-proxy's rules need a dozen
_FEW = 1000
_MOST_CHAINS = 100_000
_DEEPEST = 128  # the kernel refuses loops when rules are loaded; this only keeps a bad ruleset from hanging


def run_base_chain(traversal: Traversal, table: Table, chain: Chain) -> End | None:
    """Runs a base chain and applies its policy. Returns None if the packet goes on."""
    traversal.table, traversal.sets, traversal.led_by = table.key, table.sets, None
    result = run_chain(traversal, table, chain, 0)
    if isinstance(result, End):
        return result
    if result is None and chain.policy is Verdict.DROP:
        at = RuleReference(table.key, chain.name, len(chain.rules) + 1, None)
        return _drop(traversal, Cause.POLICY, at)
    return None


def run_chain(traversal: Traversal, table: Table, chain: Chain, depth: int) -> ChainEnd:
    """Runs the rules of a chain and of the chains that it jumps to.

    InputError if a chain that it jumps to does not exist, if the jumps form a loop, or if there is no end of them.
    """
    if isinstance(traversal.chooser, ScriptedChooser) and traversal.chooser.ways is not None:
        return branching.run(traversal, table, chain, partial(_run, depth=depth), partial(run_rules, depth=depth))
    return _run(traversal, table, chain, depth)


def _run(traversal: Traversal, table: Table, chain: Chain, depth: int) -> ChainEnd:
    traversal.entered += 1
    if traversal.entered > _FEW:
        return _run_once(traversal, table, chain, depth)
    return _run_again(traversal, table, chain, depth)


def _run_again(traversal: Traversal, table: Table, chain: Chain, depth: int) -> ChainEnd:
    ready = traversal.node.ready(chain)
    if traversal.steps is not None:
        traversal.steps.append(ChainEntered(table.key, chain.name))
    rules = ready.candidates(traversal.packet) if traversal.indexed else ready.rules
    left, result = run_rules(traversal, table, chain, rules, depth)
    if not left and traversal.steps is not None:
        traversal.steps.append(ChainLeft(table.key, chain.name, traversal.moment()))
    return result


def _run_once(traversal: Traversal, table: Table, chain: Chain, depth: int) -> ChainEnd:
    """Runs a chain in a walk that has entered very many.

    A chain that the packet entered in the same state before, and that drew nothing, does what it did then. Its steps
    are not told again. TooManyWays if even so there is no end of chains.
    """
    if traversal.entered > _MOST_CHAINS:
        raise TooManyWays(
            f"a packet enters more than {_MOST_CHAINS:,} chains, {table.name}/{chain.name} and those that jump there"
        )
    if len(traversal.counters) + len(traversal.touches) > _FEW:
        return _run_again(traversal, table, chain, depth)  # states that only grow never come again
    key = (table.key, chain.name, depth, traversal.state())
    known = traversal.seen.get(key)
    since, drawn = len(traversal.steps or ()), traversal.drawn
    if known is None:
        result = _run_again(traversal, table, chain, depth)
        if traversal.drawn == drawn:
            traversal.seen[key] = Passed(result, traversal.snapshot(since)._replace(steps=()))
        return result
    assert isinstance(known, Passed)
    traversal.restore(known.after, since)
    if traversal.steps is not None:
        traversal.steps.append(ChainEntered(table.key, chain.name))
        if known.result is None:
            traversal.steps.append(ChainLeft(table.key, chain.name, traversal.moment()))
    return known.result


class Passed(NamedTuple):
    """What became of a packet in a chain."""

    result: ChainEnd
    after: Snapshot


def run_rules(
    traversal: Traversal, table: Table, chain: Chain, rules: Sequence[CompiledRule], depth: int
) -> tuple[bool, ChainEnd]:
    """Runs some rules of a chain in order. Returns whether the chain is left, and how it ended."""
    for rule in rules:
        traversal.trying = rule.rule
        for holds in rule.first:
            if not holds(traversal):
                break
        else:
            statement, element = rule.statement, None
            if rule.resolve is not None:
                if (found := rule.resolve(traversal)) is None:
                    continue
                statement, element = found
            if traversal.steps is not None and not rule.perhaps:
                traversal.steps.append(
                    RuleMatched(_reference(table, chain, rule, element), statement, traversal.moment())
                )
            if rule.perhaps:
                _assign_perhaps(traversal, table, chain, rule)
            elif statement is not None:
                left, result = _act(traversal, table, chain, rule, statement, element, depth)
                if not left and rule.then and not isinstance(statement, Jump):
                    left, result = _rest(traversal, table, chain, rule, depth)
                if left:
                    return True, result
    return False, None


def _rest(traversal: Traversal, table: Table, chain: Chain, rule: CompiledRule, depth: int) -> tuple[bool, ChainEnd]:
    """Runs what follows the first statement of an nft rule. Returns whether the chain is left, and how it ended."""
    for conditions, statement, resolve in rule.then:
        if not all(holds(traversal) for holds in conditions):
            return False, None
        element = None
        if resolve is not None:
            if (found := resolve(traversal)) is None:
                return False, None
            statement, element = found
        if statement is not None:
            leaves, result = _act(traversal, table, chain, rule, statement, element, depth)
            if leaves or isinstance(statement, Jump):  # a packet comes back to the next rule
                return leaves, result
    return False, None


def _reference(
    table: Table, chain: Chain, rule: CompiledRule, element: ElementReference | None = None
) -> RuleReference:
    return RuleReference(table.key, chain.name, rule.position + 1, rule.rule, element)


def _refusing(
    traversal: Traversal, table: Table, chain: Chain, rule: CompiledRule, element: ElementReference | None
) -> RuleReference:
    """The rule that refuses a packet. If it does so for all Services, the element of one that led here is named too."""
    at = _reference(table, chain, rule, element)
    if element is None and traversal.led_by and rule.rule.origin is not FOREIGN and not rule.rule.origin.service:
        element, asked_by = traversal.led_by
        return at._replace(element=element, asked_by=asked_by)
    return at


def _target(table: Table, chain: Chain, name: str, depth: int) -> Chain:
    target = table.chains.get(name)
    if target is None:
        raise InputError(Problem(f"{table.name}/{chain.name} jumps to {name}, which does not exist"))
    if depth >= _DEEPEST:
        raise InputError(Problem(f"{table.name}/{chain.name}: jumps nest too deeply, probably in a loop"))
    return target


def _act(  # noqa: C901 - one case per kind of statement
    traversal: Traversal,
    table: Table,
    chain: Chain,
    rule: CompiledRule,
    statement: Statement,
    element: ElementReference | None,
    depth: int,
) -> tuple[bool, ChainEnd]:
    """Carries out a statement, which ``element`` of a map may have said. Returns whether the chain is left, and how
    it ended.
    """
    match statement:
        case Terminal(verdict):
            match verdict:
                case Verdict.ACCEPT:
                    return True, Verdict.ACCEPT
                case Verdict.RETURN:
                    return True, None
                case Verdict.CONTINUE:
                    return False, None
                case Verdict.DROP:
                    return True, _drop(traversal, Cause.RULE, _refusing(traversal, table, chain, rule, element))
        case Jump(name) | Goto(name):
            led_by = traversal.led_by
            if element is not None:
                traversal.led_by = element, rule.rule
            result = run_chain(traversal, table, _target(table, chain, name, depth), depth + 1)
            traversal.led_by = led_by
            return isinstance(statement, Goto) or result is not None, result
        case Reject(with_):
            at = _refusing(traversal, table, chain, rule, element)
            name = answer_name(traversal.family, with_)
            error = error_of_reject(traversal.packet, in_output=_in_output(traversal)) if traversal.local else ""
            return True, End(Disposition.REJECTED, Cause.RULE, at, name, error)
        case Dnat() | Redirect():
            end = nat.destination(traversal, statement, _reference(table, chain, rule, element))
            return True, end or Verdict.ACCEPT
        case MapNetwork(base, mask):
            return True, _map_network(traversal, base, mask, _reference(table, chain, rule, element)) or Verdict.ACCEPT
        case Unmodelled(words):
            raise UnknownEnd(words)
        case Snat() | Masquerade():
            end = nat.source(traversal, statement, _reference(table, chain, rule, element))
            return True, end or Verdict.ACCEPT
        case Assign():
            _assign(traversal, statement)
            return False, None
        case SetTimeToLive(action, value):
            ttl = traversal.packet.ttl
            changed = value if action == "set" else ttl + value if action == "inc" else ttl - value
            traversal.rewrite_ttl(max(0, min(255, changed)))
            return False, None
        case SetTrafficClass(keep, flip):
            traversal.rewrite_traffic_class(traversal.packet.traffic_class & keep ^ flip)
            return False, None
        case NoTrack():
            if not traversal.ct_state:
                traversal.set_state("UNTRACKED")
                traversal.tracked(Tracking.UNTRACKED)
            return False, None
        case Log() | Adjust():
            return False, None
        case Dispatch() | UpdateSet() | AssignFrom():
            raise AssertionError("an element of the map says what to do, and a change of a set is a condition")
        case _:
            assert_never(statement)


def _assign(traversal: Traversal, statement: Assign) -> None:
    """Sets a mark.

    If the packet has no connection, a statement that reads or writes the connection mark does nothing.
    """
    if traversal.entry is None and Field.CT_MARK in (statement.to, statement.source):
        return
    mark, unsure = _assigned(traversal, statement)
    if statement.to is Field.MARK:
        traversal.rewrite_mark(mark)
        traversal.unsure_mark = unsure
    else:
        traversal.mark_connection(mark, unsure)


def _assigned(traversal: Traversal, statement: Assign) -> tuple[int, int]:
    """The mark that a statement makes, and its bits of which it is not known whether they are set."""
    entry, packet = traversal.entry, traversal.packet
    of_connection = (entry.mark, entry.unsure_mark) if entry is not None else (0, 0)
    of_packet = packet.mark, traversal.unsure_mark
    before, unsure_before = of_packet if statement.to is Field.MARK else of_connection
    source, unsure_source = of_packet if statement.source is Field.MARK else of_connection
    mark = (before & statement.keep ^ source & statement.take ^ statement.flip) & ALL_BITS
    return mark, unsure_before & statement.keep | unsure_source & statement.take


def _assign_perhaps(traversal: Traversal, table: Table, chain: Chain, rule: CompiledRule) -> None:
    """Marks the bits as not known that a rule may have changed of which it is not known whether it matches."""
    statement = rule.statement
    assert isinstance(statement, Assign)
    if traversal.entry is None and Field.CT_MARK in (statement.to, statement.source):
        return
    mark, unsure = _assigned(traversal, statement)
    traversal.unsure_because = rule.perhaps
    if statement.to is Field.MARK:
        before = traversal.packet.mark
        traversal.unsure_mark |= unsure | (before ^ mark)
        unsure = traversal.unsure_mark
    else:
        entry = traversal.entry
        assert entry is not None
        unsure |= entry.unsure_mark | (entry.mark ^ mark)
        traversal.mark_connection(entry.mark, unsure)
    if traversal.steps is not None:
        traversal.steps.append(MayMatch(_reference(table, chain, rule), rule.perhaps, unsure))


def _map_network(traversal: Traversal, base: int, mask: int, at: RuleReference) -> End | None:
    """NETMAP: another network, the same host."""
    packet, hosts = traversal.packet, (1 << traversal.family.bits) - 1 & ~mask
    if traversal.hook in nat.DESTINATION_HOOKS:
        return nat.destination(traversal, Dnat(base | packet.daddr & hosts), at)
    return nat.source(traversal, Snat(base | packet.saddr & hosts), at)


def _in_output(traversal: Traversal) -> bool:
    return traversal.hook in (Hook.OUTPUT, Hook.POSTROUTING)


def _drop(traversal: Traversal, cause: Cause, at: RuleReference) -> End:
    error = error_of_drop(traversal.packet, in_output=_in_output(traversal)) if traversal.local else ""
    return End(Disposition.DROPPED, cause, at, local_error=error)
