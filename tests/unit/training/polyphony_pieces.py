"""Pieces as `polyphony_rnn` learns them, made from tensors."""

from __future__ import annotations

import numpy as np
import torch

from tritone_training.data.piece_conditions import NEW, PieceConditions
from tritone_training.data.scores import ScorePiece
from tritone_training.kinds.polyphony_rnn.dataset import PieceNotes

STYLES = ("chorale", "reel")


def score_of(
    name: str,
    notes: torch.Tensor,
    struck: torch.Tensor | None = None,
    *,
    style: str = "",
    meter: tuple[int, int] = (0, 0),
) -> ScorePiece:
    """A score of (T, 88) bool; without `struck`, a note begins where its pitch begins to sound."""
    if struck is None:
        struck = notes & ~torch.nn.functional.pad(notes, (0, 0, 1, 0))[:-1]
    frames = notes.to(torch.uint8) + (struck & notes).to(torch.uint8)
    return ScorePiece(name, frames.numpy(), "train", style, meter)


def piece_of(
    name: str,
    notes: torch.Tensor,
    struck: torch.Tensor | None = None,
    *,
    asked: PieceConditions | None = None,
    style: str = "",
    meter: tuple[int, int] = (0, 0),
) -> PieceNotes:
    """The same with its conditions."""
    return PieceNotes.of(score_of(name, notes, struck, style=style, meter=meter), asked, styles=STYLES)


def conditions(n_frames: int, *, back: int = 8, key: int = 1) -> PieceConditions:
    """Conditions that are all known; from frame `back` on, every third frame repeats the one so many frames earlier."""
    repeats = np.full(n_frames, NEW)
    repeats[back::3] = back
    return PieceConditions(key=key, density=2, n_voices=4, end=n_frames, repeats=repeats)
