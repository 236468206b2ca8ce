"""Create starter weights from a checkpoint: check its data, convert it to half precision, and measure the loss.

    python -m tritone_training.starter_packing --checkpoint runs/starter/music_vae --out weights/music_vae

`make weights` trains the checkpoints and packs them.
"""

from __future__ import annotations

import argparse
import json
import math
import reprlib
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from tritone import TritoneError
from tritone.atomic import write_atomically
from tritone_training import checkpoint
from tritone_training.corpus import PUBLIC_DOMAIN, parse_selection
from tritone_training.exceptions import CheckpointError
from tritone_training.kind import EvaluateRequest, ModelKind
from tritone_training.registry import get_kind
from tritone_training.starter_weights import MAX_TOTAL_BYTES
from tritone_training.training_logs import model_card

CARD: Final = "README.md"
LICENCE: Final = "Apache-2.0; trained on music in the public domain, see LICENSES.md"
MAX_LOSS: Final = 0.002  # in the metric that a kind's training maximises, such as nats per frame or a share of notes
_FOLDER_OPTIONS: Final = ("--out", "--warm-start")
_OWN_ENTRIES: Final = frozenset({"format", "kind", "weights", "weights_sha256", "asked"})


@dataclass(frozen=True)
class PackedWeights:
    """Starter weights that were written.

    Attributes:
        folder: a checkpoint folder.
        metric: name of the metric.
        float32, float16: its value on the validation split in single and in half precision.
        n_bytes: size of the folder in bytes.
    """

    folder: Path
    metric: str
    float32: float
    float16: float
    n_bytes: int

    @property
    def loss(self) -> float:
        """Return the decrease of the metric in half precision; negative if it is better."""
        return self.float32 - self.float16


def pack(folder: Path, out: Path, *, max_loss: float = MAX_LOSS, progress: bool = True) -> PackedWeights:
    """Write the starter weights of a checkpoint; the previous content of `out` is replaced.

    Args:
        folder: checkpoint folder.
        out: folder of the kind's starter weights, in the folder of all starter weights.
        max_loss: maximum loss by half precision, in the kind's metric.
        progress: show progress bars on stderr.

    Raises:
        CheckpointError: the checkpoint cannot be used; it, or a checkpoint that it was warm-started from, was trained
            on data whose terms do not permit distributing the weights; the loss is too large; or all starter weights
            together would be too large.
        DataError: the data cannot be used for evaluation.
    """
    info = _read_info(folder)
    kind = get_kind(str(info.get("kind")))
    trained = checkpoint.load(folder, kind=kind.name)
    require_shareable(folder, info)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".packing-", dir=out.parent) as parent:
        packed = Path(parent) / out.name
        own = {name: value for name, value in info.items() if name not in _OWN_ENTRIES}
        own |= {checkpoint.STORED_DTYPE: "float16", "licence": LICENCE, **training_history(folder, info)}
        checkpoint.save(packed, kind=kind.name, info=own, weights=_halved(trained))
        float32, float16 = (_measure(kind, each, info, progress=progress) for each in (folder, packed))
        if float32 - float16 > max_loss:
            raise CheckpointError(
                f"{folder}: half precision reduces {kind.score} by {float32 - float16:.4g}: expected at most "
                f"{max_loss:g}; pass a larger --max-loss if this is acceptable"
            )
        saved = checkpoint.read_info(packed)
        measured = {"split": "valid", "metric": kind.score, "float32": float32, "float16": float16}
        saved["half_precision"] = {**measured, "loss": float32 - float16}
        checkpoint.update_info(packed, saved)
        write_atomically(packed / CARD, _card(saved))
        kind.export(packed)  # fails if a file that the export needs is missing
        n_bytes = _size(packed)
        _require_room(out, n_bytes)
        shutil.rmtree(out, ignore_errors=True)
        packed.replace(out)
    return PackedWeights(out, kind.score, float32, float16, n_bytes)


def require_shareable(folder: Path, info: Mapping[str, Any], *, before: frozenset[Path] = frozenset()) -> None:
    """Check that a checkpoint was trained only on collections in the public domain.

    Args:
        folder: folder of the checkpoint, for error messages.
        info: content of checkpoint.json.
        before: folders of the checkpoints that were warm-started from it.

    Raises:
        CheckpointError: it was trained on other or unknown data, or warm-started from such a checkpoint, or in a
            circle; checkpoint.json is damaged.
        DataError: the data has an unknown name.
    """
    before |= {folder.resolve()}
    data = info.get("data") or {}
    styles = (data.get("styles") or {}) if isinstance(data, dict) else None
    if not isinstance(styles, dict | list) or not all(isinstance(style, str) for style in styles):
        raise _damaged(folder, "data", "an object with styles by name", data)
    source = str(data.get("source") or "")
    selection = parse_selection(source)
    if selection is None or not selection.may_share_weights or not set(styles) <= set(selection.collections):
        raise CheckpointError(
            f"{folder}: the terms of its data do not permit distributing its weights: expected collections among "
            f"{', '.join(PUBLIC_DOMAIN)}, got {source or 'unknown data'}; train with --data corpus:public-domain"
        )
    if (warm_start := _warm_start(folder, info)) is None:
        return
    if "data" in warm_start:  # starter weights name the data of all trainings
        require_shareable(folder, warm_start, before=before)
        return
    start = Path(warm_start["checkpoint"])
    if start.resolve() in before:
        raise CheckpointError(
            f"{start}: was warm-started from itself: expected a checkpoint of an earlier training; correct the "
            f"warm_start in {checkpoint.INFO}, or train again"
        )
    require_shareable(start, _read_info(start), before=before)


