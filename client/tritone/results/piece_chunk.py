"""Result of streamed composition.

Shapes: n frames of a chunk, 88 pitches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from tritone.music.grid import HELD, HIGHEST_PITCH, LOWEST_PITCH, Frames, Grid
from tritone.music.piece import Piece, nll_of
from tritone.results.json_result import INTEGER, NUMBER, JsonResult, array_of, json_result, optional


@json_result
class PieceChunk(JsonResult):
    """The next bars of a streamed piece, or its first beat.

    Attributes:
        first_frame: its start in the whole piece, the prompt included.
        frames: (n, 88) uint8, as in `Grid.frames`; notes of the previous chunk may go on in it.
        nll: (n,) float32, negative log-likelihood of each frame in nats.
        bars: the half-open range of bars of the whole piece that it overlaps, counted from 0.
        grid: the chunk on its own: notes that go on from the previous chunk are struck at its start.
    """

    first_frame: int
    frames: Frames = field(repr=False)
    nll: npt.NDArray[np.float32] = field(repr=False)
    bars: tuple[int, int]
    grid: Grid = field(repr=False)

    json_properties: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "first_frame": INTEGER,
        "bars": array_of(INTEGER, 2),
        **Grid.json_properties,
        "held_pitches": array_of(INTEGER),
        "nll": array_of(optional(NUMBER)),
    }

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with the MIDI pitches that go on from the previous chunk as `held_pitches`."""
        return {
            "first_frame": int(self.first_frame),
            "bars": [int(bar) for bar in self.bars],
            **self.grid.to_dict(),
            "held_pitches": (np.flatnonzero(self.frames[0] == HELD) + LOWEST_PITCH).tolist(),
            "nll": [None if np.isnan(nats) else nats for nats in self.nll.tolist()],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the chunk whose `to_dict` gave the values.

        Raises:
            InvalidScoreError: a value is not as `Grid` expects it.
            KeyError, TypeError, ValueError: a value is missing or of another type.
        """
        grid = Grid.from_dict(values)
        frames = grid.frames.copy()
        for pitch in values["held_pitches"]:
            if not LOWEST_PITCH <= pitch <= HIGHEST_PITCH or not frames[0, pitch - LOWEST_PITCH]:
                raise ValueError(f"held_pitches hold {pitch}; expected pitches that sound at the first time step")
            frames[0, pitch - LOWEST_PITCH] = HELD
        first, last = values["bars"]
        return cls(values["first_frame"], frames, nll_of(values["nll"], grid), (int(first), int(last)), grid)

    @property
    def score(self) -> Any:
        """The chunk as a `symusic.Score`, from time 0.

        Raises:
            MissingExtraError: symusic is not installed.
        """
        return Piece(self.grid).score
