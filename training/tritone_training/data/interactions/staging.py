"""Copy the rows of a log into a temporary database, and read its cells there: ids, counts, times and flags.

The rules are those of `parsing`. Whatever SQL reads in the same way (typed columns of Parquet, plain numbers, ISO
dates) is read by SQL; of the other texts each different one is parsed once in Python. No row is an object of Python.

`rows` is the table that results: `row` (position in the log), `user` and `item` (indices of ids, NULL if invalid),
`plays` (DOUBLE), `time` (DOUBLE, seconds since 1970), `skipped` (BOOLEAN), and `user_fault` and `item_fault`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd

from tritone_training.data.interactions.parsing import (
    COMPACT,
    COMPACT_FORMATS,
    PARTS,
    PLAUSIBLE_S,
    IdCounts,
    are_numbers,
    normalize_ids,
    parse_flags,
    parse_numbers,
    parse_times,
    time_notes,
)
from tritone_training.data.interactions.scratch import Scratch
from tritone_training.data.tables import NOTHING, Table
from tritone_training.exceptions import DataError

IS_VALID: Final = 0  # faults of ids
IS_MISSING: Final = 1
IS_NOT_UTF8: Final = 2
HAS_LINES: Final = 3
_NUMBER: Final = "number"  # kinds of staged columns
_MOMENT: Final = "moment"
_TEXT: Final = "text"
_NOT_UTF8_MARK: Final = "\0"  # before the hexadecimal digits of a text with bytes that are not UTF-8
# Everything that `str.strip` removes.
_BLANKS: Final = (
    " \t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
# Numbers of up to 15 digits, which every parser reads alike; 1.234 may be 1234.
_PLAIN: Final = r"-?\d{1,15}|-?\d{1,7}\.\d{1,8}"
_MAY_BE_THOUSANDS: Final = r"-?\d{1,3}\.\d{3}"
_PLAIN_TIME: Final = r"-?\d{1,15}|-?\d{1,10}\.\d{1,5}"
_ISO_DATE: Final = r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_ISO_TIME: Final = r"[T ](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?"
_ISO_ZONE: Final = r"(?:Z|[+-](?:0\d|1[0-4]):[0-5]\d)"
_ISO: Final = f"{_ISO_DATE}(?:{_ISO_TIME}{_ISO_ZONE}?)?"
_ISO_ZONED: Final = f"{_ISO_DATE}{_ISO_TIME}{_ISO_ZONE}"
_WHOLE_TYPES: Final = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
)
_FIRST_MOMENT, _LAST_MOMENT = "TIMESTAMP '0001-01-01'", "TIMESTAMP '9999-12-31 23:59:59.999999'"


@dataclass(frozen=True)
class RowColumns:
    """Columns of a log.

    Attributes:
        counted: play counts or ratings.
        counted_option: the option that names this column, for messages.
    """

    user: str
    item: str
    counted: str | None = None
    time: str | None = None
    skipped: str | None = None
    counted_option: str = "--plays-column"


@dataclass(frozen=True, eq=False)
class StagedLog:
    """What was found while the rows were read.

    Attributes:
        users: different valid ids, sorted; index `user` of the table `rows`.
        items: likewise.
        n_rows_of_user: (U,) rows of each user.
        n_rows: all rows.
        id_counts: changes of ids by "user" and "item".
        times: counts of times with and without a zone; None without times.
        notes: sentences for the report, on counts and on times.
    """

    users: Sequence[str]
    items: Sequence[str]
    n_rows_of_user: npt.NDArray[np.int64]
    n_rows: int
    id_counts: Mapping[str, IdCounts]
    times: Mapping[str, int] | None = None
    count_notes: tuple[str, ...] = ()
    time_notes: tuple[str, ...] = ()


@dataclass
class _Staging:
    """The state of one reading."""

    scratch: Scratch
    source: str
    columns: RowColumns
    path: Path
    separator: str | None = None
    kinds: dict[str, str] = field(default_factory=dict)
    is_whole: bool = False
    n_rows: int = 0
    n_naive: int = 0
    n_zoned: int = 0


def stage_table(scratch: Scratch, source: str, table: Table, columns: RowColumns) -> StagedLog:
    """Read the rows of a table.

    Args:
        source: name of the log, for messages.

    Raises:
        DataError: the table is damaged, a column holds values that are ambiguous or of another kind, or space runs out.
    """
    parts = table.parts or [(table, {})]
    staging = _Staging(scratch, source, columns, table.path, table.separator)
    for use, name in _used(columns).items():
        if use != "skipped":
            _check_same_types(name, parts)
    for what in ("counted", "time"):
        if (name := getattr(columns, what)) is not None:
            staging.kinds[what] = _kind_of(what, [_type_of(part, keys, name) for part, keys in parts])
    time_types = [_type_of(part, keys, columns.time) for part, keys in parts] if columns.time else []
    staging.is_whole = bool(time_types) and all(kind in _WHOLE_TYPES for kind in time_types if kind is not None)
    _create(staging)
    for part, keys in parts:
        if part.scan is not None:
            _insert_parquet(staging, part, keys)
        else:
            names = [name for name in _used(columns).values() if name in part.names and name not in keys]
            _insert_frames(staging, part.chunks(names or [part.names[0]]), keys)
    return _read(staging)


def stage_frames(scratch: Scratch, source: str, path: Path, frames: Iterator[pd.DataFrame]) -> StagedLog:
    """Read rows of the columns `user` and `item`.

    Raises:
        DataError: as `stage_table`.
    """
    staging = _Staging(scratch, source, RowColumns("user", "item"), path)
    _create(staging)
    _insert_frames(staging, frames, {})
    return _read(staging)


# --- rows as they are in the files ----------------------------------------------------------------------------------


def _used(columns: RowColumns) -> dict[str, str]:
    """Return use -> column."""
    uses = ("user", "item", "counted", "time", "skipped")
    return {use: name for use in uses if (name := getattr(columns, use)) is not None}


def _type_of(part: Table, keys: Mapping[str, str | None], name: str) -> str | None:
    """Return the type of a column in a part: of DuckDB, `text`, or None if the column has no values."""
    if name in keys:
        return _TEXT if keys[name] is not None else None
    if part.unusable.get(name) == NOTHING or name not in part.names:
        return None
    return _TEXT if part.scan is None else part.scan.types[name]


def _check_same_types(name: str, parts: Sequence[tuple[Table, Mapping[str, str | None]]]) -> None:
    """Check that a column has one kind of type in all Parquet parts; numbers may have different sizes.

    Raises:
        DataError: it holds text in one part and numbers in another, for example.
    """
    first: tuple[Path, str] | None = None
    for part, keys in parts:
        kind = _type_of(part, keys, name)
        if part.scan is None or kind is None or name in keys:
            continue
        if first is None:
            first = part.path, kind
        elif _family(kind) != _family(first[1]):
            raise DataError(
                f"{part.path}: column {name!r} has another type than in {first[0].name}: expected {_family(first[1])} "
                f"({first[1]}), got {_family(kind)} ({kind}); write the part again with that type"
            )


def _family(kind: str) -> str:
    if kind in _WHOLE_TYPES or kind in ("DOUBLE", "FLOAT") or kind.startswith("DECIMAL"):
        return "numbers"
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return "times"
    return "flags" if kind == "BOOLEAN" else "text"


def _kind_of(what: str, types: Sequence[str | None]) -> str:
    """Return how a column is staged: by its type if this settles in each part how it is read, else as text."""
    known = [kind for kind in types if kind is not None]
    families = {_family(kind) for kind in known}
    if families == {"numbers"}:
        return _NUMBER
    if what == "time" and families == {"times"}:
        return _MOMENT
    return _TEXT


def _create(staging: _Staging) -> None:
    columns = {"row": "BIGINT", "user": "VARCHAR", "item": "VARCHAR"}
    for what in ("counted", "time"):
        if what in _used(staging.columns):
            columns[what] = "VARCHAR" if staging.kinds.get(what, _TEXT) == _TEXT else "DOUBLE"
    if staging.columns.skipped is not None:
        columns["skipped"] = "VARCHAR"
    for what in ("counted", "time"):
        if what in columns:
            staging.kinds.setdefault(what, _TEXT)
    defined = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    staging.scratch.run(f"CREATE TABLE staged ({defined})")


def _insert_parquet(staging: _Staging, part: Table, keys: Mapping[str, str | None]) -> None:
    """Copy the rows of a Parquet file.

    Raises:
        DataError: the file is damaged, holds zero bytes, or space runs out.
    """
    scan = part.scan
    assert scan is not None  # noqa: S101 - checked by the caller
    chosen = []
    for use, name in _used(staging.columns).items():
        kind = staging.kinds.get(use, _TEXT)
        if name in keys:
            chosen.append("NULL" if keys[name] is None else _literal(str(keys[name])))
        elif _type_of(part, keys, name) is None:
            chosen.append("NULL")
        elif kind == _NUMBER:
            chosen.append(_as_number(scan.stored[name], scan.types[name]))
        elif kind == _MOMENT:
            chosen.append(_as_seconds(scan.stored[name]))
        else:
            chosen.append(_stripped(scan.texts[name]) if use in ("counted", "time") else scan.texts[name])
    first = staging.n_rows
    names = ", ".join(use for use in _used(staging.columns))
    query = (
        f"INSERT INTO staged (row, {names}) SELECT file_row_number + {first}, {', '.join(chosen)} "
        f"FROM read_parquet({_literal(scan.file)}, file_row_number = true)"
    )
    try:
        staging.n_rows += int(staging.scratch.run(query)[0][0])
    except duckdb.Error as error:
        raise scan.damaged(error) from error
    for use, name in _used(staging.columns).items():
        if name not in keys and scan.types.get(name) in ("VARCHAR", "BLOB"):
            _check_zero_bytes(staging, part.path, use, name, first)
    if staging.kinds.get("time") == _MOMENT and (time := staging.columns.time) is not None:
        known = f"SELECT count(time) FROM staged WHERE row >= {first}"
        n_known = int(staging.scratch.run(known)[0][0])
        is_zoned = "TIME ZONE" in (scan.types.get(time) or "")
        staging.n_zoned += n_known * is_zoned
        staging.n_naive += n_known * (not is_zoned)


def _check_zero_bytes(staging: _Staging, path: Path, use: str, name: str, first: int) -> None:
    found = staging.scratch.run(f"SELECT min(row) FROM staged WHERE row >= {first} AND contains({use}, chr(0))")
    if found[0][0] is not None:
        raise DataError(
            f"{path}: column {name!r} holds a zero byte (row {found[0][0] - first + 1:,}): expected text or numbers; "
            f"write ids of bytes as hexadecimal digits"
        )


def _insert_frames(staging: _Staging, frames: Iterator[pd.DataFrame], keys: Mapping[str, str | None]) -> None:
    used = _used(staging.columns)
    for frame in frames:
        columns: dict[str, Any] = {"row": np.arange(staging.n_rows, staging.n_rows + len(frame))}
        for use, name in used.items():
            if name in keys:
                columns[use] = pd.Series([keys[name]] * len(frame), dtype=object)
            elif name not in frame.columns:
                columns[use] = pd.Series([None] * len(frame), dtype=object)
            else:
                columns[use] = pd.Series(_utf8(frame[name].to_numpy(object)), dtype=object)
        selected = ", ".join(_stripped(use) if use in ("counted", "time") else use for use in ("row", *used))
        names = ", ".join(use for use in ("row", *used))
        staging.scratch.insert(
            f"INSERT INTO staged ({names}) SELECT {selected} FROM piece", piece=pd.DataFrame(columns)
        )
        staging.n_rows += len(frame)


def _utf8(cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return texts that the database can store: a mark and hexadecimal digits for bytes that are not UTF-8."""
    try:
        "".join(cell for cell in cells if isinstance(cell, str)).encode("utf-8")
    except UnicodeEncodeError:
        return np.array([_storable(cell) for cell in cells], object)
    return cells


