"""Writes a run's reports into a directory: one page, one JSON file, frames, plots. The same run gives the same bytes.

::

    report.html      everything on one page
    summary.json     figures, expectations, windows
    frames/          one .parquet and one .csv for each declared frame; columns.csv says what the columns mean
    plots/           one .png for each picture that has something to show

No file of another name is ever written or removed. :mod:`kpsim.outputs` puts the directory in its place as a whole.
"""

import csv
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from kpsim.outputs import write_directory
from kpsim.reports.columns import csv_of, parquet_of
from kpsim.reports.expectations import ExpectationResult
from kpsim.reports.frames import TABLES, Table
from kpsim.reports.page import html_page
from kpsim.reports.plots import PLOT_NAMES, plots
from kpsim.reports.simulated import Simulated
from kpsim.reports.summary import summary_json
from kpsim.simulation.runlog import RunLog


def write_output(
    log: RunLog, results: Sequence[ExpectationResult], directory: Path, told: Simulated | None = None
) -> list[Path]:
    """Write all reports below ``directory`` (made if missing) and return the files. ``told`` is for the page.

    InputError if that is not possible.
    """
    return write_directory(directory, _contents(log, results, told), _known_files())


def _contents(log: RunLog, results: Sequence[ExpectationResult], told: Simulated | None) -> dict[str, bytes]:
    """All files by name, the page first."""
    drawn = plots(log)
    contents = {"report.html": html_page(log, results, drawn, told).encode()}
    summary = json.dumps(summary_json(log, results), indent=2, ensure_ascii=False, allow_nan=False)
    contents["summary.json"] = f"{summary}\n".encode()
    for table in TABLES:
        frame = table.frame(log)
        contents[f"frames/{table.name}.csv"] = csv_of(frame).encode()
        contents[f"frames/{table.name}.parquet"] = parquet_of(table.columns, frame)
    contents["frames/columns.csv"] = columns_csv(TABLES).encode()
    for plot in drawn:
        contents[f"plots/{plot.name}.png"] = plot.png()
    return contents


def _known_files() -> list[str]:
    """The name of every file that a report may have. A run draws only the pictures that have something to show."""
    frames = [f"frames/{table.name}.{suffix}" for table in TABLES for suffix in ("csv", "parquet")]
    pictures = [f"plots/{name}.png" for name in PLOT_NAMES]
    return ["report.html", "summary.json", "frames/columns.csv", *frames, *pictures]


def columns_csv(tables: Sequence[Table[Any]]) -> str:
    """Return what the columns of the frames mean, as CSV."""
    out = StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("frame", "column", "dtype", "unit", "meaning"))
    for table in tables:
        rows.writerows((table.name, c.name, c.dtype, c.unit, c.meaning) for c in table.columns)
    return out.getvalue()
