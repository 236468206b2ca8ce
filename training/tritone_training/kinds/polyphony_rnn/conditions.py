"""What the decoder of joint frames sees beside the recurrent layer: conditions, and features of the whole piece so far.

Conditions are the key, the style, the metre, the place in the phrase, the frames left, the density, the number of
voices, and the earlier moment that a frame repeats.

Each condition may be unknown, so that any data and any prompt can be used. They reach only the decoder of joint frames
(`frame_decoder`): the likelihood of independent notes does not depend on them.

Shapes: N frames of any batch, T frames of a piece, 88 pitches, W units of the decoder.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from tritone.music.grid import LOWEST_PITCH, N_PITCHES
from tritone_training.data.piece_conditions import (
    MOST_VOICES,
    N_DENSITIES,
    N_KEYS_AND_MODES,
    UNKNOWN,
    PieceConditions,
)

# Columns of conditions (..., 9) int64; 0 is unknown, except for the position in a bar.
KEY: Final = 0  # 1..12 C major .. B major, 13..24 C minor .. B minor
STYLE: Final = 1  # 1.. in the order of the styles of the training data
BAR_FRAMES: Final = 2  # frames in a bar
POSITION: Final = 3  # index of the frame in its bar
BAR: Final = 4  # 1..8: number of the bar within a phrase of eight
LEFT: Final = 5  # frames left in the piece, this one included
DENSITY: Final = 6  # 1 sparse .. 3 dense
VOICES: Final = 7  # 1..6 notes at once
REPEATS: Final = 8  # frames earlier of the moment that this one repeats; -1 for none
N_CONDITIONS: Final = 9

BARS_IN_PHRASE: Final = 8
LONGEST_BAR: Final = 16  # frames; the metre of longer bars is unknown
# Bars back whose frames at the same position the decoder sees.
BARS_BACK: Final = (1, 2, 4, 8)
_FIRST_BAR_BACK: Final = 6
_FIRST_REPEATED: Final = _FIRST_BAR_BACK + 2 * len(BARS_BACK)
N_HISTORY_FEATURES: Final = _FIRST_REPEATED + 2
_FADES: Final = (1.0, 3.0, 8.0, 24.0, 64.0)  # of the frames left


class ConditionEncoder(nn.Module):
    """Returns what each pitch sees of the conditions of its frame."""

    def __init__(self, width: int, n_styles: int) -> None:
        super().__init__()
        self.degree = nn.Embedding(1 + N_KEYS_AND_MODES, width)  # of a pitch in its key
        self.style = nn.Embedding(1 + n_styles, width)
        self.position = nn.Embedding((1 + LONGEST_BAR) * LONGEST_BAR, width)
        self.bar = nn.Embedding(1 + BARS_IN_PHRASE, width)
        self.density = nn.Embedding(1 + N_DENSITIES, width)
        self.voices = nn.Embedding(1 + MOST_VOICES, width)
        self.repeats = nn.Embedding(3, width)  # unknown, none, an earlier moment
        self.left = nn.Linear(1 + len(_FADES), width, bias=False)
        for table in (self.degree, self.style, self.position, self.bar, self.density, self.voices, self.repeats):
            nn.init.normal_(table.weight, std=0.1)
        self.register_buffer("classes", (torch.arange(N_PITCHES) + LOWEST_PITCH) % 12, persistent=False)  # (88,)
        self.register_buffer("fades", torch.tensor(_FADES), persistent=False)
        self.classes: Tensor
        self.fades: Tensor

    def forward(self, conditions: Tensor) -> Tensor:
        """Return (N, 88, W) from (N, 9)."""
        key = conditions[:, KEY, None]
        tonic, mode = (key - 1) % 12, torch.div(key - 1, 12, rounding_mode="floor")
        degree = torch.where(key > 0, 1 + mode * 12 + (self.classes - tonic) % 12, torch.zeros_like(key))  # (N, 88)
        place = conditions[:, BAR_FRAMES] * LONGEST_BAR + conditions[:, POSITION]
        left = conditions[:, LEFT, None].to(self.fades.dtype)
        known = (left > 0).to(left.dtype)
        ending = torch.cat([known, known * torch.exp(-(left - 1) / self.fades)], 1)  # (N, 6)
        repeats = conditions[:, REPEATS]
        repetition = (repeats != 0).to(torch.int64) + (repeats > 0).to(torch.int64)  # (N,)
        of_frame = (
            self.style(conditions[:, STYLE])
            + self.position(place)
            + self.bar(conditions[:, BAR])
            + self.left(ending)
            + self.density(conditions[:, DENSITY])
            + self.voices(conditions[:, VOICES])
            + self.repeats(repetition)
        )
        seen: Tensor = self.degree(degree) + of_frame[:, None]
        return seen


def frame_conditions(
    notes: Tensor, piece: PieceConditions, *, style: int, bar_frames: int, first_position: int
) -> Tensor:
    """Return the conditions of the frames of a whole piece: (T, 88) bool -> (T, 9) int64.

    Args:
        piece: conditions of the piece as a whole.
        style: 1.. or 0 if unknown.
        bar_frames: frames in a bar; 0 if unknown.
        first_position: index of the first frame in its bar.
    """
    found = torch.zeros(len(notes), N_CONDITIONS, dtype=torch.int64)
    found[:, KEY] = piece.key
    found[:, STYLE] = style
    found[:, DENSITY] = piece.density
    found[:, VOICES] = piece.n_voices
    found[:, REPEATS] = torch.from_numpy(piece.repeats)
    if 0 < bar_frames <= LONGEST_BAR:
        frame = torch.arange(len(notes)) + first_position
        found[:, BAR_FRAMES] = bar_frames
        found[:, POSITION] = frame % bar_frames
        found[:, BAR] = 1 + torch.div(frame, bar_frames, rounding_mode="floor") % BARS_IN_PHRASE
    sounding = torch.nonzero(notes.any(1)).flatten()
    if piece.end != UNKNOWN and len(sounding):
        found[:, LEFT] = (sounding[-1] + 1 - torch.arange(len(notes))).clamp_min(0)
    return found


def transposed_key(conditions: Tensor, semitones: int) -> Tensor:
    """Return conditions (..., 9) of the same music in another key."""
    moved = conditions.clone()
    key = conditions[..., KEY] - 1
    there = torch.div(key, 12, rounding_mode="floor") * 12 + (key + semitones) % 12
    moved[..., KEY] = torch.where(key >= 0, there + 1, torch.zeros_like(there))
    return moved


def without_metre(conditions: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
    """Return conditions (..., 9) and history features (..., 16, 88) of music of unknown metre."""
    conditions, history = conditions.clone(), history.clone()
    conditions[..., [BAR_FRAMES, POSITION, BAR]] = 0
    history[..., _FIRST_BAR_BACK:_FIRST_REPEATED, :] = 0
    return conditions, history


def without_repeats(conditions: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
    """Return conditions (..., 9) and history features (..., 16, 88) of music of which no repetition is known."""
    conditions, history = conditions.clone(), history.clone()
    conditions[..., REPEATS] = 0
    history[..., _FIRST_REPEATED:, :] = 0
    return conditions, history


def history_features(notes: Tensor, struck: Tensor, bar_frames: int, repeats: Tensor | None = None) -> Tensor:
    """Return the history features before each frame of a piece.

    Args:
        notes: (T, 88) bool, what sounds.
        struck: (T, 88) bool, what begins.
        bar_frames: frames in a bar; 0 if unknown.
        repeats: (T,) int64 how many frames earlier the moment is that each frame repeats; None if unknown.

    Returns:
        (T, 16, 88): log of the frames since a sounding pitch was struck; the five features of `range_features`; what
        sounded, and what was struck, at the same position 1, 2, 4 and 8 bars before; what sounded, and what was struck,
        at the moment that the frame repeats.
    """
    n_frames = len(notes)
    frame = torch.arange(n_frames)[:, None]
    last = torch.where(struck, frame, torch.full_like(frame, -1)).cummax(0).values
    found = torch.zeros(n_frames, N_HISTORY_FEATURES, N_PITCHES)
    found[1:, 0] = torch.log1p(torch.where(notes, frame - last + 1, torch.zeros_like(frame)).float())[:-1]
    found[1:, 1:_FIRST_BAR_BACK] = range_features(notes.float().cummax(0).values)[:-1]
    if 0 < bar_frames <= LONGEST_BAR:
        for row, bars in enumerate(BARS_BACK, _FIRST_BAR_BACK):
            lag = bars * bar_frames
            found[lag:, row] = notes[: max(n_frames - lag, 0)].float()
            found[lag:, row + len(BARS_BACK)] = struck[: max(n_frames - lag, 0)].float()
    if repeats is not None:
        repeating = torch.nonzero(repeats > 0).flatten()
        moments = repeating - repeats[repeating]
        found[repeating, _FIRST_REPEATED] = notes[moments].float()
        found[repeating, _FIRST_REPEATED + 1] = struck[moments].float()
    return found


def range_features(used: Tensor) -> Tensor:
    """Return whether a pitch has sounded before, and how far it is outside the range so far.

    Args:
        used: (N, 88) float, 1 for each pitch that has sounded.

    Returns:
        (N, 5, 88): used; above the range, and how far in octaves; below the range, and how far. 0 before any note.
    """
    pitch = torch.arange(N_PITCHES, dtype=used.dtype, device=used.device)
    highest = (used * (pitch + 1)).amax(1, keepdim=True) - 1  # (N, 1)
    lowest = N_PITCHES - (used * (N_PITCHES - pitch)).amax(1, keepdim=True)
    some = used.amax(1, keepdim=True)
    above = (pitch - highest).clamp(0, 12) * some
    below = (lowest - pitch).clamp(0, 12) * some
    return torch.stack([used, above.clamp_max(1), above / 12, below.clamp_max(1), below / 12], 1)
