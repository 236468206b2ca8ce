"""Sampling of new music from noise, by a GAN or a VAE.

Shapes: n pieces, R rows of a request, W frames of a span (32), V voices (4), G and Z latent dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, Final, TypedDict

import numpy as np
import numpy.typing as npt

from tritone.arguments import (
    check_count,
    check_model_name,
    is_number,
    scalar,
    shown,
)
from tritone.constants import ATTRIBUTES, LARGEST_DENSITY
from tritone.exceptions import InvalidInputError
from tritone.messages import Flow
from tritone.model_cache import DECODER, ENCODER, GENERATOR, CachedModel, ModelCache
from tritone.music.grid import TEMPO_QPM, Grid
from tritone.music.instruments import Instruments
from tritone.music.keys import key_correlations, mode_number, tonic_number
from tritone.music.piece import Piece
from tritone.music.voices import N_VOICES, SPAN_FRAMES, voices_to_grid
from tritone.operations.latent import N_ROWS_MAX, attribute_vector, decode, infer_voices, pair_of
from tritone.retry import with_fresh_models
from tritone.sampling import (
    LARGEST_SEED,
    SamplingParams,
    uniform_noise,
)

FloatArray = npt.NDArray[np.float32]
N_PIECES_MAX: Final = 1_000
ANY: Final = -1
_LATENT_STREAM: Final = 1  # of a seed's noise; 0 chooses the notes


class Conditions(TypedDict, total=False):
    """Conditions of `MusicClient.sample`; each model accepts some of them and refuses the others.

    All models: `temperature`, `top_k`, `top_p`, `tempo_qpm`, `instruments`, as for `compose`.
    `music_gan`: `key` (`"C"`, `"F#"`, `"Bb"` or 0..11), `mode` (`"major"`, `"minor"`), `density` (struck notes in
    a quarter, up to 16), `truncation` (0 < t <= 1; less is safer and less varied).
    `music_vae`: `note_density`, `pitch_range`, `rhythmic_complexity`, each in standard deviations.
    """

    temperature: float
    top_k: int | None
    top_p: float | None
    tempo_qpm: float | None
    instruments: Instruments | None
    key: str | int | None
    mode: str | None
    density: float | None
    truncation: float | None
    note_density: float
    pitch_range: float
    rhythmic_complexity: float


_FOR_ALL: Final = frozenset({"temperature", "top_k", "top_p", "tempo_qpm", "instruments"})
_FOR_GENERATORS: Final = frozenset({"key", "mode", "density", "truncation"})


def sample_flow(
    cache: ModelCache, *, model: str, n: int, seed: int, conditions: Mapping[str, Any]
) -> Flow[tuple[Piece, ...]]:
    """Sample new pieces; see `MusicClient.sample`."""
    check_count("n", n, least=1, most=N_PIECES_MAX)
    shared = {name: conditions[name] for name in _FOR_ALL if name in conditions}
    sampling = SamplingParams.checked(seed=seed, **shared)
    names = pair_of(check_model_name(model))
    seeds = seeds_of(seed, n)

    def start() -> Flow[tuple[Piece, ...]]:
        known = yield from cache.look_up(model, GENERATOR, ENCODER, DECODER)
        if known.role is ENCODER:
            known = yield from cache.look_up(names[1], DECODER)
        if known.role is DECODER:
            _check_known(conditions, frozenset(ATTRIBUTES), model)
            attributes = attribute_vector((name, conditions[name]) for name in ATTRIBUTES if name in conditions)
            voices, version = yield from _sample_latents(known, attributes, seeds, sampling)
        else:
            _check_known(conditions, _FOR_GENERATORS, model)
            voices, version = yield from _generate(known, conditions, seeds, sampling)
        return tuple(_piece(*each, sampling, model, version) for each in zip(voices, seeds, strict=True))

    return (yield from with_fresh_models(cache, names, start))


def _sample_latents(
    known: CachedModel, attributes: FloatArray, seeds: tuple[int, ...], sampling: SamplingParams
) -> Flow[tuple[npt.NDArray[np.int64], str]]:
    """Decode normal numbers, for each seed those of several candidates, and keep the one with the clearest key.

    Latent vectors of music leave little to chance, but samples of their distribution mix keys. The clearness is the
    correlation with the profile of the best key (Krumhansl-Schmuckler). The first candidate
    is the sample of one candidate.
    """
    n_candidates = known.n_sample_candidates
    size = known.size_of("latent")
    latents = _normal(
        np.concatenate([uniform_noise(seed, n_candidates, size, stream=_LATENT_STREAM) for seed in seeds])
    )
    noise = np.concatenate([uniform_noise(seed, n_candidates, SPAN_FRAMES, N_VOICES) for seed in seeds])
    voices, version = yield from decode(known, latents, attributes, noise, sampling)
    if n_candidates == 1:
        return voices, version
    clearness = key_correlations(np.stack([voices_to_grid(each) for each in voices])).max(axis=1)
    best = clearness.reshape(len(seeds), n_candidates).argmax(axis=1)
    return voices.reshape(len(seeds), n_candidates, SPAN_FRAMES, N_VOICES)[np.arange(len(seeds)), best], version


def seeds_of(seed: int, n: int) -> tuple[int, ...]:
    """Return the seeds of n pieces: `seed`, and others derived from it, which differ from those of nearby seeds."""
    others = np.random.SeedSequence(seed).generate_state(n - 1, np.uint64) & np.uint64(LARGEST_SEED)
    return (seed, *others.tolist())


def _generate(
    known: CachedModel,
    conditions: Mapping[str, Any],
    seeds: tuple[int, ...],
    sampling: SamplingParams,
) -> Flow[tuple[npt.NDArray[np.int64], str]]:
    key, mode = tonic_number(conditions.get("key")), mode_number(conditions.get("mode"))
    density, truncation = _density(conditions.get("density")), _truncation(conditions.get("truncation"))
    # Every piece has its own noise, so that its seed alone reproduces it.
    latent_noise = _latent_noise(seeds, known.size_of("latent_noise"))
    noise = np.stack([uniform_noise(each, SPAN_FRAMES, N_VOICES) for each in seeds])
    voices = []
    version = ""
    n_at_once = min(known.info.max_batch_size, N_ROWS_MAX)
    for start in range(0, len(seeds), n_at_once):
        part = slice(start, start + n_at_once)
        n_rows = len(seeds[part])
        inputs = {
            "latent_noise": latent_noise[part],
            "truncation": scalar(truncation, n_rows, np.float32),
            "key": scalar(ANY if key is None else key, n_rows, np.int64),
            "mode": scalar(ANY if mode is None else mode, n_rows, np.int64),
            "density": scalar(density, n_rows, np.float32),
            "noise": noise[part],
            **sampling.inputs(n_rows, **known.sampling_defaults),
        }
        part_voices, version = yield from infer_voices(known, inputs, n_rows)
        voices.append(part_voices)
    return np.concatenate(voices), version


def _latent_noise(seeds: tuple[int, ...], size: int) -> FloatArray:
    """Return (n, size) uniform noise."""
    return np.stack([uniform_noise(seed, size, stream=_LATENT_STREAM) for seed in seeds])


def _normal(noise: FloatArray) -> FloatArray:
    """Transform uniform noise (multiples of 2**-24) into normal noise; the added half step keeps 0 finite."""
    quantile = NormalDist().inv_cdf
    values = [quantile(value + 2.0**-25) for value in noise.ravel().tolist()]
    return np.array(values, np.float32).reshape(noise.shape)


def _check_known(conditions: Mapping[str, Any], own: frozenset[str], model: str) -> None:
    unknown = sorted(name for name in conditions if name not in own | _FOR_ALL)
    if unknown:
        raise InvalidInputError(
            f"unknown condition for model {model!r}: expected {', '.join(sorted(own | _FOR_ALL))}, got "
            f"{', '.join(unknown)}",
            model=model,
            argument="condition",
        )


def _density(density: float | None) -> float:
    if density is None:
        return ANY
    if not is_number(density) or not 0 < density <= LARGEST_DENSITY:
        raise InvalidInputError(
            f"invalid density: expected a number above 0 and at most {LARGEST_DENSITY:g} (struck notes per quarter), "
            f"or "
            f"None for any, got {shown(density)}",
            argument="density",
        )
    return float(density)


def _truncation(truncation: float | None) -> float:
    if truncation is None:
        return 1.0
    if not is_number(truncation) or not 0 < truncation <= 1:
        raise InvalidInputError(
            f"invalid truncation: expected a number above 0 and at most 1, or None for no truncation, got "
            f"{shown(truncation)}",
            argument="truncation",
        )
    return float(truncation)


def _piece(voices: npt.NDArray[np.int64], seed: int, sampling: SamplingParams, model: str, version: str) -> Piece:
    tempo_qpm = TEMPO_QPM if sampling.tempo_qpm is None else sampling.tempo_qpm
    grid = Grid(voices_to_grid(voices), meter=(SPAN_FRAMES // 2, 0), tempo_qpm=tempo_qpm)
    return Piece(grid, seed=seed, model=model, model_version=version, instruments=sampling.instruments)
