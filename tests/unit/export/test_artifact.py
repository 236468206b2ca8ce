"""Versions that hold data instead of a network: export, lint, ensembles and removal of users."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tests.support import recommender_artifacts as models
from tests.support import recommender_models
from tritonclient.grpc import model_config_pb2

from tritone_export import (
    DiskFullError,
    ExportError,
    ForgettingError,
    InvalidModelNameError,
    check_repository,
    export_artifact,
    forget_in_checkpoint,
    forget_user,
)
from tritone_export.ensembles import POOLING_MODEL, pooling_graph
from tritone_serving.recommender import (
    Recommender,
    RecommendRequest,
    RecommendResponse,
    open_artifact,
    read_key,
    write_artifact,
)
from tritone_serving.recommender.artifact import rows_arrays
from tritone_serving.recommender.base_models import open_base_models
from tritone_serving.recommender.pseudonyms import find_key, key_folder, key_path
from tritone_serving.recommender.rows import Rows


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("TRITONE_RECOMMENDER_KEY", raising=False)
    return tmp_path / "state"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "recommender.key"


@pytest.fixture
def artifact(tmp_path: Path, key_file: Path) -> Path:
    return models.make_artifact(tmp_path / "checkpoint" / "artifact", key_file)


@pytest.fixture
def repository(tmp_path: Path, artifact: Path, key_file: Path) -> Path:
    """Return a repository with a recommender and the ensemble that combines it with a stand-in of genre_cnn."""
    path = tmp_path / "repository"
    models.publish(artifact, key_file, path)
    genre = path / "genre_cnn"
    genre.mkdir()
    (genre / "config.pbtxt").write_text(
        'name: "genre_cnn" backend: "onnxruntime" max_batch_size: 8\n'
        'input [ { name: "audio" data_type: TYPE_FP32 dims: [ 66150 ] } ]\n'
        'output [ { name: "probabilities" data_type: TYPE_FP32 dims: [ 4 ] }, '
        '{ name: "emotions" data_type: TYPE_FP32 dims: [ 9 ] }, '
        '{ name: "embedding" data_type: TYPE_FP32 dims: [ 256 ] } ]\n'
    )
    return path


def findings(repository: Path) -> list[str]:
    return [str(finding) for finding in check_repository(repository).findings]


def users_known(version: Path, key_file: Path) -> list[int]:
    answers = models.opened(version, key_file).recommend(
        [RecommendRequest(user=models.user_id(number)) for number in range(models.N_USERS)]
    )
    return [number for number, answer in enumerate(answers) if not answer.unknown.user]  # type: ignore[union-attr]


def without_whom(recommender: Recommender, asked: list[RecommendRequest], row: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return the scores of the base models as if the user of a row had never listened."""
    arrays = dict(recommender.artifact.arrays)
    for name in ("listening", "listeners"):
        table = (
            recommender.artifact.rows(name).to_csr(models.N_ITEMS if name == "listening" else models.N_USERS).tolil()
        )
        if name == "listening":
            table[row] = 0
        else:
            table[:, row] = 0
        csr = table.tocsr()
        csr.eliminate_zeros()
        arrays.update(rows_arrays(name, Rows.from_csr(csr)))
    base_models = open_base_models(replace(recommender.artifact, arrays=arrays))
    batch, _ = recommender.resolver.batch(asked)
    return {name: base_model.score(batch) for name, base_model in base_models.items() if name != "social"}


# --- publishing ---------------------------------------------------------------------------------------------


