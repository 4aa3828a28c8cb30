"""How a rule was written, where that is not the canonical text of its value.

A rule that was read keeps its statements as they stood, but only if writing its value gives something else. So a rule of
kube-proxy keeps nothing, and a foreign one keeps its counters, the order of its lists, and words that say nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kpsim.dialects.nft.datatypes import Style
from kpsim.dialects.nft.printing import statement_text
from kpsim.dialects.nft.syntax import Statement
from kpsim.dialects.nft.writing import pieces
from kpsim.ruleset import Rule, Space


@dataclass(frozen=True, slots=True, eq=False)
class Spelling:
    """How a rule was written in one style."""

    style: Style
    #: each statement's text and the place of its first part in the body; None: as the value is written
    statements: tuple[tuple[str, int], ...] | None = None
    lists: tuple[tuple[int, str], ...] = ()  #: the place of a part, and the list in braces that it compares with


_AS_WRITTEN = {style: Spelling(style) for style in Style}


def in_braces(at: int, words: Iterable[str], separator: str = " , ") -> Spelling:
    """The spelling of a rule whose part ``at`` compares with a list that is written in this order and with braces.

    The value has the same list sorted and merged, as the kernel holds it. kube-proxy separates source ranges with a
    comma between blanks, and service CIDRs with a comma alone (NFT-5.9, NFT-6.8).
    """
    return Spelling(Style.SENT, None, ((at, f"{{ {separator.join(words)} }}"),))


def spelled(rule: Rule, space: Space, style: Style, written: Sequence[tuple[Statement, int]]) -> Spelling:
    """The spelling of a rule that was read."""
    sources = tuple((statement.source, at) for statement, at in written)
    try:
        canonical = tuple((statement_text(tree, style), at) for tree, at in pieces(rule, space))
    except ValueError:
        canonical = ()
    return _AS_WRITTEN[style] if canonical == sources else Spelling(style, sources)


def texts(rule: Rule, space: Space, style: Style) -> tuple[tuple[str, int], ...]:
    """The statements of a rule as text, each with the place of its first part in the body.

    ValueError for a part that nft cannot say.
    """
    spelling = rule.spelling
    lists: dict[int, str] = {}
    if isinstance(spelling, Spelling) and spelling.style is style:
        if spelling.statements is not None:
            return spelling.statements
        lists = dict(spelling.lists)
    return tuple((statement_text(tree, style, lists.get(at)), at) for tree, at in pieces(rule, space))
