"""A grid as a `symusic.Score`: what MIDI files are written from.

```python
to_score(grid).dump_midi("tune.mid")
```
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tritone.music.extras import require_symusic
from tritone.music.grid import Grid, notes_of, simplest_signature
from tritone.music.reading import END_MARKER

TICKS_PER_QUARTER: Final = 480
VELOCITY: Final = 80


def to_score(grid: Grid) -> Any:
    """Write a grid as a score that reads back as the same grid.

    A struck note lasts until its pitch is struck again or silent. Bars of unknown meter get no time signature; an
    upbeat becomes a shorter first bar. A grid that ends with silence gets a marker there.

    Returns:
        A `symusic.Score` in ticks with one track (program 0, piano), loudness 80.

    Raises:
        MissingExtraError: symusic is not installed.
    """
    symusic = require_symusic()
    # A step must be a whole number of ticks.
    step = max(1, TICKS_PER_QUARTER // grid.frames_per_quarter)
    score = symusic.Score(step * grid.frames_per_quarter)
    score.tempos.append(symusic.Tempo(0, grid.tempo_qpm))
    for at, numerator, denominator in _time_signatures(grid):
        score.time_signatures.append(symusic.TimeSignature(at * step, numerator, denominator))
    onset, end, pitch = notes_of(grid)
    track = symusic.Track("", 0, False)
    track.notes = symusic.Note.from_numpy(
        time=(onset * step).astype(np.int32),
        duration=((end - onset) * step).astype(np.int32),
        pitch=pitch.astype(np.int8),
        velocity=np.full(onset.size, VELOCITY, np.int8),
    )
    score.tracks.append(track)
    if not grid.frames[-1].any():
        score.markers.append(symusic.TextMeta(grid.n_frames * step, END_MARKER))
    return score


def _time_signatures(grid: Grid) -> list[tuple[int, int, int]]:
    """Return (step, numerator, denominator) of each; none if MIDI cannot express them."""
    if grid.time_signature is None:
        return []
    length, index = grid.meter
    numerator, denominator = grid.time_signature
    if not index:
        return [(0, numerator, denominator)]
    upbeat = simplest_signature(length - index, grid.frames_per_quarter, denominator)
    return [] if upbeat is None else [(0, *upbeat), (length - index, numerator, denominator)]
