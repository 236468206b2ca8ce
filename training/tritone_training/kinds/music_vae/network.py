"""The network of `music_vae`, new or from a checkpoint, and its decoder as it is exported.

Shapes: B batch, N = 32 time steps, V = 4 voices, Z latent, A = 3 attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tritone_training import checkpoint
from tritone_training.bars.autoencoder import MusicVae, autoencoder_from
from tritone_training.bars.tensors import N_LATENT
from tritone_training.exceptions import CheckpointError, TrainingError
from tritone_training.kinds.music_vae.config import VaeConfig
from tritone_training.kinds.music_vae.declaration import KIND_NAME
from tritone_training.musicality import ATTRIBUTES


class DecoderGraph(nn.Module):
    """The exported graph of `music_vae_decoder`; frozen, because torch's scan supports no gradients of integers."""

    def __init__(self, network: MusicVae) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)

    def forward(  # noqa: PLR0917 - the order of the graph's inputs
        self, latent: Tensor, attributes: Tensor, noise: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor
    ) -> tuple[Tensor, ...]:
        """Return voices (B, N, V) from the inputs of the declaration, in its order."""
        return (
            self.network.sample(
                latent, noise, temperature=temperature, top_k=top_k, top_p=top_p, attributes=attributes
            ),
        )


def build_network(config: VaeConfig) -> MusicVae:
    """Return a new network with random weights."""
    return MusicVae(
        n_latent=N_LATENT,
        width=config.width,
        step_width=config.step_width,
        n_hidden=config.n_hidden,
        embedding_width=config.embedding_width,
        head_width=config.head_width,
        prior_width=config.prior_width,
        n_couplings=config.n_couplings,
    )


def load_network(folder: Path) -> tuple[MusicVae, Mapping[str, Any]]:
    """Return the trained network in eval mode and the content of checkpoint.json.

    Raises:
        CheckpointError: see `checkpoint.load`; also if the weights do not fit the network that is described.
    """
    saved = checkpoint.load(folder, kind=KIND_NAME)
    try:
        config = VaeConfig(**saved.info["config"])
    except (KeyError, TypeError, TrainingError) as error:
        raise CheckpointError(
            f"{folder}: invalid hyper-parameters in checkpoint.json ({error}); train again"
        ) from error
    network = autoencoder_from(config.to_dict(), saved.weights, folder=folder)
    _check_statistics(folder, saved.info.get("attributes"))
    return network, saved.info


def _check_statistics(folder: Path, statistics: object) -> None:
    fits = isinstance(statistics, dict) and all(
        isinstance(statistics.get(name), list) and len(statistics[name]) == len(ATTRIBUTES)
        for name in ("mean", "deviation")
    )
    if not fits:
        raise CheckpointError(f"{folder}: missing or invalid 'attributes' in checkpoint.json; train again")
