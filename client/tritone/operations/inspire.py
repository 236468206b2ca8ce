"""From nothing to recommendations in one request: a piece, its classification, and tracks like it.

Shapes: N frames that the model reads or writes, W windows of the rendered piece.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from tritone.arguments import Mood, check_model_name, check_mood, scalar, text
from tritone.constants import N_RENDERED_WINDOWS_MAX, WINDOW_S
from tritone.exceptions import InvalidInputError
from tritone.messages import Flow, InferRequest, InferResponse, next_request_id
from tritone.model_cache import CLASSIFIER, COMPOSER, INSPIRER, CachedModel, ModelCache, checked_output, infer
from tritone.music.grid import N_PITCHES, STRUCK
from tritone.music.piece import Piece
from tritone.music.render import TAIL_S
from tritone.music.scores import ScoreLike
from tritone.operations.classify import WindowResponses, classification_of
from tritone.operations.compose import at_default_tempo, composer_inputs, continuation_planner, limits_of
from tritone.operations.moods import opening
from tritone.operations.plan import CompositionPlan, continued
from tritone.operations.recommend import TRACK_OUTPUTS, count_input, recommendations_of
from tritone.operations.steering import Steering, SteeringInputs, conditions_for
from tritone.results.inspiration import Inspiration
from tritone.retry import with_fresh_models
from tritone.sampling import SamplingParams

MAX_RENDERED_S: Final = N_RENDERED_WINDOWS_MAX * WINDOW_S
_ABOUT_SOUND: Final = ("window_start_s", "duration_s", "render_s")
_ABOUT_TRACKS: Final = ("source", "arm", "unknown")
_OUTPUTS: Final = (
    *COMPOSER.outputs,
    *_ABOUT_SOUND,
    "probabilities",
    "emotions",
    "embedding",
    *TRACK_OUTPUTS,
    *_ABOUT_TRACKS,
)


def inspire_flow(
    cache: ModelCache,
    *,
    prompt: ScoreLike | None,
    mood: Mood | None,
    bars: int,
    n: int,
    sampling: SamplingParams,
    model: str,
) -> Flow[Inspiration]:
    """Compose a piece and recommend tracks like it; see `MusicClient.inspire`."""
    used = [check_model_name(model)]
    emotion: str | None = None  # tempo and mode follow one emotion, and so does the model
    if mood is not None:
        strengths = check_mood(mood)
        emotion = max(strengths, key=strengths.__getitem__)
    count = count_input(n)
    continue_prompt = continuation_planner(prompt, bars, None, sampling)

    def plan_for(composer: CachedModel) -> CompositionPlan:
        if prompt is not None or emotion is None:
            return continue_prompt(composer)
        begun = opening(emotion, sampling.seed, composer.frames_per_quarter)  # in the first of the new bars
        return continued(begun, int(bars) - 1, limits_of(composer), meter=None, tempo_qpm=sampling.tempo_qpm)

    def start() -> Flow[Inspiration]:
        known = yield from cache.look_up(model, INSPIRER)
        used[1:] = [known.step("composer_model"), known.step("classifier_model")]
        composer = yield from cache.look_up(used[1], COMPOSER)
        classifier = yield from cache.look_up(used[2], CLASSIFIER)
        plan = plan_for(composer)
        conditions = conditions_for(composer, plan, sampling, Steering())
        plan = at_default_tempo(plan, sampling, conditions)
        inputs = {
            **composer_inputs(composer, plan, sampling, conditions),
            "frame_s": scalar(_frame_s(plan), 1, np.float32),
            "mood": text([(emotion or "").encode()]),
            "k": count,
        }
        request = InferRequest(model, next_request_id("inspire"), inputs, _OUTPUTS)
        began_s = time.perf_counter()
        response = yield from infer(known, request)
        request_s = time.perf_counter() - began_s
        return Inspiration(
            piece=_piece(response, plan, composer, sampling, conditions),
            classification=classification_of(
                classifier, _windows(response, request_s), None, version=classifier.version or ""
            ),
            recommendations=recommendations_of(response, _ABOUT_TRACKS, n_most=int(count[0, 0])),
            mood=emotion,
            render_s=float(checked_output(response, "render_s", (1,))[0]),
            request_s=request_s,
            model=response.model,
            model_version=response.version,
            request_id=response.request_id,
        )

    return (yield from with_fresh_models(cache, used, start))


def _frame_s(plan: CompositionPlan) -> float:
    """Return the duration of a frame in seconds.

    Raises:
        InvalidInputError: what the model reads and writes lasts longer than can be classified in one request.
    """
    frame_s = 60.0 / (plan.grid.tempo_qpm * plan.grid.frames_per_quarter)
    longest_s = MAX_RENDERED_S - TAIL_S
    lasts_s = plan.n_frames * float(np.float32(frame_s))
    if lasts_s > longest_s:
        raise InvalidInputError(
            f"the piece is too long: expected at most {longest_s:g} s, got {lasts_s:,.1f} s with what the model reads "
            f"of the prompt; write fewer bars, or pass only the last bars of the prompt",
            argument="bars",
            reason="too_long",
        )
    return frame_s


def _piece(
    response: InferResponse,
    plan: CompositionPlan,
    composer: CachedModel,
    sampling: SamplingParams,
    conditions: SteeringInputs,
) -> Piece:
    frames = checked_output(response, "frames", (1, plan.n_frames, N_PITCHES), largest=STRUCK)[0]
    nll = checked_output(response, "nll", (1, plan.n_frames))[0]
    about = {"model": composer.name, "model_version": composer.version, **sampling.of_pieces()}
    return plan.piece(frames, nll, **about, conditions=conditions.to_dict())


def _windows(response: InferResponse, request_s: float) -> WindowResponses:
    """Return the outputs of the classifier, checked."""
    n_windows = max(1, len(checked_output(response, "probabilities", (None, None))))  # no sound is without a window
    for name in ("probabilities", "emotions"):
        checked_output(response, name, (n_windows, None))
    starts_s = checked_output(response, "window_start_s", (n_windows,))
    checked_output(response, "embedding", (1, None))
    duration_s = float(checked_output(response, "duration_s", (1,))[0])
    return WindowResponses(starts_s.tolist(), duration_s, [(response, slice(None))], request_s=request_s)
