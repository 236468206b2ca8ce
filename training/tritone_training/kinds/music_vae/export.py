"""Export of `music_vae`: the encoder, and the decoder as its companion."""

from __future__ import annotations

from pathlib import Path

from tritone_training.kind import Exportable
from tritone_training.kinds.music_vae.declaration import DECLARATION, DECODER
from tritone_training.kinds.music_vae.network import DecoderGraph, load_network
from tritone_training.musicality import ATTRIBUTES


def exportable(folder: Path) -> Exportable:
    """Return what `tritone export` needs: the encoder, and the decoder as its companion.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    network, info = load_network(folder)
    card = {key: value for key, value in info.items() if key not in ("format", "weights")}
    metadata = {"attributes": ",".join(ATTRIBUTES), "n_latent": str(network.n_latent)}
    decoder = Exportable(
        network=DecoderGraph(network).eval(), declaration=DECODER, label_files={}, metadata=metadata, card=card
    )
    return Exportable(
        network=network,
        declaration=DECLARATION,
        label_files={},
        metadata=metadata,
        card=card,
        companions=(decoder,),
    )
