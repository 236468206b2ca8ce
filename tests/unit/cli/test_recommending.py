"""`tritone recommend` and `tritone similar` with models in memory; tests/integration uses a real server."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.unit.client.recommenders import ITEMS, FakeRecommender, said

import tritone

VERBS = (("recommend",), ("similar", "track-3"))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRecommender:
    fake = FakeRecommender()
    patched = functools.partial(tritone.MusicClient, transport=fake, retries=0)
    monkeypatch.setattr(tritone, "MusicClient", patched)
    monkeypatch.delenv("TRITONE_SERVER", raising=False)
    monkeypatch.delenv("TRITONE_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 22_050 * 4)
    soundfile.write("song.wav", samples, 22_050)
    return fake


def test_people_get_a_table(run_tritone: Any, model: FakeRecommender) -> None:
    ended = run_tritone("recommend", "--user", "42", "-n", 12)
    assert ended.status == 0, ended.stderr
    assert ended.stdout == ""
    assert "based on this user's listening history; recommender v3, arm a" in ended.stderr
    lines = [line.split() for line in ended.stderr.splitlines()]
    assert ["score", "track", "title"] in lines
    assert ["1", "1", "track-0"] in lines
    assert ["12", "0.8281", "track-11", "Someone:", "Title", "11"] in lines
    assert "because" not in ended.stderr
    assert "not known" not in ended.stderr


def test_reasons(run_tritone: Any, model: FakeRecommender) -> None:
    ended = run_tritone("recommend", "--explain", "-n", 2)
    assert "based on popularity" in ended.stderr
    assert "because" in ended.stderr
    assert "+0.5 listened to Björk: Jóga (2022 remaster) (ease); +0.5 popular (popularity)" in ended.stderr
    many = [{"base_model": "m", "because": "tag", "id": f"t{n}", "amount": 0.25} for n in range(4)]
    many.append({"base_model": "m", "because": "stars", "id": "", "amount": -0.5})
    many += [{"base_model": n, "because": "stars", "id": "", "amount": 0.125} for n in ("n", "o")]
    model.spoil = lambda outputs: outputs["reasons"].fill(json.dumps(many))
    ended = run_tritone("recommend", "--explain", "-n", 2)
    assert "+1 tag t0, t1 and 2 more (m); -0.5 stars (m); +0.125 stars (n); +0.125 by 1 more" in ended.stderr
    unnamed = [{"base_model": "taste_vae", "because": "history", "id": "", "amount": 0.5}]
    model.spoil = lambda outputs: outputs["reasons"].fill(json.dumps(unnamed))
    assert "+0.5 the listening history (taste_vae)" in run_tritone("recommend", "--explain", "-n", 2).stderr


def test_names_are_not_parsed_as_markup(run_tritone: Any, model: FakeRecommender) -> None:
    exclude = [word for item in ITEMS[:-3] for word in ("--exclude", item)]
    ended = run_tritone("recommend", *exclude)
    for item in ITEMS[-3:]:
        assert item in ended.stderr


@pytest.mark.parametrize("words", VERBS, ids=lambda words: words[0])
def test_json_is_one_object_and_nothing_else(run_tritone: Any, model: FakeRecommender, words: tuple[str, ...]) -> None:
    ended = run_tritone(*words, "--json", "--n", 3)
    assert ended.status == 0, ended.stderr
    assert ended.stderr == ""
    answer = json.loads(ended.stdout)
    first = answer["recommendations"][0]
    assert first == {"track_id": "track-0", "score": 1, "title": None, "artist": None, "reasons": []}
    assert len(answer["recommendations"]) == 3
    assert (answer["model"], answer["model_version"]) == ("recommender", "3")
    assert answer["source"] == ("popularity" if words == ("recommend",) else None)


def test_options_reach_the_model(run_tritone: Any, model: FakeRecommender) -> None:
    lists = ("--history", "a", "--history", "track-1", "--weight", 2, "--weight", 0.5, "--skipped", "track-2")
    lists += ("--time", "2024-01-01T00:00+00:00", "--time", "-")
    people = ("--user", "Björk", "--friend", "42", "--friend", "x")
    shares = ("--mood", "calmness", "--diversity", 0.5, "--novelty", 0.25, "--with-listened", "--explain")
    ended = run_tritone("recommend", *lists, *people, *shares, "--exclude", "track-0", "--audio", "song.wav")
    assert ended.status == 0, ended.stderr
    request, search = model.asked()
    assert said(search)["query"] == "a"  # no id, so it may be a title
    given = said(request)
    assert len(given.pop("embedding")) == 256
    assert given == {
        "user_id": "Björk",
        "history": ["a", "track-1"],
        "weights": [2, 0.5],
        "times": [1_704_067_200, 0],
        "skipped": ["track-2"],
        "friends": ["42", "x"],
        "mood": "calmness",
        "k": 10,
        "exclude": ["track-0"],
        "filter_listened": False,
        "diversity": 0.5,
        "novelty": 0.25,
        "explain": True,
    }
    assert "unknown and ignored: history a; friends x" in ended.stderr


def test_unknown_ids_are_reported(run_tritone: Any, model: FakeRecommender) -> None:
    history = [word for number in range(7) for word in ("--history", f"x{number}")]
    ended = run_tritone("recommend", "--user", "nobody", *history)
    assert ended.status == 0
    assert "unknown and ignored: the user (not in the log, or called without a valid service key" in ended.stderr
    assert "; history x0, x1, x2, x3, x4 and 2 more" in ended.stderr


def test_no_tracks_left_to_recommend(run_tritone: Any, model: FakeRecommender) -> None:
    ended = run_tritone("recommend", *(word for item in ITEMS for word in ("--exclude", item)))
    assert ended.status == 0
    assert "no tracks left to recommend" in ended.stderr


def test_similar(run_tritone: Any, model: FakeRecommender) -> None:
    ended = run_tritone("similar", "track-0", "--by", "sound", "--n", 2)
    assert ended.status == 0, ended.stderr
    assert "recommender v3\n" in ended.stderr
    assert "track-1" in ended.stderr
    assert run_tritone("similar", "--audio", "song.wav").status == 0
    first, second = map(said, model.asked())
    assert first == {"similar_to": "track-0", "by": "sound", "k": 2}
    assert second.keys() == {"by", "k", "embedding"}


def test_titles_are_used_if_there_is_no_such_id(run_tritone: Any, model: FakeRecommender) -> None:
    ended = run_tritone("recommend", "--history", "title 12", "--history", "track-3", "--exclude", "TITLE-14", "-n", 3)
    assert ended.status == 0, ended.stderr
    assert "title 12: using track-12 (Someone: Title 12)" in ended.stderr
    assert "TITLE-14: using track-14" in ended.stderr
    assert "not known" not in ended.stderr
    last = said(model.asked()[-1])
    assert last["history"] == ["track-12", "track-3"]
    assert last["exclude"] == ["track-14"]


def test_similar_takes_a_title(run_tritone: Any, model: FakeRecommender) -> None:
    ended = run_tritone("similar", "Title 17", "-n", 2)
    assert ended.status == 0, ended.stderr
    assert "Title 17: using track-17 (Someone: Title 17)" in ended.stderr
    assert said(model.asked()[-1])["similar_to"] == "track-17"


@pytest.mark.parametrize("words", [("similar", "Someone"), ("recommend", "--history", "someone")])
def test_a_text_that_names_several_tracks_is_refused_with_their_ids(
    run_tritone: Any, model: FakeRecommender, words: tuple[str, ...]
) -> None:
    ended = run_tritone(*words)
    assert ended.status == 1
    assert "is not an id and matches several tracks: track-1 (Someone: Title 1), track-10" in ended.stderr
    assert "and more; give one of their ids" in ended.stderr


@pytest.mark.parametrize("words", [("similar", "Titel 18"), ("recommend", "--history", "Titel 18")])
def test_similar_titles_are_suggested_but_not_used(
    run_tritone: Any, model: FakeRecommender, words: tuple[str, ...]
) -> None:
    ended = run_tritone(*words)
    assert ended.status == (1 if words[0] == "similar" else 0)
    assert "'Titel 18' is neither an id nor a title; did you mean track-18 (Someone: Title 18)" in ended.stderr


def test_tracks_are_searched_by_a_description(run_tritone: Any, model: FakeRecommender) -> None:
    ended = run_tritone("search", "track-1", "-n", 2)
    assert ended.status == 0, ended.stderr
    assert "based on the words of the description" in ended.stderr
    found = json.loads(run_tritone("search", "track-1", "-n", 2, "--json").stdout)
    assert [each["track_id"] for each in found["recommendations"]] == ["track-1", "track-10"]
    assert run_tritone("search", " ").status == 1


def test_tracks_are_found(run_tritone: Any, model: FakeRecommender) -> None:
    ended = run_tritone("tracks", "someone", "-n", 4)
    assert ended.status == 0, ended.stderr
    lines = [line.split() for line in ended.stderr.splitlines()]
    assert ["track", "title", "artist", "match"] in lines
    assert ["track-1", "Title", "1", "Someone", "artist,", "normalized"] in lines
    assert "1 to 4 of 11; for the next, add --offset 4" in ended.stderr
    assert "no track matches; did you mean:" in run_tritone("tracks", "Titel 18").stderr
    assert "no track matches\n" in run_tritone("tracks", "qqqqqqqq").stderr
    assert "no tracks at --offset 50" in run_tritone("tracks", "someone", "--offset", 50).stderr
    page = json.loads(run_tritone("tracks", "someone", "--by", "artist", "--offset", 10, "--json").stdout)
    assert (page["total"], page["offset"], len(page["tracks"])) == (11, 10, 1)
    assert page["tracks"][0] == {
        "track_id": "track-19",
        "title": "Title 19",
        "artist": "Someone",
        "match": "normalized",
        "field": "artist",
    }


def test_reasons_limits_reasons(run_tritone: Any, model: FakeRecommender) -> None:
    answer = json.loads(run_tritone("recommend", "--reasons", 1, "-n", 2, "--json").stdout)
    assert [len(track["reasons"]) for track in answer["recommendations"]] == [1, 1]
    assert run_tritone("recommend", "--reasons", 0).status == 2


def test_options_reach_the_constructor_of_the_client(
    run_tritone: Any, model: FakeRecommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    client = tritone.MusicClient

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return client(*args, **kwargs)

    monkeypatch.setattr(tritone, "MusicClient", spy)
    Path("key").write_text("s3cret\n")
    for words in VERBS:
        assert run_tritone(*words, "--server", "x:9", "--timeout", 5, "--api-key-file", "key").status == 0
    no_files = dict.fromkeys(("ca_file", "client_cert_file", "client_key_file"))
    assert seen == 2 * [(("x:9",), {"timeout_s": 5, "api_key": "s3cret", **no_files})]


@pytest.mark.parametrize(
    "words",
    [
        ["recommend", "42"],
        ["recommend", "--n", "many"],
        ["recommend", "--weight", "much"],
        ["recommend", "--history", "a", "--time", "yesterday"],
        ["recommend", "--api-key-file", "/nowhere"],
        ["recommend", "--api-key-file", "/dev/zero"],
        ["similar"],
        ["similar", "track-1", "--audio", "song.wav"],
        ["recommend", "--mood", "power=much"],
    ],
)
def test_usage_errors_exit_2(run_tritone: Any, model: FakeRecommender, words: list[str]) -> None:
    ended = run_tritone(*words)
    assert ended.status == 2
    assert ended.stdout == ""
    assert not model.requests


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recommend", "--n", "0"], "expected a whole number from 1 to 10000"),
        (["recommend", "--n", "-1"], "got -1"),
        (["recommend", "--n", "1000000000"], "got 1000000000"),
        (["recommend", "--user", ""], "invalid user_id: expected "),
        (["recommend", "--user", os.fsdecode(b"\xff")], "invalid user_id: expected "),
        (["recommend", "--history", "a", "--weight", "nan"], "invalid weights[0]: expected "),
        (["recommend", "--history", "a", "--weight", "-1"], "invalid weights[0]: expected "),
        (["recommend", "--weight", "1"], "got 1 for 0 ids"),
        (["recommend", "--time", "1"], "got 1 for 0 ids"),
        (["recommend", "--history", "a", "--time", "nan"], "invalid times[0]: expected "),
        (["recommend", "--mood", "glum"], "expected one of amazement, solemnity"),
        (["recommend", "--mood", "power=2"], "expected a strength of power from 0 to 1, got 2"),
        (["recommend", "--mood", "power=nan"], "expected a strength of power from 0 to 1, got nan"),
        (["recommend", "--diversity", "1.5"], "invalid diversity: expected "),
        (["recommend", "--novelty", "nan"], "invalid novelty: expected "),
        (["recommend", "--audio", "none.wav"], "none.wav: does not exist"),
        (["recommend", "--model", "opera"], "no such model"),
        (["similar", "nothing"], "item 'nothing' is not known"),
        (["similar", "track-1", "--by", "taste"], "invalid by: expected "),
        (["similar", "--audio", "song.wav", "--by", "listening"], "expected sound or both"),
    ],
)
def test_errors_are_one_message_and_exit_1(
    run_tritone: Any, model: FakeRecommender, words: list[str], message: str
) -> None:
    for more in ([], ["--json"]):
        ended = run_tritone(*words, *more)
        assert ended.status == 1
        assert ended.stdout == ""
        assert ended.stderr.startswith("error: ")
        assert message in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1
