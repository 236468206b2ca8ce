"""Pieces of music: their notes, their origin, and export as MIDI, sound and plots.

```python
piece = music.compose(bars=8, seed=7)
piece.save("tune.mid"), piece.save("tune.wav"), piece.plot("tune.png")
piece.played_by("Violin", "Acoustic Guitar (nylon)").save("duo.wav")
```
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Final, Self, overload

import numpy as np
import numpy.typing as npt

from tritone.arguments import shown
from tritone.files import File, PathLike, format_of, write_result
from tritone.music.endings import ending_of
from tritone.music.grid import Grid
from tritone.music.instruments import check_instruments, default_instruments
from tritone.music.keys import KEY_NAMES, MODES, estimate_keys
from tritone.music.notation import write_musicxml
from tritone.music.performance import perform
from tritone.music.render import RENDER_RATE_HZ, render
from tritone.plots import (
    PLOT_FORMATS,
    plot_piece,
)
from tritone.results.json_result import INTEGER, NUMBER, STRING, JsonResult, array_of, json_result, optional

MIDI_FORMATS: Final = ("mid", "midi")
NOTATION_FORMATS: Final = ("musicxml", "xml")
SOUND_FORMAT: Final = "wav"
_EXPECTED: Final = (
    "expected a file name that ends in .mid or .midi (notes), .musicxml (notation), .wav (sound) or "
    + ", ".join(f".{kind}" for kind in PLOT_FORMATS)
)


@json_result
class Piece(JsonResult):
    """A piece of music.

    Attributes:
        grid: its notes on the time grid.
        seed: reproduces the piece with the same model version and arguments; None if nothing was sampled.
        model: the model's name; None if the piece was not made by a model.
        model_version: the version of the model that was used.
        nll: (N,) float32, negative log-likelihood of each time step in nats at temperature 1, NaN where it was not
            computed; None if the model does not return it.
        conditions: the requested conditions by the names of the arguments of `MusicClient.compose`, including those
            that the seed chose; None for conditions that were left open. Empty for pieces made without conditions.
            `achieved` has the measured values.
        instruments: 1 to 4 instruments of General MIDI for the parts from the highest down, given by name or program
            (0 to 127) and kept by name; those of the style in `conditions`, or the piano, if none are given.
    """

    grid: Grid
    seed: int | None = None
    model: str | None = None
    model_version: str | None = None
    nll: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    conditions: Mapping[str, Any] = field(default_factory=dict)
    instruments: tuple[str, ...] = ()

    json_properties: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "model": optional(STRING),
        "model_version": optional(STRING),
        "seed": optional(INTEGER),
        **Grid.json_properties,
        "nll": optional(array_of(optional(NUMBER))),
        "conditions": {"type": "object"},
        "achieved": {"type": "object"},
        "instruments": array_of(STRING),
    }

    def __post_init__(self) -> None:
        given = check_instruments(self.instruments or None)
        object.__setattr__(self, "instruments", given or default_instruments(self.conditions.get("style")))

    def __repr__(self) -> str:
        model = f", model={self.model!r}, model_version={self.model_version!r}" if self.model is not None else ""
        grid = f"n_bars={self.grid.n_bars}, n_notes={self.grid.n_notes}, duration_s={self.grid.duration_s:.1f}"
        return f"Piece({grid}, seed={self.seed}{model})"

    def played_by(self, *instruments: str | int) -> Self:
        """Return the piece with other instruments.

        Args:
            instruments: 1 to 4 names or programs (0 to 127) of General MIDI for its parts from the highest down, as in
                `played_by("Flute", "Cello")`; none for those of the style.

        Raises:
            InvalidInputError: an instrument is unknown.
        """
        about = (self.seed, self.model, self.model_version, self.nll, self.conditions)
        return type(self)(self.grid, *about, check_instruments(instruments or None) or ())

    @cached_property
    def achieved(self) -> Mapping[str, Any]:
        """Return the measured key, mode, number of voices and ending, by the names of `conditions`.

        `key` and `mode` are those of the best correlation with Krumhansl's profiles, None without notes; `voices` is
        the median number of notes at once; `ending` is whether it ends with a cadence in that key, as defined in
        `tritone.music.endings`.
        """
        tonics, modes = estimate_keys(self.grid.frames[None])
        is_known = bool(tonics[0] >= 0)
        n_notes = (self.grid.frames > 0).sum(axis=1)
        return {
            "key": KEY_NAMES[tonics[0]] if is_known else None,
            "mode": MODES[modes[0]] if is_known else None,
            "voices": int(np.median(n_notes[n_notes > 0])) if n_notes.any() else 0,
            "ending": ending_of(self.grid).is_cadence,
        }

    @property
    def n_unmet(self) -> int:
        """Return how many of the requested key (with its mode) and ending the piece does not have: 0 to 2."""
        asked, has = self.conditions, self.achieved
        other_key = asked.get("key") is not None and (asked["key"], asked.get("mode")) != (has["key"], has["mode"])
        return int(other_key) + int(bool(asked.get("ending")) and not has["ending"])

    @cached_property
    def score(self) -> Any:
        """Return the piece as a `symusic.Score` with instruments and dynamics, created on first access.

        Raises:
            MissingExtraError: symusic is not installed.
        """
        return self._performed(ritardando=False)

    def _performed(self, *, ritardando: bool) -> Any:
        return perform(self.grid, instruments=self.instruments, ritardando=ritardando)

    @property
    def meter(self) -> tuple[int, int] | None:
        """Return the time signature, as in (4, 4); None if it is unknown. `grid.meter` has the bar in time steps."""
        return self.grid.time_signature

    @overload
    def save(self, target: PathLike, *, format: str | None = None, ritardando: bool = False) -> Path: ...
    @overload
    def save(self, target: File, *, format: str, ritardando: bool = False) -> File: ...
    def save(self, target: Any, *, format: str | None = None, ritardando: bool = False) -> Any:  # noqa: A002
        """Write the piece as MIDI, MusicXML, sound (rendered, 44.1 kHz mono, 16 bit) or a plot (see `plot`).

        Args:
            target: a path, whose file is replaced in one step, or a binary file object, which is written at its
                position and left open.
            format: `mid`, `midi`, `musicxml`, `wav`, `png`, `svg` or `pdf`; the path's suffix if None. File objects
                need it.
            ritardando: slow down in the last bar (MIDI and sound only). MIDI files then have several tempos, so that
                their bars no longer agree with a metronome.

        Returns:
            The path, or the file object.

        Raises:
            InvalidInputError: the format is unknown, or the target cannot be written.
            InvalidScoreError: a piece without notes, or of more than an hour, has no sound.
            MissingExtraError: symusic, the SoundFont, music21 or matplotlib is not installed.
        """
        kind = format_of(target, format, (*MIDI_FORMATS, *NOTATION_FORMATS, SOUND_FORMAT, *PLOT_FORMATS), _EXPECTED)
        if kind in PLOT_FORMATS:
            return plot_piece(self, target, kind)
        if kind == SOUND_FORMAT:
            return write_result(target, partial(self.to_wav, ritardando=ritardando), "the sound")
        if kind in NOTATION_FORMATS:
            return write_result(target, self.to_musicxml, "the score")
        return write_result(target, partial(self.to_midi, ritardando=ritardando), "the score")

    @overload
    async def asave(self, target: PathLike, *, format: str | None = None, ritardando: bool = False) -> Path: ...
    @overload
    async def asave(self, target: File, *, format: str, ritardando: bool = False) -> File: ...
    async def asave(self, target: Any, *, format: str | None = None, ritardando: bool = False) -> Any:  # noqa: A002
        """Save in a thread, so that the event loop is not blocked; see `save`.

        If the task is cancelled, the thread still finishes the file.
        """
        import asyncio  # imported here, because synchronous clients do not need it

        return await asyncio.to_thread(self.save, target, format=format, ritardando=ritardando)

    def to_midi(self, *, ritardando: bool = False) -> bytes:
        """Return the piece as a Standard MIDI File, with a track for each instrument; `to_grid` reads the same grid.

        Args:
            ritardando: as for `save`.

        Raises:
            MissingExtraError: symusic is not installed.
        """
        score = self._performed(ritardando=True) if ritardando else self.score
        return bytes(score.dumps_midi())

    def to_musicxml(self) -> bytes:
        """Return the piece as MusicXML, with a part for each instrument; a single one has two staves.

        Raises:
            MissingExtraError: music21 is not installed.
        """
        return write_musicxml(self.grid, instruments=self.instruments)

    def to_wav(self, *, ritardando: bool = False) -> bytes:
        """Return the piece as a WAV file (rendered, 44.1 kHz mono, 16 bit).

        Args:
            ritardando: as for `save`.

        Raises:
            InvalidScoreError: the piece has no notes, or lasts longer than an hour.
            MissingExtraError: symusic or the SoundFont is not installed.
        """
        import soundfile

        file = io.BytesIO()
        score = self._performed(ritardando=True) if ritardando else self.score
        soundfile.write(file, render(score), RENDER_RATE_HZ, subtype="PCM_16", format="WAV")
        return file.getvalue()

    @overload
    def plot(self, target: PathLike, *, format: str | None = None) -> Path: ...
    @overload
    def plot(self, target: File, *, format: str) -> File: ...
    def plot(self, target: Any, *, format: str | None = None) -> Any:  # noqa: A002
        """Draw the piece as a piano roll: time in bars from left to right, pitch upwards.

        Args:
            target: a path, whose file is replaced in one step, or a binary file object.
            format: `png`, `svg` or `pdf`; the path's suffix if None.

        Returns:
            The path, or the file object.

        Raises:
            MissingExtraError: matplotlib is not installed.
            InvalidInputError: the plot cannot be written there.
        """
        return plot_piece(self, target, format)

    def _repr_html_(self) -> str:
        """Return the piece for a notebook: a piano roll and a player."""
        from tritone.results.html import piece_html

        return piece_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: those of `Grid.to_dict`, and null where `nll` is NaN."""
        return {
            "model": self.model,
            "model_version": self.model_version,
            "seed": None if self.seed is None else int(self.seed),
            **self.grid.to_dict(),
            "nll": None if self.nll is None else [None if math.isnan(nats) else nats for nats in self.nll.tolist()],
            "conditions": dict(self.conditions),
            "achieved": dict(self.achieved),
            "instruments": list(self.instruments),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the piece that `to_dict` returned the values of.

        Raises:
            InvalidScoreError: a value is not as `Grid` expects it.
            KeyError, TypeError, ValueError: a value is missing or of another type.
        """
        grid = Grid.from_dict(values)
        nll = None if values["nll"] is None else nll_of(values["nll"], grid)
        conditions = _plain("conditions", values.get("conditions", {}))  # missing in results of earlier releases
        _plain("achieved", values.get("achieved", {}))  # only checked, since it is computed from the notes
        instruments = tuple(values.get("instruments") or ())
        return cls(grid, values["seed"], values["model"], values["model_version"], nll, conditions, instruments)


def _plain(name: str, values: Any) -> dict[str, Any]:
    """Return an entry of `to_dict` after checking that it maps names to plain values.

    Raises:
        TypeError: the entry is not an object of strings, numbers, true, false or null.
    """
    plain = isinstance(values, Mapping) and all(
        isinstance(name, str) and (value is None or isinstance(value, str | int | float))
        for name, value in values.items()
    )
    if not plain:
        raise TypeError(
            f"invalid {name}: expected an object of strings, numbers, true, false or null, got {shown(values)}"
        )
    return dict(values)


def nll_of(values: Sequence[float | None], grid: Grid) -> npt.NDArray[np.float32]:
    """Return (N,) float32 from the plain values of `to_dict`, NaN where they are null.

    Raises:
        ValueError: there is not one for each time step of the grid.
    """
    if len(values) != grid.n_frames:
        raise ValueError(f"nll has {len(values)} values; expected one for each of the {grid.n_frames} time steps")
    return np.array([math.nan if nats is None else nats for nats in values], np.float32)
