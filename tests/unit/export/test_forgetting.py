"""Interrupted removals of a user, and versions that cannot be read."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import recommender_artifacts as models
from tests.support import recommender_models

from tritone_export import ForgettingError, forget_in_checkpoint, forget_user, forgetting
from tritone_export.repository import versions
from tritone_serving.recommender import open_artifact, write_artifact
from tritone_serving.recommender.artifact import SEQUENCE_TIMES

GONE = models.user_id(3)


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("TRITONE_RECOMMENDER_KEY", raising=False)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "recommender.key"


@pytest.fixture
def repository(tmp_path: Path, key_file: Path) -> Path:
    artifact = models.make_artifact(tmp_path / "checkpoint" / "artifact", key_file)
    models.publish(artifact, key_file, tmp_path / "repository")
    return tmp_path / "repository"


def numbers(repository: Path) -> list[str]:
    return sorted(path.name for path in (repository / "recommender").iterdir() if path.name.isdigit())


def test_versions_of_another_key_are_skipped(repository: Path, key_file: Path, tmp_path: Path) -> None:
    other = models.make_artifact(tmp_path / "other", tmp_path / "other.key")
    models.publish(other, None, repository)  # version 2; its key is nowhere but in that file
    done = forget_user(GONE, repository, key=key_file)
    assert (done.removed, done.other_key, dict(done.unread)) == ((1,), (2,), {})
    assert numbers(repository) == ["2", "3"]
    done = forget_user(GONE, repository, key=tmp_path / "other.key")
    assert (done.removed, done.other_key) == ((2,), ())  # version 3's key is installed


def test_damaged_and_empty_versions_are_reported(repository: Path, key_file: Path) -> None:
    folder = repository / "recommender"
    shutil.copytree(folder / "1", folder / "2")
    os.truncate(folder / "2" / "users.npy", 50)
    (folder / "3").mkdir()
    done = forget_user(GONE, repository, key=key_file)
    assert (done.versions["recommender"], done.removed, sorted(done.unread)) == (4, (1,), [2, 3])
    assert "is damaged" in done.unread[2]
    assert "holds no recommender" in done.unread[3]
    again = forget_user(GONE, repository, key=key_file)
    assert (again.was_held, sorted(again.unread)) == (False, [2, 3])


def test_if_no_version_can_be_read_an_error_is_raised(repository: Path) -> None:
    os.truncate(repository / "recommender" / "1" / "users.npy", 50)
    with pytest.raises(ForgettingError, match="is damaged"):
        forget_user(GONE, repository)


def test_an_interrupted_removal_is_completed(repository: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = shutil.rmtree

    def fails(folder: Path, **options: Any) -> None:
        if Path(folder).name.startswith(".forgotten-"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))
        remove(folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", fails)
        done = forget_user(GONE, repository)
    assert (done.removed, done.kept, list(done.unread)) == ((), (1,), [1])
    assert (repository / "recommender" / ".forgotten-1").is_dir()
    again = forget_user(GONE, repository)
    assert not again.was_held
    assert not (repository / "recommender" / ".forgotten-1").exists()
    assert versions(repository / "recommender") == [2]


def test_an_interrupted_change_of_a_checkpoint_is_completed(repository: Path, key_file: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    (checkpoint / "artifact").rename(checkpoint / ".artifact-old")
    assert forget_in_checkpoint(GONE, checkpoint, key=key_file) == (models.N_USERS, models.N_USERS - 1)
    assert sorted(path.name for path in checkpoint.iterdir()) == ["artifact"]


def test_arrays_of_items_may_be_as_long_as_there_are_users(tmp_path: Path, key_file: Path) -> None:
    artifact = models.make_artifact(tmp_path / "checkpoint" / "artifact", key_file, n_users=20, n_items=20)
    opened = open_artifact(artifact)
    manifest = {name: value for name, value in opened.manifest.items() if name != "arrays"}
    of_tags = {"tags.ids": np.zeros(20, np.uint8), "tags.ends": np.arange(1, 21)}
    write_artifact(artifact, manifest, {**opened.arrays, **of_tags})
    assert forget_in_checkpoint(GONE, artifact.parent, key=key_file) == (20, 19)
    assert forget_in_checkpoint(models.user_id(4), artifact.parent, key=key_file) == (19, 18)


def test_every_array_of_a_trained_recommender_is_known_to_be_by_user_or_not() -> None:
    """Otherwise removal is refused where there are as many users as entries."""
    artifact = open_artifact(recommender_models.checkpoint() / "artifact")
    tables = [f"{name}.{part}" for name in artifact.manifest["base_models"] for part in ("starts", "columns", "values")]
    rows = (*forgetting._ROWS, *forgetting._COLUMNS)
    by_user = (*(f"{name}.{part}" for name in rows for part in ("starts", "columns", "values")), *forgetting._VECTORS)
    known = (*forgetting._NOT_BY_USER, *tables, *by_user, SEQUENCE_TIMES)
    assert sorted(name for name in artifact.arrays if not forgetting._matches(name, known)) == []
