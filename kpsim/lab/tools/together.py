"""All tools of a namespace at once: each has the tables that it manages.

Counterpart: a node whose kube-proxy writes with one tool while other programs write with another.
"""

from collections.abc import Iterator
from itertools import chain

from kpsim.lab.tools import Remembered, Tool
from kpsim.maps import Map
from kpsim.ruleset import Ruleset, TableKey

_NEXT = "# the next tool\n"  #: stands between the texts of two tools


class Together:
    """Several tools as one, see :class:`kpsim.lab.tools.Tool`. A table belongs to the first tool that manages it.

    A tool that never had a table is never called, so its program may be missing. Base chains of equal priority run in
    the order of the tools, the last one's first: iptables-restore makes its tables anew, and so its base chains are
    registered again (measured). A tool whose rules stay the same is left alone, and those behind one that loads begin
    from nothing.
    """

    def __init__(self, *tools: Tool) -> None:
        self._tools = tools
        self._loaded: list[Ruleset | None] = [None] * len(tools)

    @property
    def name(self) -> str:
        """The names of the tools that are in use."""
        return " and ".join(tool.name for tool in self._in_use())

    def manages(self, table: TableKey) -> bool:
        return any(tool.manages(table) for tool in self._tools)

    @property
    def is_in_use(self) -> bool:
        return any(tool.is_in_use for tool in self._tools)

    def load(self, ruleset: Ruleset) -> None:
        nothing, anew = Ruleset(ruleset.family), False
        several = len(self._in_use()) > 1
        # a tool that loses its tables comes last: were there no NAT for a moment, Linux would begin to track anew (K-1.5)
        parts = sorted(enumerate(self._parts(ruleset)), key=lambda each: not each[1][1].tables)
        for number, (tool, part) in parts:
            if not (part.tables or tool.is_in_use) or (several and not anew and part == self._loaded[number]):
                continue
            if anew and part.tables and tool.is_in_use:
                tool.load(nothing)
            tool.load(part)
            anew, self._loaded[number] = True, part

    def printed(self, ruleset: Ruleset) -> str:
        return _NEXT.join(tool.printed(part) if part.tables else "" for tool, part in self._parts(ruleset))

    def saved(self) -> str:
        return _NEXT.join(tool.saved() if tool.is_in_use else "" for tool in self._tools)

    def first_difference(self, expected: str, held: str) -> tuple[str, str] | None:
        texts = zip(self._tools, expected.split(_NEXT), held.split(_NEXT), strict=True)
        return next((found for tool, *both in texts if (found := tool.first_difference(*both))), None)

    def without_guards(self, saved: str) -> str:
        return _NEXT.join(tool.without_guards(text) for tool, text in zip(self._tools, saved.split(_NEXT), strict=True))

    def counted(self) -> Iterator[str]:
        return chain.from_iterable(tool.counted() for tool in self._in_use())

    def reset_counters(self) -> None:
        for tool in self._in_use():
            tool.reset_counters()

    def forget(self) -> None:
        for tool in self._in_use():
            tool.forget()

    def lists(self) -> frozenset[str]:
        return frozenset(chain.from_iterable(tool.lists() for tool in self._in_use()))

    def lists_in_rules(self) -> frozenset[str]:
        return frozenset(chain.from_iterable(tool.lists_in_rules() for tool in self._in_use()))

    def remembered(self, name: str) -> Remembered:
        return next((found for tool in self._in_use() if (found := tool.remembered(name))), {})

    def _in_use(self) -> list[Tool]:
        return [tool for tool in self._tools if tool.is_in_use]

    def _parts(self, ruleset: Ruleset) -> Iterator[tuple[Tool, Ruleset]]:
        """Each tool with its tables. They keep being the same object if there is nothing else."""
        for tool in self._tools:
            own = [key for key in ruleset.tables if self._tool_of(key) is tool]
            if len(own) == len(ruleset.tables):
                yield tool, ruleset
            else:
                yield tool, Ruleset(ruleset.family, Map({key: ruleset.tables[key] for key in own}), ruleset.made)

    def _tool_of(self, table: TableKey) -> Tool:
        return next(tool for tool in self._tools if tool.manages(table))
