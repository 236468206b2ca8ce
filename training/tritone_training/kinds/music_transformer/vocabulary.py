"""A frame of music as words: its notes from the highest down, each struck here or held on, then an end.

Shapes: T frames, P 88 pitches, K words of a frame, V 177 words.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tritone.music.grid import HELD as HELD_VALUE
from tritone.music.grid import N_PITCHES, SILENT
from tritone.music.grid import STRUCK as STRUCK_VALUE

MAX_NOTES: Final = 8  # that generation writes into a frame; training and evaluation know no such limit

END: Final = 0
STRUCK: Final = 1  # the word for the lowest pitch, struck; then one for each semitone
HELD: Final = STRUCK + N_PITCHES
N_WORDS: Final = HELD + N_PITCHES
BEGIN: Final = N_WORDS  # stands before the first word; never written
PADDING: Final = -1

Frames = npt.NDArray[np.uint8]
Words = npt.NDArray[np.int64]


def readable(frames: npt.NDArray[Any], *, onsets: bool, before: npt.NDArray[Any] | None = None) -> Frames:
    """What the network reads of a grid: nothing is held on from silence, and without onsets all is struck.

    Args:
        frames: (T, P), values of the grid; without onsets, all but 0 sounds.
        before: (P,) the frame before the first one; None: silence.

    Returns:
        (T, P) uint8.
    """
    values = np.where(frames > 0, np.minimum(frames, STRUCK_VALUE), 0).astype(np.uint8)
    if not onsets:
        return np.where(values > 0, STRUCK_VALUE, SILENT).astype(np.uint8)
    earlier = np.zeros_like(values)
    earlier[1:] = values[:-1]
    if before is not None and len(values):
        earlier[0] = before
    return np.where((values == HELD_VALUE) & (earlier == SILENT), STRUCK_VALUE, values).astype(np.uint8)


def words_of(frames: Frames) -> Words:
    """Spell every frame.

    Args:
        frames: (T, P) as `readable` answers.

    Returns:
        (T, K) words from the highest pitch down, an END, then PADDING; K is one more than the fullest frame's notes.
    """
    n_notes = (frames > 0).sum(1)
    words = np.full((len(frames), int(n_notes.max(initial=0)) + 1), PADDING, np.int64)
    rows, columns = np.nonzero(frames[:, ::-1])
    pitches = N_PITCHES - 1 - columns
    places = np.arange(len(rows)) - np.repeat(np.cumsum(n_notes) - n_notes, n_notes)
    words[rows, places] = pitches + np.where(frames[rows, pitches] == STRUCK_VALUE, STRUCK, HELD)
    words[np.arange(len(frames)), n_notes] = END
    return words


def pitch_of_word() -> Tensor:
    """(V + 1,) pitch index of each word; 0 for END and BEGIN, which have none."""
    pitches = torch.arange(N_PITCHES)
    return torch.cat([torch.zeros(1, dtype=torch.int64), pitches, pitches, torch.zeros(1, dtype=torch.int64)])


def may_follow() -> Tensor:
    """(V + 1, V) bool: which words the grammar lets follow each word, what sounded before aside.

    Pitches fall strictly, so no note comes twice; after an END there is nothing but END.
    """
    pitches = torch.arange(N_PITCHES)
    below = pitches[None, :] < pitches[:, None]  # (P, P)
    notes = torch.cat([below, below], dim=1)  # (P, 2P)
    none, every = torch.zeros(1, 2 * N_PITCHES, dtype=torch.bool), torch.ones(1, 2 * N_PITCHES, dtype=torch.bool)
    follow = torch.cat([none, notes, notes, every])  # END, struck, held, BEGIN
    return torch.cat([torch.ones(len(follow), 1, dtype=torch.bool), follow], dim=1)


def notes_of(words: Tensor) -> Tensor:
    """Turn words back into notes: (..., K) -> (..., 2P) float, 1 for each note, the struck ones before the held."""
    choices = torch.arange(STRUCK, N_WORDS, device=words.device)
    return (words[..., None] == choices).any(-2).to(torch.float32)


def multi_hot(frames: Tensor) -> Tensor:
    """(..., P) grid values -> (..., 2P) float, the struck notes before the held."""
    return torch.cat([frames == STRUCK_VALUE, frames == HELD_VALUE], dim=-1).to(torch.float32)
