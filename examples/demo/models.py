"""A trained and exported model of each kind, made anew only where something has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritone_cli import console
from tritone_cli.demonstration.freshness import (
    RECOMMENDER,
    Making,
    Version,
    newest_ensemble,
    newest_version,
    read_info,
)
from tritone_cli.demonstration.jobs import Done, Job, run_jobs

if TYPE_CHECKING:
    from tritone_training.catalogue import Catalogue

LISTENER: Final = "genre_cnn"
COMPOSER: Final = "music_transformer"
WRITERS: Final = (COMPOSER, "music_vae", "polyphony_rnn", "music_gan")
# Longest trainings first, so that none is left to run alone at the end; `genre_cnn` first, which the recommender needs.
KINDS: Final = (LISTENER, *WRITERS, RECOMMENDER)
_TASTE: Final = "taste_vae"
_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "music_gan": ("music_vae",),  # which it finds beside itself
    RECOMMENDER: (LISTENER, _TASTE),  # the one hears the pieces, the other is trained with it
}
# What a line says of a kind's figures on held-out music: words, and where the figure lies.
_HEADLINES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "genre_cnn": ("accuracy", ("test", "accuracy")),
    "music_transformer": ("nats a sixteenth", ("valid", "nll_per_frame")),
    "polyphony_rnn": ("nats an eighth", ("valid", "nll_per_frame")),
    "music_vae": ("of its notes right", ("valid", "reconstruction_accuracy")),
    "music_gan": ("times the Fréchet distance of real music", ("valid", "frechet", "ratio")),
    RECOMMENDER: ("NDCG@10", ("valid", "cross_fitted", "ndcg@10")),
}
_JUDGED_BY: Final[Mapping[str, str]] = {RECOMMENDER: "simulated listeners' held-out listens"}


@dataclass
class Trained:
    """One kind's checkpoint and what is served of it.

    Attributes:
        info: what checkpoint.json says.
        train_s: None where an earlier run had trained it.
        export_s: None where an earlier run had exported it.
    """

    kind: str
    checkpoint: Path
    info: Mapping[str, Any] = field(default_factory=dict)
    train_s: float | None = None
    export_s: float | None = None
    versions: tuple[Version, ...] = ()

    @property
    def headline(self) -> str:
        """The kind's first figure on music that it was not trained on, in words."""
        words, where = _HEADLINES[self.kind]
        value: Any = self.info.get("metrics", {})
        for key in where:
            value = value.get(key) if isinstance(value, Mapping) else None
        judged_by = _JUDGED_BY.get(self.kind, "held-out music")
        return f"{judged_by}: {value:.3f} {words}" if isinstance(value, float) else "no figures"

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
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


