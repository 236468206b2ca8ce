"""What a model kind is to the rest of the project: one folder that fills in one `ModelKind`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch

from tritone_training.artifact_export import ArtifactExport
from tritone_training.data.interactions.files import ListeningFiles
from tritone_training.declaration import Declaration, EnsembleDeclaration
from tritone_training.evaluation import CrossValidationResult, EvaluationResult
from tritone_training.exceptions import CheckpointError, TrainingError, UnsupportedOptionError
from tritone_training.hyperparameters import Hyperparameters, from_preset
from tritone_training.quality import Quality

if TYPE_CHECKING:
    import optuna

    from tritone_training.trained_checkpoint import TrainedCheckpoint


@dataclass(frozen=True)
class Exportable:
    """A trained network and all that travels with it into a version folder.

    Attributes:
        network: in eval mode; `forward(*inputs)` answers a tuple in the order of the declaration's outputs.
        declaration: what this checkpoint serves (a pretrained backbone may add outputs).
        label_files: file name -> class names in the order of that output's last axis.
        metadata: short strings for the ONNX file's own metadata.
        card: what the model card says besides parity: data, licences, metrics, seed, command.
        graph: inputs and outputs of the ONNX file where they differ from the declaration (a Tritone backend converts);
            None if the file serves the declaration itself.
        companions: what else this checkpoint serves, in the order of the kind's `companions`.
        artifacts: models without a network that are served together with it, in the order of the kind's `data_models`.
        example_inputs: for the ONNX file, where a checkpoint's own sizes decide; the kind's or companion's if None.
    """

    network: torch.nn.Module
    declaration: Declaration
    label_files: Mapping[str, Sequence[str]]
    metadata: Mapping[str, str]
    card: Mapping[str, Any]
    graph: Declaration | None = None
    companions: Sequence[Exportable] = ()
    artifacts: Sequence[ArtifactExport] = ()
    example_inputs: Callable[[int, int], Mapping[str, npt.NDArray[np.generic]]] | None = None


# Fields of a request that only some kinds take.
_REQUEST_OPTIONS: Final = (
    "fold",
    "pretrained",
    "warm_start",
    "refit_on_all",
    "baselines",
    "engine",
    "workers",
    "engine_address",
    "read",
    "taste_vae",
)
# All options that only some kinds take, by parameter name of the command line.
KIND_OPTIONS: Final = frozenset(
    {"data", "devices", "report", "seeds", *_REQUEST_OPTIONS, *(each.name for each in fields(ListeningFiles))}
)


@dataclass(frozen=True)
class TrainRequest:
    """The request of one training.

    Attributes:
        data: the user's recordings, scores or listening log, or collections of the corpus (`Path("corpus:bach")`); None
            for the embedded corpus or simulated listening.
        fold: held out for `tritone evaluate --fold`, never seen in training.
        overrides: values that replace the preset's, by field name.
        n_seeds: number of random splits in `crossvalidate` of a listening log, which has no folds.
        resume: continue the interrupted training in `out`; see `runs`.
        overwrite: replace what an earlier training wrote to `out`.
        warm_start: checkpoint folder of the same kind that provides the initial weights.
        refit_on_all: after the selection on held-out data, fit what is served on all data; None for the kind's default.
        mlflow: URI of the MLflow tracking server or store that the run is logged to.
        mlflow_run: id of the MLflow run, once it has begun.
        engine: execution engine of the fit: "local", "ray" or "spark"; None for "local".
        workers: number of parallel workers of the engine; None for its default.
        engine_address: of an existing cluster of the engine; None to start one on this computer.
        read: where the listening log is read: "driver" (this process) or "workers" (of the engine); None for the
            workers of Ray and Spark if the log is large.
        taste_vae: checkpoint of `taste_vae` that the recommender takes instead of training one.
    """

    out: Path
    data: Path | ListeningFiles | None = None
    seed: int = 0
    preset: str = "default"
    fold: int | None = None
    pretrained: str | None = None
    devices: int = 1
    max_epochs: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    progress: bool = True
    command: str = ""
    n_seeds: int = 3
    resume: bool = False
    overwrite: bool = False
    warm_start: Path | None = None
    refit_on_all: bool | None = None
    mlflow: str | None = None
    mlflow_run: str | None = None
    engine: str | None = None
    workers: int | None = None
    engine_address: str | None = None
    read: str | None = None
    taste_vae: Path | None = None


@dataclass(frozen=True)
class EvaluateRequest:
    """The request of one evaluation; at most one of `fold` and `split` selects a part of the data.

    Attributes:
        baselines: whether baselines of the kind are evaluated on the same data; None for no.
    """

    checkpoint: Path
    data: Path | ListeningFiles | None = None
    fold: int | None = None
    split: str | None = None
    report: Path | None = None
    progress: bool = True
    baselines: bool | None = None


def data_path(request: TrainRequest | EvaluateRequest) -> Path | None:
    """Return the file or folder of recordings or scores; None for the embedded corpus.

    Raises:
        UnsupportedOptionError: the data are a listening log with its columns and tables.
    """
    if isinstance(request.data, ListeningFiles):
        raise UnsupportedOptionError(
            "data: expected a path of recordings or scores, got listening files; give a path, or choose a kind that "
            "reads listening logs",
            options=("data",),
        )
    return request.data


@dataclass(frozen=True)
class Companion:
    """A further model that the same checkpoint serves under a name of its own, such as a sampler.

    Attributes:
        declaration: its name begins with the kind's unless a backend of ours gives it its own.
        example_inputs: as `ModelKind.example_inputs`, for the ONNX file's own inputs.
        quality: as `ModelKind.quality`.
    """

    declaration: Declaration
    example_inputs: Callable[[int, int], Mapping[str, npt.NDArray[np.generic]]]
    quality: Quality | None = None


@dataclass(frozen=True)
class ModelKind:
    """One kind of model; the registry holds one for each folder of `kinds/`.

    Attributes:
        declaration: what the kind's plain form serves; the committed config.pbtxt comes from it.
        presets: hyper-parameters by the preset's name, `default`, `demo` and `tiny` at least.
        reader: reads the data of a request with these hyper-parameters; the data may be shared between trials.
        trainer: trains on the data, writes a checkpoint folder and returns a summary (metrics, paths).
        evaluator: evaluates a checkpoint.
        score: the metric of the validation split that `tune` maximises.
        suggest: draws overrides of the preset from the kind's search space for one Optuna trial.
        options: the elements of KIND_OPTIONS that the kind takes; requests with others are refused.
        exporter: loads what is served from a checkpoint folder.
        example_inputs: (n_batch, seed) -> realistic inputs by tensor name, for parity and warm-up.
        cross_validator: trains and evaluates once per fold (or seed); None if the kind has no cross-validation.
        pretrained_exporter: loads what is served from a backbone, with or without a checkpoint folder; None if the kind
            has no pretrained backbones.
        epochs_field: the hyper-parameter that `--max-epochs` sets.
        pretrained_changes: values that replace the preset's on a pretrained backbone.
        companions: further models that each checkpoint serves.
        data_models: further models without a network that each export adds.
        ensembles: models on the server that join this kind's own with others.
        quality: how exports of reduced precision are evaluated; None if the kind is exported in single precision only.
        in_several_processes: whether torchrun may train it in several processes together.
        is_private: whether a checkpoint holds listening histories, so that other users of the machine may not read it.
    """

    name: str
    summary: str
    declaration: Declaration
    presets: Mapping[str, Hyperparameters]
    reader: Callable[[TrainRequest, Any], Any]
    trainer: Callable[[TrainRequest, Any, Any], Mapping[str, Any]]
    evaluator: Callable[[EvaluateRequest], EvaluationResult]
    score: str
    suggest: Callable[[optuna.Trial], Mapping[str, Any]]
    options: frozenset[str]
    exporter: Callable[[Path], Exportable | ArtifactExport]
    example_inputs: Callable[[int, int], Mapping[str, npt.NDArray[np.generic]]]
    cross_validator: Callable[[TrainRequest, Any], CrossValidationResult] | None = None
    pretrained_exporter: Callable[[Path | None, str], Exportable] | None = None
    epochs_field: str = "max_epochs"
    pretrained_changes: Mapping[str, Any] = field(default_factory=dict)
    companions: Sequence[Companion] = ()
    data_models: Sequence[Declaration] = ()
    ensembles: Sequence[EnsembleDeclaration] = ()
    quality: Quality | None = None
    in_several_processes: bool = True
    is_private: bool = False

    @property
    def declarations(self) -> tuple[Declaration, ...]:
        """Of every model that a checkpoint serves, the kind's own first; without `data_models`."""
        return (self.declaration, *(companion.declaration for companion in self.companions))

    def options_not_taken(self, given: Iterable[str]) -> tuple[str, ...]:
        """Return the given options that depend on the kind and that this kind does not take."""
        return tuple(name for name in given if name in KIND_OPTIONS - self.options)

    def configure(self, request: TrainRequest) -> Hyperparameters:
        """Return the hyper-parameters: the preset's, the changes for a pretrained backbone, then the overrides.

        Raises:
            TrainingError: unknown preset or field, or a value of another type or out of bounds.
        """
        changes: dict[str, Any] = {} if request.pretrained is None else dict(self.pretrained_changes)
        changes |= request.overrides
        if request.max_epochs is not None:
            changes[self.epochs_field] = request.max_epochs
        return from_preset(self.presets, request.preset, changes)

    def prepare(self, request: TrainRequest) -> Callable[[TrainRequest], Mapping[str, Any]]:
        """Read the data of a request; return a function that trains on them with the options of another request.

        Raises:
            TrainingError: invalid hyper-parameters, which are reported before the data are read.
            DataError: the data cannot be used.
        """
        data = self.reader(request, self.configure(request))
        return lambda each: self.trainer(each, self.configure(each), data)

    def train(self, request: TrainRequest) -> TrainedCheckpoint:
        """Read the data, train and write the checkpoint folder `request.out`.

        Raises:
            TrainingError: the request has an option that this kind does not take, `request.out` is in use, or the
                training cannot be resumed; see `runs.run_training`.
        """
        from tritone_training.runs import run_training

        self.check(request)
        return run_training(self, request)

    def evaluate(self, request: EvaluateRequest) -> EvaluationResult:
        """Evaluate a checkpoint on held-out data.

        Raises:
            TrainingError: the request has an option that this kind does not take, or the data or the checkpoint
                cannot be used.
        """
        self.check(request)
        return self.evaluator(request)

    def crossvalidate(self, request: TrainRequest) -> CrossValidationResult:
        """Train and evaluate once per fold (or seed).

        Raises:
            TrainingError: this kind has no cross-validation, or the request has an option that it does not take.
        """
        if self.cross_validator is None:
            raise TrainingError(
                f"{self.name} has no cross-validation: expected a kind whose data have folds; train with several "
                f"--seed values and compare the checkpoints with `tritone evaluate {self.name} --split valid`"
            )
        self.check(request)
        return self.cross_validator(request, self.configure(request))

    def export(self, folder: Path | None, pretrained: str | None = None) -> Exportable | ArtifactExport:
        """Load a checkpoint for `tritone export`.

        Args:
            folder: the checkpoint; None for a pretrained backbone without training.
            pretrained: the backbone; with a folder, it has to be the one trained on.

        Raises:
            CheckpointError: neither is given, the checkpoint cannot be used, it was trained on another backbone, or
                this kind has no pretrained backbones.
        """
        if pretrained is not None:
            if self.pretrained_exporter is None:
                raise CheckpointError(f"{self.name} has no pretrained backbones; leave --pretrained out")
            return self.pretrained_exporter(folder, pretrained)
        if folder is None:
            alternative = "" if self.pretrained_exporter is None else " or give --pretrained"
            raise CheckpointError(f"nothing to export: train first (`tritone train {self.name}`){alternative}")
        return self.exporter(folder)

    def check(self, request: TrainRequest | EvaluateRequest) -> None:
        """Refuse a request with options that this kind does not take.

        Raises:
            UnsupportedOptionError: with the names of these options.
        """
        given = [name for name in _REQUEST_OPTIONS if getattr(request, name, None) is not None]
        if isinstance(request.data, ListeningFiles):
            given += request.data.given()
        self.check_options(given)

    def check_options(self, given: Iterable[str]) -> None:
        """Refuse options that this kind does not take.

        Raises:
            UnsupportedOptionError: with the names of these options.
        """
        if foreign := self.options_not_taken(given):
            raise UnsupportedOptionError(
                f"{self.name} does not take {', '.join(foreign)}: it takes {', '.join(sorted(self.options))}; "
                f"leave them out, or choose another kind",
                options=foreign,
            )
