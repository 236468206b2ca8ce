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

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tritone_serving.recommender import TASTE, TASTE_SEQUENCE, Artifact
from tritone_serving.recommender.artifact import INFERRED_MOOD, close_to_others, make_private_folder
from tritone_serving.recommender.ensemble import BIAS
from tritone_serving.recommender.forgotten import marks_in, with_marks
from tritone_training import checkpoint
from tritone_training.checkpoint import METRICS_OF_SELECTION, SELECTION_FOLDER, UNFINISHED
from tritone_training.data.interactions import ListeningData
from tritone_training.exceptions import TrainingError
from tritone_training.hyperparameters import from_preset
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.base_fit import fit_models
from tritone_training.kinds.recommender.checkpoint_folder import (
    ARTIFACT_FOLDER,
    PARTS,
    REFIT,
    check_together,
    load_info,
    put_in_place,
    read_artifact,
)
from tritone_training.kinds.recommender.checkpoint_writing import write_fit
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.recommender.engines import open_engine
from tritone_training.kinds.recommender.ensemble.model_selection import SelectedEnsemble
from tritone_training.kinds.recommender.ensemble.offline import open_recommender
from tritone_training.kinds.recommender.refit.added_tracks import ADDED_ITEMS
from tritone_training.kinds.recommender.refit.comparison import Comparison, compare
from tritone_training.kinds.recommender.refit.inputs import EVENTS_FILENAME, REQUEST, InputReader, RefitInputs
from tritone_training.kinds.recommender.refit.locking import exclusive_refit, write_errors
from tritone_training.kinds.recommender.refit.state import RefitRefusedError, RefitRequest, RefitResult, RefitState
from tritone_training.kinds.recommender.refit.stored_events import (
    describe,
    new_listens,
    split_by_time,
)
from tritone_training.kinds.recommender.training_data import TrainingData
from tritone_training.kinds.taste_vae.config import PRESETS as TASTE_PRESETS
from tritone_training.progress import progress_bar

