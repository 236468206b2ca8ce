"""A normalizing flow between the latent vectors of music and a standard normal distribution.

The latent vectors of an autoencoder that reconstructs well lie far from the normal prior of its bound: a sample of the
prior is noise to its decoder. An invertible network that is fitted to the latent vectors of the training set after
training (as the priors of Chen et al. 2017, arXiv:1611.02731; affine couplings: Dinh et al. 2017, arXiv:1605.08803)
closes the gap without a change to reconstruction: points of the normal distribution are samples of music, and the path
between two pieces leads through music.

Shapes: B batch, Z latent, C = Z // 2.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

_LARGEST_LOG_SCALE: Final = 1.0  # of one coupling
_LEAST_DEVIATION: Final = 1e-2  # of a principal component


class Coupling(nn.Module):
    """Scale and shift one half of the coordinates by functions of the other half."""

    def __init__(self, n_latent: int, *, width: int, seed: int) -> None:
        super().__init__()
        order = torch.from_numpy(np.random.default_rng(seed).permutation(n_latent))
        self.n_given = n_latent // 2
        self.register_buffer("order", order)
        self.register_buffer("inverse_order", order.argsort(), persistent=False)
        self.order: Tensor
        self.inverse_order: Tensor
        out = nn.Linear(width, 2 * (n_latent - self.n_given))
        nn.init.zeros_(out.weight)
        nn.init.zeros_(out.bias)
        self.layers = nn.Sequential(nn.Linear(self.n_given, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), out)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        given, changed = x[:, self.order].tensor_split((self.n_given,), dim=1)
        return given, changed

    def _affine(self, given: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.layers(given).chunk(2, dim=1)
        return _LARGEST_LOG_SCALE * torch.tanh(log_scale / _LARGEST_LOG_SCALE), shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coordinates (B, Z) and the logarithms of the factors of each coordinate (B, Z)."""
        given, changed = self._split(x)
        log_scale, shift = self._affine(given)
        moved = torch.cat([given, changed * torch.exp(log_scale) + shift], dim=1)
        factors = torch.cat([torch.zeros_like(given), log_scale], dim=1)
        return moved[:, self.inverse_order], factors[:, self.inverse_order]

    def inverse(self, x: Tensor) -> Tensor:
        """Invert `forward`: (B, Z) -> (B, Z)."""
        given, changed = self._split(x)
        log_scale, shift = self._affine(given)
        return torch.cat([given, (changed - shift) * torch.exp(-log_scale)], dim=1)[:, self.inverse_order]


class LatentFlow(nn.Module):
    """Principal components, scaled to deviation 1, and affine couplings.

    Args:
        n_latent: Z.
        width: units of each coupling's layers.
        n_couplings: 0 leaves the principal components only.

    Attributes:
        temperature: deviation of the samples that the normal distribution stands for; below 1 they are nearer to
            typical music (Kingma & Dhariwal 2018, arXiv:1807.03039).
    """

    def __init__(self, n_latent: int, *, width: int, n_couplings: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_latent))
        self.register_buffer("components", torch.eye(n_latent))
        self.register_buffer("deviation", torch.ones(n_latent))
        self.register_buffer("temperature", torch.ones(()))
        self.mean: Tensor
        self.components: Tensor
        self.deviation: Tensor
        self.temperature: Tensor
        self.couplings = nn.ModuleList(Coupling(n_latent, width=width, seed=seed) for seed in range(n_couplings))

    def _couplings(self) -> list[Coupling]:
        return [each for each in self.couplings if isinstance(each, Coupling)]

    @torch.no_grad()
    def fit_components(self, latent: Tensor) -> None:
        """Set the principal components to those of latent vectors (B, Z)."""
        centred = (latent - latent.mean(0)).double()
        variance, components = torch.linalg.eigh(centred.T @ centred / len(latent))
        self.mean.copy_(latent.mean(0))
        self.components.copy_(components)
        self.deviation.copy_(variance.clamp_min(_LEAST_DEVIATION**2).sqrt())

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return normal vectors (B, Z) and the logarithm of the absolute determinant (B,)."""
        x = ((latent - self.mean) @ self.components) / self.deviation
        log_determinant = -self.deviation.log().sum() - latent.shape[1] * self.temperature.log()
        log_determinant = log_determinant.expand(len(latent))
        for coupling in self.couplings:
            x, factors = coupling(x)
            log_determinant = log_determinant + factors.sum(1)
        return x / self.temperature, log_determinant

    def normalised(self, mean: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of posteriors in the normal space, (B, Z) each.

        The variance is propagated through the diagonal of each layer's Jacobian.
        """
        x = ((mean - self.mean) @ self.components) / self.deviation
        variance = (torch.exp(log_variance) @ self.components**2) / self.deviation**2
        for coupling in self.couplings:
            x, factors = coupling(x)
            variance = variance * torch.exp(2 * factors)
        return x / self.temperature, torch.log(variance.clamp_min(torch.finfo(variance.dtype).tiny)) - 2 * torch.log(
            self.temperature
        )

    def inverse(self, normal: Tensor) -> Tensor:
        """Return the latent vectors of normal ones: (B, Z) -> (B, Z)."""
        x = normal * self.temperature
        for coupling in reversed(self._couplings()):
            x = coupling.inverse(x)
        return (x * self.deviation) @ self.components.T + self.mean


def negative_log_likelihood(flow: LatentFlow, latent: Tensor) -> Tensor:
    """Return nats of latent vectors under the flow: (B, Z) -> (B,)."""
    normal, log_determinant = flow(latent)
    constant = 0.5 * normal.shape[1] * float(np.log(2 * np.pi))
    nats: Tensor = 0.5 * (normal**2).sum(1) + constant - log_determinant
    return nats
