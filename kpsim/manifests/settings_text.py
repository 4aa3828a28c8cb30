"""Files that are no manifests and yet say how kube-proxy is started: systemd units, environment files, files of arguments.

Counterpart: systemd.service(5), systemd.exec(5). They are recognised by their content, whatever their names are.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

_SECTION = re.compile(r"^\[(Unit|Service|Install)\]\s*$", re.MULTILINE)
_EXEC = re.compile(r"^\s*ExecStart\s*=", re.MULTILINE)
_ASSIGNMENT = re.compile(r"^(?:export\s+)?([A-Za-z_]\w*)=(.*)$")
_ARGUMENT = re.compile(r"^--?[a-z]")


@dataclass(frozen=True, slots=True)
class SettingsText:
    """The text of such a file."""

    text: str


class Command(NamedTuple):
    """The words of a command, the line (from 1) on which it begins, and the environment files that it names."""

    words: tuple[str, ...]
    line: int
    environment_files: tuple[str, ...] = ()


def _meaningful(text: str) -> list[str]:
    lines = (line.strip() for line in text.split("\n"))
    return [line for line in lines if line and not line.startswith(("#", ";"))]


def is_settings_text(text: str) -> bool:
    """Return whether a text is a unit with a command, an environment file with options, or a list of options."""
    if _SECTION.search(text) and _EXEC.search(text):
        return True
    head = text[:4096]
    if "--" not in head or head.lstrip()[:3] in ("---", ""):
        return False
    lines = _meaningful(text.replace("\\\n", " "))
    if all(_ARGUMENT.match(line) for line in lines):
        return True
    return all(_ASSIGNMENT.match(line) for line in lines) and any("--" in line for line in lines)


def environment(text: str) -> Mapping[str, str]:
    """Return the variables that an environment file sets; nothing for a file of another kind."""
    found: dict[str, str] = {}
    for line in _meaningful(text.replace("\\\n", " ")):
        assignment = _ASSIGNMENT.match(line)
        if assignment is None:
            return {}
        found[assignment[1]] = " ".join(_words(assignment[2]))
    return found


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=False)
    except ValueError:  # a quotation mark without its partner
        return text.split()


_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def commands(text: str, variables: Mapping[str, str], program: str) -> Iterator[Command]:
    """Yield the commands of a unit, or of a file of options, that start ``program``.

    ``variables`` come from environment files. A variable without value stays as it is written.
    """
    if not _SECTION.search(text):
        lines = _meaningful(text)
        if lines and all(_ARGUMENT.match(line) for line in lines):
            yield Command((program, *(word for line in lines for word in _words(line))), 1)
        return
    known, files, found = dict(variables), list[str](), list[Command]()
    for number, line in _joined(text):
        name, equals, value = line.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or line.lstrip().startswith(("#", ";")):
            continue
        match name:
            case "Environment":
                known |= dict(word.split("=", 1) for word in _words(value) if "=" in word)
            case "EnvironmentFile":
                files.append(value.lstrip("-"))
            case "ExecStart" if not value:
                found.clear()  # an empty value forgets the commands before it
            case "ExecStart":
                words = _words(_filled(value.lstrip("@-:+!"), known))
                started = _started(words, program)
                if started is not None:
                    found.append(Command((program, *started), number))
            case _:
                pass
    yield from (command._replace(environment_files=tuple(files)) for command in found)


HYPERKUBE_NAMES = ("proxy", "kube-proxy")  #: kube-proxy within hyperkube, which was all of Kubernetes in one program


def _started(words: list[str], program: str) -> list[str] | None:
    """The arguments of ``program`` in a command, or None if it does not start it.

    k3s and RKE2 run it inside themselves, with the arguments that ``--kube-proxy-arg`` gives.
    """
    for number, word in enumerate(words):
        name, before = word.rpartition("/")[2], words[number - 1].rpartition("/")[2] if number else ""
        if name == program or (before == "hyperkube" and name in HYPERKUBE_NAMES):
            return words[number + 1 :]
        if before in ("k3s", "rke2") and name in ("server", "agent"):
            return None if "--disable-kube-proxy" in words else _passed_on(words[number + 1 :])
    return None


def _passed_on(words: list[str]) -> list[str]:
    found: list[str] = []
    rest = iter(words)
    for word in rest:
        head, equals, value = word.partition("=")
        if head in ("--kube-proxy-arg", "--cluster-cidr"):
            value = value if equals else next(rest, "")
            found.append(f"--{value.lstrip('-')}" if head == "--kube-proxy-arg" else f"{head}={value}")
    return found


def _filled(text: str, known: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: known.get(found[1] or found[2], found[0]), text)


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a unit, each with what continues it after a backslash, and the number of its first line."""
    held, first = "", 0
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if held and line.lstrip().startswith(("#", ";")):
            continue  # systemd passes over comments between continued lines
        first = first if held else number
        if line.rstrip().endswith("\\"):
            held += line.rstrip()[:-1] + " "
            continue
        yield first, held + line
        held = ""
    if held:
        yield first, held
