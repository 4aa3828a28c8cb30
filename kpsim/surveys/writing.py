"""Writes a survey's grids: as text for a terminal or a log, as one HTML page, as an element for a notebook."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from kpsim.errors import printable
from kpsim.reports.html import PAGE_STYLE, STYLE, escape
from kpsim.surveys.grids import ANY, Cell, Grid, Line, Tone, some
from kpsim.surveys.settings import Setting

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

MOST_GRIDS = 25  #: in text; a page has all
MOST_REASONS = 8
_STYLES = {Tone.GOOD: "green", Tone.PART: "yellow", Tone.BAD: "red", Tone.UNKNOWN: "magenta", Tone.IDLE: "dim"}
LEGEND = (
    "Every cell is about a first packet that comes in at a node, from a pod or a process of that node (node), from outside the cluster (external) or "
    "from another node (peer): does the client get its answer; does the endpoint see the client's address (kept) or a node's (masq); how many "
    "endpoints may get the request (ep); which part of the requests leaves the zone (z)."
)


class Head(NamedTuple):
    """What stands above the grids."""

    title: str
    varied: str  #: what is varied, in words; empty: nothing is
    figures: tuple[tuple[str, str], ...]  #: value and name
    notes: tuple[str, ...]


# ------------------------------------------------------------------------------------------------------------------ text


def print_grids(head: Head, grids: Sequence[Grid], console: "Console") -> None:
    """Prints the grids, those with something that does not work first if there are too many. The console decides about colours."""
    console.print(head.title, markup=False, style="bold")
    if head.varied:
        console.print(head.varied, markup=False)
    console.print("   ".join(f"{name}: {value}" for value, name in head.figures), markup=False)
    shown = sorted(grids, key=lambda grid: not grid.broken)[:MOST_GRIDS] if len(grids) > MOST_GRIDS else grids
    for grid in shown:
        console.print()
        for part in _parts(grid):
            console.print(part, markup=False) if isinstance(part, str) else console.print(part)
    if len(grids) > len(shown):
        console.print(
            f"\n… and {len(grids) - len(shown):,} more grids: --service names some, --out has all", markup=False
        )
    console.print()
    console.print(LEGEND, markup=False, style="dim")


def text_of(head: Head, grids: Sequence[Grid], width: int = 160) -> str:
    """The grids as plain text, the same on every machine."""
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    console = Console(
        file=out, width=width, color_system=None, force_terminal=False, force_jupyter=False, highlight=False
    )
    print_grids(head, grids, console)
    return "".join(printable(line.rstrip()) + "\n" for line in out.getvalue().splitlines())


def _parts(grid: Grid) -> "Iterator[RenderableType]":
    yield f"{some(grid.services)} ({grid.about})"
    yield _table(grid)
    yield from grid.remarks
    yield from (f"- {reason}" for reason in _reasons(grid))


def _table(grid: Grid) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in ("dialled", "from", *map(_heading, grid.settings), *grid.nodes):
        table.add_column(name, overflow="fold")
    before = None
    for line in grid.lines:
        shown = "" if line.dialled == before else line.dialled.words
        cells = (Text("–", "dim") if each is None else Text(_words(each), _STYLES[each.tone]) for each in line.cells)
        if before is not None and shown:
            table.add_section()
        table.add_row(Text(shown), Text(line.client), *map(Text, line.values), *cells)
        before = line.dialled
    return table


def _heading(setting: Setting) -> str:
    """The name of a setting, broken where its first word ends: ``external TrafficPolicy``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", setting, count=1)


def _words(cell: Cell) -> str:
    return f"{cell.works} {cell.rest}".rstrip()


def _reasons(grid: Grid) -> Iterator[str]:
    """The first reasons why something does not work."""
    found = grid.reasons
    yield from found[:MOST_REASONS]
    if len(found) > MOST_REASONS:
        yield f"… and {len(found) - MOST_REASONS:,} more reasons, in the column why"


# ------------------------------------------------------------------------------------------------------------------ HTML


