"""Strings of an artifact, decoded from mapped arrays when they are read, and an index that finds their positions.

A list of the ids of a million items takes 70 MB in each process, and a dict of them twice as much. The mapped arrays
take a third of that, once for all processes, and only the parts that are read.
Shapes: N texts, S slots of a hash table.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, overload

import numpy as np
import numpy.typing as npt

_AT_ONCE: Final = 1 << 16  # texts decoded together when all are read
_SLOTS_PER_TEXT: Final = 2
_MOST_RECENT: Final = 1 << 14  # size of caches of texts: about 2 MB if they have 40 characters

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.integer[Any]]


class Texts(Sequence[str]):
    """N strings, concatenated as UTF-8; a sequence that decodes each when it is read."""

    def __init__(self, joined: Bytes, ends: Integers) -> None:
        """Keep the arrays.

        Args:
            joined: the bytes of all texts.
            ends: (N,) the end of each text in them.
        """
        self._joined = joined.data
        self._ends = np.asarray(ends, np.int64).data  # no copy, except in artifacts with other types
        self._recent: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[each] for each in range(*index.indices(len(self))))
        return str(self.encoded(index), "utf-8")

    def at(self, indices: Iterable[int]) -> tuple[str, ...]:
        """Return the texts at some positions, from 0; recent ones are cached, because requests read mostly the same."""
        recent = self._recent
        return tuple([recent.get(index) or self._cached(index) for index in indices])

    def _cached(self, index: int) -> str:
        if len(self._recent) >= _MOST_RECENT:
            self._recent.clear()
        text = self._recent[index] = str(self.encoded(index), "utf-8")
        return text

    def encoded(self, index: int) -> memoryview:
        """Return the bytes of a text in UTF-8."""
        if index < 0:
            index += len(self._ends)
        if index < 0:
            raise IndexError("index of a text out of range")
        return self._joined[self._ends[index - 1] if index else 0 : self._ends[index]]

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self._ends), _AT_ONCE):
            ends = self._ends[first : first + _AT_ONCE].tolist()
            block = bytes(self._joined[start : ends[-1]])
            for begin, end in zip([start, *ends[:-1]], ends, strict=True):
                yield block[begin - start : end - start].decode("utf-8")
            start = ends[-1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[Texts], tuple[Bytes, Integers]]:
        return Texts, (np.asarray(self._joined), np.asarray(self._ends))

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"Texts({shown}{', ...' if len(self) > 3 else ''}; {len(self)})"


def build_hash_table(texts: Sequence[str]) -> npt.NDArray[np.int32]:
    """Return the hash table by which `TextIndex` finds N texts, (S,) int32: their indices, -1 for empty slots.

    Open addressing with linear probing: a text is in its home slot (CRC-32 modulo the number of home slots) or in the
    first free slot after it. The table does not wrap around and ends with an empty slot. Of equal texts, the last is
    found first, as in a dict.
    """
    n = len(texts)
    size = _n_home_slots(n)
    home_slots = np.fromiter((zlib.crc32(text.encode("utf-8")) for text in texts), np.int64, n) % size
    order = np.lexsort((-np.arange(n), home_slots))
    # Each takes the slot after the one before it, or its own if that is later.
    slots = np.maximum.accumulate(home_slots[order] - np.arange(n)) + np.arange(n)
    table = np.full(max(size, int(slots[-1]) + 1 if n else 0) + 1, -1, np.int32)
    table[slots] = order
    return table


def check_hash_table(slots: Integers, n: int) -> None:
    """Validate a hash table of n texts.

    Raises:
        ValueError: it does not hold each text once.
    """
    size = _n_home_slots(n)
    is_whole = slots.ndim == 1 and slots.dtype == np.int32 and len(slots) > size
    is_whole = is_whole and slots[-1] == -1 and slots.min() >= -1
    kept = slots[slots >= 0] if is_whole else slots
    if not is_whole or len(kept) != n or (n and (kept.max() >= n or (np.bincount(kept, minlength=n) != 1).any())):
        raise ValueError(f"the index of {n} texts does not hold each of them once")


def _n_home_slots(n: int) -> int:
    return max(1, _SLOTS_PER_TEXT * n)


class TextIndex:
    """Finds the position of a text, in about a microsecond."""

    def __init__(self, joined: Bytes, ends: Integers, slots: npt.NDArray[np.int32]) -> None:
        """Keep the arrays.

        Args:
            joined: as in `Texts`.
            ends: as in `Texts`.
            slots: the hash table of the texts, as returned by `build_hash_table`.
        """
        self._joined, self._ends, self._slots = joined.data, np.asarray(ends, np.int64).data, slots.data
        self._size = _n_home_slots(len(ends))
        self._recent: dict[str, int] = {}  # cache of lookups, because requests have mostly the same items

    def find(self, text: str) -> int | None:
        """Return the position of a text, None if it is not there."""
        recent = self._recent.get(text)
        if recent is not None:
            return recent
        wanted = text.encode("utf-8", "surrogatepass")
        slot = zlib.crc32(wanted) % self._size
        slots, ends, length = self._slots, self._ends, len(wanted)
        while (position := slots[slot]) >= 0:
            end = ends[position]
            start = ends[position - 1] if position else 0
            if end - start == length and self._joined[start:end].tobytes() == wanted:
                if len(self._recent) >= _MOST_RECENT:
                    self._recent.clear()
                self._recent[text] = position
                return position
            slot += 1
        return None

    def __reduce__(self) -> tuple[type[TextIndex], tuple[Bytes, Integers, npt.NDArray[np.int32]]]:
        return TextIndex, (np.asarray(self._joined), np.asarray(self._ends), np.asarray(self._slots))
