"""The folder of a training run: not overwritten without `overwrite`, resumable after an interruption.

```
runs/genre_cnn/
  unfinished/          removed when the training is finished
    run.json           the request
    fit.ckpt           state after the last complete epoch: weights, optimiser, schedule, counters, random numbers
    fit-best-7.pt      weights of the best epoch so far
    best/              a checkpoint of that epoch, which can be evaluated and exported
```

Every file is written under a temporary name, synced and renamed, so that a kill at any time leaves the state of one
complete epoch.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritone import TritoneError
from tritone.atomic import replacing
from tritone_training import checkpoint, processes, training_logs
from tritone_training.checkpoint import SELECTION_FOLDER
from tritone_training.data.interactions.files import ListeningFiles
from tritone_training.exceptions import ProcessGroupError, TrainingError
from tritone_training.trained_checkpoint import TrainedCheckpoint

if TYPE_CHECKING:
    from tritone_training.kind import ModelKind, TrainRequest
    from tritone_training.processes import TrainingGroup

_RUN: Final = "run.json"
_ASKED: Final = "asked"
# Allowed in the folder of a new training: logs of one that failed, the key for pseudonyms, the autoencoder of a
# `music_gan`, the network of a selection, and what file systems put there.
_IGNORED: Final = frozenset({"logs", "refit", "recommender.key", "music_vae", SELECTION_FOLDER, "lost+found"})
_EMBEDDED: Final = "embedded corpus"
_NOT_COMPARED: Final = ("key",)  # the key's file may move


def run_training(kind: ModelKind, request: TrainRequest) -> TrainedCheckpoint:
    """Train once and record the request and the result; in all processes of torchrun together, if it started this one.

    Returns:
        The result. With `request.resume` and a training that is finished already, `finished` is True.

    Raises:
        TrainingError: `request.out` holds a checkpoint, an interrupted training or other files and neither `resume` nor
            `overwrite` is set; or the training to resume was of other data or settings.
    """
    with processes.join_training_group() as group:
        if group is None:
            return TrainedCheckpoint.from_summary(kind.name, _run(kind, request))
        if not kind.in_several_processes:
            raise TrainingError(
                f"{kind.name}: cannot be trained by several processes; start it with `tritone train {kind.name}`"
            )
        if group.is_rank_zero:
            return TrainedCheckpoint.from_summary(kind.name, group.finish(_run(kind, request, group)))
        with tempfile.TemporaryDirectory(prefix="tritone-") as folder:
            _follow(kind, replace(request, out=Path(folder) / request.out.name, progress=False), group)
        return TrainedCheckpoint.from_summary(kind.name, group.finish())


def _follow(kind: ModelKind, request: TrainRequest, group: TrainingGroup) -> None:
    """Train together with rank 0, unless it has nothing to train; what is written to `request.out` is not kept."""
    if group.broadcast():
        kind.prepare(request)(request)


def _run(kind: ModelKind, request: TrainRequest, group: TrainingGroup | None = None) -> Mapping[str, Any]:
    asked = asked_of(request)
    interrupted = _read(request.out / checkpoint.UNFINISHED / _RUN)
    info = _read(request.out / checkpoint.INFO)
    if request.resume and interrupted is None and info is not None:
        _check_same(request.out, info, {"kind": kind.name, _ASKED: asked} if _ASKED in info else {"kind": kind.name})
        if group is not None:
            group.broadcast(False)
        return _finished(request.out, info)
    if request.resume and interrupted is not None:
        _check_same(request.out, interrupted, {"kind": kind.name, _ASKED: asked})
    elif not request.overwrite:
        _require_unused(request.out, info=info, is_interrupted=interrupted is not None)
    run = {"kind": kind.name, _ASKED: asked, "command": request.command}
    if not (request.resume and interrupted is not None):
        discard_state(request.out)
        interrupted = None
    if group is not None:
        group.broadcast(True)
    return _train(kind, request, run, interrupted)


def _train(
    kind: ModelKind, request: TrainRequest, run: Mapping[str, Any], interrupted: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    from tritone_training.training_logs import mlflow_run

    is_new = not request.out.exists()
    with mlflow_run(request, kind.name, run_id=(interrupted or {}).get("mlflow_run")) as tracker:
        run_id = None if tracker is None else tracker.run_id
        _write(request.out / checkpoint.UNFINISHED / _RUN, {**run, "mlflow_run": run_id})
        request = replace(request, mlflow_run=run_id)
        try:
            summary = kind.prepare(request)(request)
        except ProcessGroupError:
            raise  # the state is good
        except TritoneError:
            if interrupted is None:  # a failed training would fail again
                discard_state(request.out)
                if is_new and not any(request.out.iterdir()):
                    request.out.rmdir()
            raise
        info = {**checkpoint.read_info(request.out), _ASKED: run[_ASKED]}
        checkpoint.update_info(request.out, info)
        training_logs.write_hyper_parameters(request.out, info, summary["metrics"])
        if kind.is_private:
            from tritone_serving.recommender.artifact import close_to_others

            close_to_others(request.out)
        if tracker is not None:
            tracker.log_result(request.out, info, summary["metrics"])
    discard_state(request.out)
    return summary


def asked_of(request: TrainRequest) -> dict[str, Any]:
    """Return what decides the result of a training, as plain values for JSON."""
    if isinstance(request.data, ListeningFiles):
        files = request.data
        source = {name: _plain(getattr(files, name)) for name in files.given() if name not in _NOT_COMPARED}
        if files.interactions is None:
            source["data"] = _EMBEDDED
    else:
        source = {"data": _plain(request.data) or _EMBEDDED}
    return {
        **source,
        **{name: getattr(request, name) for name in ("preset", "seed", "fold", "pretrained", "max_epochs")},
        "warm_start": _plain(request.warm_start),
        "taste_vae": _plain(request.taste_vae),
        "refit_on_all": request.refit_on_all,
        "settings": dict(request.overrides),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the values that differ, as text; empty if all are equal."""
    names = [*before, *(name for name in now if name not in before)]
    return ", ".join(
        f"{name} was {before.get(name)!r}, is now {now.get(name)!r}"
        for name in names
        if _normalized(before.get(name)) != _normalized(now.get(name))
    )


