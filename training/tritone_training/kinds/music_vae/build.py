"""Networks of `music_vae`: new, or from a checkpoint; and what of them is exported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tritone_training import checkpoint
from tritone_training._exceptions import CheckpointError, TrainingError
from tritone_training.kind import Exportable
from tritone_training.kinds.music_vae.config import VaeConfig
from tritone_training.kinds.music_vae.declaration import DECLARATION, DECODER, N_LATENT
from tritone_training.kinds.music_vae.network import DecoderGraph, MusicVae
from tritone_training.musicality import ATTRIBUTES

KIND_NAME: Final = "music_vae"


def build_network(config: VaeConfig) -> MusicVae:
    """A new network with random weights."""
    return MusicVae(
        n_latent=N_LATENT,
        width=config.width,
        step_width=config.step_width,
        n_hidden=config.n_hidden,
        embedding_width=config.embedding_width,
        head_width=config.head_width,
    )


def load_network(folder: Path) -> tuple[MusicVae, Mapping[str, Any]]:
    """The trained network in eval mode, and checkpoint.json.

    Raises:
        CheckpointError: see `checkpoint.load`; also when the weights do not fit the network they describe.
    """
    saved = checkpoint.load(folder, kind=KIND_NAME)
    network = network_from(saved.info.get("config"), saved.weights, folder=folder)
    _check_statistics(folder, saved.info.get("attributes"))
    return network, saved.info


def network_from(config: Any, weights: Mapping[str, Any], *, folder: Path) -> MusicVae:
    """Build the network that a checkpoint's hyper-parameters describe, in eval mode.

    Raises:
        CheckpointError: hyper-parameters and weights do not belong together.
    """
    try:
        network = build_network(VaeConfig(**config))
    except (TypeError, TrainingError) as error:
        raise CheckpointError(f"{folder}: checkpoint.json lacks or misnames hyper-parameters ({error})") from error
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:  # torch's word for names and shapes that differ
        why = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{folder}: weights and checkpoint.json do not belong together ({why}); train again"
        ) from error
    return network.eval()


def _check_statistics(folder: Path, statistics: object) -> None:
    fits = isinstance(statistics, dict) and all(
        isinstance(statistics.get(name), list) and len(statistics[name]) == len(ATTRIBUTES)
        for name in ("mean", "deviation")
    )
    if not fits:
        raise CheckpointError(f"{folder}: checkpoint.json lacks or misnames 'attributes'; train again")


def exportable(folder: Path | None, pretrained: str | None) -> Exportable:
    """What `tritone export` needs: the encoder, and the decoder as its companion.

    Raises:
        CheckpointError: no checkpoint is given, or a backbone is.
    """
    if folder is None or pretrained is not None:
        raise CheckpointError(f"{KIND_NAME} has no pretrained form: train first (`tritone train {KIND_NAME}`)")
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