def test_a_version_holds_the_artifact_and_its_card(repository: Path, artifact: Path) -> None:
    version = repository / "recommender" / "1"
    there = {path.name for path in version.iterdir()}
    assert there == {path.name for path in artifact.iterdir()} | {"model_card.json"}
    card = json.loads((version / "model_card.json").read_text())
    for name, facts in card["files"].items():
        content = (version / name).read_bytes()
        assert facts == {"sha256": hashlib.sha256(content).hexdigest(), "n_bytes": len(content)}
    assert card["ensembles"]["a"]["weights"]["cold"] == {"popularity": 1.0, "social": 0.2}
    assert card["metrics"] == {"ndcg@10": 0.25}
    assert card["command"] == "tritone train recommender"
    personal = card["personal_data"]
    assert personal["n_users"] == models.N_USERS
    assert personal["held"] == [
        "listening histories (which items, how often)",
        "which users are friends",
        "which items they tagged",
    ]
    assert "HMAC" in personal["identified_by"]
    assert [tensor["name"] for tensor in card["outputs"]][:2] == ["item_ids", "scores"]


def test_a_version_without_its_key_has_a_warning(
    tmp_path: Path, artifact: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = SimpleNamespace(name="recommender", companions=(), declarations=(), ensembles=(), data_models=())
    check = str(open_artifact(artifact).manifest["key_check"])
    export = replace(models.to_export(artifact, None), key_wanted=(check, str(key_file)))
    warning = export_artifact(export, kind, repository=tmp_path / "r").warning
    assert warning is not None
    assert f"there is no key at {key_path(check)}" in warning
    assert f"install -m 600 {key_file} {key_path(check)}" in warning
    subprocess.run(warning.rpartition("run: ")[2], shell=True, check=True)  # noqa: S602 - as a user would paste it
    assert export_artifact(export, kind, repository=tmp_path / "r").warning is None
    (tmp_path / "other.key").write_text("0" * 64)
    monkeypatch.setenv("TRITONE_RECOMMENDER_KEY", str(tmp_path / "other.key"))
    assert "other.key holds another key" in str(export_artifact(export, kind, repository=tmp_path / "r").warning)
    card = json.loads((tmp_path / "r" / "recommender" / "1" / "model_card.json").read_text())
    assert f"recommender-keys/{check}.key" in card["personal_data"]["key"]


def test_published_versions_pass_lint(repository: Path) -> None:
    assert findings(repository) == []
    assert sorted(path.name for path in repository.iterdir()) == [
        "genre_cnn",
        "recommender",
        "recording_embedding",
        "recording_recommender",
    ]


def test_list_inputs_are_ragged(repository: Path) -> None:
    config = text_format.Parse(
        (repository / "recommender" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    inputs = {tensor.name: tensor for tensor in config.input}
    assert all(tensor.optional for tensor in inputs.values())
    ragged = {name for name, tensor in inputs.items() if tensor.allow_ragged_batch}
    assert ragged == {"history", "weights", "times", "skipped", "friends", "exclude", "after"}
    assert not config.response_cache.enable  # what a user gets may not outlive the user
    assert config.parameters["taste_model"].string_value == "taste_vae"


def test_names_of_companions_are_derived_from_the_given_name(artifact: Path, tmp_path: Path) -> None:
    results = models.publish(artifact, None, tmp_path / "named", name="radio")
    assert [result.model for result in results] == ["radio", "radio_recording_recommender"]
    config = (tmp_path / "named" / "radio_recording_recommender" / "config.pbtxt").read_text()
    assert 'model_name: "radio"' in config
    with pytest.raises(InvalidModelNameError):
        models.publish(artifact, None, tmp_path / "named", name="../radio")


def test_an_export_of_the_recommender_also_adds_the_model_that_stores_events(artifact: Path, tmp_path: Path) -> None:
    results = models.publish(artifact, None, tmp_path / "r", name="radio", ensembles=False, events=True)
    assert [(result.model, result.version) for result in results] == [("radio", 1), ("radio_events", 1)]
    version = tmp_path / "r" / "radio_events" / "1"
    manifest = json.loads((tmp_path / "r" / "radio" / "1" / "recommender.json").read_text())
    assert json.loads((version / "events.json").read_text()) == {"format": 1, "key_check": manifest["key_check"]}
    assert "personal_data" in json.loads((version / "model_card.json").read_text())
    assert findings(tmp_path / "r") == []


def test_an_export_of_the_recommender_also_adds_a_version_of_its_ensemble(repository: Path, artifact: Path) -> None:
    results = models.publish(artifact, None, repository)
    assert [(result.model, result.version) for result in results] == [
        ("recommender", 2),
        ("recording_recommender", 2),
    ]
    assert sorted(path.name for path in (repository / POOLING_MODEL).glob("[0-9]*")) == ["1"]


def test_the_key_is_installed_only_in_the_key_folder(repository: Path, key_file: Path) -> None:
    [installed] = key_folder().iterdir()
    assert installed.read_bytes() == key_file.read_bytes()
    assert installed.stat().st_mode & 0o777 == 0o600
    assert not list(repository.rglob("*.key"))


def test_named_keys_come_before_the_key_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_key("", "0123456789abcdef") == key_folder() / "0123456789abcdef.key"
    monkeypatch.setenv("TRITONE_RECOMMENDER_KEY", str(tmp_path / "environment.key"))
    assert find_key("", "0123456789abcdef") == tmp_path / "environment.key"
    assert find_key(str(tmp_path / "config.key"), "0123456789abcdef") == tmp_path / "config.key"
    monkeypatch.setenv("TRITONE_RECOMMENDER_KEY", str(tmp_path))  # a folder, as containers are given
    assert find_key("", "0123456789abcdef") == tmp_path / "0123456789abcdef.key"
    with pytest.raises(ValueError, match="check value of a key is malformed"):
        find_key("", "../../etc/passwd")
    with pytest.raises(ValueError, match="check value of a key is malformed"):
        key_path("../../etc/passwd")


def test_a_full_disk_leaves_the_old_version(
    repository: Path, artifact: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "file")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(DiskFullError):
        models.publish(artifact, key_file, repository)
    assert sorted(path.name for path in (repository / "recommender").iterdir() if path.is_dir()) == ["1", "configs"]


def test_pooling_is_the_mean_direction() -> None:
    session = onnxruntime.InferenceSession(pooling_graph(), providers=["CPUExecutionProvider"])
    for n_windows in (1, 2, 64):
        embeddings = np.random.default_rng(n_windows).standard_normal((n_windows, 256)).astype(np.float32)
        [[pooled]] = session.run(None, {"embeddings": embeddings})
        mean = embeddings.mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(pooled, mean / np.linalg.norm(mean), atol=1e-6)
    [[cancelled]] = session.run(None, {"embeddings": np.array([[1, 0], [-1, 0]], np.float32)})
    assert cancelled.tolist() == [0, 0]


# --- lint ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda v: models.spoil_manifest(v, format=99), "is of format 99, this version reads 2"),
        (lambda v: (v / "vectors.npy").unlink(), "vectors.npy: is missing, though recommender.json names it"),
        (lambda v: (v / "recommender.json").unlink(), "version 1 has no recommender.json"),
        (lambda v: (v / "model_card.json").unlink(), "the personal data of this version is undocumented"),
        (lambda v: (v / "recommender.key").write_text("0" * 64), "is a key of pseudonyms inside the repository"),
        (lambda v: models.spoil_manifest(v, metrics={}), "does not match its model card"),
    ],
)
def test_lint_reports_faults_of_an_artifact(repository: Path, spoil: object, says: str) -> None:
    spoil(repository / "recommender" / "1")  # type: ignore[operator]
    assert any(says in finding for finding in findings(repository))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('model_name: "genre_cnn"', 'model_name: "jenre_cnn"', "has a step with model 'jenre_cnn', but "),
        (
            'key: "embeddings"',
            'key: "windows"',
            "recording_embedding has no input 'windows'; it has embeddings",
        ),
        ('key: "embeddings"', 'key: "windows"', "input 'embeddings' of recording_embedding is not mapped"),
        ('key: "source"', 'key: "step"', "recommender has no output 'step'"),
        (
            'value: "window_embeddings"',
            'value: "elsewhere"',
            "tensor 'window_embeddings' is neither an output of a step nor an input",
        ),
        (
            'value: "window_embeddings"',
            'value: "elsewhere"',
            "tensor 'elsewhere' is neither an input of a step nor an output",
        ),
    ],
)
def test_lint_checks_the_steps_of_an_ensemble(repository: Path, old: str, new: str, says: str) -> None:
    path = repository / "recording_recommender" / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert any(says in finding for finding in findings(repository))


