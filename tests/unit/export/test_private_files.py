"""Other users of the machine cannot read files with personal data, from training to publication and removal."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import recommender_artifacts as models
from tests.support import recommender_models

from tritone_export import check_repository, forget_in_checkpoint, forget_user
from tritone_export.candidates import files_in, stage_candidate
from tritone_export.repository import holds_personal_data, publish
from tritone_training.kind import TrainRequest
from tritone_training.registry import get_kind

PERSONAL = ("users.npy", "history.columns.npy", "friends.columns.npy", "recommender.json")


@pytest.fixture(autouse=True, params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("TRITONE_RECOMMENDER_KEY", raising=False)
    before = os.umask(request.param)
    yield
    os.umask(before)


def check_closed(folder: Path, *needed: str) -> None:
    """Check that the required files exist, and that files have mode 600 and folders 700."""
    paths = [folder, *folder.rglob("*")]
    wrong = {
        str(path): oct(stat.S_IMODE(path.stat().st_mode))
        for path in paths
        if stat.S_IMODE(path.stat().st_mode) != (0o700 if path.is_dir() else 0o600)
    }
    assert wrong == {}
    assert set(needed) <= {path.name for path in paths}


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "recommender.key"


def test_an_artifact(tmp_path: Path, key_file: Path) -> None:
    (tmp_path / "artifact").mkdir(mode=0o755)
    for name in PERSONAL:  # of a release that left them open
        (tmp_path / "artifact" / name).write_bytes(b"")
        (tmp_path / "artifact" / name).chmod(0o644)
    check_closed(models.make_artifact(tmp_path / "artifact", key_file), *PERSONAL)
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600


def test_a_version_that_is_exported_tried_published_and_forgotten(tmp_path: Path, key_file: Path) -> None:
    checkpoint, repository = tmp_path / "checkpoint", tmp_path / "repository"
    models.publish(models.make_artifact(checkpoint / "artifact", key_file), key_file, repository, ensembles=False)
    version = repository / "recommender" / "1"
    check_closed(version, *PERSONAL, "model_card.json")
    assert [str(finding) for finding in check_repository(repository).findings] == []

    stage_candidate(version, tmp_path / "recommender.candidate", {})
    check_closed(tmp_path / "recommender.candidate" / "1", *PERSONAL)

    for path in (version, *version.iterdir()):  # as older releases left it
        path.chmod(0o755 if path.is_dir() else 0o644)
    again = publish(version.parent, version_files=lambda _: dict(files_in(version, is_version=True)), model_files={})
    check_closed(again, *PERSONAL)

    forgotten = forget_user(models.user_id(3), repository, key=key_file, keep_old=True)
    check_closed(repository / "recommender" / str(forgotten.versions["recommender"]), *PERSONAL)
    forget_in_checkpoint(models.user_id(3), checkpoint, key=key_file)
    check_closed(checkpoint / "artifact", *PERSONAL)


def test_lint_warns_of_a_version_that_others_can_read(tmp_path: Path, key_file: Path) -> None:
    repository = tmp_path / "repository"
    models.publish(models.make_artifact(tmp_path / "artifact", key_file), key_file, repository, ensembles=False)
    (repository / "recommender" / "1").chmod(0o750)
    [finding] = check_repository(repository).findings
    assert "other users of this machine can read" in str(finding)


def test_a_model_without_personal_data_stays_readable_for_a_server_of_another_user(tmp_path: Path) -> None:
    os.umask(0o022)
    version = publish(
        tmp_path / "genre_cnn", version_files=lambda _: {"model.onnx": b"x", "model_card.json": b"{}"}, model_files={}
    )
    assert stat.S_IMODE(version.stat().st_mode) == 0o755
    assert stat.S_IMODE((version / "model.onnx").stat().st_mode) == 0o644


@pytest.mark.parametrize("card", [None, b"", b"{", b"[]", b'{"personal_data": null}', b"[" * 100_000])
def test_a_card_without_personal_data(card: bytes | None) -> None:
    assert not holds_personal_data(card)
    assert holds_personal_data(b'{"personal_data": {"n_users": 0}}')


@pytest.mark.slow  # trains
def test_a_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "recommender"
    get_kind("recommender").train(TrainRequest(out=out, preset="tiny", progress=False, data=recommender_models.files()))
    check_closed(out, *PERSONAL, "checkpoint.json", "recommender.key", "taste_vae")
    shutil.rmtree(out)
