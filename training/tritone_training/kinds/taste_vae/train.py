"""Training of `taste_vae`, alone or as a base model of the recommender."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch.nn import functional
from torch.utils.data import DataLoader

from tritone_serving.recommender.batch import weigh
from tritone_training import checkpoint, fitting
from tritone_training.checkpoint import METRICS_OF_SELECTION, WarmStart, saved_checkpoint, warm_start_info
from tritone_training.data.interactions import ListeningData, words_matrix
from tritone_training.exceptions import DataError, TrainingError
from tritone_training.kind import TrainRequest
from tritone_training.kinds.taste_vae import export
from tritone_training.kinds.taste_vae.config import TasteConfig
from tritone_training.kinds.taste_vae.dataset import Batches, Histories, collate
from tritone_training.kinds.taste_vae.module import MONITOR, TasteModule
from tritone_training.kinds.taste_vae.network import TasteLearner
from tritone_training.training_state import Snapshot

_VALID_BATCH = 256


@dataclass(frozen=True, eq=False)
class TasteData:
    """Training data.

    Attributes:
        plays: (U, T) of the training split, items in descending order of popularity.
        held_out: (U, T) of the validation split.
        items: T ids.
        words: (T, W), see `words_matrix`.
    """

    plays: sparse.csr_matrix
    held_out: sparse.csr_matrix
    items: Sequence[str]
    words: sparse.csr_matrix


def train_listening(request: TrainRequest, config: TasteConfig, listening: ListeningData) -> Mapping[str, Any]:
    """Train on the training split of a log; the validation split selects the epoch."""
    popularity = np.bincount(listening.train.item, minlength=len(listening.train.items))
    order = np.lexsort((np.arange(len(popularity)), -popularity))
    items = [listening.train.items[index] for index in order.tolist() if popularity[index]]
    indices = {name: index for index, name in enumerate(items)}
    users = {name: index for index, name in enumerate(listening.train.users)}
    data = TasteData(
        listening.train.matrix(users, indices),
        listening.valid.matrix(users, indices),
        items,
        words_matrix(listening, items),
    )
    summary = train_taste(data, config, out=request.out, request=request, report=listening.report)
    return {**summary, "data": listening.report}


def train_taste(
    data: TasteData,
    config: TasteConfig,
    *,
    out: Path,
    request: TrainRequest,
    report: Mapping[str, Any],
    selected: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train on matrices and write a checkpoint.

    Args:
        data: training data; only the first `config.n_items` items are used.
        config: hyper-parameters.
        out: folder of the checkpoint.
        request: seed, preset and the options of the run.
        report: description of the data, for the checkpoint.
        selected: checkpoint.json of a training without the held-out listens, which are among `data.plays` here. Its
            number of epochs and its metrics are used, because this training cannot be evaluated.

    Raises:
        DataError: no user has both a history and a held-out item among these items.
        TrainingError: training diverged.
    """
    n_items = min(config.n_items, len(data.items))
    weights = weigh_rows(data.plays[:, :n_items], config.power)
    histories = Histories(weights)
    held_out = Histories(weights, sparse.csr_matrix(data.held_out[:, :n_items]))
    if not len(held_out):
        raise DataError("no user has both a history and a held-out listen to a known item; train on a larger log")
    fitting.seed_everything(request.seed)
    learner = TasteLearner(
        torch.from_numpy(np.bincount(weights.indices, minlength=n_items)),
        sparse.csr_matrix(data.words[:n_items]),
        latent=config.latent,
        rarity=config.rarity,
        temperature=config.temperature,
    )
    items = list(data.items[:n_items])
    loaded = _start_from(saved_checkpoint(request, export.KIND_NAME), learner, items)
    info: dict[str, Any] = {
        "command": request.command,
        "seed": request.seed,
        "preset": request.preset,
        "config": config.to_dict(),
        "items": items,
        "learned_from": _fingerprint(data),
        "data": report,
        **warm_start_info(loaded),
    }
    fitted = fitting.fit(
        TasteModule(learner, config),
        DataLoader(
            histories,
            batch_size=fitting.global_batch_size(request, config.batch_size),
            shuffle=True,
            collate_fn=collate,
        ),
        Batches(held_out, _VALID_BATCH),
        request=replace(request, out=out),
        settings={**config.to_dict(), "fingerprint": _fingerprint(data)},
        batch_size=1,  # each entry is already a batch
        monitor=MONITOR,
        max_epochs=config.max_epochs if selected is None else int(selected["best_epoch"]),
        patience=config.patience,
        keep="best" if selected is None else "last",
        stage="fit" if selected is None else "refit",
        snapshot=Snapshot(export.KIND_NAME, info, _served_weights),
    )
    prefix = "learner."
    learner.load_state_dict({name.removeprefix(prefix): each for name, each in fitted.best_weights.items()})
    network = learner.network()
    if selected is None:
        info |= {"metrics": {"valid": {"ndcg@40": 1 - fitted.best_score, "n": len(held_out)}}}
    else:
        info |= {"metrics": selected["metrics"], "metrics_of": METRICS_OF_SELECTION}
    info |= {"n_epochs": fitted.n_epochs, "best_epoch": fitted.best_epoch}
    checkpoint.save(out, kind=export.KIND_NAME, info=info, weights=network.state_dict())
    return {
        "checkpoint": str(out),
        "n_items": n_items,
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "n_train": len(histories),
        "n_epochs": fitted.n_epochs,
        "metrics": info["metrics"],
        **warm_start_info(loaded),
    }


