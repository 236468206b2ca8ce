"""The network of `taste_vae`: a multinomial variational autoencoder (Liang et al. 2018, arXiv:1802.05814).

Its encoder adds up embeddings of the items that were heard instead of multiplying a row of all items, so that a
request costs what its history is long.
Letters: B listeners, L items of the longest history, T items, H hidden, D size of the code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class TasteNetwork(nn.Module):
    """From a history to a score for every item."""

    def __init__(self, *, n_items: int, hidden: int = 256, latent: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_items, hidden)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.mean = nn.Linear(hidden, latent)
        self.log_variance = nn.Linear(hidden, latent)
        self.decoder = nn.Linear(latent, n_items)
        nn.init.normal_(self.embedding.weight, std=hidden**-0.5)
        for layer in (self.mean, self.decoder):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.mean, self.log_variance, self.decoder):
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.log_variance.weight, std=1e-3)

    def encode(self, items: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, D) of the code; weights (B, L) count relative to one another."""
        length = weights.square().sum(1, keepdim=True).sqrt().clamp_min(1e-6)
        heard = self.embedding(items) * (weights / length).unsqueeze(2)  # (B, L, H)
        hidden = torch.tanh(heard.sum(1) + self.bias)
        return self.mean(hidden), self.log_variance(hidden).clamp(-10, 10)

    def forward(self, items: Tensor, weights: Tensor) -> tuple[Tensor]:
        """Scores (B, T) by the mean code: items (B, L) int64, weights (B, L)."""
        mean, _ = self.encode(items, weights)
        return (self.decoder(mean),)


def elbo_loss(scores: Tensor, targets: Tensor, mean: Tensor, log_variance: Tensor, beta: float) -> Tensor:
    """Mean over listeners of -log p(history | code) + beta x divergence from the prior; targets (B, T)."""
    log_probabilities = functional.log_softmax(scores, dim=1)
    reconstruction = -(log_probabilities * targets).sum(1)
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
    return (reconstruction + beta * divergence).mean()
