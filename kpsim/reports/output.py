"""Writes a run's reports into a directory: one page, one JSON file, frames, plots. The same run gives the same bytes.

::

    report.html      everything on one page
    summary.json     figures, expectations, windows
    frames/          one .parquet and one .csv for each declared frame; columns.csv says what the columns mean
    plots/           one .png for each picture that has something to show

No file of another name is ever written or removed.
"""

import csv
import json
from collections.abc import Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpsim.errors import InputError, Problem
from kpsim.reports.expectations import ExpectationResult
from kpsim.reports.frames import TABLES, Table
from kpsim.reports.html import html_page
from kpsim.reports.plots import PLOT_NAMES, plots
from kpsim.reports.summary import summary_json
from kpsim.simulation.runlog import RunLog

if TYPE_CHECKING:
    import pandas as pd


def write_output(log: RunLog, results: Sequence[ExpectationResult], directory: Path) -> list[Path]:
    """Write all reports below ``directory`` (made if missing) and return the files.

    InputError if that is not possible.
    """
    try:
        return _write(log, results, directory)
    except OSError as error:
        place = str(error.filename or directory)
        raise InputError(Problem(f"cannot write: {error.strerror}", file=place)) from error


def _write(log: RunLog, results: Sequence[ExpectationResult], directory: Path) -> list[Path]:
    frames, pictures = directory / "frames", directory / "plots"
    for folder in (directory, frames, pictures):
        folder.mkdir(parents=True, exist_ok=True)
    contents: dict[Path, bytes] = {}
    drawn = plots(log)
    contents[directory / "report.html"] = html_page(log, results, drawn).encode()
    summary = json.dumps(summary_json(log, results), indent=2, ensure_ascii=False, allow_nan=False)
    contents[directory / "summary.json"] = f"{summary}\n".encode()
    for table in TABLES:
        frame = table.frame(log)
        contents[frames / f"{table.name}.csv"] = frame.to_csv(index=False, lineterminator="\n").encode()
        contents[frames / f"{table.name}.parquet"] = _parquet(table, frame)
    contents[frames / "columns.csv"] = _columns_csv().encode()
    for plot in drawn:
        contents[pictures / f"{plot.name}.png"] = plot.png()
    for path, content in contents.items():
        path.write_bytes(content)
    for name in PLOT_NAMES:  # remove pictures of an earlier run that this run does not draw: they would mislead
        if pictures / f"{name}.png" not in contents:
            (pictures / f"{name}.png").unlink(missing_ok=True)
    return list(contents)


def _parquet(table: Table[Any], frame: "pd.DataFrame") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    meanings = {column.name: {"unit": column.unit, "meaning": column.meaning} for column in table.columns}
    schema = pa.schema([field.with_metadata(meanings[field.name]) for field in arrow.schema], arrow.schema.metadata)
    out = BytesIO()
    pq.write_table(arrow.cast(schema), out, compression="zstd")
    return out.getvalue()


def _columns_csv() -> str:
    out = StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("frame", "column", "dtype", "unit", "meaning"))
    for table in TABLES:
        rows.writerows((table.name, c.name, c.dtype, c.unit, c.meaning) for c in table.columns)
    return out.getvalue()
