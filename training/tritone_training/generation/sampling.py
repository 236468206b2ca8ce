"""Choosing notes by inverse transform sampling: all randomness is an input, so equal noise gives equal notes.

Letters: B batch, V choices.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

LEAST_TEMPERATURE: Final = 1e-3  # below, logits overflow; choosing the likeliest is what `top_k = 1` is for
_NEVER: Final = -1e9  # a logit that is never chosen; finite, because 0 x inf is not a number


def choose(
    logits: Tensor, noise: Tensor, *, temperature: Tensor, top_k: Tensor, top_p: Tensor, allowed: Tensor
) -> Tensor:
    """Choose one of V for each row, as a grammar allows.

    The running sum goes in the order of the vocabulary, not of the probabilities: two choices that are almost
    equally likely would change places from host to host, and with them the answer.

    Args:
        logits: (B, V).
        noise: (B,) uniform in 0 <= u < 1.
        temperature: (B,) above 0; below 1 the likely gets likelier.
        top_k: (B,) int64, only so many of the likeliest stay (all from V on); at least 1.
        top_p: (B,) only the likeliest that together reach this probability stay (Holtzman et al. 2020,
            arXiv:1904.09751); 0 < p <= 1.
        allowed: (B, V) bool, at least one true in each row.

    Returns:
        (B,) int64.
    """
    n_choices = logits.shape[1]
    scaled = logits / temperature.clamp_min(LEAST_TEMPERATURE)[:, None]
    scaled = torch.where(allowed, scaled, torch.full_like(scaled, _NEVER))
    ranked = torch.topk(scaled, n_choices, dim=1).values  # (B, V), falling
    ranked_shares = torch.softmax(ranked, dim=1)
    before = torch.cumsum(ranked_shares, dim=1) - ranked_shares
    n_nucleus = (before < top_p[:, None]).sum(1)
    n_kept = torch.minimum(top_k.clamp_min(1), n_nucleus.clamp_min(1))
    least = torch.gather(ranked, 1, (n_kept - 1)[:, None])
    kept = (scaled >= least) & allowed
    weights = torch.where(kept, torch.exp(scaled - ranked[:, :1]), torch.zeros_like(scaled))
    reached = torch.cumsum(weights, dim=1)  # (B, V)
    wanted = noise[:, None] * reached[:, -1:]
    # The first choice whose running sum passes the noise; rounding may carry the noise up to the whole sum.
    passed = ((reached > wanted) & kept).to(torch.int64)
    first = torch.argmax(passed, dim=1)
    likeliest = torch.argmax(scaled, dim=1)
    return torch.where(passed.sum(1) > 0, first, likeliest)


def choose_each(logits: Tensor, noise: Tensor, *, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Switch each of V notes on or off, independently of the others.

    Args:
        logits: (B, V) of being on.
        noise: (B, V) uniform in 0 <= u < 1.
        temperature: (B,) above 0.
        top_k: (B,) int64, at most so many of the likeliest may be on.
        top_p: (B,) a note less likely than 1 - p is never on.

    Returns:
        (B, V) bool.
    """
    likely = torch.sigmoid(logits / temperature.clamp_min(LEAST_TEMPERATURE)[:, None])
    n_kept = top_k.clamp(1, logits.shape[1])
    ranked = torch.topk(logits, logits.shape[1], dim=1).values
    least = torch.gather(ranked, 1, (n_kept - 1)[:, None])
    kept = (logits >= least) & (likely >= 1 - top_p[:, None])
    return (noise < likely) & kept
