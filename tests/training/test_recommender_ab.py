"""Arms that are added to a trained recommender when it is exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests import recommender_artifacts as models

from tritone_serving.recommender import Question
from tritone_training._exceptions import CheckpointError
from tritone_training.kinds.recommender.ab import with_arms

WEIGHTS = {"warm": {"ease": 1.0}, "short": {"ease": 1.0}, "cold": {"popularity": 1.0}}
TEST: dict[str, Any] = {
    "salt": "spring",
    "shares": {"a": 1, "b": 3},
    "ensembles": {"b": {"warm_from": 3, "weights": WEIGHTS}},
}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return models.make_artifact(tmp_path / "artifact", tmp_path / "key")


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_three_of_four_users_get_the_new_arm(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    arms = with_arms(models.to_export(artifact, None), written(tmp_path / "ab.json", TEST))
    assert arms.card["ab"] == {"salt": "spring", "shares": {"a": 1, "b": 3}}
    assert set(arms.card["ensembles"]) == {"a", "b"}
    version = tmp_path / "version"
    version.mkdir()
    for name, content in arms.files.items():
        (version / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    recommender = models.opened(version, tmp_path / "key")
    answers = recommender.answer([Question(user=f"u{number}") for number in range(400)])
    drawn = [answer.arm for answer in answers]  # type: ignore[union-attr]
    assert 260 < drawn.count("b") < 340
    assert drawn.count("a") + drawn.count("b") == 400


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shares": {"a": 1, "c": 1}}, "shares name the arms c, which are no ensembles; there are: a, b"),
        ({"shares": {"a": 0}}, "expected a number above 0"),
        ({"shares": {"a": "half"}}, "expected a number above 0"),
        ({"shares": {}}, "expected a number above 0"),
        ({"salt": 7}, "salt is 7; expected text"),
        ({"ensembles": {"b": {"warm_from": 3, "weights": {"warm": {}}}}}, "arm 'b' needs warm_from and weights for"),
        ({"ensembles": {"b": {"weights": WEIGHTS}}}, "arm 'b' needs warm_from"),
        (
            {"ensembles": {"b": {"warm_from": 3, "weights": {**WEIGHTS, "warm": {"oracle": 1}}}}},
            "weighs oracle, and there are no such members; there are: popularity, ease",
        ),
        ({"ensembles": {"b": {"warm_from": 3, "weights": {**WEIGHTS, "warm": {"ease": True}}}}}, "finite numbers"),
        ({"more": 1}, "expected an object with salt, shares and ensembles"),
    ],
)
def test_what_cannot_be_served_is_refused(artifact: Path, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        with_arms(models.to_export(artifact, None), written(tmp_path / "ab.json", {**TEST, **change}))


def test_a_file_that_is_none(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the A/B test cannot be read"):
        with_arms(models.to_export(artifact, None), tmp_path / "none.json")
