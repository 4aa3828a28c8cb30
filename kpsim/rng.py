"""All randomness of kpsim: draws that are a pure function of (seed, key).

A draw does not depend on the draws before it. So adding a Service or a node does not change any other draw, and two
policies can be compared on common random numbers. This is the only module that may create random numbers.
"""

from collections.abc import Hashable
from hashlib import blake2b

CHANCE_RANGE = 1 << 31  #: the kernel compares a probability with 31 random bits (K-5)


def _encode(key: Hashable) -> bytes:
    return repr(key).encode()


def draw64(seed: int, *key: Hashable) -> int:
    """64 uniform bits for ``key`` (strings, integers, tuples of them), equal on every machine and in every process."""
    return int.from_bytes(blake2b(_encode(key), digest_size=8, key=seed.to_bytes(16, signed=True)).digest())


class Draws:
    """The draws of one seed whose keys have the same ``first`` part.

    ``draw64(key)`` equals ``draw64(seed, first, key)``.

    It is faster, because the first part is hashed only once.
    """

    __slots__ = ("_begun",)

    def __init__(self, seed: int, first: Hashable) -> None:
        self._begun = blake2b(f"({first!r}, ".encode(), digest_size=8, key=seed.to_bytes(16, signed=True))

    def draw64(self, key: Hashable) -> int:
        hashed = self._begun.copy()
        hashed.update(f"{key!r})".encode())
        return int.from_bytes(hashed.digest())


def uniform(seed: int, *key: Hashable) -> float:
    """A float in [0, 1)."""
    return (draw64(seed, *key) >> 11) * 2.0**-53


def below(limit: int, seed: int, *key: Hashable) -> int:
    """An integer in [0, limit)."""
    return draw64(seed, *key) * limit >> 64
