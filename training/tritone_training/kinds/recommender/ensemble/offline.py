"""Offline scoring of a checkpoint by the serving code, with `taste_vae` run in PyTorch instead of Triton.

Also precomputes the rankings of stored users for the artifact.
Shapes: B requests, I items, T items that `taste_vae` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone_serving.recommender import (
    TASTE,
    ArtifactError,
    KeyFileError,
    Recommender,
    RecommendRequest,
    RemoteInputs,
    RemoteScores,
    read_key,
)
from tritone_serving.recommender.artifact import rows_arrays
from tritone_serving.recommender.rows import Rows
from tritone_training.exceptions import CheckpointError
from tritone_training.kinds.recommender.checkpoint_folder import ARTIFACT_FOLDER, KEY_FILENAME
from tritone_training.kinds.recommender.fitting.interaction_dataset import InteractionDataset
from tritone_training.kinds.taste_vae.export import load_network

AT_ONCE: Final = 64
Floats = npt.NDArray[np.float32]
# Returns the log-probabilities (B, T) of a checkpoint's `taste_vae`.
TasteNetwork = Callable[[RemoteInputs], Floats]


def open_recommender(folder: Path, key: Path | None = None) -> tuple[Recommender, TasteNetwork | None]:
    """Open the recommender of a checkpoint, and return the function that runs its `taste_vae`, if it has one.

    Raises:
        CheckpointError: the artifact, its key or its network cannot be used.
    """
    try:
        recommender = Recommender.open(folder / ARTIFACT_FOLDER, key=read_key(key or folder / KEY_FILENAME))
    except (ArtifactError, KeyFileError) as error:
        raise CheckpointError(str(error)) from error
    return recommender, taste_of(folder) if TASTE in recommender.scorer.base_models else None


def taste_of(folder: Path) -> TasteNetwork:
    """Return a function that runs the checkpoint's `taste_vae` in this process."""
    network, _ = load_network(folder / TASTE)

    def run(inputs: RemoteInputs) -> Floats:
        with torch.inference_mode():
            scores = network(torch.from_numpy(inputs.items), torch.from_numpy(inputs.weights))[0]
        return np.asarray(scores.numpy(), np.float32)

    return run


def remote_scores(remote_inputs: Mapping[str, RemoteInputs], taste: TasteNetwork | None) -> RemoteScores:
    """Return the outputs of the remote base models by name; none if `taste` is None."""
    return {} if taste is None else {name: taste(inputs) for name, inputs in remote_inputs.items()}


def score_in_chunks(
    recommender: Recommender, taste: TasteNetwork | None, requests: Sequence[RecommendRequest]
) -> Iterator[tuple[slice, dict[str, Floats], Floats]]:
    """Yield, for each chunk of requests, its slice, base model -> scores (B, I), and the ensemble's scores (B, I)."""
    for start in range(0, len(requests), AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, len(requests)))
        resolved = recommender.resolve(requests[rows], use_precomputed=False)
        scored = recommender.score(resolved, remote_scores=remote_scores(resolved.remote_inputs, taste))
        yield rows, {name: np.array(scores) for name, scores in scored.base_models.items()}, scored.ensemble


def precompute_rankings(
    recommender: Recommender,
    taste: TasteNetwork | None,
    dataset: InteractionDataset,
    n: int,
    *,
    on_progress: Callable[[int, int], None],
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays `lists.<arm>.*`, the best n items of each stored user, for all arms with a share above 0."""
    indices = {name: index for index, name in enumerate(recommender.item_ids)}
    n = min(n, dataset.n_items)
    arms: dict[str, tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.float32]]]] = {}
    for start in range(0, dataset.n_users, AT_ONCE):
        requests = [RecommendRequest(user=name, k=n) for name in dataset.users[start : start + AT_ONCE]]
        for arm in recommender.scorer.arms:
            columns, values = arms.setdefault(arm, ([], []))
            resolved = recommender.resolve(requests, arm=arm)
            answers = recommender.respond(resolved, remote_scores=remote_scores(resolved.remote_inputs, taste))
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
                columns.append(np.array([indices[item] for item in answer.items], np.int64))
                values.append(answer.scores)
        on_progress(min(start + AT_ONCE, dataset.n_users), dataset.n_users)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for arm, (columns, values) in arms.items():
        arrays.update(rows_arrays(f"lists.{arm}", Rows.from_lists(columns, values)))
    return arrays
