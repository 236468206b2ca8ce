"""Candidates of a large catalogue: scores are those of all items, and what must not be recommended is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from tests.support import recommender_artifacts as models

from tritone_serving.recommender import (
    MOODS,
    Caller,
    Recommender,
    RecommendRequest,
    RecommendResponse,
    open_artifact,
    read_key,
    similarity,
    write_artifact,
)
from tritone_serving.recommender.artifact import rows_arrays, text_arrays
from tritone_serving.recommender.candidates import CandidateScores, CandidateSettings
from tritone_serving.recommender.rows import RowProduct, Rows, product

N_ITEMS = 3_000
N_COLD = 40  # items without listeners, at the end
N_TASTE = 2_500
N_TAGS = 30
SONGS = [models.item_id(number) for number in (3, 50, 700)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with base models of every kind."""
    folder = tmp_path_factory.mktemp("candidates")
    plain = models.make_artifact(
        folder / "plain", folder / "key", n_users=300, n_items=N_ITEMS, n_taste=N_TASTE, n_plays=20
    )
    artifact = open_artifact(plain)
    rng = np.random.default_rng(0)
    by_item = Rows.from_csr(sparse.random(N_ITEMS, N_TAGS, 0.1, "csr", np.float32, rng))
    order = [rng.integers(0, N_ITEMS - N_COLD, 5) for _ in range(300)]
    shares = np.array(artifact.arrays["popularity.shares"])
    shares[-N_COLD:] = 0
    base_models: dict[str, Any] = json.loads(json.dumps(artifact.manifest["base_models"]))
    base_models.update(
        mainstream={"kind": "mainstream", "average": 0.2},
        tags={"kind": "tags", "n_profile": 10, "scale": 0.1},
        sound={"kind": "sound"},
        mood={"kind": "mood"},
        factors={"kind": "factorization", "unobserved": 0.1, "l2": 0.02, "scale": 0.05},
        transitions={"kind": "transitions", "decay": 0.5},
    )
    base_models["ease"]["scale"] = 0.01
    weights = {
        "ease": 1.0, "user_knn": 0.5, "popularity": 0.3, "mainstream": -0.1, "tags": 0.4, "sound": 0.2, "factors": 0.2,
        "transitions": 0.3, "taste_vae": 0.3, "social": 0.2,
    }  # fmt: skip
    ensemble = {
        "warm_from": 5,
        "weights": {
            "warm": weights,
            "short": {**weights, "ease": 2.0},
            "cold": {"popularity": 1.0, "social": 0.5},
            "session": {**weights, "transitions": 2.0},
        },
        "cold_items": {segment: {"tags": 1.0, "sound": 0.3, "bias": 0.4} for segment in ("warm", "short", "cold")},
        "minimum_weights": {segment: {"sound": 1.0, "mood": 1.0} for segment in ("warm", "short", "cold")},
    }
    arrays = {
        **artifact.arrays,
        "popularity.shares": shares,
        **rows_arrays("tags.by_item", by_item),
        **rows_arrays("tags.by_tag", Rows.from_csr(sparse.csr_matrix(by_item.to_csr(N_TAGS).T))),
        **text_arrays("tags", [f"tag {number}" for number in range(N_TAGS)]),
        **rows_arrays("sequence", Rows.from_lists(order, [np.zeros(5, np.float32)] * 300)),
        **rows_arrays("transitions", Rows.from_csr(sparse.random(N_ITEMS, N_ITEMS, 0.005, "csr", np.float32, rng))),
        "sound.centre": np.zeros(256, np.float32),
        "factors.factors": rng.standard_normal((N_ITEMS, 8)).astype(np.float32),
    }
    manifest = {**artifact.manifest, "base_models": base_models, "ensembles": {"a": ensemble}}
    write_artifact(folder / "artifact", manifest, arrays)
    return folder


@pytest.fixture(scope="module")
def exact(folder: Path) -> Recommender:
    return models.opened(folder / "artifact", folder / "key")


