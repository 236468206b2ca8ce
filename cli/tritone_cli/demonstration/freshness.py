"""Whether what an earlier run has made will do: checkpoints by a mark that is written last, versions by their card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_MARK: Final = "demo.json"  # beside the checkpoint: what it was made from


@dataclass(frozen=True)
class Making:
    """What a checkpoint is made from, apart from its own settings.

    Attributes:
        catalogue: fingerprint of the music.
        needs: kinds whose code decides, too.
    """

    catalogue: str
    seed: int
    preset: str
    kind: str
    needs: Sequence[str] = ()

    def find(self, folder: Path) -> Mapping[str, Any] | None:
        """What the checkpoint in a folder says, if making it anew would make the same and it is whole."""
        from tritone_training import checkpoint
        from tritone_training.api import CheckpointError

        try:
            info = checkpoint.load(folder, kind=self.kind).info
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
        from tritone_training import checkpoint

        info = checkpoint.load(folder, kind=self.kind).info
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
        }


def code_digest(kind: str) -> str:
    """Of the kind's own modules: an upgrade may have changed the preset, or the network."""
    import tritone_training.kinds

    digest = hashlib.sha256()
    for path in sorted((Path(tritone_training.kinds.__path__[0]) / kind).glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Version:
    """A model in the repository.

    Attributes:
        max_abs_difference: from PyTorch, over all outputs.
    """

    model: str
    version: int
    path: Path
    max_abs_difference: float

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "model": self.model,
            "version": self.version,
            "path": str(self.path),
            "max_abs_difference": self.max_abs_difference,
        }


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
        if card["weights_sha256"] != info["weights_sha256"] or card["created_utc"] < info["created_utc"]:
            return None
        for name, file in card["files"].items():
            if hashlib.sha256((path / name).read_bytes()).hexdigest() != file["sha256"]:
                return None
        differences = [value for batch in card["parity"]["max_abs_difference"].values() for value in batch.values()]
        return Version(card["model"], int(card["version"]), path, float(max(differences)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
