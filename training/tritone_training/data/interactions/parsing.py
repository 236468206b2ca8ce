"""Parse columns of a table: ids, counts and ratings, and times.

Ids are normalised. Numbers may have decimal commas and separated thousands. Times may be Unix times, ISO dates or other
written dates; one rule holds for a whole column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from tritone_serving.ids import normalize_id
from tritone_training.exceptions import DataError

# 007 is a name, not a number; 12,0 is what programs write with a decimal comma, 1,000 may be anything.
_WHOLE: Final = re.compile(r"(?:0|-?[1-9]\d*)(?P<point>\.0+|,0)?")
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_ROUNDED: Final = re.compile(r"-?\d(?:\.\d+[eE]\+?|[eE]\+)\d+")  # as programs write floats; 12e5 may be hexadecimal
_LIKE_MISSING: Final = frozenset({"nan", "null", "none", "<na>", "n/a", "nat", "undefined"})
_EXACT: Final = 2**53  # from here on, 64-bit floats cannot represent every whole number
_BLANKS: Final = re.compile(r"(?<=\d)[ \u00a0\u202f'\u2019](?=\d{3}(?!\d))")  # 12 345, 12'345
_COMMA: Final = re.compile(r"[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+),\d+")  # 2,5 and 1.234,5
_THOUSANDS: Final = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")  # 1,234 and 1,234.5
_POINTS: Final = re.compile(r"[+-]?\d{1,3}(?:\.\d{3}){2,}")  # 1.234.567
_BOOLEANS: Final = {"true": "1", "yes": "1", "false": "0", "no": "0"}
# Numbers above these would be seconds after the year 5138, so they are milli-, micro- or nanoseconds.
PARTS: Final = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
COMPACT: Final = r"(?:19|20)\d\d(?:(?:0[1-9]|1[0-2])(?:(?:0[1-9]|[12]\d|3[01])(?:\d{6})?)?)?"
COMPACT_FORMATS: Final = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 14: "%Y%m%d%H%M%S"}
_ZONE: Final = r"(?:[Zz]|(?<=[\d.])\s*[+-]\d{2}(?::?\d{2})?)$"
_NUMERIC_DATE: Final = (
    r"^\s*(?P<first>\d{1,2})(?P<mark>[./-])(?P<second>\d{1,2})(?P=mark)(?P<year>\d{4})(?P<rest>\D.*)?$"
)
PLAUSIBLE_S: Final = (315_532_800.0, 4_102_444_800.0)  # 1980 to 2100
Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class IdCounts:
    """Counts of what normalisation changed in a column of ids.

    Attributes:
        n_rows: rows whose id had another Unicode form, or blanks around it.
        n_merged: ids that became equal to another id.
        n_points: ids that were written as numbers with a point (12.0).
        n_suspect: rows whose id looks like a missing value (nan, null) among names; they are kept, because it may be a
            name.
    """

    n_rows: int = 0
    n_merged: int = 0
    n_points: int = 0
    n_suspect: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return the counts that are not 0."""
        names = {
            "n_rows_normalized": self.n_rows,
            "n_ids_merged": self.n_merged,
            "n_ids_with_point": self.n_points,
            "n_rows_like_missing": self.n_suspect,
        }
        return {name: n for name, n in names.items() if n}


def id_column(path: Path, column: pd.Series[Any]) -> tuple[pd.Series[Any], IdCounts]:
    """Return ids normalised by `normalize_id`, empty ones as missing, and the counts of changes.

    In a column of whole numbers, some written as 12.0, the decimal points are removed: programs add them to the whole
    column if one of its cells is empty. In a column of numbers, cells like nan and null are missing.

    Raises:
        DataError: the ids went through floating point and have lost digits.
    """
    codes, values = pd.factorize(column)
    raw = [str(value) for value in values]
    found, counts = normalize_ids(path, str(column.name), raw, np.bincount(codes[codes >= 0], minlength=len(raw)))
    ids = np.array([*(text or None for text in found), None], dtype=object)  # a missing cell has the code -1
    return pd.Series(ids[codes], index=column.index, name=column.name, dtype=object), counts


