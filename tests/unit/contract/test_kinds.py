"""What every registered kind promises, from training to a repository that lint accepts.

A new kind is covered by its line in the registry; only data that it cannot learn from need more than that.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from google.protobuf import text_format
from tests.support import music_models, recommender_models
from tritonclient.grpc import model_config_pb2

from tritone import constants
from tritone_export import ExportResult, check_repository, export_kind, write_configs
from tritone_export.config import CONFIG_FILES, config_files
from tritone_export.ensembles import ensemble_configs, step_configs
from tritone_export.models import read_label_files
from tritone_export.tuned import TUNED_FILENAME, untuned
from tritone_training.artifact_export import ArtifactExport
from tritone_training.declaration import Declaration
from tritone_training.kind import Exportable, ModelKind, TrainRequest
from tritone_training.registry import get_kind, kind_names

COMMITTED = Path(__file__).parents[3] / "model_repository"


@dataclass(frozen=True)
class Exported:
    kind: ModelKind
    exportable: Exportable | ArtifactExport
    repository: Path
    results: tuple[ExportResult, ...]

    @property
    def served(self) -> list[tuple[Declaration, Exportable | ArtifactExport, ExportResult]]:
        """Every model of the kind, but for ensembles: as declared, as trained, as exported."""
        exportables = (self.exportable, *self.exportable.companions)
        declared = {each.name: each for each in self.kind.declarations}  # a checkpoint may have fewer companions
        return [
            (declared[each.declaration.name], each, result)
            for each, result in zip(exportables, self.results[: len(exportables)], strict=True)
        ]

    @property
    def converted(self) -> list[tuple[Declaration, Exportable, ExportResult]]:
        """Those of them that are networks."""
        return [
            (declaration, exportable, result)
            for declaration, exportable, result in self.served
            if isinstance(exportable, Exportable)
        ]


@pytest.fixture(params=kind_names())
def kind(request: pytest.FixtureRequest) -> ModelKind:
    return get_kind(request.param)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per label; each label is a pitch that even one epoch could tell, eight recordings of 4 s."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    times_s = np.arange(4 * constants.SAMPLE_RATE_HZ) / constants.SAMPLE_RATE_HZ
    for label, pitch_hz in (("low", 110.0), ("high", 1760.0)):
        (folder / label).mkdir()
        for i in range(8):
            samples = 0.3 * np.sin(2 * np.pi * (pitch_hz + 5 * i) * times_s)
            samples += 0.01 * rng.standard_normal(samples.size)
            soundfile.write(folder / label / f"{i}.wav", samples.astype(np.float32), constants.SAMPLE_RATE_HZ)
    return folder


@pytest.fixture(scope="module", params=kind_names())
def exported(request: pytest.FixtureRequest, recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One tiny training and one export of each kind; of those that write or recommend, the one that all tests share."""
    kind = get_kind(request.param)
    if kind.name in recommender_models.KINDS:
        served = recommender_models.served(kind.name)
        return Exported(kind, served.exportable, served.repository, served.results)
    if not any(tensor.name == "audio" for tensor in kind.declaration.inputs):
        shared = music_models.served(kind.name)
        return Exported(kind, shared.exportable, shared.repository, shared.results)
    folder = tmp_path_factory.mktemp(kind.name)
    kind.train(TrainRequest(out=folder / "run", data=recordings, preset="tiny", max_epochs=1, progress=False))
    exportable = kind.export(folder / "run")
    results = export_kind(exportable, kind, repository=folder / "model_repository")
    return Exported(kind, exportable, folder / "model_repository", results)


def test_the_kind_is_named_as_it_is_registered(kind: ModelKind) -> None:
    assert kind.name == kind.declaration.name
    assert get_kind(kind.name) is kind
    assert {"tiny", "default"} <= set(kind.presets)


