"""Warm start of `taste_vae`: items, matched by id, keep their vectors from an earlier checkpoint.

Shapes: T items, D size of the code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from tritone_training import checkpoint
from tritone_training.exceptions import TrainingError
from tritone_training.kinds.taste_vae.network import TasteLearner
from tritone_training.warm_start import WarmStart


@torch.no_grad()
def start_from(saved: checkpoint.Checkpoint | None, learner: TasteLearner, items: Sequence[str]) -> WarmStart | None:
    """Copy the vectors of the items in both, so that the learner scores them like the checkpoint.

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
