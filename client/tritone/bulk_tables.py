"""Tables of jobs on Ray and Spark, of Arrow or pandas: the inputs of their rows, and the columns of the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tritone.bulk_calls import BulkCall, BulkCaller, Row
from tritone.exceptions import InvalidInputError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def add_result_columns(table: pa.Table, caller: BulkCaller) -> pa.Table:
    """Make the call of each row, and return the table with the columns of the results.

    Raises:
        InvalidInputError: as `kept_columns` and `BulkCaller.rows`, like the following.
        ClientError: the calls cannot succeed for any row.
    """
    import pyarrow as pa

    call = caller.call
    kept = kept_columns(table.column_names, call)
    rows = caller.rows(_inputs(table.column_names, lambda name: table.column(name).to_pylist(), call))
    columns = {name: table.column(name) for name in kept}
    return pa.table({**columns, **{name: _column(rows, name, kind) for name, kind in call.columns.items()}})


def add_result_columns_to_frame(frame: pd.DataFrame, caller: BulkCaller) -> pd.DataFrame:
    """As `add_result_columns`, for a frame of pandas; None where there is no value."""
    import pandas as pd

    call = caller.call
    kept = kept_columns(list(frame.columns), call)
    rows = caller.rows(_inputs(list(frame.columns), lambda name: frame[name].tolist(), call))
    results = {name: pd.Series([row[name] for row in rows], dtype=object) for name in call.columns}
    return frame[kept].reset_index(drop=True).assign(**results)


def kept_columns(columns: Sequence[str], call: BulkCall) -> list[str]:
    """Return the columns of a table that are kept: all but the content of files.

    Raises:
        InvalidInputError: a column that the call needs is missing, or one has the name of a result's column.
    """
    has_bytes = call.bytes_column in columns
    needed = [name for parameter, name in call.inputs.items() if not (has_bytes and parameter == "path")]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise InvalidInputError(
            f"no column {missing[0]!r} in the data: expected {', '.join(needed)}, got {', '.join(columns) or 'none'}; "
            f"pass the name of the column, or rename one",
            argument="inputs",
        )
    taken = [name for name in columns if name in call.columns]
    if taken:
        raise InvalidInputError(
            f"a column of the data has the name of a column of the results: expected none of "
            f"{', '.join(call.columns)}, got {taken[0]!r}; rename or drop it",
            argument="inputs",
        )
    return [name for name in columns if name != call.bytes_column]


def _inputs(columns: Sequence[str], values_of: Callable[[str], list[Any]], call: BulkCall) -> list[Mapping[str, Any]]:
    """Return the arguments of each row's call."""
    has_bytes = call.bytes_column in columns
    inputs = {
        parameter: values_of(str(call.bytes_column) if has_bytes and parameter == "path" else name)
        for parameter, name in call.inputs.items()
    }
    return [dict(zip(inputs, values, strict=True)) for values in zip(*inputs.values(), strict=True)]


def _column(rows: Sequence[Row], name: str, kind: str) -> pa.Array:
    import pyarrow as pa

    values = [row[name] for row in rows]
    if kind.startswith("MAP"):
        values = [None if value is None else list(value.items()) for value in values]
    return pa.array(values, _types()[kind])


def _types() -> Mapping[str, pa.DataType]:
    """Return the types of Arrow by their names in DuckDB."""
    import pyarrow as pa

    return {
        "VARCHAR": pa.string(),
        "VARCHAR[]": pa.list_(pa.string()),
        "FLOAT": pa.float32(),
        "DOUBLE": pa.float64(),
        "BIGINT": pa.int64(),
        "BLOB": pa.binary(),
        "FLOAT[]": pa.list_(pa.float32()),
        "MAP(VARCHAR, FLOAT)": pa.map_(pa.string(), pa.float32()),
    }
