"""What lies in a checkpoint folder of `recommender`, and what is exported of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_training import checkpoint
from tritone_training._exceptions import CheckpointError
from tritone_training.kind import Exportable

KIND_NAME: Final = "recommender"


def load_info(folder: Path) -> Mapping[str, Any]:
    """checkpoint.json.

    Raises:
        CheckpointError: it is missing, damaged, or of another kind or format.
    """
    path = folder / "checkpoint.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: holds no checkpoint; `tritone train {KIND_NAME} --out {folder}` writes one")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path}: is damaged ({error}); train again") from error
    if not isinstance(info, dict) or info.get("kind") != KIND_NAME:
        found = info.get("kind") if isinstance(info, dict) else type(info).__name__
        raise CheckpointError(f"{folder}: is a checkpoint of {found!r}, expected {KIND_NAME!r}")
    if info.get("format") != checkpoint.FORMAT or "seed" not in info:
        raise CheckpointError(
            f"{path}: is of format {info.get('format')}, this version reads {checkpoint.FORMAT}; train again"
        )
    return info


def exportable(folder: Path | None, pretrained: str | None) -> Exportable:
    """There is no network to export.

    Raises:
        CheckpointError: always.
    """
    raise CheckpointError(f"{KIND_NAME} is no network; its artifact is published as it is")


def example_inputs(n_batch: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Requests with a history of three items."""
    random = np.random.default_rng(seed)
    history = np.array([[b"item-%d" % random.integers(1000) for _ in range(3)] for _ in range(n_batch)], object)
    return {"history": history}
