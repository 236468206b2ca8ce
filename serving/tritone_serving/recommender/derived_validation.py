"""Validation of the derived arrays of an artifact, whose numbers are used as indices.

Shapes: U users, I items, G tags, W words, S sampled users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.array_validation import check_texts, extremes, is_ascending
from tritone_serving.recommender.exceptions import shown
from tritone_serving.recommender.manifest_validation import check_described
from tritone_serving.recommender.text_keys import BigramIndex
from tritone_serving.recommender.texts import TextIndex, Texts, check_hash_table

Array = npt.NDArray[Any]
# Manifest entry {"version", "arrays"} of arrays that are computed from the others when an artifact is written.
DERIVED: Final = "derived"
DERIVED_VERSION: Final = 1  # arrays of another version are ignored, and computed in memory
_PREFIX: Final = f"{DERIVED}."
_N_SAMPLED: Final = 256  # texts that are looked up
_BIGRAMS: Final = ("bigrams", "bigram_starts", "n_bigrams")


def described_derived(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the description of the derived arrays in a manifest; empty if they are of another version or missing.

    Raises:
        ValueError: the entry is malformed.
    """
    entry = manifest.get(DERIVED)
    if entry is None:
        return {}
    if not isinstance(entry, dict) or not isinstance(entry.get("version"), int):
        raise ValueError(f"{DERIVED} is {shown(entry)}; expected an object with version and arrays")
    if entry["version"] != DERIVED_VERSION:
        return {}
    check_described(entry.get("arrays"))
    found: Mapping[str, Any] = entry["arrays"]
    return found


def check_derived(manifest: Mapping[str, Any], arrays: Mapping[str, Array], derived: Mapping[str, Array]) -> None:
    """Validate derived arrays; unknown parts are ignored.

    Args:
        manifest: the manifest.
        arrays: the valid arrays that they were computed from.
        derived: name -> array; may be empty.

    Raises:
        ValueError: an array is missing or inconsistent with the others.
    """
    parts: dict[str, dict[str, Array]] = {}
    for name, array in derived.items():
        part, _, rest = name.removeprefix(_PREFIX).partition(".")
        parts.setdefault(part, {})[rest] = array
    for part, found in parts.items():
        check = _CHECKS.get(part)
        if check is not None:
            try:
                check(manifest, arrays, found)
            except KeyError as error:
                raise ValueError(f"lacks {_PREFIX}{part}.{error.args[0]}.npy") from None
            except ValueError as error:
                raise ValueError(f"{_PREFIX}{part}: {error}") from error


def _check_items(manifest: Mapping[str, Any], arrays: Mapping[str, Array], found: Mapping[str, Array]) -> None:
    n_items = manifest["n_items"]
    _check_index(arrays["items.ids"], arrays["items.ends"], found["slots"])
    _check_integers("n_listeners", found["n_listeners"], n_items, 0, None)


def _check_sample(manifest: Mapping[str, Any], arrays: Mapping[str, Array], found: Mapping[str, Array]) -> None:
    people = found["people"]
    _check_integers("people", people, None, 0, manifest["n_users"])
    if not is_ascending(people):
        raise ValueError("people are not in ascending order")
    _check_integers("columns", found["columns"], len(arrays["listeners.columns"]), 0, len(people))


def _check_search(manifest: Mapping[str, Any], arrays: Mapping[str, Array], found: Mapping[str, Array]) -> None:
    n_items = manifest["n_items"]
    for field in ("id", *(field for field in ("title", "artist") if f"{field}s.ends" in arrays)):
        each = {name: found[f"{field}.{name}"] for name in ("keys", "key_ends", "order", *_BIGRAMS)}
        check_texts(f"{field}.keys", each["keys"], each["key_ends"])
        _check_integers(f"{field}.key_ends", each["key_ends"], n_items, 0, None)
        _check_integers(f"{field}.order", each["order"], n_items, 0, n_items)
        _check_bigrams(field, each, n_items)


