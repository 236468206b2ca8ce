"""Evaluation of `music_vae` on held-out spans: reconstruction, bound, interpolation and attribute control.

Shapes: S spans, N = 32 time steps, V = 4 voices, Z latent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone.music.grid import STRUCK
from tritone.music.voices import FIRST_STRIKE
from tritone.sampling import uniform_noise
from tritone_training.bars.autoencoder import INTERPOLATION_STEPS, MusicVae, decode, spherical
from tritone_training.bars.spans import SpanSet, cut_spans, to_absolute, to_relative
from tritone_training.data.scores import load_scores
from tritone_training.evaluation import EvaluationResult, summarize
from tritone_training.exceptions import DataError, TrainingError
from tritone_training.kind import EvaluateRequest, data_path
from tritone_training.kinds.music_vae.attributes import attribute_control
from tritone_training.kinds.music_vae.module import elbo_parts
from tritone_training.kinds.music_vae.network import load_network
from tritone_training.musicality import ATTRIBUTES, spans_to_frames
from tritone_training.plots import draw_histograms, draw_pianorolls, saved_figure
from tritone_training.progress import progress_bar
from tritone_training.quality import Arrays, HeldOut, Metric, Quality, Run, recorded_data

Voices = npt.NDArray[np.int64]

_BATCH: Final = 128
_ACTIVE_VARIANCE: Final = 0.01  # Burda et al. 2016
_N_CONTROLLED: Final = 256  # spans whose attributes are moved
_N_INTERPOLATED: Final = 128  # pairs
_N_SHOWN: Final = 4


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics, with the spans that they were computed from.

    Attributes:
        metrics: JSON-able.
        spans: what was evaluated.
        means: (S, Z) of the posteriors.
        reconstructed: (S, N, V) sampled at temperature 1.
    """

    metrics: dict[str, Any]
    spans: SpanSet
    means: npt.NDArray[np.float32]
    reconstructed: Voices


