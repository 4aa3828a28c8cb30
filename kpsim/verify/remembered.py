"""What the model's affinity lists hold, under the names that the lab's tools give to those of Linux.

Counterpart: ``/proc/net/xt_recent`` and ``nft list set``.
"""

from collections.abc import Iterator

from kpsim.addresses import Family, format_ip
from kpsim.lab.tools import Remembered, set_list
from kpsim.netfilter import Netns, Walk
from kpsim.packetpath.memory.dynamic_sets import DELETED, Member, SetId
from kpsim.ruleset import Key, Ruleset, Set, SetFlags
from kpsim.units import SECOND_NS


def list_name(at: SetId) -> str:
    """What a set is called among affinity lists."""
    return at.name if at.table is None else set_list(at.table.name, at.name)


def dynamic_sets(rules: Ruleset) -> Iterator[tuple[SetId, Set]]:
    """The sets of these rules that packets change."""
    for table in rules.in_order():
        for name in sorted(table.sets):
            if SetFlags.DYNAMIC in table.sets[name].flags:
                yield SetId(table.key, name), table.sets[name]


def members_of(netns: Netns, family: Family, name: str, now_ns: int) -> Remembered:
    """The members of a list, with the seconds that they have left."""
    for at, declared in dynamic_sets(netns.rulesets[family]):
        if list_name(at) == name:
            members = netns.memory.sets.members(at, declared.generation)
            return {_shown(key, family): _left_s(each, now_ns) for key, each in members.items() if each.lives(now_ns)}
    return {format_ip(*source): None for source in netns.memory.recent[name]}


def _left_s(member: Member, now_ns: int) -> float | None:
    return None if member.expires_ns is None else (member.expires_ns - now_ns) / SECOND_NS


def ends_of_members(netns: Netns, family: Family) -> Iterator[int]:
    """The times at which members of sets expire."""
    for at, declared in dynamic_sets(netns.rulesets[family]):
        for member in netns.memory.sets.members(at, declared.generation).values():
            if member.expires_ns is not None:
                yield member.expires_ns


def written_by(way: Walk, family: Family) -> Iterator[tuple[str, str]]:
    """The lists that a way writes, each with the member that it puts there."""
    for touch in way.effects.touched.recent:
        if touch.match.action == "set":
            yield touch.match.name, format_ip(*touch.source)
    for change in way.effects.touched.sets:
        if change.member != DELETED:
            yield list_name(change.at), _shown(change.key, family)


def _shown(key: Key, family: Family) -> str:
    """A key as tools print it. Numbers of drawn sets are addresses."""
    return " . ".join(format_ip(family, part) if isinstance(part, int) else str(part) for part in key)
