"""Music through a latent space: the flows of `reconstruct`, `interpolate` and `vary`.

A score is cut into spans of two bars; each span is a row of the batch, so a long score costs few requests.

Shapes: S spans, W frames of a span (32), V voices (4), Z latent dimensions, R rows of a request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from tritone.constants import ATTRIBUTES, LARGEST_AMOUNT
from tritone.exceptions import InvalidInputError
from tritone.generation_models import DECODER, ENCODER, Writer, Writers, checked, infer, with_fresh_models
from tritone.messages import Array, InferRequest
from tritone.model_cache import Flow, check_model_name, next_request_id
from tritone.music.grid import Grid
from tritone.music.noise import uniform_noise
from tritone.music.piece import Piece
from tritone.music.scores import ScoreLike
from tritone.music.voices import N_VOICE_VALUES, N_VOICES, SPAN_FRAMES, assign_voices, voices_to_grid
from tritone.operations.compose import Wish
from tritone.operations.options import N_STEPS_MAX, check_count, is_number
from tritone.operations.plan import Source

DECODER_SUFFIX: Final = "_decoder"  # see the kind's companions
N_ROWS_MAX: Final = 64  # of one request, whatever the model takes: others wait behind it
N_BETWEEN_MAX: Final = 2_048  # spans of all pieces between two others: two hours of music
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Spans:
    """A score in spans.

    Attributes:
        grid: the score, with what the voices leave out among what was dropped.
        voices: (S, W, V).
        n_before: silent frames before the score in the first span, so that spans begin with bars.
    """

    grid: Grid
    voices: npt.NDArray[np.int64]
    n_before: int


def reconstruct_flow(writers: Writers, *, score: ScoreLike, wish: Wish, model: str) -> Flow[Piece]:
    """The flow of `MusicClient.reconstruct`."""
    return (yield from _moved(writers, score, np.zeros(len(ATTRIBUTES), np.float32), wish, model))


def vary_flow(
    writers: Writers, *, score: ScoreLike, attribute: str, amount: float, wish: Wish, model: str
) -> Flow[Piece]:
    """The flow of `MusicClient.vary`."""
    return (yield from _moved(writers, score, attribute_vector([(attribute, amount)]), wish, model))


def interpolate_flow(
    writers: Writers, *, a: ScoreLike, b: ScoreLike, steps: int, wish: Wish, model: str
) -> Flow[tuple[Piece, ...]]:
    """The flow of `MusicClient.interpolate`."""
    check_count("steps", steps, least=2, most=N_STEPS_MAX)
    models = pair_of(model)
    sources = Source(a), Source(b)

    def attempt() -> Flow[tuple[Piece, ...]]:
        encoder, decoder = yield from _look_up(writers, models)
        spans = [to_spans(source.grid(encoder.frames_per_quarter)) for source in sources]
        n_spans = min(len(each.voices) for each in spans)
        if steps * n_spans > N_BETWEEN_MAX:
            raise InvalidInputError(
                f"{steps} pieces of {2 * n_spans} bars are too many for one call; at most {2 * N_BETWEEN_MAX:,} bars "
                f"in all: take fewer steps or shorter pieces"
            )
        from_a = yield from _encode(encoder, spans[0].voices[:n_spans])
        to_b = yield from _encode(encoder, spans[1].voices[:n_spans])
        weights = np.linspace(0, 1, steps)
        latents = np.concatenate([slerp(from_a, to_b, float(weight)) for weight in weights])  # (steps * S, Z)
        # The same noise for all steps, so that the way between the pieces makes all the difference.
        noise = np.tile(uniform_noise(wish.seed, n_spans, SPAN_FRAMES, N_VOICES), (steps, 1, 1))
        voices, version = yield from decode(decoder, latents, np.zeros(len(ATTRIBUTES), np.float32), noise, wish)
        tempi = [each.grid.tempo_qpm for each in spans]
        return tuple(
            _piece(
                voices[i * n_spans : (i + 1) * n_spans],
                _common(spans, n_spans, wish.tempo_qpm or float(np.interp(weight, (0, 1), tempi))),
                wish,
                model,
                version,
            )
            for i, weight in enumerate(weights)
        )

    return (yield from with_fresh_models(writers, models, attempt))


def pair_of(model: str) -> tuple[str, str]:
    """Names of the encoder and of the decoder that was exported with it."""
    return check_model_name(model), model + DECODER_SUFFIX


def attribute_vector(amounts: Iterable[tuple[str, float]]) -> FloatArray:
    """(3,) how far to move along each attribute, in standard deviations.

    Raises:
        InvalidInputError: no such attribute, or no such amount.
    """
    vector = np.zeros(len(ATTRIBUTES), np.float32)
    for attribute, amount in amounts:
        if attribute not in ATTRIBUTES:
            raise InvalidInputError(f"attribute is {attribute!r}; expected one of {', '.join(ATTRIBUTES)}")
        if not is_number(amount) or abs(amount) > LARGEST_AMOUNT:
            raise InvalidInputError(
                f"the amount of {attribute} is {amount!r}; expected a number from {-LARGEST_AMOUNT:g} to "
                f"{LARGEST_AMOUNT:g} (standard deviations of the training music)"
            )
        vector[ATTRIBUTES.index(attribute)] = amount
    return vector


def to_spans(grid: Grid) -> Spans:
    """Cut a score into spans; in 4/4 they begin with bars, else with its first frame."""
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
        (S, Z); on a straight line where the vectors point the same or the opposite way, or are zero.
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
    decoder: Writer, latents: FloatArray, attributes: FloatArray, noise: FloatArray, wish: Wish
) -> Flow[tuple[npt.NDArray[np.int64], str]]:
    """Latents to voices.

    Args:
        decoder: a DECODER.
        latents: (R, Z).
        attributes: (3,) or (R, 3).
        noise: (R, W, V).
        wish: how to choose.

    Returns:
        (R, W, V) and the version that answered.
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
            **wish.choice.inputs(n_rows),
        }
        answer, version = yield from ask_for_voices(decoder, inputs, n_rows)
        voices.append(answer)
    return np.concatenate(voices), version


