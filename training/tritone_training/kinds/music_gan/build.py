"""Networks of `music_gan`: new around a trained `music_vae`, or from a checkpoint; and what of them is exported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from tritone_training import checkpoint
from tritone_training._exceptions import CheckpointError, TrainingError
from tritone_training.kind import Exportable
from tritone_training.kinds.music_gan.config import GanConfig
from tritone_training.kinds.music_gan.declaration import DECLARATION
from tritone_training.kinds.music_gan.network import MusicGan
from tritone_training.kinds.music_vae import build as vae_build
from tritone_training.kinds.music_vae.network import MusicVae

KIND_NAME: Final = "music_gan"
_VAE_PREFIX: Final = "vae."


def build_network(config: GanConfig, vae: MusicVae, *, n_styles: int) -> MusicGan:
    """A new generator in front of a trained decoder."""
    return MusicGan(vae, n_styles=n_styles, width=config.width, n_layers=config.n_layers)


def load_network(folder: Path) -> tuple[MusicGan, Mapping[str, Any]]:
    """The trained network in eval mode, and checkpoint.json.

    Raises:
        CheckpointError: see `checkpoint.load`; also when the weights do not fit the network they describe.
    """
    saved = checkpoint.load(folder, kind=KIND_NAME)
    vae_weights: dict[str, Tensor] = {
        name.removeprefix(_VAE_PREFIX): tensor for name, tensor in saved.weights.items() if name.startswith(_VAE_PREFIX)
    }
    described = saved.info.get("vae")
    vae_config = described.get("config") if isinstance(described, dict) else None
    vae = vae_build.network_from(vae_config, vae_weights, folder=folder)
    try:
        network = build_network(GanConfig(**saved.info["config"]), vae, n_styles=len(saved.info["style_shares"]))
    except (KeyError, TypeError, TrainingError) as error:
        raise CheckpointError(f"{folder}: checkpoint.json lacks or misnames hyper-parameters ({error})") from error
    try:
        network.load_state_dict(dict(saved.weights))
    except RuntimeError as error:  # torch's word for names and shapes that differ
        why = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{folder}: weights and checkpoint.json do not belong together ({why}); train again"
        ) from error
    return network.eval(), saved.info


def exportable(folder: Path | None, pretrained: str | None) -> Exportable:
    """What `tritone export` needs.

    Raises:
        CheckpointError: no checkpoint is given, or a backbone is.
    """
    if folder is None or pretrained is not None:
        raise CheckpointError(f"{KIND_NAME} has no pretrained form: train first (`tritone train {KIND_NAME}`)")
    network, info = load_network(folder)
    return Exportable(
        network=network.requires_grad_(False),
        declaration=DECLARATION,
        label_files={},
        metadata={"n_latent": str(network.vae.n_latent)},
        card={key: value for key, value in info.items() if key not in ("format", "weights")},
    )
