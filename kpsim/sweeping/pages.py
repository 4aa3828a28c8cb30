"""A sweep as text, as a page, and as a directory of files. The same sweep gives the same bytes, whoever computed the runs.

::

    report.html      everything on one page
    summary.json     answers, points, figures
    frames/          points, runs, conditions: .parquet and .csv; columns.csv says what the columns mean
    plots/           one .png for each headline figure
"""

from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from kpsim.outputs import write_directory
from kpsim.reports.canvas import Plot
from kpsim.reports.columns import csv_of, parquet_of
from kpsim.reports.html import PAGE_STYLE, STYLE, escape, html_figure, html_table
from kpsim.reports.output import columns_csv
from kpsim.reports.summary import drawn_table
from kpsim.sweeping.frames import frames, tables
from kpsim.sweeping.outcome import Outcome
from kpsim.sweeping.sentences import answer_lines, points_table, title_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_MOST_PICTURES_KNOWN = ("sweep_lost",)


def print_summary(found: Outcome, console: "Console") -> None:
    """Print the summary. The console decides about colours and width."""
    for part in _parts(found):
        console.print(part, highlight=False)


def summary_text(found: Outcome, width: int = 120) -> str:
    """Return the summary as plain text, at most ``width`` columns wide."""
    from rich.console import Console

    out = StringIO()
    print_summary(found, Console(file=out, width=width, color_system=None, force_terminal=False, force_jupyter=False))
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


def _parts(found: Outcome) -> "Iterator[RenderableType]":
    from rich.text import Text

    yield Text(title_line(found), style="bold")
    yield from (Text(line) for line in answer_lines(found))
    yield ""
    yield drawn_table(points_table(found))


def html_fragment(found: Outcome, pictures: Sequence[Plot]) -> str:
    """Return the page as an element to put into another, such as a notebook's output."""
    parts = [
        f"<style>\n{STYLE}</style>\n",
        f"<h1>{escape(title_line(found))}</h1>\n",
        f"<p>{escape(found.description)}</p>\n" if found.description else "",
        *(f"<p>{escape(line)}</p>\n" for line in answer_lines(found)),
        html_table(points_table(found)),
        *map(html_figure, pictures),
    ]
    return f'<div class="kpsim-report">\n{"".join(parts)}</div>\n'


def _html_page(found: Outcome, pictures: Sequence[Plot]) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(found.scenario)} – kpsim sweep</title>\n<style>\n{PAGE_STYLE}</style>\n</head>\n<body>\n"
        f"{html_fragment(found, pictures)}</body>\n</html>\n"
    )


def write_output(found: Outcome, summary: str, pictures: Sequence[Plot], directory: Path) -> list[Path]:
    """Write everything below ``directory`` (made if missing) and return the files. InputError if that is not possible."""
    contents = {"report.html": _html_page(found, pictures).encode(), "summary.json": summary.encode()}
    made = frames(found)
    for table in tables(found):
        frame = made[table.name]
        contents[f"frames/{table.name}.csv"] = csv_of(frame).encode()
        contents[f"frames/{table.name}.parquet"] = parquet_of(table.columns, frame)
    contents["frames/columns.csv"] = columns_csv(tables(found)).encode()
    for plot in pictures:
        contents[f"plots/{plot.name}.png"] = plot.png()
    return write_directory(directory, contents, [*contents, *(f"plots/{name}.png" for name in _MOST_PICTURES_KNOWN)])
