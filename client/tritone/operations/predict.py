"""How a model hears a score go on: the flow of `predict`, and its result.

Shapes: N frames, 88 pitches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Self, overload

import numpy as np
import numpy.typing as npt

from tritone.exceptions import InvalidInputError
from tritone.files import File, PathLike
from tritone.generation_models import COMPOSER, SCORER, Writer, Writers, checked, infer, with_fresh_models
from tritone.messages import Array, InferRequest
from tritone.model_cache import Flow, check_model_name, next_request_id
from tritone.music.grid import LOWEST_PITCH, N_PITCHES, Grid
from tritone.music.piece import nll_of
from tritone.music.scores import ScoreLike
from tritone.operations.compose import Wish, writing_inputs
from tritone.operations.options import check_choice
from tritone.operations.plan import GIVEN, Plan, Source
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
    """What a model expected at each time step of a score.

    Attributes:
        nll: (N,) float32, negative log-likelihood of each frame given all before it, in nats; high where the
            music surprises.
        probabilities: (N, 88) float32, of each pitch (MIDI 21..108) to sound in the frame after frame n; the
            last row is about what comes after the score's end. None if the model does not say.
        grid: the score as the model heard it.
        model: the model's name.
        model_version: which of its versions answered.
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
        """Mean over all frames, in nats; what benchmarks of polyphonic prediction compare."""
        return float(self.nll.mean(dtype=np.float64))

    def next_pitches(self, top: int = 5) -> Mapping[int, float]:
        """The pitches (MIDI) likeliest to sound after the score's end, by falling probability."""
        if self.probabilities is None:
            return {}
        last = self.probabilities[-1]
        return {int(column) + LOWEST_PITCH: float(last[column]) for column in np.argsort(-last, kind="stable")[:top]}

    @overload
    def plot(self, target: PathLike, *, format: str | None = None) -> Path: ...
    @overload
    def plot(self, target: File, *, format: str) -> File: ...
    def plot(self, target: Any, *, format: str | None = None) -> Any:  # noqa: A002
        """Draw what was expected beside what came, and how much each step surprised.

        Args:
            target: a path, whose file is replaced in one step, or a binary file object.
            format: `png`, `svg` or `pdf`; the path's suffix if None.

        Returns:
            The path, or the file object.

        Raises:
            MissingExtraError: matplotlib is not installed.
            InvalidInputError: the picture cannot be written there.
        """
        from tritone.results.plots import plot_prediction

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


def predict_flow(writers: Writers, *, score: ScoreLike, model: str) -> Flow[Prediction]:
    """The flow of `MusicClient.predict`."""
    check_model_name(model)
    source = Source(score)

    def attempt() -> Flow[Prediction]:
        known = yield from writers.look_up(model, SCORER, COMPOSER)
        grid = source.grid(known.frames_per_quarter)
        if grid.n_frames > known.n_frames_max:
            raise InvalidInputError(
                f"the score has {grid.n_frames:,} time steps; model {model!r} takes at most {known.n_frames_max:,} at "
                f"once: give it in parts",
                model=model,
            )
        n_frames = grid.n_frames
        request = InferRequest(model, next_request_id("predict"), _inputs(known, grid), tuple(known.role.outputs))
        response = yield from infer(known, request)
        nll = checked(response, "nll", (1, n_frames))[0]
        says = "probabilities" in known.role.outputs
        probabilities = checked(response, "probabilities", (1, n_frames, N_PITCHES))[0] if says else None
        return Prediction(nll, probabilities, grid, model, response.version)

    return (yield from with_fresh_models(writers, (model,), attempt))


def _inputs(known: Writer, grid: Grid) -> Mapping[str, Array]:
    if known.role is SCORER:
        return {"frames": grid.frames[None]}
    crowded = int((grid.frames > 0).sum(axis=1).max())
    if crowded > known.n_notes_max:  # thinned, it would be another score's likelihood
        raise InvalidInputError(
            f"the score has {crowded} notes at once; model {known.name!r} knows at most {known.n_notes_max}",
            model=known.name,
        )
    heard = slice(0, grid.n_frames)
    plan = Plan(grid, np.full(grid.n_frames, GIVEN, np.uint8), heard, grid.frames)
    return writing_inputs(known, plan, Wish(check_choice(1.0, None, None), seed=0))
