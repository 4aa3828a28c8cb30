"""The interface between the lab and the programs that load rules: what a tool does for a namespace.

A tool is given rules as values and writes them in its own language. Only its own module knows that language.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from kpsim.ruleset import Ruleset, TableKey

#: the comment by which guards are told from the rules under test
GUARD_COMMENT = "kpsim canary"
#: members of an affinity list, with the seconds that they have left; None: the list does not say
Remembered = Mapping[str, float | None]


def set_list(table: str, name: str) -> str:
    """What a set that packets change is called beside the lists of xt_recent."""
    return f"{table} {name}"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why there can be no lab here, in words, and the command that would remove the reason, if one is known."""

    reason: str
    remedy: str | None = None

    def __str__(self) -> str:
        return f"{self.reason} (try: {self.remedy})" if self.remedy else self.reason


class Tool(Protocol):
    """The rules of one family in one namespace, and what they remember. Every method raises LabError if a command
    fails.

    *Affinity lists* are what packets change and rules ask: lists of xt_recent, and sets to which rules add elements.
    """

    @property
    def name(self) -> str:
        """The name of the program, as people know it."""

    def manages(self, table: TableKey) -> bool:
        """Whether a table is this tool's. Several tools may; the first that is asked has it."""

    @property
    def is_in_use(self) -> bool:
        """Whether anything was ever loaded."""

    def load(self, ruleset: Ruleset) -> None:
        """Replaces all rules that this tool loaded. Connections stay, and so do the affinity lists that the new rules
        use.
        """

    def printed(self, ruleset: Ruleset) -> str:
        """The text that ``saved`` returns when the kernel holds exactly these rules."""

    def saved(self) -> str:
        """The rules that the kernel holds, as the tool prints them."""

    def first_difference(self, expected: str, held: str) -> tuple[str, str] | None:
        """The first line that two printed texts do not share, as each has it; None if they hold the same rules."""

    def without_guards(self, saved: str) -> str:
        """A printed text without the guards, the rules that the lab itself added (``kpsim.lab.canaries``)."""

    def counted(self) -> Iterator[str]:
        """The rules that counted packets, each with their number, guards left out."""

    def reset_counters(self) -> None:
        """Makes every rule count from zero. Rules that have no counters may get some until rules are loaded again."""

    def forget(self) -> None:
        """Empties all affinity lists."""

    def lists(self) -> frozenset[str]:
        """The affinity lists that the kernel has."""

    def lists_in_rules(self) -> frozenset[str]:
        """The affinity lists that the rules in the kernel call for."""

    def remembered(self, name: str) -> Remembered:
        """The members of an affinity list, source addresses mostly; none if there is no such list."""