def _storable(cell: object) -> object:
    try:
        if isinstance(cell, str):
            cell.encode("utf-8")
    except UnicodeEncodeError:
        return _NOT_UTF8_MARK + str(cell).encode("utf-8", "surrogatepass").hex()
    return cell


def _original(text: str) -> str:
    """Return the text that `_utf8` stored."""
    if not text.startswith(_NOT_UTF8_MARK):
        return text
    return bytes.fromhex(text[1:]).decode("utf-8", "surrogatepass")


# --- what the cells mean --------------------------------------------------------------------------------------------


def _read(staging: _Staging) -> StagedLog:
    """Create the table `rows` from the table `staged`."""
    scratch = staging.scratch
    users, user_counts, rows_of_user = _read_ids(staging, "user")
    items, item_counts, _ = _read_ids(staging, "item")
    plays, count_notes = "1.0::DOUBLE", tuple[str, ...]()
    if staging.columns.counted is not None:
        plays, count_notes = _read_counts(staging)
    time = "NULL::DOUBLE"
    if staging.columns.time is not None:
        time = _read_times(staging)
    skipped = "false"
    if staging.columns.skipped is not None:
        skipped = _read_flags(staging)
    joins = "".join(f" LEFT JOIN {what}_texts ON staged.{what} = {what}_texts.text" for what in _joined(staging))
    scratch.run(
        f"CREATE TABLE rows AS SELECT row, user_texts.code AS user, item_texts.code AS item, {plays} AS plays, "
        f"{time} AS time, {skipped} AS skipped, coalesce(user_texts.fault, {IS_MISSING}) AS user_fault, "
        f"coalesce(item_texts.fault, {IS_MISSING}) AS item_fault FROM staged{joins}"
    )
    scratch.run("DROP TABLE staged")
    for what in _joined(staging):
        scratch.run(f"DROP TABLE {what}_texts")
    times = notes = None
    if staging.columns.time is not None:
        times = {"n_without_zone": staging.n_naive, "n_with_zone": staging.n_zoned}
        notes = _median_notes(scratch)
    return StagedLog(
        users,
        items,
        rows_of_user,
        staging.n_rows,
        {"user": user_counts, "item": item_counts},
        times,
        count_notes,
        notes or (),
    )


