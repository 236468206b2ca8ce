"""Interrupted trainings: they continue as if nothing had happened, leave their best epoch, and are never mixed up."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.training.small_data import write_log, write_scores, write_sequences

from tritone_training import (
    CheckpointError,
    DataError,
    EvaluateRequest,
    ListeningFiles,
    TrainingError,
    TrainRequest,
    checkpoint,
    get_kind,
    training_state,
)

pytestmark = pytest.mark.slow


class InterruptedTraining(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scores(tmp_path_factory.mktemp("scores"))


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sequences(tmp_path_factory.mktemp("sequences"))


@pytest.fixture
def request_for(folders: Path, scores: Path, listening: Path, sequences: Path) -> Callable[..., TrainRequest]:
    """A short training of a kind on little data."""

    def make(kind: str, out: Path, **changes: Any) -> TrainRequest:
        settings: dict[str, dict[str, Any]] = {
            "genre_cnn": {"refit": True, "average_from": 0.3, "batch_size": 8},
            "music_gan": {"steps_per_epoch": 3, "pool_size": 64, "batch_size": 8, "n_judged": 64},
            "music_vae": {"spans_per_epoch": 64},
            "polyphony_rnn": {"max_frames": 4_000},
        }
        known: dict[str, Any] = {"out": out, "preset": "tiny", "max_epochs": 4, "seed": 3, "progress": False}
        known["overrides"] = settings.get(kind, {})
        if kind in ("taste_vae", "recommender"):
            known["data"] = ListeningFiles(interactions=listening)
        elif kind == "taste_sequence":
            known["data"] = sequences
        else:
            known["data"] = folders if kind == "genre_cnn" else scores
        return TrainRequest(**{**known, **changes})

    return make


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the next training end abruptly after so many epochs of a stage, its state of that epoch saved."""

    def arrange(n_epochs: int, *, stage: str = "fit") -> None:
        save = training_state.StateSaver.on_train_epoch_end

        def save_then_stop(self: Any, trainer: Any, module: Any) -> None:
            save(self, trainer, module)
            if self.path.stem == stage and self.n_epochs == n_epochs:
                monkeypatch.setattr(training_state.StateSaver, "on_train_epoch_end", save)
                raise InterruptedTraining

        monkeypatch.setattr(training_state.StateSaver, "on_train_epoch_end", save_then_stop)

    return arrange


def weights_of(folder: Path, kind: str) -> Mapping[str, torch.Tensor]:
    return checkpoint.load(folder, kind=kind).weights


def assert_equal_weights(one: Path, other: Path, kind: str) -> None:
    first, second = weights_of(one, kind), weights_of(other, kind)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []


NETWORKS = ("genre_cnn", "polyphony_rnn", "music_transformer", "music_vae", "music_gan", "taste_vae", "taste_sequence")


@pytest.mark.parametrize("name", NETWORKS)
def test_an_interrupted_and_resumed_training_equals_an_uninterrupted_one(
    name: str, request_for: Callable[..., TrainRequest], interrupt_after: Callable[..., None], tmp_path: Path
) -> None:
    kind = get_kind(name)
    whole = kind.train(request_for(name, tmp_path / "whole" / "run")).to_dict()
    out = tmp_path / "parts" / "run"
    if name == "music_gan":  # with the same autoencoder; its own interruption is another test
        shutil.copytree(tmp_path / "whole" / "run" / "music_vae", out / "music_vae")
    interrupt_after(2)
    with pytest.raises(InterruptedTraining):
        kind.train(request_for(name, out))
    assert not (out / "checkpoint.json").exists()
    torch.manual_seed(99)  # another process begins with other random numbers
    np.random.seed(99)
    resumed = kind.train(request_for(name, out, resume=True)).to_dict()
    assert_equal_weights(tmp_path / "whole" / "run", out, name)
    assert resumed["n_epochs"] == whole["n_epochs"]
    assert resumed["metrics"] == whole["metrics"]
    for logs in ("logs", "refit/logs"):
        tables = [tmp_path / part / "run" / logs / "metrics.csv" for part in ("whole", "parts")]
        assert tables[0].exists() == tables[1].exists()
        if tables[0].exists():
            assert tables[0].read_text() == tables[1].read_text()
    assert not (out / "unfinished").exists()


