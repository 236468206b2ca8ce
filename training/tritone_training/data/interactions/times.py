"""Times of listening as they come: numbers, ISO dates, dates as people write them; one rule for the whole column."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from tritone_training._exceptions import DataError

_MILLISECONDS_FROM: Final = 1e11  # in seconds this is the year 5138
_NUMERIC_DATE: Final = (
    r"^\s*(?P<first>\d{1,2})(?P<mark>[./-])(?P<second>\d{1,2})(?P=mark)(?P<year>\d{4})(?P<rest>\D.*)?$"
)


def seconds_of(source: str, times: pd.Series[Any]) -> npt.NDArray[np.float64]:
    """Unix seconds, milliseconds, or dates as text; NaN where unreadable.

    Raises:
        DataError: nothing tells whether dates like 03/04/2012 begin with the day or with the month.
    """
    texts = pd.Series(times.to_numpy(object), dtype=object)
    seconds = np.array(pd.to_numeric(texts.to_numpy(), errors="coerce"), np.float64)
    seconds[~np.isfinite(seconds)] = np.nan
    if not np.isnan(seconds).all():
        return np.where(seconds > _MILLISECONDS_FROM, seconds / 1e3, seconds)
    texts = texts.where(texts.map(lambda each: isinstance(each, str)), None)
    parsed = _parsed(texts, "ISO8601")
    left = parsed.isna() & texts.notna()
    if left.any():
        parsed[left] = _parsed(_year_first(source, texts[left]), "mixed")
    epoch = pd.Timestamp(0, unit="s", tz="UTC")
    return np.asarray((parsed - epoch) / pd.Timedelta(seconds=1), np.float64)


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
