"""Evaluation of `music_gan`: distance from real music, novelty, and control by key, mode and density.

Shapes: S spans, N = 32 time steps, V = 4 voices, Z latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone.music.keys import N_KEYS, N_MODES
from tritone.music.voices import N_VOICE_VALUES, N_VOICES, SPAN_FRAMES
from tritone.sampling import uniform_noise
from tritone_training.bars.autoencoder import decode, encode
from tritone_training.bars.spans import SpanSet, cut_spans
from tritone_training.data.scores import load_scores
from tritone_training.evaluation import EvaluationResult, summarize
from tritone_training.exceptions import DataError, TrainingError
from tritone_training.kind import EvaluateRequest, data_path
from tritone_training.kinds.music_gan.dataset import draw_spans
from tritone_training.kinds.music_gan.declaration import N_LATENT_NOISE
from tritone_training.kinds.music_gan.network import MusicGan, load_network
from tritone_training.musicality import (
    ATTRIBUTES,
    describe,
    duplicate_rate,
    estimate_keys,
    frechet_distance,
    frechet_floor,
    interval_histogram,
    length_histogram,
    measure_attributes,
    memorisation,
    nearest_distances,
    overlap_area,
    relative_similarity,
    spans_to_frames,
)
from tritone_training.plots import draw_histograms, draw_pianorolls, saved_figure
from tritone_training.progress import progress_bar

Voices = npt.NDArray[np.int64]

N_SAMPLES: Final = 1000
ANY: Final = -1
_BATCH: Final = 128
_N_PER_KEY: Final = 10
_N_PER_DENSITY: Final = 20
_N_DENSITIES: Final = 9
_N_SHOWN: Final = 6


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics, with the generated and held-out spans that they compare, (S, N, V) each."""

    metrics: dict[str, Any]
    generated: Voices
    held_out: Voices


