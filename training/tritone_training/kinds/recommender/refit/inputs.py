"""What a refit is made from: the log, the events, added tracks, removed users and the settings of the training."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tritone_serving.events import open_store
from tritone_serving.recommender import Artifact, KeyFileError, read_key
from tritone_serving.recommender.forgotten import marks_in
from tritone_serving.recommender.pseudonyms import key_check
from tritone_training.data.interactions import ListeningData, ListeningFiles
from tritone_training.data.tables import url_of
from tritone_training.exceptions import HyperparameterError, TrainingError
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.checkpoint_folder import KEY_FILENAME
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.recommender.refit.added_tracks import AddedTracks, with_added_tracks
from tritone_training.kinds.recommender.refit.state import RefitRequest, RefitState
from tritone_training.kinds.recommender.refit.stored_events import (
    StoredEvents,
    known_events,
    user_names,
    without_forgotten,
)
from tritone_training.kinds.recommender.training_data import TrainingData, prepare

EVENTS_FILENAME: Final = "events.npz"
REQUEST: Final = "asked"  # in checkpoint.json: the request of the training, see `runs`
_NOT_FILES: Final = (
    "preset",
    "seed",
    "fold",
    "pretrained",
    "max_epochs",
    "warm_start",
    "taste_vae",
    "settings",
    "refit_on_all",
    "data",
)


@dataclass(frozen=True, eq=False)
class RefitInputs:
    """What a refit is made from.

    Attributes:
        request: of the fits; `out` is the checkpoint.
        config: hyper-parameters of the training.
        prepared: tags, metadata and recordings, and the whole log as `listening.train`.
        events: known events of users who were not removed.
        names: pseudonym -> raw id of the log's users.
        left_out: numbers of events that are not used.
        marks: of users who were removed.
        n_forgotten: users of the log who were left out.
        key: of the users' pseudonyms, and key_path its file.
        fingerprint: of all this.
        added: ids of items that were added to the served version and are not in the metadata.
    """

    request: TrainRequest
    config: RecommenderConfig
    prepared: TrainingData
    events: StoredEvents
    names: Mapping[str, str]
    left_out: Mapping[str, int]
    marks: frozenset[str]
    n_forgotten: int
    key: bytes
    key_path: Path
    fingerprint: Mapping[str, Any]
    added: Sequence[str]

    @property
    def listening(self) -> ListeningData:
        """The log with tags and metadata."""
        return self.prepared.listening


class InputReader:
    """Reads the inputs of a refit.

    Args:
        request: of the refit.
        folder: of the refit's state; saved events are read from it.
        info: content of checkpoint.json.
        before: the previous artifact.
        state: of an interrupted refit.
        stage: times the stages `log` and `events`.
    """

    def __init__(
        self,
        request: RefitRequest,
        folder: Path,
        info: Mapping[str, Any],
        before: Artifact,
        *,
        state: RefitState,
        stage: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._request = request
        self._folder = folder
        self._info = info
        self._before = before
        self._state = state
        self._stage = stage

    def read(self, served: Artifact | None) -> RefitInputs:
        """Read the inputs.

        Args:
            served: the artifact that is served now; None if there is none.

        Raises:
            TrainingError: the key is missing or wrong, or the data of the checkpoint cannot be read.
            EventStoreError: the event store is down or damaged.
        """
        marks = marks_in(self._before.manifest) | (marks_in(served.manifest) if served is not None else frozenset())
        key_path = self._key_path()
        try:
            key = read_key(key_path)
        except KeyFileError as error:
            raise TrainingError(str(error)) from error
        if key_check(key) != self._before.manifest["key_check"]:
            raise TrainingError(
                f"{key_path}: wrong key: expected the one that {self._request.checkpoint} was made with; name it with "
                f"--key"
            )
        train_request = self._train_request(key_path)
        with self._stage("log"):
            prepared = prepare(train_request)
            added = AddedTracks.of(self._before if served is None else served)
            more = [item for item in added.items if item not in prepared.listening.metadata]
            prepared = replace(prepared, **with_added_tracks(prepared.listening.whole(), prepared.sounds, added))
            log, n_forgotten = without_forgotten(prepared.listening.train, key, marks)
            prepared = replace(prepared, listening=replace(prepared.listening, train=log))
        with self._stage("events"):
            events = self._events()
        listening = prepared.listening
        tracks = {
            *log.items,
            *listening.metadata,
            *listening.tags.items,
            *(prepared.sounds.items if prepared.sounds else ()),
        }
        events, left_out = known_events(events, tracks, key, marks)
        try:
            config = RecommenderConfig(**self._info["config"])
        except HyperparameterError as error:
            raise TrainingError(
                f"{self._request.checkpoint}: its settings are of another version ({error}); train it again"
            ) from error
        fingerprint = {
            "log": log.fingerprint(),
            "tags": len(listening.tags),
            "metadata": len(listening.metadata),
            "events": _digest(events),
            "config": config.to_dict(),
            "fit": str(self._info.get("fit")),
        }
        return RefitInputs(
            replace(train_request, out=self._folder),
            config,
            prepared,
            events,
            user_names(log, key),
            left_out,
            marks,
            n_forgotten,
            key,
            key_path,
            fingerprint,
            more,
        )

    def _key_path(self) -> Path:
        if self._request.key is not None:
            return self._request.key
        recorded = self._info.get("key")
        return Path(str(recorded)) if recorded else self._request.checkpoint / KEY_FILENAME

    def _train_request(self, key_path: Path) -> TrainRequest:
        """Return the request of the training that made the checkpoint, with its files."""
        trained = self._info.get(REQUEST)
        if not isinstance(trained, dict):
            raise TrainingError(
                f"{self._request.checkpoint}: does not name the data of its training; train it again with this version"
            )
        files = {name: value for name, value in trained.items() if name not in _NOT_FILES and value is not None}
        source = trained.get("data")
        if (
            source is not None
            and "interactions" not in files
            and (Path(str(source)).is_absolute() or url_of(Path(str(source))))
        ):
            files["interactions"] = source
        paths: dict[str, Any] = {
            name: value if name.endswith("_column") else Path(str(value)) for name, value in files.items()
        }
        if self._request.interactions is not None:
            paths["interactions"] = self._request.interactions
        try:
            data = ListeningFiles(**paths)
        except TypeError as error:
            raise TrainingError(
                f"{self._request.checkpoint}: its data cannot be read ({error}); train again"
            ) from error
        recorded = self._info.get("key") is not None or self._request.key is not None
        return TrainRequest(
            out=self._request.checkpoint,
            data=replace(data, key=key_path if recorded else None),
            seed=int(self._info["seed"]),
            preset=str(self._info.get("preset", "default")),
            progress=self._request.progress,
            command=self._request.command,
            resume=True,
            engine=self._request.engine,
            workers=self._request.workers,
            engine_address=self._request.engine_address,
            read=self._request.read,
        )

    def _events(self) -> StoredEvents:
        saved = StoredEvents.load(self._folder / EVENTS_FILENAME)
        if saved is not None and self._state.inputs is not None:
            return saved
        if self._request.events is None:
            return StoredEvents.empty()
        with closing(open_store(self._request.events, must_exist=True)) as store:
            return StoredEvents.of_store(store, after=self._request.events_after, received_by=time.time())


def _digest(events: StoredEvents) -> str:
    digest = hashlib.sha256()
    for user, track, kind, at in zip(
        events.users.tolist(), events.tracks.tolist(), events.kinds.tolist(), events.at.tolist(), strict=True
    ):
        digest.update(f"{user}\t{track}\t{kind}\t{at!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]