def discard_state(out: Path) -> None:
    """Remove the state of an interrupted training."""
    shutil.rmtree(out / checkpoint.UNFINISHED, ignore_errors=True)


def _require_unused(out: Path, *, info: Mapping[str, Any] | None, is_interrupted: bool) -> None:
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out}: expected a folder, got a file; give another --out")
    if is_interrupted:
        raise TrainingError(
            f"{out}: expected a new or empty folder, got an interrupted training; continue it with --resume, replace "
            f"it with --overwrite, or give another --out"
        )
    if info is not None:
        raise TrainingError(
            f"{out}: expected a new or empty folder, got a trained {info.get('kind')} of "
            f"{info.get('created_utc', 'unknown date')}; give another --out, or replace it with --overwrite"
        )
    others = [
        entry.name
        for entry in (sorted(out.iterdir()) if out.is_dir() else ())
        if entry.name not in _IGNORED and not entry.name.startswith(".")
    ]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise TrainingError(
            f"{out}: expected a new or empty folder, got one with other files ({others[0]}{more}); give another "
            f"--out, or train into it with --overwrite"
        )


def _check_same(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if before.get("kind") != now["kind"]:
        raise TrainingError(
            f"{out}: expected a training of {now['kind']}, got one of {before.get('kind')}; give another --out"
        )
    asked_before = dict(before.get(_ASKED, {}))
    asked = now.get(_ASKED, asked_before)
    if "interactions" in asked and asked_before.get("data") == asked["interactions"]:  # the same log, given by --data
        asked_before["interactions"] = asked_before.pop("data")
    different = differences(asked_before, asked)
    if different:
        command = f" (`{before['command']}`)" if before.get("command") else ""
        raise TrainingError(
            f"{out}: cannot be resumed with other data or settings: {different}; give the same options as before"
            f"{command}, or another --out"
        )


def _finished(out: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "checkpoint": str(out),
        "finished": True,
        "n_epochs": info.get("n_epochs", 0),
        "metrics": info.get("metrics", {}),
        "data": info.get("data", {}),
    }


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, sync=True) as staged:
        staged.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if not isinstance(value, Path):
        return value
    from tritone_training.corpus import parse_selection
    from tritone_training.data.recordings import printable
    from tritone_training.data.tables import location_of

    if (selection := parse_selection(value)) is not None:
        return str(selection)
    return printable(location_of(value))


def _normalized(value: Any) -> Any:
    return json.loads(json.dumps(value))
