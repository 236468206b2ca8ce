"""Artifacts that can be parsed and make no sense are refused when they are opened, with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import recommender_artifacts as models

from tritone_serving.recommender import ArtifactError

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage")
    return models.make_artifact(folder / "artifact", folder / "key", n_taste=50, n_listed=5)


@pytest.fixture
def artifact(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "artifact"))


def refused(artifact: Path, whole: Path, says: str) -> None:
    with pytest.raises(ArtifactError, match=says) as caught:
        models.opened(artifact, whole.parent / "key")
    assert "export again" in str(caught.value)


@pytest.mark.parametrize("name", ["n_items", "n_users", "base_models", "ensembles", "key_check", "arrays", "weighting"])
@pytest.mark.parametrize("value", [None, [], -1, 1.5])
def test_entries_of_other_types(artifact: Path, whole: Path, name: str, value: object) -> None:
    models.spoil_manifest(artifact, **{name: value})
    refused(artifact, whole, f"recommender.json: is damaged .*{name}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(n_items=5), "expected 0 to 5"),
        (lambda m: m.update(n_users=5), "expected .5|expected 5"),
        (lambda m: m["arrays"].update(users={}), "array 'users' is {}; expected its shape and dtype"),
        (lambda m: m["arrays"].update(users={"shape": [60, 2]}), "expected its shape and dtype"),
        (lambda m: m["arrays"].pop("users"), "lacks users.npy"),
        (lambda m: m["arrays"].pop("history.columns"), "history lacks one of its"),
        (lambda m: m["base_models"].update(ease=None), "base model 'ease' is None"),
        (lambda m: m["base_models"]["ease"].update(scale=float("nan")), "has the scale nan"),
        (lambda m: m["base_models"]["ease"].update(damping=None), "base model 'ease' lacks or misnames"),
        (lambda m: m["base_models"]["taste_vae"].pop("n_known"), "has n_known None; expected 0 to 120"),
        (lambda m: m["ensembles"]["a"]["weights"].pop("warm"), "needs warm_from and weights for cold, short, warm"),
        (lambda m: m["ensembles"]["a"]["weights"]["warm"].update(ease=float("nan")), "expected finite numbers"),
        (lambda m: m["ensembles"]["a"].update(cold_items={"warm": {}}), "cold_items is"),
        (lambda m: m.update(social_neighbourhood=[1]), "social_neighbourhood is .1."),
        (lambda m: m.update(social_neighbourhood={"damping": None}), "expected damping from 0"),
        (lambda m: m.update(ab={"salt": "", "shares": {"a": 0}}), "not all 0"),
        (lambda m: m.update(ab={"salt": "", "shares": {"zz": 1}}), "shares name unknown arms zz"),
        (lambda m: m.update(ab={"salt": "", "shares": {"a": -1}}), "expected a number from 0"),
        (lambda m: m.update(ab=[]), "ab is ..; expected an object with salt and shares"),
        (lambda m: m.update(weighting={"power": "x", "skip": 1}), "expected power from 0 to 1"),
    ],
)
def test_manifests_that_make_no_sense(
    artifact: Path, whole: Path, change: Callable[[Manifest], Any], says: str
) -> None:
    path = artifact / "recommender.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    refused(artifact, whole, says)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("history.columns", 120, "history names columns from 0 to 120, expected 0 to 119"),
        ("friends.columns", 60, "friends names columns from . to 60, expected 0 to 59"),
        ("listening.columns", -5, "listening names columns from -5"),
        ("listeners.columns", 60, "listeners names columns"),
        ("lists.a.columns", 10**9, "lists.a names columns"),
        ("ease.columns", 10**9, "ease names columns"),
        ("ease.own_tags.columns", -1, "ease.own_tags names columns"),
        ("history.starts", 10**9, "history.starts does not divide"),
        ("items.ends", 0, "items.ends does not divide"),
        ("titles.ends", 10**9, "titles.ends does not divide"),
        ("items.ids", 255, "items.ids holds bytes that are not UTF-8"),
        ("popularity.shares", np.nan, "popularity.shares holds numbers that are not finite"),
        ("listening.values", np.inf, "listening.values holds numbers that are not finite"),
        ("user_knn.means", np.nan, "user_knn.means holds numbers that are not finite"),
        ("items.embeddings", np.nan, "items.embeddings holds numbers that are not finite"),
    ],
)
def test_arrays_that_hold_what_cannot_be(artifact: Path, whole: Path, name: str, value: float, says: str) -> None:
    array = np.load(artifact / f"{name}.npy")
    array[len(array) // 2] = value
    np.save(artifact / f"{name}.npy", array)
    refused(artifact, whole, says)


def test_an_artifact_of_nobody_can_be_opened(tmp_path: Path) -> None:
    models.make_artifact(tmp_path / "artifact", tmp_path / "key", n_users=2)
    from tritone_export import forget_in_checkpoint

    for number in (0, 1):
        forget_in_checkpoint(models.user_id(number), tmp_path, key=tmp_path / "key")
    models.opened(tmp_path / "artifact", tmp_path / "key").recommend([])
