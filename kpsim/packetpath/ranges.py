"""Which address of a range a translation takes: a hash of the flow's addresses, the same on every machine (K-24.3).

Counterpart: find_best_ips_proto. The kernel's hash has no secret, so that servers see a client at one address.
"""

from kpsim.conntrack import FlowTuple
from kpsim.packetpath.hashing import lookup3

_WORD_BITS, _ADDRESS_BYTES = 32, 16
_WORD = (1 << _WORD_BITS) - 1


def chosen(first: int, last: int, forward: FlowTuple, *, persistent: bool) -> int:
    """The address between ``first`` and ``last`` for a flow whose first packet goes as ``forward``.

    A ``persistent`` translation looks at the source alone. Of a range of IPv6 the kernel takes 32 bits after the other:
    from the first of them that is below the end of the range on, any number.
    """
    if first == last:
        return first
    size = forward.family.bits // 8
    lows, highs, destination = (_words(each, size) for each in (first, last, forward.daddr))
    swapped = [int.from_bytes(word.to_bytes(4), "little") for word in destination]
    number = lookup3(forward.saddr.to_bytes(size).ljust(_ADDRESS_BYTES, b"\0"), 0 if persistent else swapped[-1])
    address, free = 0, False
    for low, high, other in zip(lows, highs, swapped, strict=True):
        least, count = (0, _WORD) if free else (low, high - low + 1)
        word = (least + (number * (count & _WORD) >> _WORD_BITS)) & _WORD
        address = address << _WORD_BITS | word
        free = free or word != high
        if not persistent:
            number ^= other
    return address


def _words(address: int, size: int) -> list[int]:
    data = address.to_bytes(size)
    return [int.from_bytes(data[at : at + 4]) for at in range(0, size, 4)]
