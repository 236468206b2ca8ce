"""Checkpoint folders: weights without pickled code, and a description of them in JSON.

```
runs/genre_cnn/
  checkpoint.json   kind, hyper-parameters, labels, splits, data, metrics, seed, command, versions
  weights-HASH.pt   a state dict, read with weights_only=True; in half precision if checkpoint.json says so
  logs/             metrics.csv (one row an epoch) and TensorBoard
  unfinished/       only while a training is running or was interrupted, see `runs`
```
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import pickle
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from tritone.atomic import replacing, write_atomically
from tritone_training.exceptions import CheckpointError, TrainingError

if TYPE_CHECKING:
    from tritone_training.kind import TrainRequest

FORMAT: Final = 1
INFO: Final = "checkpoint.json"
UNFINISHED: Final = "unfinished"  # folder with the state of an interrupted training, see `runs`
SELECTION_FOLDER: Final = "selection"  # the training without the held-out data, of a checkpoint fitted on all data
# The value of `metrics_of` in checkpoint.json of a checkpoint fitted on all data.
METRICS_OF_SELECTION: Final = (
    "a training with the same settings without the held-out data, which this one was fitted on too"
)
BEST: Final = "best"  # in it, a checkpoint of the best epoch so far
STORED_DTYPE: Final = "weights_dtype"  # in checkpoint.json, if weights are stored in another type than they are used in


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint folder.

    Attributes:
        info: the content of checkpoint.json; see `save`.
        weights: parameter name -> tensor, in single precision however it is stored.
    """

    folder: Path
    info: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]


def save(folder: Path, *, kind: str, info: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
    """Write a checkpoint atomically: after a crash, the folder holds the old or the new one, never a mixture.

    The weights' file is named by its content and checkpoint.json, which names it, is replaced last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = to_bytes(weights)
    digest = hashlib.sha256(content).hexdigest()
    name = f"weights-{digest[:12]}.pt"
    write_atomically(folder / name, content, sync=True)
    whole = {
        "format": FORMAT,
        "kind": kind,
        "weights": name,
        "weights_sha256": digest,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        **info,
    }
    update_info(folder, whole)
    for old in folder.glob("weights-*.pt"):
        if old.name != name:
            old.unlink()
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def to_bytes(weights: Mapping[str, torch.Tensor]) -> bytes:
    """Return the content of a weights file; `torch.save` to a path hides the system's reason, such as a full disk."""
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, buffer)
    return buffer.getvalue()


def update_info(folder: Path, info: Mapping[str, Any]) -> None:
    """Replace checkpoint.json."""
    with replacing(folder / INFO, sync=True) as staged:
        staged.write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_info(folder: Path) -> dict[str, Any]:
    """Return the content of checkpoint.json, unchecked."""
    info: dict[str, Any] = json.loads((folder / INFO).read_text(encoding="utf-8"))
    return info


def load(folder: Path, *, kind: str) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        CheckpointError: it is missing, of another kind or format, or its weights are damaged.
    """
    path = folder / INFO
    if not path.is_file():
        best = folder / UNFINISHED / BEST
        if (best / INFO).is_file():
            raise CheckpointError(
                f"{folder}: expected a finished checkpoint, got an interrupted training; continue it with "
                f"`tritone train {kind} ... --out {folder} --resume`, or use its best epoch so far: {best}"
            )
        raise CheckpointError(f"{folder}: holds no checkpoint; `tritone train {kind} --out {folder}` writes one")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or a number of thousands of digits
        raise CheckpointError(f"{path}: is damaged ({error}); train again") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        found = info.get("format") if isinstance(info, dict) else type(info).__name__
        raise CheckpointError(f"{path}: is of format {found}, this version reads {FORMAT}; train again")
    if info.get("kind") != kind:
        raise CheckpointError(f"{folder}: is a checkpoint of {info.get('kind')!r}, expected {kind!r}")
    weights = folder / Path(str(info.get("weights"))).name
    if not weights.is_file() or _sha256(weights) != info.get("weights_sha256"):
        raise CheckpointError(f"{weights}: is missing or not the file that {INFO} names; train again")
    try:
        tensors = torch.load(weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        # The first sentence: torch goes on to recommend reading the file without protection.
        why = str(error).strip().splitlines()[0].partition(". ")[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{weights}: is damaged, or holds more than tensors ({why}); train again") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{weights}: holds something else than named tensors; train again")
    if info.get(STORED_DTYPE) == "float16":
        tensors = {name: each.float() if each.dtype == torch.float16 else each for name, each in tensors.items()}
    return Checkpoint(folder, info, tensors)


def versions() -> dict[str, str]:
    """Return the versions of the packages that made an artifact."""
    found = {"python": platform.python_version()}
    for package in ("tritone", "torch", "lightning", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def saved_checkpoint(request: TrainRequest, kind: str) -> Checkpoint | None:
    """Load the checkpoint to begin with; None if the request names none.

    Raises:
        CheckpointError: it is missing, damaged or of another kind.
    """
    return None if request.warm_start is None else load(request.warm_start, kind=kind)


def load_matching(saved: Checkpoint | None, network: nn.Module, *, skipped: Mapping[str, str]) -> WarmStart | None:
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
            reason = _reason_not_loaded(name, tensor, state, skipped)
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
    """Return the entry for json and the summary; empty without a warm start."""
    return {} if loaded is None else {"warm_start": loaded.to_dict()}


def _reason_not_loaded(
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
