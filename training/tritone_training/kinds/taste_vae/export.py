"""Building, loading and export of `taste_vae`'s network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_training import checkpoint
from tritone_training.exceptions import CheckpointError, HyperparameterError
from tritone_training.kind import Exportable
from tritone_training.kinds.taste_vae.config import TasteConfig
from tritone_training.kinds.taste_vae.declaration import DECLARATION, N_ITEMS
from tritone_training.kinds.taste_vae.network import TasteNetwork

KIND_NAME: Final = "taste_vae"


def build_network(config: TasteConfig, n_items: int) -> TasteNetwork:
    """Return an untrained network."""
    return TasteNetwork(n_items=n_items, latent=config.latent)


def load_network(folder: Path) -> tuple[TasteNetwork, Mapping[str, Any]]:
    """Return the trained network in eval mode, and the content of checkpoint.json.

    Raises:
        CheckpointError: as `checkpoint.load`, or the weights do not fit the network.
    """
    saved = checkpoint.load(folder, kind=KIND_NAME)
    try:
        network = build_network(TasteConfig(**saved.info["config"]), len(saved.info["items"]))
    except (KeyError, TypeError, HyperparameterError) as error:
        raise CheckpointError(f"{folder}: checkpoint.json lacks or misnames {error}; train again") from error
    try:
        network.load_state_dict(dict(saved.weights))
    except RuntimeError as error:  # raised by torch for wrong names and shapes
        wrong = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{folder}: weights and checkpoint.json do not belong together ({wrong}); train again"
        ) from error
    return network.eval(), saved.info


def exportable(folder: Path) -> Exportable:
    """Return the network for export by `tritone export`.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    network, info = load_network(folder)
    card = {key: value for key, value in info.items() if key not in ("format", "weights", "items")}
    n_items = len(info["items"])
    return Exportable(
        network=network.requires_grad_(False),
        declaration=DECLARATION,
        label_files={},
        metadata={"fingerprint": str(info["weights_sha256"])[:16], N_ITEMS: str(n_items)},
        card={**card, "n_items": n_items},
        example_inputs=lambda n_batch, seed: example_inputs(n_batch, seed, n_items=n_items),
    )


def example_inputs(n_batch: int, seed: int, *, n_items: int = 8) -> dict[str, npt.NDArray[np.generic]]:
    """Return random histories of 1 to 24 items, padded, (n_batch, 24)."""
    random = np.random.default_rng(seed)
    items, weights = np.zeros((n_batch, 24), np.int64), np.zeros((n_batch, 24), np.float32)
    for row in range(n_batch):
        n_listened = int(random.integers(1, min(24, n_items) + 1))
        items[row, :n_listened] = random.choice(n_items, n_listened, replace=False)
        weights[row, :n_listened] = random.uniform(0.3, 3, n_listened)
    return {"items": items, "weights": weights}