def test_lint_warns_of_a_key_that_others_can_read(repository: Path) -> None:
    [key] = key_folder().iterdir()
    key.chmod(0o644)
    assert any("can be read by other users" in finding for finding in findings(repository))
    key.unlink()
    assert findings(repository) == []
    assert any("its key is not in" in note for note in check_repository(repository).notes)


# --- forgetting ---------------------------------------------------------------------------------------------


def test_forgetting_removes_one_user_and_keeps_the_others(repository: Path, key_file: Path) -> None:
    before = models.opened(repository / "recommender" / "1", key_file)
    asked = [
        RecommendRequest(user=models.user_id(number), k=5, friends=[models.user_id(2)])
        for number in range(models.N_USERS)
    ]
    place = before.resolver.user(models.user_id(17))
    wanted = without_whom(before, asked, place)
    friends = before.artifact.rows("friends")
    done = forget_user(models.user_id(17), repository)
    assert (dict(done.versions), done.removed, done.kept) == (
        {"recommender": 2},
        (1,),
        (),
    )
    version = repository / "recommender" / "2"
    assert users_known(version, key_file) == [n for n in range(models.N_USERS) if n != 17]
    after = models.opened(version, key_file)
    others = [request for number, request in enumerate(asked) if number != 17]
    scores = after.score(after.resolve(others, use_precomputed=False)).base_models
    for name, expected in wanted.items():
        np.testing.assert_allclose(scores[name], np.delete(expected, 17, axis=0), atol=1e-5, err_msg=name)
    row = before.resolver.user(models.user_id(17))
    mine = friends.row(row)[0]
    assert len(mine), "the test needs somebody with friends"
    for number in range(models.N_USERS):
        old, new = before.resolver.user(models.user_id(number)), after.resolver.user(models.user_id(number))
        if number == 17:
            continue
        expected = {int(f) - (f > row) for f in friends.row(old)[0] if f != row}
        assert set(after.artifact.rows("friends").row(new)[0].tolist()) == expected
    assert not list((repository / "recommender").glob(".*-*"))
    assert findings(repository) == []


