"""Moods: given ones as vectors, and those that are inferred from the last plays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import recommender_artifacts as models

from tritone_serving.recommender import (
    MOODS,
    ArtifactError,
    InvalidRequestError,
    Recommender,
    RecommendRequest,
    RecommendResponse,
    open_artifact,
)
from tritone_serving.recommender.ensemble import SEGMENTS
from tritone_serving.recommender.event_sequences import EventSequence
from tritone_serving.recommender.moods import AppliedMood, MoodInference, mood_vector

NOW_S = 1_700_000_000.0


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("key") / "key"


@pytest.fixture(scope="module")
def artifact(key_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recommender whose ensemble counts moods."""
    folder = models.make_artifact(tmp_path_factory.mktemp("moods") / "artifact", key_file)
    manifest = json.loads((folder / "recommender.json").read_text())
    manifest["base_models"]["mood"] = {"kind": "mood"}
    manifest["ensembles"]["a"]["minimum_weights"] = {key: {"mood": 5.0} for key in SEGMENTS}
    (folder / "recommender.json").write_text(json.dumps(manifest))
    return folder


def inferring(artifact: Path, key_file: Path, folder: Path, **described: Any) -> Recommender:
    shutil.copytree(artifact, folder)
    models.spoil_manifest(folder, inferred_mood=described)
    return models.opened(folder, key_file)


def ask(recommender: Recommender, **given: Any) -> RecommendResponse:
    [answer] = recommender.recommend([RecommendRequest(**given)])
    assert isinstance(answer, RecommendResponse), answer
    return answer


# --- given ------------------------------------------------------------------------------------------------


def test_a_name_is_the_mood_of_one_emotion(artifact: Path, key_file: Path) -> None:
    recommender = models.opened(artifact, key_file)
    by_name, by_strength = (ask(recommender, mood=mood, k=20) for mood in ("power", {"power": 1.0}))
    assert by_name.items == by_strength.items
    np.testing.assert_array_equal(by_name.scores, by_strength.scores)
    assert by_name.mood == AppliedMood("given", tuple(float(name == "power") for name in MOODS))
    moods = open_artifact(artifact).arrays["items.moods"]
    best = [recommender.resolver.item(item) for item in by_name.items[:5]]
    assert moods[best, MOODS.index("power")].mean() > 0.8


def test_a_mood_of_two_emotions_is_between_them(artifact: Path, key_file: Path) -> None:
    recommender = models.opened(artifact, key_file)
    moods = open_artifact(artifact).arrays["items.moods"]

    def mean(mood: Any, emotion: str) -> float:
        items = [recommender.resolver.item(item) for item in ask(recommender, mood=mood, k=10).items]
        return float(moods[items, MOODS.index(emotion)].mean())

    both = {"power": 1.0, "sadness": 1.0}
    assert mean("power", "power") > mean(both, "power") > mean("sadness", "power")
    assert mean("sadness", "sadness") > mean(both, "sadness") > mean("power", "sadness")


def test_the_strength_is_the_weight_of_the_mood(artifact: Path, key_file: Path) -> None:
    recommender = models.opened(artifact, key_file)
    history = list(recommender.item_ids[3:9])
    request = RecommendRequest(history=history, k=10)
    batch, _ = recommender.resolver.batch([request])
    weak, _ = recommender.resolver.batch([RecommendRequest(history=history, mood={"power": 0.5})])
    names = tuple(recommender.scorer.base_models)
    [ensemble] = list(recommender.scorer._ensembles.values())
    column = names.index("mood")
    assert ensemble.weights_of(names, weak).listened[0, column] == pytest.approx(2.5)
    assert ensemble.weights_of(names, batch).listened[0, column] == 0


