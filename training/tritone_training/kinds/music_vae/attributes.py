"""Calibration and evaluation of changes of attributes.

The decoder is given a change of attributes in standard deviations (see `tritone_training.bars.attribute_edits`). What
comes out may be less or more, and cannot be what no span has, such as a range below 0. So the mean change is measured
on spans of the training set for several given changes, and the inverse of that curve is stored in the network.

Shapes: S spans, N = 32 time steps, V = 4 voices, Z latent, A = 3 attributes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone_training.bars.autoencoder import AMOUNTS, MusicVae, decode
from tritone_training.bars.spans import SpanSet
from tritone_training.musicality import ATTRIBUTES, measure_attributes, spans_to_frames

FloatMatrix = npt.NDArray[np.float64]

EVALUATED_AMOUNTS: Final = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # standard deviations by which `vary` is evaluated
_GIVEN_CHANGES: Final = tuple(np.linspace(AMOUNTS[0], AMOUNTS[-1], 21).tolist())


def attribute_statistics(spans: SpanSet) -> tuple[FloatMatrix, FloatMatrix]:
    """Return mean and standard deviation of each attribute, (A,) each."""
    measured = measure_attributes(spans_to_frames(spans.voices))
    return measured.mean(0), np.maximum(measured.std(0), 1e-9)


def measured_changes(
    network: MusicVae,
    means: npt.NDArray[Any],
    deviation: npt.NDArray[Any],
    noise: npt.NDArray[Any],
    amounts: tuple[float, ...],
) -> list[FloatMatrix]:
    """Return the attributes of spans that were decoded with changes of one attribute, (S, amounts) for each attribute.

    The most likely values are chosen, as by `MusicClient.vary` at default settings.

    Args:
        means: (S, Z) of spans.
        deviation: (A,) of the attributes over the training set, the unit of the results.
        noise: (S, N, V) the same for every amount, so that only the amount differs.
        amounts: requested changes in standard deviations.
    """
    latent = torch.from_numpy(np.asarray(means, np.float32))
    result = []
    for index in range(len(ATTRIBUTES)):
        values = []
        for amount in amounts:
            attributes = torch.zeros(len(latent), len(ATTRIBUTES))
            attributes[:, index] = amount
            voices = decode(network, latent, noise, top_k=1, attributes=attributes)
            values.append(measure_attributes(spans_to_frames(voices))[:, index] / deviation[index])
        result.append(np.stack(values, axis=1))
    return result


def fit_attribute_curves(
    network: MusicVae, means: npt.NDArray[Any], deviation: npt.NDArray[Any], noise: npt.NDArray[Any]
) -> FloatMatrix:
    """Measure which change the decoder has to be given for each of `AMOUNTS`, store it in the network and return it.

    Amounts that no given change reaches get the smallest one with the largest effect.

    Args:
        network: in eval mode, with `attribute_curves`.
        means: (S, Z) of spans of the training set.
        deviation: (A,) of the attributes over the training set.
        noise: (S, N, V).

    Returns:
        (A, amounts)
    """
    given = np.array(_GIVEN_CHANGES)
    middle = len(given) // 2
    network.attribute_curves.copy_(torch.tensor([AMOUNTS] * len(ATTRIBUTES)))  # what is requested is given
    curves = []
    for measured in measured_changes(network, means, deviation, noise, _GIVEN_CHANGES):
        effect = measured.mean(0) - measured.mean(0)[middle]
        rising = np.concatenate(
            [np.minimum.accumulate(effect[middle::-1])[::-1], np.maximum.accumulate(effect[middle:])[1:]]
        )
        curves.append([_inverse(given, rising, amount) for amount in AMOUNTS])
    result = np.array(curves)
    network.attribute_curves.copy_(torch.from_numpy(result))
    return result


def _inverse(given: FloatMatrix, effect: FloatMatrix, amount: float) -> float:
    """Return the change nearest to 0 whose effect, rising and 0 at 0, is the amount, or as near to it as any."""
    if amount == 0:
        return 0.0
    sign = np.sign(amount)
    own = sign * given >= 0
    order = np.argsort(np.abs(given[own]))
    x, y = (np.abs(each[own][order]) for each in (given, effect))
    first = int(np.argmax(y >= min(abs(amount), y[-1])))
    if first == 0:
        return 0.0
    rise = y[first] - y[first - 1]
    share = (min(abs(amount), y[first]) - y[first - 1]) / rise
    return float(sign * (x[first - 1] + share * (x[first] - x[first - 1])))


@torch.inference_mode()
def attribute_control(
    network: MusicVae, means: npt.NDArray[Any], deviation: npt.NDArray[Any], noise: npt.NDArray[Any]
) -> dict[str, Any]:
    """Change each attribute of spans and measure what comes out.

    All values are means over the spans. A single span may change less than requested: its range cannot be below 0.

    Args:
        means: (S, Z) of held-out spans.
        deviation: (A,) of the attributes over the training set.
        noise: (S, N, V) the same for every amount, so that only the amount differs.

    Returns:
        By attribute: `measured`, its mean at each of `amounts`; `shift`, the mean change against amount 0 in standard
        deviations; `shift_per_unit`, that divided by the amount, for all amounts except 0; `least_shift_per_unit`, the
        smallest of them; `is_monotone`, whether the mean rises from each amount to the next; `n_rising`, at how many;
        `gain`, the slope of the mean change; `correlation` between amount and change over all spans.
    """
    report: dict[str, Any] = {}
    amounts = np.array(EVALUATED_AMOUNTS)
    middle = EVALUATED_AMOUNTS.index(0.0)
    for index, scaled in enumerate(measured_changes(network, means, deviation, noise, EVALUATED_AMOUNTS)):
        change = scaled - scaled[:, [middle]]
        shift = change.mean(0)
        per_unit = np.delete(shift, middle) / np.delete(amounts, middle)
        n_rising = int((np.diff(shift) > 0).sum())
        report[ATTRIBUTES[index]] = {
            "amounts": list(EVALUATED_AMOUNTS),
            "measured": (scaled.mean(0) * deviation[index]).tolist(),
            "shift": shift.tolist(),
            "shift_per_unit": per_unit.tolist(),
            "least_shift_per_unit": float(per_unit.min()),
            "is_monotone": n_rising == len(amounts) - 1,
            "n_rising": n_rising,
            "gain": float(np.polyfit(amounts, shift, 1)[0]),
            "correlation": _correlation(np.broadcast_to(amounts, change.shape).ravel(), change.ravel()),
        }
    return report


def _correlation(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    if min(first.std(), second.std()) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
