"""How a mood begins a piece: its tempo, and a chord in its mode from which a model goes on.

No model is trained on moods. Tempo and mode are the cues on which listeners agree most, and the table follows the
direction of the published findings; its numbers are a choice.

Source: Gabrielsson & Lindstroem, "The role of structure in the musical expression of emotions", in Juslin & Sloboda
(eds.), Handbook of Music and Emotion (2010).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from tritone.constants import EMOTIONS
from tritone.music.grid import HELD, LOWEST_PITCH, N_PITCHES, STRUCK, Grid

Mode = Literal["major", "minor"]
# MIDI pitches in C: root, fifth, third and octave, as four voices have them.
_CHORDS: Final[Mapping[Mode, tuple[int, ...]]] = {"major": (48, 55, 64, 72), "minor": (48, 55, 63, 72)}
_QUARTERS: Final = 4  # in a bar of 4/4
_LOWEST_SHIFT: Final = -5  # semitones: keys from G below to F sharp above, so that the chord stays in the middle


@dataclass(frozen=True)
class MoodOpening:
    """How a piece of a mood begins.

    Attributes:
        tempo_qpm: quarter notes per minute.
    """

    tempo_qpm: float
    mode: Mode


OPENINGS: Final[Mapping[str, MoodOpening]] = dict(
    zip(
        EMOTIONS,
        (
            MoodOpening(112.0, "major"),  # amazement
            MoodOpening(66.0, "minor"),  # solemnity
            MoodOpening(76.0, "major"),  # tenderness
            MoodOpening(80.0, "minor"),  # nostalgia
            MoodOpening(66.0, "major"),  # calmness
            MoodOpening(126.0, "major"),  # power
            MoodOpening(138.0, "major"),  # joyful_activation
            MoodOpening(132.0, "minor"),  # tension
            MoodOpening(58.0, "minor"),  # sadness
        ),
        strict=True,
    )
)


def opening(mood: str, seed: int, frames_per_quarter: int) -> Grid:
    """Return the first quarter of a piece: a chord in the mode of a mood, in a key that the seed chooses.

    Args:
        mood: one of the nine emotions.
        frames_per_quarter: of the model.
    """
    how = OPENINGS[mood]
    shift = seed % 12 + _LOWEST_SHIFT
    frames = np.zeros((frames_per_quarter, N_PITCHES), np.uint8)
    for pitch in _CHORDS[how.mode]:
        frames[:, pitch + shift - LOWEST_PITCH] = HELD
        frames[0, pitch + shift - LOWEST_PITCH] = STRUCK
    return Grid(frames, frames_per_quarter, (_QUARTERS * frames_per_quarter, 0), how.tempo_qpm)
