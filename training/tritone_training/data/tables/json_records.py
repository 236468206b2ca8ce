"""Read JSON tables: a list of objects, or one object on each line; numbers keep their digits."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pandas as pd

from tritone_serving.ids import normalize_id
from tritone_training.data.tables.packing import UNPACKING_ERRORS, Content
from tritone_training.data.tables.table import Table, check_names, check_zero_bytes
from tritone_training.exceptions import DataError

_EXPECTED: Final = 'expected a list of objects ([{"user": "ann", "item": "a"}, ...]) or one such object a line'


def json_table(content: Content, encoding: str) -> Table:
    """Read a JSON table.

    Raises:
        DataError: it is damaged, or holds values other than objects.
    """
    path = content.path
    unusable: dict[str, str] = {}
    rows: list[dict[str, str]] = []
    names: dict[str, None] = {}
    try:
        for record in _records(content, encoding):
            if not isinstance(record, dict):
                raise DataError(f"{path}: is JSON, but not a table: {_EXPECTED}")
            row = {}
            for name, value in record.items():
                names.setdefault(name)
                if isinstance(value, list | dict):
                    unusable.setdefault(normalize_id(name), "lists" if isinstance(value, list) else "nested objects")
                elif value is not None and value != "":
                    row[name] = str(value).lower() if isinstance(value, bool) else value
            rows.append(row)
    except (ValueError, RecursionError, *UNPACKING_ERRORS) as error:
        raise DataError(f"{path}: is JSON that cannot be read ({error}); {_EXPECTED}") from error
    if not rows:
        raise DataError(f"{path}: is empty; {_EXPECTED}")
    if len(rows) == 1 and len(unusable) == len(names):  # the default of pandas
        raise DataError(
            f"{path}: is JSON by columns: {_EXPECTED}; convert it (pandas: to_json(orient='records', lines=True))"
        )
    plain = dict(zip(check_names(path, [normalize_id(name) for name in names]), names, strict=True))

    def load(wanted: Sequence[str]) -> pd.DataFrame:
        columns = [pd.Series([row.get(plain[name]) for row in rows], dtype=object) for name in wanted]
        for name, column in zip(wanted, columns, strict=True):
            check_zero_bytes(path, name, column)
        return pd.concat(columns, axis=1) if columns else pd.DataFrame(index=range(len(rows)))

    return Table(path, "JSON", [name for name in plain if name not in unusable], load, unusable=unusable)


def _records(content: Content, encoding: str) -> Iterator[Any]:
    # Numbers keep their digits: floats would round ids, and lose the difference between 12.0 and 12.
    decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=lambda _: None)
    with content.open() as file, io.TextIOWrapper(file, encoding, errors="strict") as text:
        first = text.readline()
        while first and not first.strip():
            first = text.readline()
        if not first.lstrip().startswith("["):
            try:
                yield decoder.decode(first)
            except json.JSONDecodeError:
                pass  # one object over several lines
            else:
                for number, line in enumerate(text, start=2):
                    if line.strip():
                        try:
                            yield decoder.decode(line)
                        except json.JSONDecodeError as error:
                            raise ValueError(f"line {number}: {error.msg}") from error
                return
        whole = decoder.decode(first + text.read())
    if not isinstance(whole, list):
        whole = (
            [whole] if isinstance(whole, dict) and not any(isinstance(v, list | dict) for v in whole.values()) else [0]
        )
    yield from whole