def normalize_ids(path: Path, name: str, raw: list[str], rows: npt.NDArray[np.int64]) -> tuple[list[str], IdCounts]:
    """Return the normalised id of each different text of a column, empty if it is missing; see `id_column`.

    Args:
        name: of the column.
        raw: different texts.
        rows: number of rows with each.

    Raises:
        DataError: the ids went through floating point and have lost digits.
    """
    normalized = [normalize_id(text) for text in raw]
    named = [text for text in normalized if text and text.lower() not in _LIKE_MISSING]
    if named and all(map(_NUMBER.fullmatch, named)):  # among numbers, nan and null are missing values, not names
        normalized = [text if text.lower() not in _LIKE_MISSING else "" for text in normalized]
    _check_digits(path, name, normalized)
    whole = whole_numbers(normalized)
    changed = np.array([a != b for a, b in zip(raw, normalized, strict=True)], np.bool_)
    counts = IdCounts(
        n_rows=int(rows[changed].sum()),
        n_merged=sum(map(bool, whole)) - len({text for text in whole if text}),
        n_suspect=int(rows[[text.lower() in _LIKE_MISSING for text in whole]].sum()),
        n_points=sum(a != b for a, b in zip(normalized, whole, strict=True)),
    )
    return whole, counts


def whole_numbers(texts: list[str]) -> list[str]:
    """Return texts without decimal points if all are whole numbers, some with a point; else unchanged."""
    matches = [_WHOLE.fullmatch(text) for text in texts if text]
    if not all(matches) or not any(found["point"] for found in matches if found is not None):
        return texts
    return [text.partition(".")[0].removesuffix(",0") for text in texts]


def _check_digits(path: Path, name: str, texts: list[str]) -> None:
    """Check that ids were not rounded by a conversion to floating point.

    Raises:
        DataError: the column holds numbers alone, one of them a float from 2**53 on.
    """
    given = [text for text in texts if text]
    if not all(map(_NUMBER.fullmatch, given)):
        return
    rounded = next(
        (
            text
            for text in given
            if _ROUNDED.fullmatch(text) or (text.endswith(".0") and abs(int(text.removesuffix(".0"))) >= _EXACT)
        ),
        None,
    )
    if rounded is not None:
        raise DataError(
            f"{path}: column {name!r} holds ids as floating-point numbers that have lost digits ({rounded}): expected "
            f"whole numbers below 2**53 or text; write the column as integers (pandas: astype('Int64')) or as text"
        )


