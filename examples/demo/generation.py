"""Requests for generated music: sent to the server, and shown as a line of Python and of shell."""

from __future__ import annotations

import shlex
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from examples.demo.pieces import (
    CHORALE_TEMPO_QPM,
    CHORALES,
    DANCE_TEMPO_QPM,
    DANCES,
    SavedPiece,
    ScoreExcerpts,
    save,
)
from tritone_cli import console

if TYPE_CHECKING:
    from tritone import MusicClient
    from tritone.music.piece import Piece

_SEED: Final = 7
_FOLDER: Final = "music"
_N_STREAMED: Final = 3
# Small models are least reliable for rare notes, so the least likely ones are excluded.
_CONSERVATIVE: Final = {"temperature": 0.9, "top_p": 0.95}
_STREAM: Final = "stream_compose"
_PAIRS: Final[Mapping[str, str]] = {"bars": ":", "meter": "/"}  # separator of two numbers on the command line
_OPTIONS: Final[Mapping[str, str]] = {"tempo_qpm": "tempo"}  # argument -> option, where the names differ


@dataclass(frozen=True)
class GenerationRequest:
    """One call of a generative model; the call, the Python line and the shell line come from the same values.

    Attributes:
        name: stem of the output files.
        title: heading on the page.
        text: what to look and listen for.
        verb: method of `MusicClient`.
        scores: MIDI files to pass as input.
        options: keyword arguments of the method.
    """

    name: str
    title: str
    text: str
    verb: str
    scores: tuple[Path, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_streamed(self) -> bool:
        """Whether the piece is streamed."""
        return self.verb == _STREAM

    @property
    def is_prompted(self) -> bool:
        """Whether the score is a prompt, which is a keyword argument in Python and a positional one in the shell."""
        return self.verb in ("compose", _STREAM) and bool(self.scores)

    def send(self, music: MusicClient) -> tuple[Piece, ...]:
        """Send the request; a stream is read to its end."""
        scores = {"prompt": self.scores[0]} if self.is_prompted else {}
        rest = () if self.is_prompted else self.scores
        answer = getattr(music, self.verb)(*rest, **scores, **self.options)
        if self.is_streamed:
            with answer as stream:
                for _ in stream:
                    pass
            return (stream.result(),)
        return answer if isinstance(answer, tuple) else (answer,)

    def python(self) -> str:
        """Return the request as a line of Python."""
        scores = [("prompt=" if self.is_prompted else "") + repr(str(score)) for score in self.scores]
        options = [f"{name}={value!r}" for name, value in self.options.items()]
        return f"music.{self.verb}({', '.join([*scores, *options])})"

    def shell(self, out: Path) -> str:
        """Return the request as a shell command.

        Args:
            out: the file to write; the command numbers several pieces.
        """
        words = ["tritone", "compose" if self.is_streamed else self.verb, *map(str, self.scores)]
        words += ["--stream"] * self.is_streamed
        for name, value in self.options.items():
            option = f"--{_OPTIONS.get(name, name).replace('_', '-')}"
            if value is True:
                words.append(option)
            else:
                pair = isinstance(value, tuple)
                words += [option, _PAIRS[name].join(map(str, value)) if pair else str(value)]
        return shlex.join([*words, "--out", str(out)])


@dataclass(frozen=True)
class GeneratedPieces:
    """A request and the pieces that it returned.

    Attributes:
        given: the scores of the request.
    """

    request: GenerationRequest
    given: tuple[SavedPiece, ...]
    pieces: tuple[SavedPiece, ...]
    seconds: float

    def shell(self) -> str:
        """Return the command that generates the same pieces."""
        return self.request.shell(Path(f"{self.request.name}.mid"))

    def to_dict(self) -> dict[str, Any]:
        """Return the request and its pieces for `--json`."""
        return {
            "name": self.request.name,
            "title": self.request.title,
            "python": self.request.python(),
            "command": self.shell(),
            "seconds": self.seconds,
            "given": [each.to_dict() for each in self.given],
            "pieces": [each.to_dict() for each in self.pieces],
        }


@dataclass(frozen=True)
class Section:
    """A section of the page: requests of one type."""

    title: str
    text: str
    requests: tuple[GenerationRequest, ...]


@dataclass(frozen=True)
class StreamTiming:
    """Latency of a streamed piece.

    Attributes:
        first_notes_ms: time from the request to the first notes.
        whole_ms: time from the request to the last notes.
        same: whether the notes equal those of the request without streaming.
    """

    n_bars: int
    first_notes_ms: float
    whole_ms: float
    same: bool


def sections(excerpts: ScoreExcerpts, *, styles: Sequence[str]) -> tuple[Section, ...]:
    """Return all requests of the demo, in the order of the page.

    Args:
        styles: styles of the composing model; the requests use no others.
    """
    begun, chorale, other, song = (excerpts.path(name) for name in ("begun", "chorale", "other", "song"))
    bach: dict[str, Any] = {"style": CHORALES} if CHORALES in styles else {}
    ryans: dict[str, Any] = {"style": DANCES} if DANCES in styles else {}
    conservative: dict[str, Any] = {**_CONSERVATIVE, "seed": _SEED}
    seeded: dict[str, Any] = {"seed": _SEED}
    slow = {"tempo_qpm": CHORALE_TEMPO_QPM}
    return (
        Section(
            "Composing",
            "music_transformer generates note by note. Its styles are the collections that it was trained on.",
            (
                GenerationRequest(
                    "chorale", "Eight bars in the style of a chorale", "Without a prompt.",
                    "compose", (), {"bars": 8, **bach, **slow, **conservative},
                ),
                GenerationRequest(
                    "tune", "Eight bars in the style of a fiddle tune", "Without a prompt, in another style.",
                    "compose", (), {"bars": 8, **ryans, "tempo_qpm": DANCE_TEMPO_QPM, **conservative},
                ),
                GenerationRequest(
                    "continued", "Two bars of a chorale, continued by six", "The model has not seen the chorale.",
                    "compose", (begun,), {"bars": 6, **bach, **conservative},
                ),
                GenerationRequest(
                    "continued-rnn", "The same two bars, continued by polyphony_rnn",
                    "This model has no styles.",
                    "compose", (begun,), {"bars": 6, "model": "polyphony_rnn", **seeded},
                ),
                GenerationRequest(
                    "streamed", "Sixteen bars, streamed",
                    "The first notes arrive long before the last. The notes are the same as without streaming.",
                    "stream_compose", (), {"bars": 16, **bach, **slow, **conservative},
                ),
            ),
        ),
        Section(
            "Harmonizing and infilling",
            "The same model completes a score.",
            (
                GenerationRequest(
                    "harmonized", "A folk song, harmonized", "The song remains the highest voice.",
                    "harmonize", (song,), {**bach, **conservative},
                ),
                GenerationRequest(
                    "infilled", "Bars 3 and 4 of a chorale, replaced",
                    "The new bars fit the bars before and after them.",
                    "infill", (chorale,), {"bars": (2, 4), **bach, **conservative},
                ),
            ),
        ),
        Section(
            "Latent space",
            "music_vae encodes two bars as a point of its latent space and decodes points to two bars.",
            (
                GenerationRequest(
                    "interpolated", "Interpolation between two chorales", "Five points, both ends included.",
                    "interpolate", (begun, other), {"steps": 5, **seeded},
                ),
                GenerationRequest(
                    "reconstructed", "Reconstruction", "A chorale, encoded and decoded.",
                    "reconstruct", (chorale,), seeded,
                ),
                GenerationRequest(
                    "denser", "The same chorale with more notes", "Two standard deviations up in note_density.",
                    "vary", (chorale,), {"attribute": "note_density", "amount": 2.0, **seeded},
                ),
                GenerationRequest(
                    "sparser", "The same chorale with fewer notes", "Two standard deviations down in note_density.",
                    "vary", (chorale,), {"attribute": "note_density", "amount": -2.0, **seeded},
                ),
            ),
        ),
        Section(
            "Sampling",
            "Two bars each, from random noise.",
            (
                GenerationRequest(
                    "sampled-minor", "D minor", "music_gan takes conditions.",
                    "sample", (), {"n": 2, "key": "D", "mode": "minor", **slow, **seeded},
                ),
                GenerationRequest(
                    "sampled-major", "F major, with many notes", "The density is 4 notes per quarter.",
                    "sample", (), {"n": 2, "key": "F", "mode": "major", "density": 4.0, **slow, **seeded},
                ),
                GenerationRequest(
                    "sampled-vae", "Two samples of music_vae", "Drawn from its prior.",
                    "sample", (), {"model": "music_vae", "n": 2, **slow, **seeded},
                ),
            ),
        ),
    )  # fmt: skip


def generate(music: MusicClient, request: GenerationRequest, excerpts: ScoreExcerpts, out: Path) -> GeneratedPieces:
    """Send a request and save its pieces."""
    folder = out / _FOLDER
    started = time.monotonic()
    pieces = request.send(music)
    seconds = time.monotonic() - started
    several = len(pieces) > 1
    saved = tuple(
        save(
            piece,
            folder / (f"{request.name}-{number}.mid" if several else f"{request.name}.mid"),
            title=f"{number} of {len(pieces)}" if several else request.title,
        )
        for number, piece in enumerate(pieces, 1)
    )
    written = GeneratedPieces(request, tuple(excerpts.saved[path] for path in request.scores), saved, seconds)
    notes = sum(each.piece.grid.n_notes for each in saved)
    console.say(f"      {request.title}: {notes} notes in {seconds:.2f} s, {saved[0].midi.name}")
    return written


def measure_stream(music: MusicClient, request: GenerationRequest) -> StreamTiming:
    """Stream a piece three times and compare it with the piece without streaming; the times are medians."""
    first_ms, whole_ms = [], []
    for _ in range(_N_STREAMED):
        began = time.perf_counter()
        with music.stream_compose(**request.options) as stream:
            next(iter(stream))
            first_ms.append((time.perf_counter() - began) * 1e3)
            for _ in stream:
                pass
        whole_ms.append((time.perf_counter() - began) * 1e3)
    (at_once,) = replace(request, verb="compose").send(music)
    same = bool((stream.result().grid.frames == at_once.grid.frames).all())
    return StreamTiming(int(request.options["bars"]), statistics.median(first_ms), statistics.median(whole_ms), same)
