"""What limits and quotas have left for a packet: those of rules, those of a table, and those of a set's elements.

Counterpart: nft_limit and nft_quota, alone and as expressions of an element. A walk keeps what it spends; the memory of the
node is read only.
"""

from collections.abc import Hashable
from typing import Protocol

from kpsim.addresses import Family
from kpsim.packet import Packet
from kpsim.packetpath.facts import NodeFacts
from kpsim.packetpath.memory import Bucket
from kpsim.packetpath.memory.limit import spend
from kpsim.ruleset import Limit, Quota, TableKey


class Spending(Protocol):
    """What a walk knows of what it and earlier packets spent."""

    node: NodeFacts
    family: Family
    table: TableKey | None
    packet: Packet
    now_ns: int
    buckets: dict[Hashable, Bucket]
    numbers: dict[Hashable, int]

    def holds(self, words: str) -> bool: ...


def limit(walk: Spending, match: Limit, key: Hashable) -> bool:
    """Whether the bucket has enough left for this packet; of a limit that says ``over``: whether it has not."""
    key = (walk.family, walk.table, match.name or key)
    if key in walk.node.memory.unsure:
        return walk.holds(f"-m limit --limit {match.count}/{match.unit}, which an earlier packet may have used up")
    return _spent(walk, match, key, walk.buckets.get(key) or walk.node.memory.buckets.get(key))


def quota(walk: Spending, match: Quota, key: Hashable, *, anew: bool = False) -> bool:
    """Whether the packets that met a quota so far, this one included, fit into it. ``anew``: this is the first."""
    key = (walk.family, walk.table, "quota", match.name or key)
    if key in walk.node.memory.unsure:
        return walk.holds(f"a quota of {match.size} bytes, which an earlier packet may have used up")
    used = match.used if anew else walk.numbers.get(key, walk.node.memory.numbers.get(key, match.used))
    walk.numbers[key] = used = used + walk.packet.length
    return (used > match.size) == match.over


def of_element(walk: Spending, match: Limit | Quota, key: Hashable, *, anew: bool) -> bool:
    """Whether a limit that an element of a set has for itself holds. A new element begins ``anew`` (K-24.7)."""
    if isinstance(match, Quota):
        return quota(walk, match, key, anew=anew)
    if key in walk.node.memory.unsure:
        return walk.holds(f"an element's limit of {match.count}/{match.unit}, which an earlier packet may have used up")
    known = walk.buckets.get(key) or walk.node.memory.buckets.get(key)
    return _spent(walk, match, key, None if anew else known)


def _spent(walk: Spending, match: Limit, key: Hashable, bucket: Bucket | None) -> bool:
    fits, walk.buckets[key] = spend(match, bucket, walk.now_ns, walk.packet.length)
    return fits != match.over
