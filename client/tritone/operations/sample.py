"""New spans of music from noise: the flow of `sample`, for the GAN and for the VAE.

Shapes: n pieces, R rows of a request, W frames of a span (32), V voices (4), G and Z latent dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, Final, TypedDict

import numpy as np
import numpy.typing as npt

from tritone.constants import ATTRIBUTES, LARGEST_DENSITY
from tritone.exceptions import InvalidInputError
from tritone.generation_models import DECODER, DREAMER, ENCODER, Writer, Writers, with_fresh_models
from tritone.model_cache import Flow, check_model_name
from tritone.music.grid import TEMPO_QPM, Grid
from tritone.music.noise import LARGEST_SEED, uniform_noise
from tritone.music.piece import Piece
from tritone.music.voices import N_VOICES, SPAN_FRAMES, voices_to_grid
from tritone.operations.compose import Wish
from tritone.operations.latent import N_ROWS_MAX, ask_for_voices, attribute_vector, decode, pair_of
from tritone.operations.options import N_PIECES_MAX, check_choice, check_count, is_number, is_whole, scalar

FloatArray = npt.NDArray[np.float32]
MODES: Final = ("major", "minor")
ANY: Final = -1
_LATENT_STREAM: Final = 1  # of a seed's noise; 0 chooses the notes
_STEPS_OF_LETTERS: Final = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_STEPS_OF_SIGNS: Final = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}


class Conditions(TypedDict, total=False):
    """What `sample` can be asked for; a model takes some of them and refuses the others.

    All models: `temperature`, `top_k`, `top_p`, `tempo_qpm`, as for `compose`.
    `music_gan`: `key` (`"C"`, `"F#"`, `"Bb"` or 0..11), `mode` (`"major"`, `"minor"`), `density` (struck notes in
    a quarter, up to 16), `truncation` (0 < t <= 1; less is safer and less varied).
    `music_vae`: `note_density`, `pitch_range`, `rhythmic_complexity`, each in standard deviations.
    """

    temperature: float
    top_k: int | None
    top_p: float | None
    tempo_qpm: float | None
    key: str | int | None
    mode: str | None
    density: float | None
    truncation: float | None
    note_density: float
    pitch_range: float
    rhythmic_complexity: float


_FOR_ALL: Final = frozenset({"temperature", "top_k", "top_p", "tempo_qpm"})
_FOR_DREAMERS: Final = frozenset({"key", "mode", "density", "truncation"})


def sample_flow(
    writers: Writers, *, model: str, n: int, seed: int, conditions: Mapping[str, Any]
) -> Flow[tuple[Piece, ...]]:
    """The flow of `MusicClient.sample`."""
    check_count("n", n, least=1, most=N_PIECES_MAX)
    choice = check_choice(conditions.get("temperature", 1.0), conditions.get("top_k"), conditions.get("top_p"))
    wish = Wish(choice, seed, tempo_qpm=conditions.get("tempo_qpm"))
    names = pair_of(check_model_name(model))
    seeds = seeds_of(seed, n)
    # Every piece has noise of its own, so its own seed alone gives it again.
    noise = np.stack([uniform_noise(each, SPAN_FRAMES, N_VOICES) for each in seeds])

    def attempt() -> Flow[tuple[Piece, ...]]:
        known = yield from writers.look_up(model, DREAMER, ENCODER, DECODER)
        if known.role is ENCODER:
            known = yield from writers.look_up(names[1], DECODER)
        if known.role is DECODER:
            _check_known(conditions, frozenset(ATTRIBUTES), model)
            attributes = attribute_vector((name, conditions[name]) for name in ATTRIBUTES if name in conditions)
            latents = _normal(_latent_noise(seeds, known.size_of("latent")))
            voices, version = yield from decode(known, latents, attributes, noise, wish)
        else:
            _check_known(conditions, _FOR_DREAMERS, model)
            voices, version = yield from _dream(known, conditions, seeds, noise, wish)
        return tuple(_piece(*each, wish, model, version) for each in zip(voices, seeds, strict=True))

    return (yield from with_fresh_models(writers, names, attempt))


def seeds_of(seed: int, n: int) -> tuple[int, ...]:
    """Seeds of n pieces: the first is `seed`, the others follow from it and have nothing to do with its neighbours'."""
    others = np.random.SeedSequence(seed).generate_state(n - 1, np.uint64) & np.uint64(LARGEST_SEED)
    return (seed, *others.tolist())


