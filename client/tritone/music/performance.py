"""Convert grids to scores for playback: instruments for the parts, dynamics, and gaps between repeated notes.

```python
perform(grid, instruments=("Violin", "Acoustic Guitar (nylon)")).dump_midi("duo.mid")
```

Nothing is random, so a piece always sounds the same. `to_grid` of the score returns the same grid. Velocities follow
the rules of Sundberg, Friberg and Frydén, "Rules for automated performance of ensemble music" (Contemporary Music
Review 3, 1989), simplified and with amounts of its own: metrical accents, an arch over each phrase, higher notes
louder, and the melody louder than the other voices.

Shapes: K notes, N time steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import COMMON_TIME, LOWEST_PITCH, TEMPO_RANGE_QPM, Grid, notes_of
from tritone.music.instruments import program_of
from tritone.music.symusic_scores import VELOCITY, IntArray, add_track, require_symusic, score_without_notes
from tritone.music.voices import FIRST_STRIKE, assign_voices

FloatArray = npt.NDArray[np.float64]

VELOCITIES: Final = (36, 116)  # MIDI velocities of the softest and the loudest notes
# MIDI velocity added to a note by its position in the bar, and by its voice.
_DOWNBEAT, _MIDDLE_OF_BAR, _BEAT, _HALF_BEAT, _OFF_BEAT = 8.0, 5.0, 2.0, -1.0, -4.0
_MELODY, _INNER, _BASS = 7.0, -6.0, 1.0
_BARS_PER_PHRASE: Final = 4
_ARCH: Final = 12.0  # velocity added from the edges of a phrase to its loudest notes
_ARCH_SKEW: Final = 1.36  # exponent by which a phrase is loudest at 0.6 of its length
_PER_SEMITONE: Final = 0.4  # velocity for each semitone above the mean pitch of the voice
_MAX_BY_PITCH: Final = 5.0  # largest change of velocity by pitch
_GAP: Final = 0.2  # share of a note's length that is silent before the next note of its pitch
_SLOWEST: Final = 0.65  # share of the tempo at the end of a ritardando
_TEMPOS_PER_QUARTER: Final = 4


def perform(grid: Grid, *, instruments: Sequence[str], ritardando: bool = False) -> Any:
    """Return a grid as a score with instruments, dynamics and articulation.

    Args:
        grid: the notes.
        instruments: General MIDI names, for the parts of `parts_of` from the highest down.
        ritardando: slow down in the last bar, by tempo events; `to_grid` counts these in `dropped`.

    Returns:
        A `symusic.Score` in ticks, with a track for each part that has notes.

    Raises:
        MissingExtraError: symusic is not installed.
    """
    score, step = score_without_notes(grid)
    notes = notes_of(grid)
    onset, end, pitch = notes
    voice, n_voices = _voices(grid, onset, pitch)
    part = _parts(voice, n_voices, len(instruments))
    velocity = _velocities(grid, onset, pitch, voice, n_voices)
    duration = (end - onset) * step - _gaps(notes, step)
    for index in np.unique(part) if part.size else [0]:
        own = part == index
        name = instruments[int(index)]
        add_track(
            score, onset[own] * step, duration[own], pitch[own], velocity[own], program=program_of(name), name=name
        )
    if ritardando:
        _slow_down(score, grid, step)
    return score


def parts_of(grid: Grid, n_parts: int) -> IntArray:
    """Return the part of each note of `notes_of`, 0 being the highest.

    One part has all notes. Two are the highest voice and the others; three the highest, the inner and the lowest
    voices; four are the voices of `assign_voices`, whose notes beyond four at a time belong to the second part.

    Returns:
        (K,) 0 to n_parts - 1.
    """
    onset, _, pitch = notes_of(grid)
    return _parts(*_voices(grid, onset, pitch), n_parts)


def _voices(grid: Grid, onset: IntArray, pitch: IntArray) -> tuple[IntArray, int]:
    """Return the voice of each note (K,), and the number of voices."""
    voices = assign_voices(grid.frames)[0]  # (N, 4)
    step, voice = np.nonzero(voices >= FIRST_STRIKE)
    of_note = dict(
        zip(zip(step.tolist(), (voices[step, voice] - FIRST_STRIKE).tolist(), strict=True), voice, strict=True)
    )
    columns = (pitch - LOWEST_PITCH).tolist()
    n_voices = int(voice.max(initial=0)) + 1
    inner = min(1, n_voices - 1)  # of chords of more than four notes
    found = [int(of_note.get(note, inner)) for note in zip(onset.tolist(), columns, strict=True)]
    return np.array(found, np.int64), n_voices


def _parts(voice: IntArray, n_voices: int, n_parts: int) -> IntArray:
    last = n_parts - 1
    part: IntArray = np.clip(voice, min(1, last), max(last - 1, min(1, last)))
    part[voice == n_voices - 1] = last
    part[voice == 0] = 0
    return part


def _velocities(grid: Grid, onset: IntArray, pitch: IntArray, voice: IntArray, n_voices: int) -> IntArray:
    loudness = VELOCITY - _ARCH / 3 + _accents(grid, onset) + _arches(grid, onset)
    if n_voices > 1:
        loudness += np.where(voice == 0, _MELODY, np.where(voice == n_voices - 1, _BASS, _INNER))
    for each in np.unique(voice):
        own = voice == each
        height = pitch[own] - pitch[own].mean()
        loudness[own] += np.clip(_PER_SEMITONE * height, -_MAX_BY_PITCH, _MAX_BY_PITCH)
    velocities: IntArray = np.clip(np.rint(loudness), *VELOCITIES).astype(np.int64)
    return velocities


def _bar(grid: Grid) -> tuple[int, int]:
    """Return the time steps of a bar and the index of the first step in its bar; 4/4 where the meter is unknown."""
    length, index = grid.meter
    return (length, index) if length else (4 * grid.frames_per_quarter, 0)


def _accents(grid: Grid, onset: IntArray) -> FloatArray:
    """Return how much louder notes are for their position in the bar; (K,)."""
    length, index = _bar(grid)
    beats, denominator = grid.time_signature or COMMON_TIME
    is_compound = beats > 3 and beats % 3 == 0 and denominator >= 8  # the beats of 6/8 are dotted quarters
    n_beats = beats // 3 if is_compound else beats
    at = (onset + index) % length  # (K,)
    # Positions in half beats are compared as whole numbers, because beats may be fractions of a step.
    halves, rest = np.divmod(2 * at * n_beats, length)
    accents = np.where(rest == 0, np.where(halves % 2 == 0, _BEAT, _HALF_BEAT), _OFF_BEAT)
    if n_beats % 2 == 0:
        accents[(rest == 0) & (halves == n_beats)] = _MIDDLE_OF_BAR
    accents[at == 0] = _DOWNBEAT
    return accents


def _arches(grid: Grid, onset: IntArray) -> FloatArray:
    """Return how much louder notes are for their position in the phrase; (K,), 0 to `_ARCH`.

    Phrases have four bars; what is left at the end is a phrase of its own from two bars on.
    """
    length, index = _bar(grid)
    first = 1 if index else 0  # an upbeat belongs to the first phrase
    n_bars = max(1, -(-(grid.n_frames + index) // length) - first)
    n_phrases = max(1, (n_bars + 2) // _BARS_PER_PHRASE)
    bars = (onset + index) / length - first
    phrase = np.clip(bars // _BARS_PER_PHRASE, 0, n_phrases - 1)
    bars_in_phrase = np.where(phrase == n_phrases - 1, n_bars - _BARS_PER_PHRASE * (n_phrases - 1), _BARS_PER_PHRASE)
    at = np.clip((bars - _BARS_PER_PHRASE * phrase) / bars_in_phrase, 0.0, 1.0)
    arches: FloatArray = _ARCH * np.sin(np.pi * at**_ARCH_SKEW)
    return arches


def _gaps(notes: tuple[IntArray, IntArray, IntArray], step: int) -> IntArray:
    """Return by how many ticks notes end before the next one of their pitch; below half a step, so no grid changes."""
    onset, end, pitch = notes
    order = np.lexsort((onset, pitch))
    is_repeated = np.zeros(onset.size, bool)
    follows = (pitch[order][1:] == pitch[order][:-1]) & (onset[order][1:] == end[order][:-1])
    is_repeated[order[:-1]] = follows
    gaps = np.minimum(np.rint(_GAP * (end - onset) * step).astype(np.int64), (step - 1) // 2)
    return np.where(is_repeated, gaps, 0)


def _slow_down(score: Any, grid: Grid, step: int) -> None:
    """Add tempos to the last bar, in place."""
    symusic = require_symusic()
    start = max(0, grid.n_frames - _bar(grid)[0])
    n_tempos = max(2, round(_TEMPOS_PER_QUARTER * (grid.n_frames - start) / grid.frames_per_quarter))
    for number in range(1, n_tempos):
        at = number / n_tempos
        tempo_qpm = grid.tempo_qpm * (1.0 - (1.0 - _SLOWEST) * at**1.5)
        tick = round((start + (grid.n_frames - start) * at) * step)
        score.tempos.append(symusic.Tempo(tick, max(tempo_qpm, TEMPO_RANGE_QPM[0])))
