"""The `cf_ensemble` backend inside a real server, on simulated listeners: every source, and malformed requests."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.recommender_calls import Answers, Client, metric, question
from tests.support import recommender_artifacts as models
from tritonclient.utils import InferenceServerException

from tritone_export import check_repository
from tritone_serving import ModelLoadError, ServerOptions, TritonServer
from tritone_serving.recommender import PlaylistRequest, Recommender, RecommendRequest
from tritone_serving.recommender.pseudonyms import key_folder

pytestmark = pytest.mark.triton

KNOWN = models.user_id(7)
EMBEDDED_BY = "ab" * 32  # weights of the network that embedded the items
EMBEDDING = np.random.default_rng(1).standard_normal(256).astype(np.float32)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("key") / "recommender.key"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, key_file: Path) -> Path:
    """`recommender` with `taste_vae` beside it; `twin` with two arms and none."""
    folder = tmp_path_factory.mktemp("recommender")
    artifact = models.make_artifact(folder / "artifact", key_file, n_taste=models.N_TASTE)
    path = folder / "repository"
    models.make_taste(path)
    models.publish(artifact, key_file, path, ensembles=False)
    twin = models.make_artifact(folder / "twin", key_file, arms=("a", "b"))
    models.spoil_manifest(twin, embedding_model={"kind": "genre_cnn", "weights_sha256": EMBEDDED_BY})
    models.publish(twin, key_file, path, name="twin", ensembles=False)
    return path


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[TritonServer]:
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, stop_timeout_s=1)
    with TritonServer.start(options) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: TritonServer) -> Iterator[Client]:
    made = Client(served)
    yield made
    made.close()


@pytest.fixture(scope="module")
def twin(repository: Path, key_file: Path) -> Recommender:
    """The model `twin` in this process."""
    return models.opened(repository / "twin" / "1", key_file)


def test_lint_finds_nothing(repository: Path) -> None:
    assert [str(finding) for finding in check_repository(repository).findings] == []


# --- whom ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "given"),
    [
        ("user", {"user_id": KNOWN}),
        ("user", {"user_id": KNOWN, "history": ["track-3"], "friends": [models.user_id(8)]}),
        ("history", {"history": ["track-1", "track-4"]}),
        ("history", {"user_id": "nobody", "history": ["track-1", "track-4"], "weights": [5.0, 1.0]}),
        ("friends", {"friends": [models.user_id(8), models.user_id(9)]}),
        ("audio", {"embedding": EMBEDDING}),
        ("mood", {"mood": "tension"}),
        ("mood", {"mood_strengths": [0, 0, 0, 0, 1, 0, 0, 0.5, 0]}),
        ("popularity", {"user_id": "nobody"}),
        ("popularity", {}),
    ],
)
@pytest.mark.parametrize("k", [1, 10, models.N_ITEMS])
def test_everyone_gets_an_answer(client: Client, source: str, given: dict[str, Any], k: int) -> None:
    answer = client.ask(**given, k=k, filter_listened=False)
    assert answer["source"] == source
    assert len(set(answer["item_ids"])) == len(answer["scores"]) == k
    assert answer["scores"] == sorted(answer["scores"], reverse=True)
    assert answer["titles"][0] == f"Song {answer['item_ids'][0].removeprefix('track-')}"
    assert set(answer["artists"]) <= {"", "The Örtchen"}
    assert answer["unknown"]["user"] is (given.get("user_id") == "nobody")


def test_the_server_answers_as_the_library_does(served: TritonServer, twin: Recommender) -> None:
    client = Client(served, "twin")
    given = {"history": ["track-9", "track-2", "track-9"], "weights": [1.0, 2.0, 3.0]}
    wanted = twin.recommend(
        [
            RecommendRequest(user=KNOWN, k=7, diversity=0.5, novelty=0.2),
            RecommendRequest(skipped=["track-5"], exclude=["track-0"], k=7, **given),  # type: ignore[arg-type]
        ]
    )
    answers = [
        client.ask(user_id=KNOWN, k=7, diversity=0.5, novelty=0.2),
        client.ask(skipped=["track-5"], exclude=["track-0"], k=7, **given),
    ]
    for answer, want in zip(answers, wanted, strict=True):
        assert not isinstance(want, Exception)
        assert (tuple(answer["item_ids"]), answer["arm"]) == (want.items, want.arm)
        np.testing.assert_allclose(answer["scores"], want.scores, rtol=1e-6)
    client.close()


def test_what_was_heard_skipped_or_excluded_does_not_come(client: Client) -> None:
    given = {"history": ["track-1", "track-2"], "skipped": ["track-3"], "exclude": ["track-4"], "k": models.N_ITEMS}
    answer = client.ask(**given)
    assert {f"track-{i}" for i in range(models.N_ITEMS)} - set(answer["item_ids"]) == {
        "track-1",
        "track-2",
        "track-3",
        "track-4",
    }
    heard_too = client.ask(**given, filter_listened=False)
    assert {"track-1", "track-2"} <= set(heard_too["item_ids"])


def test_reasons_add_up_to_the_scores(client: Client) -> None:
    answer = client.ask(history=["track-1", "track-4"], explain=True, k=5, novelty=0.3)
    for score, reasons in zip(answer["scores"], answer["reasons"], strict=True):
        assert sum(reason["amount"] for reason in reasons) == pytest.approx(score, abs=1e-4)
    assert {"ease", "taste_vae", "popularity"} <= {r["base_model"] for reasons in answer["reasons"] for r in reasons}
    assert client.ask(k=2)["reasons"] == [[], []]


def test_unknown_ids_are_told(client: Client) -> None:
    answer = client.ask(user_id="nobody", history=["track-1", "x", "é"], friends=["y"], skipped=["z"], exclude=["w"])
    assert answer["unknown"] == {
        "user": True,
        "history": ["x", "é"],
        "skipped": ["z"],
        "friends": ["y"],
        "exclude": ["w"],
        "mood": False,
        "audio": False,
        "events": False,
    }


def test_only_the_outputs_that_are_asked_for(client: Client) -> None:
    assert client.ask(("scores", "item_ids"), k=3).rows[0].keys() == {"scores", "item_ids"}


def test_playlists_are_those_of_the_library(served: TritonServer, twin: Recommender) -> None:
    client = Client(served, "twin")
    strengths = [0, 0, 0, 0, 1, 0, 0, 0.5, 0]
    given: dict[str, Any] = {"playlist_from": "track-1", "playlist_to": "track-50", "k": 9, "seed": 3}
    answer = client.ask(**given, user_id=KNOWN, exclude=["track-2"], diversity=0.6, mood_strengths=strengths)
    listener = RecommendRequest(user=KNOWN, exclude=["track-2"], mood=np.array(strengths, np.float32))
    wanted = twin.playlist(PlaylistRequest("track-1", "track-50", 9, seed=3, diversity=0.6, listener=listener))
    assert tuple(answer["item_ids"]) == wanted.items
    np.testing.assert_allclose(answer["scores"], wanted.similarities, atol=1e-5)
    assert (answer["source"], answer["titles"][0], answer["unknown"]["user"]) == ("playlist", "Song 1", False)
    assert answer["unknown"]["mood_used"] == {"source": "given", "strengths": wanted.mood.strengths}
    assert answer["playlist"] == {
        "artist_gap": wanted.artist_gap,
        "relaxed": list(wanted.relaxed),
        "compared_by": ["listening", "sound"],
        "by_taste": True,
    }
    mix = client.ask(playlist_from="track-1", k=5, artist_gap=0)
    more = client.ask(playlist_from="track-1", k=5, artist_gap=0, after=mix["item_ids"])
    assert not set(mix["item_ids"]) & set(more["item_ids"])
    client.close()


def test_only_callers_with_access_follow_a_users_taste(served: TritonServer) -> None:
    stranger = Client(served, headers={})
    given = {"playlist_from": "track-1", "k": 12}
    asked, plain = stranger.ask(**given, user_id=KNOWN), stranger.ask(**given)
    assert (asked["item_ids"], asked["playlist"]["by_taste"]) == (plain["item_ids"], False)
    assert asked["unknown"]["user"] is True
    stranger.close()


# --- asked wrongly ------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"k": 0}, "invalid k: .*, got 0"),
    ({"k": -1}, "invalid k: .*, got -1"),
    ({"k": 10**9}, "invalid k: .*, got 1000000000"),
    ({"history": ["track-1"], "weights": [float("nan")]}, r"invalid weights\[0\]: .*, got nan"),
    ({"history": ["track-1"], "weights": [-1.0]}, r"invalid weights\[0\]: .*, got -1"),
    ({"history": ["track-1"], "weights": [float("inf")]}, r"invalid weights\[0\]: .*, got inf"),
    ({"history": ["track-1"], "weights": [1.0, 2.0]}, "invalid weights: .*, got 2 for 1 ids"),
    ({"weights": [1.0]}, "invalid weights: .*, got 1 for 0 ids"),
    ({"mood": "hungry"}, "unknown mood: expected one of.*, got 'hungry'"),
    ({"diversity": 1.5}, "invalid diversity: .*, got 1.5"),
    ({"novelty": float("nan")}, "invalid novelty: .*, got nan"),
    ({"embedding": np.zeros(256)}, "invalid embedding: .*, got only zeros"),
    ({"embedding": np.full(256, np.nan)}, "invalid .*: expected a number from -1000000.*, got nan"),
    ({"embedding": np.ones(255)}, r"unexpected shape for input 'embedding'.*\[-1,256\], got \[1,255\]"),
    ({"history": ["nothing", "of this"]}, "none of the ids is known"),
    ({"history": ["track-1", b"\xff\xfe"]}, r"history\[1\] holds bytes that are not UTF-8"),
    ({"user_id": b"\x80"}, "user_id holds bytes that are not UTF-8"),
    ({"history": ["track-1"] * 100_001}, "invalid history: expected at most 100,000 ids"),
    ({"similar_to": "what"}, "item 'what' is not known"),
    ({"similar_to": "track-1", "by": "smell"}, "invalid by: .*, got 'smell'"),
    ({"similar_to": "track-1", "k": 0}, "invalid k: .*, got 0"),
    ({"by": "sound"}, "give an item or an embedding"),
    ({"mood_strengths": [0, 0, 0, 0, -1, 0, 0, 0, 0]}, "expected a strength of calmness from 0 to 1, got -1"),
    ({"mood_strengths": [float("nan")] * 9}, "expected a strength of amazement from 0 to 1, got nan"),
    ({"mood_strengths": [1] * 9, "mood": "power"}, "mood and mood_strengths exclude each other"),
    ({"playlist_from": "what"}, "item 'what' is not known"),
    ({"playlist_from": "track-1", "playlist_to": "track-1"}, "expected another item than start"),
    ({"playlist_to": "track-1"}, "invalid start"),
    ({"playlist_from": "track-1", "k": 201}, "invalid n: expected a whole number from 1 to 200, got 201"),
    ({"playlist_from": "track-1", "artist_gap": 1000}, "invalid artist_gap"),
    ({"playlist_from": "track-1", "seed": -7}, "invalid seed"),
    ({"playlist_from": "track-1", "playlist_to": "track-2", "after": ["track-3"]}, "end and after exclude each other"),
]


@pytest.mark.parametrize(("given", "says"), WRONG)
def test_a_wrong_question_gets_a_clear_error(client: Client, given: dict[str, Any], says: str) -> None:
    with pytest.raises(InferenceServerException, match=says) as caught:
        client.ask(**{"k": 3, **given})
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_wrong_question_harms_nobody_beside_it(served: TritonServer, twin: Recommender) -> None:
    client = Client(served, "twin")
    wrong = [given for given, _ in WRONG if len(given.get("history", ())) < 10 and "embedding" not in given]
    asked, wanted = [], []
    for place in range(150):
        if place % 5 == 4:
            asked.append(question(**{"k": 3, **wrong[place % len(wrong)]}))
            wanted.append(None)
        else:
            history = [f"track-{item}" for item in range(place % 9 + 1)]
            asked.append(question(history=history, k=1 + place % 7))
            wanted.append(RecommendRequest(history=history, k=1 + place % 7))
    before = metric(served, "calls_total", model="twin")
    answers = client.send_together(asked)
    expected = iter(twin.recommend([each for each in wanted if each is not None]))
    for answer, want in zip(answers, wanted, strict=True):
        if want is None:
            assert isinstance(answer, InferenceServerException)
        else:
            assert isinstance(answer, Answers)
            assert tuple(answer["item_ids"]) == next(expected).items  # type: ignore[union-attr]
    assert metric(served, "calls_total", model="twin") - before < 150  # some were answered together
    client.close()


def test_a_history_of_100_000_items(client: Client) -> None:
    answer = client.ask(history=[f"track-{i % 200}" for i in range(100_000)], k=5, filter_listened=False)
    assert len(answer["item_ids"]) == 5
    assert len(answer["unknown"]["history"]) == 80


def test_rows_of_one_request_are_questions(client: Client) -> None:
    answer = client.send(
        {
            "user_id": [[""], [KNOWN]],
            "history": [["track-1", "track-4"], ["", ""]],
            "weights": [[1.0, 3.0], [0.0, 0.0]],
            "k": [[3], [2]],
        }
    )
    first, second = answer.rows
    assert (first["source"], second["source"]) == ("history", "user")
    assert first["item_ids"] == client.ask(history=["track-1", "track-4"], weights=[1.0, 3.0], k=3)["item_ids"]
    assert second["item_ids"] == [*client.ask(user_id=KNOWN, k=2)["item_ids"], ""]
    assert second["scores"][2] == 0
    with pytest.raises(InferenceServerException, match=r"row 1: invalid k: .*, got 0"):
        client.send({"k": [[1], [0]]})


def test_plain_http_json(served: TritonServer) -> None:
    def ask(k: int) -> Any:
        inputs = [
            {"name": "history", "shape": [1, 2], "datatype": "BYTES", "data": ["track-1", "track-4"]},
            {"name": "k", "shape": [1, 1], "datatype": "INT32", "data": [k]},
        ]
        url = f"{served.http_url}/v2/models/recommender/infer"
        request = urllib.request.Request(url, json.dumps({"inputs": inputs}).encode())  # noqa: S310 - our own server
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return json.loads(answer.read())

    outputs = {output["name"]: output["data"] for output in ask(2)["outputs"]}
    assert (len(outputs["item_ids"]), outputs["source"]) == (2, ["history"])
    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask(0)


# --- what is alike ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["listening", "sound", "both"])
def test_what_is_like_an_item(client: Client, repository: Path, key_file: Path, by: str) -> None:
    wanted = models.opened(repository / "recommender" / "1", key_file).catalogue.similar("track-3", by=by, n=4)
    answer = client.ask(similar_to="track-3", by=by, k=4)
    assert answer["item_ids"] == [each.item for each in wanted]
    np.testing.assert_allclose(answer["scores"], [each.score for each in wanted], rtol=1e-5)
    assert answer["source"] == "similar"


def test_what_sounds_like_a_recording(client: Client, repository: Path) -> None:
    sounds = np.load(repository / "recommender" / "1" / "items.embeddings.npy")
    answer = client.ask(embedding=sounds[42] * 3, by="sound", k=2)
    assert answer["item_ids"][0] == "track-42"
    assert answer["scores"][0] == pytest.approx(1, abs=1e-5)


# --- taste_vae ----------------------------------------------------------------------------------------------


@pytest.fixture
def genre_cards(repository: Path) -> Iterator[Any]:
    """Writes cards of versions of `genre_cnn`, as far as the recommender reads them."""

    def write(version: int, **card: str) -> None:
        folder = repository / "genre_cnn" / str(version)
        folder.mkdir(parents=True)
        (folder / "model_card.json").write_text(json.dumps({"kind": "genre_cnn", **card}))
        time.sleep(1.1)  # the recommender looks once a second

    yield write
    shutil.rmtree(repository / "genre_cnn")


def test_a_recording_that_another_network_embedded_is_ignored_and_said(served: TritonServer, genre_cards: Any) -> None:
    client = Client(served, "twin")
    try:
        assert client.ask(embedding=EMBEDDING, k=3)["source"] == "audio"
        genre_cards(1, weights_sha256="cd" * 32)
        answer = client.ask(embedding=EMBEDDING, k=3)
        assert answer["source"] == "popularity"
        assert answer["unknown"]["audio"] is True
        assert answer["item_ids"] == client.ask(k=3)["item_ids"]
        assert client.ask(embedding=EMBEDDING, history=["track-1"], k=3)["source"] == "history"
        with pytest.raises(InferenceServerException, match="nothing is known by sound: the genre_cnn of this server"):
            client.ask(embedding=EMBEDDING, by="sound")
        genre_cards(2, weights_sha256=EMBEDDED_BY)
        answer = client.ask(embedding=EMBEDDING, k=3)
        assert (answer["source"], answer["unknown"]["audio"]) == ("audio", False)
    finally:
        client.close()


# --- search -------------------------------------------------------------------------------------------------


def test_tracks_are_found_by_title_artist_and_id(client: Client) -> None:
    answer = client.ask(query="song 12", k=4)
    assert answer["item_ids"][0] == "track-12"
    assert answer["titles"][0] == "Song 12"
    assert answer["match"][0] == "normalized"
    assert answer["match_field"] == ["title"] * len(answer["item_ids"])
    assert (answer["source"], answer["scores"]) == ("search", [0.0] * len(answer["item_ids"]))
    pages = [client.ask(query="the ortchen", query_field="artist", k=40, offset=offset) for offset in (0, 40)]
    assert [(page["total"], len(page["item_ids"])) for page in pages] == [(60, 40), (60, 20)]
    assert len({item for page in pages for item in page["item_ids"]}) == 60
    assert client.ask(query="track-7", k=1)["match_field"] == ["id"]
    recommended = client.ask(k=2)
    assert (recommended["match"], recommended["match_field"], recommended["total"]) == (["", ""], ["", ""], 0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"query": " "}, "invalid query: expected a title, an artist or an id, got blanks"),
        ({"query": "\u200b"}, "invalid query: .*, got blanks"),
        ({"query_field": "title"}, "invalid query: .*, got blanks"),
        (
            {"query": "a", "query_field": "album"},
            "invalid query_field: expected one of id, title, artist.*, got 'album'",
        ),
        ({"query": "a", "offset": -1}, "invalid offset: expected a whole number from 0.*, got -1"),
        ({"query": "a", "k": 0}, "invalid k: .*, got 0"),
        ({"query": "x" * 10_000}, "invalid id in query: expected at most 4,096 bytes, got 10,000"),
        ({"query": b"\xff"}, "query holds bytes that are not UTF-8"),
    ],
)
def test_a_search_that_cannot_be_is_a_clear_error(client: Client, given: dict[str, Any], says: str) -> None:
    with pytest.raises(InferenceServerException, match=says):
        client.ask(**given)


def test_reasons_have_the_titles_of_the_tracks_they_name(client: Client) -> None:
    answer = client.ask(history=["track-2", "track-3"], k=5, explain=True)
    named = [reason for reasons in answer["reasons"] for reason in reasons if reason["because"] == "history"]
    titles = {reason["id"]: reason.get("title") for reason in named if reason["id"]}
    assert titles
    assert all(title == f"Song {item.removeprefix('track-')}" for item, title in titles.items())
    assert all("title" not in reason for reason in named if not reason["id"])


def test_without_taste_vae_the_others_answer(
    served: TritonServer, client: Client, repository: Path, key_file: Path
) -> None:
    alone = models.opened(repository / "recommender" / "1", key_file)
    [want] = alone.recommend([RecommendRequest(history=["track-1", "track-4"], k=20)])
    with_taste = client.ask(history=["track-1", "track-4"], k=20)
    assert tuple(with_taste["item_ids"]) != want.items  # type: ignore[union-attr]
    before = metric(served, "taste_fallbacks_total", model="recommender")
    served.unload_model("taste_vae")
    try:
        for _ in range(3):
            without = client.ask(history=["track-1", "track-4"], k=20)
            assert tuple(without["item_ids"]) == want.items  # type: ignore[union-attr]
        assert metric(served, "taste_fallbacks_total", model="recommender") - before == 3
    finally:
        served.load_model("taste_vae")
    assert "cf_ensemble: recommending without taste_vae for" in served.log_path.read_text()
    after = metric(served, "taste_fallbacks_total", model="recommender")
    for _ in range(60):  # both instances leave it alone for two seconds
        if client.ask(history=["track-1", "track-4"], k=20)["item_ids"] == with_taste["item_ids"]:
            break
        assert metric(served, "taste_fallbacks_total", model="recommender") > after
    else:
        pytest.fail("taste_vae is back and is not asked")


# --- A/B and metrics ----------------------------------------------------------------------------------------


def test_both_arms_are_live_and_each_user_stays_in_one(served: TritonServer, twin: Recommender) -> None:
    client = Client(served, "twin")
    users = [models.user_id(number) for number in range(40)]
    before = {arm: metric(served, "answers_total", model="twin", arm=arm) for arm in "ab"}
    arms = [client.ask(user_id=user)["arm"] for user in users]
    assert 8 < arms.count("a") < 32
    assert set(arms) == {"a", "b"}
    assert [client.ask(user_id=user)["arm"] for user in users] == arms
    assert arms == [answer.arm for answer in twin.recommend([RecommendRequest(user=user) for user in users])]  # type: ignore[union-attr]
    for arm in "ab":
        assert metric(served, "answers_total", model="twin", arm=arm) - before[arm] == 2 * arms.count(arm)
    # The second arm was given a heavy hand for what is popular.
    in_b = users[arms.index("b")]
    assert client.ask(user_id=in_b, k=3, explain=True)["reasons"][0][0]["because"] == "popularity"
    client.close()


def test_metrics_tell_rungs_coverage_members_and_refusals(served: TritonServer, client: Client) -> None:
    names = {"model": "recommender", "version": "1"}
    before = {source: metric(served, "answers_total", source=source, **names) for source in ("friends", "mood")}
    refused = metric(served, "refused_total", **names)
    client.ask(friends=[models.user_id(3)])
    client.ask(mood="power")
    client.ask(mood="power")
    with pytest.raises(InferenceServerException):
        client.ask(k=0)
    assert metric(served, "answers_total", source="friends", **names) - before["friends"] == 1
    assert metric(served, "answers_total", source="mood", **names) - before["mood"] == 2
    assert metric(served, "refused_total", **names) - refused == 1
    client.ask(k=models.N_ITEMS - 20, filter_listened=False)
    covered = metric(served, "catalogue_coverage", arm="a", **names)
    assert (models.N_ITEMS - 20) / models.N_ITEMS <= covered <= 1
    client.ask(k=models.N_ITEMS, filter_listened=False)
    assert metric(served, "catalogue_coverage", arm="a", **names) == 1
    assert metric(served, "seconds_total", **names) > 0


def test_metrics_tell_what_each_member_takes(served: TritonServer, client: Client) -> None:
    client.ask(history=["track-1", "track-4"])
    for base_model in ("ease", "popularity", "taste_vae"):
        assert metric(served, "base_model_calls_total", model="recommender", base_model=base_model) > 0
        assert metric(served, "base_model_seconds_total", model="recommender", base_model=base_model) > 0


def test_long_ids_are_refused_in_few_words(client: Client) -> None:
    with pytest.raises(InferenceServerException, match="at most 4,096 bytes, got 200,000") as caught:
        client.ask(history=["\U0001f3b6" * 50_000])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


# --- what does not load -------------------------------------------------------------------------------------


def add_version(repository: Path, name: str, key_file: Path, folder: Path) -> Path:
    artifact = models.make_artifact(folder / "artifact", key_file)
    return models.publish(artifact, None, repository, name=name, ensembles=False)[0].path


def test_a_fault_of_ours_is_about_one_question_and_says_nothing_of_it(
    served: TritonServer, repository: Path, key_file: Path, tmp_path: Path
) -> None:
    version = add_version(repository, "faulty", key_file, tmp_path)
    row = models.opened(version, key_file).resolver.user(models.user_id(9))
    served.load_model("faulty")
    # Spoilt while it is mapped, because it would not be opened so.
    start, end = np.load(version / "history.starts.npy")[row : row + 2]
    np.load(version / "history.columns.npy", mmap_mode="r+")[start:end] = 10**6
    client = Client(served, "faulty")
    with pytest.raises(InferenceServerException, match=r"the recommender failed .*see the server's log") as caught:
        client.ask(user_id=models.user_id(9))
    assert caught.value.status() == "StatusCode.INTERNAL"
    answers = client.send_together([question(user_id=models.user_id(i % 10), k=2) for i in range(60)])
    assert [isinstance(answer, Answers) for answer in answers] == [i % 10 != 9 for i in range(60)]
    assert models.user_id(9) not in served.log_path.read_text()
    client.close()
    served.unload_model("faulty")
    shutil.rmtree(version.parent)


def test_an_artifact_of_another_format(served: TritonServer, repository: Path, key_file: Path, tmp_path: Path) -> None:
    version = add_version(repository, "other_format", key_file, tmp_path)
    models.spoil_manifest(version, format=99)
    with pytest.raises(ModelLoadError, match="is of format 99, this version reads 2; train and export again"):
        served.load_model("other_format")
    shutil.rmtree(version.parent)


def test_a_damaged_artifact(served: TritonServer, repository: Path, key_file: Path, tmp_path: Path) -> None:
    version = add_version(repository, "damaged", key_file, tmp_path)
    (version / "ease.values.npy").write_bytes(b"\x93NUMPY nothing")
    with pytest.raises(ModelLoadError, match=r"ease\.values\.npy: is damaged .* export again"):
        served.load_model("damaged")
    shutil.rmtree(version.parent)


def test_a_missing_key(served: TritonServer, repository: Path, tmp_path: Path) -> None:
    version = add_version(repository, "keyless", tmp_path / "another.key", tmp_path)
    with pytest.raises(ModelLoadError, match="the key of the users' pseudonyms is missing: there is no file") as caught:
        served.load_model("keyless")
    assert str(key_folder()) in str(caught.value)
    assert "key_file" in str(caught.value)
    config = version.parent / "config.pbtxt"
    named = config.read_text().replace(
        'key: "key_file"\n  value {\n  }',
        f'key: "key_file"\n  value {{ string_value: "{tmp_path / "another.key"}" }}',
    )
    assert named != config.read_text()
    config.write_text(named)
    served.load_model("keyless")
    client = Client(served, "keyless")
    assert client.ask(user_id=KNOWN)["source"] == "user"
    client.close()
    served.unload_model("keyless")
    shutil.rmtree(version.parent)


def test_another_key(served: TritonServer, repository: Path, key_file: Path, tmp_path: Path) -> None:
    version = add_version(repository, "other_key", tmp_path / "another.key", tmp_path)
    config = version.parent / "config.pbtxt"
    config.write_text(
        config.read_text().replace(
            'key: "key_file"\n  value {\n  }', f'key: "key_file"\n  value {{ string_value: "{key_file}" }}'
        )
    )
    with pytest.raises(ModelLoadError, match="was made with another key"):
        served.load_model("other_key")
    shutil.rmtree(version.parent)