class Workshop:
    """Where the models of one run are made: what they are made from, and where they go."""

    def __init__(
        self,
        *,
        out: Path,
        repository: Path,
        catalogue: Catalogue,
        seed: int,
        preset: str,
        retrain: bool,
        progress: bool,
    ) -> None:
        self.checkpoints = out / "checkpoints"
        self.repository = repository
        self.catalogue = catalogue
        self.seed = seed
        self.preset = preset
        self.retrain = retrain
        self.progress = progress
        self._heard_by = ""  # digest of the listener's weights

    def make(self) -> dict[str, Trained]:
        """Train and export all kinds, in parallel as far as one does not need the other."""
        every = {kind: Trained(kind, self.checkpoints / kind) for kind in KINDS}
        jobs: list[Job] = []
        for kind, trained in every.items():
            info = self._fresh(kind)
            if info is None:
                needs = tuple(_training(need) for need in _NEEDS.get(kind, ()))
                jobs.append(self._job(_training(kind), self._train_arguments(kind), needs))
            else:
                self._keep(trained, info)
        planned = {job.name for job in jobs}
        for kind, trained in every.items():
            if _training(kind) in planned or (versions := self._exported(trained)) is None:
                jobs.append(self._job(_exporting(kind), self._export_arguments(kind), (_training(kind),)))
            else:
                trained.versions = versions
                _say_exported(trained)
        steps: dict[str, Callable[[Done], None]] = {}
        for kind, trained in every.items():
            steps[_training(kind)] = lambda done, trained=trained: self._on_trained(trained, done)  # type: ignore[misc]
            steps[_exporting(kind)] = lambda done, trained=trained: self._on_exported(trained, done)  # type: ignore[misc]
        run_jobs(jobs, shown=self.progress, on_done=lambda done: steps[done.job.name](done))
        return every

    def _on_trained(self, trained: Trained, done: Done) -> None:
        trained.train_s = done.seconds
        self._keep(trained, self._finished(trained.kind))

    def _keep(self, trained: Trained, info: Mapping[str, Any]) -> None:
        trained.info = info
        if trained.kind == LISTENER:
            self._heard_by = str(info["weights_sha256"])
        _say_trained(trained)

    def _on_exported(self, trained: Trained, done: Done) -> None:
        trained.versions, trained.export_s = self._exported(trained) or (), done.seconds
        _say_exported(trained)

    def _job(self, name: str, arguments: Sequence[str], needs: tuple[str, ...]) -> Job:
        return Job(name, tuple(arguments), self.checkpoints / "logs" / f"{name.replace(' ', '-')}.txt", needs)

    def _train_arguments(self, kind: str) -> Sequence[str]:
        out = str(self.checkpoints / kind)
        made = ("train", kind, "--preset", self.preset, "--seed", str(self.seed), "--overwrite", "--out", out)
        return (*made, "--genre-checkpoint", str(self.checkpoints / LISTENER)) if kind == RECOMMENDER else made

    def _export_arguments(self, kind: str) -> Sequence[str]:
        return "export", kind, "--checkpoint", str(self.checkpoints / kind), "--repository", str(self.repository)

    def _making(self, kind: str) -> Making:
        weights = (self._heard_by,) if kind == RECOMMENDER else ()
        return Making(self.catalogue.fingerprint, self.seed, self.preset, kind, _NEEDS.get(kind, ()), weights)

    def _fresh(self, kind: str) -> Mapping[str, Any] | None:
        return None if self.retrain else self._making(kind).find(self.checkpoints / kind)

    def _finished(self, kind: str) -> Mapping[str, Any]:
        return self._making(kind).mark(self.checkpoints / kind)

    def _exported(self, trained: Trained) -> tuple[Version, ...] | None:
        """The newest versions of a kind's models, if they were made of this checkpoint and are whole."""
        from tritone_training.api import get_kind

        kind = get_kind(trained.kind)
        infos = {_TASTE: read_info(trained.checkpoint / _TASTE, _TASTE)} if trained.kind == RECOMMENDER else {}
        found = [
            newest_version(self.repository / declaration.name, infos.get(declaration.name, trained.info))
            for declaration in kind.declarations
        ]
        found += [newest_ensemble(self.repository / ensemble.name, trained.info) for ensemble in kind.ensembles]
        versions = tuple(version for version in found if version is not None)
        return versions if len(versions) == len(found) else None


def _training(kind: str) -> str:
    return f"training {kind}"


def _exporting(kind: str) -> str:
    return f"exporting {kind}"


def _say_trained(trained: Trained) -> None:
    how = "was trained before" if trained.train_s is None else f"trained in {trained.train_s:.0f} s"
    console.say(f"      {trained.kind}: {how}; {trained.headline}")


def _say_exported(trained: Trained) -> None:
    how = "was exported before" if trained.export_s is None else f"exported in {trained.export_s:.0f} s"
    names = ", ".join(f"{version.model} version {version.version}" for version in trained.versions)
    differences = [each.max_abs_difference for each in trained.versions if each.max_abs_difference is not None]
    parity = f"; at most {max(differences):.1e} from PyTorch" if differences else ""
    console.say(f"      {names}: {how}{parity}")