def _joined(staging: _Staging) -> list[str]:
    """Return the columns whose texts have tables of their own."""
    texts = [what for what in ("counted", "time") if staging.kinds.get(what) == _TEXT]
    return ["user", "item", *texts, *(["skipped"] if staging.columns.skipped is not None else [])]


def _different(staging: _Staging, what: str, where: str = "true") -> tuple[list[str], npt.NDArray[np.int64]]:
    """Create the table `<what>_texts` of different texts; return them in order of the rows, and the rows of each."""
    scratch = staging.scratch
    scratch.run(
        f"CREATE TABLE found_texts AS SELECT {what} AS text, count(*) AS n, min(row) AS first FROM staged "
        f"WHERE {what} IS NOT NULL AND ({where}) GROUP BY {what}"
    )
    found = scratch.columns("SELECT text, n FROM found_texts ORDER BY first")
    return [_original(text) for text in found["text"].tolist()], found["n"].astype(np.int64)


def _annotate(staging: _Staging, what: str, **values: npt.NDArray[Any]) -> None:
    """Give the different texts their values, in the order of `_different`."""
    scratch = staging.scratch
    first = scratch.columns("SELECT first FROM found_texts ORDER BY first")["first"]
    frame = pd.DataFrame({"first": first.astype(np.int64), **values})
    names = ", ".join(values)
    scratch.insert(
        f"CREATE TABLE {what}_texts AS SELECT text, {names} FROM found_texts JOIN given USING (first)", given=frame
    )
    scratch.run("DROP TABLE found_texts")


