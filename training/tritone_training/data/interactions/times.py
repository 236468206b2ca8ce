"""Parse times: numbers, ISO dates and other written dates, by one rule for the whole column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from tritone_training.exceptions import DataError

# Numbers above these would be seconds after the year 5138, so they are milli-, micro- or nanoseconds.
_PARTS: Final = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
_COMPACT: Final = r"(?:19|20)\d\d(?:(?:0[1-9]|1[0-2])(?:(?:0[1-9]|[12]\d|3[01])(?:\d{6})?)?)?"
_COMPACT_FORMATS: Final = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 14: "%Y%m%d%H%M%S"}
_ZONE: Final = r"(?:[Zz]|(?<=[\d.])\s*[+-]\d{2}(?::?\d{2})?)$"
_NUMERIC_DATE: Final = (
    r"^\s*(?P<first>\d{1,2})(?P<mark>[./-])(?P<second>\d{1,2})(?P=mark)(?P<year>\d{4})(?P<rest>\D.*)?$"
)
_PLAUSIBLE_S: Final = (315_532_800.0, 4_102_444_800.0)  # 1980 to 2100
Seconds = npt.NDArray[np.float64]


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

    def notes(self) -> tuple[str, ...]:
        """Return a note if most times are implausible, because their unit was probably not recognised."""
        known = self.seconds[np.isfinite(self.seconds)]
        middle = float(np.median(known)) if len(known) else _PLAUSIBLE_S[0]
        if _PLAUSIBLE_S[0] <= middle <= _PLAUSIBLE_S[1]:
            return ()
        day = np.datetime64(int(np.clip(middle, -6e10, 2.5e11)), "s").astype("datetime64[D]")
        return (f"the median time is {day}: expected times from 1980 to 2100; check the unit",)

    def to_dict(self) -> dict[str, int]:
        """Return the counts for the report."""
        return {"n_without_zone": self.n_naive, "n_with_zone": self.n_zoned}


def times_of(source: str, times: pd.Series[Any]) -> Times:
    """Read Unix times in seconds, milli-, micro- or nanoseconds, or dates as text.

    Raises:
        DataError: nothing tells whether dates like 03/04/2012 begin with the day or with the month.
    """
    codes, values = pd.factorize(times)
    texts = pd.Series([str(value).strip() for value in values], dtype=object)
    known = _times_of_texts(source, texts)
    if not len(texts):
        return Times(np.full(len(codes), np.nan))
    rows = np.bincount(codes[codes >= 0], minlength=len(texts))
    seconds, is_naive, is_zoned = known
    return Times(np.where(codes >= 0, seconds[codes], np.nan), int(rows[is_naive].sum()), int(rows[is_zoned].sum()))


def _times_of_texts(source: str, texts: pd.Series[Any]) -> tuple[Seconds, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(seconds, whether without a zone, whether with one) of each different text."""
    none = np.zeros(len(texts), np.bool_)
    numbers = np.array(pd.to_numeric(texts.to_numpy(), errors="coerce"), np.float64)
    is_number = np.isfinite(numbers)
    lengths = set(texts.str.len()) if len(texts) else set()
    if len(lengths) == 1 and lengths <= set(_COMPACT_FORMATS) and texts.str.fullmatch(_COMPACT).all():
        parsed = _parsed(texts, _COMPACT_FORMATS[lengths.pop()])
        return _since_1970(parsed), parsed.notna().to_numpy(np.bool_), none
    if is_number.any() and 2 * is_number.sum() >= len(texts):
        numbers[~is_number] = np.nan
        for least, parts in _PARTS:
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
    """Dates of three numbers as year-month-day, others as they are.

    Points are written between day, month and year; what slashes and dashes divide has to tell by a number above 12.
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
            f"{source}: do its times, like {texts[numeric].iloc[0]!r}, begin with the day or with the month? No row "
            f"tells; write them as YYYY-MM-DD, or name another column with --time-column"
        )
    month, day = (first, second) if month_first.any() else (second, first)
    dates = parts["year"] + "-" + month.map("{:02d}".format) + "-" + day.map("{:02d}".format)
    whole = texts.copy()
    whole[numeric] = dates + parts["rest"].fillna("")
    return whole
