"""Find checkpoints and exported versions of an earlier run that can be reused.

A checkpoint counts as complete if it has a mark, which is written last; a version if its files match its model card.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RECOMMENDER: Final = "recommender"
_MARK: Final = "demo.json"  # in the checkpoint's folder
# Other packages whose code affects training: the recommender is fitted with the code that serves it.
_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    RECOMMENDER: ("tritone_serving.recommender", "tritone_training.data.interactions")
}


@dataclass(frozen=True)
class CheckpointInputs:
    """The inputs of a checkpoint's training. A checkpoint with equal inputs can be reused.

    Attributes:
        corpus: fingerprint of the music.
        needs: other kinds whose code affects the training.
        weights: digests of other checkpoints that the training uses.
    """

    corpus: str
    seed: int
    preset: str
    kind: str
    needs: Sequence[str] = ()
    weights: Sequence[str] = ()

    def find(self, folder: Path) -> Mapping[str, Any] | None:
        """Return the checkpoint's info if it is complete and was trained from these inputs, else None."""
        from tritone_training import CheckpointError

        try:
            info = read_info(folder, self.kind)
            mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        except (CheckpointError, OSError, ValueError):
            return None
        return info if mark == self._mark(info) else None

    def mark(self, folder: Path) -> Mapping[str, Any]:
        """Mark a checkpoint as complete. This is the last step, so an interrupted training leaves no mark.

        Returns:
            The checkpoint's info.

        Raises:
            CheckpointError: the checkpoint is not complete.
        """
        info = read_info(folder, self.kind)
        staged = folder / f".{_MARK}"
        staged.write_text(json.dumps(self._mark(info)), encoding="utf-8")
        staged.replace(folder / _MARK)
        return info

    def _mark(self, info: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "corpus": self.corpus,
            "seed": self.seed,
            "preset": self.preset,
            "code": "".join(code_digest(each) for each in (self.kind, *self.needs)),
            "weights": info["weights_sha256"],
            **({"made_from": list(self.weights)} if self.weights else {}),
        }


def read_info(folder: Path, kind: str) -> Mapping[str, Any]:
    """Return the info of a complete checkpoint. For a recommender, the digest of its artifact replaces that of weights.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or of another kind.
    """
    from tritone_training import checkpoint

    if kind != RECOMMENDER:
        return checkpoint.load(folder, kind=kind).info
    from tritone_serving.recommender import TASTE
    from tritone_serving.recommender.artifact import files_of
    from tritone_training.kinds.recommender.checkpoint_folder import (
        ARTIFACT_FOLDER,
        load_info,
        read_artifact,
    )

    info = load_info(folder)
    checkpoint.load(folder / TASTE, kind=TASTE)
    files = files_of(read_artifact(folder / ARTIFACT_FOLDER))
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {**info, "weights_sha256": _digest_of(digests)}


def _digest_of(digests: Mapping[str, str]) -> str:
    """Return the digest of an artifact from the digests of its files, without files that export adds."""
    known = {name: each for name, each in digests.items() if name.endswith((".npy", ".json"))}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def code_packages(kind: str) -> tuple[str, ...]:
    """Return the packages whose code affects the training of a kind."""
    return (f"tritone_training.kinds.{kind}", *_PACKAGES.get(kind, ()))


def code_digest(kind: str) -> str:
    """Return a digest of the code that trains the kind, which changes when an upgrade changes a preset or a network."""
    digest = hashlib.sha256()
    for package in code_packages(kind):
        for path in sorted(Path(importlib.import_module(package).__path__[0]).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class ExportedVersion:
    """A version of a model in the repository.

    Attributes:
        max_abs_difference: largest difference from PyTorch over all outputs; None for models without a network.
    """

    model: str
    version: int
    path: Path
    max_abs_difference: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the version for `--json`."""
        return {
            "model": self.model,
            "version": self.version,
            "path": str(self.path),
            "max_abs_difference": self.max_abs_difference,
        }


def newest_ensemble(model: Path, info: Mapping[str, Any]) -> ExportedVersion | None:
    """Return the newest version of a Triton ensemble, which is only a card, if it is not older than a checkpoint."""
    numbers = [int(path.name) for path in model.glob("[0-9]*") if path.name.isdigit()]
    if not numbers:
        return None
    path = model / str(max(numbers))
    try:
        card = json.loads((path / "model_card.json").read_text(encoding="utf-8"))
        return (
            ExportedVersion(card["model"], max(numbers), path, None)
            if card["created_utc"] >= info["created_utc"]
            else None
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def newest_version(model: Path, info: Mapping[str, Any]) -> ExportedVersion | None:
    """Return the newest version of a model if it was exported from this checkpoint and is complete, else None.

    Args:
        model: the model's folder in the repository.
        info: the checkpoint's info.
    """
    numbers = [int(path.name) for path in model.glob("[0-9]*") if path.name.isdigit()]
    if not numbers:
        return None
    path = model / str(max(numbers))
    try:
        card = json.loads((path / "model_card.json").read_text(encoding="utf-8"))
        made_of = card.get("weights_sha256") or _digest_of({name: f["sha256"] for name, f in card["files"].items()})
        if made_of != info["weights_sha256"] or card["created_utc"] < info["created_utc"]:
            return None
        for name, file in card["files"].items():
            if hashlib.sha256((path / name).read_bytes()).hexdigest() != file["sha256"]:
                return None
        if "weights_sha256" not in card:
            return ExportedVersion(card["model"], int(card["version"]), path, None)
        differences = [value for batch in card["parity"]["max_abs_difference"].values() for value in batch.values()]
        return ExportedVersion(card["model"], int(card["version"]), path, float(max(differences)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