def test_example_inputs_are_as_declared_and_reproducible(kind: ModelKind) -> None:
    first, again, other = (kind.example_inputs(3, seed) for seed in (7, 7, 8))
    assert list(first) == [tensor.name for tensor in kind.declaration.inputs]
    for tensor in kind.declaration.inputs:
        array = first[tensor.name]
        assert len(array) == 3
        for axis, size in zip(tensor.axes, array.shape[1:], strict=True):
            assert axis.size in (None, size)
        np.testing.assert_array_equal(array, again[tensor.name])
    assert any(not np.array_equal(first[name], other[name]) for name in first)


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model repository as git has it: an export into this checkout, as of `make demo`, changes its configs."""
    if not list(COMMITTED.glob("*/[0-9]*")) or not (COMMITTED.parent / ".git").exists():
        return COMMITTED
    folder = tmp_path_factory.mktemp("committed")
    files = subprocess.run(
        ["git", "ls-files", "-z", COMMITTED.name], cwd=COMMITTED.parent, check=True, capture_output=True
    ).stdout
    command = ["git", "checkout-index", "-z", "--stdin", f"--prefix={folder}/"]
    subprocess.run(command, cwd=COMMITTED.parent, check=True, input=files)
    return folder / COMMITTED.name


@pytest.mark.parametrize("file", CONFIG_FILES)
def test_the_committed_configs_are_current(kind: ModelKind, file: str, committed: Path) -> None:
    served = {
        declaration.name: config_files(
            declaration, label_files=read_label_files(declaration, committed / declaration.name)
        )
        for declaration in (*kind.declarations, *kind.data_models)
    }
    for ensemble in kind.ensembles:
        served[ensemble.name] = ensemble_configs(ensemble)
        served |= step_configs(ensemble)
    for name, files in served.items():
        # What this checkout's owner may have tuned for his machine counts as declared beneath.
        there = {path: committed / name / path for path in (file, TUNED_FILENAME)}
        found = untuned({key: path.read_bytes() for key, path in there.items() if path.is_file()})[file].decode()
        expected = files[file]
        # As messages, because another protobuf release may lay out the text otherwise.
        assert text_format.Parse(found, model_config_pb2.ModelConfig()) == text_format.Parse(
            expected, model_config_pb2.ModelConfig()
        ), f"run `tritone export {kind.name} --configs-only` and commit what it writes"


def test_what_is_committed_is_clean(kind: ModelKind, tmp_path: Path) -> None:
    # Without the versions that this checkout's owner may have exported.
    repository = tmp_path / "model_repository"
    names = [declaration.name for declaration in kind.declarations]
    for name in names:
        ignored = shutil.ignore_patterns("[0-9]*", ".*", "labels.txt")
        shutil.copytree(COMMITTED / name, repository / name, ignore=ignored)
    report = check_repository(repository)
    assert [str(finding) for finding in report.findings] == []
    assert sorted(report.notes) == sorted(
        f"{repository / name}: no version yet; `tritone export {name}` adds one" for name in names
    )


@pytest.mark.slow
def test_a_tiny_training_gets_through_to_the_repository(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(recommender_models.state_folder()))  # where a recommender's key is
    for declaration, _, result in exported.served:
        assert result.version == 1
        assert result.path == exported.repository / declaration.name / "1"
    report = check_repository(exported.repository)
    # An ensemble may ask for a model of another kind, which is not in this repository.
    steps = {step.model for ensemble in exported.kind.ensembles for step in ensemble.steps}
    others = [f"export {name} into this repository" for name in steps.intersection(kind_names()) - {exported.kind.name}]
    assert [each for each in map(str, report.findings) if not any(other in each for other in others)] == []
    assert report.notes == ()


@pytest.mark.slow
def test_parity_holds_with_room(exported: Exported) -> None:
    for declaration, exportable, result in exported.converted:
        assert result.parity is not None
        n_most = (exportable.graph or declaration).serving.batching.max_batch_size
        assert [batch.n_batch for batch in result.parity.batches] == [n for n in (1, 3, 16) if n <= n_most]
        for tensor in (exportable.graph or declaration).outputs:
            assert result.parity.max_abs_difference[tensor.name] <= tensor.tolerance / 2


@pytest.mark.slow
def test_what_is_trained_serves_under_the_committed_config(exported: Exported) -> None:
    for declaration, exportable, result in exported.served:
        # What a training decides about the wire (its styles, its grid) stands in the parameters alone.
        assert replace(exportable.declaration, parameters={}) == replace(declaration, parameters={})
        assert exportable.declaration.parameters.keys() >= declaration.parameters.keys()
        for file in CONFIG_FILES:
            written = (exported.repository / result.model / file).read_text(encoding="utf-8")
            assert (
                written
                == config_files(exportable.declaration, label_files=getattr(exportable, "label_files", None))[file]
            )
        assert write_configs(exportable.declaration, exported.repository) == []


@pytest.mark.slow
def test_label_files_that_are_committed_are_those_that_export_writes(exported: Exported) -> None:
    for declaration, exportable, _ in exported.converted:
        for file in exportable.label_files:
            fixed = [
                tensor
                for tensor in declaration.outputs
                if tensor.label_file == file and tensor.axes[-1].size is not None
            ]
            if fixed:  # its names are the same for every training, so a clone brings them
                committed = COMMITTED / declaration.name / file
                assert committed.read_bytes() == (exported.repository / declaration.name / file).read_bytes()


# --- the constants that the SDK and the declarations share --------------------------------------------------


def test_the_client_and_genre_cnn_agree() -> None:
    assert constants.GENRE_MODEL in kind_names()
    declaration = get_kind(constants.GENRE_MODEL).declaration
    outputs = {tensor.name: tensor for tensor in declaration.outputs}
    audio = declaration.inputs[0]
    assert (audio.name, audio.dtype, [axis.size for axis in audio.axes]) == (
        "audio",
        "FP32",
        [constants.WINDOW_SAMPLES],
    )
    assert constants.WINDOW_SAMPLES == constants.WINDOW_S * constants.SAMPLE_RATE_HZ
    assert declaration.parameters["sample_rate_hz"] == str(constants.SAMPLE_RATE_HZ)
    assert declaration.parameters["window_samples"] == str(constants.WINDOW_SAMPLES)
    assert outputs["probabilities"].axes[-1].size is None
    assert outputs["emotions"].axes[-1].size == len(constants.EMOTIONS)
    assert outputs["embedding"].axes[-1].size == constants.EMBEDDING_SIZE
    committed = (COMMITTED / constants.GENRE_MODEL / "emotions.txt").read_text(encoding="utf-8")
    assert tuple(committed.splitlines()) == constants.EMOTIONS
