"""Train and export a model of each kind, and export starter weights; what has not changed is reused.

A kind with starter weights is served under its own name with these, and its small model beside it as `small_KIND`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from examples.demo.jobs import FinishedJob, Job, run_jobs
from examples.demo.reuse import (
    RECOMMENDER,
    CheckpointInputs,
    ExportedVersion,
    newest_ensemble,
    newest_version,
    read_info,
)
from tritone_cli import console

if TYPE_CHECKING:
    from tritone_training.corpus import Corpus

CLASSIFIER: Final = "genre_cnn"
COMPOSER: Final = "music_transformer"
GENERATORS: Final = (COMPOSER, "music_vae", "polyphony_rnn", "music_gan")
# The longest trainings first, so that they do not run alone at the end; `genre_cnn` before, since the recommender
# needs it.
KINDS: Final = (CLASSIFIER, *GENERATORS, RECOMMENDER)
SMALL: Final = "small_"  # prefix of a small model's name where starter weights have the kind's own name
_TASTE: Final = "taste_vae"
_SEQUENCE: Final = "taste_sequence"
_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "music_gan": ("music_vae",),  # whose checkpoint is in the same folder
    RECOMMENDER: (CLASSIFIER, _TASTE, _SEQUENCE),  # embeds the recordings; are trained as a part of it
}
# The main metric of each kind on held-out data: its text, and its keys in the checkpoint's metrics.
_HEADLINES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "genre_cnn": ("accuracy", ("test", "accuracy")),
    "music_transformer": ("nats per sixteenth", ("valid", "nll_per_frame")),
    "polyphony_rnn": ("nats per eighth", ("valid", "nll_per_frame")),
    "music_vae": ("of the notes reconstructed", ("valid", "reconstruction_accuracy")),
    "music_gan": ("times the Fréchet distance between two halves of real music", ("valid", "frechet", "ratio")),
    RECOMMENDER: ("NDCG@10", ("valid", "cross_fitted", "ndcg@10")),
}
_EVALUATED_ON: Final[Mapping[str, str]] = {RECOMMENDER: "simulated listeners' held-out listens"}


@dataclass
class DemoModel:
    """A checkpoint and its exported versions.

    Attributes:
        name: of its main model on the server.
        info: content of checkpoint.json.
        train_s: None if the checkpoint is from an earlier run.
        export_s: None if the versions are from an earlier run.
    """

    kind: str
    checkpoint: Path
    info: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    train_s: float | None = None
    export_s: float | None = None
    versions: tuple[ExportedVersion, ...] = ()

    def __post_init__(self) -> None:
        self.name = self.name or self.kind

    @property
    def headline(self) -> str:
        """The main metric on held-out data, as text."""
        words, where = _HEADLINES[self.kind]
        value: Any = self.info.get("metrics", {})
        for key in where:
            value = value.get(key) if isinstance(value, Mapping) else None
        data = _EVALUATED_ON.get(self.kind, "held-out music")
        return f"{data}: {value:.3f} {words}" if isinstance(value, float) else "no metrics"

    def to_dict(self) -> dict[str, Any]:
        """Return the model for `--json`."""
        return {
            "checkpoint": str(self.checkpoint),
            "train_s": self.train_s,
            "export_s": self.export_s,
            "preset": self.info["preset"],
            "seed": self.info["seed"],
            "weights_sha256": self.info["weights_sha256"],
            "metrics": self.info["metrics"],
            "versions": [version.to_dict() for version in self.versions],
        }


class ModelBuilder:
    """Trains and exports the models of one run.

    Attributes:
        starters: checkpoint folders of starter weights by kind; by default those that come with Tritone.
    """

    def __init__(
        self,
        *,
        out: Path,
        repository: Path,
        corpus: Corpus,
        seed: int,
        preset: str,
        retrain: bool,
        progress: bool,
        starters: Mapping[str, Path] | None = None,
    ) -> None:
        self.checkpoints = out / "checkpoints"
        self.repository = repository
        self.corpus = corpus
        self.seed = seed
        self.preset = preset
        self.retrain = retrain
        self.progress = progress
        self.starters = find_starters() if starters is None else starters
        self.classifier_digest = ""  # digest of the classifier's weights

    def export_starters(self) -> dict[str, DemoModel]:
        """Export the starter weights under the names of their kinds; return them by kind."""
        models = {kind: DemoModel(kind, folder, read_info(folder, kind)) for kind, folder in self.starters.items()}
        jobs: dict[str, DemoModel] = {}
        for trained in models.values():
            if (versions := self._exported(trained)) is None:
                jobs[f"exporting starter weights of {trained.kind}"] = trained
            else:
                trained.versions = versions
                _print_exported(trained)
        run_jobs(
            [self._job(name, self._export_arguments(trained), ()) for name, trained in jobs.items()],
            shown=self.progress,
            on_done=lambda done: self._on_exported(jobs[done.job.name], done),
        )
        return models

    def build(self) -> dict[str, DemoModel]:
        """Train and export all kinds in parallel, as far as they do not depend on each other."""
        models = {
            kind: DemoModel(kind, self.checkpoints / kind, name=SMALL + kind if kind in self.starters else kind)
            for kind in KINDS
        }
        jobs: list[Job] = []
        for kind, trained in models.items():
            info = self.find_checkpoint(kind)
            if info is None:
                needs = tuple(_training(need) for need in _NEEDS.get(kind, ()))
                jobs.append(self._job(_training(kind), self._train_arguments(kind), needs))
            else:
                self._add_info(trained, info)
        planned = {job.name for job in jobs}
        for kind, trained in models.items():
            if _training(kind) in planned or (versions := self._exported(trained)) is None:
                jobs.append(self._job(_exporting(kind), self._export_arguments(trained), (_training(kind),)))
            else:
                trained.versions = versions
                _print_exported(trained)
        steps: dict[str, Callable[[FinishedJob], None]] = {}
        for kind, trained in models.items():
            steps[_training(kind)] = lambda done, trained=trained: self._on_trained(trained, done)  # type: ignore[misc]
            steps[_exporting(kind)] = lambda done, trained=trained: self._on_exported(trained, done)  # type: ignore[misc]
        run_jobs(jobs, shown=self.progress, on_done=lambda done: steps[done.job.name](done))
        return models

    def _on_trained(self, trained: DemoModel, done: FinishedJob) -> None:
        trained.train_s = done.seconds
        self._add_info(trained, self.mark_complete(trained.kind))

    def _add_info(self, trained: DemoModel, info: Mapping[str, Any]) -> None:
        trained.info = info
        if trained.kind == CLASSIFIER:
            self.classifier_digest = str(info["weights_sha256"])
        _print_trained(trained)

    def _on_exported(self, trained: DemoModel, done: FinishedJob) -> None:
        trained.versions, trained.export_s = self._exported(trained) or (), done.seconds
        _print_exported(trained)

    def _job(self, name: str, arguments: Sequence[str], needs: tuple[str, ...]) -> Job:
        return Job(name, tuple(arguments), self.checkpoints / "logs" / f"{name.replace(' ', '-')}.txt", needs)

    def _train_arguments(self, kind: str) -> Sequence[str]:
        out = str(self.checkpoints / kind)
        made = ("train", kind, "--preset", self.preset, "--seed", str(self.seed), "--overwrite", "--out", out)
        return (*made, "--genre-checkpoint", str(self.checkpoints / CLASSIFIER)) if kind == RECOMMENDER else made

    def _export_arguments(self, trained: DemoModel) -> Sequence[str]:
        arguments = ("export", trained.kind, "--checkpoint", str(trained.checkpoint))
        named = () if trained.name == trained.kind else ("--name", trained.name)
        return (*arguments, *named, "--repository", str(self.repository))

    def _inputs(self, kind: str) -> CheckpointInputs:
        weights = (self.classifier_digest,) if kind == RECOMMENDER else ()
        return CheckpointInputs(self.corpus.fingerprint, self.seed, self.preset, kind, _NEEDS.get(kind, ()), weights)

    def find_checkpoint(self, kind: str) -> Mapping[str, Any] | None:
        """Return the info of an earlier run's checkpoint if it can be reused, else None."""
        return None if self.retrain else self._inputs(kind).find(self.checkpoints / kind)

    def mark_complete(self, kind: str) -> Mapping[str, Any]:
        """Mark a kind's checkpoint as complete and return its info."""
        return self._inputs(kind).mark(self.checkpoints / kind)

    def _exported(self, trained: DemoModel) -> tuple[ExportedVersion, ...] | None:
        """Return the newest versions of a kind's models if all were exported from this checkpoint and are complete."""
        from tritone_export import companion_name
        from tritone_training import get_kind

        kind = get_kind(trained.kind)

        def folder(declared: str) -> Path:
            return self.repository / companion_name(kind.name, declared, trained.name)

        infos: dict[str, Mapping[str, Any]] = {}
        absent: set[str] = set()  # companions that this checkpoint does not have
        if trained.kind == RECOMMENDER:
            networks = [name for name in (_TASTE, _SEQUENCE) if (trained.checkpoint / name).is_dir()]
            infos = {name: read_info(trained.checkpoint / name, name) for name in networks}
            absent = {companion.declaration.name for companion in kind.companions} - set(networks)
        found = [
            newest_version(folder(declaration.name), infos.get(declaration.name, trained.info))
            for declaration in kind.declarations
            if declaration.name not in absent
        ]
        found += [newest_ensemble(folder(ensemble.name), trained.info) for ensemble in kind.ensembles]
        versions = tuple(version for version in found if version is not None)
        return versions if len(versions) == len(found) else None


