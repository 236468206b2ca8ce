"""Export of `music_gan`: the generator with the decoder of its `music_vae`."""

from __future__ import annotations

from pathlib import Path

from tritone_training.kind import Exportable
from tritone_training.kinds.music_gan.declaration import DECLARATION
from tritone_training.kinds.music_gan.network import load_network


def exportable(folder: Path) -> Exportable:
    """Return what `tritone export` needs.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    network, info = load_network(folder)
    return Exportable(
        network=network.requires_grad_(False),
        declaration=DECLARATION,
        label_files={},
        metadata={"n_latent": str(network.vae.n_latent)},
        card={key: value for key, value in info.items() if key not in ("format", "weights")},
    )
