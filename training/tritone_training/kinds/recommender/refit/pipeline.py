"""The stages of a refit, their state, and the result.

```
runs/recommender/unfinished/refit/
  state.json     inputs, and the stages that are done
  events.npz     the events as they were read
  selection/     the fit without the latest listens, which is compared with the previous recommender
  artifact/, taste_vae/, checkpoint.json    the fit on everything
```
After a kill, the same command continues with the first stage that is not done; `taste_vae` continues after its last
epoch. If the log, the events or the settings have changed in between, it begins again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from tritone_serving.events import open_store
from tritone_serving.recommender import TASTE, TASTE_SEQUENCE, Artifact, KeyFileError, read_key
from tritone_serving.recommender.artifact import INFERRED_MOOD, close_to_others, make_private_folder
from tritone_serving.recommender.ensemble import BIAS
from tritone_serving.recommender.forgotten import marks_in, with_marks
from tritone_serving.recommender.pseudonyms import key_check
from tritone_training import checkpoint
from tritone_training.checkpoint import UNFINISHED
from tritone_training.data.interactions import ListeningData, ListeningFiles
from tritone_training.exceptions import TrainingError
from tritone_training.hyperparameters import from_preset
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.checkpoint_folder import (
    ARTIFACT_FOLDER,
    KEY_FILENAME,
    PARTS,
    REFIT,
    SELECTION_FOLDER,
    check_together,
    load_info,
    put_in_place,
    read_artifact,
)
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.recommender.ensemble.model_selection import SelectedEnsemble
from tritone_training.kinds.recommender.ensemble.offline import open_recommender
from tritone_training.kinds.recommender.refit.added_tracks import ADDED_ITEMS, AddedTracks, with_added_tracks
from tritone_training.kinds.recommender.refit.comparison import Comparison, compare
from tritone_training.kinds.recommender.refit.event_table import (
    EventTable,
    describe,
    known_events,
    new_listens,
    split_by_time,
    user_names,
    without_forgotten,
)
from tritone_training.kinds.recommender.refit.state import RefitRefusedError, RefitRequest, RefitResult, RefitState
from tritone_training.kinds.recommender.train import TrainingData, fit_models, prepare, write_fit
from tritone_training.kinds.taste_vae.config import PRESETS as TASTE_PRESETS
from tritone_training.kinds.taste_vae.train import METRICS_OF_SELECTION
from tritone_training.progress import progress_bar

RUN: Final = "refit_run"  # in checkpoint.json: what the last refit read and how long its stages took
STAGES: Final = ("log", "events", "fit", "compare", "fit_on_all", "publish", "replace")
_FOLDER: Final = f"{UNFINISHED}/refit"
_EVENTS: Final = "events.npz"
_LOCK: Final = ".refit.lock"
_LEAST_LISTENS: Final = 30  # new listens of the latest events, for a comparison
_DAY_S: Final = 86_400.0
_TABLES: Final = ("weights", "cold_items", "minimum_weights")  # of an ensemble, by segment and base model
_WARM_SHARE: Final = 1 / 3  # of the epochs of `taste_vae`, which begins with the previous weights
_ASKED: Final = "asked"  # in checkpoint.json, see `runs`
_NOT_FILES: Final = (
    "preset",
    "seed",
    "fold",
    "pretrained",
    "max_epochs",
    "warm_start",
    "settings",
    "refit_on_all",
    "data",
)
OnStage = Callable[[str, float | None], None]


@dataclass(frozen=True, eq=False)
class _Inputs:
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
    """

    request: TrainRequest
    config: RecommenderConfig
    prepared: TrainingData
    events: EventTable
    names: Mapping[str, str]
    left_out: Mapping[str, int]
    marks: frozenset[str]
    n_forgotten: int
    key: bytes
    key_path: Path
    fingerprint: Mapping[str, Any]

    @property
    def listening(self) -> ListeningData:
        return self.prepared.listening


