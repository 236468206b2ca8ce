"""Validation of the arrays of an artifact against each other and the manifest.

The content of an artifact folder is not trusted, since an index out of range would read or write outside an array.
Every array is read once, in blocks, so that nothing of its size is allocated.
Shapes: U users, I items, G tags, S tags of the text search.
"""

from __future__ import annotations

import codecs
from collections.abc import Container, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.moods import MOODS
from tritone_serving.recommender.requests import EMBEDDING_SIZE

Array = npt.NDArray[Any]
_BLOCK: Final = 1 << 18  # numbers checked at a time
_TWO_BITS, _CONTINUATION = np.uint8(0xC0), np.uint8(0x80)  # of a byte inside a character in UTF-8

# name -> rows and columns of a sparse table; base models of kind `item_item` have a table (I, I) of their own name.
_TABLES: Final = {
    "history": "UI",
    "sequence": "UI",
    "friends": "UU",
    "listening": "UI",
    "listeners": "IU",
    "lists.*": "UI",
    "*.own_tags": "UI",
    "search.by_tag": "SI",
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
    "*.factors": ("I", "any"),
    "items.embeddings": ("I", EMBEDDING_SIZE),
    "items.moods": ("I", len(MOODS)),
    "items.mood_centre": (len(MOODS),),
    "items.mood_spread": (len(MOODS),),
    "*.centre": (EMBEDDING_SIZE,),
    "search.tag_embeddings": ("S", "any"),
    "search.item_factors": ("I", "any"),
    "search.tag_factors": ("S", "any"),
}
_NEEDED: Final = ("users", "items.ids", "items.ends", "popularity.shares", "history.starts", "friends.starts")


def rows_of(name: str, base_models: Container[str]) -> str | None:
    """Return what the first axis of an array stands for: "U" users, "I" items, "G" tags or "" another; None if unknown.

    Args:
        name: of the array; for a sparse table that of its `starts`.
        base_models: names of the base models, of which item-item models have tables.
    """
    if name.endswith(".starts"):
        table = name.removesuffix(".starts")
        shape: str | None = _lookup(table, _TABLES) or ("II" if table in base_models else None)
        return None if shape is None else shape[0]
    wanted = _lookup(name, _DENSE)
    if wanted is None:
        return None
    return str(wanted[0]) if isinstance(wanted[0], str) else ""


def check_arrays(manifest: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, tuple[int, int]]:
    """Validate shapes, types and ranges of arrays; each is read once, in blocks.

    Returns:
        name of a sparse table -> its smallest and largest column index, see `Rows.span`.

    Raises:
        ValueError: an array is missing or inconsistent with the others or the manifest.
    """
    missing = [name for name in _NEEDED if name not in arrays]
    if missing:
        raise ValueError(f"lacks {missing[0]}.npy")
    sizes = {
        "U": manifest["n_users"],
        "I": manifest["n_items"],
        "G": len(arrays.get("tags.ends", ())),
        "S": len(arrays.get("search.tags.ends", ())),
    }
    spans = {}
    for name, array in arrays.items():
        wanted = _lookup(name, _DENSE)
        if wanted and not _fits(array.shape, expected := tuple(sizes.get(str(each), each) for each in wanted)):
            raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
        if array.dtype.kind == "f" and not np.isfinite(extremes(array)).all():
            raise ValueError(f"{name} holds numbers that are not finite")
        if name.endswith(".ends"):
            _check_texts_of(name.removesuffix(".ends"), arrays)
        elif name.endswith(".starts"):
            table = name.removesuffix(".starts")
            shape = _lookup(table, _TABLES) or ("II" if table in manifest["base_models"] else "")
            spans[table] = _check_table(table, arrays, [sizes[letter] for letter in shape])
    _check_times(arrays)
    return spans


def _blocks(array: Array, overlap: int = 0) -> Iterator[Array]:
    """Yield an array (N,) in blocks that fit into the processor's cache, each with some entries of the next one."""
    for start in range(0, len(array), _BLOCK):
        yield array[start : start + _BLOCK + overlap]


