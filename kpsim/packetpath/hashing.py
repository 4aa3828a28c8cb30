"""nft's ``jhash``: Bob Jenkins' lookup3 over the fields of a key, scaled to a modulus (K-9.9), on a little-endian machine.

Addresses and ports have network order and marks the machine's. In a key of several fields, each fills whole words of 32
bits.
"""

from kpsim.addresses import Family
from kpsim.packetpath.elements import Atoms
from kpsim.packetpath.worlds import UnknownEnd
from kpsim.protocols import PROTOCOL_NUMBERS
from kpsim.ruleset import Field, FieldType, Hashed

_WORD = (1 << 32) - 1
_START = 0xDEADBEEF
#: of lookup3: the word that changes, the word that it takes, the word that is turned, by how many bits
_MIX = ((0, 2, 4), (1, 0, 6), (2, 1, 8), (0, 2, 16), (1, 0, 19), (2, 1, 4))
_LAST = ((2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24))


def hashed(source: Hashed, values: Atoms, family: Family) -> int:
    """The number in [0, modulus) that the kernel makes of these values of the fields. The source must have a seed.

    UnknownEnd if the bytes of a field are not modelled.
    """
    assert source.seed is not None
    parts = [_bytes(field, value, family) for field, value in zip(source.key, values, strict=True)]
    data = parts[0] if len(parts) == 1 else b"".join(part + bytes(-len(part) % 4) for part in parts)
    return lookup3(data, source.seed) * source.modulus >> 32


def _bytes(field: Field, value: object, family: Family) -> bytes:
    match field.type, value:
        case FieldType.ADDRESS, int(address):
            return address.to_bytes(family.bits // 8, "big")
        case FieldType.PORT, int(port):
            return port.to_bytes(2, "big")
        case FieldType.MARK, int(mark):
            return mark.to_bytes(4, "little")
        case _:
            pass
    if field is Field.L4PROTO:
        return bytes([PROTOCOL_NUMBERS[str(value)]])
    raise UnknownEnd(f"jhash of the {field.value}")


def lookup3(data: bytes, seed: int) -> int:
    """Jenkins' lookup3 of some bytes, read as little-endian words: 32 bits."""
    words = [(_START + len(data) + seed) & _WORD] * 3
    at = 0
    while len(data) - at > 12:
        _add(words, data[at : at + 12])
        for changed, turned, bits in _MIX:
            other = (changed + 1) % 3
            words[changed] = (words[changed] - words[turned]) & _WORD ^ _turned(words[turned], bits)
            words[turned] = (words[turned] + words[other]) & _WORD
        at += 12
    if at < len(data):
        _add(words, data[at:].ljust(12, b"\0"))
        for changed, turned, bits in _LAST:
            words[changed] = ((words[changed] ^ words[turned]) - _turned(words[turned], bits)) & _WORD
    return words[2]


def _add(words: list[int], block: bytes) -> None:
    for number in range(3):
        words[number] = (words[number] + int.from_bytes(block[4 * number : 4 * number + 4], "little")) & _WORD


def _turned(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & _WORD
