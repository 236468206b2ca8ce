"""A recommender's life on a server: sound in, a user forgotten, and no raw id anywhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.recommender_calls import Answers, Client, metric, metrics_text
from tests.support import recommender_artifacts as models
from tritonclient.utils import InferenceServerException
from typer.testing import CliRunner

from tritone_cli.main import build_app
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.recommender import RecommendRequest

pytestmark = pytest.mark.triton

USERS = [models.user_id(number) for number in range(models.N_USERS)]


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("key") / "recommender.key"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, key_file: Path) -> Path:
    """As `tritone train recommender` leaves it, as far as serving is concerned."""
    folder = tmp_path_factory.mktemp("checkpoint")
    models.make_artifact(folder / "artifact", key_file, arms=("a", "b"))
    return folder


@pytest.fixture(scope="module")
def whole_repository(
    tmp_path_factory: pytest.TempPathFactory,
    checkpoint: Path,
    key_file: Path,
) -> Path:
    from tests.integration.conftest import make_repository

    path = make_repository(tmp_path_factory.mktemp("whole"))
    models.publish(checkpoint / "artifact", key_file, path)
    return path


@pytest.fixture(scope="module")
def live(whole_repository: Path) -> Iterator[TritonServer]:
    options = ServerOptions(
        repository=whole_repository, http_port=0, grpc_port=0, metrics_port=0, stop_timeout_s=1, log_verbose=1
    )
    with TritonServer.start(options) as running:
        yield running


# --- from sound to suggestion -------------------------------------------------------------------------------


def embed_recordings(server: TritonServer, audio: Any, k: int = 5) -> Answers:
    client = Client(server, "recording_recommender")
    try:
        return client.send({"audio": audio, "k": [[k]]})
    finally:
        client.close()


@pytest.mark.parametrize("n_windows", [1, 3, 64])
def test_one_request_from_sound_to_suggestion(
    live: TritonServer, windows: Callable[[int], Any], n_windows: int, whole_repository: Path, key_file: Path
) -> None:
    audio = windows(n_windows)
    answer = embed_recordings(live, audio)
    assert (answer["source"], len(answer["item_ids"])) == ("audio", 5)
    # The same in three steps.
    genre = Client(live, "genre_cnn")
    embeddings = genre._client.infer("genre_cnn", _audio(audio)).as_numpy("embedding")
    genre.close()
    mean = embeddings.mean(axis=0, dtype=np.float64)
    recommender = Client(live)
    steps = recommender.ask(embedding=(mean / np.linalg.norm(mean)).astype(np.float32), k=5)
    recommender.close()
    assert steps["item_ids"] == answer["item_ids"]
    np.testing.assert_allclose(steps["scores"], answer["scores"], atol=1e-5)


def test_the_same_recording_gets_the_same_recommendations(live: TritonServer, windows: Callable[[int], Any]) -> None:
    audio = windows(2)
    assert embed_recordings(live, audio).rows == embed_recordings(live, audio).rows


def test_sound_that_does_not_fit(live: TritonServer, windows: Callable[[int], Any]) -> None:
    with pytest.raises(InferenceServerException, match="batch-size must be <= 64 for 'genre_cnn'"):
        embed_recordings(live, windows(65))
    with pytest.raises(InferenceServerException, match=r"unexpected shape for input 'audio'.*\[-1,66150\]"):
        embed_recordings(live, windows(2)[:, :100])
    with pytest.raises(InferenceServerException, match=r"invalid k: .*, got 0"):
        embed_recordings(live, windows(1), k=0)


def _audio(audio: Any) -> Any:
    from tests.integration.recommender_calls import tensors

    return tensors({"audio": audio})


# --- privacy ------------------------------------------------------------------------------------------------


def test_a_user_is_forgotten_while_the_server_runs(
    live: TritonServer, whole_repository: Path, checkpoint: Path, key_file: Path, windows: Callable[[int], Any]
) -> None:
    client = Client(live)
    gone, stays = USERS[11], USERS[12]
    audio = windows(1)
    embed_recordings(live, audio)
    assert client.ask(user_id=gone)["source"] == client.ask(user_id=stays)["source"] == "user"
    by_friend = client.ask(friends=[gone])
    assert by_friend["unknown"]["friends"] == []
    result = CliRunner().invoke(
        build_app(),
        [
            *("forget", "-", "--repository", str(whole_repository), "--checkpoint", str(checkpoint)),
            *("--key", str(key_file), "--server", f"{live.http_url},{live.grpc_url}", "--json"),
        ],
        input=gone + "\n",
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said == {
        "versions": {"recommender": 2},
        "removed": [1],
        "kept": [],
        "other_key": [],
        "users": [models.N_USERS, models.N_USERS - 1],
        "checkpoint_users": [models.N_USERS, models.N_USERS - 1],
        "live": ["recommender"],
        "removed_from_checkpoint": True,
        "failed": [],
        "n_events": None,
    }
    assert gone not in result.output
    after = client.ask(user_id=gone)
    assert (after["source"], after["unknown"]["user"]) == ("popularity", True)
    with pytest.raises(InferenceServerException, match="none of the ids is known"):
        client.ask(friends=[gone])
    assert client.ask(user_id=stays)["source"] == "user"
    assert embed_recordings(live, audio)["source"] == "audio"
    client.close()

    versions = sorted(path.name for path in (whole_repository / "recommender").iterdir() if path.name.isdigit())
    assert versions == ["2"]
    card = json.loads((whole_repository / "recommender" / "2" / "model_card.json").read_text())
    assert (card["version"], card["n_forgotten"], card["personal_data"]["n_users"]) == (2, 1, models.N_USERS - 1)
    smaller = models.opened(whole_repository / "recommender" / "2", key_file)
    known = [not answer.unknown.user for answer in smaller.recommend([RecommendRequest(user=user) for user in USERS])]  # type: ignore[union-attr]
    assert known == [user != gone for user in USERS]


def test_no_raw_id_lies_anywhere(live: TritonServer, whole_repository: Path, checkpoint: Path, key_file: Path) -> None:
    client = Client(live)
    secret_history = ["track-77", "track-78", "no-such-track-zq"]
    for user in USERS:
        client.ask(user_id=user, friends=USERS[:3], history=secret_history, explain=True)
    with pytest.raises(InferenceServerException, match="zq-friend"):  # its sender may read it
        client.ask(friends=["zq-friend"])
    with pytest.raises(InferenceServerException):
        client.ask(user_id=USERS[0], k=0)
    client.close()
    assert metric(live, "answers_total", source="user") >= len(USERS) - 1
    key = key_file.read_bytes().strip()
    places = {
        "metrics": metrics_text(live).encode(),
        "log": live.log_path.read_bytes(),
        "command line": Path(f"/proc/{live.pid}/cmdline").read_bytes(),
        "environment": Path(f"/proc/{live.pid}/environ").read_bytes(),
    }
    for folder in (whole_repository, checkpoint):
        for path in folder.rglob("*"):
            if path.is_file():
                places[str(path)] = path.read_bytes()
    assert sum(path.endswith(".npy") for path in places) > 20
    for place, content in places.items():
        assert b"listener-zq" not in content, place
        assert b"example.org" not in content, place
        assert b"zq-friend" not in content, place
        assert key not in content, place
    assert b"track-77" not in places["log"]
    assert b"track-77" not in places["metrics"]


def test_the_key_is_for_its_owner_alone(whole_repository: Path) -> None:
    from tritone_serving.recommender.pseudonyms import key_folder

    assert whole_repository not in key_folder().parents
    keys = list(key_folder().iterdir())
    assert keys
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    assert key_folder().stat().st_mode & 0o777 == 0o700


def test_a_reload_under_load_loses_no_request(live: TritonServer, checkpoint: Path, whole_repository: Path) -> None:
    import threading

    failures: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        client = Client(live)
        while not stop.is_set():
            try:
                client.ask(("item_ids",), user_id=USERS[3])
            except InferenceServerException as error:
                failures.append(str(error))
        client.close()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    models.publish(checkpoint / "artifact", None, whole_repository)
    live.load_model("recommender")
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert live.models["recommender"] == ["3"]
