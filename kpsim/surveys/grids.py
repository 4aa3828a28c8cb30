"""A survey as grids for people: one for each Service port, frontends and clients down, nodes across.

A frontend and a kind of client have a line for each combination of varied settings that makes a difference to them. Nodes that fare
alike share a column, and Services whose grids say the same share one.
"""

import enum
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby
from typing import NamedTuple, TypeVar

from kpsim.addresses import join_host_port
from kpsim.exchange import Verdict
from kpsim.surveys.rows import Row
from kpsim.surveys.settings import Setting
from kpsim.tracing.names import Via
from kpsim.tracing.site import Sender

_SHORT = {
    Verdict.REFUSED: "refused", Verdict.REQUEST_LOST: "lost", Verdict.ANSWER_LOST: "lost",
    Verdict.MISDELIVERED: "misled", Verdict.UNKNOWN: "unknown",
}  # fmt: skip
MOST_NAMES = 4  #: that a list shows
_MOST_COLUMNS = 6  #: of nodes; with more, a cell counts them
ANY = "any"  #: a setting that makes no difference to a line

T = TypeVar("T")


class Tone(enum.StrEnum):
    """How a cell is coloured."""

    GOOD = "good"
    PART = "part"
    BAD = "bad"
    UNKNOWN = "unknown"
    IDLE = "idle"  #: nobody sends there: a load balancer leaves the node out


class Dialled(NamedTuple):
    """A frontend. ``where`` tells of a node port whose it is: the client's own node's, or another's."""

    frontend: Via
    address: str  #: ``ip:port``, of node ports the port alone; empty: of several Services
    where: str = ""

    @property
    def words(self) -> str:
        return " ".join(each for each in (self.frontend.words, self.address, self.where) if each)


class Cell(NamedTuple):
    """What one row says, or some rows together."""

    tone: Tone
    works: str  #: ``works``, ``refused``, ``67 %``, ``2 of 3``, …
    source: str  #: ``kept``, ``masq``, ``mixed``; empty: nobody gets the request
    spread: str  #: how many endpoints there are, and which part of the requests leaves the zone
    why: str = ""  #: why it does not work, in words, without the node

    @property
    def rest(self) -> str:
        return " ".join(each for each in (self.source, self.spread) if each)


class Line(NamedTuple):
    """A line of a grid. ``values`` are those of the grid's settings; a cell is None where nothing is asked."""

    dialled: Dialled
    client: Sender
    values: tuple[str, ...]
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """What a survey says about Service ports that fare alike."""

    services: tuple[str, ...]  #: ``namespace/name:port``
    about: str  #: protocol and family
    settings: tuple[Setting, ...]  #: that make a difference to some line
    nodes: tuple[str, ...]  #: headings of the columns
    lines: tuple[Line, ...]
    remarks: tuple[str, ...]  #: sentences about settings that make no difference
    reasons: tuple[str, ...]  #: why something does not work, for the first of the Service ports

    @property
    def broken(self) -> bool:
        """Whether anything that somebody sends does not work."""
        cells = (cell for line in self.lines for cell in line.cells if cell is not None)
        return any(cell.tone not in (Tone.GOOD, Tone.IDLE) for cell in cells)


def grids(rows: Iterable[Row], vary: Sequence[Setting]) -> list[Grid]:
    """The grids of a survey, in the order of its rows."""
    found: dict[Hashable, list[Grid]] = {}
    for _, of_port in groupby(rows, key=lambda row: (row.service, row.port_name, row.protocol)):
        for of_family in _split(of_port, lambda row: row.family).values():
            grid = _grid(of_family, vary)
            same = tuple(map(_anybodys, grid.lines))
            found.setdefault((grid.about, grid.settings, grid.nodes, same, grid.remarks), []).append(grid)
    return [_together(alike) for alike in found.values()]


def _anybodys(line: Line) -> Line:
    """A line without what names a Service: its addresses, and rules and endpoints in reasons."""
    cells = tuple(cell and cell._replace(why="") for cell in line.cells)
    return line._replace(dialled=line.dialled._replace(address=""), cells=cells)


