"""Offline scoring of a checkpoint by the serving code, with remote base models run in PyTorch instead of Triton.

Also precomputes the rankings of stored users for the artifact.
Shapes: B requests, I items, T items that a network knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone_serving.recommender import (
    TASTE,
    TASTE_SEQUENCE,
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
from tritone_training.kinds.recommender.engines import IN_PROCESS, Engine
from tritone_training.kinds.recommender.engines.parts import Parts, blocks_of
from tritone_training.kinds.recommender.fitting.interaction_dataset import InteractionDataset
from tritone_training.kinds.taste_sequence.export import load_network as load_sequence_network
from tritone_training.kinds.taste_vae.export import load_network

AT_ONCE: Final = 64
_RANKED_BY_TASK: Final = 16 * AT_ONCE  # a worker unpacks the recommender for each task
Floats = npt.NDArray[np.float32]
# Remote base model -> function that returns its network's log-probabilities (B, T).
RemoteNetworks = Mapping[str, Callable[[RemoteInputs], Floats]]


def open_recommender(folder: Path, key: Path | None = None) -> tuple[Recommender, RemoteNetworks]:
    """Open the recommender of a checkpoint, and return the functions that run its networks.

    Raises:
        CheckpointError: the artifact, its key or a network cannot be used.
    """
    try:
        recommender = Recommender.open(folder / ARTIFACT_FOLDER, key=read_key(key or folder / KEY_FILENAME))
    except (ArtifactError, KeyFileError) as error:
        raise CheckpointError(str(error)) from error
    return recommender, {name: network_of(folder / name) for name in _LOADERS if name in recommender.scorer.base_models}


@dataclass(frozen=True, eq=False)
class RemoteNetwork:
    """The network of a remote base model, run in this process; can be sent to others."""

    network: torch.nn.Module

    def __call__(self, inputs: RemoteInputs) -> Floats:
        with torch.inference_mode():
            # Copies of read-only arrays, which are those of a worker: PyTorch has none.
            tensors = (torch.from_numpy(a if a.flags.writeable else a.copy()) for a in inputs.tensors.values())
            scores = self.network(*tensors)[0]
        return np.asarray(scores.numpy(), np.float32)


def network_of(folder: Path) -> RemoteNetwork:
    """Return a function that runs the network of a remote base model in this process.

    Args:
        folder: checkpoint of the network.
    """
    return RemoteNetwork(_LOADERS[folder.name](folder)[0])


# Folder of a checkpoint -> function that loads its network and checkpoint.json.
_LOADERS: Final[Mapping[str, Callable[[Path], tuple[torch.nn.Module, Mapping[str, Any]]]]] = {
    TASTE: load_network,
    TASTE_SEQUENCE: load_sequence_network,
}


@dataclass(frozen=True, eq=False)
class Scoring:
    """Recommender and networks that score the requests of a worker."""

    recommender: Recommender
    networks: RemoteNetworks


def remote_scores(remote_inputs: Mapping[str, RemoteInputs], networks: RemoteNetworks) -> RemoteScores:
    """Return the outputs of the remote base models by name, of those that have a network here."""
    return {name: networks[name](inputs) for name, inputs in remote_inputs.items() if name in networks}


def score_in_chunks(
    recommender: Recommender, networks: RemoteNetworks, requests: Sequence[RecommendRequest]
) -> Iterator[tuple[slice, dict[str, Floats], Floats]]:
    """Yield, for each chunk of requests, its slice, base model -> scores (B, I), and the ensemble's scores (B, I)."""
    for start in range(0, len(requests), AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, len(requests)))
        resolved = recommender.resolve(requests[rows], use_precomputed=False)
        scored = recommender.score(resolved, remote_scores=remote_scores(resolved.remote_inputs, networks))
        yield rows, {name: np.array(scores) for name, scores in scored.base_models.items()}, scored.ensemble


def precompute_rankings(
    recommender: Recommender,
    networks: RemoteNetworks,
    dataset: InteractionDataset,
    n: int,
    *,
    on_progress: Callable[[int, int], None],
    engine: Engine = IN_PROCESS,
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays `lists.<arm>.*`, the best n items of each stored user, for all arms with a share above 0."""
    indices = {name: index for index, name in enumerate(recommender.item_ids)}
    n = min(n, dataset.n_items)
    arms: dict[str, tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.float32]]]] = {}
    parts = Parts(blocks_of(dataset.n_users, _RANKED_BY_TASK), lambda users: (dataset.users[users], n))
    with engine.share(Scoring(recommender, networks)) as scoring:
        for users, rankings in zip(parts.blocks, engine.map(_rankings, parts, scoring), strict=True):
            for arm, answers in rankings.items():
                columns, values = arms.setdefault(arm, ([], []))
                columns.extend(np.array([indices[item] for item in items], np.int64) for items, _ in answers)
                values.extend(scores for _, scores in answers)
            on_progress(users.stop, dataset.n_users)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for arm, (columns, values) in arms.items():
        arrays.update(rows_arrays(f"lists.{arm}", Rows.from_lists(columns, values)))
    return arrays


def _rankings(
    part: tuple[Sequence[str], int], scoring: Scoring
) -> dict[str, list[tuple[Sequence[str], npt.NDArray[np.float32]]]]:
    """Return items and scores of each user by arm."""
    users, n = part
    recommender = scoring.recommender
    found: dict[str, list[tuple[Sequence[str], npt.NDArray[np.float32]]]] = {}
    for start in range(0, len(users), AT_ONCE):
        requests = [RecommendRequest(user=name, k=n) for name in users[start : start + AT_ONCE]]
        for arm in recommender.scorer.arms:
            resolved = recommender.resolve(requests, arm=arm)
            remote = remote_scores(resolved.remote_inputs, scoring.networks)
            for answer in recommender.respond(resolved, remote_scores=remote):
                if isinstance(answer, Exception):
                    raise answer
                found.setdefault(arm, []).append((answer.items, answer.scores))
    return found