@torch.no_grad()
def _start_from(saved: checkpoint.Checkpoint | None, learner: TasteLearner, items: Sequence[str]) -> WarmStart | None:
    """Warm start: copy the vectors of items in both, matched by id, so that they are scored like the checkpoint does.

    Args:
        saved: earlier checkpoint; nothing is done if None.
        learner: model to initialise.
        items: T ids, in the learner's order.

    Raises:
        TrainingError: the codes differ in size, or no item is in both.
    """
    if saved is None:
        return None
    embeddings, directions = saved.weights["embedding.weight"], saved.weights["directions"]  # (T', D) each
    if embeddings.shape[1] != learner.items.shape[1]:
        raise TrainingError(
            f"{saved.folder}: expected codes of size {learner.items.shape[1]}, got {embeddings.shape[1]}; train with "
            f"--set latent={embeddings.shape[1]}, or leave --warm-start out"
        )
    old_index = {name: index for index, name in enumerate(saved.info["items"])}
    rows = torch.tensor([row for row, name in enumerate(items) if name in old_index], dtype=torch.int64)
    if not len(rows):
        raise TrainingError(f"{saved.folder}: expected items of this log, got none of them; leave --warm-start out")
    old = torch.tensor([old_index[items[row]] for row in rows.tolist()], dtype=torch.int64)
    side_info = learner.vectors()[rows] - learner.items[rows]  # contribution of the items' words, which is kept
    vectors = embeddings[old] / learner.get_buffer("item_weights")[rows, None]
    learner.items[rows] = vectors - side_info
    lengths = vectors.norm(dim=1, keepdim=True).clamp_min(1e-6)
    learner.offsets[rows] = functional.normalize(directions[old], dim=1) * lengths - vectors
    not_loaded = {
        "log_variance": "not in the checkpoint",
        "words": "not in the checkpoint",
        "items": f"{len(items) - len(rows)} of {len(items)} are not in the checkpoint",
    }
    return WarmStart(saved.folder, n_loaded=2, not_loaded=not_loaded)


def _served_weights(module: TasteModule) -> dict[str, torch.Tensor]:
    return dict(module.learner.network().state_dict())


def check_learned_from(folder: Path, data: TasteData) -> None:
    """Check that a checkpoint was trained on the same matrices.

    Raises:
        TrainingError: it was trained on other data.
    """
    if checkpoint.load(folder, kind=export.KIND_NAME).info.get("learned_from") != _fingerprint(data):
        raise TrainingError(
            f"{folder}: cannot be resumed with other data: the listening log differs from the one that it was trained "
            f"on; restore that log, or start again with --overwrite"
        )


def _fingerprint(data: TasteData) -> str:
    """Return a digest of all training and validation data."""
    digest = hashlib.sha256("\n".join(data.items).encode())
    for matrix in (data.plays, data.held_out, data.words):
        for part in (matrix.indptr, matrix.indices, matrix.data):
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def weigh_rows(plays: sparse.csr_matrix, power: float) -> sparse.csr_matrix:
    """Convert play counts (U, I) to weights, each row as the recommender converts the history of a request."""
    plays = sparse.csr_matrix(plays)
    weights = plays.copy()
    spans = list(zip(plays.indptr[:-1].tolist(), plays.indptr[1:].tolist(), strict=True))
    parts: list[npt.NDArray[np.float32]] = [weigh(plays.data[a:b], {"power": power}) for a, b in spans]
    weights.data = np.concatenate([np.zeros(0, np.float32), *parts]).astype(np.float32)
    return weights
