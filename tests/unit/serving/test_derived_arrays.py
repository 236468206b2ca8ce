"""Arrays that are derived when an artifact is written: they change no answer, and damaged ones are refused."""

from __future__ import annotations

import gc
import json
import re
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from tests.support import recommender_artifacts as models

from tritone_serving.recommender import (
    ArtifactError,
    PlaylistRequest,
    Recommender,
    RecommendRequest,
    RecommendResponse,
    SearchRequest,
    TextRequest,
    open_artifact,
    write_artifact,
)
from tritone_serving.recommender.artifact import Array, rows_arrays, text_arrays
from tritone_serving.recommender.derived_validation import check_derived
from tritone_serving.recommender.rows import Rows
from tritone_serving.recommender.texts import Texts

N_TAGS = 12


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with every part: a sample of neighbours, tags, and a factorization."""
    folder = tmp_path_factory.mktemp("derived")
    artifact = open_artifact(models.make_artifact(folder / "plain", folder / "key"))
    rng = np.random.default_rng(0)
    by_item = Rows.from_csr(sparse.random(models.N_ITEMS, N_TAGS, 0.3, "csr", np.float32, rng))
    listeners = artifact.rows("listeners").to_csr(models.N_USERS).toarray()
    listeners[:, ::3] = 0  # a sample of two thirds of the users
    manifest = {**artifact.manifest, "base_models": json.loads(json.dumps(artifact.manifest["base_models"]))}
    for name in ("user_knn", "social"):
        manifest["base_models"][name]["drawn"] = 40
    manifest["base_models"]["factors"] = {"kind": "factorization", "unobserved": 0.1, "l2": 0.02}
    manifest["ensembles"]["a"]["weights"]["warm"]["factors"] = 0.5
    arrays = {
        **artifact.arrays,
        **rows_arrays("listeners", Rows.from_csr(sparse.csr_matrix(listeners))),
        **rows_arrays("tags.by_item", by_item),
        **rows_arrays("tags.by_tag", Rows.from_csr(sparse.csr_matrix(by_item.to_csr(N_TAGS).T))),
        **text_arrays("tags", [f"tag {number}" for number in range(N_TAGS)]),
        "factors.factors": rng.standard_normal((models.N_ITEMS, 8)).astype(np.float32),
    }
    write_artifact(folder / "artifact", manifest, arrays)
    return folder / "artifact"


@pytest.fixture
def artifact(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "artifact"))


def opened(folder: Path, whole: Path) -> Recommender:
    return models.opened(folder, whole.parent / "key")


def everything(recommender: Recommender) -> list[Any]:
    """Ask for everything that reads derived arrays."""
    answers: list[Any] = []
    for request in (
        RecommendRequest(user=models.user_id(3), k=20),
        RecommendRequest(history=["track-5", "track-50"], friends=[models.user_id(5)], k=20),
    ):
        [answer] = recommender.recommend([request])
        assert isinstance(answer, RecommendResponse)
        answers += [answer.items, answer.scores.tolist()]
    for query in ("Song 7", "sonk 11", "the ortchen", "track-9", "örtchen 8", "ong"):
        answers.append(recommender.catalogue.search(SearchRequest(query)))
    for text in ("tag 3", "song fourty", "ortchen"):
        found = recommender.catalogue.text_search.search(TextRequest(text))
        answers += [found.items, found.scores.tolist()]
    playlist = recommender.playlist(PlaylistRequest("track-3", "track-40", n=8))
    similar = recommender.catalogue.similar("track-3", by="listening")
    return [*answers, playlist.items, playlist.compared_by, similar, recommender.resolver.n_listeners.tolist()]


def without_derived(folder: Path) -> None:
    """Change an artifact into one of an earlier version."""
    path = folder / "recommender.json"
    manifest = json.loads(path.read_text())
    del manifest["derived"]
    path.write_text(json.dumps(manifest))
    for each in folder.glob("derived.*"):
        each.unlink()


def test_an_artifact_of_an_earlier_version_answers_the_same(artifact: Path, whole: Path) -> None:
    expected = everything(opened(whole, whole))
    without_derived(artifact)
    assert not open_artifact(artifact).derived
    assert everything(opened(artifact, whole)) == expected


def test_derived_arrays_of_another_version_are_not_read(artifact: Path, whole: Path) -> None:
    expected = everything(opened(whole, whole))
    path = artifact / "recommender.json"
    manifest = json.loads(path.read_text())
    manifest["derived"]["version"] = 99
    path.write_text(json.dumps(manifest))
    for each in artifact.glob("derived.*"):
        each.write_bytes(b"of another format")
    assert everything(opened(artifact, whole)) == expected


def test_texts_stay_in_the_mapped_files(whole: Path) -> None:
    recommender = opened(whole, whole)
    assert isinstance(recommender.item_ids, Texts)
    assert isinstance(recommender.catalogue.titles, Texts)
    parts = {name.split(".")[1] for name in recommender.artifact.derived}
    assert parts == {"items", "search", "words", "playlists", "sample", "rotated"}


def test_a_changed_artifact_derives_its_arrays_again(artifact: Path, whole: Path) -> None:
    before = open_artifact(artifact)
    names = [*list(before.texts("items"))[:-1], "another"]
    write_artifact(artifact, before.manifest, {**before.arrays, **text_arrays("items", names)})
    recommender = opened(artifact, whole)
    assert recommender.resolver.item("another") == models.N_ITEMS - 1
    assert recommender.resolver.item(f"track-{models.N_ITEMS - 1}") is None
    assert recommender.catalogue.search(SearchRequest("another")).found[0].item == "another"


def derived_names() -> list[str]:
    columns = ("keys", "key_ends", "order", "bigrams", "bigram_starts", "n_bigrams")
    words = ("spellings", "spelling_ends", "slots", "rarity", "tag_starts", "tags", "tag_parts", "0.starts", "1.items")
    return [
        "items.slots",
        "items.n_listeners",
        *(f"search.{field}.{column}" for field in ("id", "title", "artist") for column in columns),
        *(f"words.{name}" for name in words),
        "words.0.n_words",
        "playlists.vectors",
        "playlists.artists",
        "playlists.spaces",
        "sample.people",
        "sample.columns",
        "rotated.factors.factors",
        "rotated.factors.spectrum",
    ]


@pytest.mark.parametrize("name", derived_names())
def test_a_damaged_array_is_refused(artifact: Path, whole: Path, name: str) -> None:
    path = artifact / f"derived.{name}.npy"
    array = np.load(path)
    flat = array.reshape(-1)
    flat[len(flat) // 2] = np.nan if array.dtype.kind == "f" else 255 if array.dtype == np.uint8 else -5
    np.save(path, array)
    with pytest.raises(ArtifactError, match=re.escape(f"derived.{name.partition('.')[0]}")) as caught:
        opened(artifact, whole)
    assert "export again" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("items.n_listeners", lambda array: array - 1000, r"n_listeners holds .*; expected numbers of 0 or more"),
        ("search.id.order", lambda array: array + 1, r"order holds 1 to 120; expected numbers from 0 below 120"),
        ("search.id.order", lambda array: array[1:], r"of shape \(119,\); expected 120 integers"),
        ("sample.people", lambda array: array.astype(np.float32), r"expected a list of integers"),
    ],
)
def test_errors_name_the_expected_numbers(
    whole: Path, name: str, change: Callable[[Array], Array], message: str
) -> None:
    found = open_artifact(whole)
    derived = {**found.derived, f"derived.{name}": change(found.derived[f"derived.{name}"])}
    with pytest.raises(ValueError, match=message):
        check_derived(found.manifest, found.arrays, derived)


@pytest.mark.parametrize("name", derived_names())
def test_an_array_that_is_missing_or_of_another_size_is_refused(artifact: Path, whole: Path, name: str) -> None:
    path = artifact / f"derived.{name}.npy"
    array = np.load(path)
    np.save(path, array[: len(array) // 2])
    with pytest.raises(ArtifactError, match="export again"):
        opened(artifact, whole)
    path.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        opened(artifact, whole)
    manifest = json.loads((artifact / "recommender.json").read_text())
    del manifest["derived"]["arrays"][f"derived.{name}"]
    models.spoil_manifest(artifact, derived=manifest["derived"])
    with pytest.raises(ArtifactError, match="lacks"):
        opened(artifact, whole)


def test_an_index_of_other_ids_is_refused(artifact: Path, whole: Path) -> None:
    path = artifact / "derived.items.slots.npy"
    np.save(path, np.concatenate([np.load(path)[:-1][::-1], [-1]]).astype(np.int32))
    with pytest.raises(ArtifactError, match=r"derived.items: slots do not find text \d+ of 120"):
        opened(artifact, whole)


@pytest.mark.parametrize(
    "derived", [[], {"version": 1}, {"version": 1, "arrays": 3}, {"version": 1, "arrays": {"a": 1}}]
)
def test_a_manifest_that_makes_no_sense_is_refused(artifact: Path, whole: Path, derived: Any) -> None:
    models.spoil_manifest(artifact, derived=derived)
    with pytest.raises(ArtifactError, match="is damaged"):
        opened(artifact, whole)


# --- memory -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_process_allocates_little_for_an_opened_artifact(tmp_path: Path) -> None:
    """What is mapped is shared by all instances of the backend; tracemalloc counts what is not."""
    folder = models.make_artifact(tmp_path / "artifact", tmp_path / "key", n_users=400, n_items=3_000, n_neighbours=50)
    n_bytes = sum(path.stat().st_size for path in folder.iterdir())
    allocated = {}
    recommender = None
    for kind in ("once", "mapped", "computed"):  # once for what is imported and remembered whatever is opened
        if kind == "computed":
            without_derived(folder)
        del recommender
        gc.collect()
        tracemalloc.start()
        try:
            recommender = models.opened(folder, tmp_path / "key")
            _ = recommender.catalogue.track_search, recommender.catalogue.text_search, recommender.playlist_maker
            requests = [RecommendRequest(user=models.user_id(number), k=10) for number in range(50)]
            for request in requests:
                recommender.recommend([request])
            recommender.catalogue.search(SearchRequest("Song 77"))
            gc.collect()
            allocated[kind] = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert allocated["mapped"] < 0.08 * n_bytes, (allocated, n_bytes)
    assert allocated["computed"] > 3 * allocated["mapped"]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads the maps of this process from Linux")
def test_tables_are_read_page_by_page(artifact: Path, whole: Path) -> None:
    """The kernel's default would read megabytes around each page of an artifact larger than the memory."""
    recommender = opened(artifact, whole)
    found = {}
    name = ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if str(artifact) in line:
            name = Path(line.split()[-1]).name
        elif line.startswith("VmFlags:") and name:
            found[name], name = "rr" in line.split(), ""
    assert found["history.columns.npy"]
    assert found["ease.values.npy"]
    assert found["derived.items.slots.npy"]
    assert not found["vectors.npy"]  # read as a whole
    assert recommender.artifact.arrays["history.columns"].size
