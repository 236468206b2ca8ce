"""Training step of `music_gan`: a critic and a predictor on real latents, a generator from both.

Shapes: B batch, S latents of the pool, Z latent, C width of the conditions' features.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tritone.music.voices import N_VOICES, SPAN_FRAMES
from tritone_training.bars.autoencoder import MusicVae, decode, encode
from tritone_training.kinds.music_gan.config import GanConfig
from tritone_training.kinds.music_gan.network import ConditionPredictor, Critic, Generator
from tritone_training.musicality import frechet_distance
from tritone_training.processes import average_gradients

MONITOR: Final = "valid_frechet"
_BETAS: Final = (0.5, 0.9)


class GanModule(lightning.LightningModule):
    """Trains a Generator; `averaged`, the running mean of its weights, is what is evaluated and kept.

    Batches are lists of mode (B,), latent (B, Z), features (B, C), all of real spans.
    """

    def __init__(self, generator: Generator, vae: MusicVae, config: GanConfig) -> None:
        super().__init__()
        n_latent = len(generator.mean)
        self._vae = (vae,)  # in a tuple, so that it is neither trained nor kept
        self.generator = generator
        self.averaged = copy.deepcopy(generator).requires_grad_(False)
        self.config = config
        self.critic = Critic(
            n_latent=n_latent, n_styles=len(generator.from_noise), width=config.critic_width, n_layers=config.n_layers
        )
        self.predictor = ConditionPredictor(n_latent=n_latent, width=config.critic_width)
        # Lightning steps the generator alone; the other two learn within its step.
        self._others = torch.optim.Adam(
            [*self.critic.parameters(), *self.predictor.parameters()], lr=2 * config.learning_rate, betas=_BETAS
        )
        # DDP leaves them out: their gradients, which `average_gradients` joins, come in the middle of a step.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
            self,
            [name for name, _ in self.named_parameters() if name.startswith(("critic.", "predictor."))],
        )
        self._valid: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Train critic and predictor on slices of the batch, and the generator on the last slice."""
        slices = [list(parts) for parts in zip(*(each.chunk(self.config.critic_steps) for each in batch), strict=True)]
        for mode, latent, features in slices:
            self._teach_others(mode, latent, features)
        mode, latent, features = slices[-1]
        self.critic.requires_grad_(False)
        self.predictor.requires_grad_(False)
        scaled = self._scaled(self.generator(torch.randn_like(latent), features))
        wasserstein = -self.critic(scaled, features).mean()
        condition_loss_ = condition_loss(self.predictor, scaled, mode, features)
        self.critic.requires_grad_(True)
        self.predictor.requires_grad_(True)
        self.log("train_generator", wasserstein, on_step=False, on_epoch=True, sync_dist=True)
        self.log("train_conditions", condition_loss_, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True)
        loss: Tensor = wasserstein + self.config.condition_weight * condition_loss_
        return loss

    def _teach_others(self, mode: Tensor, latent: Tensor, features: Tensor) -> None:
        real = self._scaled(latent)
        with torch.no_grad():
            fake = self._scaled(self.generator(torch.randn_like(latent), features))
        distance = self.critic(real, features).mean() - self.critic(fake, features).mean()
        penalty = gradient_penalty(self.critic, real, fake, features)
        loss = self.config.gradient_penalty * penalty - distance
        loss = loss + condition_loss(self.predictor, real, mode, features)
        self._others.zero_grad()
        loss.backward()
        average_gradients([*self.critic.parameters(), *self.predictor.parameters()])
        self._others.step()
        self.log("train_distance", distance.detach(), prog_bar=True, on_step=False, on_epoch=True, sync_dist=True)

    def _scaled(self, latent: Tensor) -> Tensor:
        return (latent - self.generator.mean) / self.generator.deviation

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of the optimiser that Lightning does not manage."""
        checkpoint["others"] = self._others.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the optimiser of an interrupted training."""
        self._others.load_state_dict(checkpoint["others"])

    def on_train_batch_end(self, *_: Any) -> None:
        """Update the running average."""
        decay = min(self.config.average_decay, self.global_step / (self.global_step + 9))
        for ours, theirs in zip(self.averaged.parameters(), self.generator.parameters(), strict=True):
            ours.lerp_(theirs.detach(), 1 - decay)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Collect latents of generated spans, read off their notes, and of held-out spans with the same conditions.

        Latents are compared after decoding, because a latent without a counterpart in music can be near those of music.
        """
        _mode, latent, features = batch
        noise = np.random.default_rng(len(self._valid))
        normal = torch.from_numpy(noise.standard_normal(latent.shape, np.float32)).to(latent.device)
        (vae,) = self._vae
        written = self.averaged(normal, features).cpu()
        if not written.isfinite().all():
            self._valid.append((self._scaled(written.to(latent.device)), self._scaled(latent)))
            return
        voices = decode(vae, written, noise.random((len(latent), SPAN_FRAMES, N_VOICES), np.float32))
        encoded = torch.from_numpy(encode(vae, voices)).to(latent.device)
        self._valid.append((self._scaled(encoded), self._scaled(latent)))

    def on_validation_epoch_end(self) -> None:
        """Evaluate by the Fréchet distance."""
        ours, theirs = (torch.cat(part).double().cpu().numpy() for part in zip(*self._valid, strict=True))
        self._valid.clear()
        finite = np.isfinite(ours).all()
        self.log(MONITOR, frechet_distance(ours, theirs) if finite else float("inf"), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Adam, as for WGAN-GP."""
        return torch.optim.Adam(self.generator.parameters(), lr=self.config.learning_rate, betas=_BETAS)


def condition_loss(predictor: ConditionPredictor, scaled: Tensor, mode: Tensor, features: Tensor) -> Tensor:
    """Return the loss of the predicted conditions: latents (B, Z), mode (B,), features (B, C) -> ()."""
    modes, density = predictor(scaled)
    return nn.functional.cross_entropy(modes, mode) + nn.functional.mse_loss(density, features[:, -1])


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, features: Tensor) -> Tensor:
    """Return the penalty on gradients of the critic whose norm is not 1: (B, Z) twice, (B, C) -> ().

    Gulrajani et al. 2017, "Improved training of Wasserstein GANs", arXiv:1704.00028.
    """
    share = torch.rand(len(real), 1, device=real.device)
    between = (share * real + (1 - share) * fake).requires_grad_(True)
    scores = critic(between, features).sum()
    (slope,) = torch.autograd.grad(scores, between, create_graph=True)
    penalty: Tensor = ((slope.norm(dim=1) - 1) ** 2).mean()
    return penalty