def ask_for_voices(known: Writer, inputs: Mapping[str, Array], n_rows: int) -> Flow[tuple[Array, str]]:
    """One request to a model that answers voices, (R, W, V), and the version that answered."""
    request = InferRequest(known.name, next_request_id("lanes"), inputs, ("lanes",))
    response = yield from infer(known, request)
    shape = (n_rows, SPAN_FRAMES, N_VOICES)
    return checked(response, "lanes", shape, largest=N_VOICE_VALUES - 1), response.version


def _look_up(writers: Writers, models: tuple[str, str]) -> Flow[tuple[Writer, Writer]]:
    encoder = yield from writers.look_up(models[0], ENCODER)
    decoder = yield from writers.look_up(models[1], DECODER)
    return encoder, decoder


def _moved(writers: Writers, score: ScoreLike, attributes: FloatArray, wish: Wish, model: str) -> Flow[Piece]:
    models = pair_of(model)
    source = Source(score)

    def attempt() -> Flow[Piece]:
        encoder, decoder = yield from _look_up(writers, models)
        spans = to_spans(source.grid(encoder.frames_per_quarter))
        means = yield from _encode(encoder, spans.voices)
        noise = uniform_noise(wish.seed, len(means), SPAN_FRAMES, N_VOICES)
        voices, version = yield from decode(decoder, means, attributes, noise, wish)
        like = spans if wish.tempo_qpm is None else _at_tempo(spans, wish.tempo_qpm)
        return _piece(voices, like, wish, model, version)

    return (yield from with_fresh_models(writers, models, attempt))


def _encode(encoder: Writer, voices: npt.NDArray[np.int64]) -> Flow[FloatArray]:
    """(S, W, V) -> (S, Z), the means."""
    size = encoder.info.outputs["mean"][-1]
    means = []
    for part in _parts(encoder, len(voices)):
        request = InferRequest(encoder.name, next_request_id("encode"), {"lanes": voices[part]}, ("mean",))
        response = yield from infer(encoder, request)
        mean = response.outputs["mean"]
        means.append(checked(response, "mean", (part.stop - part.start, size if size > 0 else mean.shape[-1])))
    return np.concatenate(means)


def _parts(known: Writer, n_rows: int) -> list[slice]:
    n_at_once = min(known.info.max_batch_size, N_ROWS_MAX)
    return [slice(start, min(start + n_at_once, n_rows)) for start in range(0, n_rows, n_at_once)]


def _at_tempo(spans: Spans, tempo_qpm: float) -> Spans:
    return replace(spans, grid=replace(spans.grid, tempo_qpm=tempo_qpm))


def _common(spans: list[Spans], n_spans: int, tempo_qpm: float) -> Spans:
    """What a piece between two others is like: as long as the shorter, with its beginning."""
    shorter = min(spans, key=lambda each: (len(each.voices), each.grid.n_frames))
    return _at_tempo(replace(shorter, voices=shorter.voices[:n_spans]), tempo_qpm)


def _piece(voices: npt.NDArray[np.int64], like: Spans, wish: Wish, model: str, version: str) -> Piece:
    """(S, W, V) as a piece as long as the score that it comes from."""
    frames = np.concatenate([voices_to_grid(span) for span in voices])
    frames = frames[like.n_before : like.n_before + like.grid.n_frames]
    grid = replace(like.grid, frames=frames)
    return Piece(grid, seed=wish.seed, model=model, model_version=version)
