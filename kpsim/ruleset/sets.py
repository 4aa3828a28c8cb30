"""Sets: values that a rule looks a packet's fields up in. An element is a key of one atom a field."""

from dataclasses import dataclass

Atom = int | str  #: addresses, ports, types and marks are integers, the rest are names
Key = tuple[Atom, ...]


@dataclass(frozen=True, slots=True)
class Set:
    """The elements of a set that is written in a rule."""

    elements: frozenset[Key]

    def __contains__(self, key: Key) -> bool:
        return key in self.elements
