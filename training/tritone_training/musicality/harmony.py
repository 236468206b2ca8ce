"""Measures of a harmonization: whether the melody is accompanied, and how its voices are led.

`texture` defines parallels and crossings and names their sources. Voices are derived from the notes, for real and for
generated music alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from tritone.music.endings import ending_of
from tritone.music.grid import SILENT, STRUCK, Frames, Grid
from tritone.music.voice_leading import sounding_columns
from tritone.music.voices import N_VOICES
from tritone_training.musicality import texture, tonality

NAN: Final = float("nan")
# Title and unit of each measure, in the order of tables.
HARMONY_MEASURES: Final[Mapping[str, str]] = {
    "accompanied": "melody onsets with another voice",
    "n_notes": "notes at once (median)",
    "parallels": "parallels per 100 chords",
    "voice_crossing": "voice crossing",
    **{f"range_{voice}": f"range of voice {voice} (semitones)" for voice in range(1, N_VOICES + 1)},
    "scale_consistency": "scale consistency",
    "cadence": "cadence at the end",
}


def measure_harmony(grid: Grid, melody: Frames) -> dict[str, float]:
    """Return the measures of a harmonization by the names in `HARMONY_MEASURES`.

    Args:
        grid: melody and harmony.
        melody: (N, 88) the highest voice alone.
    """
    return {
        "accompanied": accompanied(grid, melody),
        "n_notes": notes_at_once(grid, melody),
        **texture.voice_leading(grid),
        **voice_ranges(grid),
        "scale_consistency": tonality.scale_consistency_of(grid),
        "cadence": float(ending_of(grid).is_cadence),
    }


def accompanied(grid: Grid, melody: Frames) -> float:
    """Return the share of melody onsets at which another note sounds; NaN without onsets."""
    onsets = (melody == STRUCK).any(axis=1)
    others = (grid.frames != SILENT) & (melody == SILENT)
    return float(others[onsets].any(axis=1).mean()) if onsets.any() else NAN


def notes_at_once(grid: Grid, melody: Frames) -> float:
    """Return the median number of notes that sound with the melody, the melody included; NaN without melody."""
    n_notes = (grid.frames != SILENT).sum(axis=1)[(melody != SILENT).any(axis=1)]
    return float(np.median(n_notes)) if n_notes.size else NAN


def voice_ranges(grid: Grid) -> dict[str, float]:
    """Return `range_1` (of the highest voice) to `range_4`, in semitones; NaN for a voice without notes."""
    ranges = {}
    for voice, pitches in enumerate(sounding_columns(grid.frames).T, 1):
        used = pitches[pitches >= 0]
        ranges[f"range_{voice}"] = float(np.ptp(used)) if used.size else NAN
    return ranges
