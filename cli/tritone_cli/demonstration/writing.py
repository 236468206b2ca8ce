"""What the served models write: each piece as MIDI, sound and picture."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tritone_cli import console

if TYPE_CHECKING:
    from tritone_client import MusicClient
    from tritone_client.music.grid import Grid
    from tritone_client.music.piece import Piece
    from tritone_training.data.scores import ScoreSet

KINDS: Final = ("polyphony_rnn", "music_transformer", "music_vae", "music_gan")
_SEED: Final = 7
_CHORALES: Final = "bach"
_SONGS: Final = "essen"
_PROMPT_BARS: Final = 2


@dataclass(frozen=True)
class Written:
    """A piece in its files.

    Attributes:
        title: what was asked for, in words.
        call: how, in Python.
        files: MIDI, WAV, PNG.
    """

    title: str
    call: str
    piece: Piece
    files: tuple[Path, ...]


def write(music: MusicClient, scores: ScoreSet, out: Path) -> tuple[Written, ...]:
    """Have every model write, and save what it wrote.

    Args:
        scores: held-out pieces of it are what is continued, harmonised and changed.
    """
    folder = out / "music"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, title, call, piece in _pieces(music, scores):
        files = tuple(piece.save(folder / f"{name}{suffix}") for suffix in (".mid", ".wav"))
        written.append(Written(title, call, piece, (*files, piece.plot(folder / f"{name}.png"))))
        console.say(f"      {title}: {files[0].name}")
    return tuple(written)


def first_notes_ms(music: MusicClient) -> float:
    """How long a listener waits for the first notes of a streamed piece."""
    for _ in range(2):  # the first stream also opens its channel
        began = time.perf_counter()
        with music.stream_compose(bars=4, seed=_SEED) as stream:
            next(iter(stream))
            waited_ms = (time.perf_counter() - began) * 1e3
    return waited_ms


def _pieces(music: MusicClient, scores: ScoreSet) -> Iterator[tuple[str, str, str, Piece]]:
    chorales = _held_out(scores, _CHORALES)
    first, second, song = chorales[0], chorales[1], _melody(scores)
    yield "composed", "Eight bars from nothing", "music.compose(bars=8, seed=7)", music.compose(bars=8, seed=_SEED)
    yield (
        "chorale",
        "Eight bars in the style of Bach's chorales",
        'music.compose(bars=8, style="bach", seed=7)',
        music.compose(bars=8, style=_CHORALES, seed=_SEED),
    )
    prompt = _bars(first, _PROMPT_BARS)
    yield (
        "continued",
        "Two bars of a chorale it has never seen, and six more",
        "music.compose(prompt=two_bars, bars=6, seed=7)",
        music.compose(prompt=prompt, bars=6, style=_CHORALES, seed=_SEED),
    )
    yield (
        "continued-rnn",
        "The same two bars continued by the recurrent network",
        'music.compose(prompt=two_bars, bars=6, model="polyphony_rnn", seed=7)',
        music.compose(prompt=prompt, bars=6, model="polyphony_rnn", seed=_SEED),
    )
    yield (
        "harmonized",
        "A folk song it has never seen, harmonised",
        'music.harmonize(song, style="bach", seed=7)',
        music.harmonize(song, style=_CHORALES, highest=True, seed=_SEED),
    )
    yield (
        "infilled",
        "A chorale whose third and fourth bar were written anew",
        "music.infill(chorale, bars=(2, 4), seed=7)",
        music.infill(_bars(first, 8), bars=(2, 4), style=_CHORALES, seed=_SEED),
    )
    way = music.interpolate(_bars(first, 2), _bars(second, 2), steps=5)
    for step, piece in enumerate(way):
        title = f"From one chorale to another, step {step + 1} of {len(way)}"
        yield f"interpolated-{step + 1}", title, "music.interpolate(a, b, steps=5)", piece
    yield (
        "varied",
        "Four bars with more notes",
        'music.vary(chorale, attribute="note_density", amount=2.0)',
        music.vary(_bars(first, 4), attribute="note_density", amount=2.0),
    )
    sampled = music.sample("music_gan", n=2, seed=_SEED, key="D", mode="minor")
    for index, piece in enumerate(sampled):
        title = f"Two bars in D minor from noise, number {index + 1}"
        yield f"sampled-{index + 1}", title, 'music.sample("music_gan", key="D", mode="minor", seed=7)', piece


def _held_out(scores: ScoreSet, style: str) -> list[Grid]:
    """Pieces of the test part in 4/4, the longer ones first."""
    from tritone_client.music.grid import Grid

    pieces = [piece for piece in scores.split("test") if piece.style == style and piece.meter[0] == 16]
    pieces.sort(key=lambda piece: (-len(piece.frames), piece.name))
    return [Grid(piece.frames, frames_per_quarter=scores.frames_per_quarter, meter=piece.meter) for piece in pieces]


def _melody(scores: ScoreSet) -> Grid:
    return _bars(_held_out(scores, _SONGS)[0], 8)


def _bars(grid: Grid, n_bars: int) -> Grid:
    """The first bars of a piece."""
    from dataclasses import replace

    return replace(grid, frames=grid.frames[: n_bars * 16])
