"""Directions in the latent space along which a span's attributes change, and whether moving along them works.

MusicVAE subtracts the mean latent of spans without an attribute from that of spans with it (Roberts et al. 2018,
arXiv:1803.05428, section 5.3). Here the latents are regressed on all attributes at once, so that each vector is what
changes with its own attribute while the others stay; and within each style, so that denser does not come to mean
"a chorale".

Such a vector has the right direction, but a decoder may map small moves back to training music. So each vector is
stretched until one requested standard deviation is one measured, on spans of the training set.

Shapes: S spans, Z latent, A = 3 attributes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone_training.bars.autoencoder import MusicVae, decode
from tritone_training.bars.spans import SpanSet
from tritone_training.musicality import ATTRIBUTES, measure_attributes, spans_to_frames

FloatMatrix = npt.NDArray[np.float64]

AMOUNTS: Final = (-2.0, -1.0, 0.0, 1.0, 2.0)  # standard deviations by which `vary` is tried
_STRETCHES: Final = tuple(2.0**power for power in range(7))
_RIDGE: Final = 1e-4  # of an attribute that does not vary, the vector is zero


def attribute_statistics(spans: SpanSet) -> tuple[FloatMatrix, FloatMatrix]:
    """Return mean and standard deviation of each attribute, (A,) each."""
    measured = measure_attributes(spans_to_frames(spans.voices))
    return measured.mean(0), np.maximum(measured.std(0), 1e-9)


def attribute_vectors(means: npt.NDArray[Any], spans: SpanSet) -> FloatMatrix:
    """Return the change of the latent with one standard deviation of each attribute.

    Args:
        means: (S, Z) of the spans' posteriors.

    Returns:
        (A, Z)
    """
    _, deviation = attribute_statistics(spans)
    scaled = measure_attributes(spans_to_frames(spans.voices)) / deviation
    latents = means.astype(np.float64)
    for style in np.unique(spans.styles):
        own = spans.styles == style
        scaled[own] -= scaled[own].mean(0)
        latents[own] -= latents[own].mean(0)
    covariance = scaled.T @ scaled / len(scaled) + _RIDGE * np.eye(len(ATTRIBUTES))
    vectors: FloatMatrix = np.linalg.solve(covariance, scaled.T @ latents / len(scaled))
    return vectors


@torch.inference_mode()
def stretched(
    network: MusicVae,
    vectors: FloatMatrix,
    means: npt.NDArray[Any],
    deviation: npt.NDArray[Any],
    noise: npt.NDArray[Any],
) -> FloatMatrix:
    """Scale attribute vectors (A, Z) to change the attribute by one standard deviation; at most 64 times.

    Args:
        means: (S, Z) of spans that are tried.
        deviation: (A,) of the attributes over the training set.
        noise: (S, N, V).
    """
    latent = torch.from_numpy(np.asarray(means, np.float32))
    result = vectors.copy()
    for index in range(len(vectors)):
        before, length, reach = 0.0, 0.0, _STRETCHES[-1]
        for stretch in _STRETCHES:
            step = torch.from_numpy((stretch * vectors[index]).astype(np.float32))
            up, down = (
                measure_attributes(spans_to_frames(decode(network, latent + sign * step, noise)))[:, index].mean()
                for sign in (1, -1)
            )
            gain = float(up - down) / 2 / float(deviation[index])
            if gain >= 1:
                # Linear interpolation between this factor and the previous one, to a gain of 1.
                reach = length + (stretch - length) * (1 - before) / (gain - before)
                break
            before, length = gain, stretch
        result[index] *= reach
    return result


@torch.inference_mode()
def attribute_control(
    network: MusicVae, means: npt.NDArray[Any], deviation: npt.NDArray[Any], noise: npt.NDArray[Any]
) -> dict[str, Any]:
    """Move spans along each attribute and measure what comes out.

    Args:
        means: (S, Z) of held-out spans.
        deviation: (A,) of the attributes over the training set.
        noise: (S, N, V) the same for every amount, so that only the amount differs.

    Returns:
        By attribute: `measured`, its mean at each of `amounts`; `gain`, standard deviations of change for each one
        asked for; `correlation` between amount and change over all spans; `n_rising`, at how many of the steps between
        amounts the mean rises.
    """
    report: dict[str, Any] = {}
    latent = torch.from_numpy(np.asarray(means, np.float32))
    for index, name in enumerate(ATTRIBUTES):
        values = []
        for amount in AMOUNTS:
            attributes = torch.zeros(len(latent), len(ATTRIBUTES))
            attributes[:, index] = amount
            voices = decode(network, network.moved(latent, attributes), noise)
            values.append(measure_attributes(spans_to_frames(voices))[:, index])
        measured = np.stack(values, axis=1)  # (S, amounts)
        change = (measured - measured[:, [AMOUNTS.index(0.0)]]) / deviation[index]
        mean = measured.mean(0)
        report[name] = {
            "amounts": list(AMOUNTS),
            "measured": mean.tolist(),
            "gain": float(np.polyfit(AMOUNTS, change.mean(0), 1)[0]),
            "correlation": _correlation(np.broadcast_to(AMOUNTS, change.shape).ravel(), change.ravel()),
            "n_rising": int((np.diff(mean) > 0).sum()),
        }
    return report


def _correlation(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    if min(first.std(), second.std()) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
