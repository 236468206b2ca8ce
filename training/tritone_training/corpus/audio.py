"""Render pieces of the corpus as audio, with random variations for training.

```
samples = render(corpus["bach/bwv269"], seed=7)
```

Shapes: S samples, N notes, V voices.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile

from tritone import InvalidScoreError
from tritone.atomic import write_atomically
from tritone.constants import SAMPLE_RATE_HZ
from tritone.music.render import (
    TAIL_S,
    FloatArray,
    Notes,
    sounding_notes,
    synthesize,
)
from tritone_training.corpus.store import CorpusTrack
from tritone_training.exceptions import DataError

# Every collection draws from the same instruments, so that the instrument does not indicate the collection. They suit a
# chorale as well as a reel, and include those that `Piece` plays: piano, music box, guitar, violin, strings, choir,
# trumpet, oboe, clarinet, flute.
PROGRAMS: Final = (0, 10, 24, 40, 48, 52, 56, 68, 71, 73)
TEMPO_FACTORS: Final = (0.8, 1.25)
TRANSPOSITIONS: Final = (-6, 5)  # semitones, inclusive; each key occurs once
MAX_REST_S: Final = 1.0  # longer rests are shortened in a rendering of fixed length
_GAIN_DB: Final = (-6.0, 0.0)


def render(
    track: CorpusTrack | Any,
    *,
    seed: int | None,
    duration_s: float | None = 20.0,
    rate_hz: int = SAMPLE_RATE_HZ,
) -> FloatArray:
    """Render a track or a score.

    Args:
        track: a `CorpusTrack` or a `symusic.Score`; percussion tracks are left out.
        seed: None for the plain rendering (as written, from the start); a number draws instruments, tempo,
            transposition, starting point, loudness of the notes and gain from it.
        duration_s: the exact length; a shorter piece is repeated, a longer one cut, rests over a second
            are shortened. None renders the piece once, from start to end.
        rate_hz: samples a second.

    Returns:
        (S,) float32, mono, peak at most 0.9; the same for the same arguments in every process.

    Raises:
        DataError: the score has no notes, or an argument is out of range.
        MissingExtraError: symusic or the SoundFont is not installed.
    """
    _check(seed, duration_s, rate_hz)
    score = track.score() if isinstance(track, CorpusTrack) else track
    notes, programs = _notes_of(score)
    gain = 1.0
    rng = None if seed is None else np.random.default_rng(seed)
    if rng is not None:
        programs = _draw_programs(rng, len(programs))
        _vary(rng, notes)
        gain = float(10 ** (rng.uniform(*_GAIN_DB) / 20))
    if duration_s is None:
        duration_s = float(notes.end_s.max()) + TAIL_S
    else:
        notes = _window(notes, duration_s, rng)
    return synthesize(notes, programs, round(duration_s * rate_hz), rate_hz, gain=gain)


def write_audio(
    track: CorpusTrack | Any,
    path: str | Path,
    *,
    seed: int | None = None,
    duration_s: float | None = 20.0,
    rate_hz: int = SAMPLE_RATE_HZ,
) -> None:
    """Render to a file atomically; the suffix (.ogg, .flac, .wav, ...) sets the format.

    Raises:
        DataError: as `render`; also if libsndfile does not know the suffix, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").upper()
    if kind not in soundfile.available_formats():
        given = path.suffix or "a file without a suffix"
        raise DataError(f"{path}: cannot write audio as {given}; use .wav, .flac or .ogg")
    samples = render(track, seed=seed, duration_s=duration_s, rate_hz=rate_hz)
    write_samples(samples, path, rate_hz=rate_hz)


def write_samples(samples: FloatArray, path: Path, *, rate_hz: int) -> None:
    """Encode samples (S,) in the format of the path's suffix, and write the file in one step.

    Raises:
        DataError: the file cannot be written; the message contains the reason of the operating system.
    """
    try:
        encoded = io.BytesIO()  # libsndfile does not report a full disk when it writes a file itself
        with soundfile.SoundFile(encoded, "w", rate_hz, 1, format=path.suffix.lstrip(".").upper()) as file:
            for start in range(0, len(samples), rate_hz):  # libsndfile's Vorbis overflows on one large block
                file.write(samples[start : start + rate_hz])
        write_atomically(path, encoded.getvalue(), mode=0o644)
    except (OSError, soundfile.LibsndfileError) as error:
        raise DataError(f"{path} cannot be written: {error}") from error


