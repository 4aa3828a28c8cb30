"""Hostile input for every command: whatever it is, the answer is an answer or a clear error, never exit code 3.

Each kind of input has valid seeds and ways to spoil them. The command runs in this process with its streams captured.
A finding is exit code 3, an exception that gets out, a traceback in the output, output that steers a terminal, or a
command that takes longer than ``seconds``. So is a refusal that names no file, and JSON that is none.

Most changes are mild (:mod:`fuzz.mild`), since what is refused at once says little about the code behind the loading.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import FrameType
from typing import NoReturn

from fuzz.hostile_seeds import Kind, kinds
from fuzz.mild import mild_words
from fuzz.mutating import damaged, token
from kpsim.errors import printable
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
    input: "Drawn"

    def __str__(self) -> str:
        return f"{self.kind} {self.number}: {self.what}: {' '.join(map(repr, self.arguments))}"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code, or the exception that got out, and what it printed."""

    code: object
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


@dataclass(frozen=True, slots=True)
class Drawn:
    """One input: the arguments, and the content of the file under test and of the files beside it."""

    arguments: tuple[str, ...]
    content: bytes
    beside: Mapping[str, bytes]


#: of the inputs whose kind has mild changes, so many in a hundred get those
_MILD_PERCENT = 88
#: a scenario that would take longer, by its estimate, is not tried: another number is drawn sooner than it ends
_MOST_EFFORT_S = 2.0


def drawn(kind: Kind, number: int) -> Drawn:
    """The input of this kind and number. ``FILE`` in its arguments stands for the file under test."""
    choices: Choices = SeededChoices(number, "hostile", kind.name)
    content, beside = pick(choices, kind.seeds), dict(kind.beside)
    mild = chance(choices, _MILD_PERCENT)
    if mild and kind.mild is not None:
        content = kind.mild(choices, content)
        for name, change in kind.beside_mild.items():
            if chance(choices, 50):
                beside[name] = change(choices, beside[name])
    elif content or kind.suffix:
        structure = kind.spoil is not None and chance(choices, 70)
        if structure and kind.spoil is not None:
            content = kind.spoil(choices, content)
        if not structure or chance(choices, 10):
            content = damaged(choices, content)
    arguments = list(pick(choices, kind.commands))
    spoilt = [at for at, each in enumerate(arguments) if at and each != "FILE" and not each.startswith("--")]
    if spoilt and (not kind.suffix or (not mild and chance(choices, 10))):
        at = spoilt[-1] if mild else pick(choices, spoilt)
        arguments[at] = _other_word(choices, arguments[at], mild).replace("\ud800", "\udcff")
    return Drawn(tuple(arguments), content, beside)


def _other_word(choices: Choices, word: str, mild: bool) -> str:
    if mild:
        return mild_words(choices, word)
    if chance(choices, 60):
        return damaged(choices, word.encode()).decode("utf-8", "replace")
    return token(choices)


