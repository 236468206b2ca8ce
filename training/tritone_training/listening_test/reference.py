"""Real pieces to compare with: the held-out pieces of a data set of scores, cut to a number of bars."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tritone.music.grid import FRAMES_PER_QUARTER, Grid
from tritone_training.data.scores.loading import load_scores
from tritone_training.data.scores.score_set import ScorePiece, ScoreSet
from tritone_training.listening_test.pieces import ListeningPiece, n_full_bars

OnProgress = Callable[[int, int], None]


class Reference:
    """The held-out pieces of a data set, by style.

    Attributes:
        source: description of the data set.
        styles: names of the styles with held-out pieces, sorted.
    """

    def __init__(self, scores: ScoreSet, *, style: str | None = None) -> None:
        self.source = scores.source
        held_out = [piece for piece in scores.pieces if piece.split != "train"] or list(scores.pieces)
        training = [piece for piece in scores.pieces if piece.split == "train"]
        if style in {piece.style for piece in held_out}:  # the model may know styles that the data do not have
            held_out = [piece for piece in held_out if piece.style == style]
            training = [piece for piece in training if piece.style == style]
        self._held_out = [_piece(piece, scores.frames_per_quarter) for piece in held_out]
        self._training = [_piece(piece, scores.frames_per_quarter) for piece in training]
        self.styles = sorted({piece.style for piece in self._held_out if piece.style is not None})

    def first_bars(self, n_bars: int) -> list[ListeningPiece]:
        """Return the first bars of the held-out pieces.

        A style whose pieces are shorter is represented by the longer half of its pieces, which are then complete.
        """
        return _cut(self._held_out, n_bars)

    def note_lengths(self, n_bars: int) -> npt.NDArray[np.float64]:
        """Return the shares of note lengths of 1 .. 32 sixteenths in training pieces, or else held-out ones: (32,).

        Each style has the same weight.
        """
        pieces = _cut(self._training or self._held_out, n_bars)
        shares = []
        for style in {piece.style for piece in pieces}:
            counts = np.sum([piece.note_lengths for piece in pieces if piece.style == style], axis=0)
            shares.append(counts / max(counts.sum(), 1))
        mean: npt.NDArray[np.float64] = np.mean(shares, axis=0)
        return mean


def load_reference(data: Path | None, *, style: str | None, progress: bool) -> Reference:
    """Return the held-out pieces of a data set.

    Args:
        data: as for `load_scores`; None for the embedded corpus.
        style: only this style, if the data set has it.

    Raises:
        DataError: there are no usable scores.
    """
    return Reference(load_scores(data, progress=progress), style=style)


def _piece(piece: ScorePiece, frames_per_quarter: int) -> ListeningPiece:
    grid = Grid(
        piece.frames,
        frames_per_quarter or FRAMES_PER_QUARTER,  # unknown in piano rolls
        piece.meter,
        time_signature=piece.time_signature,
    )
    return ListeningPiece(piece.name, grid, grid, piece.style)


def _cut(pieces: list[ListeningPiece], n_bars: int) -> list[ListeningPiece]:
    kept = []
    for style in sorted({piece.style or "" for piece in pieces}):
        group = [piece for piece in pieces if (piece.style or "") == style]
        least = min(n_bars, int(np.median([n_full_bars(piece.whole) for piece in group])))
        kept += [piece.first_bars(n_bars) for piece in group if n_full_bars(piece.whole) >= least]
    return kept
