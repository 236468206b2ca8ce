"""Render scores as sound, with the General MIDI SoundFont of pretty_midi.

The synthesizer of symusic 0.5.9 is not used: it ignores root keys, so that most instruments, the piano among them, are
out of tune (https://github.com/Yikai-Liao/symusic/issues/55 is of the same kind), and velocities and releases.

```python
samples = render(piece.score)                # (S,) float32, mono
```

Shapes: S samples, N notes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.exceptions import InvalidScoreError
from tritone.music.soundfont import load_soundfont
from tritone.music.tones import release, tone

PEAK: Final = 0.9
RENDER_RATE_HZ: Final = 44_100
MAX_DURATION_S: Final = 3600.0  # 635 MB of samples, and up to three times that while they are made
TAIL_S: Final = 1.0  # for the last note to die away
_MIN_DURATION_S: Final = 0.02
_FADE_S: Final = 0.01  # a cut through a held note would click
_LOUDEST: Final = 127  # velocity

FloatArray = npt.NDArray[np.float32]


@dataclass
class Notes:
    """Notes of all voices; each field (N,), times in seconds."""

    onset_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    pitch: npt.NDArray[np.int64]
    velocity: npt.NDArray[np.int64]
    voice: npt.NDArray[np.int64]

    def only(self, mask: npt.NDArray[np.bool_]) -> Notes:
        return Notes(self.onset_s[mask], self.end_s[mask], self.pitch[mask], self.velocity[mask], self.voice[mask])


def render(score: Any, *, rate_hz: int = RENDER_RATE_HZ) -> FloatArray:
    """Render a score from its time 0 to a second after its last note; percussion is left out.

    Args:
        score: a `symusic.Score`.
        rate_hz: samples a second.

    Returns:
        (S,) float32, mono, peak 0.9.

    Raises:
        InvalidScoreError: the score has no notes, or lasts longer than an hour.
        MissingExtraError: symusic or the SoundFont is not installed.
    """
    notes, programs = sounding_notes(score)
    duration_s = float(notes.end_s.max())
    if duration_s > MAX_DURATION_S:
        raise InvalidScoreError(
            f"the score lasts {duration_s:,.0f} s; at most {MAX_DURATION_S:,.0f} s can be rendered: cut it, "
            f"or raise its tempo",
            path="<score>",
            reason="too_long",
        )
    return synthesize(notes, programs, round((duration_s + TAIL_S) * rate_hz), rate_hz)


def sounding_notes(score: Any) -> tuple[Notes, list[int]]:
    """Return all pitched notes of a `symusic.Score`, and the program of each voice.

    Raises:
        InvalidScoreError: there are none.
    """
    tracks = [t for t in score.to("second").tracks if not t.is_drum and len(t.notes)]
    if not tracks:
        raise InvalidScoreError(
            "the score has no notes to render (percussion is left out)", path="<score>", reason="empty"
        )
    columns = [track.notes.numpy() for track in tracks]
    onset_s = np.concatenate([c["time"] for c in columns]).astype(np.float64)
    duration_s = np.concatenate([c["duration"] for c in columns]).astype(np.float64)
    notes = Notes(
        onset_s,
        onset_s + np.maximum(duration_s, _MIN_DURATION_S),
        np.concatenate([c["pitch"] for c in columns]).astype(np.int64),
        np.concatenate([c["velocity"] for c in columns]).astype(np.int64),
        np.repeat(np.arange(len(tracks)), [len(t.notes) for t in tracks]),
    )
    return notes, [int(track.program) for track in tracks]


def synthesize(notes: Notes, programs: list[int], n_samples: int, rate_hz: int, *, gain: float = 1.0) -> FloatArray:
    """Return the sound of notes, each voice played with its program.

    Returns:
        (n_samples,) float32, faded out at the end, peak at most 0.9 times the gain.

    Raises:
        MissingExtraError: symusic or the SoundFont is not installed.
    """
    soundfont = load_soundfont()
    samples = np.zeros(n_samples, np.float32)
    tones = np.stack([np.array(programs, np.int64)[notes.voice], notes.pitch], axis=1)  # (N, 2)
    for program, pitch in np.unique(tones, axis=0).tolist():
        own = notes.only((tones == (program, pitch)).all(axis=1))
        decay = release(soundfont, program, pitch, rate_hz)
        longest_s = float((own.end_s - own.onset_s).max()) + decay.size / rate_hz
        sound = tone(soundfont, program, pitch, longest_s, rate_hz)
        loudness = (own.velocity / _LOUDEST) ** 2  # as General MIDI recommends
        for onset_s, end_s, factor in zip(own.onset_s, own.end_s, loudness, strict=True):
            start, n_held = round(onset_s * rate_hz), round((end_s - onset_s) * rate_hz)
            part = sound[: min(n_held + decay.size, max(0, n_samples - start))] * np.float32(factor)
            part[n_held:] *= decay[: max(0, part.size - n_held)]
            samples[start : start + part.size] += part
    n_fade = min(n_samples, round(_FADE_S * rate_hz))
    samples[n_samples - n_fade :] *= np.linspace(1.0, 0.0, n_fade, dtype=np.float32)
    peak = float(np.abs(samples).max(initial=0.0))
    return samples if peak == 0.0 else samples * np.float32(PEAK * gain / peak)
