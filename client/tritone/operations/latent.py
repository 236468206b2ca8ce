"""Operations in the latent space of a VAE: reconstruction, interpolation and variation.

A score is cut into spans of two bars; each span is one row of a batch, so a long score takes few requests.

Shapes: S spans, W frames of a span (32), V voices (4), Z latent dimensions, R rows of a request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from tritone.arguments import (
    check_count,
    check_model_name,
    is_number,
)
from tritone.constants import ATTRIBUTES, LARGEST_AMOUNT
from tritone.exceptions import InvalidInputError
from tritone.messages import (
    Array,
    Flow,
    InferRequest,
    next_request_id,
)
from tritone.model_cache import DECODER, ENCODER, CachedModel, ModelCache, checked_output, infer
from tritone.music.grid import Grid
from tritone.music.piece import Piece
from tritone.music.scores import ScoreLike
from tritone.music.voices import N_VOICE_VALUES, N_VOICES, SPAN_FRAMES, assign_voices, voices_to_grid
from tritone.operations.plan import ScoreSource
from tritone.retry import with_fresh_models
from tritone.sampling import SamplingParams, uniform_noise

DECODER_SUFFIX: Final = "_decoder"  # see the kind's companions
N_STEPS_MAX: Final = 64
N_ROWS_MAX: Final = 64  # of one request, whatever the model allows: other requests wait behind it
N_BETWEEN_MAX: Final = 2_048  # spans of all pieces of an interpolation: two hours of music
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Spans:
    """A score, cut into spans.

    Attributes:
        grid: the score; `dropped` also counts the notes beyond four voices.
        voices: (S, W, V).
        n_before: silent frames before the score in the first span, which align the spans with bars.
    """

    grid: Grid
    voices: npt.NDArray[np.int64]
    n_before: int


def reconstruct_flow(cache: ModelCache, *, score: ScoreLike, sampling: SamplingParams, model: str) -> Flow[Piece]:
    """Encode and decode a score; see `MusicClient.reconstruct`."""
    return (yield from _moved(cache, score, np.zeros(len(ATTRIBUTES), np.float32), sampling, model))


def vary_flow(
    cache: ModelCache, *, score: ScoreLike, attribute: str, amount: float, sampling: SamplingParams, model: str
) -> Flow[Piece]:
    """Move a score along an attribute; see `MusicClient.vary`."""
    return (yield from _moved(cache, score, attribute_vector([(attribute, amount)]), sampling, model))


def interpolate_flow(
    cache: ModelCache, *, a: ScoreLike, b: ScoreLike, steps: int, sampling: SamplingParams, model: str
) -> Flow[tuple[Piece, ...]]:
    """Interpolate between two scores; see `MusicClient.interpolate`."""
    check_count("steps", steps, least=2, most=N_STEPS_MAX)
    models = pair_of(model)
    sources = ScoreSource(a), ScoreSource(b)

    def start() -> Flow[tuple[Piece, ...]]:
        encoder, decoder = yield from _look_up(cache, models)
        spans = [to_spans(source.grid(encoder.frames_per_quarter)) for source in sources]
        n_spans = min(len(each.voices) for each in spans)
        if steps * n_spans > N_BETWEEN_MAX:
            raise InvalidInputError(
                f"too much music for one call: expected at most {2 * N_BETWEEN_MAX:,} bars in all, got {steps} pieces "
                f"of {2 * n_spans} bars; take fewer steps or shorter pieces",
                argument="steps",
                reason="too_long",
            )
        from_a = yield from _encode(encoder, spans[0].voices[:n_spans])
        to_b = yield from _encode(encoder, spans[1].voices[:n_spans])
        weights = np.linspace(0, 1, steps)
        latents = np.concatenate([slerp(from_a, to_b, float(weight)) for weight in weights])  # (steps * S, Z)
        # The same noise for all steps, so that the pieces differ only by their latent vectors.
        noise = np.tile(uniform_noise(sampling.seed, n_spans, SPAN_FRAMES, N_VOICES), (steps, 1, 1))
        voices, version = yield from decode(decoder, latents, np.zeros(len(ATTRIBUTES), np.float32), noise, sampling)
        tempi = [each.grid.tempo_qpm for each in spans]
        return tuple(
            _piece(
                voices[i * n_spans : (i + 1) * n_spans],
                _common(spans, n_spans, sampling.tempo_qpm or float(np.interp(weight, (0, 1), tempi))),
                sampling,
                model,
                version,
            )
            for i, weight in enumerate(weights)
        )

    return (yield from with_fresh_models(cache, models, start))


def pair_of(model: str) -> tuple[str, str]:
    """Return the names of an encoder and of the decoder that was exported with it."""
    return check_model_name(model), model + DECODER_SUFFIX


def attribute_vector(amounts: Iterable[tuple[str, float]]) -> FloatArray:
    """Return (3,), the distance to move along each attribute in standard deviations.

    Raises:
        InvalidInputError: an attribute is unknown or an amount invalid.
    """
    vector = np.zeros(len(ATTRIBUTES), np.float32)
    for attribute, amount in amounts:
        if not isinstance(attribute, str) or attribute not in ATTRIBUTES:
            raise InvalidInputError(
                f"unknown attribute: expected one of {', '.join(ATTRIBUTES)}, got {attribute!r}", argument="attribute"
            )
        if not is_number(amount) or abs(amount) > LARGEST_AMOUNT:
            raise InvalidInputError(
                f"invalid amount of {attribute}: expected a number from {-LARGEST_AMOUNT:g} to {LARGEST_AMOUNT:g} "
                f"(standard deviations of the training music), got {amount!r}",
                argument="amount",
            )
        vector[ATTRIBUTES.index(attribute)] = amount
    return vector


def to_spans(grid: Grid) -> Spans:
    """Cut a score into spans, which start with bars in 4/4, else with the first frame."""
    length, index = grid.meter
    n_before = index if 2 * length == SPAN_FRAMES else 0
    n_after = -(n_before + grid.n_frames) % SPAN_FRAMES
    frames = np.pad(grid.frames, ((n_before, n_after), (0, 0)))
    voices, n_left_out = [], 0
    for start in range(0, len(frames), SPAN_FRAMES):
        span, n_dropped = assign_voices(frames[start : start + SPAN_FRAMES])
        voices.append(span)
        n_left_out += n_dropped
    dropped = {**grid.dropped, **({"beyond_four_voices": n_left_out} if n_left_out else {})}
    return Spans(replace(grid, dropped=dropped), np.stack(voices), n_before)


def slerp(a: FloatArray, b: FloatArray, weight: float) -> FloatArray:
    """Spherical interpolation row by row (Shoemake 1985; for latent spaces White 2016, arXiv:1609.04468).

    Args:
        a: (S, Z).
        b: (S, Z).
        weight: 0 is `a`, 1 is `b`.

    Returns:
        (S, Z); linear where the vectors are parallel or zero.
    """
    first, second = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosine = (first * second).sum(axis=1) / np.where(lengths > 0, lengths, 1)
    angle = np.arccos(np.clip(cosine, -1, 1))[:, None]
    sine = np.sin(angle)
    straight = (sine < 1e-6) | (lengths == 0)[:, None]
    safe = np.where(straight, 1.0, sine)
    from_first = np.where(straight, 1 - weight, np.sin((1 - weight) * angle) / safe)
    from_second = np.where(straight, weight, np.sin(weight * angle) / safe)
    between: FloatArray = (from_first * first + from_second * second).astype(np.float32)
    return between


def decode(
    decoder: CachedModel, latents: FloatArray, attributes: FloatArray, noise: FloatArray, sampling: SamplingParams
) -> Flow[tuple[npt.NDArray[np.int64], str]]:
    """Decode latent vectors.

    Args:
        decoder: a model with the role DECODER.
        latents: (R, Z).
        attributes: (3,) or (R, 3).
        noise: (R, W, V).

    Returns:
        (R, W, V), and the model version.
    """
    rows = np.broadcast_to(attributes, (len(latents), len(ATTRIBUTES)))
    voices = []
    version = ""
    for part in _parts(decoder, len(latents)):
        n_rows = part.stop - part.start
        inputs = {
            "latent": latents[part],
            "attributes": np.ascontiguousarray(rows[part]),
            "noise": noise[part],
            **sampling.inputs(n_rows, **decoder.sampling_defaults),
        }
        part_voices, version = yield from infer_voices(decoder, inputs, n_rows)
        voices.append(part_voices)
    return np.concatenate(voices), version


def infer_voices(known: CachedModel, inputs: Mapping[str, Array], n_rows: int) -> Flow[tuple[Array, str]]:
    """Run a model with the output `voices`; return (R, W, V) and the model version."""
    request = InferRequest(known.name, next_request_id("voices"), inputs, ("voices",))
    response = yield from infer(known, request)
    shape = (n_rows, SPAN_FRAMES, N_VOICES)
    return checked_output(response, "voices", shape, largest=N_VOICE_VALUES - 1), response.version


def _look_up(cache: ModelCache, models: tuple[str, str]) -> Flow[tuple[CachedModel, CachedModel]]:
    encoder = yield from cache.look_up(models[0], ENCODER)
    decoder = yield from cache.look_up(models[1], DECODER)
    return encoder, decoder


def _moved(
    cache: ModelCache, score: ScoreLike, attributes: FloatArray, sampling: SamplingParams, model: str
) -> Flow[Piece]:
    models = pair_of(model)
    source = ScoreSource(score)

    def start() -> Flow[Piece]:
        encoder, decoder = yield from _look_up(cache, models)
        spans = to_spans(source.grid(encoder.frames_per_quarter))
        means = yield from _encode(encoder, spans.voices)
        noise = uniform_noise(sampling.seed, len(means), SPAN_FRAMES, N_VOICES)
        voices, version = yield from decode(decoder, means, attributes, noise, sampling)
        like = spans if sampling.tempo_qpm is None else _at_tempo(spans, sampling.tempo_qpm)
        return _piece(voices, like, sampling, model, version)

    return (yield from with_fresh_models(cache, models, start))


def _encode(encoder: CachedModel, voices: npt.NDArray[np.int64]) -> Flow[FloatArray]:
    """(S, W, V) -> (S, Z), the means."""
    size = encoder.info.outputs["mean"][-1]
    means = []
    for part in _parts(encoder, len(voices)):
        request = InferRequest(encoder.name, next_request_id("encode"), {"voices": voices[part]}, ("mean",))
        response = yield from infer(encoder, request)
        means.append(checked_output(response, "mean", (part.stop - part.start, size if size > 0 else None)))
    return np.concatenate(means)


def _parts(known: CachedModel, n_rows: int) -> list[slice]:
    n_at_once = min(known.info.max_batch_size, N_ROWS_MAX)
    return [slice(start, min(start + n_at_once, n_rows)) for start in range(0, n_rows, n_at_once)]


def _at_tempo(spans: Spans, tempo_qpm: float) -> Spans:
    return replace(spans, grid=replace(spans.grid, tempo_qpm=tempo_qpm))


def _common(spans: list[Spans], n_spans: int, tempo_qpm: float) -> Spans:
    """Return the shorter of two scores, whose length and upbeat the pieces between them get."""
    shorter = min(spans, key=lambda each: (len(each.voices), each.grid.n_frames))
    return _at_tempo(replace(shorter, voices=shorter.voices[:n_spans]), tempo_qpm)


def _piece(voices: npt.NDArray[np.int64], like: Spans, sampling: SamplingParams, model: str, version: str) -> Piece:
    """Return (S, W, V) as a piece with the length and upbeat of a score."""
    frames = np.concatenate([voices_to_grid(span) for span in voices])
    frames = frames[like.n_before : like.n_before + like.grid.n_frames]
    grid = replace(like.grid, frames=frames)
    return Piece(grid, model=model, model_version=version, **sampling.of_pieces())