def _check_words(manifest: Mapping[str, Any], arrays: Mapping[str, Array], found: Mapping[str, Array]) -> None:
    check_texts("spellings", found["spellings"], found["spelling_ends"])
    n_words = len(found["spelling_ends"])
    _check_index(found["spellings"], found["spelling_ends"], found["slots"])
    _check_floats("rarity", found["rarity"], (n_words,))
    _check_bigrams("words", found, n_words)
    names = "search.tags" if "search.by_tag.starts" in arrays else "tags"
    n_tags = len(arrays.get(f"{names}.ends", ()))
    _check_rows("tag", found["tag_starts"], found["tags"], n_words, n_tags)
    _check_floats("tag_parts", found["tag_parts"], found["tags"].shape)
    for field in range(sum(f"{name}.ends" in arrays for name in ("titles", "artists"))):
        _check_rows(str(field), found[f"{field}.starts"], found[f"{field}.items"], n_words, manifest["n_items"])
        _check_floats(f"{field}.n_words", found[f"{field}.n_words"], (manifest["n_items"],))
        if manifest["n_items"] and extremes(found[f"{field}.n_words"])[0] < 1:
            raise ValueError(f"{field}.n_words are below 1")


def _check_playlists(manifest: Mapping[str, Any], arrays: Mapping[str, Array], found: Mapping[str, Array]) -> None:
    vectors = found["vectors"]
    _check_floats("vectors", vectors, (manifest["n_items"], *vectors.shape[1:2]))
    _check_integers("artists", found["artists"], manifest["n_items"], 0, None)
    _check_integers("spaces", found["spaces"], 3, 0, 2)


def _check_rotated(manifest: Mapping[str, Any], arrays: Mapping[str, Array], found: Mapping[str, Array]) -> None:
    for name, described in manifest["base_models"].items():
        if described.get("kind") == "factorization":
            shape = arrays[f"{name}.factors"].shape
            _check_floats(f"{name}.factors", found[f"{name}.factors"], shape)
            _check_floats(f"{name}.spectrum", found[f"{name}.spectrum"], shape[1:])


def _check_index(joined: Array, ends: Array, slots: Array) -> None:
    """Validate a hash table, and that some of its texts are found: it may belong to other texts."""
    check_hash_table(slots, len(ends))
    texts, index = Texts(joined, ends), TextIndex(joined, ends, slots)
    for position in range(0, len(texts), max(1, len(texts) // _N_SAMPLED)):
        text = texts[position]
        found = index.find(text)
        if found is None or texts[found] != text:
            raise ValueError(f"slots do not find text {position} of {len(texts)}")


def _check_bigrams(name: str, found: Mapping[str, Array], n: int) -> None:
    entries, starts, lengths = (found[each] for each in _BIGRAMS)
    _check_rows(f"{name}.bigrams", starts, entries, BigramIndex.N_BUCKETS, n)
    _check_integers(f"{name}.n_bigrams", lengths, n, 1, None)


def _check_rows(name: str, starts: Array, columns: Array, n_rows: int, n_columns: int) -> None:
    _check_integers(f"{name} starts", starts, n_rows + 1, 0, None)
    if starts[0] != 0 or starts[-1] != len(columns) or not is_ascending(starts):
        raise ValueError(f"{name} starts do not divide the {len(columns)} entries into rows")
    _check_integers(name, columns, None, 0, n_columns)


def _check_integers(name: str, array: Array, n: int | None, least: int, end: int | None) -> None:
    """Validate a one-dimensional array of n integers, from `least` and below `end`."""
    if array.ndim != 1 or array.dtype.kind not in "iu" or (n is not None and len(array) != n):
        expected = "a list of" if n is None else n
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}; expected {expected} integers")
    low, high = map(int, extremes(array))
    if len(array) and (low < least or (end is not None and high >= end)):
        expected = f"of {least} or more" if end is None else f"from {least} below {end}"
        raise ValueError(f"{name} holds {low} to {high}; expected numbers {expected}")


def _check_floats(name: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape or array.dtype != np.float32 or not np.isfinite(extremes(array)).all():
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}; expected finite numbers of shape {shape}")


_CHECKS: Final[Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Array], Mapping[str, Array]], None]]] = {
    "items": _check_items,
    "sample": _check_sample,
    "search": _check_search,
    "words": _check_words,
    "playlists": _check_playlists,
    "rotated": _check_rotated,
}
