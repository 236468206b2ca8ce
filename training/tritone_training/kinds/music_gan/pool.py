"""Real spans as a GAN sees them: drawn by style, in random keys, as points of the latent space.

Letters: S spans, N = 32 time steps, V = 4 lanes, Z latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tritone_training.kinds.music_gan.conditions import Conditions, SpanConditions, measure_conditions
from tritone_training.kinds.music_vae.judge import encode
from tritone_training.kinds.music_vae.lanes import transposed
from tritone_training.kinds.music_vae.module import TRANSPOSITIONS
from tritone_training.kinds.music_vae.network import MusicVae
from tritone_training.kinds.music_vae.spans import SpanSet

Lanes = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


def style_shares(spans: SpanSet, balance: float) -> Shares:
    """How large a part each style has in what is drawn: (styles,), sum 1.

    Args:
        spans: of the training set.
        balance: 0 as in the spans, 1 the same for all.
    """
    counts = np.bincount(spans.styles, minlength=len(spans.style_names)).astype(np.float64)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** (1 - balance), 0)
    shares: Shares = weights / weights.sum()
    return shares


def draw_spans(spans: SpanSet, shares: Sequence[float] | Shares, n_wanted: int, *, seed: int) -> SpanSet:
    """Draw spans without repeats, every style in its share, each moved to a random key.

    Fewer come where a style has too few; styles without any spans are left out.
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
    drawn = spans.take(random.permutation(np.concatenate(chosen)))
    return moved(drawn, random)


def draw_pool(spans: SpanSet, shares: Shares, n_wanted: int, *, seed: int) -> SpanSet:
    """Draw spans with repeats, each time in another random key."""
    random = np.random.default_rng(seed)
    counts = np.bincount(spans.styles, minlength=len(spans.style_names))
    weights = shares[spans.styles] / np.maximum(counts[spans.styles], 1)
    chosen = random.choice(len(spans), n_wanted, p=weights / weights.sum())
    return moved(spans.take(chosen), random)


def moved(spans: SpanSet, random: np.random.Generator) -> SpanSet:
    """Every span in a random key."""
    semitones = torch.from_numpy(random.integers(*TRANSPOSITIONS, len(spans)))
    lanes = transposed(torch.from_numpy(spans.lanes), semitones).numpy()
    return SpanSet(lanes, spans.pieces, spans.styles, spans.ends, spans.style_names, spans.report)


def as_tensors(vae: MusicVae, conditions: Conditions, lanes: Lanes) -> tuple[torch.Tensor, ...]:
    """What the GAN learns from: key (S,), mode (S,), latent (S, Z), features (S, C)."""
    return to_tensors(conditions, encode(vae, lanes), measure_conditions(lanes))


def to_tensors(conditions: Conditions, latents: npt.NDArray[Any], measured: SpanConditions) -> tuple[torch.Tensor, ...]:
    """As `as_tensors`, where latents and conditions are known already."""
    key, mode, density = (torch.from_numpy(each) for each in (measured.key, measured.mode, measured.density))
    with torch.no_grad():
        return key, mode, torch.from_numpy(latents), conditions(key, mode, density)
