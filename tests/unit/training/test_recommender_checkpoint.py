"""A recommender's checkpoint folder: replaced as a whole, and refused where its parts do not belong together."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.support import recommender_models

from tritone_export import forget_in_checkpoint
from tritone_training.artifact_export import ArtifactExport
from tritone_training.data.interactions import ListeningFiles
from tritone_training.exceptions import CheckpointError, TrainingError
from tritone_training.kind import EvaluateRequest, TrainRequest
from tritone_training.kinds.recommender import base_fit, checkpoint_writing, train
from tritone_training.registry import get_kind

KIND = get_kind("recommender")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(recommender_models.checkpoint(), tmp_path / "run"))


def request(out: Path, **changes: Any) -> TrainRequest:
    files = replace(
        recommender_models.files(), friends=None, friend_column=None
    )  # another artifact than the one that is there
    return TrainRequest(out=out, preset="tiny", progress=False, data=files, overwrite=True, **changes)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    ("module", "step"),
    [(base_fit, "train_taste_network"), (train, "select_ensemble"), (checkpoint_writing, "precompute_rankings")],
)
def test_an_interrupted_training_leaves_the_old_checkpoint_whole(
    run: Path, module: ModuleType, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = contents(run)
    monkeypatch.setattr(module, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        KIND.train(request(run, max_epochs=1))
    assert {path: digest for path, digest in contents(run).items() if not path.startswith("unfinished/")} == before
    KIND.export(run)


def test_a_new_checkpoint_keeps_the_key_and_nothing_else_of_the_old(run: Path) -> None:
    key = (run / "recommender.key").read_bytes()
    (run / "unfinished" / "recommender").mkdir(parents=True)  # a training was killed
    (run / "unfinished" / "recommender" / "users.npy").write_bytes(b"half")
    KIND.train(request(run, overrides={"taste_vae": 0}))
    assert {path.name for path in run.iterdir()} == {"artifact", "checkpoint.json", "logs", "recommender.key"}
    assert (run / "recommender.key").read_bytes() == key
    assert not (run / "artifact" / "social.values.npy").exists()
    assert "taste_vae" not in json.loads((run / "checkpoint.json").read_text())["base_models"]
    assert KIND.export(run).companions == ()


def test_an_artifact_of_another_fit_is_refused(run: Path) -> None:
    info = json.loads((run / "checkpoint.json").read_text())
    (run / "checkpoint.json").write_text(json.dumps({**info, "fit": "0" * 16}))
    with pytest.raises(CheckpointError, match="its artifact is not the one that"):
        KIND.export(run)
    with pytest.raises(CheckpointError, match="its artifact is not the one that"):
        KIND.evaluate(EvaluateRequest(checkpoint=run, data=recommender_models.files(), progress=False))


def test_a_checkpoint_that_forgot_somebody_is_still_one(run: Path) -> None:
    user = recommender_models.world().log.users[3]
    assert forget_in_checkpoint(user, run)
    KIND.export(run)


def test_a_key_that_lies_elsewhere_is_remembered_and_none_other_is_taken_for_it(run: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.key"
    elsewhere.write_text("f" * 64)
    files = replace(recommender_models.files(), key=elsewhere)
    KIND.train(replace(request(run, overrides={"taste_vae": 0}), data=files))
    exported = KIND.export(run)
    assert isinstance(exported, ArtifactExport)
    assert exported.key is None  # run/recommender.key is of the training before
    assert exported.key_wanted is not None
    assert exported.key_wanted[1] == str(elsewhere)
    assert str(tmp_path) not in json.dumps({**exported.card, "command": "", "data": ""})


def test_a_taste_vae_that_was_trained_before_is_taken(tmp_path: Path) -> None:
    files = recommender_models.files()
    columns = {name: getattr(files, name) for name in ("user_column", "item_column", "plays_column")}
    log = ListeningFiles(interactions=files.interactions, **columns)
    given = TrainRequest(out=tmp_path / "taste", preset="tiny", progress=False, data=log, max_epochs=1)
    get_kind("taste_vae").train(given)
    wanted = replace(given, out=tmp_path / "run", taste_vae=given.out)
    KIND.train(wanted)
    before, found = (json.loads((folder / "checkpoint.json").read_text()) for folder in (given.out, wanted.out))
    assert found["base_models"].count("taste_vae") == 1
    assert found["taste_vae"]["metrics"] == before["metrics"]
    copied = json.loads((wanted.out / "taste_vae" / "checkpoint.json").read_text())
    assert copied["weights_sha256"] == before["weights_sha256"]
    KIND.export(wanted.out)
    for changes, says in (
        ({"seed": 1}, "got one of other listens"),
        ({"overrides": {"power": 0.5}}, "train it with --set power=0.5"),
        ({"overrides": {"taste_vae": False}}, "got the setting taste_vae=false"),
        ({"refit_on_all": True}, "add --no-refit-on-all"),
        ({"taste_vae": wanted.out}, "is a checkpoint of 'recommender', expected 'taste_vae'"),
    ):
        with pytest.raises(TrainingError, match=says):
            KIND.train(replace(wanted, out=tmp_path / "refused", **changes))
        assert not (tmp_path / "refused" / "checkpoint.json").exists()
