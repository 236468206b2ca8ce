"""Prediction of scores: how probable a model finds each frame, and what it expects next.

Shapes: N frames, 88 pitches.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tritone.exceptions import InvalidInputError
from tritone.flows import Flow, check_model_name, next_request_id
from tritone.messages import Array, InferRequest
from tritone.model_cache import COMPOSER, SCORER, CachedModel, ModelCache, checked_output, infer
from tritone.music.grid import N_PITCHES, Grid
from tritone.music.scores import ScoreLike
from tritone.operations.compose import composer_inputs
from tritone.operations.options import SamplingParams
from tritone.operations.plan import GIVEN, CompositionPlan, ScoreSource
from tritone.results.prediction import Prediction
from tritone.retry import with_fresh_models


def predict_flow(cache: ModelCache, *, score: ScoreLike, model: str) -> Flow[Prediction]:
    """Predict each frame of a score; see `MusicClient.predict`."""
    check_model_name(model)
    source = ScoreSource(score)

    def start() -> Flow[Prediction]:
        known = yield from cache.look_up(model, SCORER, COMPOSER)
        grid = source.grid(known.frames_per_quarter)
        n_frames = grid.n_frames
        if n_frames > known.n_frames_max:
            raise InvalidInputError(
                f"the score is too long for model {model!r}: expected at most {known.n_frames_max:,} time steps, got "
                f"{n_frames:,}; pass it in parts",
                model=model,
                argument="score",
                reason="too_long",
            )
        request = InferRequest(model, next_request_id("predict"), _inputs(known, grid), tuple(known.role.outputs))
        response = yield from infer(known, request)
        nll = checked_output(response, "nll", (1, n_frames))[0]
        probabilities = None
        if "probabilities" in known.role.outputs:
            probabilities = checked_output(response, "probabilities", (1, n_frames, N_PITCHES))[0]
        return Prediction(nll, probabilities, grid, model, response.version)

    return (yield from with_fresh_models(cache, (model,), start))


def _inputs(known: CachedModel, grid: Grid) -> Mapping[str, Array]:
    if known.role is SCORER:
        return {"frames": grid.frames[None]}
    n_notes = int((grid.frames > 0).sum(axis=1).max())
    if n_notes > known.n_notes_max:  # without some of its notes it would be another score
        raise InvalidInputError(
            f"the score has too many simultaneous notes for model {known.name!r}: expected at most "
            f"{known.n_notes_max}, got {n_notes}",
            model=known.name,
            argument="score",
            reason="too_many_notes",
        )
    mode = np.full(grid.n_frames, GIVEN, np.uint8)
    plan = CompositionPlan(grid, mode, slice(0, grid.n_frames), grid.frames)
    return composer_inputs(known, plan, SamplingParams.checked(seed=0))