def test_the_second_training_of_genre_cnn_is_resumed_too(
    request_for: Callable[..., TrainRequest], interrupt_after: Callable[..., None], tmp_path: Path
) -> None:
    kind = get_kind("genre_cnn")
    kind.train(request_for("genre_cnn", tmp_path / "whole"))
    interrupt_after(1, stage="refit")
    with pytest.raises(InterruptedTraining):
        kind.train(request_for("genre_cnn", tmp_path / "parts"))
    kind.train(request_for("genre_cnn", tmp_path / "parts", resume=True))
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts", "genre_cnn")


_SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
import pickle
from tritone_training import training_state
from tritone_training.registry import get_kind

name, request = pickle.loads(Path(sys.argv[1]).read_bytes())
save = training_state.StateSaver.on_train_epoch_end
def announce(self, trainer, module):
    save(self, trainer, module)
    print("epoch", self.n_epochs, flush=True)
training_state.StateSaver.on_train_epoch_end = announce
get_kind(name).train(request)
"""


def train_and_kill(name: str, request: TrainRequest, folder: Path) -> None:
    """Train in a process of its own and kill it (SIGKILL) soon after its second epoch.

    The process has one thread, as these tests do: with another number of threads, sums are rounded differently.
    """
    (folder / "request.pickle").write_bytes(pickle.dumps((name, request)))
    command = [sys.executable, "-c", _SCRIPT, str(folder / "request.pickle")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "epoch 2":
                process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_a_killed_training_leaves_its_best_epoch_and_is_resumed(
    request_for: Callable[..., TrainRequest], tmp_path: Path
) -> None:
    kind = get_kind("polyphony_rnn")
    out = tmp_path / "run"
    request = request_for("polyphony_rnn", out, max_epochs=30, command="tritone train polyphony_rnn --seed 3")
    train_and_kill("polyphony_rnn", request, tmp_path)

    with pytest.raises(CheckpointError, match=r"got an interrupted training.*--resume.*unfinished/best"):
        checkpoint.load(out, kind="polyphony_rnn")
    best = out / "unfinished" / "best"
    assert "best epoch so far" in checkpoint.load(best, kind="polyphony_rnn").info["unfinished"]
    assert kind.export(best).card["n_epochs"] >= 1
    evaluated = kind.evaluate(evaluate_request(best, request)).to_dict()
    assert np.isfinite(evaluated["nll_per_frame"])

    with pytest.raises(TrainingError, match=r"interrupted training; continue it with --resume"):
        kind.train(request)
    with pytest.raises(TrainingError, match=r"seed was 3, is now 4; give the same options.*tritone train"):
        kind.train(replace(request, resume=True, seed=4))
    with pytest.raises(TrainingError, match=r"settings was \{.*\}, is now \{'width': 9\}"):
        kind.train(replace(request, resume=True, overrides={"width": 9}))
    with pytest.raises(TrainingError, match="expected a training of music_vae, got one of polyphony_rnn"):
        get_kind("music_vae").train(replace(request, resume=True))
    assert (out / "unfinished" / "fit.ckpt").is_file(), "a refusal leaves the state"

    kind.train(replace(request, resume=True))
    assert not list(out.rglob(".*")), "nothing half-written is left"
    kind.train(replace(request, out=tmp_path / "whole"))
    assert_equal_weights(tmp_path / "whole", out, "polyphony_rnn")


def evaluate_request(folder: Path, request: TrainRequest) -> Any:
    return EvaluateRequest(folder, data=request.data, split="valid", progress=False)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_best_epoch_so_far_of_every_kind_can_be_exported(
    name: str, request_for: Callable[..., TrainRequest], interrupt_after: Callable[..., None], tmp_path: Path
) -> None:
    if name == "music_gan":  # which finds its autoencoder beside itself
        get_kind("music_vae").train(request_for("music_vae", tmp_path / "music_vae"))
    interrupt_after(1)
    with pytest.raises(InterruptedTraining):
        get_kind(name).train(request_for(name, tmp_path / "run"))
    made = get_kind(name).export(tmp_path / "run" / "unfinished" / "best")
    assert "best epoch so far" in made.card["unfinished"]


def test_an_interrupted_final_training_of_a_taste_sequence_is_resumed(
    request_for: Callable[..., TrainRequest], interrupt_after: Callable[..., None], tmp_path: Path
) -> None:
    kind = get_kind("taste_sequence")
    whole = kind.train(request_for("taste_sequence", tmp_path / "whole")).to_dict()
    request = request_for("taste_sequence", tmp_path / "parts")
    interrupt_after(1, stage="refit")
    with pytest.raises(InterruptedTraining):
        kind.train(request)
    assert not (tmp_path / "parts" / "checkpoint.json").exists()
    assert (tmp_path / "parts" / "selection" / "checkpoint.json").is_file()
    assert kind.train(replace(request, resume=True)).metrics == whole["metrics"]
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts", "taste_sequence")
    assert_equal_weights(tmp_path / "whole" / "selection", tmp_path / "parts" / "selection", "taste_sequence")


def test_changed_data_at_the_same_place_are_refused(
    request_for: Callable[..., TrainRequest], interrupt_after: Callable[..., None], scores: Path, tmp_path: Path
) -> None:
    data = tmp_path / scores.name
    shutil.copy(scores, data)
    request = request_for("polyphony_rnn", tmp_path / "run", data=data)
    interrupt_after(2)
    with pytest.raises(InterruptedTraining):
        get_kind("polyphony_rnn").train(request)
    changed = json.loads(data.read_text())
    changed["train"][0][5] = [61]
    data.write_text(json.dumps(changed))
    with pytest.raises(TrainingError, match="other data or settings: fingerprint was"):
        get_kind("polyphony_rnn").train(replace(request, resume=True))
    shutil.copy(scores, data)
    assert get_kind("polyphony_rnn").train(replace(request, resume=True)).n_epochs == 4


def test_a_finished_training_is_reported(request_for: Callable[..., TrainRequest], tmp_path: Path) -> None:
    kind, request = get_kind("polyphony_rnn"), request_for("polyphony_rnn", tmp_path, max_epochs=1, resume=True)
    first = kind.train(request).to_dict()  # nothing to resume: it begins
    before = (tmp_path / "checkpoint.json").read_bytes()
    again = kind.train(request).to_dict()
    assert again["finished"] is True
    assert again["n_epochs"] == first["n_epochs"] == 1
    assert (tmp_path / "checkpoint.json").read_bytes() == before
    with pytest.raises(TrainingError, match="max_epochs was 1, is now 2"):
        kind.train(replace(request, max_epochs=2))


def test_a_training_that_had_stopped_early_is_only_finished(
    request_for: Callable[..., TrainRequest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tritone_training.kinds.polyphony_rnn import train as train_module

    kind, request = get_kind("polyphony_rnn"), request_for("polyphony_rnn", tmp_path)

    def killed(*_: Any, **__: Any) -> None:
        raise InterruptedTraining

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "evaluate_network", killed)
        with pytest.raises(InterruptedTraining):
            kind.train(request)
    state = training_state.read_state(tmp_path / "unfinished" / "fit.ckpt")
    assert [value["done"] for value in state["callbacks"].values() if "done" in value] == [True]
    monkeypatch.setattr("lightning.Trainer.fit", killed)  # no epoch is run
    assert kind.train(replace(request, resume=True)).n_epochs == 4


def test_a_damaged_state_is_an_error_with_advice(
    request_for: Callable[..., TrainRequest], interrupt_after: Callable[..., None], tmp_path: Path
) -> None:
    kind, request = get_kind("polyphony_rnn"), request_for("polyphony_rnn", tmp_path)
    interrupt_after(1)
    with pytest.raises(InterruptedTraining):
        kind.train(request)
    (tmp_path / "unfinished" / "fit.ckpt").write_bytes(b"half")
    with pytest.raises(TrainingError, match=r"damaged file.*start again with --overwrite"):
        kind.train(replace(request, resume=True))
    assert kind.train(replace(request, overwrite=True)).n_epochs == 4


def test_the_autoencoder_of_a_music_gan_is_resumed(
    request_for: Callable[..., TrainRequest], interrupt_after: Callable[..., None], tmp_path: Path
) -> None:
    kind = get_kind("music_gan")
    kind.train(request_for("music_gan", tmp_path / "whole" / "run"))
    request = request_for("music_gan", tmp_path / "parts" / "run")
    interrupt_after(1)
    with pytest.raises(InterruptedTraining):
        kind.train(request)
    assert (request.out / "music_vae" / "unfinished" / "fit.ckpt").is_file()
    assert not (request.out / "music_vae" / "checkpoint.json").exists()
    kind.train(replace(request, resume=True))
    assert_equal_weights(tmp_path / "whole" / "run", request.out, "music_gan")


@pytest.mark.parametrize("when", ["taste_vae in training", "taste_vae trained"])
def test_a_recommender_keeps_what_was_trained(
    when: str,
    request_for: Callable[..., TrainRequest],
    interrupt_after: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from tritone_training.kinds.recommender import train as train_module
    from tritone_training.kinds.recommender.fitting import taste_network

    kind, key = get_kind("recommender"), tmp_path / "key"
    request = request_for("recommender", tmp_path / "parts")
    assert isinstance(request.data, ListeningFiles)
    request = replace(request, data=replace(request.data, key=key))
    whole = kind.train(replace(request, out=tmp_path / "whole")).to_dict()

    def killed(*_: Any, **__: Any) -> None:
        raise InterruptedTraining

    with monkeypatch.context() as patch:
        if when == "taste_vae trained":
            patch.setattr(train_module, "select_ensemble", killed)
        else:
            interrupt_after(2)
        with pytest.raises(InterruptedTraining):
            kind.train(request)
    assert request.out.stat().st_mode & 0o777 == 0o700
    with monkeypatch.context() as patch:
        if when == "taste_vae trained":
            patch.setattr(taste_network, "train_taste", killed)  # it is not trained again
        resumed = kind.train(replace(request, resume=True)).to_dict()
    assert resumed["metrics"] == whole["metrics"]
    assert_equal_weights(tmp_path / "whole" / "taste_vae", request.out / "taste_vae", "taste_vae")
    assert sorted(p.name for p in request.out.iterdir() if p.name != "logs") == [
        "artifact",
        "checkpoint.json",
        "taste_vae",
    ]


def test_an_unfinished_recommender_is_not_resumed_with_another_log(
    request_for: Callable[..., TrainRequest], monkeypatch: pytest.MonkeyPatch, listening: Path, tmp_path: Path
) -> None:
    from tritone_training.kinds.recommender import train as train_module

    log = tmp_path / "plays.csv"
    shutil.copy(listening, log)
    request = request_for("recommender", tmp_path / "run", data=ListeningFiles(interactions=log))

    def killed(*_: Any, **__: Any) -> None:
        raise InterruptedTraining

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "select_ensemble", killed)
        with pytest.raises(InterruptedTraining):
            get_kind("recommender").train(request)
    log.write_text(log.read_text() + "u0,i19,3\nu0,i18,3\nu0,i17,3\n")
    with pytest.raises(TrainingError, match="the listening log differs"):
        get_kind("recommender").train(replace(request, resume=True))


def test_an_out_folder_in_use_is_refused(request_for: Callable[..., TrainRequest], tmp_path: Path) -> None:
    kind, request = get_kind("polyphony_rnn"), request_for("polyphony_rnn", tmp_path / "run", max_epochs=1)
    kind.train(request)
    before = {path: path.read_bytes() for path in request.out.rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match=r"got a trained polyphony_rnn of .*--overwrite"):
        kind.train(request)
    with pytest.raises(TrainingError, match=r"got a trained polyphony_rnn"):
        get_kind("music_vae").train(request)
    assert {path: path.read_bytes() for path in request.out.rglob("*") if path.is_file()} == before
    kind.train(replace(request, overwrite=True, seed=4))
    assert checkpoint.read_info(request.out)["seed"] == 4

    other = tmp_path / "documents"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(TrainingError, match=r"with other files \(thesis.txt\)"):
        kind.train(replace(request, out=other))
    with pytest.raises(TrainingError, match="expected a folder, got a file"):
        kind.train(replace(request, out=other / "thesis.txt"))
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]


def test_what_failed_for_its_data_leaves_nothing_to_resume(
    request_for: Callable[..., TrainRequest], tmp_path: Path
) -> None:
    request = request_for("polyphony_rnn", tmp_path / "run", data=tmp_path / "missing")
    for _ in range(2):
        with pytest.raises(DataError):
            get_kind("polyphony_rnn").train(request)
    assert not (tmp_path / "run" / "unfinished").exists()


def test_an_overwritten_checkpoint_stays_until_the_new_one_is_finished(
    request_for: Callable[..., TrainRequest], interrupt_after: Callable[..., None], tmp_path: Path
) -> None:
    kind, request = get_kind("polyphony_rnn"), request_for("polyphony_rnn", tmp_path, max_epochs=2)
    kind.train(request)
    before = weights_of(tmp_path, "polyphony_rnn")
    interrupt_after(1)
    with pytest.raises(InterruptedTraining):
        kind.train(replace(request, seed=8, overwrite=True))
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(tmp_path, "polyphony_rnn").items())
    kind.train(replace(request, seed=8, resume=True))
    assert checkpoint.read_info(tmp_path)["seed"] == 8


def test_a_log_whose_name_is_not_text_is_trained_on(tmp_path: Path) -> None:
    log = write_log(tmp_path).rename(tmp_path / os.fsdecode(b"caf\xe9.csv"))
    out = tmp_path / "run"
    get_kind("taste_vae").train(
        TrainRequest(out, preset="tiny", max_epochs=1, progress=False, data=ListeningFiles(interactions=log))
    )
    assert r"caf\xe9.csv" in json.dumps(checkpoint.read_info(out), ensure_ascii=False).replace("\\\\", "\\")


def test_a_training_recorded_with_its_log_as_data_is_resumed(listening: Path, tmp_path: Path) -> None:
    """Earlier versions recorded a log given by --data with named columns as `data`, not as `interactions`."""
    kind, out = get_kind("taste_vae"), tmp_path / "run"
    files = ListeningFiles(interactions=listening, user_column="user")
    request = TrainRequest(out, preset="tiny", max_epochs=1, progress=False, data=files)
    kind.train(request)
    info = dict(checkpoint.read_info(out) or {})
    asked = dict(info["asked"])
    assert asked["interactions"] == str(listening.resolve())
    assert "data" not in asked
    asked["data"] = asked.pop("interactions")
    checkpoint.update_info(out, {**info, "asked": asked})
    assert kind.train(replace(request, resume=True)).finished
    with pytest.raises(TrainingError, match="data was"):
        kind.train(replace(request, resume=True, data=replace(files, interactions=tmp_path / "other.csv")))
