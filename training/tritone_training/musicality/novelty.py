"""Is it new? Nearest neighbours among the music that was learnt from, and repeats within a set.

Shapes: S spans, R reference spans, N time steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import N_PITCHES, STRUCK

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Distances = npt.NDArray[np.float64]

# Transpositions of training: a copy in another key is a copy.
TRANSPOSITIONS: Final = tuple(range(-6, 6))
COPY_DISTANCE: Final = 0.1  # nine tenths of all notes the same
_CHUNK: Final = 256


def duplicate_rate(spans: npt.NDArray[Any]) -> float:
    """Share of spans that equal an earlier one: (S, ...) -> 0..1."""
    flat = spans.reshape(len(spans), -1)
    return 1 - len(np.unique(flat, axis=0)) / len(flat) if len(flat) else 0.0


def nearest_distances(
    frames: npt.NDArray[Any], reference: npt.NDArray[Any], *, transpositions: tuple[int, ...] = TRANSPOSITIONS
) -> Distances:
    """How unlike each span is to its nearest reference span in any of the transpositions.

    The distance is Jaccard's, over the struck notes (step, pitch): 1 less the notes in common over the notes in
    either; 0 for the same notes, 1 for none in common. Two silent spans are the same.

    Args:
        frames: (S, N, 88).
        reference: (R, N, 88), R at least 1.

    Returns:
        (S,)
    """
    ours, theirs = frames == STRUCK, reference == STRUCK
    n_theirs = theirs.sum((1, 2)).astype(np.float64)
    table = _sparse(theirs).T.tocsr()
    nearest = np.ones(len(frames))
    for start in range(0, len(frames), _CHUNK):
        chunk = ours[start : start + _CHUNK]
        n_ours = chunk.sum((1, 2)).astype(np.float64)
        for semitones in transpositions:
            common = np.asarray((_sparse(_transposed(chunk, semitones)) @ table).todense(), np.float64)
            either = n_ours[:, None] + n_theirs - common
            alike = np.where(either > 0, common / np.maximum(either, 1), 1.0)
            nearest[start : start + _CHUNK] = np.minimum(nearest[start : start + _CHUNK], 1 - alike.max(1))
    return nearest


def memorisation(generated: Distances, held_out: Distances) -> dict[str, float]:
    """Are generated spans nearer to the training set than unseen real music is?

    Args:
        generated, held_out: distances to the nearest training span, from `nearest_distances`.

    Returns:
        For each set the share of copies (distance at most 0.1) and the median distance; `nearer_share` is the
        probability that a generated span is nearer than a held-out one, ties counted half: 0.5 is par.
    """
    ordered = np.sort(held_out)
    below = np.searchsorted(ordered, generated, side="left")
    below_or_equal = np.searchsorted(ordered, generated, side="right")
    farther = len(ordered) - (below + below_or_equal) / 2
    return {
        "copy_rate": float((generated <= COPY_DISTANCE).mean()),
        "held_out_copy_rate": float((held_out <= COPY_DISTANCE).mean()),
        "median_distance": float(np.median(generated)),
        "held_out_median_distance": float(np.median(held_out)),
        "nearer_share": float((farther / len(ordered)).mean()),
    }


def _transposed(struck: npt.NDArray[np.bool_], semitones: int) -> npt.NDArray[np.bool_]:
    """Notes that leave the keyboard are lost."""
    moved = np.zeros_like(struck)
    if semitones >= 0:
        moved[..., semitones:] = struck[..., : N_PITCHES - semitones]
    else:
        moved[..., :semitones] = struck[..., -semitones:]
    return moved


def _sparse(struck: npt.NDArray[np.bool_]) -> csr_matrix:
    from scipy.sparse import csr_matrix

    return csr_matrix(struck.reshape(len(struck), -1).astype(np.float32))
