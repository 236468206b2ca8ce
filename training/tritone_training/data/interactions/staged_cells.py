"""Read the cells of staged rows: ids, counts, times and flags.

The rules are those of `parsing`. Whatever SQL reads in the same way (typed columns of Parquet, plain numbers, ISO
dates) is read by SQL; of the other texts each different one is parsed once in Python. No row is an object of Python.

`rows` is the table that results: `row` (position in the log), `user` and `item` (indices of ids, NULL if invalid),
`plays` (DOUBLE), `time` (DOUBLE, seconds since 1970), `skipped` (BOOLEAN), `user_fault` and `item_fault`, and `n` (rows
that it stands for) if equal rows are grouped.

Shapes: U users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

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
from tritone_training.data.interactions.scratch import Scratch, sql_text
from tritone_training.data.interactions.staging import MOMENT, NUMBER, TEXT, Staging, original_text

IS_VALID: Final = 0  # faults of ids
IS_MISSING: Final = 1
IS_NOT_UTF8: Final = 2
HAS_LINES: Final = 3
# Numbers of up to 15 digits, which every parser reads alike; 1.234 may be 1234.
_PLAIN: Final = r"-?\d{1,15}|-?\d{1,7}\.\d{1,8}"
_MAY_BE_THOUSANDS: Final = r"-?\d{1,3}\.\d{3}"
_PLAIN_TIME: Final = r"-?\d{1,15}|-?\d{1,10}\.\d{1,5}"
_ISO_DATE: Final = r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_ISO_TIME: Final = r"[T ](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?"
_ISO_ZONE: Final = r"(?:Z|[+-](?:0\d|1[0-4]):[0-5]\d)"
_ISO: Final = f"{_ISO_DATE}(?:{_ISO_TIME}{_ISO_ZONE}?)?"
_ISO_ZONED: Final = f"{_ISO_DATE}{_ISO_TIME}{_ISO_ZONE}"


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
        is_grouped: whether the table `rows` has the column `n`.
        notes: sentences for the report, on counts and on times.
    """

    users: Sequence[str]
    items: Sequence[str]
    n_rows_of_user: npt.NDArray[np.int64]
    n_rows: int
    id_counts: Mapping[str, IdCounts]
    times: Mapping[str, int] | None = None
    is_grouped: bool = False
    count_notes: tuple[str, ...] = ()
    time_notes: tuple[str, ...] = ()


def read_cells(staging: Staging) -> StagedLog:
    """Create the table `rows` from the table `staged`, which is removed.

    Raises:
        DataError: a column holds values that are ambiguous or of another kind, or space runs out.
    """
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
    joins = "".join(f" LEFT JOIN {what}_texts ON staged.{what} = {what}_texts.key" for what in _joined(staging))
    n = ", n" if staging.is_grouped else ""
    removed = ["staged", *(["user_ids", "item_ids"] if staging.is_grouped else [])]
    scratch.run(
        f"CREATE TABLE rows AS SELECT row, user_texts.code AS user, item_texts.code AS item, {plays} AS plays, "
        f"{time} AS time, {skipped} AS skipped, coalesce(user_texts.fault, {IS_MISSING}) AS user_fault, "
        f"coalesce(item_texts.fault, {IS_MISSING}) AS item_fault{n} FROM staged{joins}"
    )
    for table in (*removed, *(f"{what}_texts" for what in _joined(staging))):
        scratch.run(f"DROP TABLE {table}")
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
        staging.is_grouped,
        count_notes,
        notes or (),
    )


def _joined(staging: Staging) -> list[str]:
    """Return the columns whose texts have tables of their own."""
    texts = [what for what in ("counted", "time") if staging.kinds.get(what) == TEXT]
    return ["user", "item", *texts, *(["skipped"] if staging.columns.skipped is not None else [])]