def find_starters() -> dict[str, Path]:
    """Return the checkpoint folders of the starter weights that come with Tritone, of kinds that write music."""
    from tritone_training.starter_weights import starter_checkpoint, starter_kinds

    return {kind: starter_checkpoint(kind) for kind in GENERATORS if kind in starter_kinds()}


def check_preset(preset: str) -> None:
    """Raise an error before anything is built if a kind does not have the preset.

    Raises:
        TrainingError: there is no such preset.
    """
    from tritone_training import get_kind
    from tritone_training.hyperparameters import from_preset

    for kind in KINDS:
        from_preset(get_kind(kind).presets, preset, {})


def _training(kind: str) -> str:
    return f"training {kind}"


def _exporting(kind: str) -> str:
    return f"exporting {kind}"


def _print_trained(trained: DemoModel) -> None:
    how = "was trained before" if trained.train_s is None else f"trained in {trained.train_s:.0f} s"
    console.say(f"      {trained.name}: {how}; {trained.headline}")


def _print_exported(trained: DemoModel) -> None:
    how = "was exported before" if trained.export_s is None else f"exported in {trained.export_s:.0f} s"
    names = ", ".join(f"{version.model} version {version.version}" for version in trained.versions)
    differences = [each.max_abs_difference for each in trained.versions if each.max_abs_difference is not None]
    parity = f"; at most {max(differences):.1e} from PyTorch" if differences else ""
    console.say(f"      {names}: {how}{parity}")
