"""Declared columns: what a frame has, in which types, and what it means. A frame without rows has the same columns and types."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import pandas as pd

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Column(Generic[Record]):
    """A declared column and how it is read from a record.

    ``Int64``, ``boolean`` and ``float64`` columns may have missing values.
    """

    name: str
    dtype: str
    unit: str
    meaning: str
    read: Callable[[Record], Any]


def frame_of(columns: Iterable[Column[Record]], records: Iterable[Record]) -> "pd.DataFrame":
    """Return records under declared columns."""
    import pandas as pd

    records = list(records)
    return pd.DataFrame({c.name: pd.Series([c.read(record) for record in records], dtype=c.dtype) for c in columns})


def csv_of(frame: "pd.DataFrame") -> str:
    """Return a frame as CSV, the same bytes on every machine."""
    return str(frame.to_csv(index=False, lineterminator="\n"))


def parquet_of(columns: Iterable[Column[Any]], frame: "pd.DataFrame") -> bytes:
    """Return a frame as a Parquet file, whose fields carry unit and meaning."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    meanings = {column.name: {"unit": column.unit, "meaning": column.meaning} for column in columns}
    schema = pa.schema([field.with_metadata(meanings[field.name]) for field in arrow.schema], arrow.schema.metadata)
    out = BytesIO()
    pq.write_table(arrow.cast(schema), out, compression="zstd")
    return out.getvalue()