def run_refit(
    request: RefitRequest,
    *,
    served: Callable[[], Artifact | None] = lambda: None,
    publish: Callable[[Path], Mapping[str, int]] | None = None,
    on_stage: OnStage = lambda stage, left_s: None,
) -> RefitResult:
    """Refit a recommender on its log and the recorded events, and replace the checkpoint.

    Args:
        request: the request.
        served: returns the artifact that is served now, whose added tracks and removed users are carried over.
        publish: publishes a checkpoint folder and returns the versions by model; None leaves it to `tritone export`.
        on_stage: called with the name of a stage when it begins, and the estimated seconds until the end, if known.

    Raises:
        RefitRefusedError: the refit is clearly worse; nothing was changed.
        TrainingError: another refit is running, a file cannot be written, or the checkpoint's data have changed so that
            they cannot be read; the subclass says what.
        EventStoreError: the event store is down or damaged.
    """
    folder = request.checkpoint / _FOLDER
    with _alone(request.checkpoint), _translated(request.checkpoint):
        if request.restart:
            shutil.rmtree(folder, ignore_errors=True)
        state = RefitState(folder)
        if (placing := state.done("placing")) is not None:  # killed while the parts were put in place
            _put_in_place(request.checkpoint, folder)
            return RefitResult.from_dict(placing)
        return _Refit(request, folder, served, publish, on_stage).run()


