"""ipsets in the lab: what ``ipset restore`` loads beside iptables' rules, and what ``ipset save`` then prints."""

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest

from kpsim.dialects.ipset import render
from kpsim.lab.calls import LabError
from kpsim.lab.namespace import Namespace
from kpsim.lab.packages import not_found
from kpsim.maps import Map
from kpsim.ruleset import Set

#: what the kernel chooses, counts and lets run down, and what ipset 7.17 does not print again
_STATE = re.compile(r" (?:initval|bucketsize|hashsize|packets|bytes|skb\w+|timeout) \S+| forceadd\b")


class IpsetTool:
    """The ipsets of one namespace. Every method raises LabError if ipset fails or is not there."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._held: Mapping[str, Set] = {}

    def remakes(self, wanted: Mapping[str, Set]) -> bool:
        """Whether a set must be made anew. The kernel keeps a set as long as a rule names it."""
        return any(name in wanted and _made(of) != _made(wanted[name]) for name, of in self._held.items())

    def load(self, wanted: Mapping[str, Set]) -> None:
        """Makes sets and fills them. Sets that are held and not wanted stay until :meth:`drop`, as rules may name them."""
        lines = "".join(self._changes(wanted))
        if lines:
            if shutil.which("ipset") is None:
                raise LabError(not_found("ipset", "loads the sets that rules look up", "ipset"))
            self._namespace.run(["ipset", "restore"], stdin=lines)
        self._held = {**self._held, **wanted}

    def _changes(self, wanted: Mapping[str, Set]) -> Iterator[str]:
        for name in sorted(wanted):
            of, held = wanted[name], self._held.get(name)
            if held == of:
                continue
            first, _, elements = render({name: of}).partition("\n")
            if held is None:
                yield f"{first}\n"
            elif _made(held) == _made(of):
                yield f"flush {_quoted(name)}\n"
            else:
                yield f"destroy {_quoted(name)}\n{first}\n"
            yield elements

    def drop(self, wanted: Mapping[str, Set]) -> None:
        """Deletes the sets that are not wanted. No rule names them any longer."""
        gone = [name for name in sorted(self._held) if name not in wanted]
        if gone:
            self._namespace.run(["ipset", "restore"], stdin="".join(f"destroy {_quoted(name)}\n" for name in gone))
        self._held = dict(wanted)

    def first_difference(self) -> tuple[str, str] | None:
        """The first line in which the kernel's sets differ from those that were loaded, as each has it; None: in none.

        How the kernel hashes, what elements counted, and their time do not count.
        """
        if not self._held:
            return None
        ours, theirs = _lines(render(self._held)), _lines(self._namespace.run(["ipset", "save"]))
        pairs = zip_longest(ours, theirs, fillvalue="nothing more")
        return next(((mine, other) for mine, other in pairs if mine != other), None)


def _made(of: Set) -> Set:
    """A set as it is made, without elements."""
    return replace(of, elements=Map())


def _lines(text: str) -> list[str]:
    return sorted(_STATE.sub("", line) for line in text.splitlines())


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