def _read_ids(staging: _Staging, what: str) -> tuple[list[str], IdCounts, npt.NDArray[np.int64]]:
    """Return the different valid ids, sorted, the counts of changes, and the rows of each id."""
    texts, rows = _different(staging, what)
    ids, counts = normalize_ids(staging.path, getattr(staging.columns, what), texts, rows)
    del texts
    faults = np.fromiter((_fault(each) for each in ids), np.uint8, len(ids))
    valid = sorted({each for each, fault in zip(ids, faults.tolist(), strict=True) if fault == IS_VALID})
    code_of = {each: code for code, each in enumerate(valid)}
    codes = np.fromiter((code_of.get(each, -1) for each in ids), np.int32, len(ids))
    codes[faults != IS_VALID] = -1
    _annotate(staging, what, code=codes, fault=faults)
    rows_of_id = np.bincount(codes[codes >= 0], weights=rows[codes >= 0], minlength=len(valid)).astype(np.int64)
    return valid, counts, rows_of_id


def _fault(text: str) -> int:
    if not text:
        return IS_MISSING
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return IS_NOT_UTF8
    return HAS_LINES if "\n" in text else IS_VALID


def _read_counts(staging: _Staging) -> tuple[str, tuple[str, ...]]:
    """Return the SQL expression of the counts or ratings, and notes on how they were read."""
    name, option = staging.columns.counted, staging.columns.counted_option
    if staging.kinds["counted"] == _NUMBER:
        return "counted", ()
    is_plain = f"{_matches('counted', _PLAIN)} AND NOT {_matches('counted', _MAY_BE_THOUSANDS)}"
    texts, _ = _different(staging, "counted", f"NOT ({is_plain})")
    n_odd = len(texts)
    plain = staging.scratch.run(f"SELECT counted FROM staged WHERE {is_plain} LIMIT 1")
    # One of the plain numbers stands for all: that there are some decides how the words for flags are read.
    numbers, notes = parse_numbers(
        staging.path, str(name), [*texts, *(row[0] for row in plain)], separator=staging.separator, option=option
    )
    _annotate(staging, "counted", value=numbers[:n_odd])
    return f"CASE WHEN {is_plain} THEN CAST(counted AS DOUBLE) ELSE counted_texts.value END", notes


