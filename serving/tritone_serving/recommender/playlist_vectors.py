"""One vector for each item, which joins the spaces in which items can be compared: co-listening, sound and tags.

Shapes: I items, D size of a joint vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender.artifact import EMBEDDINGS, Artifact
from tritone_serving.recommender.lookup import listener_counts
from tritone_serving.recommender.requests import MIN_FRIENDS

_N_SOUND: Final = 32
_N_TAGS: Final = 48
_N_SPARE: Final = 16  # more directions than kept, for the accuracy of the randomised decomposition
_N_PASSES: Final = 2

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrackVectors:
    """Joint vectors of items.

    Attributes:
        vectors: (I, D) of norm 1; zeros for items about which nothing is known.
        spaces: the spaces that they join: of `listening`, `sound` and `tags`.
    """

    vectors: Floats
    spaces: tuple[str, ...]

    @classmethod
    def of(cls, artifact: Artifact, n_listeners: Ints, *, spaces: tuple[str, ...] | None = None) -> TrackVectors:
        """Join the vectors of each space; items that a space does not know have zeros there.

        Args:
            artifact: the opened artifact.
            n_listeners: (I,) number of listeners of each item. The listening of items with fewer than `MIN_FRIENDS` is
                left out, because it would disclose what else these users listen to.
            spaces: the spaces to use; all that the artifact has if None.
        """
        blocks: dict[str, Floats] = {}
        for name in _SPACES if spaces is None else spaces:
            block = _SPACES[name](artifact, n_listeners)
            if block is not None and block.any():
                blocks[name] = block
        if not blocks:
            return cls(np.zeros((artifact.n_items, 1), np.float32), ())
        return cls(_unit(np.concatenate(list(blocks.values()), axis=1)), tuple(blocks))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> TrackVectors:
        """Return the vectors that `playlist_arrays` computed."""
        is_joined = zip(_SPACES, arrays["spaces"].tolist(), strict=True)
        return cls(arrays["vectors"], tuple(name for name, joined in is_joined if joined))


def playlist_arrays(artifact: Artifact) -> dict[str, npt.NDArray[Any]]:
    """Return what playlists are made from: `vectors` (I, D), which spaces they join, and each item's artist.

    `artists` (I,) holds numbers; items without an artist have numbers of their own.
    """
    joint = TrackVectors.of(artifact, listener_counts(artifact))
    artists = np.arange(artifact.n_items, dtype=np.int32)
    if "artists.ends" in artifact.arrays:
        numbers: dict[str, int] = {}
        keys = (text.strip().casefold() or f"\0{index}" for index, text in enumerate(artifact.texts("artists")))
        each = (numbers.setdefault(key, len(numbers)) for key in keys)
        artists = np.fromiter(each, np.int32, artifact.n_items)
    spaces = np.array([name in joint.spaces for name in _SPACES], np.uint8)
    return {"vectors": joint.vectors, "spaces": spaces, "artists": artists}


def _listening(artifact: Artifact, n_listeners: Ints) -> Floats | None:
    vectors = artifact.arrays.get("vectors")
    if vectors is None:
        return None
    return _unit(np.asarray(vectors, np.float32) * (n_listeners >= MIN_FRIENDS)[:, None])


def _sound(artifact: Artifact, n_listeners: Ints) -> Floats | None:
    """Return the principal components of the embeddings, without what all recordings have in common."""
    embeddings = artifact.arrays.get(EMBEDDINGS)
    if embeddings is None:
        return None
    known = np.asarray(embeddings).any(1)
    if not known.any():
        return None
    centred = np.where(known[:, None], embeddings - embeddings[known].mean(0), 0).astype(np.float32)
    _, directions = np.linalg.eigh(centred.T @ centred)
    return _unit(centred @ directions[:, -_N_SOUND:].astype(np.float32))


def _tags(artifact: Artifact, n_listeners: Ints) -> Floats | None:
    """Return a randomised singular value decomposition of items by tags (Halko et al. 2011, arXiv 0909.4061)."""
    if "tags.by_item.starts" not in artifact.arrays:
        return None
    rows = artifact.rows("tags.by_item")
    n_tags = len(artifact.arrays["tags.ends"])
    matrix = sparse.csr_matrix((rows.values, rows.columns, rows.starts), shape=(rows.n_rows, n_tags))
    n_kept = min(_N_TAGS, n_tags, rows.n_rows)
    drawn = np.random.default_rng(0).standard_normal((n_tags, min(n_kept + _N_SPARE, n_tags))).astype(np.float32)
    basis = matrix @ drawn
    for _ in range(_N_PASSES):
        basis = matrix @ (matrix.T @ np.linalg.qr(basis)[0])
    basis = np.linalg.qr(basis)[0]
    small = np.asarray((matrix.T @ basis).T)  # (directions, tags)
    left, values, _ = np.linalg.svd(small, full_matrices=False)
    return _unit((basis @ (left[:, :n_kept] * values[:n_kept])).astype(np.float32))


_SPACES: Final[Mapping[str, Callable[[Artifact, Ints], Floats | None]]] = {
    "listening": _listening,
    "sound": _sound,
    "tags": _tags,
}


def _unit(vectors: npt.NDArray[Any]) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = np.divide(vectors, lengths, out=np.zeros_like(vectors, np.float32), where=lengths > 1e-6)
    return unit