def parse_numbers(
    path: Path, name: str, texts: list[str], *, separator: str | None, option: str
) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Return the number that each different text of a column is (NaN for others), and notes on how they were read.

    Args:
        name: of the column.
        separator: of the table's cells; if it is a comma, a comma in a quoted cell separates thousands.
        option: the option that names the column, for the message.

    Raises:
        DataError: the column does not show whether 1,234 is 1234 or 1.234.
    """
    texts = [text.strip() for text in texts]
    numbers = _plain(texts)
    notes: tuple[str, ...] = ()
    odd = [place for place, text in enumerate(texts) if np.isnan(numbers[place]) and any(map(str.isdigit, text))]
    if odd:
        written = [_BLANKS.sub("", texts[place]) for place in odd]
        is_decimal = _comma_is_decimal(path, name, written, separator, option)
        plain = [_replaced(text, is_decimal=is_decimal) for text in written]
        numbers[odd] = _plain(plain)
        if is_decimal and any("," in text for text in written):
            notes = (f"column {name!r}: commas are read as decimal points",)
        elif any("," in text for text in written):
            notes = (f"column {name!r}: commas are read as separators of thousands",)
        if any(map(_POINTS.fullmatch, written)):
            # 1.234.567 shows that points separate thousands, so 1.234 is 1234 too.
            same = [place for place, text in enumerate(texts) if re.fullmatch(r"[+-]?\d{1,3}\.\d{3}", text)]
            numbers[same] = _plain([texts[place].replace(".", "") for place in same])
    elif texts and all(text.lower() in _BOOLEANS for text in texts):
        numbers = _plain([_BOOLEANS[text.lower()] for text in texts])
    return numbers, notes


def _plain(texts: list[str]) -> npt.NDArray[np.float64]:
    return np.array(pd.to_numeric(np.array(texts, dtype=object), errors="coerce"), np.float64)


def _comma_is_decimal(path: Path, name: str, texts: list[str], separator: str | None, option: str) -> bool:
    with_comma = [text for text in texts if "," in text]
    only_decimal = any(_COMMA.fullmatch(text) and not _THOUSANDS.fullmatch(text) for text in with_comma)
    only_thousands = any(_THOUSANDS.fullmatch(text) and not _COMMA.fullmatch(text) for text in with_comma)
    if only_decimal or only_thousands:
        return only_decimal
    both = next((text for text in with_comma if _COMMA.fullmatch(text)), None)
    if both is None or separator == ",":
        return False
    raise DataError(
        f"{path}: column {name!r} holds numbers like {both!r}, and no row shows whether the comma is a decimal point: "
        f"expected numbers as 1234 or 1.234; write them so, or name another column with {option}"
    )


def _replaced(text: str, *, is_decimal: bool) -> str:
    if is_decimal:
        return text.replace(".", "").replace(",", ".") if _COMMA.fullmatch(text) else text
    if _THOUSANDS.fullmatch(text):
        return text.replace(",", "")
    return text.replace(".", "") if _POINTS.fullmatch(text) else text


def flags_of(path: Path, column: pd.Series[Any], *, option: str) -> npt.NDArray[np.bool_]:
    """Return a column of 0 or 1, true or false, yes or no as flags; empty cells are false.

    Raises:
        DataError: a cell holds anything else.
    """
    codes, values = pd.factorize(column)
    # A missing cell has the code -1.
    flags = np.append(parse_flags(path, str(column.name), [str(value) for value in values], option=option), False)
    found: npt.NDArray[np.bool_] = flags[codes]
    return found


def parse_flags(path: Path, name: str, texts: list[str], *, option: str) -> npt.NDArray[np.bool_]:
    """Return the flag that each different text of a column is; see `flags_of`.

    Raises:
        DataError: a text is no flag.
    """
    texts = [text.strip().lower() for text in texts]
    read = [_BOOLEANS.get(text, text.removesuffix(".0")) for text in texts]
    odd = next((text for text in read if text not in ("", "0", "1")), None)
    if odd is not None:
        raise DataError(
            f"{path}: column {name!r} holds {odd!r}: expected 0 or 1, true or false, in each cell; write it so, "
            f"or name another column with {option}"
        )
    return np.array([text == "1" for text in read], np.bool_)


@dataclass(frozen=True)
class Times:
    """A column of times.

    Attributes:
        seconds: since 1970 in UTC, NaN where unreadable.
        n_naive: times without a zone, which are taken for UTC.
        n_zoned: times with a zone, which are converted to UTC.
    """

    seconds: Seconds
    n_naive: int = 0
    n_zoned: int = 0


def time_notes(median_s: float) -> tuple[str, ...]:
    """Return a note if most times are implausible, because their unit was probably not recognised."""
    if PLAUSIBLE_S[0] <= median_s <= PLAUSIBLE_S[1]:
        return ()
    day = np.datetime64(int(np.clip(median_s, -6e10, 2.5e11)), "s").astype("datetime64[D]")
    return (f"the median time is {day}: expected times from 1980 to 2100; check the unit",)


def times_of(source: str, times: pd.Series[Any]) -> Times:
    """Read Unix times in seconds, milli-, micro- or nanoseconds, or dates as text.

    Raises:
        DataError: it is ambiguous whether dates like 03/04/2012 begin with the day or with the month.
    """
    codes, values = pd.factorize(times)
    texts = [str(value).strip() for value in values]
    if not texts:
        return Times(np.full(len(codes), np.nan))
    seconds, is_naive, is_zoned = parse_times(source, texts)
    rows = np.bincount(codes[codes >= 0], minlength=len(texts))
    return Times(np.where(codes >= 0, seconds[codes], np.nan), int(rows[is_naive].sum()), int(rows[is_zoned].sum()))


def are_numbers(n_numbers: int, n_texts: int) -> bool:
    """Return whether a column of times holds numbers, the other cells being unreadable.

    Args:
        n_numbers: how many of the different texts are numbers.
        n_texts: how many different texts there are.
    """
    return n_numbers > 0 and 2 * n_numbers >= n_texts


def parse_times(
    source: str, values: list[str], *, as_numbers: bool | None = None
) -> tuple[Seconds, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return (seconds, whether without a zone, whether with one) for each different text of a column.

    Args:
        values: without blanks around them.
        as_numbers: whether the column holds numbers (or else dates), if these are not all of its texts.

    Raises:
        DataError: as `times_of`.
    """
    texts = pd.Series(values, dtype=object)
    none = np.zeros(len(texts), np.bool_)
    numbers = np.array(pd.to_numeric(texts.to_numpy(), errors="coerce"), np.float64)
    is_number = np.isfinite(numbers)
    lengths = set(texts.str.len()) if len(texts) else set()
    may_be_compact = as_numbers is None and len(lengths) == 1 and lengths <= set(COMPACT_FORMATS)
    if may_be_compact and texts.str.fullmatch(COMPACT).all():
        parsed = _parsed(texts, COMPACT_FORMATS[lengths.pop()])
        return _since_1970(parsed), parsed.notna().to_numpy(np.bool_), none
    if are_numbers(int(is_number.sum()), len(texts)) if as_numbers is None else as_numbers:
        numbers[~is_number] = np.nan
        for least, parts in PARTS:
            numbers = np.where(np.abs(numbers) > least, numbers / parts, numbers)
        return numbers, none, none
    texts = texts.str.replace(r"\s*\[[^\]]*\]$", "", regex=True)  # Java names the zone after its offset
    texts = texts.str.replace(r"(?<=\d)\s*(?:UTC|GMT)$", "Z", regex=True)
    parsed = _parsed(texts, "ISO8601")
    left = parsed.isna() & (texts != "")
    if left.any():
        parsed[left] = _parsed(_year_first(source, texts[left]), "mixed")
    has_zone = (texts.str.contains(_ZONE, regex=True) & texts.str.contains(":")).to_numpy(np.bool_)
    is_read = parsed.notna().to_numpy(np.bool_)
    return _since_1970(parsed), is_read & ~has_zone, is_read & has_zone


