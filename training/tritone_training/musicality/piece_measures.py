"""Measures of one piece, and their titles.

```python
values = measure_piece(piece.grid)
values["key_clarity"]        # 0.87
```

The modules `tonality`, `texture` and `structure` define the measures and name their sources. A measure that is
undefined for a piece (the key of silence, parallel fifths of a melody) is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tritone.music.endings import ending_of
from tritone.music.grid import Grid
from tritone_training.musicality import structure, texture, tonality

NEAR_KEY: Final = 0.1  # difference in correlation; relative keys and fifths are often this close
SIMILARITY_LAGS: Final = (1, 4, 8, 16)  # bars

# Title and unit of each measure, in the order of tables.
MEASURES: Final[Mapping[str, str]] = {
    "n_bars": "length (bars)",
    "empty": "pieces without notes",
    "scale_consistency": "scale consistency",
    "diatonic_consistency": "  major scales only",
    "key_clarity": "key clarity (correlation)",
    "key_drift": "key drift (fifths)",
    "pitch_range": "range (semitones)",
    "note_density": "notes per quarter",
    "polyphony": "notes at once",
    "repeated_notes": "repeated notes",
    "silent_bars": "bars without an onset",
    "longest_silence": "longest silence (quarters)",
    "repeated_bars": "repeated bars",
    "repeated_phrases": "repeated phrases (4 bars)",
    **{f"similarity_{lag}": f"  bars {lag} apart, similarity" for lag in SIMILARITY_LAGS},
    "parallels": "parallels per 100 chords",
    "voice_crossing": "voice crossing",
}
# Measures of complete pieces; the first bars of a longer piece have no ending.
ENDING_MEASURES: Final[Mapping[str, str]] = {
    "cadence": "cadence at the end",
    "near_cadence": "  or in a key as likely",
    "ends_on_tonic": "  ends on the tonic",
    "ends_on_strong_beat": "  on a strong beat",
    "ends_long": "  last note is long",
}


def measure_piece(grid: Grid) -> dict[str, float]:
    """Return the measures of a piece by the names in `MEASURES`."""
    similarity = structure.self_similarity(grid)
    return {
        "n_bars": float(grid.n_bars),
        "empty": float(grid.n_notes == 0),
        "scale_consistency": tonality.scale_consistency_of(grid),
        "diatonic_consistency": tonality.diatonic_consistency(grid),
        "key_clarity": tonality.key_clarity(grid),
        "key_drift": tonality.key_drift(grid),
        "pitch_range": texture.pitch_range(grid),
        "note_density": texture.note_density(grid),
        "polyphony": texture.polyphony_of(grid),
        "repeated_notes": texture.repeated_notes(grid),
        "silent_bars": texture.silent_bars(grid),
        "longest_silence": texture.longest_silence(grid),
        "repeated_bars": structure.repeated_bars(grid),
        "repeated_phrases": structure.repeated_phrases(grid),
        **{f"similarity_{lag}": float(similarity[lag - 1]) for lag in SIMILARITY_LAGS},
        **texture.voice_leading(grid),
    }


def measure_ending(grid: Grid, key: tonality.Key | None = None) -> dict[str, float]:
    """Return the measures of the end of a complete piece by the names in `ENDING_MEASURES`: 1 or 0 each.

    Args:
        key: the key of the piece; estimated if None. `near_cadence` always uses estimated keys.
    """
    ending = ending_of(grid, key)
    near = ending_of(grid, tolerance=NEAR_KEY)
    return {
        "cadence": float(ending.is_cadence),
        "near_cadence": float(near.is_cadence),
        "ends_on_tonic": float(ending.on_tonic),
        "ends_on_strong_beat": float(ending.on_strong_beat),
        "ends_long": float(ending.is_long),
    }