def _together(alike: Sequence[Grid]) -> Grid:
    first = alike[0]
    if len(alike) == 1:
        return first
    names = tuple(name for grid in alike for name in grid.services)
    return replace(first, services=names, lines=tuple(map(_anybodys, first.lines)))


def _split(rows: Iterable[Row], key: Callable[[Row], T]) -> dict[T, list[Row]]:
    found: dict[T, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


class _Group(NamedTuple):
    """The rows of a line, and which values of each varied setting it is for."""

    dialled: Dialled
    client: Sender
    values: tuple[tuple[str, ...], ...]
    rows: Sequence[Row]


def _grid(rows: Sequence[Row], vary: Sequence[Setting]) -> Grid:
    first = rows[0]
    name = f"{first.service}:{first.port_name}" if first.port_name else first.service
    varied = [setting for setting in vary if len({row.values[setting] for row in rows}) > 1]
    groups = [
        group
        for dialled, of_dialled in _split(rows, _dialled).items()
        for client, of_client in _split(of_dialled, lambda row: row.client).items()
        for group in _groups(dialled, client, of_client, varied)
    ]
    matter = [
        place
        for place, setting in enumerate(varied)
        if any(len(group.values[place]) < len(setting.values) for group in groups)
    ]
    nodes, cells = _columns(groups)
    lines = tuple(
        Line(
            group.dialled, group.client, tuple(_value(varied[place], group.values[place]) for place in matter), of_group
        )
        for group, of_group in zip(groups, cells, strict=True)
    )
    remarks = tuple(_remark(setting) for place, setting in enumerate(varied) if place not in matter)
    about = f"{first.protocol}, {first.family.label}"
    settings = tuple(varied[place] for place in matter)
    return Grid((name,), about, settings, nodes, lines, remarks, tuple(_reasons(groups)))


def _dialled(row: Row) -> Dialled:
    if row.frontend is not Via.NODE_PORT:
        return Dialled(row.frontend, join_host_port(row.address, row.port))
    where = "of the node" if row.dialled_node == row.node else "of another node"
    return Dialled(row.frontend, str(row.port), where)


def _value(setting: Setting, values: Sequence[str]) -> str:
    return ANY if len(values) == len(setting.values) else ", ".join(each or "unset" for each in values)


def _remark(setting: Setting) -> str:
    if setting is Setting.AFFINITY:
        return f"{setting} makes no difference to a first packet; the column same_again says where the client's next connection goes."
    return f"{setting} makes no difference here."


# --------------------------------------------------------------------------------------------------------------- variants


def _groups(dialled: Dialled, client: Sender, rows: Sequence[Row], vary: Sequence[Setting]) -> Iterator[_Group]:
    """The lines of a frontend and a kind of client: one for each combination of values that fares in its own way."""
    by_values = _split(rows, lambda row: tuple(row.values[each] for each in vary))
    told = {values: _told(of_values) for values, of_values in by_values.items()}
    for chosen in _apart((), vary, told):
        yield _Group(dialled, client, chosen, by_values[tuple(values[0] for values in chosen)])


def _apart(
    values: tuple[str, ...], vary: Sequence[Setting], told: Mapping[tuple[str, ...], Hashable]
) -> list[tuple[tuple[str, ...], ...]]:
    """The combinations of values behind some given ones. Values of a setting under which all the rest is the same stand together."""
    if len(values) == len(vary):
        return [()]
    found: dict[Hashable, list[str]] = {}
    for value in vary[len(values)].values:
        rest = tuple(answer for each, answer in told.items() if each[: len(values) + 1] == (*values, value))
        found.setdefault(rest, []).append(value)
    return [
        (tuple(alike), *behind)
        for alike in found.values()
        for behind in _apart((*values, alike[0]), vary, told)
    ]  # fmt: skip


def _told(rows: Iterable[Row]) -> Hashable:
    """All that rows say about a first packet."""
    return tuple([
        (row.node, row.address, frozenset(row.verdicts.items()), row.source_kept, frozenset(row.reached), row.in_rotation)
        for row in rows
    ])  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------ nodes


def _columns(groups: Sequence[_Group]) -> tuple[tuple[str, ...], list[tuple[Cell | None, ...]]]:
    """Headings of columns and the cells of each line. Nodes that fare alike share a column, all of them if there are many."""
    split = [_split(group.rows, lambda row: row.node) for group in groups]
    alike: dict[tuple[Cell | None, ...], list[str]] = {}
    for node in sorted({node for of_node in split for node in of_node}):
        cells = [_cell(of_node.get(node, ())) for of_node in split]
        alike.setdefault(tuple(cells), []).append(node)
    if len(alike) > _MOST_COLUMNS:
        count = sum(map(len, alike.values()))
        return (f"{count:,} nodes",), [(_cell(group.rows),) for group in groups]
    by_line = list(zip(*alike, strict=True))
    return tuple(map(some, alike.values())), by_line


def _cell(rows: Sequence[Row]) -> Cell | None:
    """What rows say together. Those of nodes that a load balancer leaves out count only if there are no others."""
    if not rows:
        return None
    sent = [row for row in rows if row.in_rotation is not False]
    if sent:
        return _of(sent)
    found = _of(rows)
    return Cell(Tone.IDLE, "not sent here", "", "", f"the load balancer leaves the node out; {found.works} there")


def _of(rows: Sequence[Row]) -> Cell:
    worst = min(rows, key=lambda row: row.works)
    return Cell(_tone(rows), _works(rows), _source(rows), _spread(rows), _why(worst))


def _why(row: Row) -> str:
    """Why a row does not work, whichever node decided it."""
    return row.why.replace(f" on {row.decided_at}", "", 1) if row.decided_at else row.why


def _tone(rows: Sequence[Row]) -> Tone:
    if all(row.works == 1 for row in rows):
        return Tone.GOOD
    if any(row.works for row in rows):
        return Tone.PART
    return Tone.UNKNOWN if all(Verdict.UNKNOWN in row.verdicts for row in rows) else Tone.BAD


def _works(rows: Sequence[Row]) -> str:
    full = sum(row.works == 1 for row in rows)
    if full == len(rows):
        return "works"
    if not any(row.works for row in rows):
        return "/".join(sorted({_SHORT[verdict] for row in rows for verdict in row.verdicts}))
    if all(row.works in (0, 1) for row in rows):
        return f"{full} of {len(rows)}"
    return _percent(sum((row.works for row in rows), Fraction(0)) / len(rows))


def _percent(odds: Fraction) -> str:
    if 0 < odds < Fraction(1, 100):
        return "<1 %"
    return ">99 %" if Fraction(99, 100) < odds < 1 else f"{float(odds):.0%}".replace("%", " %")


def _source(rows: Sequence[Row]) -> str:
    kept = {row.source_kept for row in rows} - {None}
    return "" if not kept else "mixed" if len(kept) > 1 else "kept" if kept == {True} else "masq"


def _spread(rows: Sequence[Row]) -> str:
    counts = sorted({len(row.reached) for row in rows})
    if counts == [0]:
        return ""
    away = [row.other_zone for row in rows if row.other_zone is not None]
    zones = f" z{_percent(sum(away, Fraction(0)) / len(away))}" if away else ""
    return f"{counts[0]} ep{zones}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]} ep{zones}"


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:MOST_NAMES])} and {more:,} more"


# ---------------------------------------------------------------------------------------------------------------- reasons


def _reasons(groups: Iterable[_Group]) -> Iterator[str]:
    """Why something does not work, each reason once: what is dialled, by whom, and the nodes where it was decided."""
    places: dict[str, dict[str, dict[str, None]]] = {}
    nodes: dict[str, dict[str, None]] = {}
    for group in groups:
        for row in group.rows:
            if row.why and row.in_rotation is not False:
                why = _why(row)
                places.setdefault(why, {}).setdefault(group.dialled.words, {})[group.client] = None
                nodes.setdefault(why, {})[row.decided_at] = None
    for why, of_why in places.items():
        where = "; ".join(f"{dialled} from {', '.join(clients)}" for dialled, clients in of_why.items())
        at = some(list(nodes[why]))
        yield f"{where}: {why}{f', on {at}' if at else ''}"