def evaluate_network(
    network: MusicVae,
    spans: SpanSet,
    *,
    deviation: npt.NDArray[Any],
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Encode, decode and compare; then walk between spans and along attributes.

    Args:
        network: in eval mode.
        deviation: (A,) of the attributes over the training set.
        seed: of all noise.

    Raises:
        TrainingError: the network diverged in training.
    """
    torch.manual_seed(seed)
    noise = uniform_noise(seed, *spans.voices.shape)
    parts: list[_Part] = []
    for start in range(0, len(spans), _BATCH):
        stop = min(start + _BATCH, len(spans))
        parts.append(_ask(network, spans.voices[start:stop], noise[start:stop]))
        on_progress(stop, len(spans))
    whole = _Part(*(np.concatenate([getattr(part, name) for part in parts]) for name in _Part.__annotations__))
    if not np.isfinite(whole.mean).all():
        raise TrainingError("the network returns non-finite values: training diverged; lower the learning rate")
    chosen = np.random.default_rng(seed).permutation(len(spans))
    controlled = chosen[:_N_CONTROLLED]
    metrics = {
        "n_spans": len(spans),
        **_reconstruction(spans.voices, whole),
        "elbo": _elbo(whole),
        "active_units": int((whole.mean.var(0) > _ACTIVE_VARIANCE).sum()),
        "n_latent": whole.mean.shape[1],
        "interpolation": _interpolation(network, whole.mean, chosen, noise[0]),
        "attributes": attribute_control(network, whole.mean[controlled], deviation, noise[controlled]),
        "by_style": {
            name: {"n_spans": int(own.sum()), **_reconstruction(spans.voices[own], whole.where(own))}
            for style, name in enumerate(spans.style_names)
            if (own := spans.styles == style).any()
        },
    }
    return Evaluation(metrics, spans, whole.mean, whole.sampled)


@dataclass(frozen=True, eq=False)
class _Part:
    """Results for some spans: means (S, Z), voices (S, N, V) twice, and nats of each span (S,) twice."""

    mean: npt.NDArray[np.float32]
    sampled: Voices
    likeliest: Voices
    reconstruction: npt.NDArray[np.float32]
    divergence: npt.NDArray[np.float32]

    def where(self, chosen: npt.NDArray[np.bool_]) -> _Part:
        return _Part(*(getattr(self, name)[chosen] for name in _Part.__annotations__))


@torch.inference_mode()
def _ask(network: MusicVae, voices: Voices, noise: npt.NDArray[np.float32]) -> _Part:
    given = torch.from_numpy(voices)
    mean, _ = network(given)
    latent, _ = network.decoder_inputs(mean, torch.zeros(len(mean), len(ATTRIBUTES)))
    level = network.decoder.level(latent)
    likeliest = to_absolute(network.decoder.logits(latent, to_relative(given, level)).argmax(3), level)
    reconstruction, divergence = elbo_parts(network, given)
    return _Part(
        mean.numpy(),
        decode(network, mean, noise),
        likeliest.numpy(),
        reconstruction.numpy(),
        divergence.sum(1).numpy(),
    )


def _reconstruction(voices: Voices, part: _Part) -> dict[str, float]:
    """Return accuracies of the reconstruction.

    `reconstruction_accuracy`: voice-steps that are equal after encoding, taking the posterior's mean, and sampling at
    temperature 1. Most voice-steps are holds and rests, so two stricter measures are added: the accuracy where
    a note begins, and the F1 score of notes (step and pitch).
    """
    equal = part.sampled == voices
    strikes = voices >= FIRST_STRIKE
    ours, theirs = (spans_to_frames(each) == STRUCK for each in (part.sampled, voices))
    n_notes = int(ours.sum() + theirs.sum())
    return {
        "reconstruction_accuracy": float(equal.mean()),
        "reconstruction_accuracy_teacher_forced": float((part.likeliest == voices).mean()),
        "strike_accuracy": float(equal[strikes].mean()) if strikes.any() else 1.0,
        "note_f1": 2 * int((ours & theirs).sum()) / n_notes if n_notes else 1.0,
        "whole_span_accuracy": float(equal.all((1, 2)).mean()),
    }


def _elbo(part: _Part) -> dict[str, float]:
    """Return the evidence lower bound in nats a span, as a bound on the negative log-likelihood."""
    reconstruction, divergence = float(part.reconstruction.mean()), float(part.divergence.mean())
    return {"reconstruction_nats": reconstruction, "kl_nats": divergence, "bound_nats": reconstruction + divergence}


def _interpolation(
    network: MusicVae, means: npt.NDArray[np.float32], chosen: npt.NDArray[Any], noise: npt.NDArray[np.float32]
) -> dict[str, float]:
    """Interpolate between pairs of spans in nine steps and measure how evenly the voice-steps change.

    The share of voice-steps in which two spans differ is a metric, so no walk is shorter than the distance of its ends.

    Returns:
        `straightness`, the distance of the ends over the length of the walk, 1 at best; `largest_step`, the share of
        the walk that its largest step takes, 1 / 8 at best.
    """
    n_pairs = min(len(chosen) // 2, _N_INTERPOLATED)
    if not n_pairs:
        return {}
    first, second = means[chosen[:n_pairs]], means[chosen[n_pairs : 2 * n_pairs]]
    same_noise = np.broadcast_to(noise, (n_pairs, *noise.shape))
    walk = np.stack(
        [
            decode(network, torch.from_numpy(spherical(first, second, share)), same_noise)
            for share in np.linspace(0, 1, INTERPOLATION_STEPS)
        ]
    )
    steps = (walk[1:] != walk[:-1]).mean((2, 3))  # (steps, pairs)
    ends = (walk[0] != walk[-1]).mean((1, 2))
    length = steps.sum(0)
    moved = length > 0
    return {
        "n_pairs": n_pairs,
        "straightness": float((ends[moved] / length[moved]).mean()) if moved.any() else 1.0,
        "largest_step": float((steps.max(0)[moved] / length[moved]).mean()) if moved.any() else 0.0,
    }


def evaluate(request: EvaluateRequest) -> EvaluationResult:
    """Evaluate a checkpoint on every span of two bars."""
    network, info = load_network(request.checkpoint)
    scores = load_scores(data_path(request), progress=request.progress)
    with progress_bar("cutting spans", shown=request.progress) as on_progress:
        spans = cut_spans(scores, request.split, on_progress=on_progress)
    with progress_bar("evaluating spans", shown=request.progress) as on_progress:
        evaluation = evaluate_network(
            network, spans, deviation=np.array(info["attributes"]["deviation"]), on_progress=on_progress
        )
    details = {"spans": spans.report, "split": request.split}
    return EvaluationResult(
        request.checkpoint,
        scores.source,
        metrics=evaluation.metrics,
        details=details,
        summary=summarize({**evaluation.metrics, **details}),
        report=None if request.report is None else write_report(request.report, network, evaluation),
    )


def held_out(request: EvaluateRequest) -> HeldOut:
    """Return the validation spans of a checkpoint's own data.

    Raises:
        DataError: they are not at hand, or are others than it was trained on.
    """
    network, info = load_network(request.checkpoint)
    scores = load_scores(recorded_data(data_path(request), info, request.checkpoint), progress=request.progress)
    if scores.fingerprint != info["data"].get("fingerprint"):
        raise DataError(
            f"{scores.source}: is not the data that {request.checkpoint} was trained on; give it with --data"
        )
    voices = cut_spans(scores, "valid").voices
    noise = uniform_noise(0, *voices.shape)

    def measure(run: Run) -> Mapping[str, float]:
        equal = []
        for start in range(0, len(voices), _BATCH):
            rows = slice(start, start + _BATCH)
            mean = torch.from_numpy(run({"voices": voices[rows]})["mean"])
            with torch.inference_mode():
                equal.append(decode(network, mean, noise[rows]) == voices[rows])
        return {"reconstruction_accuracy": float(np.concatenate(equal).mean()), "n": len(voices)}

    return HeldOut(scores.source, measure, _nothing)


def _nothing() -> Iterator[Arrays]:
    """Ranges come from each request."""
    return iter(())


QUALITY: Final = Quality((Metric("reconstruction_accuracy", max_loss=0.005),), held_out, int8="dynamic")


def write_report(folder: Path, network: MusicVae, evaluation: Evaluation) -> list[str]:
    """Write the plots of the report and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    spans = evaluation.spans.voices
    shown = np.linspace(0, len(spans) - 1, min(len(spans), _N_SHOWN)).astype(np.int64)
    files = [
        draw_pianorolls(
            folder / "reconstructions.png",
            [spans[shown], evaluation.reconstructed[shown]],
            rows=("held-out", "reconstructed"),
        ),
        draw_histograms(folder / "histograms.png", {"held-out": spans, "reconstructed": evaluation.reconstructed}),
        _draw_attributes(folder / "attributes.png", evaluation.metrics["attributes"]),
    ]
    if len(shown) > 1:
        means = evaluation.means[shown]
        noise = np.broadcast_to(uniform_noise(0, *spans.shape[1:]), (1, *spans.shape[1:]))
        walk = [
            decode(network, torch.from_numpy(spherical(means[:1], means[-1:], share)), noise)[0]
            for share in np.linspace(0, 1, INTERPOLATION_STEPS)
        ]
        files.append(draw_pianorolls(folder / "interpolation.png", [np.stack(walk)], rows=("from left to right",)))
    return files


def _draw_attributes(path: Path, control: dict[str, Any]) -> str:
    with saved_figure(path, (4 * len(control), 3.5), 1, len(control), dpi=100) as axes:
        for axis, (name, metrics) in zip(axes[0], control.items(), strict=True):
            axis.plot(metrics["amounts"], metrics["measured"], marker="o")
            axis.set_xlabel("moved by (standard deviations)")
            axis.set_ylabel(f"measured {name.replace('_', ' ')}")
            axis.set_title(f"correlation {metrics['correlation']:.2f}")
    return str(path)
