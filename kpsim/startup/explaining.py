"""One call from files to an account of what kube-proxy does at its start with their configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpsim.addresses import Family
from kpsim.config import Mode
from kpsim.errors import InputError, preformatted
from kpsim.manifests.proxy_start import read_proxy_start
from kpsim.startup.account import Account, account_of, refused
from kpsim.startup.situation import MOST_CORES, Given, situations
from kpsim.startup.writing import markdown, print_account, to_json
from kpsim.units import parse_quantity

if TYPE_CHECKING:
    from rich.console import Console

LEAST_BYTES = 1 << 20  #: of memory
WIDTH = 110  #: columns of text that goes to no terminal


@dataclass(frozen=True, repr=False)
class Explanation:
    """What kube-proxy would do at its start: ``account`` as values, and the notes about the input."""

    account: Account
    notes: tuple[str, ...] = ()

    @property
    def starts(self) -> bool:
        """Whether kube-proxy starts on the node."""
        return self.account.starts

    @property
    def holds(self) -> bool:
        """Whether it starts on every node, and everything that is asked for takes effect."""
        return self.account.holds

    def print(self, console: "Console", *, everything: bool = False) -> None:
        """Print it. Settings at their defaults that are not at risk are folded, unless ``everything``."""
        print_account(self.account, console, everything=everything)

    def text(self, *, everything: bool = False, width: int = WIDTH) -> str:
        """The same as plain text."""
        from io import StringIO

        from rich.console import Console

        out = StringIO()
        console = Console(
            file=out, width=width, color_system=None, force_terminal=False, force_jupyter=False, highlight=False
        )
        self.print(console, everything=everything)
        return out.getvalue()

    def markdown(self) -> str:
        """All of it as GitHub's Markdown."""
        return markdown(self.account)

    def to_json(self) -> dict[str, Any]:
        """All of it as a value that json can write."""
        return to_json(self.account)

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return preformatted(self.text())


def explain_config(
    paths: Sequence[Path | str] | Path | str = (),
    *,
    text: str | None = None,
    node: str = "",
    mode: Mode | str | None = None,
    cores: int | None = None,
    memory: int | str | None = None,
    sysctls: Mapping[str, int] | None = None,
    family: Family | None = None,
) -> Explanation:
    """What kube-proxy does at its start with the configuration in files, directories, or ``text`` (YAML, JSON or flags).

    ``node`` is the one of the Nodes beside it on which it starts; without it the first is told in full, of the others what differs.
    ``cores``, ``memory`` (bytes, or a quantity such as ``16Gi``) and ``sysctls`` say what the machine has, ``family`` the only one that it
    supports. InputError for what cannot be read; what kube-proxy itself refuses is part of the answer.
    """
    if cores is not None and not 0 < cores <= MOST_CORES:
        raise InputError(f"expected from 1 to {MOST_CORES:,} cores, got {cores}")
    machine = Given(cores, _bytes(memory), dict(sysctls or {}), family)
    given = [paths] if isinstance(paths, Path | str) else list(paths)
    if text is not None and "-" not in map(str, given):
        given.append("-")
    start = read_proxy_start(
        given, stdin=None if text is None else text.encode(), mode=None if mode is None else Mode(mode)
    )
    if start.config is None:
        return Explanation(refused(start, node), start.notes)
    return Explanation(account_of(situations(start, machine, node)), start.notes)


def _bytes(memory: int | str | None) -> int | None:
    if memory is None or memory == "":
        return None
    try:
        size = int(parse_quantity(str(memory)))
    except ValueError:
        size = 0
    if size < LEAST_BYTES:
        raise InputError(f"memory {memory}: expected a quantity of at least 1Mi, such as 16Gi")
    return size
