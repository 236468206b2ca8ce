"""Composition from scratch or from a prompt, harmonization and infilling; prediction of scores.

Shapes: N frames that the model reads or writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from tritone.arguments import (
    check_count,
    check_model_name,
    scalar,
)
from tritone.exceptions import InvalidInputError
from tritone.messages import (
    Array,
    Flow,
    InferRequest,
    InferResponse,
    next_request_id,
)
from tritone.model_cache import COMPOSER, SAMPLER, SCORER, CachedModel, ModelCache, checked_output, infer
from tritone.music.grid import N_PITCHES, STRUCK, Frames, Grid
from tritone.music.instruments import default_tempo_qpm
from tritone.music.piece import Piece
from tritone.music.scores import ScoreLike
from tritone.music.voice_leading import count_parallels, sounding_columns
from tritone.operations.plan import (
    FREE,
    GIVEN,
    N_BARS_MAX,
    CompositionPlan,
    ModelLimits,
    ScoreSource,
    continued,
    filled_in,
    harmonized,
)
from tritone.operations.steering import Steering, SteeringInputs, conditions_for
from tritone.results.prediction import Prediction
from tritone.retry import with_fresh_models
from tritone.sampling import SamplingParams, uniform_noise

# A model that predicts frames is exported together with one that samples them.
SAMPLER_SUFFIX: Final = "_sampler"
N_CANDIDATES_MAX: Final = 16  # the max_batch_size of `music_transformer`
# A melody leaves less open than a piece from scratch: chosen by the listening test of harmonizations.
_HARMONY_TEMPERATURE: Final = 0.8
_HARMONY_TOP_P: Final = 0.9
_MORE: Final = 3  # times as many candidates as have been composed, in the next batch
Planner = Callable[[CachedModel], CompositionPlan]


def compose_flow(
    cache: ModelCache,
    *,
    prompt: ScoreLike | None,
    bars: int,
    meter: tuple[int, int] | None,
    sampling: SamplingParams,
    steering: Steering,
    n_candidates: int,
    model: str,
) -> Flow[Piece]:
    """Compose from scratch, or continue a prompt; see `MusicClient.compose`."""
    check_count("n_candidates", n_candidates, least=1, most=N_CANDIDATES_MAX)
    plan_for = continuation_planner(prompt, bars, meter, sampling)
    sampler = check_model_name(model) + SAMPLER_SUFFIX

    def start() -> Flow[Piece]:
        known = yield from cache.look_up(model, COMPOSER, SAMPLER, SCORER)
        if known.role is SCORER:
            known = yield from cache.look_up(sampler, SAMPLER)
        if known.role is SAMPLER:
            return (yield from _sample_frames(known, plan_for(known), sampling, steering))
        return (yield from _compose_as_asked(known, plan_for(known), sampling, steering, int(n_candidates)))

    return (yield from with_fresh_models(cache, (model, sampler), start))


def harmonize_flow(
    cache: ModelCache, *, melody: ScoreLike, highest: bool, n_candidates: int, sampling: SamplingParams, model: str
) -> Flow[Piece]:
    """Write other voices for a melody; see `MusicClient.harmonize`."""
    check_count("n_candidates", n_candidates, least=1, most=N_CANDIDATES_MAX)
    sampling = replace(
        sampling,
        temperature=_HARMONY_TEMPERATURE if sampling.temperature is None else sampling.temperature,
        top_p=_HARMONY_TOP_P if sampling.top_p is None else sampling.top_p,
    )
    source = ScoreSource(melody)

    def plan_for(known: CachedModel) -> CompositionPlan:
        grid = source.grid(known.frames_per_quarter)
        return harmonized(grid, limits_of(known), highest=highest, tempo_qpm=sampling.tempo_qpm)

    return (yield from _compose_planned(cache, plan_for, sampling, model, int(n_candidates)))


def infill_flow(
    cache: ModelCache, *, score: ScoreLike, bars: tuple[int, int], sampling: SamplingParams, model: str
) -> Flow[Piece]:
    """Replace some bars of a score; see `MusicClient.infill`."""
    source = ScoreSource(score)

    def plan_for(known: CachedModel) -> CompositionPlan:
        grid = source.grid(known.frames_per_quarter)
        return filled_in(grid, bars, limits_of(known), tempo_qpm=sampling.tempo_qpm)

    return (yield from _compose_planned(cache, plan_for, sampling, model))


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
        request = InferRequest(model, next_request_id("predict"), _score_inputs(known, grid), tuple(known.role.outputs))
        response = yield from infer(known, request)
        nll = checked_output(response, "nll", (1, n_frames))[0]
        probabilities = None
        if "probabilities" in known.role.outputs:
            probabilities = checked_output(response, "probabilities", (1, n_frames, N_PITCHES))[0]
        return Prediction(nll, probabilities, grid, model, response.version)

    return (yield from with_fresh_models(cache, (model,), start))


def continuation_planner(
    prompt: ScoreLike | None, bars: int, meter: tuple[int, int] | None, sampling: SamplingParams
) -> Planner:
    """Return a function that plans new bars, after a prompt if there is one, within the limits of a model."""
    check_count("bars", bars, least=1, most=N_BARS_MAX)
    source = None if prompt is None else ScoreSource(prompt)

    def plan_for(known: CachedModel) -> CompositionPlan:
        grid = None if source is None else source.grid(known.frames_per_quarter)
        return continued(grid, bars, limits_of(known), meter=meter, tempo_qpm=sampling.tempo_qpm)

    return plan_for


def at_default_tempo(plan: CompositionPlan, sampling: SamplingParams, conditions: SteeringInputs) -> CompositionPlan:
    """Return the plan of a piece from scratch in the tempo of its style, unless the caller chose a tempo."""
    if sampling.tempo_qpm is not None or (plan.mode != FREE).any():
        return plan
    return replace(plan, grid=replace(plan.grid, tempo_qpm=default_tempo_qpm(conditions.style)))


def limits_of(known: CachedModel) -> ModelLimits:
    """Return the limits of a model."""
    return ModelLimits(known.n_frames_max, known.n_notes_max, known.frames_per_quarter)


def composer_inputs(
    known: CachedModel,
    plan: CompositionPlan,
    sampling: SamplingParams,
    conditions: SteeringInputs,
    n_candidates: int = 1,
) -> Mapping[str, Array]:
    """Return the inputs of a COMPOSER or STREAMER: the same request for each candidate, with noise of its own.

    The noise of the first candidate is that of a batch of one, and more candidates begin with the same ones as fewer.
    """
    steered = conditions.inputs()
    one: dict[str, Array] = {
        "given": plan.given[None],
        "given_mode": plan.given_mode[None],
        "meter": np.array([plan.meter], np.int64),
        "style": scalar(known.style_index(conditions.style), 1, np.int64),
        **{name: steered[name] for name in steered if name in known.info.inputs},
    }
    return {
        **{name: np.repeat(array, n_candidates, axis=0) for name, array in one.items()},
        "noise": uniform_noise(sampling.seed, n_candidates, plan.n_frames, known.size_of("noise")),
        **sampling.inputs(n_candidates, **known.sampling_defaults),
    }


def _compose_planned(
    cache: ModelCache, plan_for: Planner, sampling: SamplingParams, model: str, n_candidates: int = 1
) -> Flow[Piece]:
    check_model_name(model)

    def start() -> Flow[Piece]:
        known = yield from cache.look_up(model, COMPOSER)
        return (yield from _compose(known, plan_for(known), sampling, n_candidates))

    return (yield from with_fresh_models(cache, (model,), start))


def _compose(
    known: CachedModel,
    plan: CompositionPlan,
    sampling: SamplingParams,
    n_candidates: int,
) -> Flow[Piece]:
    """Compose candidates, and return the best one: the first of those that are equally good.

    The best one has the ending that it was asked for, the fewest parallel fifths and octaves, and the highest
    likelihood, in this order.
    """
    conditions = conditions_for(known, plan, sampling, Steering())
    inputs = composer_inputs(known, plan, sampling, conditions, n_candidates)
    most = _batch_size(known, plan)
    found: list[tuple[Piece, float]] = []
    for start in range(0, n_candidates, most):
        batch = {name: array[start : start + most] for name, array in inputs.items()}
        pieces, nats = yield from _candidates(known, plan, sampling, conditions, batch)
        found += zip(pieces, nats.tolist(), strict=True)
    return found[0][0] if n_candidates == 1 else min(found, key=_faults)[0]


def _faults(candidate: tuple[Piece, float]) -> tuple[bool, int, float]:
    """Return by what candidates are compared: the lower, the better."""
    piece, nats = candidate
    n_parallels, _ = count_parallels(sounding_columns(piece.grid.frames))
    return not piece.achieved["ending"], n_parallels, nats


def _batch_size(known: CachedModel, plan: CompositionPlan) -> int:
    """Return the most candidates in one request, which together have at most the frames that a model writes."""
    return max(1, min(known.info.max_batch_size, known.n_frames_max // plan.n_frames))


def _compose_as_asked(
    known: CachedModel, plan: CompositionPlan, sampling: SamplingParams, steering: Steering, n_candidates: int
) -> Flow[Piece]:
    """Compose candidates until one has the key and the ending that it was asked for.

    Further ones are composed in batches that are longer each time, so that few requests
    are made, and none is larger than a piece of the most frames that the model writes.
    """
    conditions = conditions_for(known, plan, sampling, steering)
    plan = at_default_tempo(plan, sampling, conditions)
    most = _batch_size(known, plan)
    pieces: list[Piece] = []
    while len(pieces) < n_candidates and (not pieces or min(piece.n_unmet for piece in pieces)):
        stop = min(n_candidates, len(pieces) + min(most, max(1, _MORE * len(pieces))))
        # Not the inputs of all candidates at once: half of the requests need those of the first one only.
        inputs = composer_inputs(known, plan, sampling, conditions, stop)
        batch = {name: array[len(pieces) :] for name, array in inputs.items()}
        more, _ = yield from _candidates(known, plan, sampling, conditions, batch)
        pieces += more
    return min(pieces, key=lambda piece: piece.n_unmet)


def _candidates(
    known: CachedModel,
    plan: CompositionPlan,
    sampling: SamplingParams,
    conditions: SteeringInputs,
    inputs: Mapping[str, Array],
) -> Flow[tuple[list[Piece], Array]]:
    """Request a batch of pieces; return them and the nats of each."""
    request = InferRequest(known.name, next_request_id("compose"), inputs, tuple(COMPOSER.outputs))
    response = yield from infer(known, request)
    n = len(inputs["noise"])
    frames = checked_output(response, "frames", (n, plan.n_frames, N_PITCHES), largest=STRUCK)
    nll = checked_output(response, "nll", (n, plan.n_frames))
    asked = conditions.to_dict()
    pieces = [_piece(plan, *notes, sampling, response, conditions=asked) for notes in zip(frames, nll, strict=True)]
    return pieces, nll.sum(axis=1, dtype=np.float64)


def _sample_frames(
    known: CachedModel, plan: CompositionPlan, sampling: SamplingParams, steering: Steering
) -> Flow[Piece]:
    """Compose with a SAMPLER; from scratch, it reads one silent time step."""
    conditions = conditions_for(known, plan, sampling, steering)
    plan = at_default_tempo(plan, sampling, conditions)
    prompt = plan.given[plan.given_mode == GIVEN]
    n_new = plan.n_frames - len(prompt)
    inputs = {
        "prompt": prompt[None] if len(prompt) else np.zeros((1, 1, N_PITCHES), np.uint8),
        "noise": uniform_noise(sampling.seed, 1, n_new, N_PITCHES),
        **sampling.inputs(1, **known.sampling_defaults),
    }
    style = known.style_index(conditions.style)
    if "repeats" in known.info.inputs:
        steered = conditions.inputs()
        inputs |= {
            **steered,
            "meter": np.array([plan.meter], np.int64),
            "style": scalar(style, 1, np.int64),
            "repeats": np.ascontiguousarray(steered["repeats"][:, len(prompt) :]),
        }
    request = InferRequest(known.name, next_request_id("compose"), inputs, tuple(SAMPLER.outputs))
    response = yield from infer(known, request)
    new = checked_output(response, "frames", (1, n_new, N_PITCHES), largest=STRUCK)[0]
    frames = np.concatenate([prompt, new])
    return _piece(plan, frames, None, sampling, response, conditions=conditions.to_dict())


def _piece(
    plan: CompositionPlan,
    frames: Frames,
    nll: Array | None,
    sampling: SamplingParams,
    response: InferResponse,
    *,
    conditions: Mapping[str, Any] | None = None,
) -> Piece:
    about = {"model": response.model, "model_version": response.version, **sampling.of_pieces()}
    return plan.piece(frames, nll, **about, conditions=conditions or {})


def _score_inputs(known: CachedModel, grid: Grid) -> Mapping[str, Array]:
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
    return composer_inputs(known, plan, SamplingParams.checked(seed=0), SteeringInputs.unknown(plan.n_frames))
