"""Keys of pieces, estimated with the Krumhansl-Schmuckler algorithm.

The durations of the twelve pitch classes are correlated with the key profiles of Krumhansl & Kessler (1982); the
estimate is the one of the 24 keys with the highest correlation (Krumhansl 1990, Cognitive Foundations of Musical Pitch,
chapter 4).

Shapes: S pieces, N time steps.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.arguments import is_whole, shown
from tritone.exceptions import InvalidInputError
from tritone.music.grid import LOWEST_PITCH, N_PITCHES, SILENT

Integers = npt.NDArray[np.int64]

MODES: Final = ("major", "minor")
KEY_NAMES: Final = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
N_KEYS: Final = 12
N_MODES: Final = 2  # 0 major, 1 minor

_MAJOR_PROFILE: Final = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR_PROFILE: Final = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
PROFILES: Final = (_MAJOR_PROFILE, _MINOR_PROFILE)  # mean ratings of each degree by listeners, 1 to 7
# Pitch class of each column, C = 0.
PITCH_CLASSES: Final = (np.arange(N_PITCHES) + LOWEST_PITCH) % N_KEYS
_SEMITONES_OF_NOTES: Final = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_SEMITONES_OF_SIGNS: Final = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}


def tonic_number(key: str | int | None) -> int | None:
    """Return the tonic of a key as 0 (C) to 11 (B); None for any.

    Raises:
        InvalidInputError: the key is unknown.
    """
    if key is None:
        return None
    if is_whole(key) and 0 <= int(key) <= 11:
        return int(key)
    if isinstance(key, str) and key[:1].upper() in _SEMITONES_OF_NOTES and key[1:] in _SEMITONES_OF_SIGNS:
        return (_SEMITONES_OF_NOTES[key[0].upper()] + _SEMITONES_OF_SIGNS[key[1:]]) % N_KEYS
    raise InvalidInputError(
        f"unknown key: expected a note such as 'C', 'F#' or 'Bb', or 0 (C) to 11 (B), got {shown(key)}; pass the mode "
        f"as mode=",
        argument="key",
    )


def mode_number(mode: str | None) -> int | None:
    """Return 0 for major and 1 for minor; None for any.

    Raises:
        InvalidInputError: the mode is unknown.
    """
    if mode is None:
        return None
    if not (isinstance(mode, str) and mode in MODES):
        raise InvalidInputError(
            f"unknown mode: expected {' or '.join(map(repr, MODES))}, or None for any, got {shown(mode)}",
            argument="mode",
        )
    return MODES.index(mode)


def key_code(tonic: int | None, mode: int | None) -> int:
    """Return a key as a value of the tensor `key`: 1 to 12 for C major to B major, 13 to 24 for C minor to B minor.

    Args:
        tonic: 0 (C) to 11 (B); without one, the key is 0, unknown.
        mode: 0 major, 1 minor; None counts as major.
    """
    return 0 if tonic is None else 1 + (mode or 0) * N_KEYS + tonic


def tonic_and_mode(code: int) -> tuple[int, int]:
    """Return the tonic, 0 (C) to 11 (B), and the mode, 0 major or 1 minor, of a known key from `key_code`."""
    mode, tonic = divmod(code - 1, N_KEYS)
    return tonic, mode


def pitch_class_durations(frames: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the number of time steps in which each pitch class sounds, summed over octaves: (S, N, 88) -> (S, 12)."""
    steps = (frames != SILENT).sum(1).astype(np.float64)
    return np.stack([steps[:, pitch_class == PITCH_CLASSES].sum(1) for pitch_class in range(N_KEYS)], axis=1)


def estimate_keys(frames: npt.NDArray[Any]) -> tuple[Integers, Integers]:
    """Estimate tonic and mode of each piece; of equal keys, the first in the order C major .. B major, C minor ...

    Args:
        frames: (S, N, 88).

    Returns:
        tonic (S,) 0..11 from C, mode (S,) 0 major, 1 minor; both -1 where nothing sounds, or all classes sound equally.
    """
    correlations = key_correlations(frames)
    best = correlations.argmax(1)
    known = correlations.any(1)
    return np.where(known, best % N_KEYS, -1), np.where(known, best // N_KEYS, -1)


def key_correlations(frames: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the correlation of each piece with each of the 24 keys.

    Args:
        frames: (S, N, 88).

    Returns:
        (S, 24), C major .. B major, C minor .. B minor; 0 where nothing sounds, or all pitch
        classes sound equally long.
    """
    durations = pitch_class_durations(frames)
    centred = durations - durations.mean(1, keepdims=True)
    spread = np.linalg.norm(centred, axis=1, keepdims=True)
    correlations: npt.NDArray[np.float64] = centred @ key_profiles().T / np.where(spread > 0, spread, 1.0)
    return correlations


def key_profiles() -> npt.NDArray[np.float64]:
    """Return the 24 profiles, C major .. B major, C minor .. B minor: (24, 12).

    They have mean 0 and norm 1, so that the product with durations of mean 0 and norm 1 is the correlation.
    """
    rows = [np.roll(profile, tonic) for profile in PROFILES for tonic in range(N_KEYS)]
    profiles = np.array(rows) - np.mean(rows, axis=1, keepdims=True)
    normalised: npt.NDArray[np.float64] = profiles / np.linalg.norm(profiles, axis=1, keepdims=True)
    return normalised