def generate(
    network: MusicGan,
    n: int,
    *,
    seed: int,
    key: npt.NDArray[Any] | int = ANY,
    mode: npt.NDArray[Any] | int = ANY,
    density: npt.NDArray[Any] | float = ANY,
    truncation: float = 1.0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Voices:
    """Generate spans (n, N, V); a condition is one value for all or (n,)."""
    latent_noise = uniform_noise(seed, n, N_LATENT_NOISE, stream=0)
    noise = uniform_noise(seed, n, SPAN_FRAMES, N_VOICES, stream=1)
    conditions = [
        torch.from_numpy(np.broadcast_to(value, (n,)).astype(dtype))
        for value, dtype in ((key, np.int64), (mode, np.int64), (density, np.float32))
    ]
    made = []
    with torch.inference_mode():
        for start in range(0, n, _BATCH):
            part = slice(start, min(start + _BATCH, n))
            ones = torch.ones(part.stop - start)
            (voices,) = network(
                torch.from_numpy(latent_noise[part]),
                truncation * ones,
                *(condition[part] for condition in conditions),
                torch.from_numpy(noise[part]),
                ones,
                torch.full((len(ones),), N_VOICE_VALUES),
                ones,
            )
            made.append(voices.numpy())
            on_progress(part.stop, n)
    return np.concatenate(made)


def evaluate_network(
    network: MusicGan,
    train: SpanSet,
    held_out: SpanSet,
    *,
    shares: npt.NDArray[Any],
    seed: int = 0,
    n_samples: int = N_SAMPLES,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Generate without any conditions and compare with held-out music; then with conditions.

    Held-out and training spans are drawn with the shares of styles that the network was trained with.

    Raises:
        TrainingError: the network diverged in training.
    """
    if not all(tensor.isfinite().all() for tensor in network.parameters()):
        raise TrainingError("the weights are not finite: training diverged; lower the learning rate")
    generated = generate(network, n_samples, seed=seed, on_progress=on_progress)
    theirs = draw_spans(held_out, shares, n_samples, seed=seed)
    learnt = draw_spans(train, shares, len(theirs), seed=seed)
    frames = {
        "generated": spans_to_frames(generated),
        "held_out": spans_to_frames(theirs.voices),
        "train": spans_to_frames(learnt.voices),
    }
    voices = {"generated": generated, "held_out": theirs.voices, "train": learnt.voices}
    everything = spans_to_frames(train.voices)
    metrics = {
        "n_samples": n_samples,
        "n_held_out": len(theirs),
        "frechet": _frechet(network, voices, theirs.pieces),
        "duplicate_rate": duplicate_rate(generated),
        "memorisation": memorisation(
            nearest_distances(frames["generated"], everything), nearest_distances(frames["held_out"], everything)
        ),
        "measures": {name: describe(each) for name, each in frames.items()},
        "overlap": {name: _overlap(voices[name], theirs.voices) for name in ("generated", "train")},
        "similarity": _similarity(frames["generated"], frames["held_out"]),
        "conditions": _control(network, theirs.voices, seed=seed),
    }
    return Evaluation(metrics, generated, theirs.voices)


def _frechet(network: MusicGan, voices: dict[str, Voices], pieces: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return the Fréchet distance of generated spans, encoded again, from held-out ones, and that of real music.

    Returns:
        `distance`; `floor`, the distance of as many training spans from the same held-out ones; their `ratio`; and
        `floor_between_pieces`, that of one half of the held-out pieces from the other, at `n_half` spans.
    """
    encoded = {name: encode(network.vae, each) for name, each in voices.items()}
    n = len(encoded["held_out"])
    distance = frechet_distance(encoded["generated"][:n], encoded["held_out"])
    floor = frechet_distance(encoded["train"][:n], encoded["held_out"])
    report: dict[str, Any] = {"distance": distance, "floor": floor, "ratio": distance / max(floor, 1e-9), "n": n}
    if len(np.unique(pieces)) > 1:
        half_floor, n_half = frechet_floor(encoded["held_out"], pieces)
        half = frechet_distance(encoded["generated"][:n_half], encoded["held_out"][:n_half])
        report |= {"floor_between_pieces": half_floor, "n_half": n_half, "distance_at_half": half}
    return report


def _overlap(ours: Voices, theirs: Voices) -> dict[str, float]:
    return {
        "note_length": overlap_area(length_histogram(ours), length_histogram(theirs)),
        "interval": overlap_area(interval_histogram(ours), interval_histogram(theirs)),
    }


def _similarity(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> dict[str, Any]:
    first, second = measure_attributes(ours), measure_attributes(theirs)
    if min(len(first), len(second)) < 2:
        return {}
    return {name: relative_similarity(first[:, i], second[:, i]) for i, name in enumerate(ATTRIBUTES)}


def _control(network: MusicGan, held_out: Voices, *, seed: int) -> dict[str, Any]:
    """Generate every key, and densities from the lowest to the highest decile, and measure the results.

    Returns:
        `mode_accuracy`, `mode_accuracy_reconstructed`, that of held-out spans after encoding and
        decoding; `key_accuracy`, of tonic and mode together; `density_correlation`, and the mean measured at each
        requested density.
    """
    asked = np.repeat(np.arange(N_KEYS * N_MODES), _N_PER_KEY)
    voices = generate(network, len(asked), seed=seed + 1, key=asked % N_KEYS, mode=asked // N_KEYS)
    key, mode = estimate_keys(spans_to_frames(voices))
    copies = decode(
        network.vae,
        torch.from_numpy(encode(network.vae, held_out)),
        uniform_noise(seed, len(held_out), SPAN_FRAMES, N_VOICES, stream=2),
    )
    before, after = (estimate_keys(spans_to_frames(each))[1] for each in (held_out, copies))
    quantiles = network.conditions.density_quantiles.mean(0).numpy()
    wanted = np.interp(np.linspace(0.1, 0.9, _N_DENSITIES), np.linspace(0, 1, len(quantiles)), quantiles)
    densities = np.repeat(wanted, _N_PER_DENSITY)
    dense = generate(network, len(densities), seed=seed + 2, density=densities)
    measured = measure_attributes(spans_to_frames(dense))[:, 0]
    varied = min(densities.std(), measured.std()) > 0
    return {
        "mode_accuracy": float((mode == asked // N_KEYS).mean()),
        "key_accuracy": float(((key == asked % N_KEYS) & (mode == asked // N_KEYS)).mean()),
        "mode_accuracy_reconstructed": float((before == after).mean()),
        "density_correlation": float(np.corrcoef(densities, measured)[0, 1]) if varied else 0.0,
        "density_asked": wanted.tolist(),
        "density_measured": measured.reshape(_N_DENSITIES, -1).mean(1).tolist(),
    }


def evaluate(request: EvaluateRequest) -> EvaluationResult:
    """Compare generated with held-out music: the split `valid` unless another is named.

    Raises:
        DataError: the data have other styles than the training set of the checkpoint.
    """
    split = request.split or "valid"
    network, info = load_network(request.checkpoint)
    scores = load_scores(data_path(request), progress=request.progress)
    shares = info["style_shares"]
    if set(scores.styles) != set(shares):
        raise DataError(
            f"{scores.source}: has the styles {', '.join(scores.styles)}; the checkpoint learnt from "
            f"{', '.join(shares)}: give the --data that it was trained on"
        )
    with progress_bar("cutting training spans", shown=request.progress) as on_progress:
        train = cut_spans(scores, "train", on_progress=on_progress)
    with progress_bar("cutting held-out spans", shown=request.progress) as on_progress:
        held_out = cut_spans(scores, split, on_progress=on_progress)
    with progress_bar("evaluating generated bars", shown=request.progress) as on_progress:
        evaluation = evaluate_network(
            network,
            train,
            held_out,
            shares=np.array([shares[name] for name in scores.styles]),
            on_progress=on_progress,
        )
    details = {"spans": {"train": train.report, split: held_out.report}, "split": split}
    return EvaluationResult(
        request.checkpoint,
        scores.source,
        metrics=evaluation.metrics,
        details=details,
        summary=summarize({**evaluation.metrics, **details}),
        report=None if request.report is None else write_report(request.report, evaluation),
    )


def write_report(folder: Path, evaluation: Evaluation) -> list[str]:
    """Write the plots of the report and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    n_shown = min(_N_SHOWN, len(evaluation.held_out))
    theirs = np.linspace(0, len(evaluation.held_out) - 1, n_shown).astype(np.int64)
    rolls = [evaluation.held_out[theirs], evaluation.generated[:n_shown]]
    return [
        draw_pianorolls(folder / "bars.png", rolls, rows=("held-out", "generated")),
        draw_histograms(
            folder / "histograms.png", {"held-out": evaluation.held_out, "generated": evaluation.generated}
        ),
        _draw_density(folder / "density.png", evaluation),
    ]


def _draw_density(path: Path, evaluation: Evaluation) -> str:
    control = evaluation.metrics["conditions"]
    with saved_figure(path, (4, 3.5), 1, 1, dpi=100) as axes:
        axis = axes[0][0]
        axis.plot(control["density_asked"], control["density_measured"], marker="o")
        axis.set_xlabel("notes a quarter, asked for")
        axis.set_ylabel("measured, mean")
        axis.set_title(f"correlation {control['density_correlation']:.2f}")
    return str(path)