def _different(staging: Staging, what: str, where: str = "true") -> tuple[list[str], npt.NDArray[np.int64]]:
    """Create the table `<what>_texts` of different texts; return them in order of the rows, and the rows of each."""
    scratch = staging.scratch
    if _has_keys(staging, what):
        found_texts = f"SELECT text, sum(n)::BIGINT AS n, min(first) AS first FROM {what}_ids GROUP BY text"
    else:
        found_texts = (
            f"SELECT {what} AS text, count(*) AS n, min(row) AS first FROM staged "
            f"WHERE {what} IS NOT NULL AND ({where}) GROUP BY {what}"
        )
    scratch.run(f"CREATE TABLE found_texts AS {found_texts}")
    found = scratch.columns("SELECT text, n FROM found_texts ORDER BY first")
    return [original_text(text) for text in found["text"].tolist()], found["n"].astype(np.int64)


def _annotate(staging: Staging, what: str, **values: npt.NDArray[Any]) -> None:
    """Give the different texts their values, in the order of `_different`."""
    scratch = staging.scratch
    first = scratch.columns("SELECT first FROM found_texts ORDER BY first")["first"]
    frame = pd.DataFrame({"first": first.astype(np.int64), **values})
    key, more = ("key", f" JOIN {what}_ids USING (text)") if _has_keys(staging, what) else ("text AS key", "")
    scratch.insert(
        f"CREATE TABLE {what}_texts AS SELECT {key}, {', '.join(f'given.{name}' for name in values)} FROM found_texts "
        f"JOIN given ON found_texts.first = given.first{more}",
        given=frame,
    )
    scratch.run("DROP TABLE found_texts")


def _has_keys(staging: Staging, what: str) -> bool:
    """Return whether the column holds keys of a table of texts."""
    return staging.is_grouped and what in ("user", "item")


def _read_ids(staging: Staging, what: str) -> tuple[list[str], IdCounts, npt.NDArray[np.int64]]:
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


def _read_counts(staging: Staging) -> tuple[str, tuple[str, ...]]:
    """Return the SQL expression of the counts or ratings, and notes on how they were read."""
    name, option = staging.columns.counted, staging.columns.counted_option
    if staging.kinds["counted"] == NUMBER:
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


def _read_flags(staging: Staging) -> str:
    texts, _ = _different(staging, "skipped")
    flags = parse_flags(staging.path, str(staging.columns.skipped), texts, option="--skipped-column")
    _annotate(staging, "skipped", value=flags)
    return "coalesce(skipped_texts.value, false)"


def _read_times(staging: Staging) -> str:
    """Return the SQL expression of the times in seconds."""
    scratch = staging.scratch
    kind = staging.kinds["time"]
    if kind == MOMENT:
        return "time"
    text = "CAST(CAST(time AS HUGEINT) AS VARCHAR)" if kind == NUMBER else "time"
    if kind == TEXT or staging.is_whole:
        lengths = scratch.run(
            f"SELECT min(length({text})), max(length({text})), bool_and({_matches(text, COMPACT)}) FROM staged"
        )[0]
        if lengths[0] == lengths[1] and lengths[0] in COMPACT_FORMATS and lengths[2]:
            if kind == TEXT:
                _no_texts(staging, "time")
            seconds = f"epoch_us(try_strptime({text}, {sql_text(COMPACT_FORMATS[lengths[0]])})) / 1e6"
            staging.n_naive += int(scratch.run(f"SELECT count({seconds}) FROM staged")[0][0])
            return seconds
    if kind == NUMBER:
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


def _no_texts(staging: Staging, what: str) -> None:
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


def _scaled(number: str) -> str:
    """Return seconds from seconds, milli-, micro- or nanoseconds."""
    for least, parts in PARTS:
        number = f"(CASE WHEN abs({number}) > {least} THEN {number} / {parts} ELSE {number} END)"
    return number


def _matches(text: str, pattern: str) -> str:
    return f"regexp_full_match({text}, {sql_text(pattern)})"
