"""Training of `taste_vae` as a base model, on the plays in the artifact's numbering of items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from tritone_serving.recommender import TASTE
from tritone_training import checkpoint
from tritone_training.data.interactions import ListeningData, words_matrix
from tritone_training.exceptions import TrainingError
from tritone_training.hyperparameters import from_preset
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.recommender.fitting.base_models import ArtifactParts
from tritone_training.kinds.recommender.fitting.interaction_dataset import InteractionDataset
from tritone_training.kinds.taste_vae.config import PRESETS as TASTE_PRESETS
from tritone_training.kinds.taste_vae.config import TasteConfig
from tritone_training.kinds.taste_vae.train import TasteData, check_learned_from, train_taste


def train_taste_network(
    request: TrainRequest,
    config: RecommenderConfig,
    listening: ListeningData,
    dataset: InteractionDataset,
    parts: ArtifactParts,
    *,
    selected: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Train `taste_vae` and add it to the base models; return its description for checkpoint.json.

    Args:
        request: `out` is the folder of the recommender's checkpoint; `taste_vae` is taken instead of training one.
        config: hyper-parameters.
        listening: its validation split selects the epoch.
        dataset: of the training split.
        parts: of the artifact.
        selected: checkpoint.json of the network whose number of epochs and metrics are used, if the training split
            holds the held-out listens too.

    Raises:
        TrainingError: training diverged, or a resumed or given one was trained on other data.
    """
    overrides: dict[str, Any] = {"power": config.power}
    if config.taste_vae_epochs:
        overrides["max_epochs"] = config.taste_vae_epochs
    taste_config = from_preset(TASTE_PRESETS, config.taste_vae_preset, overrides)
    # Sorted by id, because the order of pseudonyms depends on the key and equal seeds should give equal networks.
    order = np.argsort(np.array(dataset.users))
    users = {dataset.users[row]: index for index, row in enumerate(order.tolist())}
    items = {name: index for index, name in enumerate(dataset.items)}
    n_listened = int((dataset.plays.getnnz(axis=0) > 0).sum())
    data = TasteData(
        sparse.csr_matrix(dataset.plays[order][:, :n_listened]),
        sparse.csr_matrix(listening.valid.matrix(users, items)[:, :n_listened]),
        dataset.items[:n_listened],
        words_matrix(listening, dataset.items[:n_listened]),
    )
    folder = request.out / TASTE
    if request.taste_vae is not None:
        _take(request.taste_vae, folder, data, taste_config, listening)
    elif request.resume and (folder / checkpoint.INFO).is_file():  # finished before the interruption
        check_learned_from(folder, data)
    else:
        train_taste(
            data,
            taste_config,
            out=folder,
            request=replace(request, preset=config.taste_vae_preset),
            report=listening.report,
            selected=selected,
        )
    trained = checkpoint.load(folder, kind=TASTE)
    parts.base_models[TASTE] = {
        "kind": "taste",
        "n_known": len(trained.info["items"]),
        "fingerprint": str(trained.info["weights_sha256"])[:16],
    }
    return {
        "n_items": len(trained.info["items"]),
        "n_parameters": sum(tensor.numel() for tensor in trained.weights.values()),
        **{name: trained.info[name] for name in ("n_epochs", "metrics")},
    }


def _take(given: Path, folder: Path, data: TasteData, config: TasteConfig, listening: ListeningData) -> None:
    """Copy a checkpoint that was trained on the same training split, such as by torchrun on several hosts.

    Raises:
        CheckpointError: it is missing, damaged or of another kind.
        TrainingError: it was trained on another split, or weighs plays differently.
    """
    trained = checkpoint.load(given, kind=TASTE)
    items, split = trained.info["items"], trained.info.get("data", {}).get("fingerprint")
    if split != listening.report["fingerprint"] or list(items) != list(data.items[: len(items)]):
        raise TrainingError(
            f"{given}: expected a network trained on the same log with the same seed, got one of other listens; train "
            f"it on this log with this --seed, or leave --taste-vae out"
        )
    power = trained.info["config"]["power"]
    if power != config.power:
        raise TrainingError(
            f"{given}: expected plays weighed by the power {config.power}, as in the recommender, got {power}; train "
            f"it with --set power={config.power}"
        )
    checkpoint.save(folder, kind=TASTE, info=trained.info, weights=trained.weights)
