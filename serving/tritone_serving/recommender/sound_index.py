"""Which items sound alike, without looking at each: a graph over their embeddings, mapped into memory.

It lies beside the recommender's arrays as `sound.usearch`. Where it is not (few items, or usearch was not installed
when the version was exported) or cannot be opened, the recommender compares all items, which takes 2 ms for 17,000 and
grows with their number. Nothing of Tritone's is imported: the `cf_ensemble` backend runs where little else is.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

FILENAME: Final = "sound.usearch"
LEAST_ITEMS: Final = 5_000  # fewer are compared one by one in less than a millisecond
MOST_ANSWERS: Final = 200  # more than that would be looked for too long in a graph

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SoundIndex:
    """An opened index; safe to search from several threads."""

    index: Any

    def search(self, embedding: npt.ArrayLike, n: int) -> tuple[Places, Floats]:
        """The n items that sound most like a recording, best first, and their cosines.

        Args:
            embedding: (E,) of any length but 0.
        """
        wanted = np.asarray(embedding, np.float32)
        found = self.index.search(wanted / np.linalg.norm(wanted), n)
        return found.keys.astype(np.int64), (1 - found.distances).astype(np.float32)


def build_index(embeddings: Floats) -> bytes | None:
    """Index items by how they sound; one thread, so that the same embeddings give the same file.

    Args:
        embeddings: (I, E) of length 1; items with zeros have no sound and are left out.

    Returns:
        the file's content; None where there are few items, or usearch is not installed.
    """
    heard = np.flatnonzero(np.asarray(embeddings).any(axis=1))
    if len(heard) < LEAST_ITEMS:
        return None
    try:
        from usearch.index import Index
    except ImportError:
        return None
    index = Index(ndim=embeddings.shape[1], metric="ip", dtype="f32")
    index.add(heard, np.ascontiguousarray(embeddings[heard]), threads=1)
    with tempfile.TemporaryDirectory(prefix="tritone-index-") as folder:
        path = Path(folder) / FILENAME
        index.save(str(path))
        return path.read_bytes()


def open_index(folder: Path) -> SoundIndex | None:
    """Map a version's index into memory; None where there is none, or nothing that can read it."""
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
    # An item's own place is among its answers. usearch declares the setter under another property's name.
    index.expansion_search = MOST_ANSWERS + 1  # type: ignore[misc]
    return SoundIndex(index)
