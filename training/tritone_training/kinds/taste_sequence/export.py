"""Building, loading and export of `taste_sequence`'s network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_training import checkpoint
from tritone_training.exceptions import CheckpointError, HyperparameterError
from tritone_training.kind import Exportable
from tritone_training.kinds.taste_sequence.config import SequenceConfig
from tritone_training.kinds.taste_sequence.declaration import DECLARATION, N_ITEMS, PADDING, UNKNOWN_AGE
from tritone_training.kinds.taste_sequence.network import HistoryEncoder, HistoryScorer, SequenceNetwork

KIND_NAME: Final = "taste_sequence"
_LENGTH: Final = 24


def build_encoder(config: SequenceConfig) -> HistoryEncoder:
    """Return an untrained encoder."""
    return HistoryEncoder(
        size=config.size,
        n_decays=config.n_decays,
        initial_decay=config.initial_decay,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        dropout=config.dropout,
        input_dropout=config.input_dropout,
    )


def load_network(folder: Path) -> tuple[SequenceNetwork, Mapping[str, Any]]:
    """Return the trained network in eval mode, and the content of checkpoint.json.

    Raises:
        CheckpointError: as `checkpoint.load`, or the weights do not fit the network.
    """
    saved = checkpoint.load(folder, kind=KIND_NAME)
    try:
        config = SequenceConfig(**saved.info["config"])
        n_items = len(saved.info["items"])
    except (KeyError, TypeError, HyperparameterError) as error:
        raise CheckpointError(f"{folder}: checkpoint.json lacks or misnames {error}; train again") from error
    members = [
        HistoryScorer(n_items=n_items, encoder=build_encoder(config), size=config.size)
        for _ in range(config.n_networks)
    ]
    network = SequenceNetwork(members, n_items)
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
    """Return random histories of 1 to 24 events, padded, (n_batch, 24); some have times, some have skips."""
    random = np.random.default_rng(seed)
    items = np.full((n_batch, _LENGTH), PADDING, np.int64)
    ages = np.full((n_batch, _LENGTH), UNKNOWN_AGE, np.float32)
    skipped = np.zeros((n_batch, _LENGTH), np.float32)
    for row in range(n_batch):
        n_events = int(random.integers(1, _LENGTH + 1))
        items[row, :n_events] = random.integers(0, n_items, n_events)
        if random.random() < 0.7:
            gaps = np.exp(random.uniform(0, np.log(1e7), n_events))
            ages[row, :n_events] = np.cumsum(gaps)[::-1]
        if random.random() < 0.5:
            skipped[row, :n_events] = random.random(n_events) < 0.2
    return {"items": items, "ages": ages, "skipped": skipped}