@pytest.fixture(params=[300, 1_000, 100_000])
def by_candidates(folder: Path, request: pytest.FixtureRequest) -> Recommender:
    return with_candidates(folder, request.param)


def with_candidates(folder: Path, per_model: int) -> Recommender:
    settings = CandidateSettings(min_items=N_ITEMS, per_model=per_model)
    return Recommender.open(folder / "artifact", key=read_key(folder / "key"), candidates=settings)


def requests() -> Iterator[tuple[str, RecommendRequest]]:
    user = models.user_id(7)
    recording = np.random.default_rng(1).standard_normal(256).astype(np.float32)
    yield "stored", RecommendRequest(user=user)
    yield "short", RecommendRequest(history=SONGS[:1])
    yield "history", RecommendRequest(history=[*SONGS, *(models.item_id(number) for number in range(5, 60, 6))])
    yield "session", RecommendRequest(history=SONGS, times=[100, 200, 300])
    yield "cold", RecommendRequest()
    yield "friends", RecommendRequest(friends=[models.user_id(number) for number in range(4)])
    yield "rejected", RecommendRequest(user=user, skipped=SONGS, exclude=[models.item_id(n) for n in range(30)])
    yield "repeats", RecommendRequest(user=user, filter_listened=False)
    yield "mood", RecommendRequest(history=SONGS, mood=MOODS[5])
    yield "recording", RecommendRequest(embedding=recording)
    yield "diverse", RecommendRequest(user=user, k=5, diversity=0.5, novelty=0.2)


def outputs_of(recommender: Recommender, request: RecommendRequest) -> tuple[Any, dict[str, Any]]:
    """Resolve a request, and simulate the outputs of its networks."""
    resolved = recommender.resolve([request], use_precomputed=False)
    rng = np.random.default_rng(5)
    return resolved, {name: rng.normal(0, 2, (1, N_TASTE)).astype(np.float32) for name in resolved.remote_inputs}


def answer(recommender: Recommender, request: RecommendRequest, *, remote: bool = True) -> RecommendResponse:
    resolved, outputs = outputs_of(recommender, request)
    [found] = recommender.respond(resolved, remote_scores=outputs if remote else None)
    assert isinstance(found, RecommendResponse), found
    return found


ALL = dict(requests())


