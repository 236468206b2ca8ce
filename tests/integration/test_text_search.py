"""Search by descriptions on a real server: with a sentence encoder, without one, and while it is down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.recommender_calls import Client, metric
from tests.support import recommender_artifacts as models
from tritonclient.utils import InferenceServerException

from tritone import InvalidInputError, MusicClient, NothingKnownError, RequestRejectedError
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.recommender import TextRequest

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("key") / "recommender.key"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, key_file: Path) -> Iterator[TritonServer]:
    """`recommender` with a sentence encoder; `plain` without one; `lonely`, whose encoder is not there."""
    folder = tmp_path_factory.mktemp("text_search")
    artifact = models.make_artifact(folder / "artifact", key_file)
    models.publish(artifact, key_file, folder / "repository", name="plain", ensembles=False)
    models.add_text_search(artifact)
    models.publish(artifact, key_file, folder / "repository", ensembles=False)
    models.publish(artifact, key_file, folder / "repository", name="lonely", ensembles=False)
    config = folder / "repository" / "lonely" / "config.pbtxt"
    config.write_text(config.read_text().replace(f'"{models.ENCODER_MODEL}"', '"no_such_model"'))
    models.make_encoder(folder / "repository")
    options = ServerOptions(
        repository=folder / "repository", http_port=0, grpc_port=0, metrics_port=0, stop_timeout_s=1
    )
    with TritonServer.start(options) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: TritonServer) -> Iterator[Client]:
    made = Client(served)
    yield made
    made.close()


def test_a_description_is_searched_by_its_meaning(client: Client) -> None:
    answer = client.ask(text="sorrowful piano music", k=5)
    assert answer["source"] == "meaning"
    assert len(answer["item_ids"]) == 5
    assert {int(item.removeprefix("track-")) % 10 for item in answer["item_ids"]} == {0}
    assert answer["scores"] == sorted(answer["scores"], reverse=True)
    assert answer["titles"][0] == f"Song {answer['item_ids'][0].removeprefix('track-')}"


def test_the_server_answers_as_the_library_does(client: Client, served: TritonServer, key_file: Path) -> None:
    version = served.options.repository / "recommender" / "1"
    library = models.opened(version, key_file).catalogue.text_search
    embedding = np.array([0, 1, 0, 0], np.float32)
    wanted = library.search(TextRequest("quick", 7), embedding)
    answer = client.ask(text="quick", k=7)
    assert (tuple(answer["item_ids"]), answer["source"]) == (wanted.items, "meaning")
    np.testing.assert_allclose(answer["scores"], wanted.scores, rtol=1e-2)


@pytest.mark.parametrize("model", ["plain", "lonely"])
def test_without_an_encoder_words_decide(served: TritonServer, model: str) -> None:
    other = Client(served, model)
    answer = other.ask(text="Song 12 by the ortchen", k=3)
    assert (answer["source"], answer["item_ids"][0]) == ("words", "track-12")
    assert other.ask(text="quick", k=3)["item_ids"] == []
    other.close()


def test_searches_go_on_while_the_encoder_is_unloaded(served: TritonServer) -> None:
    other = Client(served, "lonely")
    before = metric(served, "text_fallbacks_total")
    for _ in range(3):
        assert other.ask(text="sad", k=2)["source"] == "words"
    deadline_s = time.monotonic() + 5
    while metric(served, "text_fallbacks_total") < before + 3:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    other.close()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"text": " \t"}, "invalid text: expected words to search for, got blanks only"),
        ({"text": "\u200b"}, "invalid text"),
        ({"text": b"\xff"}, "text holds bytes that are not UTF-8"),
        ({"text": "x" * 10_000}, "invalid id in text: expected at most 4,096 bytes"),
        ({"text": "sad", "k": 0}, "invalid k|k"),
    ],
)
def test_what_cannot_be_searched(client: Client, given: dict[str, Any], says: str) -> None:
    with pytest.raises(InferenceServerException, match=says):
        client.ask(**{"k": 3, **given})


@pytest.mark.parametrize(
    "text", ["the of and", "🎵🎶", "夜に駆ける", "हिन्दी गीत", "a\x00b", "\x1b[31msad", "sad " * 1_000, "' OR 1=1 --"]
)
def test_odd_descriptions_are_answered(client: Client, text: str) -> None:
    answer = client.ask(text=text, k=3)
    assert answer["source"] == "meaning"
    assert all(np.isfinite(answer["scores"]))


def test_the_client_searches(served: TritonServer) -> None:
    with MusicClient(served.grpc_url) as music:
        found = music.search("sorrowful", n=4)
        assert (len(found), found.source, found.model) == (4, "meaning", "recommender")
        assert found[0].title == f"Song {found[0].track_id.removeprefix('track-')}"
        with pytest.raises(InvalidInputError, match="got blanks only"):
            music.search("  ")


# --- titles in place of ids ---------------------------------------------------------------------------------


def test_titles_stand_for_ids(served: TritonServer) -> None:
    with MusicClient(served.grpc_url) as music:
        by_id = music.recommend(history=["track-3", "track-5"], skipped=["track-7"], n=5)
        by_title = music.recommend(history=["song 3", "track-5"], skipped=["Song 7"], n=5, resolve=True)
        assert by_title.track_ids == by_id.track_ids
        assert not by_title.unknown
        unknown = music.recommend(history=["song 3", "no such title"], n=2, resolve=True).unknown
        assert unknown.history == ("no such title",)
        assert music.recommend(history=["song 3", "track-5"], n=2).unknown.history == ("song 3",)
        assert music.similar("SONG 12", n=3, resolve=True).track_ids == music.similar("track-12", n=3).track_ids
        with pytest.raises(NothingKnownError, match=r"did you mean .*track-"):
            music.similar("Sonng 12", resolve=True)
        with pytest.raises(RequestRejectedError, match="ambiguous title 'the ortchen'"):
            music.recommend(history=["the ortchen"], resolve=True)
        with pytest.raises(RequestRejectedError, match="too many titles"):
            music.recommend(history=[f"title-{number}" for number in range(500)], resolve=True)