class _Refit:
    """One refit; `run` goes through the stages."""

    def __init__(
        self,
        request: RefitRequest,
        folder: Path,
        served: Callable[[], Artifact | None],
        publish: Callable[[Path], Mapping[str, int]] | None,
        on_stage: OnStage,
    ) -> None:
        self.asked = request
        self.folder = folder
        self.served = served
        self.publish = publish
        self.on_stage = on_stage
        self.info = load_info(request.checkpoint)
        self.before = read_artifact(request.checkpoint / ARTIFACT_FOLDER)
        check_together(request.checkpoint, self.info, self.before.manifest)
        self.state = RefitState(folder)
        self.seconds: dict[str, float] = {}
        self.added: list[str] = []
        expected = self.info.get(RUN, {}).get("seconds")
        self.expected: Mapping[str, float] = expected if isinstance(expected, dict) else {}

    def run(self) -> RefitResult:
        inputs = self._read()
        resumed = tuple(stage for stage in STAGES if self.state.done(stage))
        if not self.asked.force and self._has_nothing_new(inputs):
            return self._result("nothing new", inputs, resumed)
        if self.asked.dry_run:
            return self._result("dry run", inputs, resumed)
        until, n_listens = new_listens(
            inputs.events, inputs.listening.train, inputs.names, last_s=_DAY_S, least=_LEAST_LISTENS
        )
        compares = n_listens >= _LEAST_LISTENS
        split = self._split(inputs, until if compares else float("inf"))
        comparison = self._compare(inputs, split) if compares else None
        self._fit_on_all(inputs, split, with_selection=compares)
        self._refuse_newly_forgotten(inputs)
        versions: Mapping[str, int] = {}
        if self.publish is not None:
            versions = self._publish()
        n_items = read_artifact(self.folder / ARTIFACT_FOLDER).n_items
        result = self._result(
            "fitted" if self.publish is None else "published",
            inputs,
            resumed,
            comparison=comparison,
            versions=versions,
            n_items=n_items,
            split=split,
        )
        self._replace(inputs, result)
        return replace(result, seconds=dict(self.seconds))

    # --- inputs --------------------------------------------------------------------------------------------

    def _read(self) -> _Inputs:
        served = self.served()
        marks = marks_in(self.before.manifest) | (marks_in(served.manifest) if served is not None else frozenset())
        key_path = self._key_path()
        try:
            key = read_key(key_path)
        except KeyFileError as error:
            raise TrainingError(str(error)) from error
        if key_check(key) != self.before.manifest["key_check"]:
            raise TrainingError(
                f"{key_path}: wrong key: expected the one that {self.asked.checkpoint} was made with; name it with "
                f"--key"
            )
        train_request = self._train_request(key_path)
        with self._stage("log"):
            prepared = prepare(train_request)
            added = AddedTracks.of(self.before if served is None else served)
            self.added = [item for item in added.items if item not in prepared.listening.metadata]
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
        config = RecommenderConfig(**self.info["config"])
        fingerprint = {
            "log": log.fingerprint(),
            "tags": len(listening.tags),
            "metadata": len(listening.metadata),
            "events": _digest(events),
            "config": config.to_dict(),
            "fit": str(self.info.get("fit")),
        }
        inputs = _Inputs(
            replace(train_request, out=self.folder),
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
        )
        if self.state.inputs is not None and self.state.inputs != json.loads(json.dumps(fingerprint)):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.state = RefitState(self.folder)
        return inputs

    def _key_path(self) -> Path:
        if self.asked.key is not None:
            return self.asked.key
        recorded = self.info.get("key")
        return Path(str(recorded)) if recorded else self.asked.checkpoint / KEY_FILENAME

    def _train_request(self, key_path: Path) -> TrainRequest:
        """Return the request of the training that made the checkpoint, with its files."""
        asked = self.info.get(_ASKED)
        if not isinstance(asked, dict):
            raise TrainingError(
                f"{self.asked.checkpoint}: does not name the data of its training; train it again with this version"
            )
        files = {name: value for name, value in asked.items() if name not in _NOT_FILES and value is not None}
        source = asked.get("data")
        if source is not None and "interactions" not in files and Path(str(source)).is_absolute():
            files["interactions"] = source
        paths: dict[str, Any] = {
            name: value if name.endswith("_column") else Path(str(value)) for name, value in files.items()
        }
        if self.asked.interactions is not None:
            paths["interactions"] = self.asked.interactions
        try:
            data = ListeningFiles(**paths)
        except TypeError as error:
            raise TrainingError(f"{self.asked.checkpoint}: its data cannot be read ({error}); train again") from error
        recorded = self.info.get("key") is not None or self.asked.key is not None
        return TrainRequest(
            out=self.asked.checkpoint,
            data=replace(data, key=key_path if recorded else None),
            seed=int(self.info["seed"]),
            preset=str(self.info.get("preset", "default")),
            progress=self.asked.progress,
            command=self.asked.command,
            resume=True,
        )

    def _events(self) -> EventTable:
        saved = EventTable.load(self.folder / _EVENTS)
        if saved is not None and self.state.inputs is not None:
            return saved
        if self.asked.events is None:
            return EventTable.empty()
        with closing(open_store(self.asked.events, must_exist=True)) as store:
            return EventTable.of_store(store, after=self.asked.events_after, received_by=time.time())

    def _has_nothing_new(self, inputs: _Inputs) -> bool:
        """Return whether log, tags, metadata and events are those of the last refit, or of the training."""
        if self.state.inputs is not None:
            return False
        last = self.info.get(RUN, {}).get("inputs")
        if not isinstance(last, dict):
            return not len(inputs.events) and inputs.fingerprint["log"] == self._fitted_fingerprint()
        names = ("log", "tags", "metadata", "events")
        return all(last.get(name) == inputs.fingerprint[name] for name in names)

    def _fitted_fingerprint(self) -> Any:
        """Return the fingerprint of the log that the checkpoint was fitted on, if that was the whole log."""
        data = self.info.get("data")
        return data.get("fingerprint") if REFIT in self.info and isinstance(data, dict) else None

    # --- stages --------------------------------------------------------------------------------------------

    def _split(self, inputs: _Inputs, until: float) -> ListeningData:
        """Return the data of the two fits, and save the events, from which a resumed refit begins."""
        make_private_folder(self.folder)
        if self.state.inputs is None:
            inputs.events.save(self.folder / _EVENTS)
            self.state.values["inputs"] = json.loads(json.dumps(inputs.fingerprint))
            self.state.write()
        listening = inputs.listening
        split = split_by_time(listening, listening.train, inputs.events, inputs.names, until)
        return split if len(split.valid) else replace(split, valid=listening.valid)

    def _compare(self, inputs: _Inputs, split: ListeningData) -> Comparison:
        selection = replace(inputs.request, out=self.folder / SELECTION_FOLDER)
        if self.state.done("fit") is None:
            with self._stage("fit"):
                make_private_folder(selection.out)
                data = replace(inputs.prepared, listening=split)
                self._fit(selection, inputs, data, selected=None)
            self.state.put("fit", {"seconds": self.seconds["fit"]})
        found = self.state.done("compare")
        if found is None:
            with self._stage("compare"), progress_bar("comparing", shown=self.asked.progress) as on_progress:
                comparison = compare(
                    open_recommender(self.asked.checkpoint, inputs.key_path),
                    open_recommender(selection.out, inputs.key_path),
                    split.train,
                    split.valid,
                    most_users=inputs.config.most_validation_users,
                    seed=inputs.request.seed,
                    on_progress=on_progress,
                )
            if comparison.is_worse(self.asked.max_loss) and not self.asked.force:
                shutil.rmtree(self.folder, ignore_errors=True)
                raise RefitRefusedError(
                    f"{self.asked.checkpoint}: the refit is refused: on the {comparison.n_listens} latest new listens, "
                    f"its NDCG@10 is {comparison.after:.4f}, that of the previous recommender {comparison.before:.4f} "
                    f"(a loss of at most {self.asked.max_loss:.0%} is accepted); nothing was changed; check the log "
                    f"and the events, or add --force",
                    comparison,
                )
            self.state.put("compare", comparison.to_dict())
            return comparison
        return Comparison(**found)

    def _fit(
        self,
        request: TrainRequest,
        inputs: _Inputs,
        data: TrainingData,
        *,
        selected: Mapping[str, Any] | None,
        selected_sequence: Path | None = None,
    ) -> None:
        """Fit on the training split of the data and write the checkpoint `request.out`, with the previous weights."""
        began_s = time.monotonic()
        config = inputs.config
        fit_config = config.model_copy(update={"taste_vae_epochs": _warm_epochs(config)})
        previous = self.asked.checkpoint / TASTE
        warm = replace(request, warm_start=previous if config.taste_vae and previous.is_dir() else None)
        fitted = fit_models(
            warm, fit_config, data, inputs.key, selected_taste=selected, selected_sequence=selected_sequence
        )
        chosen = self._chosen(fitted.parts.base_models)
        refit = None
        if request.out == self.folder:
            refit = {"n_listens": len(data.listening.train), "metrics_of": METRICS_OF_SELECTION}
        write_fit(
            request,
            config,
            data,
            replace(fitted, manifest=self._manifest(fitted.manifest, inputs)),
            chosen,
            moods=self.before.manifest.get(INFERRED_MOOD),
            key_path=inputs.key_path,
            seconds=time.monotonic() - began_s,
            refit=refit,
            ranks=request.out == self.folder,
        )

    def _manifest(self, fitted: Mapping[str, Any], inputs: _Inputs) -> dict[str, Any]:
        """Return the manifest of a fit with what it took from the events, the added tracks and the removed users."""
        manifest = {**fitted, ADDED_ITEMS: self.added}
        if len(inputs.events):
            manifest["events"] = {"through": float(inputs.events.received.max())}
        return with_marks(manifest, inputs.marks)

    def _chosen(self, base_models: dict[str, dict[str, Any]]) -> SelectedEnsemble:
        """Return the previous ensemble, and remove base models for which it has no weights.

        Such a base model is of a later version of Tritone than the training.
        """
        manifest = self.before.manifest
        for name in base_models.keys() - manifest["base_models"].keys():
            del base_models[name]
        known = {*base_models, BIAS}

        def kept(tables: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
            return {segment: {n: w for n, w in table.items() if n in known} for segment, table in tables.items()}

        ensembles = {
            arm: {name: kept(value) if name in _TABLES else value for name, value in described.items()}
            for arm, described in manifest["ensembles"].items()
        }
        metrics = self.info["metrics"]
        return SelectedEnsemble(
            str(manifest["base_models"].get("user_knn", {}).get("metric", "cosine")),
            {name: float(manifest["base_models"][name].get("scale", 0.0)) for name in base_models},
            ensembles,
            metrics["valid"],
            str(metrics.get("how", "")).partition("; of ")[0],
        )

    def _fit_on_all(self, inputs: _Inputs, split: ListeningData, *, with_selection: bool) -> None:
        if self.state.done("fit_on_all") is not None:
            return
        with self._stage("fit_on_all"):
            log = split.log or split.train
            report = {**split.report, "n_train": len(log), "fingerprint": log.fingerprint()}
            data = replace(inputs.prepared, listening=replace(split, train=log, report=report))
            taste = (self.folder / SELECTION_FOLDER if with_selection else self.asked.checkpoint) / TASTE
            selected = None
            if inputs.config.taste_vae and (taste / checkpoint.INFO).is_file():
                selected = checkpoint.read_info(taste)
                if not with_selection:
                    selected = {**selected, "best_epoch": _warm_epochs(inputs.config)}
            sequence = taste.with_name(TASTE_SEQUENCE)
            self._fit(
                inputs.request,
                inputs,
                data,
                selected=selected,
                selected_sequence=sequence if sequence.is_dir() else None,
            )
        self.state.put("fit_on_all", {"seconds": self.seconds["fit_on_all"]})

    def _refuse_newly_forgotten(self, inputs: _Inputs) -> None:
        """Refuse a fit that holds a user who was removed while it ran.

        Raises:
            TrainingError: there is one.
        """
        served = self.served()
        marks = marks_in(read_artifact(self.asked.checkpoint / ARTIFACT_FOLDER).manifest)
        marks |= marks_in(served.manifest) if served is not None else frozenset()
        if marks - inputs.marks and self.state.done("publish") is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise TrainingError(
                f"{self.asked.checkpoint}: a user was removed by `tritone forget` while the refit ran, which would "
                f"have brought them back; nothing was changed, repeat the command"
            )

    def _publish(self) -> Mapping[str, int]:
        assert self.publish is not None  # noqa: S101 - checked by the caller
        found = self.state.done("publish")
        if found is None:
            with self._stage("publish"):
                versions = dict(self.publish(self.folder))
            self.state.put("publish", {"versions": versions, "seconds": self.seconds["publish"]})
            return versions
        return {str(model): int(version) for model, version in found["versions"].items()}

    def _replace(self, inputs: _Inputs, result: RefitResult) -> None:
        """Put the new parts in place."""
        with self._stage("replace"):
            folder = self.asked.checkpoint
            if (self.folder / checkpoint.INFO).is_file():
                info = {
                    **checkpoint.read_info(self.folder),
                    _ASKED: self.info.get(_ASKED),
                    RUN: {
                        "finished_utc": datetime.now(UTC).isoformat(timespec="seconds"),
                        "inputs": inputs.fingerprint,
                        "events": dict(result.events),
                        "comparison": None if result.comparison is None else result.comparison.to_dict(),
                        "versions": dict(result.versions),
                        "seconds": dict(self.seconds),
                    },
                }
                checkpoint.update_info(self.folder, info)
            self.state.put("placing", result.to_dict())
            _put_in_place(folder, self.folder)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        left = [self.expected[stage] for stage in STAGES[STAGES.index(name) :] if stage in self.expected]
        self.on_stage(name, sum(left) if left else None)
        began_s = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began_s

    def _result(
        self,
        status: str,
        inputs: _Inputs,
        resumed: tuple[str, ...],
        *,
        comparison: Comparison | None = None,
        versions: Mapping[str, int] | None = None,
        n_items: int = 0,
        split: ListeningData | None = None,
    ) -> RefitResult:
        log = inputs.listening.train if split is None else split.log or split.train
        return RefitResult(
            status,
            len(log),
            len(set(log.user.tolist())),
            n_items,
            inputs.n_forgotten,
            describe(inputs.events, inputs.left_out),
            comparison,
            versions or {},
            resumed,
            dict(self.seconds),
        )


def _put_in_place(folder: Path, staged: Path) -> None:
    """Replace the parts of the checkpoint; those that an interrupted refit has moved already are in place."""
    parts = tuple(part for part in PARTS if (staged / part).exists())
    if parts:
        put_in_place(folder, staged, parts)
        close_to_others(folder)
    shutil.rmtree(staged, ignore_errors=True)
    with suppress(OSError):  # not empty if an interrupted training is there, too
        staged.parent.rmdir()


def _warm_epochs(config: RecommenderConfig) -> int:
    """Return the number of epochs of `taste_vae` in a refit."""
    most = config.taste_vae_epochs or from_preset(TASTE_PRESETS, config.taste_vae_preset, {}).max_epochs
    return max(1, round(most * _WARM_SHARE))


def _digest(events: EventTable) -> str:
    digest = hashlib.sha256()
    for user, track, kind, at in zip(
        events.users.tolist(), events.tracks.tolist(), events.kinds.tolist(), events.at.tolist(), strict=True
    ):
        digest.update(f"{user}\t{track}\t{kind}\t{at!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Allow one refit of a checkpoint at a time; the kernel releases the lock when the process ends."""
    if not folder.is_dir():
        raise TrainingError(
            f"{folder}: no checkpoint: expected the folder of a trained recommender; name it with --checkpoint"
        )
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise TrainingError(f"{folder}: another refit of it is running; wait until it ends") from None
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be written ({error.strerror}); check its permissions") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{folder}: the refit cannot be written ({error.strerror or error}); the previous checkpoint is unchanged; "
            f"free some space or check the permissions, then repeat the command, which continues"
        ) from error
