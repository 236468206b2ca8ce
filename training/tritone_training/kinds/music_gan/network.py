"""The generator, the critic and the predictor of `music_gan`, and the graph that is exported.

A GAN in the latent space of a trained `music_vae`, whose frozen decoder turns points into music (latent constraints:
Engel et al. 2018, arXiv:1711.05772). The generator is initialised to the normal distribution that fits the latents of
each style best, and learns a correction. The key is not learned: the decoder runs twice. From the first result the
tonic that fits the requested mode is estimated; the second run decodes the same latent with a bias towards that key,
and its result is transposed to the requested key.

Shapes: B batch, N = 32 time steps, V = 4 voices, Z latent, T styles, C width of the conditions' features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from tritone.music.keys import N_KEYS, N_MODES
from tritone_training import checkpoint
from tritone_training.bars.autoencoder import MusicVae, autoencoder_from
from tritone_training.bars.spans import to_absolute
from tritone_training.exceptions import CheckpointError, TrainingError
from tritone_training.kinds.music_gan.conditions import (
    ConditionEncoder,
    KeyEstimate,
    KeyTilt,
    n_features,
    nearest_shift,
    style_of,
)
from tritone_training.kinds.music_gan.config import GanConfig
from tritone_training.kinds.music_gan.declaration import KIND_NAME, N_CHOICES
from tritone_training.musicality import ATTRIBUTES

_LEAST_TRUNCATION: Final = 1e-3
_BORROWED: Final = 0.25  # spans of the shared covariance for each dimension of the latent
_LEAST_UNIFORM: Final = 1e-7  # whose logarithm is a number


def layers(n_in: int, n_out: int, *, width: int, n_layers: int) -> nn.Sequential:
    """Return a perceptron with `n_layers` hidden layers."""
    sizes = [n_in] + [width] * n_layers
    hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], n_out))


class Generator(nn.Module):
    """Maps normal noise and conditions to a latent vector: a fitted linear map for each style, and a correction."""

    def __init__(self, *, n_latent: int, n_styles: int, width: int, n_layers: int) -> None:
        super().__init__()
        n_inputs = n_features(n_styles)
        self.register_buffer("from_noise", torch.eye(n_latent).repeat(n_styles, 1, 1))  # (T, Z, Z)
        self.register_buffer("from_conditions", torch.zeros(n_styles, n_inputs, n_latent))
        self.register_buffer("mean", torch.zeros(n_latent))
        self.register_buffer("deviation", torch.ones(n_latent))
        self.from_noise: Tensor
        self.from_conditions: Tensor
        self.mean: Tensor
        self.deviation: Tensor
        self.correction = layers(n_latent + n_inputs, n_latent, width=width, n_layers=n_layers)
        for parameter in self.correction[-1].parameters():
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def fit_linear(self, latents: Tensor, features: Tensor) -> None:
        """Fit mean and covariance of the latents under the conditions of each style by least squares.

        The covariance of a style with few spans is shrunk towards that of all.

        Args:
            latents: (S, Z).
            features: (S, C).
        """
        self.mean.copy_(latents.mean(0))
        self.deviation.copy_(latents.std(0).clamp_min(1e-3))
        scaled = ((latents - self.mean) / self.deviation).double()
        inputs, styles = features.double(), style_of(features)
        _, shared = _regress(inputs, scaled)
        n_borrowed = _BORROWED * latents.shape[1]
        for style in range(len(self.from_noise)):
            own = styles == style
            weights, covariance = _regress(inputs[own], scaled[own])
            n_own = int(own.sum())
            mixed = (n_own * covariance + n_borrowed * shared) / (n_own + n_borrowed)
            values, vectors = torch.linalg.eigh(mixed)
            self.from_noise[style] = (values.clamp_min(0).sqrt() * vectors).T
            self.from_conditions[style] = weights

    def forward(self, noise: Tensor, features: Tensor) -> Tensor:
        """Return latent vectors (B, Z) from normal noise (B, Z) and features (B, C)."""
        style = style_of(features)
        scaled: Tensor = (noise[:, None] @ self.from_noise[style] + features[:, None] @ self.from_conditions[style])[
            :, 0
        ]
        scaled = scaled + self.correction(torch.cat([noise, features], dim=1))
        return self.mean + self.deviation * scaled


def _regress(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a ridge regression of (S, Z) on (S, C); return weights (C, Z) and the covariance of the residuals (Z, Z)."""
    ridge = torch.eye(inputs.shape[1], dtype=inputs.dtype)
    weights = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ outputs)
    rest = outputs - inputs @ weights
    return weights, rest.T @ rest / max(len(rest), 1)


