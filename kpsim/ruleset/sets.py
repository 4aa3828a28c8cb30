"""Sets: a rule looks up a packet's fields in a set. An element of a set is a key with one atom for each field."""

from dataclasses import dataclass

Atom = int | str  #: addresses, ports, types and marks are integers, the rest are names
Key = tuple[Atom, ...]


@dataclass(frozen=True, slots=True)
class Set:
    """The elements of a set that is written in a rule."""

    elements: frozenset[Key]

    def __contains__(self, key: Key) -> bool:
        return key in self.elements