def _read_flags(staging: _Staging) -> str:
    texts, _ = _different(staging, "skipped")
    flags = parse_flags(staging.path, str(staging.columns.skipped), texts, option="--skipped-column")
    _annotate(staging, "skipped", value=flags)
    return "coalesce(skipped_texts.value, false)"


def _read_times(staging: _Staging) -> str:
    """Return the SQL expression of the times in seconds."""
    scratch = staging.scratch
    kind = staging.kinds["time"]
    if kind == _MOMENT:
        return "time"
    text = "CAST(CAST(time AS HUGEINT) AS VARCHAR)" if kind == _NUMBER else "time"
    if kind == _TEXT or staging.is_whole:
        lengths = scratch.run(
            f"SELECT min(length({text})), max(length({text})), bool_and({_matches(text, COMPACT)}) FROM staged"
        )[0]
        if lengths[0] == lengths[1] and lengths[0] in COMPACT_FORMATS and lengths[2]:
            if kind == _TEXT:
                _no_texts(staging, "time")
            seconds = f"epoch_us(try_strptime({text}, {_literal(COMPACT_FORMATS[lengths[0]])})) / 1e6"
            staging.n_naive += int(scratch.run(f"SELECT count({seconds}) FROM staged")[0][0])
            return seconds
    if kind == _NUMBER:
        return _scaled("CASE WHEN isfinite(time) THEN time END")
    is_plain, is_iso = _matches("time", _PLAIN_TIME), _matches("time", _ISO)
    iso = f"CASE WHEN {is_iso} THEN epoch_us(try_cast(time AS TIMESTAMPTZ)) / 1e6 END"
    # Dates that do not exist, such as February 30th, are left to the parser of other texts.
    is_known_iso = f"({iso}) IS NOT NULL"
    texts, rows = _different(staging, "time", f"NOT ({is_plain}) AND NOT ({is_known_iso})")
    n_plain, n_iso, n_zoned = scratch.run(
        f"SELECT count(*) FILTER ({is_plain}), count(*) FILTER ({is_known_iso}), "
        f"count(*) FILTER ({is_known_iso} AND {_matches('time', _ISO_ZONED)}) FROM staged WHERE time IS NOT NULL"
    )[0]
    n_numbers = n_plain
    if n_iso or texts:  # a mixed column is read by what most of its different texts are
        n_numbers, n_texts = scratch.run(
            f"SELECT count(DISTINCT time) FILTER ({is_plain}), count(DISTINCT time) FROM staged"
        )[0]
        others = pd.to_numeric(np.array(texts, object), errors="coerce") if texts else np.zeros(0)
        n_numbers += int(np.isfinite(np.asarray(others, np.float64)).sum())
    else:
        n_texts = n_numbers
    as_numbers = are_numbers(n_numbers, n_texts)
    if not as_numbers and n_plain:  # years, such as 2012, among dates
        scratch.run("DROP TABLE found_texts")
        texts, rows = _different(staging, "time", f"NOT ({is_known_iso})")
    parsed, is_naive, is_zoned = np.zeros(0), np.zeros(0, np.bool_), np.zeros(0, np.bool_)
    if texts:
        parsed, is_naive, is_zoned = parse_times(staging.source, texts, as_numbers=as_numbers)
    _annotate(staging, "time", value=parsed)
    if as_numbers:
        return f"CASE WHEN {is_plain} THEN {_scaled('CAST(time AS DOUBLE)')} ELSE time_texts.value END"
    staging.n_naive += int(rows[is_naive].sum()) + n_iso - n_zoned
    staging.n_zoned += int(rows[is_zoned].sum()) + n_zoned
    return f"coalesce({iso}, time_texts.value)"


