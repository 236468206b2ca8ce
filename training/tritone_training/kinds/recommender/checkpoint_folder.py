"""Checkpoint folder of `recommender`: its files, and their atomic replacement.

```
runs/recommender/
  checkpoint.json   options, data report, metrics, versions
  artifact/         the data served by `cf_ensemble`, see tritone_serving.recommender.artifact
  taste_vae/        checkpoint of `taste_vae`
  taste_sequence/   checkpoint of `taste_sequence`, if the log has an order
  selection/        with --refit-on-all: the fit without the held-out listens (artifact, taste_vae, checkpoint.json)
  recommender.key   key of the users' pseudonyms, readable by its owner only; store it apart from the artifact
```

A training that fails or is interrupted does not change an existing checkpoint. The new parts are written to a subfolder
of the checkpoint (`unfinished/recommender`, see `runs`), so that moving them is a rename on any file system. A crash
between two renames can still leave parts of both fits; therefore checkpoint.json and the artifact's manifest both hold
an id of the fit, and a checkpoint whose parts differ is refused.

An interrupted training can be resumed: `taste_vae` continues after its last complete epoch, or is kept if it was
finished. The other base models are fitted again. They have closed forms, so the result is the same, and their
intermediate results would be listening histories outside of a checkpoint.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tritone.atomic import make_private_folder, restrict_to_owner
from tritone_serving.recommender import TASTE, TASTE_SEQUENCE, Artifact, RecommenderError, open_artifact
from tritone_training import checkpoint
from tritone_training.checkpoint import SELECTION_FOLDER, UNFINISHED
from tritone_training.exceptions import CheckpointError, TrainingError

KIND_NAME: Final = "recommender"
ARTIFACT_FOLDER: Final = "artifact"
KEY_FILENAME: Final = "recommender.key"
FIT: Final = "fit"  # in checkpoint.json and in the manifest
REFIT: Final = "refit"  # in checkpoint.json and in the manifest of a fit on all listens
# In the order in which they are put in place.
PARTS: Final = (ARTIFACT_FOLDER, TASTE, TASTE_SEQUENCE, SELECTION_FOLDER, checkpoint.INFO)
_STAGED: Final = f"{UNFINISHED}/recommender"
_REPLACED: Final = ".replaced"
_PRIVATE_MODE: Final = 0o700


def load_info(folder: Path) -> Mapping[str, Any]:
    """Return the content of checkpoint.json.

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


def read_artifact(folder: Path) -> Artifact:
    """Open an artifact.

    Raises:
        CheckpointError: it is missing, damaged, or of another version.
    """
    try:
        return open_artifact(folder)
    except RecommenderError as error:
        raise CheckpointError(str(error)) from error


def new_fit() -> str:
    """Return a random id of a fit."""
    return secrets.token_hex(8)


@contextmanager
def staging(folder: Path, *, resume: bool) -> Iterator[Path]:
    """Yield a folder for an unfinished checkpoint; it is removed at the end, also after an exception.

    It is kept if the process is killed. It is empty unless `resume` is set: then it may hold a `taste_vae`, finished or
    not.

    Raises:
        TrainingError: the folder cannot be created.
    """
    staged = folder / _STAGED
    try:
        _clear(folder, keep_staged=resume)
        if not folder.exists():
            make_private_folder(folder)
        elif not {entry.name for entry in folder.iterdir()} - {UNFINISHED, KEY_FILENAME}:
            folder.chmod(_PRIVATE_MODE)
        if not staged.exists():
            staged.parent.mkdir(exist_ok=True)
            make_private_folder(staged)
    except OSError as error:
        raise TrainingError(f"{staged}: cannot be written ({error.strerror}); give another --out") from error
    try:
        yield staged
    except Exception:
        _remove(staged)
        raise
    _remove(staged)


def put_in_place(folder: Path, staged: Path, parts: tuple[str, ...]) -> None:
    """Replace the parts of a checkpoint by staged ones; old parts that the new checkpoint lacks are removed.

    The new parts are readable by their owner only, since they contain listening histories or were trained on them.

    Args:
        parts: names of files and folders, checkpoint.json last.
    """
    restrict_to_owner(staged)
    old = folder / _REPLACED
    make_private_folder(old)
    for part in parts:
        if (folder / part).exists():
            (folder / part).rename(old / part)
        if (staged / part).exists():
            (staged / part).rename(folder / part)
    _clear(folder)


def check_together(folder: Path, info: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Check that artifact and checkpoint.json are of the same fit; checkpoints without fit ids are accepted.

    Raises:
        CheckpointError: they do not belong together.
    """
    if info.get(FIT) != manifest.get(FIT):
        raise CheckpointError(
            f"{folder}: its artifact is not the one that checkpoint.json describes (fit {manifest.get(FIT)}, expected "
            f"{info.get(FIT)}): a training was interrupted here; train again"
        )


def _remove(staged: Path) -> None:
    shutil.rmtree(staged, ignore_errors=True)
    with suppress(OSError):  # not empty if it holds the state of the run
        staged.parent.rmdir()


def _clear(folder: Path, *, keep_staged: bool = False) -> None:
    for name in (_REPLACED,) if keep_staged else (_STAGED, _REPLACED):
        if (folder / name).exists():
            shutil.rmtree(folder / name)