def _since_1970(parsed: pd.Series[Any]) -> Seconds:
    return np.asarray((parsed - pd.Timestamp(0, unit="s", tz="UTC")) / pd.Timedelta(seconds=1), np.float64)


def _parsed(texts: pd.Series[Any], how: str) -> pd.Series[Any]:
    return pd.to_datetime(texts, errors="coerce", utc=True, format=how).astype("datetime64[us, UTC]")


def _year_first(source: str, texts: pd.Series[Any]) -> pd.Series[Any]:
    """Return dates of three numbers as year-month-day, and others unchanged.

    Points separate day, month and year in this order. With slashes and dashes, a number above 12 must show the order.
    """
    parts = texts.str.extract(_NUMERIC_DATE)
    numeric = parts["year"].notna()
    if not numeric.any():
        return texts
    parts = parts[numeric]
    first, second = parts["first"].astype(int), parts["second"].astype(int)
    day_first, month_first = (first > 12) & (second <= 12), (first <= 12) & (second > 12)
    points = parts["mark"] == "."
    if month_first.any() and (day_first | points).any():
        one, other = texts[numeric][day_first | points].iloc[0], texts[numeric][month_first].iloc[0]
        raise DataError(
            f"{source}: some times begin with the day ({one!r}), others with the month ({other!r}); write them as "
            f"YYYY-MM-DD, or name another column with --time-column"
        )
    if not (day_first | month_first | points).any():
        raise DataError(
            f"{source}: ambiguous times such as {texts[numeric].iloc[0]!r}: no row shows whether the day comes first "
            f"or the month; write them as YYYY-MM-DD, or name another column with --time-column"
        )
    month, day = (first, second) if month_first.any() else (second, first)
    dates = parts["year"] + "-" + month.map("{:02d}".format) + "-" + day.map("{:02d}".format)
    whole = texts.copy()
    whole[numeric] = dates + parts["rest"].fillna("")
    return whole