def test_forgetting_keeps_the_lists_of_other_users(tmp_path: Path) -> None:
    repository, key_file = tmp_path / "repository", tmp_path / "a.key"
    artifact = models.make_artifact(tmp_path / "artifact", key_file, n_listed=20)
    models.publish(artifact, key_file, repository)
    forget_user(models.user_id(17), repository, key=key_file)
    old, new = models.opened(artifact, key_file), models.opened(repository / "recommender" / "2", key_file)
    tables = [each.artifact.rows("lists.a") for each in (old, new)]
    assert [table.n_rows for table in tables] == [models.N_USERS, models.N_USERS - 1]
    for number in range(models.N_USERS):
        if number != 17:
            before, after = (
                table.row(each.resolver.user(models.user_id(number)))
                for each, table in zip((old, new), tables, strict=True)
            )
            assert before[0].tolist() == after[0].tolist()


def test_an_unknown_array_that_may_be_indexed_by_user_is_refused(repository: Path) -> None:
    version = repository / "recommender" / "1"
    artifact = open_artifact(version)
    manifest = {name: value for name, value in artifact.manifest.items() if name != "arrays"}
    write_artifact(version, manifest, {**artifact.arrays, "novel.factors": np.ones((models.N_USERS, 3), np.float32)})
    with pytest.raises(ForgettingError, match=r"novel\.factors"):
        forget_user(models.user_id(1), repository)
    assert sorted(path.name for path in (repository / "recommender").glob("[0-9]*")) == ["1"]


