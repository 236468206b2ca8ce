"""Whether what an earlier run has made will do: checkpoints by a mark that is written last, versions by their card."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RECOMMENDER: Final = "recommender"
_MARK: Final = "demo.json"  # beside the checkpoint: what it was made from
# Whose code decides what a kind learns, beside its own: it fits with the code that serves it, on listening simulated.
_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    RECOMMENDER: ("tritone_serving.recommender", "tritone_training.data.interactions")
}


@dataclass(frozen=True)
class Making:
    """What a checkpoint is made from, apart from its own settings.

    Attributes:
        catalogue: fingerprint of the music.
        needs: kinds whose code decides, too.
        weights: digests of other checkpoints that it is made from.
    """

    catalogue: str
    seed: int
    preset: str
    kind: str
    needs: Sequence[str] = ()
    weights: Sequence[str] = ()

    def find(self, folder: Path) -> Mapping[str, Any] | None:
        """What the checkpoint in a folder says, if making it anew would make the same and it is whole."""
        from tritone_training.api import CheckpointError

        try:
            info = read_info(folder, self.kind)
            mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        except (CheckpointError, OSError, ValueError):
            return None
        return info if mark == self._mark(info) else None

    def mark(self, folder: Path) -> Mapping[str, Any]:
        """Mark a checkpoint as whole, which is done last: a training that was stopped leaves no mark.

        Returns:
            What the checkpoint says.

        Raises:
            CheckpointError: it is not whole.
        """
        info = read_info(folder, self.kind)
        staged = folder / f".{_MARK}"
        staged.write_text(json.dumps(self._mark(info)), encoding="utf-8")
        staged.replace(folder / _MARK)
        return info

    def _mark(self, info: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "catalogue": self.catalogue,
            "seed": self.seed,
            "preset": self.preset,
            "code": "".join(code_digest(each) for each in (self.kind, *self.needs)),
            "weights": info["weights_sha256"],
            **({"made_from": list(self.weights)} if self.weights else {}),
        }


def read_info(folder: Path, kind: str) -> Mapping[str, Any]:
    """What a whole checkpoint says; a recommender has no weights, so its artifact's digest stands for them.

    Raises:
        CheckpointError: it is missing, damaged or of another kind.
    """
    from tritone_training import checkpoint

    if kind != RECOMMENDER:
        return checkpoint.load(folder, kind=kind).info
    from tritone_serving.recommender.artifact import files_of
    from tritone_training.kinds.recommender.build import ARTIFACT_FOLDER, TASTE_FOLDER, load_info, read_artifact

    info = load_info(folder)
    checkpoint.load(folder / TASTE_FOLDER, kind=TASTE_FOLDER)
    files = files_of(read_artifact(folder / ARTIFACT_FOLDER))
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {**info, "weights_sha256": _digest_of(digests)}


def _digest_of(digests: Mapping[str, str]) -> str:
    """Of an artifact, by its files' digests; what export adds to them is made of them."""
    known = {name: each for name, each in digests.items() if name.endswith((".npy", ".json"))}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def code_digest(kind: str) -> str:
    """Of the kind's own modules: an upgrade may have changed the preset, or the network."""
    digest = hashlib.sha256()
    for package in (f"tritone_training.kinds.{kind}", *_PACKAGES.get(kind, ())):
        for path in sorted(Path(importlib.import_module(package).__path__[0]).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Version:
    """A model in the repository.

    Attributes:
        max_abs_difference: from PyTorch, over all outputs; None where there is no network.
    """

    model: str
    version: int
    path: Path
    max_abs_difference: float | None

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "model": self.model,
            "version": self.version,
            "path": str(self.path),
            "max_abs_difference": self.max_abs_difference,
        }


def newest_ensemble(model: Path, info: Mapping[str, Any]) -> Version | None:
    """The newest version of an ensemble of models, if it is no older than this checkpoint: it holds but its card."""
    numbers = [int(path.name) for path in model.glob("[0-9]*") if path.name.isdigit()]
    if not numbers:
        return None
    path = model / str(max(numbers))
    try:
        card = json.loads((path / "model_card.json").read_text(encoding="utf-8"))
        return Version(card["model"], max(numbers), path, None) if card["created_utc"] >= info["created_utc"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def newest_version(model: Path, info: Mapping[str, Any]) -> Version | None:
    """The newest version of a model, if it was made of this checkpoint and is whole.

    Args:
        model: the model's folder in the repository.
        info: what the checkpoint says.
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
            return Version(card["model"], int(card["version"]), path, None)
        differences = [value for batch in card["parity"]["max_abs_difference"].values() for value in batch.values()]
        return Version(card["model"], int(card["version"]), path, float(max(differences)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
