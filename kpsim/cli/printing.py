"""The one place where text leaves the program: what comes from input can neither steer a terminal nor hide its order.

Everything that a command prints passes a :class:`Printed` stream. It escapes control characters, direction overrides
and whatever else has no shape of its own, as JSON does (``\\x1b`` for the oldest of them), so printed JSON keeps its
meaning. A reader that is gone, as after ``| head``, ends the command, or silences it if files are still to be written.
"""

import io
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import IO, TYPE_CHECKING, TextIO

from kpsim.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

#: columns of help and of rich tables that go to no terminal
WIDTH = 160


class ReaderGone(Exception):
    """Nobody reads what is printed any longer."""


class Printed(io.TextIOBase):
    """A text stream over another that escapes what is written. ``raw`` writes without that."""

    def __init__(self, under: TextIO) -> None:
        self._under = under
        self.gone = False  #: the reader is
        self.silent = False  #: go on without a reader

    @property
    def encoding(self) -> str:  # type: ignore[override]  # io declares a variable
        return self._under.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._under.errors

    def isatty(self) -> bool:
        return self._under.isatty()

    def fileno(self) -> int:
        return self._under.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.raw(printable(text, keep="\n\t"))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        for line in lines:
            self.write(line)

    def raw(self, text: str) -> None:
        if not self.gone:
            try:
                self._under.write(text)
            except BrokenPipeError:
                self._reader_is_gone()

    def flush(self) -> None:
        if not self.gone:
            try:
                self._under.flush()
            except BrokenPipeError:
                self._reader_is_gone()

    def _reader_is_gone(self) -> None:
        self.gone = True
        with suppress(OSError, ValueError):  # what is still buffered goes nowhere, or closing the stream would complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._under.fileno())
        if not self.silent:
            raise ReaderGone


class _Raw(io.TextIOBase):
    """What rich writes to: it escapes its own content, and its colours must reach the terminal."""

    def __init__(self, printed: Printed) -> None:
        self._printed = printed

    def write(self, text: str) -> int:
        self._printed.raw(text)
        return len(text)

    def flush(self) -> None:
        self._printed.flush()

    def isatty(self) -> bool:
        return self._printed.isatty()

    def fileno(self) -> int:
        return self._printed.fileno()


def guarded(stream: TextIO | None, *, quiet: bool = False) -> TextIO | None:
    """Return the stream with a guard. ``quiet``: a reader that is gone is no reason to stop."""
    if stream is None:
        return None  # the process was started without it
    if isinstance(stream, io.TextIOWrapper):
        # bytes in a pipe or a file do not depend on the machine's language; a terminal knows its own
        stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    printed = Printed(stream)
    printed.silent = quiet
    return printed  # type: ignore[return-value]  # a TextIOBase is one


def go_on_without_reader() -> None:
    """Called by a command that still has to write files: it goes on if nobody reads what it prints."""
    if isinstance(sys.stdout, Printed):
        sys.stdout.silent = True


def note(text: str) -> None:
    """Print a remark on stderr, on one line."""
    print(f"note: {printable(text)}", file=sys.stderr, flush=True)


def plain_console(width: int | None = None) -> "Console":
    """Return a console for output that goes to no terminal: the same width and no colours on every machine."""
    from rich.console import Console

    file: IO[str] = sys.stdout
    return Console(
        file=file, highlight=False, width=width or WIDTH, color_system=None, force_terminal=False, force_jupyter=False
    )


def console(*, stderr: bool = False) -> "Console | None":
    """Return a console for tables, bars and colours; None if the stream is no terminal, whatever the environment says."""
    stream = sys.stderr if stderr else sys.stdout
    if stream is None or not stream.isatty():
        return None
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Escaping(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text, keep="\n"), style, control)

    file: IO[str] = _Raw(stream) if isinstance(stream, Printed) else stream  # type: ignore[assignment]
    return Escaping(file=file, highlight=False)
