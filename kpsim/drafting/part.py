"""What a draft is made of: fields in order, each with the comments that go with it, and what was taken, guessed and left out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

TODO = "TODO"
_LISTED = 6


class Part(dict[str, Any]):
    """An object of the draft. It is plain JSON; comments stand above a field, or beside its value.

    ``flow`` writes it on one line.
    """

    def __init__(self, fields: dict[str, Any] | None = None, *, flow: bool = False) -> None:
        super().__init__(fields or {})
        self.above: dict[str, str] = {}
        self.beside: dict[str, str] = {}
        self.head = ""  #: a comment above the whole, if it is an item of a list
        self.flow = flow

    def put(self, name: str, value: Any, *, above: str = "", beside: str = "") -> None:
        """Set a field, with its comments."""
        self[name] = value
        if above:
            self.above[name] = above
        if beside:
            self.beside[name] = beside


@dataclass(slots=True)
class Ledger:
    """In words, what of a cluster the draft took, what it guessed, and what it left out. Each kind of guess has one line."""

    took: list[str] = field(default_factory=list)
    _guessed: dict[str, list[str]] = field(default_factory=dict)
    _left_out: dict[str, list[str]] = field(default_factory=dict)

    def guess(self, words: str, *subjects: str) -> None:
        """Note a guess. The subjects of equal guesses are listed together."""
        self._guessed.setdefault(words, []).extend(subjects)

    def leave_out(self, words: str, *subjects: str) -> None:
        """Note what the draft does not have."""
        self._left_out.setdefault(words, []).extend(subjects)

    @property
    def guessed(self) -> tuple[str, ...]:
        return tuple(_line(words, subjects) for words, subjects in self._guessed.items())

    @property
    def left_out(self) -> tuple[str, ...]:
        return tuple(_line(words, subjects) for words, subjects in self._left_out.items())


def _line(words: str, subjects: list[str]) -> str:
    named = list(dict.fromkeys(subjects))
    return f"{words}: {listed(named)}" if named else words


def listed(names: Iterable[str]) -> str:
    """Return ``a, b, c``. Of many only the first, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - _LISTED:,} more" if len(every) > _LISTED else ""
    return ", ".join(every[:_LISTED]) + more