@pytest.mark.parametrize(
    ("mood", "says"),
    [
        ("joy", "unknown mood"),
        ({"joy": 0.5}, "unknown mood"),
        ({"power": -0.1}, "expected a strength of power from 0 to 1, got -0.1"),
        ({"power": 1.01}, "expected a strength of power"),
        ({"power": float("nan")}, "expected a strength of power"),
        ({"power": "1"}, "expected a strength of power"),
        ({"power": None}, "expected a strength of power"),
        ({}, "at least one emotion"),
        ({"power": 0}, "at least one emotion"),
        (np.zeros(9), "at least one emotion"),
        (np.ones(3), "expected 9 strengths"),
        (np.full(9, np.inf), "expected a strength of amazement"),
    ],
)
def test_invalid_moods(mood: Any, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        mood_vector(mood)
    with pytest.raises(InvalidRequestError, match=says):
        RecommendRequest(mood=mood).check()


def test_vectors_are_at_most_of_length_1() -> None:
    assert np.linalg.norm(mood_vector(dict.fromkeys(MOODS, 1.0))) == pytest.approx(1)
    assert mood_vector({"power": 0.25}).tolist() == [0, 0, 0, 0, 0, 0.25, 0, 0, 0]


# --- inferred ---------------------------------------------------------------------------------------------


def events(*items: int, times: list[float] | None = None, skipped: list[bool] | None = None) -> EventSequence:
    n = len(items)
    return EventSequence(
        np.array(items, np.int64),
        np.zeros(n) if times is None else np.array(times),
        np.zeros(n, np.bool_) if skipped is None else np.array(skipped),
    )


MOODS_OF_ITEMS = np.zeros((4, 9), np.float32)
MOODS_OF_ITEMS[0, 4] = 2.0  # calm
MOODS_OF_ITEMS[1, 5] = 2.0  # powerful
MOODS_OF_ITEMS[2, 5] = 2.0
INFERENCE = MoodInference(strength=0.5, half_life=1.0, most=3, within_s=3_600)


def test_the_last_plays_count_most() -> None:
    mood = INFERENCE.infer(events(1, 1, 0), MOODS_OF_ITEMS, NOW_S)
    assert mood.source == "inferred"
    assert mood.strengths["calmness"] > mood.strengths["power"] > 0
    assert np.linalg.norm(mood.vector) == pytest.approx(1)
    assert mood.weight == 0.5


def test_plays_of_all_moods_give_a_weak_mood() -> None:
    balanced = MOODS_OF_ITEMS.copy()
    balanced[1] = -balanced[0]
    weak = MoodInference(strength=0.5, half_life=1e6).infer(events(0, 1, 0, 1, 0), balanced, NOW_S)
    assert 0 < np.linalg.norm(weak.vector) < 0.5


@pytest.mark.parametrize(
    "plays",
    [
        events(),
        events(3),  # of unknown mood
        events(0, skipped=[True]),
        events(0, times=[NOW_S - 7_200]),
    ],
)
def test_no_mood_is_inferred_without_recent_plays_of_known_mood(plays: EventSequence) -> None:
    assert INFERENCE.infer(plays, MOODS_OF_ITEMS, NOW_S) == AppliedMood()
    assert MoodInference().infer(events(0), MOODS_OF_ITEMS, NOW_S) == AppliedMood()  # strength 0


def test_only_the_latest_plays_count() -> None:
    mood = INFERENCE.infer(events(0, 0, 0, 1, 2, 1), MOODS_OF_ITEMS, NOW_S)
    assert mood.strengths == {"power": 1.0}
    older = events(0, 1, times=[NOW_S - 4_000, NOW_S - 60])
    assert INFERENCE.infer(older, MOODS_OF_ITEMS, NOW_S).strengths == {"power": 1.0}


def test_the_history_of_a_request_gives_a_mood_that_a_given_one_replaces(
    artifact: Path, key_file: Path, tmp_path: Path
) -> None:
    recommender = inferring(artifact, key_file, tmp_path / "a", strength=0.5, half_life=3, most=10, within_s=7200)
    history = list(recommender.item_ids[3:9])
    inferred = ask(recommender, history=history)
    assert inferred.mood.source == "inferred"
    assert inferred.source == "history"
    assert inferred.unknown == ask(models.opened(artifact, key_file), history=history).unknown
    assert ask(recommender, history=history, mood="power").mood.source == "given"
    assert ask(recommender).mood == AppliedMood()
    plain = ask(models.opened(artifact, key_file), history=history)
    assert plain.mood == AppliedMood()  # without the entry of the manifest nothing is inferred
    assert not np.array_equal(plain.scores, inferred.scores)
    reasons = ask(recommender, history=history, explain=True, k=3)
    for score, summands in zip(reasons.scores, reasons.reasons, strict=True):
        assert sum(each.amount for each in summands) == pytest.approx(float(score), abs=1e-4)


@pytest.mark.parametrize(
    "described",
    [
        {"strength": 9.0, "half_life": 3, "most": 10, "within_s": 60},
        {"strength": -0.5, "half_life": 3, "most": 10, "within_s": 60},
        {"strength": 0.5, "half_life": 0, "most": 10, "within_s": 60},
        {"strength": 0.5},
        {"strength": "much", "half_life": 3, "most": 10, "within_s": 60},
    ],
)
def test_a_damaged_entry_of_the_manifest_is_refused(
    artifact: Path, key_file: Path, tmp_path: Path, described: dict[str, Any]
) -> None:
    with pytest.raises(ArtifactError, match="inferred_mood"):
        inferring(artifact, key_file, tmp_path / "a", **described)
