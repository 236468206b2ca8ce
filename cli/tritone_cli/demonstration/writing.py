"""What the served models write: each piece as MIDI, sound and picture."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritone_cli import console
from tritone_cli.demonstration.asking import Ask
from tritone_cli.demonstration.givens import Givens
from tritone_cli.demonstration.saving import Saved, save

if TYPE_CHECKING:
    from tritone_client import MusicClient

_SEED: Final = 7
_FOLDER: Final = "music"
_N_STREAMED: Final = 16
_STEPS: Final = 5
# Small models are least sure of what is rare: leaving out the unlikeliest notes costs little of the variety.
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
        first = self.pieces[0].midi
        return self.ask.shell(first.with_stem(self.ask.name) if len(self.pieces) > 1 else first)

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


def chapters(givens: Givens) -> tuple[Chapter, ...]:
    """All requests of the demonstration, in the order of the page."""
    begun, chorale, other, song = (givens.path(name) for name in ("begun", "chorale", "other", "song"))
    bach = {"style": givens.chorale_style, "tempo_qpm": 80.0, "seed": _SEED, **_CAREFUL}
    reel = {"style": givens.dance_style, "tempo_qpm": 110.0, "seed": _SEED, **_CAREFUL}
    walk = {"tempo_qpm": 80.0, "seed": _SEED}
    return (
        Chapter(
            "Composing",
            "music_transformer writes note by note; styles are the collections that it learnt from.",
            (
                Ask("chorale", "Eight bars like a chorale", "From nothing.", "compose", (), {"bars": 8, **bach}),
                Ask("tune", "Eight bars like a fiddle tune", "From nothing.", "compose", (), {"bars": 8, **reel}),
                Ask(
                    "continued", "A chorale's first two bars, and six more", "It never saw the chorale.",
                    "compose", (begun,), {"bars": 6, **bach},
                ),
                Ask(
                    "continued-rnn", "The same two bars, continued by polyphony_rnn",
                    "A recurrent network that knows no bars, no styles and no repeated notes.",
                    "compose", (begun,), {"bars": 6, "model": "polyphony_rnn", **walk, **_CAREFUL},
                ),
                Ask(
                    "streamed", "Sixteen bars that come as they are written",
                    "The first notes are there long before the last; the notes are those of a single answer.",
                    "stream_compose", (), {"bars": _N_STREAMED, **bach},
                ),
            ),
        ),
        Chapter(
            "Filling in what is missing",
            "The same model, told what is given.",
            (
                Ask(
                    "harmonized", "A folk song gets other voices", "The song is the highest voice.",
                    "harmonize", (song,), {**bach, "tempo_qpm": 90.0},
                ),
                Ask(
                    "infilled", "A chorale's third and fourth bar, written anew",
                    "They lead from the bars before to those behind.", "infill", (chorale,), {"bars": (2, 4), **bach},
                ),
            ),
        ),
        Chapter(
            "Moving through a latent space",
            "music_vae turns two bars into a point, and points into two bars.",
            (
                Ask(
                    "interpolated", "From one chorale to another", f"{_STEPS} points on the way, both ends included.",
                    "interpolate", (begun, other), {"steps": _STEPS, **walk},
                ),
                Ask("reconstructed", "There and back", "What it understands.", "reconstruct", (chorale,), walk),
                Ask(
                    "denser", "With more notes", "Two standard deviations up.",
                    "vary", (chorale,), {"attribute": "note_density", "amount": 2.0, **walk},
                ),
                Ask(
                    "sparser", "With fewer notes", "Two standard deviations down.",
                    "vary", (chorale,), {"attribute": "note_density", "amount": -2.0, **walk},
                ),
            ),
        ),
        Chapter(
            "From noise",
            "Two bars each, without any music to begin with.",
            (
                Ask(
                    "sampled-minor", "D minor, please", "music_gan takes wishes.",
                    "sample", (), {"n": 2, "key": "D", "mode": "minor", **walk},
                ),
                Ask(
                    "sampled-major", "F major, please, and many notes", "The density is in notes a quarter.",
                    "sample", (), {"n": 2, "key": "F", "mode": "major", "density": 4.0, **walk},
                ),
                Ask(
                    "sampled-vae", "Any points of music_vae's space", "Drawn from its prior.",
                    "sample", (), {"model": "music_vae", "n": 2, **walk},
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
    """Stream a piece once more, with a watch, and compare it with the piece that comes in one answer."""
    began = time.perf_counter()
    with music.stream_compose(**ask.options) as stream:
        next(iter(stream))
        first = time.perf_counter()
        for _ in stream:
            pass
    whole = time.perf_counter()
    (at_once,) = replace(ask, verb="compose").send(music)
    same = bool((stream.result().grid.frames == at_once.grid.frames).all())
    return Streamed(int(ask.options["bars"]), (first - began) * 1e3, (whole - began) * 1e3, same)


def all_asks(book: Sequence[Chapter]) -> tuple[Ask, ...]:
    """The requests of all chapters."""
    return tuple(ask for chapter in book for ask in chapter.asks)
