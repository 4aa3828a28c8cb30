"""Hostile input for every command: whatever it is, the answer is an answer or a clear error, never exit code 3.

Each kind of input has valid seeds and ways to spoil them. The command runs in this process with its streams captured.
A finding is exit code 3, an exception that gets out, a traceback in the output, output that steers a terminal, or a
command that takes longer than ``seconds``.
"""

import argparse
import contextlib
import io
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import FrameType
from typing import NoReturn

from fuzz.hostile_seeds import Kind, kinds
from fuzz.mutating import damaged, token
from kpsim.verify.clock import Clock
from kpsim.verify.drawing.choices import Choices, SeededChoices, chance, pick

_CLOCK = Clock()
_MEMORY = 6 << 30
_CODES = (0, 1, 2)


class TookTooLong(BaseException):
    """A command ran past its time."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a command did that no input may make it do."""

    kind: str
    number: int
    what: str
    arguments: tuple[str, ...]
    content: bytes

    def __str__(self) -> str:
        return f"{self.kind} {self.number}: {self.what}: {' '.join(map(repr, self.arguments))}"


def drawn(kind: Kind, number: int) -> tuple[list[str], bytes]:
    """The arguments and the content of the file of one input. ``FILE`` stands for the file's path."""
    choices: Choices = SeededChoices(number, "hostile", kind.name)
    content = pick(choices, kind.seeds)
    if content or kind.suffix:
        structure = kind.spoil is not None and chance(choices, 70)
        if structure and kind.spoil is not None:
            content = kind.spoil(choices, content)
        if not structure or chance(choices, 10):
            content = damaged(choices, content)
    arguments = list(pick(choices, kind.commands))
    spoilt = [at for at, each in enumerate(arguments) if at and each != "FILE" and not each.startswith("--")]
    if spoilt and (not kind.suffix or chance(choices, 10)):
        at = pick(choices, spoilt)
        text = (
            damaged(choices, arguments[at].encode()).decode("utf-8", "replace")
            if chance(choices, 60)
            else token(choices)
        )
        arguments[at] = text.replace("\ud800", "\udcff")
    return arguments, content


def run(arguments: Sequence[str], seconds: float) -> tuple[object, str]:
    """The exit code, or the exception that got out, and everything that was printed."""
    from kpsim.cli import main

    out = io.StringIO()

    def late(_number: int, _frame: FrameType | None) -> NoReturn:
        raise TookTooLong

    before, given = signal.signal(signal.SIGALRM, late), sys.argv
    ended: object = None
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        sys.argv = ["kpsim", *arguments]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            main()
    except SystemExit as left:
        ended = left.code
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        ended = error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.argv = given
    return ended, out.getvalue()


def judged(ended: object, said: str) -> str:
    """What is wrong with how a command ended; empty: nothing."""
    if ended not in _CODES or not isinstance(ended, int):
        return f"{type(ended).__name__} {ended}" if isinstance(ended, BaseException) else f"exit {ended}: {said[-300:]}"
    if "Traceback (most recent" in said:
        return "a traceback"
    if ended == 2 and not said.strip():
        return "refused without a word"
    if not said.replace("\n", "").replace("\t", "").isprintable():
        return "control characters"
    return ""


@dataclass
class Hostility:
    """Draws inputs and keeps what was found. Files are made in ``folder``."""

    folder: Path
    seconds: float = 30
    tried: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def attempt(self, kind: Kind, number: int) -> Finding | None:
        arguments, content = drawn(kind, number)
        file = self.folder / f"input{kind.suffix}"
        file.write_bytes(content)
        given = [str(file) if each == "FILE" else each.replace("FILE", str(file)) for each in arguments]
        for name, beside in kind.beside.items():
            (self.folder / name).write_bytes(beside)
            given = [each.replace(f"@{name}", str(self.folder / name)) for each in given]
        ended, said = run(given, self.seconds)
        self.tried[kind.name] += 1
        self.refused[kind.name] += ended == 2
        what = judged(ended, said)
        if not what:
            return None
        found = Finding(kind.name, number, what, tuple(given), content)
        self.findings.append(found)
        return found

    def __str__(self) -> str:
        each = ", ".join(f"{name} {number} ({self.refused[name]} refused)" for name, number in self.tried.items())
        return f"{self.tried.total()} inputs: {each}; {len(self.findings)} findings"


@contextlib.contextmanager
def quiet_place() -> Iterator[Path]:
    """A directory for input, which is the current one, so that nothing is read or written elsewhere."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(here)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 if nothing was found, 1 if something was."""
    parser = argparse.ArgumentParser(description="Hostile input for every command.")
    parser.add_argument("--minutes", type=float, default=2, metavar="N", help="how long (2)")
    parser.add_argument("--seed", type=int, metavar="N", help="the first seed (the clock's)")
    parser.add_argument("--kind", choices=[kind.name for kind in kinds()], action="append", help="only this kind")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the content of each finding here")
    given = parser.parse_args(arguments)
    first = given.seed if given.seed is not None else int(time.time())  # noqa: TID251 - each run is to draw new input
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.RLIM_INFINITY))
    chosen = [kind for kind in kinds() if not given.kind or kind.name in given.kind]
    begun_s = _CLOCK.now_s()
    with quiet_place() as folder:
        hostility = Hostility(folder)
        _attempts(hostility, chosen, first, lambda: _CLOCK.now_s() - begun_s < given.minutes * 60, given.out)
    print(f"from seed {first} on: {hostility}")
    return 1 if hostility.findings else 0


def _attempts(
    hostility: Hostility, chosen: Sequence[Kind], first: int, goes_on: Callable[[], bool], keep: Path | None
) -> None:
    for number in count(first):
        for kind in chosen:
            if not goes_on():
                return
            if found := hostility.attempt(kind, number):
                print(found, flush=True)
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{kind.name}-{number}{kind.suffix}").write_bytes(found.content)
