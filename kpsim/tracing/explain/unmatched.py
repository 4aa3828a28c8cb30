"""Why the rules of a chain did not match, in words.

iptables' TRACE shows only the rules that matched. Here ``packetpath.mismatch`` finds the part of a rule that was false,
and the rule's dialect puts it in words.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from kpsim.dialects import Reason, dialect_of
from kpsim.packetpath.mismatch import Sets, mismatch
from kpsim.packetpath.routing import Routing
from kpsim.packetpath.steps import Moment
from kpsim.ruleset import Chain, Rule, Table


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A rule that was tried and did not match. ``reason`` None: the reason is not known."""

    number: int
    rule: Rule
    reason: Reason | None

    @property
    def elsewhere(self) -> bool:
        """Whether the rule is for another destination, protocol or port."""
        return self.reason is not None and self.reason.elsewhere


@dataclass(frozen=True, slots=True)
class Skipped:
    """Consecutive rules for other destinations, protocols or ports, too many to list one by one."""

    first: int
    last: int


_MANY = 3


def unmatched(
    table: Table,
    chain: Chain,
    first: int,
    last: int,
    moment: Moment,
    routing: Routing,
    ipsets: Sets,
    besides: Iterable[int] = (),
) -> Iterator[Unmatched | Skipped]:
    """The rules of a table's chain from number ``first`` to ``last`` with the reasons why they did not match.

    Numbers in ``besides`` are left out. Three or more consecutive rules for other destinations become one
    :class:`Skipped`.
    """
    left_out = set(besides)
    found = [
        _unmatched(table, number, chain.rules[number - 1], moment, routing, ipsets)
        for number in range(first, last + 1)
        if number not in left_out
    ]
    for elsewhere, group in groupby(found, key=lambda rule: rule.elsewhere):
        rules = list(group)
        if elsewhere and len(rules) >= _MANY:
            yield Skipped(rules[0].number, rules[-1].number)
        else:
            yield from rules


def _unmatched(table: Table, number: int, rule: Rule, moment: Moment, routing: Routing, ipsets: Sets) -> Unmatched:
    dialect, family = dialect_of(table.key, rule), moment.packet.family
    part = mismatch(dialect.tried(rule, family), moment, routing, table.sets, ipsets)
    return Unmatched(number, rule, None if part is None else dialect.reason(rule, part, family))
