"""The order of listening in training: transitions, stored order, sessions, and the evaluation of next items."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.support import recommender_models
from tests.support.recommender_models import N_ORDERED, ordered_checkpoint, sequence_files, sessions

from tritone_serving.recommender import Recommender, RecommendRequest, open_artifact
from tritone_serving.recommender.event_sequences import SequenceBatch
from tritone_training.data.interactions import (
    ListeningFiles,
    UserSequences,
    load_sequences,
)
from tritone_training.evaluation import EvaluationResult
from tritone_training.kind import EvaluateRequest, TrainRequest
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.recommender.ensemble.cross_fitting import ensemble_or_best_base_model
from tritone_training.kinds.recommender.ensemble.model_selection import UNORDERED
from tritone_training.kinds.recommender.ensemble.offline import open_recommender
from tritone_training.kinds.recommender.ensemble.sessions import session_queries, without_events
from tritone_training.kinds.recommender.ensemble.weight_fitting import Candidates, EnsembleWeights
from tritone_training.kinds.recommender.fitting.order import markov_table, stored_order, transition_table
from tritone_training.kinds.recommender.next_item import ENSEMBLE, LAST_ITEM, MOST_PLAYED, WITHOUT_ORDER
from tritone_training.registry import get_kind

KIND = get_kind("recommender")
ORDERED = ("transitions", "markov", "taste_sequence")


def sequences(*events: tuple[int, int, bool]) -> UserSequences:
    user, item, skipped = (np.array(each) for each in zip(*events, strict=True))
    return UserSequences(user, item, None, skipped.astype(np.bool_))


# --- fitting ----------------------------------------------------------------------------------------------------------


def test_the_markov_chain_counts_what_follows() -> None:
    found = markov_table(
        sequences(
            (0, 0, False), (0, 1, False), (0, 2, True), (0, 0, False), (0, 1, False), (1, 0, False), (1, 3, False)
        ),
        4,
        RecommenderConfig(transition_shrinkage=0.0),
    ).toarray()
    np.testing.assert_allclose(found[0], [0, 2 / 3, 0, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(found[1], [1, 0, 0, 0], rtol=1e-6)  # the skipped item is no step
    assert not found[2:].any()


def test_transitions_fall_with_the_distance_and_count_backwards_too() -> None:
    config = RecommenderConfig(
        transition_shrinkage=0.0, transition_damping=0.0, transition_gap_decay=0.5, transition_backward=0.25
    )
    found = transition_table(sequences(*((0, item, False) for item in range(3))), 3, config).toarray()
    np.testing.assert_allclose(found[0], np.array([0, 1, 0.5]) / 1.5, rtol=1e-6)
    np.testing.assert_allclose(found[1], np.array([0.25, 0, 1]) / 1.25, rtol=1e-6)
    np.testing.assert_allclose(found[2], np.array([0.125, 0.25, 0]) / 0.375, rtol=1e-6)


def test_damping_lowers_popular_items() -> None:
    steps = sequences((0, 0, False), (0, 1, False), *((user, item, False) for user in range(1, 9) for item in (2, 1)))
    plain, damped = (
        transition_table(steps, 3, RecommenderConfig(transition_shrinkage=1.0, transition_damping=damping)).toarray()
        for damping in (0.0, 0.5)
    )
    assert damped[0, 1] < plain[0, 1]


def test_tables_are_cut_to_their_largest_entries() -> None:
    steps = sequences(*((user, item, False) for user in range(6) for item in (0, 1 + user % 3)))
    found = markov_table(steps, 4, RecommenderConfig(n_neighbours=2))
    assert np.diff(found.indptr).max() == 2


def test_only_the_latest_events_are_stored() -> None:
    n = 130
    log = UserSequences(
        np.zeros(n, np.int64), np.arange(n) % 7, np.arange(n, dtype=np.float64) - 5, np.arange(n) % 2 == 0
    )
    arrays = stored_order(log, 2)
    assert arrays["sequence.starts"].tolist() == [0, 100, 100]
    assert arrays["sequence.columns"].tolist() == (np.arange(30, n) % 7).tolist()
    assert arrays["sequence.values"].tolist() == [float(each % 2 == 0) for each in range(30, n)]
    assert arrays["sequence.times"].tolist() == list(range(25, n - 5))
    assert stored_order(UserSequences(log.user, log.item, log.time - 200, log.skipped), 1)["sequence.times"].min() == 0  # type: ignore[operator]


# --- weights ----------------------------------------------------------------------------------------------------------


def test_an_ensemble_below_its_best_member_is_replaced_by_it() -> None:
    n = 40
    wanted = np.tile([True, False, False], n)
    candidates = Candidates(
        users=np.repeat(np.arange(n), 3),
        items=np.tile(np.arange(3), n),
        wanted=wanted,
        cold=np.zeros(3 * n, np.bool_),
        features={"good": wanted.astype(np.float32), "bad": 1 - wanted.astype(np.float32)},
        tops={"good": np.ones(n, np.float32), "bad": np.ones(n, np.float32)},
        n_held_out=np.ones(n, np.int64),
    )
    learned = EnsembleWeights({"good": 0.2, "bad": 0.8}, {"bias": 0.5})
    worse = {"ndcg@10": 0.6, "recall@40": 1.0, "cold_items_share@40": 0.0}
    replaced = ensemble_or_best_base_model(candidates, learned, worse)
    assert (replaced.listened, replaced.cold) == ({"good": 1.0, "bad": 0.0}, {"bias": 0.5})
    as_good = {"ndcg@10": 1.0, "recall@40": 1.0, "cold_items_share@40": 0.0}
    assert ensemble_or_best_base_model(candidates, learned, as_good) is learned
    assert ensemble_or_best_base_model(candidates, learned, {}) is learned
    # Requests without friends would get scores of 0.
    of_friends = replace(
        candidates, features={"social": candidates.features["good"], "bad": candidates.features["bad"]}
    )
    assert ensemble_or_best_base_model(of_friends, learned, worse) is learned


def test_events_are_left_out_without_gaps() -> None:
    before = SequenceBatch(
        np.array([[1, 2, 3], [4, -1, -1]]),
        np.array([[9, 8, 7], [5, -1, -1]], np.float32),
        np.array([[0, 1, 0]] * 2) > 0,
    )
    after = without_events(before, np.array([[False, True, True], [True, True, True]]))
    assert after.items.tolist() == [[2, 3, -1], [4, -1, -1]]
    assert after.ages.tolist() == [[8, 7, -1], [5, -1, -1]]
    assert after.skipped.tolist() == [[True, False, False], [False] * 3]


# --- a log of sequences, one user a line ------------------------------------------------------------------------------


def opened() -> Recommender:
    return open_recommender(ordered_checkpoint())[0]


@pytest.mark.slow
def test_training_on_sequences_stores_the_order_and_learns_weights_for_sessions() -> None:
    out = ordered_checkpoint()
    artifact = open_artifact(out / "artifact")
    assert set(ORDERED) <= artifact.manifest["base_models"].keys()
    assert "sequence.times" not in artifact.arrays
    assert artifact.manifest["ensembles"]["a"]["weights"].keys() == {"cold", "short", "warm", "session"}
    for weights in artifact.manifest["ensembles"][UNORDERED]["weights"].values():
        assert not weights.keys() & {*ORDERED}
    assert "order" in artifact.manifest["personal_data"]
    info = json.loads((out / "checkpoint.json").read_text())
    assert info["taste_sequence"]["n_items"] == artifact.n_items
    assert info["metrics"]["valid"]["sessions"]["n"] > 50
    # What is served is fitted on the last items too.
    assert (out / "selection" / "taste_sequence" / "checkpoint.json").is_file()
    log = load_sequences(sequence_files()[0])
    assert artifact.arrays["sequence.starts"][-1] == log.report["n_in"]


@pytest.mark.slow
def test_the_order_of_a_history_matters() -> None:
    recommender, networks = open_recommender(ordered_checkpoint())
    history = list(recommender.item_ids[:6])
    resolved = recommender.resolve([RecommendRequest(history=history), RecommendRequest(history=history[::-1])])
    tensors = resolved.remote_inputs["taste_sequence"].tensors
    assert tensors["items"][0].tolist() == tensors["items"][1][::-1].tolist() == list(range(6))
    scores = networks["taste_sequence"](resolved.remote_inputs["taste_sequence"])
    assert np.abs(scores[0] - scores[1]).max() > 1e-3
    vae = networks["taste_vae"](resolved.remote_inputs["taste_vae"])
    np.testing.assert_allclose(vae[0], vae[1], atol=1e-4)


def evaluated(**files: Path) -> EvaluationResult:
    request = EvaluateRequest(ordered_checkpoint(), data=ListeningFiles(**files), progress=False)  # type: ignore[arg-type]
    return KIND.evaluate(request)


@pytest.mark.slow
def test_next_items_are_evaluated_for_all_models() -> None:
    train, test = sequence_files()
    metrics = evaluated(interactions=train, test=test).metrics
    order = metrics["order"]
    assert order["n_users"] == 89  # the unknown user is left out
    assert order["n_unknown_items"] == 1
    rows = order["next_item"]
    assert rows.keys() >= {ENSEMBLE, WITHOUT_ORDER, LAST_ITEM, MOST_PLAYED, "popularity", "ease", *ORDERED}
    names = {f"{name}@{k}" for name in ("hr", "ndcg") for k in (5, 10, 20)}
    assert all(each.keys() == names for each in rows.values())
    assert {name: metrics[name] for name in names} == rows[ENSEMBLE]
    assert rows[ENSEMBLE]["hr@20"] > rows["popularity"]["hr@20"]
    assert rows[MOST_PLAYED]["hr@20"] == 0  # the next item is new
    assert "next_day" not in order


@pytest.mark.slow
def test_without_a_test_file_the_last_items_are_ranked_by_the_fit_without_them() -> None:
    found = evaluated(interactions=sequence_files()[0])
    assert "without the held-out listens" in found.details["fit"]
    assert found.metrics["order"]["n_users"] == 90


@pytest.mark.slow
def test_queries_of_sessions_are_in_order_and_repeat_what_came_before() -> None:
    recommender = opened()
    log = load_sequences(sequence_files()[0])
    users = [*log.users[:3], "nobody"]
    found = session_queries(recommender, log, users)
    assert found.users.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert log.sequences is not None
    first = [log.items[item] for item in log.sequences.items_of(len(log.users))[0][:3].tolist()]
    assert [list(request.history) for request in found.requests[:3]] == [[], first[:1], first[:2]]
    assert [recommender.item_ids[item] for item in found.targets[:3].tolist()] == first


# --- a log with times -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_logs_with_times_are_evaluated_on_the_next_item_and_the_next_day(tmp_path: Path) -> None:
    log = sessions().world.log
    events = log.sequences
    assert events is not None
    assert events.time is not None
    rows = zip(events.user.tolist(), events.item.tolist(), events.time.tolist(), events.skipped.tolist(), strict=True)
    lines = [f"{log.users[u]},{log.items[i]},{at_s:.0f},{int(s)}" for u, i, at_s, s in rows]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time,skipped", *lines]) + "\n")
    data = ListeningFiles(interactions=tmp_path / "log.csv")
    out = tmp_path / "run"
    KIND.train(TrainRequest(out=out, preset="tiny", progress=False, data=data, overrides={"taste_sequence_epochs": 1}))
    artifact = open_artifact(out / "artifact")
    assert artifact.arrays["sequence.times"].min() > 1.7e9
    assert 0 < artifact.rows("sequence").values.mean() < 0.3  # skips
    assert not (out / "selection").exists()
    order = KIND.evaluate(EvaluateRequest(out, data=data, progress=False)).metrics["order"]
    assert order["n_users"] > 20
    assert order["n_queries"] > 2 * order["n_users"]
    assert order["next_day"].keys() == order["next_item"].keys()
    assert order["next_day"][ENSEMBLE].keys() == {f"{name}@{k}" for name in ("ndcg", "recall") for k in (5, 10, 20)}
    assert order["next_item"][ENSEMBLE]["hr@20"] > 1.3 * 20 / N_ORDERED  # at random: a sixth
    assert order["next_item"][ENSEMBLE]["ndcg@10"] > 1.15 * order["next_item"][WITHOUT_ORDER]["ndcg@10"]


@pytest.mark.slow
def test_a_log_without_order_has_no_base_models_of_it() -> None:
    artifact = open_artifact(recommender_models.checkpoint() / "artifact")
    assert not {*ORDERED} & artifact.manifest["base_models"].keys()
    assert artifact.manifest["ensembles"].keys() == {"a", "b"}
    assert "sequence.starts" not in artifact.arrays
