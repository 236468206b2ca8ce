"""Warm start: initialise a network with the weights of an earlier checkpoint of the same kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tritone_training import checkpoint
from tritone_training.exceptions import TrainingError
from tritone_training.kind import TrainRequest


@dataclass(frozen=True)
class WarmStart:
    """Report on a warm start.

    Attributes:
        source: the checkpoint's folder.
        n_loaded: number of tensors that were loaded.
        not_loaded: name -> reason of all others, of the checkpoint and of the new network.
    """

    source: Path
    n_loaded: int
    not_loaded: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"checkpoint": str(self.source), "n_loaded": self.n_loaded, "not_loaded": dict(self.not_loaded)}


def saved_checkpoint(request: TrainRequest, kind: str) -> checkpoint.Checkpoint | None:
    """Load the checkpoint to begin with; None if the request names none.

    Raises:
        CheckpointError: it is missing, damaged or of another kind.
    """
    return None if request.warm_start is None else checkpoint.load(request.warm_start, kind=kind)


def load_matching(
    saved: checkpoint.Checkpoint | None, network: nn.Module, *, skipped: Mapping[str, str]
) -> WarmStart | None:
    """Copy the weights whose names and shapes match into a new network.

    Args:
        saved: None does nothing.
        skipped: prefix of names -> reason why weights with this prefix are not loaded.

    Raises:
        TrainingError: no weight matches.
    """
    if saved is None:
        return None
    state = network.state_dict()
    not_loaded: dict[str, str] = {}
    n_loaded = 0
    with torch.no_grad():
        for name, tensor in saved.weights.items():
            reason = _reason(name, tensor, state, skipped)
            if reason is None:
                state[name].copy_(tensor)
                n_loaded += 1
            else:
                not_loaded[name] = reason
    fixed = set(dict(network.named_buffers()))
    for name in state:
        if name not in saved.weights and name not in fixed and not name.startswith(tuple(skipped)):
            not_loaded[name] = "not in the checkpoint"
    if not n_loaded:
        raise TrainingError(
            f"{saved.folder}: expected weights of the same shapes, got none; train with the hyper-parameters of that "
            f"checkpoint, or leave --warm-start out"
        )
    return WarmStart(saved.folder, n_loaded, not_loaded)


def warm_start_info(loaded: WarmStart | None) -> dict[str, Any]:
    """Return the entry for checkpoint.json and the summary; empty without a warm start."""
    return {} if loaded is None else {"warm_start": loaded.to_dict()}


def _reason(
    name: str, tensor: torch.Tensor, state: Mapping[str, torch.Tensor], skipped: Mapping[str, str]
) -> str | None:
    for beginning, reason in skipped.items():
        if name.startswith(beginning):
            return reason
    if name not in state:
        return "not in the new network"
    if state[name].shape != tensor.shape:
        return f"shape {tuple(tensor.shape)}, expected {tuple(state[name].shape)}"
    return None
