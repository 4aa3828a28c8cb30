"""How a rule is written: which options say its parts, in which order, and how they differ from the canonical text.

A rule's spelling is a tuple of pieces. A piece is a row of ``options`` and the place of a part in the rule's body,
which the row writes. So all rules of one shape share one spelling, and no rule keeps a text of its own. A piece without
a part writes what the kernel does not evaluate: a comment, ``-m tcp`` after ``-p tcp``, ``-s 0.0.0.0/0``.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from kpsim.addresses import Family
from kpsim.dialects.iptables.canonical import canonical_rows
from kpsim.dialects.iptables.options import ROWS, Place, Row
from kpsim.dialects.iptables.values import Form, Style
from kpsim.ruleset import Body, Compare, Expression, Field, Origin, Rule, Statement


class Written(NamedTuple):
    """One piece of a rule as it was written. ``opens`` says that it begins a ``-m`` of its own."""

    row: Row
    part: Expression | Statement | None
    detail: Hashable = None
    opens: bool = True


class Piece(NamedTuple):
    """One piece of a spelling. ``at`` is the place of its part in the body; -1: it has no part."""

    row: Row
    at: int
    detail: Any = None
    opens: bool = True


@dataclass(frozen=True, eq=False)
class Spelling:
    """A rule's pieces in two orders: as they were written, and as iptables-save prints those that it keeps (I-17)."""

    written: tuple[Piece, ...]
    saved: tuple[Piece, ...]

    @cached_property
    def by_part(self) -> dict[int, Piece]:
        """The piece that writes each part of the body."""
        return {piece.at: piece for piece in self.written if piece.at >= 0}


def text_of(rule: Rule, spelling: Spelling, form: Form) -> str:
    """The text of a rule, without ``-A CHAIN``."""
    pieces = spelling.saved if form.style is Style.SAVE else spelling.written
    body = rule.body
    return " ".join(
        [row.write(body[at] if at >= 0 else rule, detail, form, opens) for row, at, detail, opens in pieces]
    )


# --- from what is written to a rule -----------------------------------------------------------------------------------


def assemble(written: Sequence[Written], comment: str) -> Rule:
    """The rule that consists of these pieces."""
    spelling, order = _arranged(tuple((w.row, w.part is not None, w.detail, w.opens) for w in written))
    body = tuple(part for w in (written[i] for i in order) if (part := w.part) is not None)
    return Rule(_without_connection(body, spelling), comment, spelling=spelling)


@lru_cache(maxsize=1 << 14)
def _arranged(pieces: tuple[tuple[Row, bool, Hashable, bool], ...]) -> tuple[Spelling, tuple[int, ...]]:
    """The spelling of pieces (row, whether it has a part, detail, opens), and the order of the parts in the body."""
    saved = _saved_order(pieces)
    order = tuple(i for i, _ in saved if pieces[i][1])
    at = {i: place for place, i in enumerate(order)}
    written = tuple(Piece(row, at.get(i, -1), detail, opens) for i, (row, _, detail, opens) in enumerate(pieces))
    kept = tuple(
        Piece(pieces[i][0], at.get(i, -1), pieces[i][2], opens)
        for i, opens in saved
        if pieces[i][1] or pieces[i][0].always
    )
    return Spelling(written, kept), order


def _saved_order(pieces: Sequence[tuple[Row, bool, Hashable, bool]]) -> list[tuple[int, bool]]:
    """The order in which the kernel evaluates pieces and iptables-save prints them, and whether each opens a ``-m``.

    Header options come first. Port options come directly after their module. The options of one ``-m`` are in the
    tool's order.
    """
    header: list[int] = []
    ports: list[int] = []
    modules: list[list[int]] = []  # each with the options that stand in one -m
    target: list[int] = []
    for i, (row, _, _, opens) in enumerate(pieces):
        match row.place:
            case Place.HEADER:
                header.append(i)
            case Place.PORT:
                ports.append(i)
            case Place.TARGET:
                target.append(i)
            case Place.MATCH:
                opened = None if opens else _last_of(row.module, modules, pieces)
                if opened is None:
                    modules.append([i])
                else:
                    opened.append(i)
    ordered = [(i, False) for i in sorted(header, key=lambda i: pieces[i][0].order)]
    rest = [
        (i, number == 0)
        for opened in modules
        for number, i in enumerate(sorted(opened, key=lambda i: pieces[i][0].order))
    ]
    behind = next((number + 1 for number, (i, _) in enumerate(rest) if pieces[i][0].opens_ports), 0)
    rest[behind:behind] = [(i, False) for i in sorted(ports, key=lambda i: pieces[i][0].order)]
    return [*ordered, *rest, *((i, False) for i in target)]


