"""The network of `taste_vae`: a multinomial variational autoencoder on a sphere.

As in Liang et al. 2018 (arXiv:1802.05814), a history is encoded to a latent code, which is decoded to a multinomial
distribution over all items. Encoder and decoder share the item vectors, and the logit of an item is the cosine
similarity of its vector to the code, divided by a temperature. On sparse logs this generalises much better than dense
layers. The code is the normalised weighted sum of the history's item vectors, so the cost of a request is linear in the
length of the history.
Shapes: B listeners, L items of the longest history, T items, D size of the code, W words (tags) of items.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

_INITIAL_STD = 0.1


class TasteNetwork(nn.Module):
    """Maps a history to scores of all items; this is the network that is saved and served."""

    def __init__(self, *, n_items: int, latent: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_items, latent)
        self.directions = nn.Parameter(torch.zeros(n_items, latent))

    def forward(self, items: Tensor, weights: Tensor) -> tuple[Tensor]:
        """Return log-probabilities (B, T), up to a constant per row, for items (B, L) int64 and weights (B, L)."""
        code = torch.bmm(weights.unsqueeze(1), self.embedding(items)).squeeze(1)  # (B, D)
        return (functional.normalize(code, dim=1) @ self.directions.T,)


class TasteLearner(nn.Module):
    """The trainable model; the vector of an item is its own embedding plus those of its words.

    Args:
        listeners: (T,) number of listeners of each item.
        words: (T, W) weight of each word of each item, see `words_matrix`.
        latent: D.
        rarity: an item's weight in a history is divided by listeners ** rarity.
        temperature: divisor of the cosine similarities.
    """

    def __init__(
        self, listeners: Tensor, words: sparse.csr_matrix, *, latent: int, rarity: float, temperature: float
    ) -> None:
        super().__init__()
        n_items, n_words = words.shape
        self.temperature = temperature
        self.items = nn.Parameter(torch.randn(n_items, latent) * _INITIAL_STD)
        self.words = nn.Parameter(torch.randn(max(n_words, 1), latent) * _INITIAL_STD)
        self.offsets = nn.Parameter(torch.zeros(n_items, latent))  # difference between decoder and encoder vectors
        self.log_variance = nn.Linear(latent, latent)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, -2)
        self.register_buffer("item_weights", listeners.clamp_min(1).float() ** -rarity, persistent=False)
        for name, array in (("word", words.indices), ("starts", words.indptr)):
            self.register_buffer(name, torch.from_numpy(array.astype(np.int64)), persistent=False)
        self.register_buffer("amounts", torch.from_numpy(words.data.astype(np.float32)), persistent=False)

    def vectors(self) -> Tensor:
        """Return the vectors of all items (T, D)."""
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
        """Return mean and log-variance (B, D) of the codes of histories; the mean has a norm of sqrt(D)."""
        scaled = weights * self.get_buffer("item_weights")[items]
        total = torch.bmm(scaled.unsqueeze(1), functional.embedding(items, vectors)).squeeze(1)
        direction = functional.normalize(total, dim=1)
        return direction * direction.shape[1] ** 0.5, self.log_variance(direction).clamp(-10, 3)

    def logits(self, vectors: Tensor, code: Tensor) -> Tensor:
        """Return logits (B, T) for codes (B, D)."""
        directions = functional.normalize(vectors + self.offsets, dim=1)
        return functional.normalize(code, dim=1) @ directions.T / self.temperature

    @torch.no_grad()
    def network(self) -> TasteNetwork:
        """Return the network to serve, with the item vectors and weights folded into its parameters."""
        vectors = self.vectors()
        network = TasteNetwork(n_items=len(vectors), latent=vectors.shape[1])
        network.embedding.weight.copy_(vectors * self.get_buffer("item_weights").unsqueeze(1))
        network.directions.copy_(functional.normalize(vectors + self.offsets, dim=1) / self.temperature)
        return network


def elbo_loss(logits: Tensor, targets: Tensor, mean: Tensor, log_variance: Tensor, beta: float) -> Tensor:
    """Return the mean over users of -log p(targets | code) + beta x KL divergence from the prior; targets (B, T)."""
    # Items of the input have logits of -inf and targets of 0.
    log_probabilities = functional.log_softmax(logits, dim=1).masked_fill(targets == 0, 0)
    reconstruction = -(log_probabilities * targets).sum(1)
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
    return (reconstruction + beta * divergence).mean()
