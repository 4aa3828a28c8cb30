"""The token bucket of ``-m limit``.

Counterpart: nft_limit, into which iptables-nft translates the match (measured): credit is time, a packet costs what one token
needs to flow in, the bucket begins full. Reads and returns buckets; where they are kept is the namespace's.
"""

from typing import NamedTuple

from kpsim.ruleset import Limit
from kpsim.units import SECOND_NS

_UNIT_NS = {"sec": SECOND_NS, "min": 60 * SECOND_NS, "hour": 3600 * SECOND_NS, "day": 86400 * SECOND_NS}


class Bucket(NamedTuple):
    """What a rule has left, and when that was so."""

    credit_ns: int
    at_ns: int


def spend(limit: Limit, bucket: Bucket | None, now_ns: int) -> tuple[bool, Bucket]:
    """Whether a packet still fits, and the bucket behind it. None: no packet has met the rule yet."""
    cost_ns = _UNIT_NS[limit.unit] // limit.count
    full_ns = cost_ns * limit.burst
    credit_ns = full_ns if bucket is None else min(full_ns, bucket.credit_ns + max(0, now_ns - bucket.at_ns))
    fits = credit_ns >= cost_ns
    left_ns = credit_ns - cost_ns if fits else credit_ns
    return fits, Bucket(left_ns, now_ns if bucket is None else max(now_ns, bucket.at_ns))
