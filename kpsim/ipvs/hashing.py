"""The hashes by which ``sh``, ``dh`` and ``mh`` place clients and servers (IPVS-14).

Counterpart: hash_32 and, for ``mh``, hsiphash of a 64-bit kernel, which is SipHash-1-3 cut to 32 bits.
"""

from functools import lru_cache

from kpsim.addresses import Family

BUCKET_BITS = 8
BUCKETS = 1 << BUCKET_BITS  #: of ``sh`` and ``dh``
SLOTS = 4093  #: of ``mh``'s table

_GOLDEN_RATIO = 0x61C88647
_WORD, _DOUBLE = (1 << 32) - 1, (1 << 64) - 1
#: both words of the two keys that mh hashes with
PLACE_KEY, STEP_KEY = 2654435761, 2654446892


def folded(family: Family, address: int) -> int:
    """An address in 32 bits: that of IPv4 as it is, the four words of IPv6 combined by exclusive or."""
    if family is Family.IPV4:
        return address
    return (address >> 96 ^ address >> 64 ^ address >> 32 ^ address) & _WORD


def bucket(value: int, offset: int = 0) -> int:
    """The bucket of a folded address, or of the sum of that and a port. ``offset`` moves it around the table."""
    return (offset + ((value * _GOLDEN_RATIO & _WORD) >> 32 - BUCKET_BITS)) % BUCKETS


@lru_cache(maxsize=1 << 14)
def mixed(value: int, key: int) -> int:
    """SipHash-1-3 of 32 bits under a key whose two words are equal, cut to 32 bits."""
    a, b, c, d = (
        start ^ key for start in (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
    )
    block = 4 << 56 | value & _WORD
    a, b, c, d = _round(a, b, c, d ^ block)
    a, c = a ^ block, c ^ 0xFF
    for _ in range(3):
        a, b, c, d = _round(a, b, c, d)
    return (a ^ b ^ c ^ d) & _WORD


def _round(a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
    a, c = a + b & _DOUBLE, c + d & _DOUBLE
    b, d = _rotated(b, 13) ^ a, _rotated(d, 16) ^ c
    a = _rotated(a, 32)
    c, a = c + b & _DOUBLE, a + d & _DOUBLE
    b, d = _rotated(b, 17) ^ c, _rotated(d, 21) ^ a
    return a, b, _rotated(c, 32), d


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _DOUBLE
