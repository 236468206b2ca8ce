"""Similar items, by their listeners, by their sound, or by both; and an approximate index of their sound.

The index (usearch, mapped into memory) is the file `sound.usearch` in the version folder of a recommender. If it does
not exist (few items, or usearch was not installed at export) or cannot be opened, the recommender compares all items,
which takes 2 ms for 17,000 items and grows linearly.
Shapes: I items, E values of an embedding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.exceptions import InvalidRequestError, shown
from tritone_serving.recommender.ranking import top
from tritone_serving.recommender.requests import MIN_FRIENDS, Floats, check_embedding, check_k

WAYS: Final = ("listening", "sound", "both")


@dataclass(frozen=True)
class SimilarItem:
    """An item that is similar to the requested one.

    Attributes:
        item: item id.
        score: cosine similarity, -1..1; with `both`, the mean of the two if both are available.
    """

    item: str
    score: float


def similar_items(
    artifact: Artifact,
    item: int | None,
    embedding: npt.NDArray[np.floating[Any]] | None,
    *,
    by: str,
    n: int,
    n_listeners: Callable[[], npt.NDArray[np.integer[Any]]],
) -> list[tuple[int, float]]:
    """Return (index, cosine similarity) of the n most similar items, best first.

    Similarity by listening is not available for an item with fewer than `MIN_FRIENDS` listeners, because it would
    disclose what else these users listen to.

    Args:
        artifact: the opened artifact.
        item: index of an item, or
        embedding: (256,) embedding of a recording.
        by: one of `WAYS`.
        n: number of items to return.
        n_listeners: returns the number of listeners of each item, (I,).

    Raises:
        InvalidRequestError: as `Catalogue.similar`.
    """
    if by not in WAYS:
        raise InvalidRequestError(f"invalid by: expected one of {', '.join(WAYS)}, got {shown(by)}")
    check_k(n)
    if embedding is not None:
        check_embedding(embedding)
    if (item is None) == (embedding is None):
        raise InvalidRequestError("give an item or an embedding, and not both")
    ways = [way for way in (_by_listening, _by_sound) if by in ("both", way.__name__.removeprefix("_by_"))]
    if item is not None and _by_listening in ways and n_listeners()[item] < MIN_FRIENDS:
        ways.remove(_by_listening)
    found = [scores for way in ways if (scores := way(artifact, item, embedding)) is not None]
    if not found:
        raise InvalidRequestError(f"nothing is known by {by} about what is asked for; try another `by`")
    scores = np.mean(found, axis=0).astype(np.float32)
    if item is not None:
        scores[item] = -np.inf
    best = top(scores, n)
    return [(int(each), float(scores[each])) for each in best]


def _by_listening(
    artifact: Artifact, item: int | None, embedding: npt.NDArray[np.floating[Any]] | None
) -> Floats | None:
    vectors = artifact.arrays.get("vectors")
    if vectors is None or item is None or not vectors[item].any():
        return None
    return np.asarray(vectors, np.float32) @ np.asarray(vectors[item], np.float32)


def _by_sound(artifact: Artifact, item: int | None, embedding: npt.NDArray[np.floating[Any]] | None) -> Floats | None:
    sounds = artifact.arrays.get("items.embeddings")
    if sounds is None:
        return None
    if embedding is None:
        wanted = np.asarray(sounds[item], np.float32)
    else:
        wanted = np.asarray(embedding, np.float32)
    length = float(np.linalg.norm(wanted))
    if not np.isfinite(length) or length == 0:
        return None
    cosines: Floats = sounds @ (wanted / length)
    return cosines


INDEX_FILENAME: Final = "sound.usearch"
LEAST_INDEXED_ITEMS: Final = 5_000  # exact search among fewer items takes less than a millisecond
MOST_ANSWERS: Final = 200  # searching the graph for more results is slow

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
        content of the file; None if there are fewer than `LEAST_INDEXED_ITEMS` items or usearch is not installed.
    """
    embedded = np.flatnonzero(np.asarray(embeddings).any(axis=1))
    if len(embedded) < LEAST_INDEXED_ITEMS:
        return None
    try:
        from usearch.index import Index
    except ImportError:
        return None
    index = Index(ndim=embeddings.shape[1], metric="ip", dtype="f32")
    index.add(embedded, np.ascontiguousarray(embeddings[embedded]), threads=1)
    with tempfile.TemporaryDirectory(prefix="tritone-index-") as folder:
        path = Path(folder) / INDEX_FILENAME
        index.save(str(path))
        return path.read_bytes()


def open_index(folder: Path) -> SoundIndex | None:
    """Open the index of a version, mapped into memory; None if it does not exist or cannot be read."""
    path = folder / INDEX_FILENAME
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
