"""Approximate nearest-neighbour index of item embeddings (usearch), mapped into memory.

The index is the file `sound.usearch` in the version folder of a recommender. If it does not exist (few items, or
usearch was not installed at export) or cannot be opened, the recommender compares all items, which takes 2 ms for
17,000 items and grows linearly. Depends on NumPy only, because the `cf_ensemble` backend imports it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

FILENAME: Final = "sound.usearch"
LEAST_ITEMS: Final = 5_000  # exact search among fewer items takes less than a millisecond
MOST_ANSWERS: Final = 200  # searching the graph for more results is slow

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SoundIndex:
    """An opened index; safe to search from several threads."""

    index: Any

    def search(self, embedding: npt.ArrayLike, n: int) -> tuple[Ints, Floats]:
        """Return the n items most similar to a recording, best first, and their cosine similarities.

        Args:
            embedding: (E,) of any norm but 0.
            n: number of items.
        """
        wanted = np.asarray(embedding, np.float32)
        found = self.index.search(wanted / np.linalg.norm(wanted), n)
        return found.keys.astype(np.int64), (1 - found.distances).astype(np.float32)


def build_index(embeddings: Floats) -> bytes | None:
    """Build an index, with one thread so that equal embeddings give equal files.

    Args:
        embeddings: (I, E) of norm 1; rows of zeros, items without a recording, are left out.

    Returns:
        content of the file; None if there are fewer than `LEAST_ITEMS` items or usearch is not installed.
    """
    embedded = np.flatnonzero(np.asarray(embeddings).any(axis=1))
    if len(embedded) < LEAST_ITEMS:
        return None
    try:
        from usearch.index import Index
    except ImportError:
        return None
    index = Index(ndim=embeddings.shape[1], metric="ip", dtype="f32")
    index.add(embedded, np.ascontiguousarray(embeddings[embedded]), threads=1)
    with tempfile.TemporaryDirectory(prefix="tritone-index-") as folder:
        path = Path(folder) / FILENAME
        index.save(str(path))
        return path.read_bytes()


def open_index(folder: Path) -> SoundIndex | None:
    """Open the index of a version, mapped into memory; None if it does not exist or cannot be read."""
    path = folder / FILENAME
    if not path.is_file():
        return None
    try:
        from usearch.index import Index

        index = Index.restore(str(path), view=True)
    except (ImportError, RuntimeError, ValueError):
        return None
    if index is None:
        return None
    # One more, because an item finds itself. usearch declares the setter under another property's name.
    index.expansion_search = MOST_ANSWERS + 1  # type: ignore[misc]
    return SoundIndex(index)
