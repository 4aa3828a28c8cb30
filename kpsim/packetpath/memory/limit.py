"""The token bucket of ``-m limit``.

Counterpart: nft_limit, into which iptables-nft translates the match (K-12.1). Credit is time; a packet costs the time
in which one token flows in; the bucket begins full. :class:`~kpsim.packetpath.memory.Memory` keeps the buckets.
"""

from typing import NamedTuple

from kpsim.ruleset import Limit
from kpsim.units import SECOND_NS

_UNIT_NS = {
    "sec": SECOND_NS,
    "min": 60 * SECOND_NS,
    "hour": 3600 * SECOND_NS,
    "day": 86400 * SECOND_NS,
    "week": 604_800 * SECOND_NS,
}


class Bucket(NamedTuple):
    """The credit that a rule has left, and the time at which it had that credit."""

    credit_ns: int
    at_ns: int


def spend(limit: Limit, bucket: Bucket | None, now_ns: int, size: int = 0) -> tuple[bool, Bucket]:
    """Whether there is credit for a packet of ``size`` bytes, and the bucket after it.

    ``bucket`` None: the rule has met no packet yet.
    """
    unit_ns = _UNIT_NS[limit.unit]
    if limit.bytes:
        cost_ns, full_ns = unit_ns * size // limit.count, unit_ns * (limit.count + limit.burst) // limit.count
    else:
        cost_ns = unit_ns // limit.count
        full_ns = cost_ns * limit.burst
    credit_ns = full_ns if bucket is None else min(full_ns, bucket.credit_ns + max(0, now_ns - bucket.at_ns))
    fits = credit_ns >= cost_ns
    left_ns = credit_ns - cost_ns if fits else credit_ns
    return fits, Bucket(left_ns, now_ns if bucket is None else max(now_ns, bucket.at_ns))