_OWN_STYLE = """\
.kpsim-report h3{font-size:1.05em;margin:1.8em 0 .3em;overflow-wrap:anywhere}
.kpsim-report table.survey{border-collapse:separate;border-spacing:2px;font-size:.85em}
.kpsim-report table.survey th{font-weight:600;white-space:normal}
.kpsim-report table.survey tbody th{font-weight:400;white-space:normal;min-width:4.2rem;max-width:11rem;overflow-wrap:anywhere}
.kpsim-report table.survey th,.kpsim-report table.survey td{padding:.2rem .5rem;border:0;vertical-align:middle;text-align:left}
.kpsim-report table.survey td{border-left:.3rem solid;border-radius:.2rem;line-height:1.25;white-space:nowrap;min-width:4rem}
.kpsim-report table.survey td b,.kpsim-report table.survey td small{display:block}
.kpsim-report table.survey td b{font-weight:600}
.kpsim-report table.survey td small{opacity:.8}
.kpsim-report table.survey td:last-child:not(.number){min-width:4rem}
.kpsim-report table.survey tbody tr.dialled th{font-weight:600;max-width:none;padding-top:.6rem;border-bottom:1px solid #8886}
.kpsim-report table.survey th small{opacity:.7}
.kpsim-report table.survey td.good{background:#009e7333;border-left-color:#009e73}
.kpsim-report table.survey td.part{background:#e69f0033;border-left:.3rem dashed #e69f00}
.kpsim-report table.survey td.bad{background:#d55e003d;border-left:.3rem double #d55e00}
.kpsim-report table.survey td.unknown{background:#cc79a73d;border-left:.3rem dotted #cc79a7}
.kpsim-report table.survey td.idle{border-left:.3rem dotted #8888;opacity:.7}
.kpsim-report table.survey td.none{border-left-color:transparent}
.kpsim-report ul.why{margin:.3rem 0;padding-left:1.2rem;font-size:.9em}
.kpsim-report p,.kpsim-report li{overflow-wrap:anywhere}
.kpsim-report details summary{cursor:pointer}
@media (max-width:40rem){
.kpsim-report table.survey{font-size:.78em}
.kpsim-report table.survey th,.kpsim-report table.survey td{padding:.15rem .3rem}
}
"""


def page_of(head: Head, grids: Sequence[Grid]) -> str:
    """One HTML file that needs nothing else and holds no script."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(head.title)}</title>\n<style>\n{PAGE_STYLE}</style>\n</head>\n<body>\n"
        f"{fragment_of(head, grids)}</body>\n</html>\n"
    )


def fragment_of(head: Head, grids: Sequence[Grid]) -> str:
    """The survey as an element to put into a page, such as a notebook's output."""
    figures = "".join(f"<li><b>{escape(value)}</b>{escape(name)}</li>" for value, name in head.figures)
    notes = "".join(f"<li>{escape(note)}</li>" for note in head.notes)
    return (
        f'<div class="kpsim-report">\n<style>\n{STYLE}{_OWN_STYLE}</style>\n<h1>{escape(head.title)}</h1>\n'
        + (f'<p class="muted">{escape(head.varied)}</p>\n' if head.varied else "")
        + f'<ul class="headline">{figures}</ul>\n<p class="muted">{escape(LEGEND)}</p>\n'
        + (f"<details><summary>notes ({len(head.notes)})</summary><ul>{notes}</ul></details>\n" if notes else "")
        + "".join(map(_html_of, grids))
        + "</div>\n"
    )


def _html_of(grid: Grid) -> str:
    names = ", ".join(grid.services)
    listed = ""
    if some(grid.services) != names:
        listed = f"<details><summary>all {len(grid.services):,}</summary><p>{escape(names)}</p></details>\n"
    remarks = "".join(f'<p class="muted">{escape(each)}</p>\n' for each in grid.remarks)
    reasons = "".join(f"<li>{escape(each)}</li>" for each in _reasons(grid))
    return (
        f'<h3>{escape(some(grid.services))} <span class="muted">{escape(grid.about)}</span></h3>\n{listed}'
        f'<div class="scroll"><table class="survey">{_html_head(grid)}<tbody>\n{"".join(_html_lines(grid))}</tbody></table></div>\n'
        f"{remarks}" + (f'<ul class="why">{reasons}</ul>\n' if reasons else "")
    )


def _html_head(grid: Grid) -> str:
    names = ("from", *(("when",) if grid.settings else ()), *grid.nodes)
    return f"<thead><tr>{''.join(f'<th>{escape(name)}</th>' for name in names)}</tr></thead>"


def _html_lines(grid: Grid) -> Iterator[str]:
    """The lines under their frontends. Those of one kind of client share its cell."""
    width = 1 + bool(grid.settings) + len(grid.nodes)
    for dialled, of_dialled in groupby(grid.lines, lambda line: line.dialled):
        yield f'<tr class="dialled"><th colspan="{width}">{escape(dialled.words)}</th></tr>\n'
        for client, of_client in groupby(of_dialled, lambda line: line.client):
            variants = list(of_client)
            named = f'<th rowspan="{len(variants)}">{escape(client)}</th>'
            for line in variants:
                when = f"<th>{_html_when(grid, line)}</th>" if grid.settings else ""
                yield f"<tr>{named}{when}{''.join(map(_html_cell, line.cells))}</tr>\n"
                named = ""


def _html_when(grid: Grid, line: Line) -> str:
    """The values of a line's settings; those that make no difference to it are left out."""
    told = [
        f"<small>{re.sub(r'(?<=[a-z])(?=[A-Z])', '<wbr>', escape(setting), count=1)}</small> {escape(value)}"
        for setting, value in zip(grid.settings, line.values, strict=True)
        if value != ANY
    ]
    return "<br>".join(told) or "<small>always</small>"


def _html_cell(cell: Cell | None) -> str:
    if cell is None:
        return '<td class="none">–</td>'
    why = f' title="{escape(cell.why)}"' if cell.why else ""
    rest = f"<small>{escape(cell.rest)}</small>" if cell.rest else ""
    return f'<td class="{cell.tone}"{why}><b>{escape(cell.works)}</b>{rest}</td>'
