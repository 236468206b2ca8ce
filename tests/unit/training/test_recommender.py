"""Fitting the recommender: tables against their definitions, what own tags may not tell, what is learned."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from tests.support import recommender_models
from tests.unit.training import sounds
from tests.unit.training.conftest import Trained

from tritone_cli.console import print_listening_report
from tritone_serving.recommender import RecommendRequest, open_artifact
from tritone_serving.recommender.batch import weigh
from tritone_training.data.interactions import Columns, ListeningFiles, load_listening, load_log
from tritone_training.exceptions import CheckpointError, DataError, TrainingError
from tritone_training.hyperparameters import from_preset
from tritone_training.kind import EvaluateRequest, TrainRequest
from tritone_training.kinds.recommender.config import PRESETS
from tritone_training.kinds.recommender.ensemble.offline import open_recommender
from tritone_training.kinds.recommender.ensemble.weight_fitting import MAY_BE_NEGATIVE
from tritone_training.kinds.recommender.evaluate import evaluate_ranking, evaluation_users
from tritone_training.kinds.recommender.fitting import tables
from tritone_training.kinds.recommender.fitting.interaction_dataset import InteractionDataset, build_dataset
from tritone_training.kinds.recommender.fitting.side_info import ease_ratios, item_knn_ratios, side_info_of, tag_ratios
from tritone_training.kinds.recommender.fitting.tables import ease_table, graph_of, graph_table, item_knn_table, ridge
from tritone_training.registry import get_kind

KIND = get_kind("recommender")


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


@pytest.fixture(scope="module")
def listening() -> sparse.csr_matrix:
    rng = np.random.default_rng(0)
    matrix = sparse.random(25, 40, 0.2, format="csr", random_state=rng, dtype=np.float32)
    matrix.data = rng.uniform(0.5, 2, matrix.nnz).astype(np.float32)
    return matrix


# --- tables -------------------------------------------------------------------------------------


def ease_by_definition(listening: sparse.csr_matrix, l2: float) -> np.ndarray:
    dense = listening.toarray().astype(np.float64)
    inverse = np.linalg.inv(dense.T @ dense + l2 * np.eye(dense.shape[1]))
    table = -inverse / np.diag(inverse)
    np.fill_diagonal(table, 0)
    return table


@pytest.mark.parametrize("dual", [True, False])
def test_ease_is_what_its_paper_says_by_either_route(
    listening: sparse.csr_matrix, dual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_DUAL_USERS", 1_000 if dual else 0)
    solved = ridge(listening, 5.0)
    assert (solved.whole is None) == dual
    table = ease_table(solved, 40, quiet).toarray()
    np.testing.assert_allclose(table, ease_by_definition(listening, 5.0), atol=2e-5)


@pytest.mark.parametrize("dual", [True, False])
def test_the_graph_filter_smooths_the_spectrum(
    listening: sparse.csr_matrix, dual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_DUAL_USERS", 1_000 if dual else 0)
    graph = graph_of(listening)
    table = graph_table(graph, 0.3, 40, quiet).toarray()
    dense = listening.toarray().astype(np.float64)
    edges = dense / np.sqrt(dense.sum(1, keepdims=True)) / np.sqrt(np.maximum(dense.sum(0), 1e-9))
    _, values, right = np.linalg.svd(edges, full_matrices=False)
    smooth = right.T @ np.diag(values**2 / (values**2 + 0.3)) @ right
    roots = np.sqrt(dense.sum(0))
    expected = smooth / np.maximum(roots, 1e-9)[:, None] * roots
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(table, expected, atol=1e-4)


def test_item_knn_is_the_shrunk_cosine(listening: sparse.csr_matrix) -> None:
    table = item_knn_table(listening, 2.0, 40, quiet).toarray()
    dense = listening.toarray()
    lengths = np.linalg.norm(dense, axis=0)
    expected = dense.T @ dense / (np.outer(lengths, lengths) + 2)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(table, expected, atol=1e-5)


def test_each_item_keeps_the_items_that_speak_most_for_it(listening: sparse.csr_matrix) -> None:
    whole = item_knn_table(listening, 2.0, 40, quiet).toarray()
    table = item_knn_table(listening, 2.0, 5, quiet).toarray()
    assert (np.count_nonzero(table, axis=0) <= 5).all()
    for item in range(whole.shape[1]):
        kept = np.sort(table[:, item])[-5:]
        np.testing.assert_allclose(kept, np.sort(whole[:, item])[-5:], atol=1e-6)


def test_plays_are_weighed_relative_to_the_user() -> None:
    plays = np.array([1.0, 10.0, 100.0])
    np.testing.assert_allclose(weigh(plays, {"power": 0.25}), weigh(plays * 50, {"power": 0.25}), rtol=1e-6)
    assert weigh(plays, {"power": 0}).tolist() == [1, 1, 1]
    assert np.isfinite(weigh(np.array([1e308, 1e308]), {"power": 0.5})).all()


# --- own tags -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> InteractionDataset:
    from tritone_training.data.interactions import load_listening

    listening = load_listening(TrainRequest(out=Path(), data=recommender_models.files(), progress=False))
    rng = np.random.default_rng(1)
    # The simulated listeners tag only what they play; here some tag what they know from elsewhere.
    more = [(f"listener-{rng.integers(80):04d}", f"piece/{rng.integers(90)}", "heard live") for _ in range(150)]
    tags = replace(
        listening.tags,
        users=[*listening.tags.users, *(user for user, _, _ in more)],
        items=[*listening.tags.items, *(item for _, item, _ in more)],
        tags=[*listening.tags.tags, *(tag for _, _, tag in more)],
    )
    made = build_dataset(replace(listening, tags=tags), from_preset(PRESETS, "tiny", {}), b"k" * 16)
    assert made.tagged.nnz > 80
    return made


def without_tags_of(world: InteractionDataset, user: int) -> sparse.csr_matrix:
    """Listening as if one user had tagged nothing."""
    tagged = world.tagged.tolil()
    tagged[user] = 0
    return sparse.csr_matrix(world.weights + tagged.tocsr() * np.float32(0.5))


def some_taggers(world: InteractionDataset) -> list[int]:
    return np.flatnonzero(np.diff(world.tagged.indptr))[:8].tolist()


def test_ease_without_own_tags_equals_a_regression_without_them(world: InteractionDataset) -> None:
    said = side_info_of(world, 3.0)
    both = sparse.csr_matrix(sparse.vstack([world.weights, said.rows]))
    ratios = ease_ratios(world, ridge(both, 20.0), said)
    full = ease_by_definition(both, 20.0)
    given = list(zip(*(each.tolist() for each in world.given), strict=True))
    n_checked = n_changed = 0
    for user in some_taggers(world):
        weights = world.weights[[user]].toarray()[0]
        for item, ratio in zip(*(each.tolist() for each in ratios.row(user)), strict=True):
            mine = [tag for who, what, tag in given if (who, what) == (user, item)]
            tags = world.tags.tolil()
            for tag in mine:
                tags[item, tag] -= 1
            left = np.log1p(tags.tocsr()[[item]].toarray()[0][said.indices >= 0]) * said.rarity
            without = both.toarray()
            without[world.n_users :, item] = 3.0 * left / max(np.linalg.norm(left), 1e-9)
            before = weights @ full[:, item]
            after = weights @ ease_by_definition(sparse.csr_matrix(without), 20.0)[:, item]
            if before > 1e-4 and 0 < after < 2 * before:
                assert ratio * before == pytest.approx(after, rel=2e-3, abs=1e-5)
                n_checked += 1
                n_changed += abs(after - before) > 1e-3 * before
    assert n_checked > 10
    assert n_changed > 5


def test_ease_reaches_items_that_nobody_listens_to_by_what_is_said_of_them(world: InteractionDataset) -> None:
    cold = np.flatnonzero(world.plays.getnnz(axis=0) == 0)
    assert len(cold)
    said = side_info_of(world, 3.0)
    solved = ridge(sparse.csr_matrix(sparse.vstack([world.weights, said.rows])), 20.0)
    with_words = ease_table(solved, 50, quiet)[:, cold]
    assert np.abs(with_words.toarray()).max() > 1e-3
    alone = ease_table(ridge(world.weights, 20.0), 50, quiet)[:, cold]
    assert np.abs(alone.toarray()).max() < 1e-6


def test_item_knn_without_own_tags_is_less_by_the_own_overlap(world: InteractionDataset) -> None:
    listening = world.listening(0.5)
    table = item_knn_table(listening, 2.0, world.n_items, quiet)
    ratios = item_knn_ratios(world, table, 0.5, listening, 2.0)
    lengths = np.sqrt(np.asarray(listening.multiply(listening).sum(0)).ravel())
    below = np.outer(lengths, lengths) + 2.0
    for user in some_taggers(world):
        own = without_tags_of(world, user)
        overlap = (own.T @ own).toarray() / below  # lengths as they are: only the overlap is taken back
        weights = world.weights[[user]].toarray()[0]
        items, values = ratios.row(user)
        before = weights @ table.toarray()
        np.testing.assert_allclose(values * before[items], weights @ overlap[:, items], rtol=1e-3, atol=1e-4)


def test_tags_without_own_tags_equals_counting_without_them(world: InteractionDataset) -> None:
    counts = np.bincount(world.tags.indices, minlength=len(world.tag_names))
    idf = np.log(world.n_items / np.maximum(counts, 1)).astype(np.float32)
    ratios = tag_ratios(world, idf)
    given = np.stack(world.given)

    def unit(tags: np.ndarray) -> np.ndarray:
        weighted = tags * idf
        return weighted / np.maximum(np.linalg.norm(weighted, axis=-1, keepdims=True), 1e-9)

    whole = unit(world.tags.toarray())
    for user in some_taggers(world):
        profile = world.weights[[user]].toarray()[0] @ whole
        items, values = ratios.row(user)
        for item, value in zip(items, values, strict=True):
            tags = world.tags[[item]].toarray()[0].copy()
            for tag in given[2, (given[0] == user) & (given[1] == item)]:
                tags[tag] -= 1
            before, after = profile @ whole[item], profile @ unit(tags)
            if before > 1e-6 and after < 2 * before:
                assert value * before == pytest.approx(after, rel=1e-3, abs=1e-5)


# --- the whole ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    request = EvaluateRequest(
        checkpoint=recommender_models.checkpoint(),
        data=recommender_models.files(),
        report=recommender_models.folder() / "report",
        progress=False,
    )
    return KIND.evaluate(request).to_dict()


def test_the_ensemble_is_worth_its_members(figures: dict[str, object]) -> None:
    base_models = figures["base_models"]
    ensemble = figures["ensemble"]
    assert isinstance(base_models, dict)
    assert isinstance(ensemble, dict)
    by_listening = {"popularity", "mainstream", "item_knn", "ease", "graph", "user_knn", "social", "taste_vae"}
    assert set(base_models) == by_listening | {"tags", "factorization"}
    for each in (*base_models.values(), ensemble):
        for name in ("recall", "precision", "f1", "ndcg", "map", "hit_rate", "mrr"):
            for k in (10, 20, 40):
                assert 0 <= each[f"{name}@{k}"] <= 1
        assert 0 < each["coverage@10"] <= 1
    assert ensemble["ndcg@10"] > 1.3 * base_models["popularity"]["ndcg@10"]
    assert ensemble["ndcg@10"] >= 0.9 * max(each["ndcg@10"] for each in base_models.values())


def test_figures_by_segment_and_for_newcomers(figures: dict[str, object]) -> None:
    segments = figures["segments"]
    assert isinstance(segments, list)
    assert sum(row["n_users"] for row in segments) == figures["n_users"]
    cold_start = figures["cold_users"]
    assert isinstance(cold_start, dict)
    assert cold_start["by_friends"]["times_popularity"] > 1
    report = figures["report"]
    assert isinstance(report, list)
    assert all(Path(path).stat().st_size > 5_000 for path in report if path.endswith(".png"))
    assert {Path(path).name for path in report} == {
        "base_models.png", "segments.png", "weights.png", "beyond_accuracy.png", "metrics.csv", "report.md",
    }  # fmt: skip


def test_the_reports_tables_hold_the_figures(figures: dict[str, Any]) -> None:
    folder = recommender_models.folder() / "report"
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = {(row["who"], row["n_items_listened"]): row for row in csv.DictReader(file)}
    assert len(rows) == (len(figures["base_models"]) + 1) * (len(figures["segments"]) + 1)
    for name, each in {**figures["base_models"], "ensemble": figures["ensemble"]}.items():
        assert float(rows[name, "all"]["recall@40"]) == pytest.approx(each["recall@40"], abs=1e-6)
    last = figures["segments"][-1]
    assert float(rows["ease", last["n_items_listened"]]["ndcg@10"]) == pytest.approx(
        last["base_models"]["ease"]["ndcg@10"], abs=1e-6
    )
    text = (folder / "report.md").read_text(encoding="utf-8")
    best = figures["ensemble"]
    assert f"| ensemble | {best['ndcg@10']:.4f} | {best['recall@10']:.4f} |" in text
    assert f"{figures['n_users']} users, {figures['n_held_out']} held-out listens" in text
    assert all((folder / name).is_file() for name in re.findall(r"\]\((.*?)\)", text))


def test_members_by_segment_add_up_to_members(figures: dict[str, Any]) -> None:
    for name, each in figures["base_models"].items():
        total = sum(row["n_users"] * row["base_models"][name]["ndcg@10"] for row in figures["segments"])
        assert total / figures["n_users"] == pytest.approx(each["ndcg@10"])


def test_the_card_says_what_was_learned_and_whose_data_it_holds() -> None:
    info = json.loads((recommender_models.checkpoint() / "checkpoint.json").read_text())
    weights = info["ensembles"]["a"]["weights"]
    assert set(weights) == {"warm", "short", "cold"}
    least = min(weight for each in weights.values() for name, weight in each.items() if name not in MAY_BE_NEGATIVE)
    assert least >= 0
    assert weights["cold"]["popularity"] > 0
    assert "pseudonym" in info["personal_data"]
    assert info["data"]["fingerprint"]
    assert not any(user in json.dumps(info) for user in recommender_models.world().log.users)


def test_users_who_were_not_trained_on_are_judged_by_their_history(tmp_path: Path) -> None:
    recommender, networks = open_recommender(recommender_models.checkpoint())
    files = recommender_models.files()
    assert files.interactions is not None
    log = load_log(files.interactions, Columns(user="who", item="what", plays="n"))
    renamed = replace(log, users=[f"new {name}" for name in log.users])
    train, held_out = renamed.take(np.arange(len(log)) % 5 != 0), renamed.take(np.arange(len(log)) % 5 == 0)
    people = evaluation_users(recommender, train, held_out)
    figures = evaluate_ranking(recommender, networks, people, on_progress=lambda done, total: None)
    assert figures["n_users_known"] == 0
    assert figures["cold_users"]["by_history"]["n"] == figures["n_users"]
    assert figures["ensemble"]["ndcg@10"] > figures["base_models"]["popularity"]["ndcg@10"]


def test_a_stored_history_and_the_same_history_given_agree(tmp_path: Path) -> None:
    recommender, _ = open_recommender(recommender_models.checkpoint())
    log = recommender_models.world().log
    stored = recommender.resolver.batch([RecommendRequest(user=log.users[3])])[0]
    items, plays = recommender.artifact.rows("history").row(int(stored.users[0]))
    given = recommender.resolver.batch(
        [RecommendRequest(history=[recommender.item_ids[i] for i in items], weights=plays)]
    )[0]
    np.testing.assert_array_equal(stored.history.columns, given.history.columns)
    np.testing.assert_allclose(stored.history.values, given.history.values, rtol=1e-5)


def test_same_seed_same_members(tmp_path: Path) -> None:
    request = TrainRequest(
        out=tmp_path / "again", preset="tiny", progress=False, data=recommender_models.files(), seed=0
    )
    request = replace(
        request, data=replace(recommender_models.files(), key=recommender_models.checkpoint() / "recommender.key")
    )
    KIND.train(request)
    for name in ("ease.values", "item_knn.columns", "users", "lists.a.columns"):
        np.testing.assert_array_equal(
            np.load(tmp_path / "again" / "artifact" / f"{name}.npy"),
            np.load(recommender_models.checkpoint() / "artifact" / f"{name}.npy"),
        )
    assert not (tmp_path / "again" / "recommender.key").exists()


def test_same_seed_same_weights_whatever_the_key(tmp_path: Path) -> None:
    """Users lie in the order of their pseudonyms; what is drawn must not follow it."""
    summary = KIND.train(
        TrainRequest(out=tmp_path, preset="tiny", progress=False, data=recommender_models.files(), seed=0)
    ).to_dict()
    assert (tmp_path / "recommender.key").read_bytes() != (
        recommender_models.checkpoint() / "recommender.key"
    ).read_bytes()
    before = json.loads((recommender_models.checkpoint() / "checkpoint.json").read_text())
    for name, ensemble in before["ensembles"].items():
        for segment, weights in ensemble["weights"].items():
            # Sums over users in another order differ in the last bits, which the rounding to four digits may show.
            assert summary["ensembles"][name]["weights"][segment] == pytest.approx(weights, abs=1.5e-4)


# --- what is refused ----------------------------------------------------------------------------


def test_a_validation_split_of_unknown_users_is_rejected(tmp_path: Path) -> None:
    files = recommender_models.files()
    (tmp_path / "valid.csv").write_text("who,what,n\nstranger,piece/1,1\n")
    request = TrainRequest(
        out=tmp_path / "run", preset="tiny", progress=False, data=replace(files, valid=tmp_path / "valid.csv")
    )
    with pytest.raises(DataError):
        KIND.train(request)


def test_evaluate_rejects_invalid_requests(tmp_path: Path) -> None:
    checkpoint = recommender_models.checkpoint()
    files = recommender_models.files()
    (tmp_path / "test.csv").write_text("who,what,n\nlistener-0001,no such item,1\n")
    listening = replace(files, test=tmp_path / "test.csv")
    with pytest.raises(DataError):
        KIND.evaluate(EvaluateRequest(checkpoint=checkpoint, data=listening, progress=False))
    with pytest.raises(CheckpointError):
        KIND.evaluate(EvaluateRequest(checkpoint=tmp_path, progress=False))
    with pytest.raises(CheckpointError):
        KIND.evaluate(EvaluateRequest(checkpoint=checkpoint / "taste_vae", progress=False))
    wrong = tmp_path / "wrong.key"
    wrong.write_text("0" * 64)
    with pytest.raises(CheckpointError, match="made with another key"):
        KIND.evaluate(EvaluateRequest(checkpoint=checkpoint, data=replace(files, key=wrong), progress=False))


def test_recordings_need_a_network(tmp_path: Path) -> None:
    listening = replace(recommender_models.files(), recordings=tmp_path)
    with pytest.raises(DataError):
        KIND.train(TrainRequest(out=tmp_path / "run", preset="tiny", progress=False, data=listening))


def test_checkpoint_artifact_and_card_name_the_embedding_model(trained: Trained, tmp_path: Path) -> None:
    for number in range(4):
        sounds.write(tmp_path / "audio" / "piece" / f"{number}.wav", sounds.hum(number))
    listening = replace(recommender_models.files(), recordings=tmp_path / "audio", genre_checkpoint=trained.folder)
    out = tmp_path / "run"
    KIND.train(TrainRequest(out=out, preset="tiny", progress=False, data=listening, overrides={"taste_vae": 0}))
    weights = json.loads((trained.folder / "checkpoint.json").read_text())["weights_sha256"]
    assert get_kind("genre_cnn").export(trained.folder).card["weights_sha256"] == weights
    expected = {"kind": "genre_cnn", "weights_sha256": weights}
    assert json.loads((out / "checkpoint.json").read_text())["embedding_model"] == expected
    assert open_artifact(out / "artifact").manifest["embedding_model"] == expected
    assert KIND.export(out).card["embedding_model"] == expected
    assert "embedding_model" not in KIND.export(recommender_models.checkpoint()).card


def test_a_network_needs_recordings(tmp_path: Path) -> None:
    listening = replace(recommender_models.files(), genre_checkpoint=tmp_path)
    with pytest.raises(DataError):
        KIND.train(TrainRequest(out=tmp_path / "run", preset="tiny", progress=False, data=listening))


@pytest.mark.parametrize("wrong", ["nan", "singular"])
def test_singular_or_infinite_tables_are_rejected(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ease(*_: object) -> sparse.csr_matrix:
        if wrong == "singular":
            raise np.linalg.LinAlgError("the Gram matrix is singular")
        return sparse.csr_matrix(np.full((recommender_models.N_ITEMS,) * 2, np.nan, np.float32))

    monkeypatch.setattr("tritone_training.kinds.recommender.fitting.base_models.ease_table", ease)
    says = {"nan": "ease: .* not finite", "singular": "raise ease_l2 or graph_l2"}
    request = TrainRequest(out=tmp_path, preset="tiny", progress=False, data=recommender_models.files())
    with pytest.raises(TrainingError, match=says[wrong]):
        KIND.train(request)


def test_a_test_file_without_the_log_is_rejected(tmp_path: Path) -> None:
    listening = ListeningFiles(test=tmp_path / "later.csv")
    with pytest.raises(TrainingError):
        KIND.evaluate(EvaluateRequest(checkpoint=recommender_models.checkpoint(), data=listening, progress=False))


def test_tables_of_other_ids_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = recommender_models.files()
    (tmp_path / "friends.csv").write_text("who,whom\nx,y\n")
    (tmp_path / "pieces.csv").write_text("id,title\nx,X\n")
    listening = replace(files, friends=tmp_path / "friends.csv", metadata=tmp_path / "pieces.csv")
    report = load_listening(TrainRequest(out=tmp_path, data=listening)).report
    assert {part: report["parts"][part]["n_in_log"] for part in ("friends", "metadata")} == {
        "friends": 0,
        "metadata": 0,
    }
    assert report["parts"]["tags"]["n_in_log"] > 0
    print_listening_report(report)
    told = capsys.readouterr()
    told_text = told.out + told.err
    assert "friends: none of 1 rows is about two users of the log" in told_text
    assert "metadata: none of 1 rows is about an item of the log" in told_text
    assert "tags: none" not in told_text
