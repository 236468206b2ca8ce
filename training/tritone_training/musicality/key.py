"""Which key a span is in: the Krumhansl-Schmuckler algorithm.

The durations of the twelve pitch classes are correlated with the profiles that Krumhansl & Kessler (1982) measured
with listeners; the best of the 24 keys wins (Krumhansl 1990, Cognitive Foundations of Musical Pitch, chapter 4).

Shapes: S spans, N time steps.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import LOWEST_PITCH, N_PITCHES
from tritone_training.musicality.spans import Integers, is_sounding

N_KEYS: Final = 12
N_MODES: Final = 2  # 0 major, 1 minor

_MAJOR_PROFILE: Final = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR_PROFILE: Final = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
PROFILES: Final = (_MAJOR_PROFILE, _MINOR_PROFILE)  # how well listeners find each degree to fit, 1 to 7
# Pitch class of each column, C = 0.
PITCH_CLASSES: Final = (np.arange(N_PITCHES) + LOWEST_PITCH) % 12


def pitch_class_durations(frames: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """How many time steps each pitch class sounds, octaves counted apart: (S, N, 88) -> (S, 12)."""
    steps = is_sounding(frames).sum(1).astype(np.float64)
    return np.stack([steps[:, pitch_class == PITCH_CLASSES].sum(1) for pitch_class in range(12)], axis=1)


def estimate_keys(frames: npt.NDArray[Any]) -> tuple[Integers, Integers]:
    """Tonic and mode of each span; of equally good keys the first in the order C major .. B major, C minor ...

    Args:
        frames: (S, N, 88).

    Returns:
        tonic (S,) 0..11 from C, mode (S,) 0 major, 1 minor; both -1 where nothing sounds, or all classes equally long.
    """
    durations = pitch_class_durations(frames)
    centred = durations - durations.mean(1, keepdims=True)
    spread = np.linalg.norm(centred, axis=1)
    best = (centred @ key_profiles().T).argmax(1)
    known = spread > 0
    return np.where(known, best % N_KEYS, -1), np.where(known, best // N_KEYS, -1)


def key_profiles() -> npt.NDArray[np.float64]:
    """The 24 profiles, C major .. B major, C minor .. B minor: (24, 12).

    They are of length 1 around a mean of 0, so that products with centred durations rank as correlations do.
    """
    rows = [np.roll(profile, tonic) for profile in PROFILES for tonic in range(N_KEYS)]
    profiles = np.array(rows) - np.mean(rows, axis=1, keepdims=True)
    normalised: npt.NDArray[np.float64] = profiles / np.linalg.norm(profiles, axis=1, keepdims=True)
    return normalised
