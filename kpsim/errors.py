"""Errors that a person can act on, each with the exit code that scripts rely on.

Exit codes: 0 holds; 1 an expectation or check failed; 2 bad input or usage; 3 internal error.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import ClassVar


def printable(text: str, keep: str = "") -> str:
    """Escape every character that a terminal cannot show or would obey, but for those to ``keep``.

    Characters that JSON itself escapes become ``\\n`` or ``\\x1b``. All others become what JSON may say for them, such as
    ``\\u202e``, so that a printed JSON text means what it meant.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def preformatted(text: str) -> str:
    """Return text as HTML in a monospaced font, its lines as they are: notebooks wrap ``pre`` and give it their own font."""
    return f'<pre style="font-family:monospace;white-space:pre;overflow-x:auto;line-height:1.3">{escape(text)}</pre>'


def _escaped(character: str) -> str:
    if character < " ":
        return character.encode("unicode_escape").decode()
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


class KpsimError(Exception):
    """Base of every error that kpsim raises on purpose."""

    exit_code: ClassVar[int] = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the input, and where: file, document number (from 1), line (from 1), JSON path.

    As text it is one line that shows control characters escaped.
    """

    message: str
    file: str | None = None
    document: int | None = None
    line: int | None = None
    path: str | None = None

    def __str__(self) -> str:
        place = self.file or ""
        if self.line is not None:
            place += f":{self.line}"
        if self.document is not None and self.document > 1:
            place += f" (document {self.document})"
        parts = [part for part in (place, self.path, self.message) if part]
        return printable(": ".join(parts))


class InputError(KpsimError):
    """Bad input. It holds *all* problems that were found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem] | Problem | str) -> None:
        if isinstance(problems, str):
            problems = [Problem(problems)]
        elif isinstance(problems, Problem):
            problems = [problems]
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class UnsupportedRule(InputError):
    """A match or target that is not modelled. It is refused by name and place, never guessed."""

    def __init__(
        self,
        what: str,
        table: str,
        chain: str,
        number: int,
        line: int | None = None,
        file: str | None = None,
        others: Iterable[Problem] = (),
    ) -> None:
        self.what, self.table, self.chain, self.number = what, table, chain, number
        place = Problem(f"not modelled: {what} ({table}/{chain} rule {number})", file=file, line=line)
        super().__init__([place, *others])
