"""What the served models write: each piece as MIDI, sound and picture."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritone_cli import console
from tritone_cli.demonstration.asking import Ask
from tritone_cli.demonstration.givens import CHORALE_TEMPO_QPM, CHORALES, DANCE_TEMPO_QPM, DANCES, Givens
from tritone_cli.demonstration.saving import Saved, save

if TYPE_CHECKING:
    from tritone import MusicClient

_SEED: Final = 7
_FOLDER: Final = "music"
_N_STREAMED: Final = 3
# Small models are least sure of what is rare: leaving out the unlikeliest notes costs little of the variety. Not for
# polyphony_rnn, whose notes are drawn one by one: without the unlikely ones no note ever begins, and it falls silent.
_CAREFUL: Final = {"temperature": 0.9, "top_p": 0.95}


@dataclass(frozen=True)
class Written:
    """What was asked, and what came."""

    ask: Ask
    given: tuple[Saved, ...]
    pieces: tuple[Saved, ...]
    seconds: float

    def shell(self) -> str:
        """The command that writes the same again."""
        return self.ask.shell(Path(f"{self.ask.name}.mid"))

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self.ask.name,
            "title": self.ask.title,
            "python": self.ask.python(),
            "command": self.shell(),
            "seconds": self.seconds,
            "given": [each.to_dict() for each in self.given],
            "pieces": [each.to_dict() for each in self.pieces],
        }


@dataclass(frozen=True)
class Chapter:
    """Requests of one sort."""

    title: str
    text: str
    asks: tuple[Ask, ...]


@dataclass(frozen=True)
class Streamed:
    """How a piece came.

    Attributes:
        first_notes_ms: from the request to the first notes.
        whole_ms: to the last.
        same: whether it has the very notes of the piece that comes in one answer.
    """

    n_bars: int
    first_notes_ms: float
    whole_ms: float
    same: bool


def chapters(givens: Givens, *, styles: Sequence[str]) -> tuple[Chapter, ...]:
    """All requests of the demonstration, in the order of the page.

    Args:
        styles: those that the model which composes knows; others are not asked for.
    """
    begun, chorale, other, song = (givens.path(name) for name in ("begun", "chorale", "other", "song"))
    bach: dict[str, Any] = {"style": CHORALES} if CHORALES in styles else {}
    ryans: dict[str, Any] = {"style": DANCES} if DANCES in styles else {}
    careful: dict[str, Any] = {**_CAREFUL, "seed": _SEED}
    seeded: dict[str, Any] = {"seed": _SEED}
    slow = {"tempo_qpm": CHORALE_TEMPO_QPM}
    return (
        Chapter(
            "Composing",
            "music_transformer writes note by note; its styles are the collections that it learnt from.",
            (
                Ask(
                    "chorale", "Eight bars like a chorale", "From nothing.",
                    "compose", (), {"bars": 8, **bach, **slow, **careful},
                ),
                Ask(
                    "tune", "Eight bars like a fiddle tune", "From nothing, with another style.",
                    "compose", (), {"bars": 8, **ryans, "tempo_qpm": DANCE_TEMPO_QPM, **careful},
                ),
                Ask(
                    "continued", "The first two bars of a chorale, and six more", "It has never seen the chorale.",
                    "compose", (begun,), {"bars": 6, **bach, **careful},
                ),
                Ask(
                    "continued-rnn", "The same two bars, continued by another model",
                    "polyphony_rnn knows neither bars nor styles nor repeated notes.",
                    "compose", (begun,), {"bars": 6, "model": "polyphony_rnn", **seeded},
                ),
                Ask(
                    "streamed", "Sixteen bars that come as they are written",
                    "The first notes are there long before the last, and all are those of a single answer.",
                    "stream_compose", (), {"bars": 16, **bach, **slow, **careful},
                ),
            ),
        ),
        Chapter(
            "Filling in what is missing",
            "The same model, told what is given before, above and behind.",
            (
                Ask(
                    "harmonized", "A folk song gets other voices", "The song stays the highest voice.",
                    "harmonize", (song,), {**bach, **careful},
                ),
                Ask(
                    "infilled", "The third and fourth bar of a chorale, written anew",
                    "They lead from the bars before to those behind.",
                    "infill", (chorale,), {"bars": (2, 4), **bach, **careful},
                ),
            ),
        ),
        Chapter(
            "Moving through a latent space",
            "music_vae turns two bars into a point of a space, and points into two bars.",
            (
                Ask(
                    "interpolated", "From one chorale to another", "Five points on the way, both ends included.",
                    "interpolate", (begun, other), {"steps": 5, **seeded},
                ),
                Ask(
                    "reconstructed", "There and back", "What the model understands of a chorale.",
                    "reconstruct", (chorale,), seeded,
                ),
                Ask(
                    "denser", "The same with more notes", "Two standard deviations along note_density.",
                    "vary", (chorale,), {"attribute": "note_density", "amount": 2.0, **seeded},
                ),
                Ask(
                    "sparser", "The same with fewer notes", "Two standard deviations the other way.",
                    "vary", (chorale,), {"attribute": "note_density", "amount": -2.0, **seeded},
                ),
            ),
        ),
        Chapter(
            "From noise",
            "Two bars each, with no music to begin with.",
            (
                Ask(
                    "sampled-minor", "D minor, please", "music_gan takes wishes.",
                    "sample", (), {"n": 2, "key": "D", "mode": "minor", **slow, **seeded},
                ),
                Ask(
                    "sampled-major", "F major, please, and many notes", "The density is in notes a quarter.",
                    "sample", (), {"n": 2, "key": "F", "mode": "major", "density": 4.0, **slow, **seeded},
                ),
                Ask(
                    "sampled-vae", "Any two points of music_vae's space", "Drawn from its prior.",
                    "sample", (), {"model": "music_vae", "n": 2, **slow, **seeded},
                ),
            ),
        ),
    )  # fmt: skip


def write(music: MusicClient, ask: Ask, givens: Givens, out: Path) -> Written:
    """Ask for music, and save what comes."""
    folder = out / _FOLDER
    started = time.monotonic()
    pieces = ask.send(music)
    seconds = time.monotonic() - started
    several = len(pieces) > 1
    saved = tuple(
        save(
            piece,
            folder / (f"{ask.name}-{number}.mid" if several else f"{ask.name}.mid"),
            title=f"{number} of {len(pieces)}" if several else ask.title,
        )
        for number, piece in enumerate(pieces, 1)
    )
    written = Written(ask, tuple(givens.saved[path] for path in ask.scores), saved, seconds)
    notes = sum(each.piece.grid.n_notes for each in saved)
    console.say(f"      {ask.title}: {notes} notes in {seconds:.2f} s, {saved[0].midi.name}")
    return written


def measure_stream(music: MusicClient, ask: Ask) -> Streamed:
    """Stream a piece three times, and compare it with the piece that comes in one answer; the times are medians."""
    first_ms, whole_ms = [], []
    for _ in range(_N_STREAMED):
        began = time.perf_counter()
        with music.stream_compose(**ask.options) as stream:
            next(iter(stream))
            first_ms.append((time.perf_counter() - began) * 1e3)
            for _ in stream:
                pass
        whole_ms.append((time.perf_counter() - began) * 1e3)
    (at_once,) = replace(ask, verb="compose").send(music)
    same = bool((stream.result().grid.frames == at_once.grid.frames).all())
    return Streamed(int(ask.options["bars"]), statistics.median(first_ms), statistics.median(whole_ms), same)
