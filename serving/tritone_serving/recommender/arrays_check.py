"""Whether an artifact's arrays fit one another: a column out of range would read, or write, another's memory.

Every array is read once for it, and nothing of its size is allocated but for the starts of rows.
Shapes: U users, I items, G tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.requests import EMBEDDING_SIZE, MOODS

Array = npt.NDArray[Any]

# name -> rows and columns of a sparse table; base models of the kind `item_item` have one of (I, I) by their own name.
_TABLES: Final = {
    "history": "UI",
    "friends": "UU",
    "listening": "UI",
    "listeners": "IU",
    "lists.*": "UI",
    "*.own_tags": "UI",
    "*.by_item": "IG",
    "*.by_tag": "GI",
}
# name -> shape
_DENSE: Final[Mapping[str, tuple[str | int, ...]]] = {
    "users": ("U", 2),
    "items.ends": ("I",),
    "titles.ends": ("I",),
    "artists.ends": ("I",),
    "*.shares": ("I",),
    "*.popularity_penalty": ("I",),
    "*.rarity": ("I",),
    "*.means": ("U",),
    "vectors": ("I", "any"),
    "items.embeddings": ("I", EMBEDDING_SIZE),
    "items.moods": ("I", len(MOODS)),
    "*.centre": (EMBEDDING_SIZE,),
}
_NEEDED: Final = ("users", "items.ids", "items.ends", "popularity.shares", "history.starts", "friends.starts")


def check_arrays(manifest: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Refuse arrays that do not belong together, or hold what no training writes.

    Raises:
        ValueError: says which array, and what is wrong with it.
    """
    missing = [name for name in _NEEDED if name not in arrays]
    if missing:
        raise ValueError(f"lacks {missing[0]}.npy")
    sizes = {"U": manifest["n_users"], "I": manifest["n_items"], "G": len(arrays.get("tags.ends", ()))}
    for name, array in arrays.items():
        wanted = _lookup(name, _DENSE)
        if wanted and not _fits(array.shape, expected := tuple(sizes.get(str(each), each) for each in wanted)):
            raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
        if array.dtype.kind == "f" and array.size and not np.isfinite([array.min(), array.max()]).all():  # NaN spreads
            raise ValueError(f"{name} holds numbers that are not finite")
        if name.endswith(".ends"):
            _check_texts(name.removesuffix(".ends"), arrays)
        elif name.endswith(".starts"):
            table = name.removesuffix(".starts")
            shape = _lookup(table, _TABLES) or ("II" if table in manifest["base_models"] else "")
            _check_table(table, arrays, [sizes[letter] for letter in shape])


def _check_table(name: str, arrays: Mapping[str, Array], shape: list[int]) -> None:
    """A sparse table of so many rows and columns; an empty shape is that of a table that nobody here knows."""
    parts = [arrays.get(f"{name}.{part}") for part in ("starts", "columns", "values")]
    if any(part is None or part.ndim != 1 for part in parts):
        raise ValueError(f"{name} lacks one of its starts, columns and values")
    starts, columns, values = (np.asarray(part) for part in parts)
    if starts.dtype.kind != "i" or columns.dtype.kind != "i" or values.dtype.kind != "f":
        raise ValueError(f"{name} is of {starts.dtype}, {columns.dtype} and {values.dtype}; expected int, int, float")
    if not len(starts) or starts[0] != 0 or starts[-1] != len(columns) or (starts[1:] < starts[:-1]).any():
        raise ValueError(f"{name}.starts does not divide the {len(columns)} entries into rows")
    if len(values) != len(columns):
        raise ValueError(f"{name} has {len(columns)} columns for {len(values)} values")
    if shape and len(starts) != shape[0] + 1:
        raise ValueError(f"{name} has {len(starts) - 1} rows, expected {shape[0]}")
    if shape and len(columns) and not 0 <= columns.min() <= columns.max() < shape[1]:
        raise ValueError(f"{name} names columns from {columns.min()} to {columns.max()}, expected 0 to {shape[1] - 1}")


def _check_texts(name: str, arrays: Mapping[str, Array]) -> None:
    ids, ends = arrays.get(f"{name}.ids"), arrays[f"{name}.ends"]
    if ids is None or ids.dtype != np.uint8 or ids.ndim != 1 or ends.ndim != 1 or ends.dtype.kind != "i":
        raise ValueError(f"{name} lacks its ids or ends, or they are of other types")
    if (np.diff(ends, prepend=0) < 0).any() or (int(ends[-1]) if len(ends) else 0) != len(ids):
        raise ValueError(f"{name}.ends does not divide the {len(ids)} bytes into texts")


def _fits(shape: tuple[int, ...], expected: tuple[Any, ...]) -> bool:
    return len(shape) == len(expected) and all(w in ("any", s) for s, w in zip(shape, expected, strict=True))


def _lookup(name: str, patterns: Mapping[str, Any]) -> Any:
    return next((value for pattern, value in patterns.items() if fnmatchcase(name, pattern)), None)