def run(arguments: Sequence[str], seconds: float) -> Ended:
    """Runs the command in this process, for so many seconds of the processor at the most; on a busy machine that is long."""
    from kpsim.cli import main

    out, err = io.StringIO(), io.StringIO()

    def late(_number: int, _frame: FrameType | None) -> NoReturn:
        raise TookTooLong

    timers = ((signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, seconds * 10))
    given = sys.argv
    ended: object = None
    before = [signal.signal(number, late) for _, number, _ in timers]
    for timer, _, most in timers:
        signal.setitimer(timer, most)
    try:
        sys.argv = ["kpsim", *arguments]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as left:
        ended = left.code
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        ended = error
    finally:
        for (timer, number, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
        sys.argv = given
    return Ended(ended, out.getvalue(), err.getvalue())


def judged(ended: Ended, *, as_json: bool = False) -> str:
    """What is wrong with how a command ended; empty: nothing. ``as_json``: it was asked for JSON on its standard output."""
    code, said = ended.code, ended.said
    if code not in _CODES or not isinstance(code, int):
        return f"{type(code).__name__} {code}" if isinstance(code, BaseException) else f"exit {code}: {said[-300:]}"
    if "Traceback (most recent" in said:
        return "a traceback"
    if code == 2 and not (_ERROR.search(ended.err) or _UNREADABLE.search(ended.out)):
        return "refused without an error"
    if not said.replace("\n", "").replace("\t", "").isprintable():
        return "control characters"
    if as_json and not _is_json(ended.out):
        return "no JSON"
    return ""


_ERROR = re.compile(r"^(error|Error): .", re.MULTILINE)
_UNREADABLE = re.compile(r"^unreadable  ", re.MULTILINE)  #: what ``check`` says of one of its files
_ABOUT_THE_QUESTION = re.compile(
    r"error: (no node|IPv. is not among|give |in '|this would take|there is no other node|node \S+ has no|dst '|src '|.*: neither a file|.*: cannot be read: |.*: No such file)"
)


def _is_json(text: str) -> bool:
    """Whether the text is empty, one JSON value, or a JSON value on each line. NaN and Infinity are none."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    for parts in ([text], text.splitlines()):
        try:
            for part in parts:
                if part:
                    json.loads(part, parse_constant=refuse)
        except ValueError:
            continue
        return True
    return False


def names_a_file(ended: Ended, input: Drawn, file: str) -> bool:
    """Whether every refusal of what stands in a file names a file that was given, or the option or field that is wrong."""
    names = (file, *input.beside, "--")
    errors = [
        line for line in ended.err.splitlines() if line.startswith("error: ") and not _ABOUT_THE_QUESTION.match(line)
    ]
    words = tuple(f"error: {printable(word)}" for word in input.arguments[1:])  # a path that is none, for example
    return all(any(name in line for name in names) or line.startswith(words) for line in errors)


def _node(content: bytes) -> str:
    """The first node that a recording speaks of."""
    found = re.search(rb'"hostnameOverride": ?"([^"]*)"', content)
    return found.group(1).decode("utf-8", "replace") if found else "n1"


def takes_long(content: bytes) -> bool:
    """Whether the content is a scenario that would take longer than an input is worth."""
    from kpsim.errors import KpsimError
    from kpsim.scenario import parse_scenario
    from kpsim.scenario.effort import effort_of

    try:
        effort = effort_of(parse_scenario(content.decode("utf-8", "replace"), "input.yaml"))
    except (KpsimError, RecursionError):
        return False
    return bool(effort.seconds > _MOST_EFFORT_S)


@dataclass
class Hostility:
    """Draws inputs and keeps what was found. Files are made in the current directory: see :func:`quiet_place`."""

    seconds: float = 30
    tried: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    long: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    heard: Callable[[Kind, int, Ended], None] | None = None  #: is told how each command ended

    def attempt(self, kind: Kind, number: int) -> Finding | None:
        input = drawn(kind, number)
        file = Path(f"input{kind.suffix}")
        self.tried[kind.name] += 1
        if kind.name == "scenarios" and takes_long(input.content):
            self.long[kind.name] += 1
            return None
        file.write_bytes(input.content)
        given = [each.replace("FILE", str(file)).replace("NODE", _node(input.content)) for each in input.arguments]
        for name, content in input.beside.items():
            Path(name).write_bytes(content)
            given = [each.replace(f"@{name}", name) for each in given]
        ended = run(given, self.seconds)
        self.refused[kind.name] += ended.code == 2
        if self.heard is not None:
            self.heard(kind, number, ended)
        what = judged(ended, as_json="json" in given)
        if not what and ended.code == 2 and kind.suffix and not names_a_file(ended, input, str(file)):
            what = f"an error without a place: {ended.err[:300]}"
        if not what:
            return None
        found = Finding(kind.name, number, what, tuple(given), input)
        self.findings.append(found)
        return found

    def __str__(self) -> str:
        each = ", ".join(
            f"{name} {number} ({100 * (number - self.refused[name] - self.long[name]) // number} % taken)"
            for name, number in self.tried.items()
        )
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
    parser.add_argument("--inputs", type=int, metavar="N", help="of each kind, whatever time it takes")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the files of each finding here")
    parser.add_argument(
        "--digests",
        type=Path,
        metavar="FILE",
        help="write a digest of what each command printed, to compare processes (PYTHONHASHSEED)",
    )
    given = parser.parse_args(arguments)
    first = given.seed if given.seed is not None else int(time.time())  # noqa: TID251 - each run is to draw new input
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.RLIM_INFINITY))
    chosen = [kind for kind in kinds() if not given.kind or kind.name in given.kind]
    keep = given.out.absolute() if given.out else None
    digests = given.digests.absolute() if given.digests else None
    begun_s = _CLOCK.now_s()
    lines: list[str] = []
    hostility = Hostility(heard=lambda kind, number, ended: lines.append(digest(kind, number, ended)))

    def goes_on(number: int) -> bool:
        if given.inputs is not None:
            return number < first + int(given.inputs)
        return _CLOCK.now_s() - begun_s < float(given.minutes) * 60

    with quiet_place():
        _attempts(hostility, chosen, first, goes_on, keep)
    if digests is not None:
        digests.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"from seed {first} on: {hostility}")
    return 1 if hostility.findings else 0


def digest(kind: Kind, number: int, ended: Ended) -> str:
    """One line that says how a command ended, the same in every process."""
    said = hashlib.sha256(f"{ended.code}\n{ended.out}\n{ended.err}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{kind.name} {number} {said[:16]}"


def _attempts(
    hostility: Hostility, chosen: Sequence[Kind], first: int, goes_on: Callable[[int], bool], keep: Path | None
) -> None:
    for number in count(first):
        for kind in chosen:
            if not goes_on(number):
                return
            if number % kind.every == 0 and (found := hostility.attempt(kind, number)):
                print(found, flush=True)
                if keep is not None:
                    place = keep / f"{kind.name}-{number}"
                    place.mkdir(parents=True, exist_ok=True)
                    for name, content in {**found.input.beside, f"input{kind.suffix}": found.input.content}.items():
                        (place / name).write_bytes(content)
