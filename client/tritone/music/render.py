"""Render scores as sound, with the synthesizer of symusic and the General MIDI SoundFont of pretty_midi.

```python
samples = render(piece.score)                # (S,) float32, mono
```

Shapes: S samples, N notes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.exceptions import InvalidScoreError, MissingExtraError
from tritone.music.scores import INSTALL, require_symusic

# symusic 0.5.9 plays most programs of this SoundFont at wrong pitches: its piano is 2 to 5 times too high,
# by another factor from key to key (https://github.com/Yikai-Liao/symusic/issues/55 is of the same kind).
# These are in tune and audible on every key of KEYS, which a test checks; all suit a chorale as well as a reel.
PROGRAMS: Final = (10, 44, 56, 64, 68, 73)  # music box, tremolo strings, trumpet, soprano sax, oboe, flute
PLAIN_PROGRAM: Final = 73  # replaces every program that is out of tune, such as the piano
KEYS: Final = (36, 87)  # notes outside are moved by octaves
PEAK: Final = 0.9
RENDER_RATE_HZ: Final = 44_100
MAX_DURATION_S: Final = 3600.0  # 635 MB of samples, and twice that while they are made
TAIL_S: Final = 1.0  # for the last note to die away
_MIN_DURATION_S: Final = 0.02
_FADE_S: Final = 0.01  # a cut through a held note would click
_QUALITY: Final = 4  # of symusic's interpolation, 0..6

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
    """Render a score from its time 0 to a second after its last note.

    Percussion is left out; instruments that this synthesizer plays out of tune, the piano among them, are played
    on the flute, and notes outside MIDI 36..87 move by octaves.

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
    fold_into_keys(notes)
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
    """Return all pitched notes of a `symusic.Score`, and for each voice a program that is in tune.

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
    return notes, [track.program if track.program in PROGRAMS else PLAIN_PROGRAM for track in tracks]


def fold_into_keys(notes: Notes) -> None:
    """Move notes outside KEYS by octaves, in place."""
    low, high = KEYS
    notes.pitch += 12 * np.maximum(0, -((notes.pitch - low) // 12))
    notes.pitch -= 12 * np.maximum(0, -((high - notes.pitch) // 12))


def synthesize(notes: Notes, programs: list[int], n_samples: int, rate_hz: int, *, gain: float = 1.0) -> FloatArray:
    """Return the sound of notes, each voice played with its program.

    Returns:
        (n_samples,) float32, faded out at the end, peak at most 0.9 times the gain.

    Raises:
        MissingExtraError: symusic or the SoundFont is not installed.
    """
    symusic = require_symusic()
    score = symusic.Score(480, ttype="second")
    for voice, program in enumerate(programs):
        own = notes.only(notes.voice == voice)
        track = symusic.Track("", program, False, ttype="second")
        track.notes = symusic.Note.from_numpy(
            time=own.onset_s.astype(np.float32),
            duration=(own.end_s - own.onset_s).astype(np.float32),
            pitch=own.pitch.astype(np.int8),
            velocity=own.velocity.astype(np.int8),
            ttype="second",
        )
        score.tracks.append(track)
    sound = np.asarray(_synthesizer(rate_hz).render(score, stereo=False))[0]  # (S',), with the notes' release
    samples = np.zeros(n_samples, np.float32)
    n_copied = min(n_samples, sound.size)
    samples[:n_copied] = sound[:n_copied]
    n_fade = min(n_samples, round(_FADE_S * rate_hz))
    samples[n_samples - n_fade :] *= np.linspace(1.0, 0.0, n_fade, dtype=np.float32)
    peak = float(np.abs(samples).max(initial=0.0))
    return samples if peak == 0.0 else samples * np.float32(PEAK * gain / peak)


_per_thread = threading.local()  # a synthesizer is not thread-safe, and a lock would not survive a fork


def _synthesizer(rate_hz: int) -> Any:
    made: dict[int, Any] = _per_thread.__dict__.setdefault("synthesizers", {})
    if rate_hz not in made:
        made[rate_hz] = require_symusic().Synthesizer(str(find_soundfont()), rate_hz, _QUALITY)
    return made[rate_hz]


@lru_cache(maxsize=1)
def find_soundfont() -> Path:
    """Return the path of pretty_midi's SoundFont, without importing that package (which warns on import).

    Raises:
        MissingExtraError: it is not installed.
    """
    spec = find_spec("pretty_midi")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / "TimGM6mb.sf2"
        if path.is_file():
            return path
    raise MissingExtraError(f"rendering needs the SoundFont of the package pretty_midi; install it with: {INSTALL}")
