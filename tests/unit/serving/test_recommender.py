"""The recommender's engine on a small trained artifact: who gets what, why, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.support import recommender_artifacts as models
from tests.support import recommender_models

from tritone.constants import EMBEDDING_SIZE
from tritone_serving.recommender import (
    ArtifactError,
    InvalidRequestError,
    KeyFileError,
    Recommender,
    RecommendRequest,
    RecommendResponse,
    make_key,
    read_key,
    reasons,
)
from tritone_serving.recommender.ensemble import SEGMENTS, Ensemble, log_scaled
from tritone_serving.recommender.scorer import arm_of


@pytest.fixture(scope="module")
def folder() -> Path:
    return recommender_models.checkpoint() / "artifact"


@pytest.fixture(scope="module")
def key() -> bytes:
    return read_key(recommender_models.checkpoint() / "recommender.key")


@pytest.fixture(scope="module")
def recommender(folder: Path, key: bytes) -> Recommender:
    return Recommender.open(folder, key=key)


@pytest.fixture(scope="module")
def alike(folder: Path, key: bytes, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """The same base models, each of them counting 1 whatever was learned."""
    copy = tmp_path_factory.mktemp("alike") / "artifact"
    shutil.copytree(folder, copy)
    manifest = json.loads((copy / "recommender.json").read_text())
    weights = dict.fromkeys(SEGMENTS, dict.fromkeys(manifest["base_models"], 1.0))
    manifest["ensembles"]["a"] = {"warm_from": 10, "weights": weights}
    (copy / "recommender.json").write_text(json.dumps(manifest))
    return Recommender.open(copy, key=key)


@pytest.fixture(scope="module")
def users() -> list[str]:
    return list(recommender_models.world().log.users)


def ask(recommender: Recommender, question: RecommendRequest) -> RecommendResponse:
    [answer] = recommender.recommend([question])
    assert isinstance(answer, RecommendResponse), answer
    return answer


# --- who gets what ------------------------------------------------------------------------------


def test_everyone_gets_an_answer_by_the_best_that_is_known(recommender: Recommender, users: list[str]) -> None:
    songs = recommender.item_ids[3:6]
    sources = {
        "user": RecommendRequest(user=users[0]),
        "history": RecommendRequest(history=songs),
        "friends": RecommendRequest(friends=users[:3]),
        "popularity": RecommendRequest(),
    }
    for source, question in sources.items():
        answer = ask(recommender, question)
        assert answer.source == source
        assert len(answer.items) == len(set(answer.items)) == 10
        assert (np.diff(answer.scores) <= 0).all()
        assert answer.arm == "a"


def test_a_newcomer_of_known_taste_is_told_something_else_than_what_is_popular(
    recommender: Recommender, users: list[str]
) -> None:
    popular = ask(recommender, RecommendRequest()).items
    assert ask(recommender, RecommendRequest(history=recommender.item_ids[40:43])).items != popular
    assert ask(recommender, RecommendRequest(friends=users[:2])).items != popular


def test_an_unknown_user_is_told_so_and_gets_what_is_popular(recommender: Recommender) -> None:
    answer = ask(recommender, RecommendRequest(user="nobody of that name"))
    assert answer.unknown.user
    assert answer.source == "popularity"
    assert answer.items == ask(recommender, RecommendRequest()).items


def test_what_was_heard_excluded_or_skipped_does_not_come(recommender: Recommender, users: list[str]) -> None:
    log = recommender_models.world().log
    everything = len(recommender.item_ids)
    answer = ask(recommender, RecommendRequest(user=users[4], k=everything, exclude=["piece/7"], skipped=["piece/9"]))
    stored = recommender.resolver.n_stored(recommender.resolver.user(users[4]))
    assert not {"piece/7", "piece/9"} & set(answer.items)
    assert everything - stored - 2 <= len(answer.items) <= everything - stored
    heard = {log.items[item] for item in log.item[log.user == 4]}
    again = ask(recommender, RecommendRequest(user=users[4], k=everything, filter_listened=False))
    assert len(again.items) == everything
    assert heard & set(again.items)


def test_a_skip_speaks_against_what_is_like_it(alike: Recommender) -> None:
    history = alike.item_ids[:4]
    plain = ask(alike, RecommendRequest(history=history, k=80))
    [like] = alike.catalogue.similar(plain.items[0], by="listening", n=1)
    skipped = ask(alike, RecommendRequest(history=history, skipped=[like.item], k=80))
    score = dict(zip(plain.items, plain.scores, strict=True))
    after = dict(zip(skipped.items, skipped.scores, strict=True))
    assert like.item not in after
    both = sorted(score.keys() & after.keys())
    assert np.mean([after[item] for item in both]) < np.mean([score[item] for item in both])


def test_what_a_request_brings_adds_to_what_is_stored(recommender: Recommender, users: list[str]) -> None:
    stored = ask(recommender, RecommendRequest(user=users[2]))
    more = ask(recommender, RecommendRequest(user=users[2], history=[stored.items[0]]))
    assert stored.items[0] not in more.items
    assert more.n_consumed == stored.n_consumed + 1
    assert more.source == "user"


def test_duplicates_are_summed(recommender: Recommender) -> None:
    first, second = recommender.item_ids[10:12]
    twice = ask(recommender, RecommendRequest(history=[first, second, first], k=20))
    weighted = ask(recommender, RecommendRequest(history=[first, second], weights=[2.0, 1.0], k=20))
    assert twice.items == weighted.items
    np.testing.assert_allclose(twice.scores, weighted.scores, rtol=1e-5)


def test_weights_matter_and_a_weight_of_zero_is_no_listening(recommender: Recommender) -> None:
    first, second = recommender.item_ids[10], recommender.item_ids[60]
    alone = ask(recommender, RecommendRequest(history=[first], k=20))
    with_zero = ask(recommender, RecommendRequest(history=[first, second], weights=[3.0, 0.0], k=20))
    assert alone.items == with_zero.items
    balanced = ask(recommender, RecommendRequest(history=[first, second], weights=[1.0, 90.0], k=20))
    assert balanced.items != with_zero.items


def test_questions_of_one_call_get_what_they_would_get_alone(recommender: Recommender, users: list[str]) -> None:
    questions = [
        RecommendRequest(user=users[1], diversity=0.2),
        RecommendRequest(history=recommender.item_ids[:3], k=4),
        RecommendRequest(k=0),
        RecommendRequest(friends=users[5:8], explain=True),
        RecommendRequest(history=["no such thing"]),
        RecommendRequest(),
    ]
    together = recommender.recommend(questions)
    for question, answer in zip(questions, together, strict=True):
        [alone] = recommender.recommend([question])
        assert type(alone) is type(answer)
        if isinstance(answer, RecommendResponse):
            assert isinstance(alone, RecommendResponse)
            assert answer.items == alone.items
            np.testing.assert_allclose(answer.scores, alone.scores, rtol=1e-4, atol=1e-6)


def test_listed_answers_are_those_that_would_be_scored(recommender: Recommender, users: list[str]) -> None:
    recommender_models.checkpoint()
    from tritone_training.kinds.recommender.ensemble.offline import network_of, remote_scores

    networks = {"taste_vae": network_of(recommender_models.checkpoint() / "taste_vae")}
    for user in users[:20]:
        [listed] = recommender.recommend([RecommendRequest(user=user, exclude=["piece/3"])])
        resolved = recommender.resolve([RecommendRequest(user=user, exclude=["piece/3"], explain=True)])
        [scored] = recommender.respond(resolved, remote_scores=remote_scores(resolved.remote_inputs, networks))
        assert isinstance(listed, RecommendResponse)
        assert isinstance(scored, RecommendResponse)
        assert not listed.reasons
        np.testing.assert_allclose(listed.scores, scored.scores, rtol=1e-3, atol=1e-4)
        assert listed.n_consumed == scored.n_consumed


def test_more_than_the_catalogue_is_all_of_it(recommender: Recommender) -> None:
    assert len(ask(recommender, RecommendRequest(k=10_000)).items) == len(recommender.item_ids)


# --- taste_vae ----------------------------------------------------------------------------------


def test_a_remote_base_model_gets_padded_histories_and_changes_the_ranking(alike: Recommender) -> None:
    ids = alike.item_ids
    requests = [
        RecommendRequest(history=[ids[1], ids[2], ids[3]], explain=True),
        RecommendRequest(history=[ids[9]]),
        RecommendRequest(),
    ]
    resolved = alike.resolve(requests)
    [(name, inputs)] = resolved.remote_inputs.items()
    assert name == "taste_vae"
    assert inputs.tensors["items"].dtype == np.int64
    assert inputs.tensors["items"].tolist() == [[1, 2, 3], [9, 0, 0], [0, 0, 0]]
    assert (inputs.tensors["weights"] > 0).tolist() == [[True] * 3, [True, False, False], [False] * 3]
    likes_item_5 = np.zeros((3, n_known(alike)), np.float32)
    likes_item_5[:, 5] = 8
    with_remote = alike.respond(resolved, remote_scores={name: likes_item_5})
    first = with_remote[0]
    assert isinstance(first, RecommendResponse)
    assert ids[5] in first.items[:3]
    assert any(reason.base_model == "taste_vae" for reason in first.reasons[first.items.index(ids[5])])
    without = alike.recommend(requests)
    assert isinstance(without[2], RecommendResponse)
    assert isinstance(with_remote[2], RecommendResponse)
    assert without[2].items == with_remote[2].items
    unanswered = alike.respond(resolved, remote_scores={name: None})
    assert [answer.items for answer in unanswered] == [answer.items for answer in without]  # type: ignore[union-attr]


def n_known(recommender: Recommender) -> int:
    return int(recommender.artifact.manifest["base_models"]["taste_vae"]["n_known"])


def test_requests_without_history_need_no_remote_base_model(recommender: Recommender) -> None:
    resolved = recommender.resolve([RecommendRequest()])
    assert not resolved.remote_inputs
    assert isinstance(recommender.respond(resolved)[0], RecommendResponse)


def test_remote_scores_of_another_shape_are_refused(alike: Recommender) -> None:
    resolved = alike.resolve([RecommendRequest(history=[alike.item_ids[1]])])
    for shape in ((1, n_known(alike) + 1), (2, n_known(alike)), (n_known(alike),)):
        with pytest.raises(ValueError, match="expected shape"):
            alike.respond(resolved, remote_scores={"taste_vae": np.zeros(shape, np.float32)})


def test_members_times_are_told(folder: Path, key: bytes) -> None:
    told: list[tuple[str, float]] = []
    recommender = Recommender.open(folder, key=key, on_base_model=lambda name, seconds: told.append((name, seconds)))
    recommender.score(recommender.resolve([RecommendRequest(history=recommender.item_ids[:2])]))
    assert {name for name, _ in told} == set(recommender.scorer.base_models) - {"taste_vae"}
    assert all(0 < seconds < 5 for _, seconds in told)


def test_the_ensembles_scores_are_the_weighted_sum_of_the_base_models(alike: Recommender) -> None:
    requests = [RecommendRequest(history=[alike.item_ids[1], alike.item_ids[2]]), RecommendRequest()]
    outputs = np.random.default_rng(0).standard_normal((2, n_known(alike))).astype(np.float32)
    resolved = alike.resolve(requests)
    for remote_scores, local in (
        ({"taste_vae": outputs}, None),
        ({"taste_vae": outputs}, alike.score_local(resolved)),
        ({}, None),
    ):
        scored = alike.score(resolved, remote_scores=remote_scores, local=local)
        assert (list(scored.base_models)[-1] == "taste_vae") == bool(remote_scores)
        n_listened = alike.scorer.n_listened
        expected = np.zeros(scored.ensemble.shape)
        for column, (name, raw) in enumerate(scored.base_models.items()):
            scaled = log_scaled(np.array(raw), alike.scorer.scales[name])
            expected[:, :n_listened] += scored.weights.listened[:, column, None] * scaled[:, :n_listened]
            expected[:, n_listened:] += scored.weights.cold[:, column, None] * scaled[:, n_listened:]
        expected[:, n_listened:] += scored.weights.bias[:, None]
        np.testing.assert_allclose(scored.ensemble, expected, rtol=1e-4, atol=1e-5)


# --- reasons ------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [{}, {"diversity": 0.5}, {"novelty": 0.7}, {"diversity": 0.3, "novelty": 0.3}])
def test_reasons_add_up_to_the_score(recommender: Recommender, users: list[str], extra: dict[str, float]) -> None:
    questions = [
        RecommendRequest(user=users[0], explain=True, **extra),
        RecommendRequest(history=recommender.item_ids[5:9], skipped=[recommender.item_ids[0]], explain=True, **extra),
        RecommendRequest(friends=users[:4], explain=True, **extra),
        RecommendRequest(explain=True, **extra),
    ]
    for answer in recommender.recommend(questions):
        assert isinstance(answer, RecommendResponse)
        assert len(answer.reasons) == len(answer.items)
        sums = [sum(reason.amount for reason in reasons) for reasons in answer.reasons]
        np.testing.assert_allclose(sums, answer.scores, atol=1e-4 * max(1.0, float(np.abs(answer.scores).max())))


def test_reasons_name_what_the_question_named_and_no_stored_person(recommender: Recommender, users: list[str]) -> None:
    history = list(recommender.item_ids[5:8])
    [by_history, by_friends, stored] = recommender.recommend(
        [
            RecommendRequest(history=history, explain=True),
            RecommendRequest(friends=users[:3], explain=True),
            RecommendRequest(user=users[0], explain=True),
        ]
    )
    assert isinstance(by_history, RecommendResponse)
    named = {r.id for reasons in by_history.reasons for r in reasons if r.because == "history" and r.id}
    assert named
    assert named <= set(history)
    assert isinstance(by_friends, RecommendResponse)
    friends = {r.id for reasons in by_friends.reasons for r in reasons if r.because == "friend" and r.id}
    assert friends
    assert friends <= set(users[:3])
    assert isinstance(stored, RecommendResponse)
    text = repr(stored.reasons)
    assert not any(user in text for user in users)


# --- diversity and novelty ----------------------------------------------------------------------


def test_diversity_makes_a_list_less_alike(recommender: Recommender, users: list[str]) -> None:
    vectors = recommender.artifact.arrays["vectors"]
    places = {item: place for place, item in enumerate(recommender.item_ids)}

    def alike(diversity: float) -> float:
        found = []
        for user in users[:15]:
            rows = vectors[
                [places[item] for item in ask(recommender, RecommendRequest(user=user, diversity=diversity)).items]
            ]
            found.append(float((rows @ rows.T).sum() - len(rows)))
        return float(np.mean(found))

    assert alike(1.0) < alike(0.5) < alike(0.0)


def test_novelty_prefers_the_little_known(recommender: Recommender, users: list[str]) -> None:
    places = {item: place for place, item in enumerate(recommender.item_ids)}  # best known first

    def obscurity(novelty: float) -> float:
        answers = [ask(recommender, RecommendRequest(user=user, novelty=novelty)) for user in users[:15]]
        return float(np.mean([places[item] for answer in answers for item in answer.items]))

    assert obscurity(1.0) > obscurity(0.5) > obscurity(0.0)


# --- similar ------------------------------------------------------------------------------------


def test_similar_by_listening(recommender: Recommender) -> None:
    found = recommender.catalogue.similar(recommender.item_ids[2], by="listening", n=5)
    assert len(found) == 5
    assert recommender.item_ids[2] not in {each.item for each in found}
    assert all(-1.001 <= each.score <= 1.001 for each in found)
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"item": "nothing"}, "'nothing' is not known"),
        ({"item": "piece/1", "by": "smell"}, "expected one of listening, sound, both"),
        ({"item": "piece/1", "n": 0}, "invalid k: .*, got 0"),
        ({}, "give an item or an embedding"),
        ({"embedding": np.ones(256)}, "nothing is known"),
        ({"item": "piece/1", "by": "sound"}, "nothing is known by sound"),
    ],
)
def test_similar_rejects_invalid_arguments(recommender: Recommender, call: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        recommender.catalogue.similar(**call)  # type: ignore[arg-type]


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "says"),
    [
        (RecommendRequest(k=0), "invalid k: expected a whole number from 1 to 10000.*, got 0"),
        (RecommendRequest(k=-1), "invalid k: .*, got -1"),
        (RecommendRequest(k=10**9), "invalid k: .*, got 1000000000"),
        (RecommendRequest(history=["piece/1"], weights=[float("nan")]), r"invalid weights\[0\]: .*, got nan"),
        (RecommendRequest(history=["piece/1", "piece/2"], weights=[1, -2]), r"invalid weights\[1\]: .*, got -2"),
        (RecommendRequest(history=["piece/1"], weights=[float("inf")]), r"invalid weights\[0\]: .*, got inf"),
        (RecommendRequest(history=["piece/1"], weights=[1.0, 2.0]), "invalid weights: .*, got 2 for 1 ids"),
        (RecommendRequest(mood="grumpy"), "unknown mood: expected one of amazement.*, got 'grumpy'"),
        (
            RecommendRequest(embedding=np.ones(255, np.float32)),
            r"invalid embedding: expected shape \(256,\), got \(255,\)",
        ),
        (RecommendRequest(embedding=np.zeros(256, np.float32)), "invalid embedding: .*, got only zeros"),
        (
            RecommendRequest(embedding=np.full(256, np.nan, np.float32)),
            "invalid embedding\\[0\\]: expected a number from -1000000 to 1000000, got nan",
        ),
        (RecommendRequest(diversity=1.5), "invalid diversity: expected a number from 0 to 1.*, got 1.5"),
        (RecommendRequest(novelty=float("nan")), "invalid novelty: .*, got nan"),
        (RecommendRequest(history=["piece/1"] * 100_001), "invalid history: expected at most 100,000 ids"),
        (RecommendRequest(history=["no", "such"]), "none of the ids is known"),
        (RecommendRequest(friends=["no such friend"]), "none of the ids is known"),
    ],
)
def test_invalid_requests_get_errors_and_the_others_get_responses(
    recommender: Recommender, question: RecommendRequest, says: str
) -> None:
    wrong, right = recommender.recommend([question, RecommendRequest()])
    assert isinstance(wrong, InvalidRequestError)
    with pytest.raises(InvalidRequestError, match=says):
        raise wrong
    assert isinstance(right, RecommendResponse)


def test_a_history_of_100_000_items_is_accepted(recommender: Recommender) -> None:
    answer = ask(recommender, RecommendRequest(history=list(recommender.item_ids[:50]) * 2_000))
    assert answer.source == "history"
    assert answer.n_consumed == 50


def test_unknown_ids_are_ignored_and_reported(recommender: Recommender, users: list[str]) -> None:
    question = RecommendRequest(
        user=users[0], history=["x", "piece/1", "x"], skipped=["y"], friends=["stranger"], exclude=["z"]
    )
    unknown = ask(recommender, question).unknown
    assert unknown.history == ("x",)
    assert (unknown.skipped, unknown.friends, unknown.exclude) == (("y",), ("stranger",), ("z",))
    assert not unknown.user


def test_ids_that_are_not_valid_unicode_are_unknown(recommender: Recommender) -> None:
    odd = b"\xff\xfe".decode("utf-8", "surrogateescape")
    assert ask(recommender, RecommendRequest(user=odd)).unknown.user
    assert ask(recommender, RecommendRequest(history=[odd, "piece/1"])).unknown.history == (odd,)


# --- artifacts and keys -------------------------------------------------------------------------


def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "artifact"))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "recommender.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_artifact_of_another_version_is_refused(folder: Path, key: bytes, tmp_path: Path) -> None:
    other = copy(folder, tmp_path)
    for earlier_or_later in (1, 99):
        edit(other, format=earlier_or_later)
        with pytest.raises(ArtifactError, match=f"format {earlier_or_later}.*train and export again"):
            Recommender.open(other, key=key)


def test_a_damaged_artifact_is_refused(folder: Path, key: bytes, tmp_path: Path) -> None:
    other = copy(folder, tmp_path)
    whole = (other / "ease.values.npy").read_bytes()
    (other / "ease.values.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=r"ease\.values\.npy: is damaged"):
        Recommender.open(other, key=key)
    (other / "ease.values.npy").unlink()
    with pytest.raises(ArtifactError, match=r"ease\.values\.npy: is missing"):
        Recommender.open(other, key=key)
    np.save(other / "ease.values.npy", np.zeros(3, np.float32))
    with pytest.raises(ArtifactError):
        Recommender.open(other, key=key)
    np.save(other / "ease.values.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ArtifactError):
        Recommender.open(other, key=key)
    (other / "recommender.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"recommender\.json: is damaged"):
        Recommender.open(other, key=key)
    with pytest.raises(ArtifactError):
        Recommender.open(tmp_path, key=key)


def test_an_unknown_kind_of_base_model_is_rejected(folder: Path, key: bytes, tmp_path: Path) -> None:
    other = copy(folder, tmp_path)
    edit(other, base_models={"oracle": {"kind": "oracle"}})
    with pytest.raises(ArtifactError, match="base model 'oracle' is of kind 'oracle'; known are popularity"):
        Recommender.open(other, key=key)


def test_another_key_is_rejected(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="made with another key"):
        Recommender.open(folder, key=b"0123456789abcdef0123456789abcdef")


def test_key_files(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        read_key(tmp_path / "missing.key")
    (tmp_path / "short.key").write_bytes(b"abc")
    with pytest.raises(KeyFileError):
        read_key(tmp_path / "short.key")
    made = make_key(tmp_path / "deep" / "new.key")
    assert made == make_key(tmp_path / "deep" / "new.key")
    assert (tmp_path / "deep" / "new.key").stat().st_mode & 0o777 == 0o600


def test_the_artifact_names_nobody(folder: Path, users: list[str]) -> None:
    for file in folder.iterdir():
        content = file.read_bytes()
        assert not any(user.encode() in content for user in users), file.name


# --- arms ---------------------------------------------------------------------------------------


def test_arms_are_drawn_by_user_and_kept() -> None:
    shares = {"a": 0.5, "b": 0.5}
    drawn = [arm_of(f"user {n}", salt="one", shares=shares) for n in range(2_000)]
    assert drawn == [arm_of(f"user {n}", salt="one", shares=shares) for n in range(2_000)]
    assert 900 < drawn.count("a") < 1_100
    other = [arm_of(f"user {n}", salt="two", shares=shares) for n in range(2_000)]
    assert 850 < sum(x == y for x, y in zip(drawn, other, strict=True)) < 1_150
    assert arm_of(None, salt="one", shares=shares) == "a"
    assert {arm_of(f"user {n}", salt="one", shares={"a": 0.0, "b": 1.0}) for n in range(50)} == {"b"}


def test_sound_and_mood_count_as_asked_only_where_they_are_given(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommender.resolver, "_moods", np.ones((len(recommender.item_ids), 9), np.float32))
    monkeypatch.setattr(recommender.resolver, "_has_embeddings", True)
    song = recommender.item_ids[3:4]
    heard = np.ones(EMBEDDING_SIZE, np.float32)
    questions = [
        RecommendRequest(),
        RecommendRequest(embedding=heard),
        RecommendRequest(embedding=heard, history=song),
        RecommendRequest(mood="power"),
    ]
    batch, errors = recommender.resolver.batch([*questions, RecommendRequest(history=song)])
    assert not errors
    learned = {segment: {"sound": 0.1, "mood": 0.0, "ease": 1.0} for segment in SEGMENTS}
    asked = {"cold": {"sound": 2.0, "mood": 0.5}, "short": {"sound": 0.05}}
    ensemble = Ensemble.from_manifest({"warm_from": 5, "weights": learned, "minimum_weights": asked})
    weights = ensemble.weights_of(("mood", "ease", "sound"), batch)
    expected = [[0, 1, 0.1], [0, 1, 2], [0, 1, 0.1], [0.5, 1, 0.1], [0, 1, 0.1]]
    np.testing.assert_allclose(weights.listened, expected, atol=1e-6)
    np.testing.assert_allclose(weights.cold, expected, atol=1e-6)
    plain = Ensemble.from_manifest({"warm_from": 5, "weights": learned}).weights_of(("mood", "ease", "sound"), batch)
    np.testing.assert_allclose(plain.listened, [[0, 1, 0.1]] * 5, atol=1e-6)


def test_two_ensembles_answer_differently(folder: Path, key: bytes, users: list[str], tmp_path: Path) -> None:
    other = copy(folder, tmp_path)
    edit(other, ab={"salt": "s", "shares": {"a": 0.5, "b": 0.5}})
    recommender = Recommender.open(other, key=key)
    answers = [ask(recommender, RecommendRequest(user=user, explain=True)) for user in users[:40]]
    assert {answer.arm for answer in answers} == {"a", "b"}
    [first] = recommender.recommend([RecommendRequest(user=users[0], explain=True)], arm="a")
    [second] = recommender.recommend([RecommendRequest(user=users[0], explain=True)], arm="b")
    assert isinstance(first, RecommendResponse)
    assert isinstance(second, RecommendResponse)
    assert not np.array_equal(first.scores, second.scores)


def test_reasons_are_the_same_however_few_items_are_explained_at_once(
    alike: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = RecommendRequest(history=alike.item_ids[:12], k=30, explain=True, novelty=0.2)
    at_once = ask(alike, question).reasons
    slices: list[int] = []

    def spy(n_items: int, n_history: int) -> list[slice]:
        slices.append(len(found := real(n_items, n_history)))
        return found

    real = reasons._slices
    monkeypatch.setattr(reasons, "_slices", spy)
    monkeypatch.setattr(reasons, "_MOST_AT_ONCE", 40)  # three items of these histories
    few = ask(alike, question).reasons
    assert set(slices) == {10}
    for one, other in zip(at_once, few, strict=True):
        wanted = {(each.base_model, each.because, each.id): each.amount for each in one}
        assert {(each.base_model, each.because, each.id): each.amount for each in other} == pytest.approx(
            wanted, abs=1e-6
        )


# --- moods --------------------------------------------------------------------------------------


def test_a_mood_without_trained_emotions_is_told(recommender: Recommender) -> None:
    assert "items.moods" not in recommender.artifact.arrays
    song = [recommender.item_ids[0]]
    with_song = ask(recommender, RecommendRequest(history=song, mood="power"))
    assert with_song.unknown.mood
    assert with_song.items == ask(recommender, RecommendRequest(history=song)).items
    [refused] = recommender.recommend([RecommendRequest(mood="power")])
    assert isinstance(refused, InvalidRequestError)
    assert str(refused).startswith("nothing is known by mood: ")
    assert not ask(recommender, RecommendRequest(history=song)).unknown.mood


def test_base_models_without_weight_are_left_out_of_answers_only(tmp_path: Path) -> None:
    version = models.make_artifact(tmp_path / "a", tmp_path / "k", n_taste=models.N_TASTE)
    manifest = json.loads((version / "recommender.json").read_text())
    weights = manifest["ensembles"]["a"]["weights"]
    for segment in weights.values():
        segment.update({"user_knn": 0.0, "taste_vae": 0.0})
    models.spoil_manifest(version, ensembles=manifest["ensembles"])
    recommender = models.opened(version, tmp_path / "k")
    resolved = recommender.resolve([RecommendRequest(history=["track-1", "track-2"], k=5, explain=True)])
    assert "user_knn" not in recommender.score_local(resolved).base_models
    assert (list(resolved.remote_inputs), list(recommender.needed_remote_inputs(resolved))) == (["taste_vae"], [])
    assert "user_knn" in recommender.score(resolved).base_models
    [answer] = recommender.respond(resolved)
    scored = recommender.score(recommender.resolve([RecommendRequest(history=["track-1", "track-2"])]))
    indices = [recommender.resolver.item(item) for item in answer.items]
    assert answer.scores == pytest.approx(scored.ensemble[0, indices], abs=1e-6)