def _check(seed: int | None, duration_s: float | None, rate_hz: int) -> None:
    if seed is not None and seed < 0:
        raise DataError(f"seed is {seed}; expected None or a whole number from 0 up")
    if duration_s is not None and not 0 < duration_s <= 3600:
        raise DataError(f"duration_s is {duration_s}; expected more than 0 and at most 3600, or None")
    if not 8_000 <= rate_hz <= 192_000:
        raise DataError(f"rate_hz is {rate_hz}; expected 8,000 to 192,000")


def _notes_of(score: Any) -> tuple[Notes, list[int]]:
    """Return all pitched notes of a score, the first at 0 s, and the program of each voice."""
    try:
        notes, programs = sounding_notes(score)
    except InvalidScoreError as error:
        raise DataError(str(error)) from error
    first_s = notes.onset_s.min()
    notes.onset_s -= first_s
    notes.end_s -= first_s
    return notes, programs


def _draw_programs(rng: np.random.Generator, n_voices: int) -> list[int]:
    """Return the program of each voice: one for all voices, or one for each."""
    alike = rng.random() < 0.5
    drawn = rng.choice(PROGRAMS, size=n_voices)
    return [int(drawn[0])] * n_voices if alike else [int(program) for program in drawn]


def _vary(rng: np.random.Generator, notes: Notes) -> None:
    low, high = np.log(TEMPO_FACTORS)
    factor = float(np.exp(rng.uniform(low, high)))
    notes.onset_s /= factor
    notes.end_s /= factor
    notes.pitch += int(rng.integers(TRANSPOSITIONS[0], TRANSPOSITIONS[1] + 1))
    loudness = int(rng.integers(60, 106))
    notes.velocity[:] = np.clip(loudness + rng.integers(-12, 13, size=notes.velocity.size), 1, 127)


def _window(notes: Notes, duration_s: float, rng: np.random.Generator | None) -> Notes:
    """Return an excerpt of `duration_s`, with the piece repeated as needed; times start at 0."""
    _shorten_rests(notes)
    period_s = float(notes.end_s.max())
    start_s = 0.0
    if rng is not None:
        # An excerpt of a longer piece ends within it; a shorter piece may start at any onset.
        latest_s = period_s - duration_s if period_s > duration_s else period_s
        onsets_s = np.unique(notes.onset_s[notes.onset_s <= latest_s])
        start_s = float(onsets_s[int(rng.integers(len(onsets_s)))])
    n_rounds = int(np.ceil((start_s + duration_s) / period_s))
    shift_s = np.repeat(np.arange(n_rounds) * period_s, notes.pitch.size) - start_s
    repeated = Notes(
        np.tile(notes.onset_s, n_rounds) + shift_s,
        np.tile(notes.end_s, n_rounds) + shift_s,
        np.tile(notes.pitch, n_rounds),
        np.tile(notes.velocity, n_rounds),
        np.tile(notes.voice, n_rounds),
    )
    audible = repeated.only((repeated.end_s > 0.02) & (repeated.onset_s < duration_s))
    np.clip(audible.onset_s, 0.0, None, out=audible.onset_s)
    np.clip(audible.end_s, None, duration_s, out=audible.end_s)
    return audible


def _shorten_rests(notes: Notes) -> None:
    order = np.argsort(notes.onset_s, kind="stable")
    ends_s = np.maximum.accumulate(notes.end_s[order])
    rests_s = np.maximum(notes.onset_s[order][1:] - ends_s[:-1], 0.0)
    excess_s = np.concatenate([[0.0], np.cumsum(np.maximum(rests_s - MAX_REST_S, 0.0))])
    notes.onset_s[order] -= excess_s
    notes.end_s[order] -= excess_s
