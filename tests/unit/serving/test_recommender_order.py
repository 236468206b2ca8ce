"""The order of listening in requests: sources joined in order of time, and what base models are given of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.support import recommender_artifacts as models

from tritone_serving.events import Event, EventKind
from tritone_serving.recommender import (
    InvalidRequestError,
    Recommender,
    RecommendRequest,
    open_artifact,
    write_artifact,
)
from tritone_serving.recommender.artifact import MANIFEST, Artifact, rows_arrays
from tritone_serving.recommender.base_models.remote import RemoteSequenceModel
from tritone_serving.recommender.event_sequences import MOST_SEQUENCE, EventSequence, SequenceBatch, join_events
from tritone_serving.recommender.exceptions import ArtifactError
from tritone_serving.recommender.recent_events import RecentEvents
from tritone_serving.recommender.rows import Rows

NOW_S = 1_000_000.0


def events(items: list[int], times: list[float] | None = None, skipped: list[bool] | None = None) -> EventSequence:
    return EventSequence(
        np.array(items, np.int64),
        np.array(times or [0] * len(items), np.float64),
        np.array(skipped or [False] * len(items), np.bool_),
    )


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], []),
        ([events([1, 2]), events([3])], [1, 2, 3]),
        ([events([1, 2], [10, 30]), events([3], [20])], [1, 3, 2]),
        ([events([1], [50]), events([2, 3])], [1, 2, 3]),  # without times: just now
        ([events([1, 2]), events([3], [20])], [1, 2, 3]),  # without times: long ago
        ([events([1, 2, 3], [30, 10, 20])], [2, 3, 1]),  # not in order of time
        ([events([1, 2, 3], [20, 20, 20])], [1, 2, 3]),  # at once: as given
        ([events([]), events([1, 2, 3], [30, 0, 10])], [3, 1, 2]),  # an unknown time: behind the one before it
        ([events([]), events([1, 2, 3], [0, 30, 10])], [3, 1, 2]),  # none before it: with the one after it
        ([events([1, 1, 2], [10, 20, 20]), events([1], [20])], [1, 1, 2]),  # the log holds the recorded event too
        ([events([1, 1]), events([1])], [1, 1, 1]),
    ],
)
def test_events_are_joined_in_order_of_time(parts: list[EventSequence], expected: list[int]) -> None:
    assert join_events(parts).items.tolist() == expected


def test_only_the_latest_events_are_used() -> None:
    n = MOST_SEQUENCE + 10
    assert join_events([events(list(range(n)))]).items.tolist() == list(range(10, n))
    joined = join_events([events(list(range(n)), list(range(1, n + 1))), events([7], [0.5])])
    assert joined.items.tolist() == list(range(10, n))


def test_sequences_are_padded_and_have_ages() -> None:
    found = SequenceBatch.of(
        [events([4, 5], [NOW_S - 60, NOW_S + 5]), events([]), events([1, 2, 3], None, [False, True, False])],
        [NOW_S] * 3,
    )
    assert found.items.tolist() == [[4, 5, -1], [-1, -1, -1], [1, 2, 3]]
    assert found.ages.tolist() == [[60, 0, -1], [-1, -1, -1], [-1, -1, -1]]
    assert found.has_listens.tolist() == [True, False, True]
    assert found.distances[2].tolist() == [1, 1, 0]
    assert found.take(np.array([2])).items.tolist() == [[1, 2, 3]]


# --- an artifact with an order ----------------------------------------------------------------------------------------

STORED = [3, 9, 3, 7]  # items of the first stored user, oldest first
TIMES_S = [100.0, 200.0, 300.0, 400.0]
SKIPPED = [0, 0, 1, 0]


def with_order(artifact: Artifact, *, has_times: bool = True, decay: float = 0.5) -> tuple[dict, dict]:  # type: ignore[type-arg]
    """Return manifest and arrays of an artifact with a stored order and a base model of transitions."""
    n_users, n_items = artifact.n_users, artifact.n_items
    starts = np.full(n_users + 1, len(STORED), np.int64)
    starts[0] = 0
    order = Rows(starts, np.array(STORED, np.int32), np.array(SKIPPED, np.float32))
    table = np.zeros((n_items, n_items), np.float32)
    table[3, 50] = table[7, 60] = 1.0
    table[9, 50] = 0.5
    arrays = {
        **artifact.arrays,
        **rows_arrays("sequence", order),
        **({"sequence.times": np.array(TIMES_S)} if has_times else {}),
        **rows_arrays("transitions", Rows.from_lists([np.flatnonzero(r) for r in table], [r[r > 0] for r in table])),
    }
    manifest = {name: value for name, value in artifact.manifest.items() if name not in ("arrays", "format")}
    base_models = {**manifest["base_models"], "transitions": {"kind": "transitions", "decay": decay}}
    ensembles = {}
    for arm, described in manifest["ensembles"].items():
        weights = {**described["weights"], "session": {"transitions": 1.0}}
        ensembles[arm] = {**described, "weights": weights}
    return {**manifest, "base_models": base_models, "ensembles": ensembles}, arrays


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ordered")
    models.make_artifact(folder / "plain", folder / "key")
    write_artifact(folder / "artifact", *with_order(open_artifact(folder / "plain")))
    return folder


@pytest.fixture(scope="module")
def recommender(ordered: Path) -> Recommender:
    return models.opened(ordered / "artifact", ordered / "key")


def first_user(recommender: Recommender) -> str:
    return next(
        name for number in range(models.N_USERS) if recommender.resolver.user(name := models.user_id(number)) == 0
    )


def sequence_of(recommender: Recommender, request: RecommendRequest) -> list[int]:
    batch = recommender.resolve([request]).batch
    assert batch.sequences is not None
    return [item for item in batch.sequences.items[0].tolist() if item >= 0]


def test_the_history_of_a_request_follows_the_stored_order(recommender: Recommender) -> None:
    user = first_user(recommender)
    known = RecommendRequest(user=user, diversity=0.1)
    assert sequence_of(recommender, known) == STORED
    assert recommender.resolve([known]).batch.sequences.skipped[0].tolist() == [False, False, True, False]  # type: ignore[union-attr]
    more = [models.item_id(number) for number in (5, 6)]
    assert sequence_of(recommender, RecommendRequest(user=user, history=more)) == [*STORED, 5, 6]
    between = RecommendRequest(user=user, history=more, times=[150, 250])
    assert sequence_of(recommender, between) == [3, 5, 9, 6, 3, 7]
    rejected = RecommendRequest(user=user, history=more, skipped=[models.item_id(8)])
    assert sequence_of(recommender, rejected) == [*STORED, 5, 6, 8]
    weighted = RecommendRequest(history=[*more, "unknown"], weights=[0.0, 2.0, 1.0])
    assert sequence_of(recommender, weighted) == [6]


_RECORDED: tuple[tuple[int, EventKind, float], ...] = ((11, "play", 350.0), (12, "skip", 500.0), (7, "play", 400.0))


def test_recorded_events_are_between_the_stored_order_and_the_request(recommender: Recommender) -> None:
    user = first_user(recommender)
    recorded = [Event(f"{number:032x}", "", models.item_id(number), kind, at) for number, kind, at in _RECORDED]
    request = RecommendRequest(user=user, history=[models.item_id(5)])
    resolved = recommender.resolve([request], recent=RecentEvents([recorded]))
    assert resolved.batch.sequences is not None
    assert resolved.batch.sequences.items[0].tolist() == [3, 9, 3, 11, 7, 12, 5]
    assert resolved.batch.sequences.skipped[0].tolist() == [False, False, True, False, False, True, False]


def test_a_stored_order_without_times_is_older_than_any_event(ordered: Path, tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact", *with_order(open_artifact(ordered / "plain"), has_times=False))
    recommender = models.opened(tmp_path / "artifact", ordered / "key")
    request = RecommendRequest(user=first_user(recommender), history=[models.item_id(5)], times=[1])
    assert sequence_of(recommender, request) == [*STORED, 5]


def test_artifacts_without_an_order_ignore_it(ordered: Path) -> None:
    recommender = models.opened(ordered / "plain", ordered / "key")
    request = RecommendRequest(history=[models.item_id(5)], times=[1])
    assert recommender.resolve([request]).batch.sequences is None
    (one,), (other,) = (recommender.recommend([each]) for each in (request, RecommendRequest(history=request.history)))
    assert not isinstance(one, InvalidRequestError)
    assert not isinstance(other, InvalidRequestError)
    assert one.items == other.items


def test_the_order_of_a_history_changes_the_answer(recommender: Recommender) -> None:
    three, seven = models.item_id(3), models.item_id(7)
    best = []
    for history in ([three, seven], [seven, three]):
        (answer,) = recommender.recommend([RecommendRequest(history=history)])
        assert not isinstance(answer, InvalidRequestError)
        best.append(answer.items[0])
    assert best == [models.item_id(60), models.item_id(50)]


def test_times_decide_the_order_and_a_repeated_item_adds_up(recommender: Recommender) -> None:
    three, seven = models.item_id(3), models.item_id(7)
    request = RecommendRequest(history=[three, seven, three], times=[30, 20, 10])
    batch = recommender.resolve([request]).batch
    scores = recommender.scorer.score_base_models(batch, {})["transitions"][0]
    np.testing.assert_allclose(scores[[50, 60]], [1 + 0.25, 0.5])


def test_what_is_a_session(recommender: Recommender) -> None:
    item = models.item_id(3)
    requests = [
        RecommendRequest(history=[item]),
        RecommendRequest(history=[item], times=[5], weights=[2]),
        RecommendRequest(history=[item], weights=[2]),  # a taste: counts, and no times
        RecommendRequest(user=first_user(recommender), diversity=0.1),
        RecommendRequest(),
        RecommendRequest(history=["unknown"], skipped=[item]),
    ]
    batch = recommender.resolve(requests, arm="a").batch
    segments = recommender.scorer._ensembles["a"].segments(batch)
    assert (segments == 3).tolist() == [True, True, False, False, False, False]


def test_reasons_of_transitions_add_up(recommender: Recommender) -> None:
    history = [models.item_id(number) for number in (9, 3, 7)]
    (answer,) = recommender.recommend([RecommendRequest(history=history, explain=True, k=2)])
    assert not isinstance(answer, InvalidRequestError)
    for score, reasons in zip(answer.scores.tolist(), answer.reasons, strict=True):
        assert sum(reason.amount for reason in reasons) == pytest.approx(score, rel=1e-4)
    causes = {
        item: {reason.id for reason in reasons} for item, reasons in zip(answer.items, answer.reasons, strict=True)
    }
    assert causes == {models.item_id(60): {history[2]}, models.item_id(50): {history[0], history[1]}}


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1.0], "expected seconds since 1970, .* got 1 for 2 ids"),
        ([1.0, float("nan")], r"invalid times\[1\]: .* got nan"),
        ([float("inf"), 1.0], r"invalid times\[0\]: .* got inf"),
        ([-5.0, 1.0], r"invalid times\[0\]: .* got -5"),
        ([1.0, 1.7e12], r"invalid times\[1\]: .* in the past, .* milliseconds"),
        ([1.0, NOW_S + 90_000], r"invalid times\[1\]: .* in the past"),
    ],
)
def test_bad_times_are_refused(recommender: Recommender, times: list[float], message: str) -> None:
    request = RecommendRequest(history=[models.item_id(1), models.item_id(2)], times=times, at_s=NOW_S)
    with pytest.raises(InvalidRequestError, match=message):
        request.check()
    (answer,) = recommender.recommend([request])
    assert isinstance(answer, InvalidRequestError)


def test_times_of_clocks_that_are_fast_are_taken(recommender: Recommender) -> None:
    request = RecommendRequest(history=[models.item_id(1)], times=[NOW_S + 600], at_s=NOW_S)
    batch = recommender.resolve([request]).batch
    assert batch.sequences is not None
    assert batch.sequences.ages[0].tolist() == [0]


# --- a remote network of the order ------------------------------------------------------------------------------------


def test_a_remote_network_gets_the_items_that_it_knows(recommender: Recommender) -> None:
    remote = RemoteSequenceModel("taste_sequence", 10, models.N_ITEMS, "")
    histories = [[3, 50, 4], [50], [60, 9]]
    requests = [
        RecommendRequest(history=[models.item_id(n) for n in each], times=[NOW_S - 30] * len(each), at_s=NOW_S)
        for each in histories
    ]
    batch = recommender.resolve(requests).batch
    tensors = remote.inputs(batch).tensors
    assert {name: array.dtype.name for name, array in tensors.items()} == {
        "items": "int64",
        "ages": "float32",
        "skipped": "float32",
    }
    assert tensors["items"].tolist() == [[3, 4], [-1, -1], [9, -1]]
    assert tensors["ages"].tolist() == [[30, 30], [-1, -1], [30, -1]]
    assert remote.knows(batch).tolist() == [True, False, True]
    scores = remote.scores(batch, np.zeros((3, 10), np.float32))
    np.testing.assert_allclose(scores[:, :10], [[1] * 10, [0] * 10, [1] * 10], rtol=1e-6)
    assert not scores[:, 10:].any()


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("sequence.times", np.array([1.0, 2.0]), "sequence.times is float64"),
        ("sequence.times", np.array([-1.0, 2.0, 3.0, 4.0]), "sequence.times is float64"),
        ("sequence.times", np.array([1.0, np.nan, 3.0, 4.0]), "not finite"),
        ("sequence.times", np.array([1, 2, 3, 4]), "sequence.times is int64"),
        ("sequence.columns", np.array([3, 9, 3, 10**6], np.int32), "sequence names columns"),
    ],
)
def test_damaged_orders_are_refused(
    ordered: Path,
    tmp_path: Path,
    name: str,
    array: np.ndarray,
    message: str,  # type: ignore[type-arg]
) -> None:
    manifest, arrays = with_order(open_artifact(ordered / "plain"))
    write_artifact(tmp_path, manifest, {**arrays, name: array})
    with pytest.raises(ArtifactError, match=message):
        open_artifact(tmp_path)


def test_a_decay_out_of_range_is_refused(ordered: Path, tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact", *with_order(open_artifact(ordered / "plain"), decay=1.5))
    with pytest.raises(ArtifactError, match=r"has the decay 1\.5; expected 0 to 1"):
        models.opened(tmp_path / "artifact", ordered / "key")


def test_weights_for_sessions_are_optional_but_checked(ordered: Path, tmp_path: Path) -> None:
    write_artifact(tmp_path, *with_order(open_artifact(ordered / "plain")))
    path = tmp_path / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["ensembles"]["a"]["weights"]["session"] = {"ease": "much"}
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="for session; expected finite numbers"):
        open_artifact(tmp_path)