class Critic(nn.Module):
    """Scores latents under their conditions: a Wasserstein critic (Arjovsky et al. 2017, arXiv:1701.07875)."""

    def __init__(self, *, n_latent: int, n_styles: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.score = layers(n_latent + n_features(n_styles), 1, width=width, n_layers=n_layers)

    def forward(self, scaled: Tensor, features: Tensor) -> Tensor:
        """Return a score (B,) of standardised latents (B, Z) with features (B, C)."""
        scores: Tensor = self.score(torch.cat([scaled, features], dim=1))[:, 0]
        return scores


class ConditionPredictor(nn.Module):
    """Predicts mode and density from a latent; trained on real latents, used in the loss of the generator."""

    def __init__(self, *, n_latent: int, width: int) -> None:
        super().__init__()
        self.layers = layers(n_latent, N_MODES + 1, width=width, n_layers=2)

    def forward(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of the modes (B, 2) and scaled density (B,) of standardised latents (B, Z)."""
        answer = self.layers(scaled)
        return answer[:, :-1], answer[:, -1]


class MusicGan(nn.Module):
    """The exported graph: noise and conditions in, voices out.

    Args:
        vae: frozen here.
        n_styles: T.
        width, n_layers: of the generator.
    """

    def __init__(self, vae: MusicVae, *, n_styles: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False)
        self.conditions = ConditionEncoder(n_styles)
        self.generator = Generator(n_latent=vae.n_latent, n_styles=n_styles, width=width, n_layers=n_layers)
        self.estimate_key = KeyEstimate()
        self.key_tilt = KeyTilt()

    def latent(self, latent_noise: Tensor, *, truncation: Tensor, mode: Tensor, density: Tensor) -> Tensor:
        """Return latent vectors (B, Z) from uniform noise (B, 3 + Z), truncation and conditions (B,) each."""
        mode, density, style = self.conditions.resolve(latent_noise[:, :N_CHOICES], mode, density)
        normal = box_muller(latent_noise[:, N_CHOICES:])[:, : self.vae.n_latent]
        normal = normal * truncation.clamp(_LEAST_TRUNCATION, 1.0)[:, None]
        latent: Tensor = self.generator(normal, self.conditions(mode, density, style))
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
        """Return voices (B, N, V) from the inputs of the declaration, in its order."""
        decoder = self.vae.decoder
        normal = self.latent(latent_noise, truncation=truncation, mode=mode, density=density)
        latent, _ = self.vae.decoder_inputs(normal, torch.zeros_like(normal[:, : len(ATTRIBUTES)]))
        mode, _, _ = self.conditions.resolve(latent_noise[:, :N_CHOICES], mode, density)
        sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        sketch = decoder.write_relative(latent, noise, **sampling)
        level = decoder.level(latent)
        tonic = self.estimate_key(to_absolute(sketch, level), mode)
        relative = decoder.write_relative(latent, noise, **sampling, tilt=self.key_tilt(tonic, mode, level))
        return (to_absolute(relative, level + nearest_shift(tonic, key.clamp_max(N_KEYS - 1))),)


def box_muller(uniform: Tensor) -> Tensor:
    """Transform uniform numbers to independent normal ones (Box & Muller 1958): (B, Z) -> (B, Z), Z even."""
    first, second = uniform.chunk(2, dim=1)
    radius = torch.sqrt(-2 * torch.log((1 - first).clamp_min(_LEAST_UNIFORM)))
    angle = 2 * math.pi * second
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)


_VAE_PREFIX: Final = "vae."


def build_network(config: GanConfig, vae: MusicVae, *, n_styles: int) -> MusicGan:
    """Return a new generator in front of a trained decoder."""
    return MusicGan(vae, n_styles=n_styles, width=config.width, n_layers=config.n_layers)


def load_network(folder: Path) -> tuple[MusicGan, Mapping[str, Any]]:
    """Return the trained network in eval mode and the content of checkpoint.json.

    Raises:
        CheckpointError: see `checkpoint.load`; also if the weights do not fit the network that is described.
    """
    saved = checkpoint.load(folder, kind=KIND_NAME)
    vae_weights: dict[str, Tensor] = {
        name.removeprefix(_VAE_PREFIX): tensor for name, tensor in saved.weights.items() if name.startswith(_VAE_PREFIX)
    }
    described = saved.info.get("vae")
    vae_config = (described.get("config") or {}) if isinstance(described, dict) else {}
    vae = autoencoder_from(vae_config, vae_weights, folder=folder)
    try:
        network = build_network(GanConfig(**saved.info["config"]), vae, n_styles=len(saved.info["style_shares"]))
    except (KeyError, TypeError, TrainingError) as error:
        raise CheckpointError(f"{folder}: invalid hyper-parameter in checkpoint.json ({error}); train again") from error
    try:
        network.load_state_dict(dict(saved.weights))
    except RuntimeError as error:  # torch's message for names and shapes that differ
        why = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{folder}: weights do not fit checkpoint.json ({why}); train again") from error
    return network.eval(), saved.info