RUN: Final = "refit_run"  # in checkpoint.json: what the last refit read and how long its stages took
STAGES: Final = ("log", "events", "fit", "compare", "fit_on_all", "publish", "replace")
_FOLDER: Final = f"{UNFINISHED}/refit"
_LEAST_LISTENS: Final = 30  # new listens of the latest events, for a comparison
_DAY_S: Final = 86_400.0
_TABLES: Final = ("weights", "cold_items", "minimum_weights")  # of an ensemble, by segment and base model
_WARM_SHARE: Final = 1 / 3  # of the epochs of `taste_vae`, which begins with the previous weights
OnStage = Callable[[str, float | None], None]


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
    with exclusive_refit(request.checkpoint), write_errors(request.checkpoint):
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
        self.request = request
        self.folder = folder
        self.served = served
        self.publish = publish
        self.on_stage = on_stage
        self.info = load_info(request.checkpoint)
        self.before = read_artifact(request.checkpoint / ARTIFACT_FOLDER)
        check_together(request.checkpoint, self.info, self.before.manifest)
        self.state = RefitState(folder)
        self.seconds: dict[str, float] = {}
        expected = self.info.get(RUN, {}).get("seconds")
        self.expected: Mapping[str, float] = expected if isinstance(expected, dict) else {}

    def run(self) -> RefitResult:
        reader = InputReader(self.request, self.folder, self.info, self.before, state=self.state, stage=self._stage)
        inputs = reader.read(self.served())
        if self.state.inputs is not None and self.state.inputs != json.loads(json.dumps(inputs.fingerprint)):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.state = RefitState(self.folder)
        resumed = tuple(stage for stage in STAGES if self.state.done(stage))
        if not self.request.force and self._has_nothing_new(inputs):
            return self._result("nothing new", inputs, resumed)
        if self.request.dry_run:
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

    def _has_nothing_new(self, inputs: RefitInputs) -> bool:
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

    def _split(self, inputs: RefitInputs, until: float) -> ListeningData:
        """Return the data of the two fits, and save the events, from which a resumed refit begins."""
        make_private_folder(self.folder)
        if self.state.inputs is None:
            inputs.events.save(self.folder / EVENTS_FILENAME)
            self.state.values["inputs"] = json.loads(json.dumps(inputs.fingerprint))
            self.state.write()
        listening = inputs.listening
        split = split_by_time(listening, listening.train, inputs.events, inputs.names, until)
        return split if len(split.valid) else replace(split, valid=listening.valid)

    def _compare(self, inputs: RefitInputs, split: ListeningData) -> Comparison:
        selection = replace(inputs.request, out=self.folder / SELECTION_FOLDER)
        if self.state.done("fit") is None:
            with self._stage("fit"):
                make_private_folder(selection.out)
                data = replace(inputs.prepared, listening=split)
                self._fit(selection, inputs, data, selected=None)
            self.state.put("fit", {"seconds": self.seconds["fit"]})
        found = self.state.done("compare")
        if found is None:
            with self._stage("compare"), progress_bar("comparing", shown=self.request.progress) as on_progress:
                comparison = compare(
                    open_recommender(self.request.checkpoint, inputs.key_path),
                    open_recommender(selection.out, inputs.key_path),
                    split.train,
                    split.valid,
                    most_users=inputs.config.most_validation_users,
                    seed=inputs.request.seed,
                    on_progress=on_progress,
                )
            if comparison.is_worse(self.request.max_loss) and not self.request.force:
                shutil.rmtree(self.folder, ignore_errors=True)
                raise RefitRefusedError(
                    f"{self.request.checkpoint}: the refit is refused: on the {comparison.n_listens} latest new "
                    f"listens, its NDCG@10 is {comparison.after:.4f}, that of the previous recommender "
                    f"{comparison.before:.4f} "
                    f"(a loss of at most {self.request.max_loss:.0%} is accepted); nothing was changed; check the log "
                    f"and the events, or add --force",
                    comparison,
                )
            self.state.put("compare", comparison.to_dict())
            return comparison
        return Comparison(**found)

    def _fit(
        self,
        request: TrainRequest,
        inputs: RefitInputs,
        data: TrainingData,
        *,
        selected: Mapping[str, Any] | None,
        selected_sequence: Path | None = None,
    ) -> None:
        """Fit on the training split of the data and write the checkpoint `request.out`, with the previous weights."""
        began_s = time.monotonic()
        config = inputs.config
        fit_config = config.model_copy(update={"taste_vae_epochs": _warm_epochs(config)})
        previous = self.request.checkpoint / TASTE
        warm = replace(request, warm_start=previous if config.taste_vae and previous.is_dir() else None)
        with open_engine(request) as engine:
            fitted = fit_models(
                warm,
                fit_config,
                data,
                inputs.key,
                selected_taste=selected,
                selected_sequence=selected_sequence,
                engine=engine,
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
                engine=engine,
            )

    def _manifest(self, fitted: Mapping[str, Any], inputs: RefitInputs) -> dict[str, Any]:
        """Return the manifest of a fit with what it took from the events, the added tracks and the removed users."""
        manifest = {**fitted, ADDED_ITEMS: list(inputs.added)}
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

    def _fit_on_all(self, inputs: RefitInputs, split: ListeningData, *, with_selection: bool) -> None:
        if self.state.done("fit_on_all") is not None:
            return
        with self._stage("fit_on_all"):
            log = split.load_log() or split.train
            report = {**split.report, "n_train": len(log), "fingerprint": log.fingerprint()}
            data = replace(inputs.prepared, listening=replace(split, train=log, report=report))
            taste = (self.folder / SELECTION_FOLDER if with_selection else self.request.checkpoint) / TASTE
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

    def _refuse_newly_forgotten(self, inputs: RefitInputs) -> None:
        """Refuse a fit that holds a user who was removed while it ran.

        Raises:
            TrainingError: there is one.
        """
        served = self.served()
        marks = marks_in(read_artifact(self.request.checkpoint / ARTIFACT_FOLDER).manifest)
        marks |= marks_in(served.manifest) if served is not None else frozenset()
        if marks - inputs.marks and self.state.done("publish") is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise TrainingError(
                f"{self.request.checkpoint}: a user was removed by `tritone forget` while the refit ran, which would "
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

    def _replace(self, inputs: RefitInputs, result: RefitResult) -> None:
        """Put the new parts in place."""
        with self._stage("replace"):
            folder = self.request.checkpoint
            if (self.folder / checkpoint.INFO).is_file():
                info = {
                    **checkpoint.read_info(self.folder),
                    REQUEST: self.info.get(REQUEST),
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
        inputs: RefitInputs,
        resumed: tuple[str, ...],
        *,
        comparison: Comparison | None = None,
        versions: Mapping[str, int] | None = None,
        n_items: int = 0,
        split: ListeningData | None = None,
    ) -> RefitResult:
        log = inputs.listening.train if split is None else split.load_log() or split.train
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