def extremes(array: Array) -> tuple[Any, Any]:
    """Return the smallest and the largest value of an array, NaN if there is one; 0 for an empty array."""
    found = [(block.min(), block.max()) for block in _blocks(array.reshape(-1))]
    if not found:
        return 0, 0
    return np.min([least for least, _ in found]), np.max([most for _, most in found])


def is_ascending(array: Array) -> bool:
    """Return whether no value of an array (N,) is below the one before it."""
    return all((block[1:] >= block[:-1]).all() for block in _blocks(array, overlap=1))


def _check_times(arrays: Mapping[str, Array]) -> None:
    """Validate the times of stored events, one for each."""
    times = arrays.get("sequence.times")
    if times is None:
        return
    events = arrays.get("sequence.columns")
    if events is None or times.shape != events.shape or times.dtype.kind != "f" or extremes(times)[0] < 0:
        raise ValueError(
            f"sequence.times is {times.dtype} of shape {times.shape}; expected a time from 0 for each of the "
            f"{0 if events is None else len(events)} stored events"
        )


def _check_table(name: str, arrays: Mapping[str, Array], shape: list[int]) -> tuple[int, int]:
    """Validate a sparse table and return its span; `shape` is empty for tables of unknown purpose."""
    parts = [arrays.get(f"{name}.{part}") for part in ("starts", "columns", "values")]
    if any(part is None or part.ndim != 1 for part in parts):
        raise ValueError(f"{name} lacks one of its starts, columns and values")
    starts, columns, values = (np.asarray(part) for part in parts)
    if starts.dtype.kind != "i" or columns.dtype.kind != "i" or values.dtype.kind != "f":
        raise ValueError(f"{name} is of {starts.dtype}, {columns.dtype} and {values.dtype}; expected int, int, float")
    if not len(starts) or starts[0] != 0 or starts[-1] != len(columns) or not is_ascending(starts):
        raise ValueError(f"{name}.starts does not divide the {len(columns)} entries into rows")
    if len(values) != len(columns):
        raise ValueError(f"{name} has {len(columns)} columns for {len(values)} values")
    if shape and len(starts) != shape[0] + 1:
        raise ValueError(f"{name} has {len(starts) - 1} rows, expected {shape[0]}")
    least, largest = map(int, extremes(columns))
    if shape and len(columns) and not 0 <= least <= largest < shape[1]:
        raise ValueError(f"{name} names columns from {least} to {largest}, expected 0 to {shape[1] - 1}")
    return least, largest


def _check_texts_of(name: str, arrays: Mapping[str, Array]) -> None:
    check_texts(name, arrays.get(f"{name}.ids"), arrays[f"{name}.ends"])


def check_texts(name: str, ids: Array | None, ends: Array) -> None:
    """Validate concatenated texts in UTF-8.

    Raises:
        ValueError: they are malformed.
    """
    if ids is None or ids.dtype != np.uint8 or ids.ndim != 1 or ends.ndim != 1 or ends.dtype.kind != "i":
        raise ValueError(f"{name} lacks its ids or ends, or they are of other types")
    is_divided = not len(ends) or (ends[0] >= 0 and is_ascending(ends))
    if not is_divided or (int(ends[-1]) if len(ends) else 0) != len(ids):
        raise ValueError(f"{name}.ends does not divide the {len(ids)} bytes into texts")
    try:
        decoder = codecs.getincrementaldecoder("utf-8")()
        for block in _blocks(ids):
            decoder.decode(block.tobytes())
        decoder.decode(b"", final=True)
        starts = (block[block < len(ids)] for block in _blocks(ends))
        if any(((ids[each] & _TWO_BITS) == _CONTINUATION).any() for each in starts):
            raise ValueError(f"{name}.ends divides a character")
    except UnicodeDecodeError:
        raise ValueError(f"{name}.ids holds bytes that are not UTF-8") from None


def _fits(shape: tuple[int, ...], expected: tuple[Any, ...]) -> bool:
    return len(shape) == len(expected) and all(w in ("any", s) for s, w in zip(shape, expected, strict=True))


def _lookup(name: str, patterns: Mapping[str, Any]) -> Any:
    return next((value for pattern, value in patterns.items() if fnmatchcase(name, pattern)), None)