@pytest.mark.parametrize("kind", ALL)
def test_base_models_score_some_items_as_they_score_all(exact: Recommender, kind: str) -> None:
    resolved, outputs = outputs_of(exact, ALL[kind])
    whole = exact.score(resolved, remote_scores=outputs)
    rng = np.random.default_rng(2)
    for items in (np.sort(rng.choice(N_ITEMS, 400, replace=False)), np.arange(N_ITEMS), np.zeros(0, np.int64)):
        batch = exact.resolve([ALL[kind]], use_precomputed=False).batch
        local = exact.scorer.score_local(batch, ["a"], every=True, items=items)
        some = exact.scorer.combine(batch, ["a"], local, outputs)
        assert some.base_models.keys() == whole.base_models.keys()
        for name, scores in some.base_models.items():
            np.testing.assert_allclose(scores, whole.base_models[name][:, items], rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(some.ensemble, whole.ensemble[:, items], rtol=1e-4, atol=1e-5)


def test_several_requests_have_no_items_in_common(exact: Recommender) -> None:
    batch = exact.resolve([ALL["history"]] * 2, use_precomputed=False).batch
    with pytest.raises(ValueError, match="expected a batch of 1 request, got 2"):
        exact.scorer.score_local(batch, ["a", "a"], items=np.arange(5))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("remote", [True, False])
def test_scores_of_candidates_are_those_of_all_items(
    exact: Recommender, by_candidates: Recommender, kind: str, remote: bool
) -> None:
    request = replace(ALL[kind], k=min(ALL[kind].k, 20))
    expected, found = (answer(each, request, remote=remote) for each in (exact, by_candidates))
    assert found.source == expected.source
    assert found.n_consumed == expected.n_consumed
    assert found.mood == expected.mood
    assert len(found.items) == len(expected.items)
    if request.diversity:  # the unit of the bonuses is the range of the pool, of which one item may differ
        assert len(set(found.items) & set(expected.items)) >= 4
        return
    assert len(set(found.items) & set(expected.items)) >= 0.95 * len(expected.items)
    resolved, outputs = outputs_of(exact, request)
    scores = exact.score(resolved, remote_scores=outputs if remote else None).ensemble[0]
    indices = [ITEM_INDICES[item] for item in found.items]
    np.testing.assert_allclose(found.scores, scores[indices], rtol=1e-4, atol=1e-5)


ITEM_INDICES = {models.item_id(number): number for number in range(N_ITEMS)}
N_BEST = 100


def recall_of(exact: Recommender, recommender: Recommender, request: RecommendRequest) -> float:
    """Return the part of the 100 best items of all that are recommended; items that tie with the last count."""
    expected, found = (answer(each, request) for each in (exact, recommender))
    resolved, outputs = outputs_of(exact, request)
    scores = exact.score(resolved, remote_scores=outputs).ensemble[0]
    least = expected.scores[-1] - 1e-5
    return float((scores[[ITEM_INDICES[item] for item in found.items]] >= least).sum() / len(expected.items))


def test_recall_of_candidates_has_a_bound(folder: Path, exact: Recommender) -> None:
    """On random tables and networks, with far fewer candidates of each base model than the default."""
    users = [models.user_id(number) for number in range(0, 300, 10)]
    requests = [RecommendRequest(user=user, k=N_BEST) for user in users]
    requests += [RecommendRequest(history=[models.item_id(number)], k=N_BEST) for number in range(0, 300, 10)]
    recalls, n_scored = {}, {}
    for per_model in (100, 400):
        recommender = with_candidates(folder, per_model)
        local = recommender.score_local(recommender.resolve(requests, use_precomputed=False))
        assert isinstance(local, CandidateScores)
        n_scored[per_model] = np.mean([N_ITEMS if each.items is None else len(each.items) for each in local.scores])
        recalls[per_model] = np.mean([recall_of(exact, recommender, request) for request in requests])
    assert n_scored[400] < 0.6 * N_ITEMS
    assert recalls[400] >= 0.98
    assert recalls[100] < recalls[400]


@pytest.mark.parametrize("kind", ALL)
def test_where_candidates_are_all_items_answers_are_the_same(exact: Recommender, folder: Path, kind: str) -> None:
    request = ALL[kind]
    expected, found = (answer(each, request) for each in (exact, with_candidates(folder, 100_000)))
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    assert found.items == expected.items


def test_requests_are_scored_together_or_alone(folder: Path) -> None:
    recommender = with_candidates(folder, 200)
    together = recommender.recommend(list(ALL.values()))
    for request, one in zip(ALL.values(), together, strict=True):
        [alone] = recommender.recommend([request])
        assert isinstance(one, RecommendResponse)
        assert isinstance(alone, RecommendResponse)
        assert one.items == alone.items


def test_what_must_not_be_recommended_is_no_candidate(folder: Path) -> None:
    recommender = with_candidates(folder, 100)
    request = replace(ALL["rejected"], k=200)
    resolved, outputs = outputs_of(recommender, request)
    found = answer(recommender, request)
    consumed = {recommender.item_ids[item] for item in resolved.batch.consumed.columns.tolist()}
    assert consumed
    assert not set(found.items) & {*consumed, *request.exclude, *request.skipped}
    assert len(found.items) == 200
    assert not outputs["taste_vae"].any() or set(found.items) != set(answer(recommender, request, remote=False).items)


def test_reasons_add_up_to_the_score(folder: Path, exact: Recommender) -> None:
    request = replace(ALL["stored"], explain=True, k=8)
    expected, found = (answer(each, request) for each in (exact, with_candidates(folder, 1_000)))
    for item, score, reasons in zip(found.items, found.scores.tolist(), found.reasons, strict=True):
        assert sum(reason.amount for reason in reasons) == pytest.approx(score, rel=1e-3)
        if item in expected.items:
            others = expected.reasons[expected.items.index(item)]
            assert sum(reason.amount for reason in others) == pytest.approx(score, rel=1e-3)
            assert {each.base_model for each in reasons} == {each.base_model for each in others}


def test_with_few_candidates_all_items_are_scored(folder: Path, exact: Recommender) -> None:
    recommender = with_candidates(folder, 100)
    request = RecommendRequest(k=2_000)  # cold: few base models propose anything
    resolved = recommender.resolve([request], use_precomputed=False)
    local = recommender.score_local(resolved)
    assert isinstance(local, CandidateScores)
    assert local.scores[0].items is None
    assert answer(recommender, request).items == answer(exact, request).items
    enough = recommender.score_local(recommender.resolve([RecommendRequest(k=5)], use_precomputed=False))
    assert isinstance(enough, CandidateScores)
    assert enough.scores[0].items is not None


def test_smaller_catalogues_are_scored_whole(folder: Path) -> None:
    key = read_key(folder / "key")
    for settings in (None, CandidateSettings(), CandidateSettings(min_items=N_ITEMS + 1)):
        recommender = Recommender.open(folder / "artifact", key=key, candidates=settings)
        resolved = recommender.resolve([RecommendRequest()], use_precomputed=False)
        assert not isinstance(recommender.score_local(resolved), CandidateScores)


def test_few_friends_of_a_token_do_not_influence_candidates(folder: Path) -> None:
    recommender = with_candidates(folder, 200)
    mine = Caller(user=models.user_id(9), is_trusted=False)
    plain, with_friends = (
        answer(recommender, RecommendRequest(history=SONGS, friends=friends, caller=mine), remote=False)
        for friends in ([], [models.user_id(1), models.user_id(2)])
    )
    assert plain.items == with_friends.items


def test_sound_is_searched_in_the_index_if_there_is_one(
    folder: Path, exact: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "LEAST_INDEXED_ITEMS", 100)
    index = similarity.build_index(exact.artifact.arrays["items.embeddings"])
    assert index is not None
    path = folder / "artifact" / similarity.INDEX_FILENAME
    path.write_bytes(index)
    try:
        indexed = with_candidates(folder, 300)
        sound: Any = indexed.scorer.base_models["sound"]
        assert sound.index is not None
        expected, found = (answer(each, ALL["recording"], remote=False) for each in (exact, indexed))
        assert len(set(found.items) & set(expected.items)) >= 9
        path.write_bytes(b"damaged")
        for module in (None, "usearch.index"):  # damaged, and without the library
            if module:
                path.write_bytes(index)
                monkeypatch.setitem(__import__("sys").modules, module, None)
            without = with_candidates(folder, 300)
            sound = without.scorer.base_models["sound"]
            assert sound.index is None
            assert answer(without, ALL["recording"], remote=False).items == expected.items
    finally:
        path.unlink()


# --- settings of the backend ----------------------------------------------------------------------------


def loaded(cf_ensemble: Any, folder: Path, **parameters: str) -> Recommender:
    given = {"key_file": str(folder / "key"), **parameters}
    config = {"parameters": {name: {"string_value": value} for name, value in given.items()}}
    recommender: Recommender = cf_ensemble.loading.load(
        folder / "artifact", config, on_base_model=lambda name, seconds: None
    )
    return recommender


@pytest.mark.parametrize(
    ("parameters", "uses_candidates"),
    [
        ({}, False),
        ({"candidates_min_items": ""}, False),
        ({"candidates_min_items": "3000"}, True),
        ({"candidates_min_items": "1", "candidates_per_model": "100"}, True),
        ({"candidates_min_items": "3001"}, False),
        ({"candidates_min_items": "never"}, False),
    ],
)
def test_the_backend_uses_candidates_by_its_settings(
    cf_ensemble: Any, folder: Path, parameters: dict[str, str], uses_candidates: bool
) -> None:
    recommender = loaded(cf_ensemble, folder, **parameters)
    local = recommender.score_local(recommender.resolve([RecommendRequest()], use_precomputed=False))
    assert isinstance(local, CandidateScores) == uses_candidates


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, "3,000 items, scoring all items; candidates_min_items: 500,000"),
        ({"candidates_min_items": "never"}, "3,000 items, scoring all items; candidates_min_items: never"),
        (
            {"candidates_min_items": "3000", "candidates_per_model": "100"},
            "3,000 items, scoring candidates, 100 of each base model (candidates_per_model); "
            "candidates_min_items: 3,000",
        ),
    ],
)
def test_the_log_names_the_scoring(cf_ensemble: Any, folder: Path, parameters: dict[str, str], expected: str) -> None:
    recommender = loaded(cf_ensemble, folder, **parameters)
    config = {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}
    assert cf_ensemble.loading.scoring_description(recommender, config) == expected


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "some", "2147483648", "9" * 5_000, "Never"])
def test_a_size_out_of_range_is_refused(cf_ensemble: Any, folder: Path, value: str) -> None:
    with pytest.raises(
        cf_ensemble.loading.LoadError, match=r"candidates_min_items is .* from 1 to 2147483647, or never"
    ):
        loaded(cf_ensemble, folder, candidates_min_items=value)