def _last_of(
    module: str, modules: list[list[int]], pieces: Sequence[tuple[Row, bool, Hashable, bool]]
) -> list[int] | None:
    return next((opened for opened in reversed(modules) if pieces[opened[0]][0].module == module), None)


def _without_connection(body: Body, spelling: Spelling) -> Body:
    """The body with the options that count as true for a packet without connection marked as such.

    For such a packet the kernel evaluates only ``--ctstate``. Other options of the same ``-m`` then count as true. In a
    separate ``-m``, without ``--ctstate``, they are false (CT-3.10).
    """
    if not any(isinstance(part, Compare) and part.field in _BESIDE_THE_STATE for part in body):
        return body
    changed = list(body)
    beside: list[int] = []
    state = False
    for row, at, _, opens in (*spelling.saved, _END):
        if opens or row.place is not Place.MATCH:
            if state:
                for i in beside:
                    part = changed[i]
                    assert isinstance(part, Compare)
                    changed[i] = replace(part, absent=True)
            beside, state = [], False
        compared = body[at] if at >= 0 else None
        if isinstance(compared, Compare):
            state = state or compared.field is Field.CT_STATE
            beside += [at] if compared.field in _BESIDE_THE_STATE else []
    return tuple(changed)


_BESIDE_THE_STATE = (Field.CT_ORIGINAL_DADDR, Field.CT_ORIGINAL_DPORT, Field.CT_DIRECTION)
_END = Piece(ROWS["-j"], -1)


class Shape:
    """What rules with the same options in the same order have in common. It makes such rules."""

    __slots__ = ("_order", "_spelling")

    def __init__(self, *words: str) -> None:
        """``words`` name the options as written, e.g. ``--comment``, ``-m tcp``, ``-d``, ``-j REJECT``.

        A plus comes before an option that stands in the ``-m`` before it (``+--vport``). A detail follows an equals sign (``-d=bare``). A value that is true of every packet, and so has no part,
        follows a tilde (``-s~0.0.0.0/0``). KeyError for an option that does not exist.
        """
        pieces = tuple(map(_piece, words))
        self._spelling, order = _arranged(pieces)
        with_part = [i for i, (_, has_part, _, _) in enumerate(pieces) if has_part]
        places = tuple(with_part.index(i) for i in order)
        # None: the kernel's order is that of the options
        self._order = places if places != tuple(range(len(places))) else None

    def rule(self, origin: Origin, comment: str, *parts: Expression | Statement) -> Rule:
        """A rule of this shape. ``parts`` are in the order of the options that have a part."""
        body = parts if self._order is None else tuple([parts[i] for i in self._order])
        return Rule(body, comment, origin, self._spelling)


def _piece(word: str) -> tuple[Row, bool, Hashable, bool]:
    name, tilde, text = word.removeprefix("+").partition("~")
    name, _, detail = name.partition("=")
    row = ROWS[name]
    return (
        row,
        not (row.always or tilde),
        (text if tilde else detail) or None,
        row.place is Place.MATCH and word[0] != "+",
    )


def spelling_of(rule: Rule, family: Family) -> Spelling:
    """The rule's own spelling or, if iptables text was not its source, a canonical one.

    ValueError for a part that iptables cannot say.
    """
    if isinstance(rule.spelling, Spelling):
        return rule.spelling
    pieces = tuple(Piece(row, at, None, opens) for row, at, opens in canonical_rows(rule, family))
    order = _saved_order([(row, at >= 0, None, opens) for row, at, _, opens in pieces])
    return Spelling(pieces, tuple(Piece(pieces[i].row, pieces[i].at, None, opens) for i, opens in order))
