"""Copies of what a walk may change, and keys that tell such values apart."""

from collections.abc import Hashable
from typing import Any

from kpsim.packet import Packet
from kpsim.packetpath.memory.recent import RecentList
from kpsim.ruleset import RuleReference


def frozen(value: Any) -> Hashable:
    """What tells a value from others, as the key of a dictionary."""
    match value:
        case Packet():
            return tuple([frozen(getattr(value, name)) for name in Packet.__slots__])
        case RuleReference():
            return value.table, value.chain, value.number  # a rule's own hash is that of all its parts
        case list():
            return tuple(map(frozen, value))
        case dict():
            return tuple(value.items())
        case _:
            return value  # type: ignore[no-any-return]


def copied(value: Any) -> Any:
    """A copy that later changes of the value do not change."""
    match value:
        case Packet():
            return value.copy()
        case list():
            return list(value)
        case dict():
            return {
                key: entries.copy() if isinstance(entries, RecentList) else entries for key, entries in value.items()
            }
        case _:
            return value
