"""Three attributes along which a span can be moved, each one number a span.

* note density: notes struck in a quarter note (MusicVAE moves melodies along it: Roberts et al. 2018,
  arXiv:1803.05428).
* pitch range: semitones between the highest and the lowest note (Yang & Lerch 2020, "On the evaluation of generative
  models in music", Neural Computing and Applications 32).
* rhythmic complexity: how weak the beats are on which notes begin, from 0 (bar lines only) to 1 (only sixteenths
  between the eighths): one minus the mean metrical weight of the onsets, with the weights of Toussaint 2002 ("A
  mathematical analysis of African, Brazilian and Cuban clave rhythms") scaled to 0..1. Pati & Lerch 2020
  (arXiv:2004.05485) order latent spaces by the same idea.

Shapes: S spans, N time steps (sixteenths of 4/4).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import STRUCK
from tritone_training._exceptions import DataError

ATTRIBUTES: Final = ("note_density", "pitch_range", "rhythmic_complexity")
_STEPS_PER_QUARTER: Final = 4
# Toussaint's weights of the sixteen pulses of a bar of 4/4, as Lerdahl & Jackendoff's levels give them.
METRICAL_WEIGHTS: Final = (5, 1, 2, 1, 3, 1, 2, 1, 4, 1, 2, 1, 3, 1, 2, 1)


def measure_attributes(frames: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Attributes of grids: (S, N, 88) -> (S, 3) in the order of `ATTRIBUTES`; 0 where there are no notes.

    Args:
        frames: sixteenths, beginning at a bar line; N a multiple of 16.

    Raises:
        DataError: another length.
    """
    n_steps, n_pitches = frames.shape[1:]
    if n_steps % len(METRICAL_WEIGHTS):
        raise DataError(f"spans of {n_steps} steps; attributes need whole bars of {len(METRICAL_WEIGHTS)} steps")
    struck = frames == STRUCK
    density = struck.sum((1, 2)) / (n_steps / _STEPS_PER_QUARTER)
    used = struck.any(1)  # (S, 88)
    columns = np.arange(n_pitches)
    pitch_range = np.where(used, columns, -1).max(1) - np.where(used, columns, n_pitches).min(1)
    onsets = struck.any(2)  # (S, N)
    weights = np.tile((np.array(METRICAL_WEIGHTS) - 1) / 4, n_steps // len(METRICAL_WEIGHTS))
    n_onsets = onsets.sum(1)
    complexity = 1 - (onsets * weights).sum(1) / np.maximum(n_onsets, 1)
    measured: npt.NDArray[np.float64] = np.stack([density, pitch_range, complexity], axis=1).astype(np.float64)
    measured[n_onsets == 0] = 0.0
    return measured