def _no_texts(staging: _Staging, what: str) -> None:
    _different(staging, what, "false")
    _annotate(staging, what, value=np.zeros(0))


def _median_notes(scratch: Scratch) -> tuple[str, ...]:
    first, last = PLAUSIBLE_S
    known = "FROM rows WHERE isfinite(time)"
    n, n_early, n_late = scratch.run(
        f"SELECT count(*), count(*) FILTER (time < {first}), count(*) FILTER (time > {last}) {known}"
    )[0]
    if not n or (2 * n_early < n and 2 * n_late < n):
        return ()
    return time_notes(float(np.median(scratch.columns(f"SELECT time {known}")["time"])))


# --- SQL ------------------------------------------------------------------------------------------------------------


def _as_number(column: str, kind: str) -> str:
    if kind == "FLOAT":  # through its shortest text, as 0.1 is meant
        return f"CASE WHEN isnan({column}) THEN NULL ELSE CAST(CAST({column} AS VARCHAR) AS DOUBLE) END"
    number = f"CAST({column} AS DOUBLE)"
    return f"CASE WHEN isnan({column}) THEN NULL ELSE {number} END" if kind == "DOUBLE" else number


def _as_seconds(column: str) -> str:
    moment = f"CAST({column} AS TIMESTAMP)"
    return (
        f"CASE WHEN isfinite({moment}) AND {moment} BETWEEN {_FIRST_MOMENT} AND {_LAST_MOMENT} "
        f"THEN epoch_us({moment}) / 1e6 END"
    )


def _scaled(number: str) -> str:
    """Return seconds from seconds, milli-, micro- or nanoseconds."""
    for least, parts in PARTS:
        number = f"(CASE WHEN abs({number}) > {least} THEN {number} / {parts} ELSE {number} END)"
    return number


def _stripped(text: str) -> str:
    return f"trim({text}, {_literal(_BLANKS)})"


def _matches(text: str, pattern: str) -> str:
    return f"regexp_full_match({text}, {_literal(pattern)})"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