def key_number(key: str | int | None) -> int:
    """A key's tonic as 0 (C) to 11 (B); -1 for any.

    Raises:
        InvalidInputError: no such key.
    """
    if key is None:
        return ANY
    if is_whole(key) and 0 <= int(key) <= 11:
        return int(key)
    if isinstance(key, str) and key[:1].upper() in _STEPS_OF_LETTERS and key[1:] in _STEPS_OF_SIGNS:
        return (_STEPS_OF_LETTERS[key[0].upper()] + _STEPS_OF_SIGNS[key[1:]]) % 12
    raise InvalidInputError(
        f"key is {key!r}; expected a note's name such as 'C', 'F#' or 'Bb', or 0 (C) to 11 (B); the mode is apart"
    )


def _dream(
    known: Writer, conditions: Mapping[str, Any], seeds: tuple[int, ...], noise: FloatArray, wish: Wish
) -> Flow[tuple[npt.NDArray[np.int64], str]]:
    key, mode = key_number(conditions.get("key")), _mode_number(conditions.get("mode"))
    density, truncation = _density(conditions.get("density")), _truncation(conditions.get("truncation"))
    latent_noise = _latent_noise(seeds, known.size_of("latent_noise"))
    voices = []
    version = ""
    n_at_once = min(known.info.max_batch_size, N_ROWS_MAX)
    for start in range(0, len(seeds), n_at_once):
        part = slice(start, start + n_at_once)
        n_rows = len(seeds[part])
        inputs = {
            "latent_noise": latent_noise[part],
            "truncation": scalar(truncation, n_rows, np.float32),
            "key": scalar(key, n_rows, np.int64),
            "mode": scalar(mode, n_rows, np.int64),
            "density": scalar(density, n_rows, np.float32),
            "noise": noise[part],
            **wish.choice.inputs(n_rows),
        }
        answer, version = yield from ask_for_voices(known, inputs, n_rows)
        voices.append(answer)
    return np.concatenate(voices), version


def _latent_noise(seeds: tuple[int, ...], size: int) -> FloatArray:
    """(n, size) uniform."""
    return np.stack([uniform_noise(seed, size, stream=_LATENT_STREAM) for seed in seeds])


def _normal(noise: FloatArray) -> FloatArray:
    """Uniform noise, multiples of 2**-24 from 0, as normal noise; the half step keeps 0 finite."""
    quantile = NormalDist().inv_cdf
    values = [quantile(value + 2.0**-25) for value in noise.ravel().tolist()]
    return np.array(values, np.float32).reshape(noise.shape)


def _check_known(conditions: Mapping[str, Any], own: frozenset[str], model: str) -> None:
    unknown = sorted(name for name in conditions if name not in own | _FOR_ALL)
    if unknown:
        raise InvalidInputError(
            f"model {model!r} knows no condition {', '.join(unknown)}; it takes {', '.join(sorted(own | _FOR_ALL))}",
            model=model,
        )


def _mode_number(mode: str | None) -> int:
    if mode is None:
        return ANY
    if mode not in MODES:
        raise InvalidInputError(f"mode is {mode!r}; expected {' or '.join(MODES)}, or None for any")
    return MODES.index(mode)


def _density(density: float | None) -> float:
    if density is None:
        return ANY
    if not is_number(density) or not 0 < density <= LARGEST_DENSITY:
        raise InvalidInputError(
            f"density is {density!r}; expected a number above 0, at most {LARGEST_DENSITY:g} (struck notes in a "
            f"quarter), or None for any"
        )
    return float(density)


def _truncation(truncation: float | None) -> float:
    if truncation is None:
        return 1.0
    if not is_number(truncation) or not 0 < truncation <= 1:
        raise InvalidInputError(
            f"truncation is {truncation!r}; expected a number above 0, at most 1 (which, like None, leaves all)"
        )
    return float(truncation)


def _piece(voices: npt.NDArray[np.int64], seed: int, wish: Wish, model: str, version: str) -> Piece:
    tempo_qpm = TEMPO_QPM if wish.tempo_qpm is None else wish.tempo_qpm
    grid = Grid(voices_to_grid(voices), meter=(SPAN_FRAMES // 2, 0), tempo_qpm=tempo_qpm)
    return Piece(grid, seed=seed, model=model, model_version=version)
