"""Parse counts and ratings: decimal commas, separated thousands, true and false."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from tritone_training.exceptions import DataError

_BLANKS: Final = re.compile(r"(?<=\d)[ \u00a0\u202f'\u2019](?=\d{3}(?!\d))")  # 12 345, 12'345
_COMMA: Final = re.compile(r"[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+),\d+")  # 2,5 and 1.234,5
_THOUSANDS: Final = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")  # 1,234 and 1,234.5
_POINTS: Final = re.compile(r"[+-]?\d{1,3}(?:\.\d{3}){2,}")  # 1.234.567
_BOOLEANS: Final = {"true": "1", "yes": "1", "false": "0", "no": "0"}


def numbers_of(
    path: Path, column: pd.Series[Any], *, separator: str | None, option: str
) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Return a column as numbers (NaN for other cells), and notes on how it was read.

    Args:
        separator: of the table's cells; if it is a comma, a comma in a quoted cell separates thousands.
        option: the option that names the column, for the message.

    Raises:
        DataError: the column does not show whether 1,234 is 1234 or 1.234.
    """
    codes, values = pd.factorize(column)
    texts = [str(value).strip() for value in values]
    numbers = _plain(texts)
    notes: tuple[str, ...] = ()
    odd = [place for place, text in enumerate(texts) if np.isnan(numbers[place]) and any(map(str.isdigit, text))]
    if odd:
        written = [_BLANKS.sub("", texts[place]) for place in odd]
        is_decimal = _comma_is_decimal(path, str(column.name), written, separator, option)
        plain = [_replaced(text, is_decimal=is_decimal) for text in written]
        numbers[odd] = _plain(plain)
        if is_decimal and any("," in text for text in written):
            notes = (f"column {column.name!r}: commas are read as decimal points",)
        elif any("," in text for text in written):
            notes = (f"column {column.name!r}: commas are read as separators of thousands",)
        if any(map(_POINTS.fullmatch, written)):
            # 1.234.567 shows that points separate thousands, so 1.234 is 1234 too.
            same = [place for place, text in enumerate(texts) if re.fullmatch(r"[+-]?\d{1,3}\.\d{3}", text)]
            numbers[same] = _plain([texts[place].replace(".", "") for place in same])
    elif texts and all(text.lower() in _BOOLEANS for text in texts):
        numbers = _plain([_BOOLEANS[text.lower()] for text in texts])
    if not len(numbers):
        return np.full(len(codes), np.nan), notes
    return np.where(codes >= 0, numbers[codes], np.nan), notes


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
