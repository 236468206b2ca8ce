"""From a prompt, a melody or a score to a piece: the flows of `compose`, `harmonize` and `infill`.

Shapes: N frames that the model is given, P of them a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from tritone.exceptions import InvalidInputError
from tritone.generation_models import (
    COMPOSER,
    SAMPLER,
    SCORER,
    Writer,
    Writers,
    checked,
    infer,
    with_fresh_models,
)
from tritone.messages import Array, InferRequest
from tritone.model_cache import Flow, check_model_name, next_request_id
from tritone.music.grid import N_PITCHES, STRUCK
from tritone.music.noise import check_seed, fresh_seed, uniform_noise
from tritone.music.piece import Piece
from tritone.music.scores import ScoreLike
from tritone.operations.options import N_BARS_MAX, Choice, check_choice, check_count, check_tempo, scalar
from tritone.operations.plan import GIVEN, Limits, Plan, Source, continued, filled_in, harmonized

# Beside the model that predicts frames stands the one that samples them; see the kind's companions.
SAMPLER_SUFFIX: Final = "_sampler"


@dataclass(frozen=True)
class Wish:
    """What all calls that write have in common.

    Attributes:
        seed: never None any more.
        style: one of the model's, or None for any.
    """

    choice: Choice
    seed: int
    style: str | None = None
    tempo_qpm: float | None = None

    def __post_init__(self) -> None:
        check_tempo(self.tempo_qpm)
        if self.style is not None and not isinstance(self.style, str):
            raise InvalidInputError(f"style is {self.style!r}; expected a style's name, or None for any")


def make_wish(
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    style: str | None = None,
    tempo_qpm: float | None = None,
) -> Wish:
    """Check what a caller asked for; without a seed, draw one.

    Raises:
        InvalidInputError: says what cannot be.
    """
    choice = check_choice(temperature, top_k, top_p)
    return Wish(choice, fresh_seed() if seed is None else check_seed(seed), style, tempo_qpm)


def compose_flow(
    writers: Writers,
    *,
    prompt: ScoreLike | None,
    bars: int,
    meter: tuple[int, int] | None,
    wish: Wish,
    model: str,
) -> Flow[Piece]:
    """The flow of `MusicClient.compose`."""
    plan_for = continuing(prompt, bars, meter, wish)
    sampler = check_model_name(model) + SAMPLER_SUFFIX

    def attempt() -> Flow[Piece]:
        known = yield from writers.look_up(model, COMPOSER, SAMPLER, SCORER)
        if known.role is SCORER:
            known = yield from writers.look_up(sampler, SAMPLER)
        if known.role is SAMPLER:
            return (yield from _sample(known, plan_for(known), wish))
        return (yield from _write(known, plan_for(known), wish))

    return (yield from with_fresh_models(writers, (model, sampler), attempt))


def harmonize_flow(writers: Writers, *, melody: ScoreLike, highest: bool, wish: Wish, model: str) -> Flow[Piece]:
    """The flow of `MusicClient.harmonize`."""
    source = Source(melody)

    def plan_for(known: Writer) -> Plan:
        grid = source.grid(known.frames_per_quarter)
        return harmonized(grid, limits_of(known), highest=highest, tempo_qpm=wish.tempo_qpm)

    return (yield from _write_with(writers, plan_for, wish, model))


def infill_flow(writers: Writers, *, score: ScoreLike, bars: tuple[int, int], wish: Wish, model: str) -> Flow[Piece]:
    """The flow of `MusicClient.infill`."""
    source = Source(score)

    def plan_for(known: Writer) -> Plan:
        grid = source.grid(known.frames_per_quarter)
        return filled_in(grid, bars, limits_of(known), tempo_qpm=wish.tempo_qpm)

    return (yield from _write_with(writers, plan_for, wish, model))


def continuing(
    prompt: ScoreLike | None, bars: int, meter: tuple[int, int] | None, wish: Wish
) -> Callable[[Writer], Plan]:
    """What a model is given to write on from a prompt, or from nothing."""
    check_count("bars", bars, least=1, most=N_BARS_MAX)
    source = None if prompt is None else Source(prompt)

    def plan_for(known: Writer) -> Plan:
        grid = None if source is None else source.grid(known.frames_per_quarter)
        return continued(grid, bars, limits_of(known), meter=meter, tempo_qpm=wish.tempo_qpm)

    return plan_for


def limits_of(known: Writer) -> Limits:
    """What a model takes."""
    return Limits(known.n_frames_max, known.n_notes_max, known.frames_per_quarter)


def writing_inputs(known: Writer, plan: Plan, wish: Wish) -> Mapping[str, Array]:
    """A plan as the tensors of a model that composes, for a batch of one."""
    return {
        "given": plan.given[None],
        "given_mode": plan.given_mode[None],
        "meter": np.array([plan.meter], np.int64),
        "style": scalar(known.style_index(wish.style), 1, np.int64),
        "noise": uniform_noise(wish.seed, 1, plan.n_heard, known.size_of("noise")),
        **wish.choice.inputs(1),
    }


def _write_with(writers: Writers, plan_for: Callable[[Writer], Plan], wish: Wish, model: str) -> Flow[Piece]:
    check_model_name(model)

    def attempt() -> Flow[Piece]:
        known = yield from writers.look_up(model, COMPOSER)
        return (yield from _write(known, plan_for(known), wish))

    return (yield from with_fresh_models(writers, (model,), attempt))


def _write(known: Writer, plan: Plan, wish: Wish) -> Flow[Piece]:
    request = InferRequest(
        known.name, next_request_id("write"), writing_inputs(known, plan, wish), tuple(COMPOSER.outputs)
    )
    response = yield from infer(known, request)
    frames = checked(response, "frames", (1, plan.n_heard, N_PITCHES), largest=STRUCK)[0]
    nll = checked(response, "nll", (1, plan.n_heard))[0]
    return plan.piece(frames, nll, seed=wish.seed, model=known.name, model_version=response.version)


def _sample(known: Writer, plan: Plan, wish: Wish) -> Flow[Piece]:
    """Ask a model that has no grammar but only notes that sound: a note that sounds on is held."""
    if wish.style is not None:
        raise InvalidInputError(f"style is {wish.style!r}, but model {known.name!r} has no styles", model=known.name)
    prompt = plan.given[plan.given_mode == GIVEN]
    n_new = plan.n_heard - len(prompt)
    inputs = {
        "prompt": prompt[None] if len(prompt) else np.zeros((1, 1, N_PITCHES), np.uint8),
        "noise": uniform_noise(wish.seed, 1, n_new, N_PITCHES),
        **wish.choice.inputs(1),
    }
    request = InferRequest(known.name, next_request_id("sample"), inputs, tuple(SAMPLER.outputs))
    response = yield from infer(known, request)
    new = checked(response, "frames", (1, n_new, N_PITCHES), largest=STRUCK)[0]
    frames = np.concatenate([prompt, new])
    return plan.piece(frames, None, seed=wish.seed, model=known.name, model_version=response.version)
