"""Training data of `music_gan`: real spans, drawn by style and encoded as latents.

Shapes: S spans, N = 32 time steps, V = 4 voices, Z latent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from tritone_training.bars.autoencoder import MusicVae, encode
from tritone_training.bars.spans import SpanSet
from tritone_training.kinds.music_gan.conditions import ConditionEncoder, measure_conditions

Voices = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


def style_shares(spans: SpanSet, balance: float) -> Shares:
    """Return the share of each style among drawn spans: (styles,), sum 1.

    Args:
        spans: of the training set.
        balance: 0 as in the spans, 1 the same for all.
    """
    counts = np.bincount(spans.styles, minlength=len(spans.style_names)).astype(np.float64)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** (1 - balance), 0)
    shares: Shares = weights / weights.sum()
    return shares


def draw_spans(spans: SpanSet, shares: Sequence[float] | Shares, n_wanted: int, *, seed: int) -> SpanSet:
    """Draw spans without replacement, with the share of each style.

    A style with too few spans contributes fewer; styles without spans are left out.
    """
    random = np.random.default_rng(seed)
    present = np.bincount(spans.styles, minlength=len(spans.style_names)) > 0
    parts = np.where(present, np.asarray(shares, np.float64), 0)
    parts = parts / parts.sum()
    used = [style for style in range(len(parts)) if parts[style] > 0]
    own = {style: random.permutation(np.flatnonzero(spans.styles == style)) for style in used}
    n_drawn = min([n_wanted, *(len(own[style]) / parts[style] for style in used)])
    ends = np.round(np.cumsum(parts[used]) * int(n_drawn)).astype(np.int64)
    counts = np.diff(ends, prepend=0)
    chosen = [own[style][:count] for style, count in zip(used, counts, strict=True)]
    return spans.take(random.permutation(np.concatenate(chosen)))


def draw_pool(spans: SpanSet, shares: Shares, n_wanted: int, *, seed: int) -> SpanSet:
    """Draw spans with replacement, with the share of each style."""
    random = np.random.default_rng(seed)
    counts = np.bincount(spans.styles, minlength=len(spans.style_names))
    weights = shares[spans.styles] / np.maximum(counts[spans.styles], 1)
    return spans.take(random.choice(len(spans), n_wanted, p=weights / weights.sum()))


def as_tensors(vae: MusicVae, conditions: ConditionEncoder, spans: SpanSet) -> tuple[torch.Tensor, ...]:
    """Return the training tensors: mode (S,), latent (S, Z), features (S, C)."""
    measured = measure_conditions(spans)
    mode, density, style = (
        torch.from_numpy(each) for each in (measured.mode, measured.density, np.asarray(measured.style, np.int64))
    )
    with torch.no_grad():
        return mode, torch.from_numpy(encode(vae, spans.voices)), conditions(mode, density, style)