def test_forgetting_deletes_only_the_old_versions_that_hold_the_user(
    repository: Path, artifact: Path, key_file: Path
) -> None:
    forget_user(models.user_id(1), repository)  # version 2
    models.publish(artifact, key_file, repository)  # version 3: an export brings everybody back
    done = forget_user(models.user_id(1), repository, keep_old=True)
    assert (done.versions["recommender"], done.removed, done.kept) == (4, (), (3,))
    done = forget_user(models.user_id(1), repository)
    assert (dict(done.versions), done.removed) == ({}, (3,))
    assert sorted(path.name for path in (repository / "recommender").glob("[0-9]*")) == ["2", "4"]


def test_an_unknown_user_a_missing_repository_and_a_wrong_key(repository: Path, tmp_path: Path) -> None:
    done = forget_user("somebody else", repository)
    assert not done.was_held
    assert done.users == (models.N_USERS, models.N_USERS)
    with pytest.raises(ForgettingError, match="got none"):
        forget_user("x", repository, model="recommenders")
    with pytest.raises(ForgettingError, match="cannot be read"):
        forget_user("x", repository, key=tmp_path / "none.key")
    (tmp_path / "other.key").write_text("f" * 64)
    with pytest.raises(ForgettingError, match="wrong key"):
        forget_user(models.user_id(1), repository, key=tmp_path / "other.key")
    assert sorted(path.name for path in (repository / "recommender").glob("[0-9]*")) == ["1"]


def test_forgetting_removes_a_user_from_a_checkpoint(artifact: Path, key_file: Path) -> None:
    checkpoint = artifact.parent
    (checkpoint / "recommender.key").write_bytes(key_file.read_bytes())
    assert forget_in_checkpoint(models.user_id(5), checkpoint) == (models.N_USERS, models.N_USERS - 1)
    assert forget_in_checkpoint(models.user_id(5), checkpoint) == (models.N_USERS - 1, models.N_USERS - 1)
    assert users_known(artifact, key_file) == [n for n in range(models.N_USERS) if n != 5]
    assert sorted(path.name for path in checkpoint.iterdir()) == ["artifact", "recommender.key"]


def test_precomputed_lists_are_removed_with_their_user(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run"
    shutil.copytree(recommender_models.checkpoint(), checkpoint)
    key = read_key(checkpoint / "recommender.key")
    before = Recommender.open(recommender_models.checkpoint() / "artifact", key=key)
    gone, *others = recommender_models.world().log.users
    assert any(name.startswith("lists.") for name in before.artifact.arrays), "the test needs precomputed lists"
    assert forget_in_checkpoint(gone, checkpoint) == (len(others) + 1, len(others))
    assert json.loads((checkpoint / "checkpoint.json").read_text())["n_users"] == len(others)
    after = Recommender.open(checkpoint / "artifact", key=key)
    for recommender, source in ((before, "user"), (after, "popularity")):
        [answer] = recommender.recommend([RecommendRequest(user=gone, k=5)])
        assert isinstance(answer, RecommendResponse)
        assert answer.source == source
    asked = [RecommendRequest(user=name, k=5) for name in others]
    for was, now in zip(before.recommend(asked), after.recommend(asked), strict=True):
        assert isinstance(was, RecommendResponse)
        assert isinstance(now, RecommendResponse)
        assert was.items == now.items


def test_an_artifact_without_its_key_is_not_published(artifact: Path, tmp_path: Path) -> None:
    exportable = models.to_export(artifact, tmp_path / "missing.key")
    kind: Any = SimpleNamespace(name="recommender", companions=(), ensembles=(), data_models=())
    with pytest.raises(ExportError, match="the key cannot be installed"):
        export_artifact(exportable, kind, repository=tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
