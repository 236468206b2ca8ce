"""Result of score prediction.

Shapes: N frames, 88 pitches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Self, overload

import numpy as np
import numpy.typing as npt

from tritone.files import File, PathLike
from tritone.music.grid import LOWEST_PITCH, N_PITCHES, Grid
from tritone.music.piece import nll_of
from tritone.results.json_result import (
    INTEGER,
    NUMBER,
    NUMBER_BY_NAME,
    STRING,
    JsonResult,
    array_of,
    json_result,
    optional,
)


@json_result
class Prediction(JsonResult):
    """What a model expected at each time step of a score: the result of `MusicClient.predict`.

    Attributes:
        nll: (N,) float32, negative log-likelihood of each frame given all frames before it, in nats; high where
            the music is surprising.
        probabilities: (N, 88) float32, of each pitch (MIDI 21..108) to sound in the frame after frame n; the
            last row is about the frame after the end of the score. None if the model has no such output.
        grid: the score as the model read it.
        model: the model's name.
        model_version: the version of the model.
    """

    nll: npt.NDArray[np.float32] = field(repr=False)
    probabilities: npt.NDArray[np.float32] | None = field(repr=False)
    grid: Grid = field(repr=False)
    model: str
    model_version: str

    json_properties: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nll_per_frame": NUMBER,
        "n_frames": INTEGER,
        "nll": array_of(NUMBER),
        "next_pitches": NUMBER_BY_NAME,
        "probabilities": optional(array_of(array_of(NUMBER, N_PITCHES))),
        "grid": {"type": "object", "properties": Grid.json_properties},
        "model": STRING,
        "model_version": STRING,
    }

    @property
    def n_frames(self) -> int:
        """N."""
        return len(self.nll)

    @property
    def nll_per_frame(self) -> float:
        """The mean over all frames, in nats: the usual measure of benchmarks of polyphonic prediction."""
        return float(self.nll.mean(dtype=np.float64))

    def next_pitches(self, top: int = 5) -> Mapping[int, float]:
        """Return the most probable MIDI pitches after the end of the score, most probable first."""
        if self.probabilities is None:
            return {}
        last = self.probabilities[-1]
        return {int(column) + LOWEST_PITCH: float(last[column]) for column in np.argsort(-last, kind="stable")[:top]}

    @overload
    def plot(self, target: PathLike, *, format: str | None = None) -> Path: ...
    @overload
    def plot(self, target: File, *, format: str) -> File: ...
    def plot(self, target: Any, *, format: str | None = None) -> Any:  # noqa: A002
        """Plot the expected pitches, the played notes and the surprise of each time step.

        Args:
            target: a path, whose file is replaced in one step, or a binary file object.
            format: `png`, `svg` or `pdf`; the path's suffix if None.

        Returns:
            The path, or the file object.

        Raises:
            MissingExtraError: matplotlib is not installed.
            InvalidInputError: the picture cannot be written there.
        """
        from tritone.plots import plot_prediction

        return plot_prediction(self, target, format)

    def __repr__(self) -> str:
        return (
            f"Prediction(nll_per_frame={self.nll_per_frame:.3f}, n_frames={self.n_frames}, "
            f"{self.model} v{self.model_version})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `next_pitches` is the last row of `probabilities`, by MIDI pitch."""
        return {
            "nll_per_frame": self.nll_per_frame,
            "n_frames": self.n_frames,
            "nll": self.nll.tolist(),
            "next_pitches": {str(pitch): value for pitch, value in self.next_pitches(N_PITCHES).items()},
            "probabilities": None if self.probabilities is None else self.probabilities.tolist(),
            "grid": self.grid.to_dict(),
            "model": self.model,
            "model_version": self.model_version,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the prediction whose `to_dict` gave the values.

        Raises:
            InvalidScoreError: a value of the grid is not as `Grid` expects it.
            KeyError, TypeError, ValueError: a value is missing or of another type.
        """
        grid = Grid.from_dict(values["grid"])
        probabilities = None
        if values["probabilities"] is not None:
            probabilities = np.array(values["probabilities"], np.float32).reshape(grid.n_frames, N_PITCHES)
        return cls(nll_of(values["nll"], grid), probabilities, grid, values["model"], values["model_version"])