@pytest.mark.parametrize("value", ["0", "99", "1000001", "many"])
def test_a_number_of_proposals_out_of_range_is_refused(cf_ensemble: Any, folder: Path, value: str) -> None:
    for others in ({}, {"candidates_min_items": "never"}):
        with pytest.raises(cf_ensemble.loading.LoadError, match=r"candidates_per_model is .* from 100 to 1000000"):
            loaded(cf_ensemble, folder, candidates_per_model=value, **others)


def test_seconds_of_base_models_include_those_of_proposals(folder: Path) -> None:
    counted: dict[str, int] = {}
    recommender = Recommender.open(
        folder / "artifact",
        key=read_key(folder / "key"),
        on_base_model=lambda name, seconds: counted.update({name: counted.get(name, 0) + 1}),
        candidates=CandidateSettings(min_items=1),
    )
    recommender.recommend([ALL["stored"]])
    assert counted
    assert set(counted.values()) == {1}


# --- products of one row ------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.0, 0.002, 0.2])
def test_a_product_of_one_row_is_a_row_of_the_product(density: float) -> None:
    rng = np.random.default_rng(3)
    table = Rows.from_csr(sparse.random(50, 2_000, density, "csr", np.float32, rng))
    left = Rows.from_lists([np.array([3, 7, 49, 7])], [np.array([1, -2, 0.5, 0.5], np.float32)])
    whole = product(left, table, 2_000)[0]
    found = RowProduct.of(left, table, 2_000)
    assert (found.columns is None) == (density == 0.2)
    for columns in (np.arange(2_000), rng.permutation(2_000)[:300], np.zeros(0, np.int64)):
        np.testing.assert_allclose(found.at(columns), whole[columns], atol=1e-6)
    factors = rng.uniform(0.5, 2, 2_000).astype(np.float32)
    for n in (1, 5, 3_000):
        best = found.largest(n, factors=factors)
        assert len(best) == min(n, int((whole > 0).sum()))
        rest = np.setdiff1d(np.flatnonzero(whole > 0), best)
        if len(rest) and len(best):
            assert (found.largest(n, first=1_000) >= 1_000).all()
            assert (whole * factors)[best].min() >= (whole * factors)[rest].max() - 1e-6


def test_a_damaged_row_is_refused() -> None:
    table = Rows(np.array([0, 1, 2]), np.array([5, 500], np.int32), np.ones(2, np.float32))
    left = Rows.from_lists([np.array([0, 1])], [np.ones(2, np.float32)])
    with pytest.raises(IndexError, match="of a table with 400"):
        RowProduct.of(left, table, 400)
