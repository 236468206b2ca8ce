"""Arms that are added to a trained recommender when it is exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support import recommender_artifacts as models

from tritone_serving.recommender import RecommendRequest
from tritone_training.artifact_export import ArtifactExport
from tritone_training.exceptions import CheckpointError
from tritone_training.kinds.recommender.export import with_arms

WEIGHTS = {"warm": {"ease": 1.0}, "short": {"ease": 1.0}, "cold": {"popularity": 1.0}}
TEST: dict[str, Any] = {
    "salt": "spring",
    "shares": {"a": 1, "b": 3},
    "ensembles": {"b": {"warm_from": 3, "weights": WEIGHTS}},
}


def arm(**changes: Any) -> dict[str, Any]:
    return {"ensembles": {"b": {**TEST["ensembles"]["b"], **changes}}}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return models.make_artifact(tmp_path / "artifact", tmp_path / "key")


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def unpacked(exported: ArtifactExport, version: Path) -> Path:
    version.mkdir()
    for name, content in exported.files.items():
        (version / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return version


def test_three_of_four_users_get_the_new_arm(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    arms = with_arms(models.to_export(artifact, None), written(tmp_path / "ab.json", TEST))
    assert arms.card["ab"] == {"salt": "spring", "shares": {"a": 1, "b": 3}}
    assert set(arms.card["ensembles"]) == {"a", "b"}
    version = unpacked(arms, tmp_path / "version")
    recommender = models.opened(version, tmp_path / "key")
    answers = recommender.recommend([RecommendRequest(user=f"u{number}") for number in range(400)])
    drawn = [answer.arm for answer in answers]  # type: ignore[union-attr]
    assert 260 < drawn.count("b") < 340
    assert drawn.count("a") + drawn.count("b") == 400


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shares": {"a": 1, "c": 1}}, "shares name unknown arms c; there are: a, b"),
        ({"shares": {"a": 0}}, "expected a number above 0"),
        ({"shares": {"a": "half"}}, "expected a number above 0"),
        ({"shares": {}}, "expected a number above 0"),
        ({"salt": 7}, "salt is 7; expected text"),
        ({"ensembles": {"b": {"warm_from": 3, "weights": {"warm": {}}}}}, "arm 'b' needs warm_from and weights for"),
        ({"ensembles": {"b": {"weights": WEIGHTS}}}, "arm 'b' needs warm_from"),
        (
            {"ensembles": {"b": {"warm_from": 3, "weights": {**WEIGHTS, "warm": {"oracle": 1}}}}},
            "has weights for unknown base models oracle; there are: popularity, ease",
        ),
        ({"ensembles": {"b": {"warm_from": 3, "weights": {**WEIGHTS, "warm": {"ease": True}}}}}, "finite numbers"),
        ({"ensembles": []}, r"ensembles is \[\]; expected an object of arms"),
        ({"ensembles": None}, "ensembles is None; expected an object of arms"),
        ({"ensembles": "abc"}, "ensembles is 'abc'; expected an object of arms"),
        ({"ensembles": {"": TEST["ensembles"]["b"]}}, "an arm is named ''; expected 1 to 64 printable"),
        ({"ensembles": {"\ud800": TEST["ensembles"]["b"]}}, r"an arm is named '\\ud800'; expected 1 to 64 printable"),
        (arm(weights={**WEIGHTS, "warm": None}), "has the weights None for warm; expected an object of base models"),
        (arm(weights={**WEIGHTS, "warm": []}), r"has the weights \[\] for warm; expected an object of base models"),
        (arm(weights={**WEIGHTS, "warm": {"ease": 1e7}}), "expected finite numbers, at most 1e\\+06"),
        (arm(weights={**WEIGHTS, "warm": {"ease": 10**400}}), "expected finite numbers, at most 1e\\+06"),
        (arm(weights={**WEIGHTS, "warm": {"bias": 1}}), "weights for unknown base models bias"),
        ({"ensembles": {"{x}": {"warm_from": 1, "weights": {**WEIGHTS, "warm": 1}}}}, "arm '{x}' has the weights 1"),
        (arm(warm_from=True), "warm_from is True, expected 0 to 1000000"),
        (arm(warm_from=10**30), "expected 0 to 1000000"),
        (arm(cold_items="x"), "cold_items is 'x'"),
        (arm(cold_items=None), "cold_items is None"),
        (arm(cold_items={"warm": {}}), "cold_items is {'warm': {}}"),
        (arm(cold_items={**WEIGHTS, "warm": {"oracle": 1}}), "weights for unknown base models oracle"),
        (arm(minimum_weights=[1]), r"minimum_weights is \[1\]"),
        (arm(minimum_weights={"hot": {}}), "has minimum_weights for .'hot'.; expected cold, short, warm"),
        (arm(minimum_weights={"warm": {"sound": "loud"}}), "weights for unknown base models sound"),
        (arm(unherd={}), "holds .'unherd'.; expected cold_items, how, minimum_weights"),
        (arm(how="\ud800"), "how is .*; expected text"),
        ({"shares": {"a": 1e308, "b": 1e308}}, "expected a number above 0 to 1e\\+06"),
        ({"shares": {"a": 10**400}}, "expected a number above 0"),
        ({"shares": {"a": float("nan")}}, "expected a number above 0"),
        ({"salt": "\ud800"}, r"salt is '\\ud800'; expected text"),
        ({"more": 1}, "expected an object with salt, shares and ensembles"),
    ],
)
def test_what_cannot_be_served_is_refused(artifact: Path, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        with_arms(models.to_export(artifact, None), written(tmp_path / "ab.json", {**TEST, **change}))


def test_a_file_that_is_none(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the A/B test cannot be read"):
        with_arms(models.to_export(artifact, None), tmp_path / "none.json")


@pytest.mark.parametrize("content", ["[" * 100_000, '{"salt": "", "shares": {"a": 1' + "0" * 5000 + "}}", "[1]", ""])
def test_json_that_cannot_be_used(artifact: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "ab.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"cannot be read|expected an object with salt"):
        with_arms(models.to_export(artifact, None), tmp_path / "ab.json")


def test_an_arm_that_is_another_one_loses_what_was_worked_out_for_it(tmp_path: Path) -> None:
    artifact = models.make_artifact(tmp_path / "artifact", tmp_path / "key", n_listed=20)
    both = {**TEST, "shares": {"a": 1}, "ensembles": {"a": {"warm_from": 3, "weights": WEIGHTS}}}
    version = unpacked(with_arms(models.to_export(artifact, None), written(tmp_path / "ab.json", both)), tmp_path / "v")
    assert not list(version.glob("lists.a.*"))
    recommender = models.opened(version, tmp_path / "key")
    plain, explained = recommender.recommend(
        [RecommendRequest(user=models.user_id(1)), RecommendRequest(user=models.user_id(1), explain=True)]
    )
    assert plain.items == explained.items  # type: ignore[union-attr]
    beside = {**TEST, "shares": {"a": 1, "b": 1}}
    version = unpacked(
        with_arms(models.to_export(artifact, None), written(tmp_path / "ab.json", beside)), tmp_path / "w"
    )
    assert len(list(version.glob("lists.a.*"))) == 3
