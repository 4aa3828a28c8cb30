"""Token buckets: how often a client may call, as client-go limits it (CP-1.2 D7, CP-3.2).

Counterpart: the token bucket of ``k8s.io/client-go/util/flowcontrol``. Calls are served in the order in which they ask.
"""

from kpsim.units import SECOND_NS


class TokenBucket:
    """A bucket that holds up to ``burst`` tokens, starts full, and gains ``per_second`` tokens a second."""

    def __init__(self, per_second: int, burst: int) -> None:
        self._per_second = per_second
        self._room = burst * SECOND_NS  # a token is SECOND_NS parts, so that every amount is a whole number
        self._missing = 0  #: parts that the bucket lacks; more than its room while calls wait
        self._at_ns = 0

    def take(self, now_ns: int) -> int:
        """Take a token and return how long the caller waits for it, in nanoseconds. Calls must come in time order."""
        gained = (now_ns - self._at_ns) * self._per_second
        self._at_ns = now_ns
        self._missing = max(0, self._missing - gained) + SECOND_NS
        return -(-max(0, self._missing - self._room) // self._per_second)
