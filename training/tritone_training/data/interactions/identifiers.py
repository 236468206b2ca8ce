"""Normalise columns of ids, and remove decimal points that programs add to whole numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from tritone_serving.ids import normalize_id
from tritone_training.exceptions import DataError

# 007 is a name, not a number; 12,0 is what programs write with a decimal comma, 1,000 may be anything.
_WHOLE: Final = re.compile(r"(?:0|-?[1-9]\d*)(?P<point>\.0+|,0)?")
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_ROUNDED: Final = re.compile(r"-?\d(?:\.\d+[eE]\+?|[eE]\+)\d+")  # as programs write floats; 12e5 may be hexadecimal
_LIKE_MISSING: Final = frozenset({"nan", "null", "none", "<na>", "n/a", "nat", "undefined"})
_EXACT: Final = 2**53  # from here on, 64-bit floats cannot represent every whole number


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
    normalized = [normalize_id(text) for text in raw]
    named = [text for text in normalized if text and text.lower() not in _LIKE_MISSING]
    if named and all(map(_NUMBER.fullmatch, named)):  # among numbers, nan and null are nobody's name
        normalized = [text if text.lower() not in _LIKE_MISSING else "" for text in normalized]
    _check_digits(path, str(column.name), normalized)
    whole = whole_numbers(normalized)
    ids = np.array([*(text or None for text in whole), None], dtype=object)  # a missing cell has the code -1
    rows = np.bincount(codes[codes >= 0], minlength=len(raw))
    changed = np.array([a != b for a, b in zip(raw, normalized, strict=True)], np.bool_)
    counts = IdCounts(
        n_rows=int(rows[changed].sum()),
        n_merged=sum(map(bool, whole)) - len({text for text in whole if text}),
        n_suspect=int(rows[[text.lower() in _LIKE_MISSING for text in whole]].sum()),
        n_points=sum(a != b for a, b in zip(normalized, whole, strict=True)),
    )
    return pd.Series(ids[codes], index=column.index, name=column.name, dtype=object), counts


def whole_numbers(texts: list[str]) -> list[str]:
    """Return texts without decimal points if all are whole numbers, some with a point; else unchanged."""
    matches = [_WHOLE.fullmatch(text) for text in texts if text]
    if not all(matches) or not any(found["point"] for found in matches if found is not None):
        return texts
    return [text.partition(".")[0].removesuffix(",0") for text in texts]


def _check_digits(path: Path, name: str, texts: list[str]) -> None:
    """Refuse ids that went through floating point and were rounded there.

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
