"""The generator, the critic and the listener of `music_gan`, and the graph that is exported.

A GAN in the latent space of a trained `music_vae`, whose frozen decoder turns points into music (latent constraints:
Engel et al. 2018, arXiv:1711.05772). The generator begins as the normal distribution that fits the latents best, and
learns what is not normal about them.

Letters: B batch, N = 32 time steps, V = 4 lanes, Z latent, C width of the conditions' features.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn

from tritone_training.kinds.music_gan.conditions import N_FEATURES, N_KEYS, N_MODES, Conditions
from tritone_training.kinds.music_gan.declaration import N_CHOICES
from tritone_training.kinds.music_vae.network import MusicVae

_LEAST_TRUNCATION: Final = 1e-3
_LEAST_UNIFORM: Final = 1e-7  # whose logarithm is a number


def layers(n_in: int, n_out: int, *, width: int, n_layers: int) -> nn.Sequential:
    """A plain perceptron with `n_layers` hidden layers."""
    sizes = [n_in] + [width] * n_layers
    hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], n_out))


class Generator(nn.Module):
    """Normal noise and conditions to a latent vector: a linear map that is fitted, and a correction that is learnt."""

    def __init__(self, *, n_latent: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.register_buffer("from_noise", torch.eye(n_latent))
        self.register_buffer("from_conditions", torch.zeros(N_FEATURES, n_latent))
        self.register_buffer("mean", torch.zeros(n_latent))
        self.register_buffer("deviation", torch.ones(n_latent))
        self.from_noise: Tensor
        self.from_conditions: Tensor
        self.mean: Tensor
        self.deviation: Tensor
        self.correction = layers(n_latent + N_FEATURES, n_latent, width=width, n_layers=n_layers)
        for parameter in self.correction[-1].parameters():
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def fit_linear(self, latents: Tensor, features: Tensor) -> None:
        """Least squares: the latents' mean under each condition and the covariance around it.

        Args:
            latents: (S, Z).
            features: (S, C).
        """
        self.mean.copy_(latents.mean(0))
        self.deviation.copy_(latents.std(0).clamp_min(1e-3))
        scaled = ((latents - self.mean) / self.deviation).double()
        inputs = features.double()
        ridge = torch.eye(N_FEATURES, dtype=torch.float64)
        weights = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ scaled)
        rest = scaled - inputs @ weights
        values, vectors = torch.linalg.eigh(rest.T @ rest / len(rest))
        self.from_noise.copy_((values.clamp_min(0).sqrt() * vectors).T)
        self.from_conditions.copy_(weights)

    def forward(self, noise: Tensor, features: Tensor) -> Tensor:
        """Normal noise (B, Z) and features (B, C) -> latent (B, Z)."""
        scaled: Tensor = noise @ self.from_noise + features @ self.from_conditions
        scaled = scaled + self.correction(torch.cat([noise, features], dim=1))
        return self.mean + self.deviation * scaled


class Critic(nn.Module):
    """How real a latent is under its conditions: a Wasserstein critic (Arjovsky et al. 2017, arXiv:1701.07875)."""

    def __init__(self, *, n_latent: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.score = layers(n_latent + N_FEATURES, 1, width=width, n_layers=n_layers)

    def forward(self, scaled: Tensor, features: Tensor) -> Tensor:
        """Standardised latents (B, Z), features (B, C) -> (B,)."""
        scores: Tensor = self.score(torch.cat([scaled, features], dim=1))[:, 0]
        return scores


class Listener(nn.Module):
    """Tells key, mode and density from a latent: learns from real ones, teaches the generator."""

    def __init__(self, *, n_latent: int, width: int) -> None:
        super().__init__()
        self.layers = layers(n_latent, N_KEYS * N_MODES + 1, width=width, n_layers=1)

    def forward(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised latents (B, Z) -> logits of the 24 keys (B, 24), scaled density (B,)."""
        answer = self.layers(scaled)
        return answer[:, :-1], answer[:, -1]


class MusicGan(nn.Module):
    """Noise and wishes in, lanes out: what is exported.

    Args:
        vae: frozen here.
        width, n_layers: of the generator.
    """

    def __init__(self, vae: MusicVae, *, width: int, n_layers: int) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False)
        self.conditions = Conditions()
        self.generator = Generator(n_latent=vae.n_latent, width=width, n_layers=n_layers)

    def latent(self, latent_noise: Tensor, *, truncation: Tensor, key: Tensor, mode: Tensor, density: Tensor) -> Tensor:
        """Points of the latent space: uniform noise (B, 3 + Z), wishes (B,) each -> (B, Z)."""
        key, mode, density = self.conditions.resolve(latent_noise[:, :N_CHOICES], key, mode, density)
        normal = box_muller(latent_noise[:, N_CHOICES:]) * truncation.clamp(_LEAST_TRUNCATION, 1.0)[:, None]
        latent: Tensor = self.generator(normal, self.conditions(key, mode, density))
        return latent

    def forward(  # noqa: PLR0917 - the order of the graph's inputs
        self,
        latent_noise: Tensor,
        truncation: Tensor,
        key: Tensor,
        mode: Tensor,
        density: Tensor,
        noise: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
    ) -> tuple[Tensor, ...]:
        """(B, 3 + Z), (B,) x 4, (B, N, V), (B,) x 3 -> lanes (B, N, V)."""
        latent = self.latent(latent_noise, truncation=truncation, key=key, mode=mode, density=density)
        return (self.vae.decoder.write(latent, noise, temperature=temperature, top_k=top_k, top_p=top_p),)


def box_muller(uniform: Tensor) -> Tensor:
    """Pairs of uniform numbers to pairs of independent normal ones (Box & Muller 1958): (B, Z) -> (B, Z), Z even."""
    first, second = uniform.chunk(2, dim=1)
    radius = torch.sqrt(-2 * torch.log((1 - first).clamp_min(_LEAST_UNIFORM)))
    angle = 2 * math.pi * second
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
