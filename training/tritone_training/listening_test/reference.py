"""Real pieces to compare with: the held-out pieces of a data set of scores, cut to a number of bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import FRAMES_PER_QUARTER, Grid
from tritone_training.data.scores.loading import load_scores
from tritone_training.data.scores.score_set import ScorePiece, ScoreSet
from tritone_training.listening_test.pieces import ListeningPiece, n_full_bars
from tritone_training.quality import spread

Shares = npt.NDArray[np.float64]
MAX_HELD_OUT: Final = 100  # pieces of each style; more would narrow the intervals little, and take minutes
MAX_TRAINING: Final = 200


class Reference:
    """The held-out pieces of a data set, by style; at most 100 of each.

    Attributes:
        source: description of the data set.
    """

    def __init__(self, scores: ScoreSet, *, style: str | None = None) -> None:
        self.source = scores.source
        held_out = [piece for piece in scores.pieces if piece.split != "train"] or list(scores.pieces)
        training = [piece for piece in scores.pieces if piece.split == "train"]
        if style in {piece.style for piece in held_out}:  # the model may know styles that the data do not have
            held_out = [piece for piece in held_out if piece.style == style]
            training = [piece for piece in training if piece.style == style]
        steps = scores.frames_per_quarter or FRAMES_PER_QUARTER  # unknown in piano rolls
        self._held_out = [_piece(piece, steps) for piece in _chosen(held_out, MAX_HELD_OUT)]
        self._training = [_piece(piece, steps) for piece in _chosen(training, MAX_TRAINING)]

    @property
    def pieces(self) -> Sequence[ListeningPiece]:
        """Return the complete held-out pieces."""
        return tuple(self._held_out)

    def first_bars(self, n_bars: int) -> list[ListeningPiece]:
        """Return the first bars of the held-out pieces.

        A style whose pieces are shorter is represented by the longer half of its pieces, which are then complete.
        """
        return _cut(self._held_out, n_bars)

    def note_lengths(self, n_bars: int) -> dict[str | None, Shares]:
        """Return the shares of note lengths of 1 .. 32 sixteenths by style, None for all styles equally: (32,).

        They are those of training pieces, or of the held-out pieces if there are no others.
        """
        pieces = _cut(self._training or self._held_out, n_bars)
        shares: dict[str | None, Shares] = {}
        for style in sorted({piece.style or "" for piece in pieces}):
            counts = np.sum([piece.note_lengths for piece in pieces if (piece.style or "") == style], axis=0)
            shares[style] = counts / max(counts.sum(), 1)
        return {**shares, None: np.mean(list(shares.values()), axis=0)}


def load_reference(data: Path | None, *, style: str | None, progress: bool) -> Reference:
    """Return the held-out pieces of a data set.

    Args:
        data: as for `load_scores`; None for the embedded corpus.
        style: only this style, if the data set has it.

    Raises:
        DataError: there are no usable scores.
    """
    return Reference(load_scores(data, progress=progress), style=style)


def _chosen(pieces: list[ScorePiece], most: int) -> list[ScorePiece]:
    """Return at most so many pieces of each style, evenly spaced."""
    chosen = []
    for style in sorted({piece.style for piece in pieces}):
        group = [piece for piece in pieces if piece.style == style]
        chosen += [group[index] for index in spread(len(group), most)]
    return chosen


def _piece(piece: ScorePiece, frames_per_quarter: int) -> ListeningPiece:
    grid = Grid(piece.frames, frames_per_quarter, piece.meter, time_signature=piece.time_signature)
    return ListeningPiece(piece.name, grid, grid, piece.style)


def _cut(pieces: list[ListeningPiece], n_bars: int) -> list[ListeningPiece]:
    kept = []
    for style in sorted({piece.style or "" for piece in pieces}):
        group = [piece for piece in pieces if (piece.style or "") == style]
        least = min(n_bars, int(np.median([n_full_bars(piece.whole) for piece in group])))
        kept += [piece.first_bars(n_bars) for piece in group if n_full_bars(piece.whole) >= least]
    return kept