def training_history(folder: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a checkpoint was trained, without the folders of the machine: its command, and those before it."""
    history: dict[str, Any] = {"command": _portable(str(info.get("command", "")))}
    if (warm_start := _warm_start(folder, info)) is not None:
        if "data" in warm_start:  # starter weights name all trainings before them
            history["warm_start"] = warm_start
            return history
        start = Path(warm_start["checkpoint"])
        before = _read_info(start)
        facts = {name: before[name] for name in ("n_epochs", "data") if name in before}
        history["warm_start"] = {**warm_start, "checkpoint": "", **facts, **training_history(start, before)}
    return history


def _warm_start(folder: Path, info: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the entry about the checkpoint that a training continued: its folder, or its data; None if there is none.

    Raises:
        CheckpointError: the entry is damaged.
    """
    warm_start = info.get("warm_start")
    if warm_start is None:
        return None
    start = warm_start.get("checkpoint") if isinstance(warm_start, dict) else None
    is_named = isinstance(start, str) and start and "\0" not in start
    if not isinstance(warm_start, dict) or not (is_named or "data" in warm_start):
        raise _damaged(folder, "warm_start", "an object with the folder of a checkpoint", warm_start)
    return dict(warm_start)


def _damaged(folder: Path, entry: str, expected: str, value: object) -> CheckpointError:
    return CheckpointError(
        f"{folder / checkpoint.INFO}: invalid {entry}: expected {expected}, got {reprlib.repr(value)}; train again"
    )


def _portable(command: str) -> str:
    """Return a command of training without --out and --resume, and with --warm-start DIR for any folder."""
    try:
        words = shlex.split(command)
    except ValueError:  # unbalanced quotes: not a command line
        words = command.split()
    kept: list[str] = []
    while words:
        word = words.pop(0)
        name, _, value = word.partition("=")
        if name in _FOLDER_OPTIONS:
            if not value and words:
                words.pop(0)
            kept += [] if name == "--out" else [name, "DIR"]
        elif word != "--resume":
            kept.append(word)
    return shlex.join(kept)


def _read_info(folder: Path) -> dict[str, Any]:
    try:
        info = checkpoint.read_info(folder)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{folder}: the checkpoint cannot be read: expected a checkpoint folder ({error})"
        ) from error
    if not isinstance(info, dict):
        raise CheckpointError(f"{folder}: {checkpoint.INFO} is damaged; train again")
    return info


def _halved(trained: checkpoint.Checkpoint) -> dict[str, torch.Tensor]:
    """Return the weights in half precision; integers stay as they are."""
    halved = {name: each.half() if each.is_floating_point() else each for name, each in trained.weights.items()}
    for name, each in halved.items():
        if not torch.isfinite(each).all() and torch.isfinite(trained.weights[name]).all():
            raise CheckpointError(f"{trained.folder}: {name} has values beyond the range of half precision, 65,504")
    return halved


def _measure(kind: ModelKind, folder: Path, info: Mapping[str, Any], *, progress: bool) -> float:
    request = EvaluateRequest(folder, data=Path(info["data"]["source"]), split="valid", progress=progress)
    value = float(kind.evaluate(request).metrics[kind.score])
    if not math.isfinite(value):
        raise CheckpointError(f"{folder}: {kind.score} is {value}: expected a number; train again")
    return value


def _card(info: Mapping[str, Any]) -> str:
    half = {name: value for name, value in info["half_precision"].items() if name not in ("metric", "split")}
    metric, split = info["half_precision"]["metric"], info["half_precision"]["split"]
    terms = info["data"].get("terms", {})
    return (
        model_card(info, {**info["metrics"], f"{split}/{metric} by precision": half})
        + earlier_commands(info)
        + f"\n## Use\n\n```sh\ntritone export {info['kind']} --starter\n```\n\n## Data\n\n"
        + "".join(f"- `{name}`: {text}\n" for name, text in terms.items())
        + "\nThe terms are in [LICENSES.md](../LICENSES.md). Files of the data are not distributed.\n"
    )


def earlier_commands(info: Mapping[str, Any]) -> str:
    """Return a section of the card about the trainings that the last one continued, the first one first."""
    commands: list[str] = []
    while info := info.get("warm_start") or {}:
        epochs = f" ({info['n_epochs']} epochs)" if "n_epochs" in info else ""
        commands.insert(0, f"1. `{info['command']}`{epochs}\n")
    return "\n## Trained before as\n\n" + "".join(commands) if commands else ""


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _require_room(out: Path, n_bytes: int) -> None:
    others = sum(_size(path) for path in out.parent.iterdir() if path.is_dir() and path.name[0] != "." and path != out)
    if others + n_bytes > MAX_TOTAL_BYTES:
        raise CheckpointError(
            f"{out}: all starter weights together would have {(others + n_bytes) / 1e6:.1f} MB: expected at most "
            f"{MAX_TOTAL_BYTES / 1e6:.0f} MB; train a smaller network"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack one checkpoint, print the result as JSON, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tritone_training.starter_packing", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="Checkpoint folder written by `tritone train`.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the kind's starter weights.")
    parser.add_argument(
        "--max-loss",
        type=float,
        default=MAX_LOSS,
        help="Maximum loss by half precision, in the metric of the kind (%(default)s).",
    )
    given = parser.parse_args(arguments)
    try:
        packed = pack(given.checkpoint, given.out, max_loss=given.max_loss)
    except TritoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({**vars(packed), "folder": str(packed.folder), "loss": packed.loss}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
