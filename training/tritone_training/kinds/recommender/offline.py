"""An artifact scored offline with the very code that serves it; `taste_vae` runs in PyTorch instead of on Triton.

Shapes: B requests, I items, T items that `taste_vae` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from tritone_serving.recommender import (
    TASTE,
    ArtifactError,
    KeyFileError,
    Recommender,
    RecommendRequest,
    RemoteScorer,
    TasteInputs,
    read_key,
)
from tritone_training.exceptions import CheckpointError
from tritone_training.kinds.taste_vae.build import load_network

ARTIFACT: Final = "artifact"  # folders and files of a checkpoint
KEY: Final = "recommender.key"
AT_ONCE: Final = 64
Floats = npt.NDArray[np.float32]


def open_recommender(folder: Path, key: Path | None = None) -> tuple[Recommender, RemoteScorer | None]:
    """A checkpoint's recommender, and what asks its `taste_vae`.

    Raises:
        CheckpointError: the artifact, its key or its network cannot be used.
    """
    try:
        recommender = Recommender.open(folder / ARTIFACT, key=read_key(key or folder / KEY))
    except (ArtifactError, KeyFileError) as error:
        raise CheckpointError(str(error)) from error
    return recommender, taste_of(folder) if TASTE in recommender.scorer.base_models else None


def taste_of(folder: Path) -> RemoteScorer:
    """Ask the checkpoint's own network, in this process."""
    network, _ = load_network(folder / TASTE)

    def ask(inputs: TasteInputs, meanwhile: Callable[[], None]) -> Floats:
        meanwhile()
        with torch.inference_mode():
            scores = network(torch.from_numpy(inputs.items), torch.from_numpy(inputs.weights))[0]
        return np.asarray(scores.numpy(), np.float32)

    return ask


def score_in_chunks(
    recommender: Recommender, taste: RemoteScorer | None, requests: Sequence[RecommendRequest]
) -> Iterator[tuple[slice, dict[str, Floats], Floats]]:
    """(which requests, base model -> (B, I), the ensemble's (B, I)), a chunk at a time."""
    for start in range(0, len(requests), AT_ONCE):
        rows = slice(start, min(start + AT_ONCE, len(requests)))
        base_models, ensemble, _ = recommender.score(requests[rows], taste=taste)
        yield rows, {name: np.array(scores) for name, scores in base_models.items()}, ensemble
