"""Recorded events of a user, folded into the history at request time."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.support import recommender_artifacts as models

from tritone_serving.events import Event, EventKind
from tritone_serving.recommender import NOBODY, ArtifactError, Recommender, RecommendRequest, RecommendResponse
from tritone_serving.recommender.recent_events import LARGEST_WEIGHT, SESSION_S, EventWeighting, RecentEvents

NOW = 1_800_000_000.0
DAY_S = 86_400.0
WEIGHTING = EventWeighting(half_life_s=DAY_S, boost=2.0, skip=0.5)
INDEX = {"a": 0, "b": 1, "c": 2}


def event(
    track: str, kind: EventKind = "play", *, at: float = NOW, received: float = NOW, played_s: float | None = None
) -> Event:
    return Event("0" * 32, "1" * 32, track, kind, at, played_s, received=received)


def weights_of(*events: Event, weighting: EventWeighting = WEIGHTING) -> dict[int, float]:
    folded = weighting.fold(events, INDEX.get, now=NOW)
    return dict(zip(folded.items.tolist(), np.round(folded.weights, 6).tolist(), strict=True))


def test_a_new_play_weighs_more_than_an_old_one() -> None:
    assert weights_of(event("a")) == {0: 3.0}
    assert weights_of(event("a", at=NOW - DAY_S)) == {0: 2.0}
    assert weights_of(event("a", at=NOW - 100 * DAY_S)) == {0: 1.0}


def test_a_short_play_counts_in_part() -> None:
    assert weights_of(event("a", played_s=15)) == {0: 1.5}
    assert weights_of(event("a", played_s=200)) == {0: 3.0}


def test_a_skip_is_negative_and_fades() -> None:
    assert weights_of(event("b", "skip")) == {1: -1.5}
    assert weights_of(event("b", "skip", at=NOW - DAY_S)) == {1: -0.75}
    assert weights_of(event("b", "skip", at=NOW - 30 * DAY_S)) == {}


def test_a_dislike_outweighs_plays_and_does_not_fade() -> None:
    assert weights_of(event("a"), event("a", "dislike", at=NOW - 90 * DAY_S)) == {0: -1.5}


def test_the_newest_verdict_counts() -> None:
    like, dislike = event("c", "like"), event("c", "dislike")
    assert weights_of(dislike, like) == {2: 6.0}
    assert weights_of(like, dislike) == {2: -1.5}


def test_weights_are_bounded() -> None:
    assert weights_of(*[event("a")] * 50) == {0: LARGEST_WEIGHT}
    assert weights_of(*[event("a", "skip")] * 50) == {0: -LARGEST_WEIGHT}


def test_events_of_the_fit_count_by_their_recency_only() -> None:
    fitted = replace(WEIGHTING, through=NOW)
    assert weights_of(event("a"), weighting=fitted) == {0: 2.0}
    assert weights_of(event("a", at=NOW - 100 * DAY_S), weighting=fitted) == {}
    assert weights_of(event("b", "dislike", at=NOW - 100 * DAY_S), weighting=fitted) == {1: -1.5}


def test_unknown_items_are_left_out() -> None:
    folded = WEIGHTING.fold([event("z"), event("a", "skip")], INDEX.get, now=NOW)
    assert (folded.n_events, folded.order.tolist(), folded.is_rejection.tolist()) == (2, [0], [True])


def test_an_event_from_the_future_counts_as_new() -> None:
    assert weights_of(event("a", at=NOW + 60)) == {0: 3.0}


def test_events_are_added_to_a_history_in_order_of_items() -> None:
    folded = WEIGHTING.fold([event("c"), event("b", "dislike")], INDEX.get, now=NOW)
    items, weights = folded.add_to(np.array([1, 2]), np.array([4.0, 1.0], np.float32))
    assert (items.tolist(), weights.tolist()) == ([1, 2], [-1.5, 4.0])


def test_a_user_is_in_a_session_while_the_last_event_is_young() -> None:
    assert WEIGHTING.fold([event("a", at=NOW - 2 * SESSION_S), event("b", at=NOW - 60)], INDEX.get, now=NOW).is_session
    assert not WEIGHTING.fold([event("a", at=NOW - SESSION_S)], INDEX.get, now=NOW).is_session
    assert not WEIGHTING.fold([event("unknown")], INDEX.get, now=NOW).is_session


# --- answers --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = tmp_path_factory.mktemp("recent")
    return models.opened(models.make_artifact(folder / "a", folder / "key", n_listed=20), folder / "key")


def answer(
    recommender: Recommender, request: RecommendRequest, *events: Event, is_available: bool = True
) -> RecommendResponse:
    [response] = recommender.respond(recommender.resolve([request], recent=RecentEvents([events], is_available)))
    assert isinstance(response, RecommendResponse)
    return response


def new(kind: EventKind, track: str) -> Event:
    return event(track, kind, at=time.time(), received=time.time())


USER = RecommendRequest(user=models.user_id(3), k=10)


def test_without_events_the_list_of_training_is_the_answer(recommender: Recommender) -> None:
    [listed] = recommender.recommend([USER])
    assert answer(recommender, USER).items == listed.items


def test_a_play_changes_the_answer_and_is_not_recommended(recommender: Recommender) -> None:
    before = answer(recommender, USER)
    after = answer(recommender, USER, new("play", before.items[4]))
    assert before.items[4] not in after.items
    assert after.items != before.items
    assert (after.source, after.unknown.events) == ("user", False)
    assert after.n_consumed == before.n_consumed + 1


def test_a_play_raises_what_is_like_the_item(recommender: Recommender) -> None:
    every = replace(USER, k=110)
    before = answer(recommender, every, new("play", "track-unknown"))
    after = answer(recommender, every, new("play", before.items[2]))
    score_before, score_after = (dict(zip(each.items, each.scores, strict=True)) for each in (before, after))
    raised = sum(score_after[item] > score_before[item] for item in after.items)
    assert raised >= 10


@pytest.mark.parametrize("kind", ["skip", "dislike"])
def test_rejections_lower_what_is_like_the_item(recommender: Recommender, kind: EventKind) -> None:
    every = replace(USER, k=110)
    rejected = answer(recommender, every).items[0]
    after = answer(recommender, every, new(kind, rejected))
    played = answer(recommender, every, new("play", rejected))
    assert rejected not in after.items
    score_after, score_played = (dict(zip(each.items, each.scores, strict=True)) for each in (after, played))
    like_it = [
        each.item for each in recommender.catalogue.similar(rejected, by="listening", n=10) if each.item in score_after
    ]
    assert len(like_it) >= 5
    assert np.mean([score_after[item] - score_played[item] for item in like_it]) < 0


def test_a_new_user_with_events_is_known_by_them(recommender: Recommender) -> None:
    request = RecommendRequest(user="nobody-yet", k=5)
    assert answer(recommender, request).unknown.user
    after = answer(recommender, request, new("play", models.item_id(7)))
    assert (after.source, after.unknown.user, after.n_consumed) == ("user", False, 1)


def test_an_unavailable_store_is_reported_and_changes_nothing(recommender: Recommender) -> None:
    down = answer(recommender, USER, is_available=False)
    assert down.unknown.events
    assert down.items == answer(recommender, USER).items


def test_events_are_looked_up_only_for_callers_who_may_use_the_data(recommender: Recommender) -> None:
    resolver = recommender.resolver
    assert resolver.pseudonym_of(USER) is not None
    assert resolver.pseudonym_of(replace(USER, caller=NOBODY)) is None
    assert resolver.pseudonym_of(RecommendRequest()) is None


@pytest.mark.parametrize(
    "events",
    [
        [1],
        {"half_life_s": 0},
        {"half_life_s": -1.0},
        {"half_life_s": float("nan")},
        {"boost": -1},
        {"boost": "4"},
        {"through": 1e13},
    ],
)
def test_parameters_of_a_damaged_manifest_are_refused(tmp_path: Path, events: object) -> None:
    version = models.make_artifact(tmp_path / "a", tmp_path / "key")
    models.spoil_manifest(version, events=events)
    with pytest.raises(ArtifactError, match="events"):
        models.opened(version, tmp_path / "key")
