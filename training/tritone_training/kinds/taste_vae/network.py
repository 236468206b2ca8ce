"""The network of `taste_vae`: a multinomial variational autoencoder on a sphere.

As in Liang et al. 2018 (arXiv:1802.05814) a history becomes a code and the code a multinomial over all items. Here
encoder and decoder share the items' vectors, and the decoder compares directions: the logit of an item is the cosine
between its vector and the code, divided by a temperature. On sparse logs that generalises much better than layers of
free weights. A history's code is a weighted sum of its items' vectors, so a request costs what its history is long.
Shapes: B listeners, L items of the longest history, T items, D size of the code, W words (tags) of items.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

_FIRST_SPREAD = 0.1


class TasteNetwork(nn.Module):
    """From a history to a score for every item: what is saved and served."""

    def __init__(self, *, n_items: int, latent: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_items, latent)
        self.directions = nn.Parameter(torch.zeros(n_items, latent))

    def forward(self, items: Tensor, weights: Tensor) -> tuple[Tensor]:
        """Log-probabilities but for a constant, (B, T), by the mean code: items (B, L) int64, weights (B, L)."""
        consumed = torch.bmm(weights.unsqueeze(1), self.embedding(items)).squeeze(1)  # (B, D)
        return (functional.normalize(consumed, dim=1) @ self.directions.T,)


class TasteLearner(nn.Module):
    """The same while it learns: an item's vector is its own and the sum of its words'.

    Args:
        listeners: (T,) how many listen to each item; what everybody listens to says less about taste.
        words: (T, W) how much each word says of each item.
        rarity: listeners to this power divide an item's say.
        temperature: of the decoder.
    """

    def __init__(
        self, listeners: Tensor, words: sparse.csr_matrix, *, latent: int, rarity: float, temperature: float
    ) -> None:
        super().__init__()
        n_items, n_words = words.shape
        self.temperature = temperature
        self.items = nn.Parameter(torch.randn(n_items, latent) * _FIRST_SPREAD)
        self.words = nn.Parameter(torch.randn(max(n_words, 1), latent) * _FIRST_SPREAD)
        self.offsets = nn.Parameter(torch.zeros(n_items, latent))  # as found, beside as heard
        self.log_variance = nn.Linear(latent, latent)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, -2)
        self.register_buffer("say", listeners.clamp_min(1).float() ** -rarity, persistent=False)
        for name, array in (("word", words.indices), ("starts", words.indptr)):
            self.register_buffer(name, torch.from_numpy(array.astype(np.int64)), persistent=False)
        self.register_buffer("amounts", torch.from_numpy(words.data.astype(np.float32)), persistent=False)

    def vectors(self) -> Tensor:
        """(T, D)."""
        if not len(self.get_buffer("word")):
            return self.items
        side_info = functional.embedding_bag(
            self.get_buffer("word"),
            self.words,
            self.get_buffer("starts"),
            mode="sum",
            per_sample_weights=self.get_buffer("amounts"),
            include_last_offset=True,
        )
        return self.items + side_info

    def code(self, vectors: Tensor, items: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, D) of a history's code; the mean's length is the root of D."""
        say = weights * self.get_buffer("say")[items]
        consumed = torch.bmm(say.unsqueeze(1), functional.embedding(items, vectors)).squeeze(1)
        direction = functional.normalize(consumed, dim=1)
        return direction * direction.shape[1] ** 0.5, self.log_variance(direction).clamp(-10, 3)

    def logits(self, vectors: Tensor, code: Tensor) -> Tensor:
        """(B, T)."""
        found = functional.normalize(vectors + self.offsets, dim=1)
        return functional.normalize(code, dim=1) @ found.T / self.temperature

    @torch.no_grad()
    def network(self) -> TasteNetwork:
        """What it has learned, with everything that no longer changes worked out."""
        vectors = self.vectors()
        network = TasteNetwork(n_items=len(vectors), latent=vectors.shape[1])
        network.embedding.weight.copy_(vectors * self.get_buffer("say").unsqueeze(1))
        network.directions.copy_(functional.normalize(vectors + self.offsets, dim=1) / self.temperature)
        return network


def elbo_loss(logits: Tensor, targets: Tensor, mean: Tensor, log_variance: Tensor, beta: float) -> Tensor:
    """Mean over listeners of -log p(targets | code) + beta x divergence from the prior; targets (B, T)."""
    # Items that are not asked for have logits of -inf; their targets are 0.
    log_probabilities = functional.log_softmax(logits, dim=1).masked_fill(targets == 0, 0)
    reconstruction = -(log_probabilities * targets).sum(1)
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
    return (reconstruction + beta * divergence).mean()
