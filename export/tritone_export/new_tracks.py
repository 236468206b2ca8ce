"""Add tracks to a served recommender without a new fit: a new version of it with more items.

The version is written next to the others, or published to a running server like any other version: tested under a
temporary name, then switched over without a lost request. Adding the same tracks again changes nothing.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from tritone.arguments import check_model_name
from tritone.atomic import restrict_to_owner
from tritone.audio import iter_windows
from tritone.constants import GENRE_MODEL
from tritone_export._exceptions import ExportError, RepositoryBusyError, RepositoryError
from tritone_export.candidates import check_files, files_in, newest, read_card, reference_of
from tritone_export.card import CARD_FILENAME, card_bytes, checksum
from tritone_export.publishing import Live, publish_live
from tritone_export.repository import publish, require_newest, translated
from tritone_serving.recommender import Artifact, RecommenderError, open_artifact, write_artifact
from tritone_serving.recommender.artifact import EMBEDDING_MODEL, EMBEDDINGS, files_of
from tritone_serving.recommender.embedding_weights import read_json, weights_digest
from tritone_serving.recommender.new_items import AddedItems, NewItem, with_items
from tritone_serving.recommender.similarity import INDEX_FILENAME, build_index

_LOCK: Final = ".tracks.lock"
_LOCK_TIMEOUT_S: Final = 120.0
_WINDOWS_AT_ONCE: Final = 32
Floats = npt.NDArray[np.float32]
# Returns the embedding (256,) of norm 1 and the emotions (9,) of a recording, or None for unknown emotions.
Embedder = Callable[[Path], tuple[Floats, Floats | None]]


@dataclass(frozen=True)
class TracksAdded:
    """Result of `add_tracks`.

    Attributes:
        items: what changed.
        version: number of the new version; None if nothing changed.
        before: number of the version it was made from.
        n_items: tracks of the recommender now.
        seconds: duration.
        is_live: whether the new version was published to a running server.
    """

    items: AddedItems
    version: int | None
    before: int
    n_items: int
    seconds: float
    is_live: bool


def recording_embedder(repository: Path, *, model: str = "recommender") -> Embedder:
    """Return a function that embeds recordings by the repository's `genre_cnn`, in this process.

    Raises:
        ExportError: the recommender has no embeddings, the repository has no `genre_cnn`, or it is another network than
            the one that embedded the recommender's tracks.
    """
    manifest = open_newest(repository, model).manifest
    if EMBEDDINGS not in manifest["arrays"]:
        raise ExportError(
            f"{repository / model}: was trained without recordings, so that it cannot compare sound; leave "
            f"--recordings out, or train with --recordings"
        )
    version = newest(repository, GENRE_MODEL)
    check_files(version)
    expected, found = weights_digest(manifest.get(EMBEDDING_MODEL)), weights_digest(read_json(version / CARD_FILENAME))
    if expected is None or found != expected:
        raise ExportError(
            f"{version}: expected the {GENRE_MODEL} that embedded the tracks of {model} (weights "
            f"{(expected or 'unknown')[:12]}), got weights {(found or 'unknown')[:12]}; export the {GENRE_MODEL} that "
            f"the recommender was trained with"
        )
    run = reference_of(version, version.parent / "config.pbtxt")
    if run is None:
        raise ExportError(f"{version}: has no ONNX file that can be run here; install tritone[export]")

    def embed(path: Path) -> tuple[Floats, Floats | None]:
        windows = iter_windows(path)
        parts: list[Mapping[str, Floats]] = []
        while batch := [window.samples for window in islice(windows, _WINDOWS_AT_ONCE)]:
            parts.append(run({"audio": np.stack(batch).astype(np.float32)}))
        embedding, emotions = (
            np.concatenate([part[name] for part in parts]).mean(0).astype(np.float32)
            for name in ("embedding", "emotions")
        )
        length = max(float(np.linalg.norm(embedding)), 1e-9)
        return (embedding / length).astype(np.float32), emotions if (emotions >= 0).all() else None

    return embed


def open_newest(repository: Path, model: str) -> Artifact:
    """Open the newest version of a recommender.

    Raises:
        RepositoryError: there is none, or it is damaged.
    """
    check_model_name(model)
    try:
        return open_artifact(newest(repository, model))
    except RecommenderError as error:
        raise RepositoryError(str(error)) from error


def add_tracks(
    items: Sequence[NewItem],
    repository: Path,
    *,
    model: str = "recommender",
    live: Live | None = None,
    dry_run: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> TracksAdded:
    """Add tracks to the newest version of a recommender, or update them; write the result as the next version.

    Args:
        items: with unique ids.
        repository: the model repository.
        model: name of the recommender.
        live: the running server to publish to; None writes the version only.
        dry_run: report what would change, and write nothing.
        on_step: called with a description of each step when it begins.

    Raises:
        RepositoryError: there is no such recommender, it is damaged, or the repository cannot be written.
        RepositoryBusyError: tracks are being added by another process, or another version was published meanwhile.
        DiskFullError: the disk is full; nothing was changed.
        RefusedVersionError: the running server cannot serve the new version; the previous one stays live.
    """
    start_s = time.monotonic()
    with translated(repository / model), _alone(repository, model):
        artifact = open_newest(repository, model)
        base = int(artifact.folder.name)
        on_step(f"adding {len(items)} tracks to {artifact.n_items}")
        manifest, arrays, changed = with_items(artifact, items)
        result = TracksAdded(changed, None, base, int(manifest["n_items"]), 0.0, False)
        if not dry_run and (changed.added or changed.updated):
            version = _write(repository, model, artifact, manifest, arrays, live=live, on_step=on_step)
            result = TracksAdded(changed, version, base, int(manifest["n_items"]), 0.0, live is not None)
    return TracksAdded(result.items, result.version, base, result.n_items, time.monotonic() - start_s, result.is_live)


def _write(
    repository: Path,
    model: str,
    artifact: Artifact,
    manifest: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
    *,
    live: Live | None,
    on_step: Callable[[str], None],
) -> int:
    base = artifact.folder
    with tempfile.TemporaryDirectory(prefix=".tracks-", dir=repository) as path:
        staged = Path(path) / model / "1"
        write_artifact(staged, manifest, arrays)
        if EMBEDDINGS in arrays and (index := build_index(arrays[EMBEDDINGS])):
            (staged / INDEX_FILENAME).write_bytes(index)
        known = {path.name for path in files_of(artifact)} | {CARD_FILENAME, INDEX_FILENAME}
        for name, file in files_in(base, is_version=True).items():  # what is not part of the artifact
            if name not in known:
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, staged / name)
        files = files_in(staged, is_version=True)
        card = {
            **read_card(base),
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "n_items": manifest["n_items"],
            "n_items_added": manifest["n_items"] - manifest["n_fitted_items"],
            "files": {name: checksum(file) for name, file in files.items()},
        }
        if live is None:
            on_step(f"{model}: writing the version")

            def version_files(number: int) -> dict[str, bytes | Path]:
                require_newest(repository / model, int(base.name))
                return {**files, CARD_FILENAME: card_bytes({**card, "version": number})}

            return int(publish(repository / model, version_files=version_files, model_files={}).name)
        (staged / CARD_FILENAME).write_bytes(card_bytes({**card, "version": 1}))
        restrict_to_owner(staged)
        for name, file in files_in(repository / model).items():
            (staged.parent / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, staged.parent / name)
        published = publish_live(Path(path), [model], live, on_step=on_step, replaces={model: int(base.name)})
        return published[0].version


@contextmanager
def _alone(repository: Path, model: str) -> Iterator[None]:
    folder = repository / model
    if not folder.is_dir():
        raise RepositoryError(f"{repository}: no model {model}: expected a recommender; name it with --model")
    lock = FileLock(folder / _LOCK, timeout=_LOCK_TIMEOUT_S)
    try:
        lock.acquire()
    except Timeout:
        raise RepositoryBusyError(
            f"{folder}: tracks are being added by another process; wait until it ends, then repeat the command"
        ) from None
    try:
        yield
    finally:
        lock.release()
