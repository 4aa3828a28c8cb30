"""Reads runs back from the directories that ``kpsim run --out`` wrote."""

import json
import math
from pathlib import Path
from typing import Any

from kpsim.comparison.runs import Account, Ended
from kpsim.errors import InputError, Problem
from kpsim.inputs import read_text

_COLUMNS = {
    "at_ns": int, "traffic": str, "client": str, "service": str, "node": str, "disposition": str, "cause": str, "endpoint_node": str,
}  # fmt: skip


def read_run(directory: Path) -> Account:
    """Read a report directory. InputError says what it lacks."""
    file = directory / "summary.json"
    try:
        summary = json.loads(read_text(file))
        figures = {str(name): math.nan if value is None else value + 0 for name, value in summary["figures"].items()}
        about = str(summary["scenario"]), int(summary["seed"]), str(summary["mode"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(Problem(f"no summary that kpsim run --out wrote ({error})", file=str(file))) from None
    return Account(str(directory), *about, _connections(directory / "frames" / "connections.parquet"), figures)


def _connections(file: Path) -> tuple[Ended, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file, columns=list(_COLUMNS))
        rows: list[dict[str, Any]] = table.to_pylist()
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        words = str(error).partition("\n")[0]
        raise InputError(
            Problem(f"no frame of connections that kpsim run --out wrote ({words})", file=str(file))
        ) from None
    for row in rows:
        for name, kind in _COLUMNS.items():
            if not isinstance(row.get(name), kind):
                raise InputError(
                    Problem(f"column {name}: expected {kind.__name__}, got {row.get(name)!r}", file=str(file))
                )
    return tuple(Ended(**row) for row in rows)
