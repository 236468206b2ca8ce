"""`tritone forget`: checkpoint, repository and server, one after the other and repeatable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support import recommender_artifacts as models

from tritone_export.repository import versions
from tritone_serving import AdminApiError, admin
from tritone_serving.security import admin_token

GONE = models.user_id(3)


class FakeServer:
    """A server of a repository that has loaded the first version."""

    repository: Path
    loaded: dict[str, int]
    is_down: bool

    def __init__(self, host: str, port: int, *, token: str, api_key: str | None = None) -> None:
        assert (host, port, token) == ("127.0.0.1", 8000, "secret")

    def index(self) -> list[Mapping[str, str]]:
        if self.is_down:
            raise AdminApiError("no answer")
        return [{"name": name, "version": str(number), "state": "READY"} for name, number in self.loaded.items()]

    def load(self, model: str) -> None:
        self.loaded[model] = versions(self.repository / model)[-1]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.delenv("TRITONE_SERVER", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("TRITONE_RECOMMENDER_KEY", raising=False)
    key = tmp_path / "recommender.key"
    artifact = models.make_artifact(tmp_path / "checkpoint" / "artifact", key)
    models.publish(artifact, key, tmp_path / "repository")
    FakeServer.repository, FakeServer.is_down = tmp_path / "repository", False
    FakeServer.loaded = {"recommender": 1, "genre_cnn": 1}
    monkeypatch.setattr(admin, "AdminApi", FakeServer)
    (admin_token.make_state_folder(for_log=False, for_token=True) / "8000.token").write_text("secret\n")
    return {"--repository": tmp_path / "repository", "--key": key}


def words(places: Mapping[str, Path]) -> list[Any]:
    return [each for pair in places.items() for each in pair]


def test_repeating_the_command_completes_a_removal(run_tritone: Any, places: dict[str, Path], tmp_path: Path) -> None:
    first = run_tritone("forget", GONE, *words(places))
    assert first.status == 0, first.stderr
    assert "repository: 60 -> 59 users" in first.stderr
    assert "with --checkpoint" in first.stderr
    assert "with --server" in first.stderr
    places["--checkpoint"] = tmp_path / "checkpoint"
    second = run_tritone("forget", GONE, *words(places))
    assert second.status == 0, second.stderr
    assert "checkpoint: 60 -> 59 users" in second.stderr
    assert "repository: no version holds the user" in second.stderr
    third = run_tritone("forget", GONE, *words(places), "--server", "http://127.0.0.1:8000")
    assert third.status == 0, third.stderr
    assert "checkpoint: does not hold the user (59 users)" in third.stderr
    assert "server at http://127.0.0.1:8000: recommender: version 1 -> 2" in third.stderr
    assert FakeServer.loaded == {"recommender": 2, "genre_cnn": 1}
    fourth = run_tritone("forget", GONE, *words(places), "--server", "http://127.0.0.1:8000", "--json")
    assert fourth.status == 1
    assert "no data stored for this user id" in fourth.stderr
    said = json.loads(fourth.stdout)
    assert (said["live"], said["checkpoint_users"], said["removed_from_checkpoint"]) == ([], [59, 59], False)
    for ended in (first, second, third, fourth):
        assert GONE not in ended.stdout + ended.stderr


def test_a_failure_in_one_place_does_not_stop_the_others(
    run_tritone: Any, places: dict[str, Path], tmp_path: Path
) -> None:
    ended = run_tritone("forget", GONE, *words(places), "--checkpoint", tmp_path / "typo", "--json")
    assert ended.status == 1
    said = json.loads(ended.stdout)
    assert said["versions"]["recommender"] == 2
    assert [each.partition(":")[0] for each in said["failed"]] == ["checkpoint"]
    places["--repository"] = tmp_path / "typo"
    ended = run_tritone("forget", GONE, *words(places), "--checkpoint", tmp_path / "checkpoint")
    assert ended.status == 1
    assert "checkpoint: 60 -> 59 users" in ended.stderr
    assert "repository: " in ended.stderr
    assert "expected the folder of a recommender" in ended.stderr


def test_an_unreadable_version_is_a_failure(run_tritone: Any, places: dict[str, Path]) -> None:
    (places["--repository"] / "recommender" / "2").mkdir()
    ended = run_tritone("forget", GONE, *words(places))
    assert ended.status == 1
    assert "repository: version 2 may hold the user" in ended.stderr
    assert versions(places["--repository"] / "recommender") == [2, 3]


def test_a_server_of_another_repository_is_reported(run_tritone: Any, places: dict[str, Path], tmp_path: Path) -> None:
    FakeServer.repository = tmp_path / "elsewhere"
    (tmp_path / "elsewhere" / "recommender" / "1").mkdir(parents=True)
    ended = run_tritone("forget", GONE, *words(places), "--server", "http://127.0.0.1:8000")
    assert ended.status == 1
    assert "expected version 2 of recommender after loading it, got 1" in ended.stderr


@pytest.mark.parametrize(("port", "status"), [(8000, 1), (8001, 2)], ids=["down", "no token"])
def test_a_missing_server_is_an_error_before_anything_changes(
    run_tritone: Any, places: dict[str, Path], port: int, status: int
) -> None:
    FakeServer.is_down = True
    ended = run_tritone("forget", GONE, *words(places), "--server", f"http://127.0.0.1:{port}")
    assert ended.status == status
    assert "nothing was changed" in ended.stderr or f"{port}.token" in ended.stderr
    assert versions(places["--repository"] / "recommender") == [1]


def test_the_server_is_also_read_from_the_environment(
    run_tritone: Any, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONE_SERVER", "127.0.0.1:8001")
    ended = run_tritone("forget", GONE, *words(places))
    assert ended.status == 0, ended.stderr
    assert "server at http://127.0.0.1:8000: recommender: version 1 -> 2" in ended.stderr


def test_the_admin_token_of_this_machine_is_not_sent_to_another(run_tritone: Any, places: dict[str, Path]) -> None:
    ended = run_tritone("forget", GONE, *words(places), "--server", "http://192.0.2.9:8000")
    assert ended.status == 2
    assert "--admin-token-file" in ended.stderr
    assert versions(places["--repository"] / "recommender") == [1]
