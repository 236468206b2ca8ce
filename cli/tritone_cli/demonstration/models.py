"""A trained and exported model of each kind, made anew only where something has changed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritone_cli import console, options

if TYPE_CHECKING:
    from tritone_training.catalogue import Catalogue

# A part of the default presets' size and time: enough to hear what a kind does, in a few minutes for all of them.
PRESET: Final = "demo"
_MARK: Final = "demo.json"  # beside the checkpoint: what it was made from


def trained(
    kind: str, checkpoint: Path, catalogue: Catalogue, *, seed: int, retrain: bool, progress: bool
) -> dict[str, Any]:
    """Train a kind, unless an earlier run's checkpoint is of the same catalogue and seed.

    Returns:
        What checkpoint.json says.
    """
    from tritone_training import checkpoint as checkpoints
    from tritone_training.api import CheckpointError, TrainRequest, get_kind

    mark = {"catalogue": catalogue.fingerprint, "seed": seed, "preset": PRESET}
    if not retrain:
        try:
            info = dict(checkpoints.load(checkpoint, kind=kind).info)
            if json.loads((checkpoint / _MARK).read_text(encoding="utf-8")) == mark | {
                "weights": info["weights_sha256"]
            }:
                console.say(f"      {kind}: already trained on this catalogue (--retrain trains again)")
                return info
        except (CheckpointError, OSError, ValueError):
            pass
    request = TrainRequest(
        out=checkpoint, seed=seed, preset=PRESET, progress=progress, command=options.command_line(sys.argv)
    )
    get_kind(kind).train(request)
    info = dict(checkpoints.load(checkpoint, kind=kind).info)
    # Written last: a training that was killed leaves no mark.
    (checkpoint / _MARK).write_text(json.dumps(mark | {"weights": info["weights_sha256"]}), encoding="utf-8")
    return info


def exported(kind_name: str, checkpoint: Path, info: dict[str, Any], repository: Path) -> str:
    """Export a checkpoint's models, unless their newest versions already are of this checkpoint.

    Returns:
        One line on what was done.
    """
    from tritone_export import export_kind
    from tritone_training.api import get_kind

    kind = get_kind(kind_name)
    newest = [_newest_card(repository / declaration.name) for declaration in kind.declarations]
    if all(card.get("weights_sha256") == info["weights_sha256"] for card in newest):
        return f"{kind_name}: already there"
    results = export_kind(kind.export(checkpoint, None), kind, repository=repository)
    largest = max(difference for result in results for difference in result.parity.max_abs_difference.values())
    names = ", ".join(f"{result.model} version {result.version}" for result in results)
    return f"{names}: at most {largest:.1e} from PyTorch"


def _newest_card(model: Path) -> dict[str, Any]:
    versions = sorted((int(path.name) for path in model.glob("[0-9]*") if path.name.isdigit()), reverse=True)
    for version in versions[:1]:
        try:
            card: dict[str, Any] = json.loads((model / str(version) / "model_card.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return card
    return {}
