"""Tracks that are added to a served recommender: recommended at once, without changing anything else."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import recommender_models
from tests.support.command_line import Ended
from tests.support.tones import tone_file
from tests.unit.export.fixture_kind import exportable, kind, small_network

from tritone.audio import iter_windows
from tritone.constants import EMBEDDING_SIZE
from tritone_export import RepositoryBusyError, RepositoryError, export_model, forget_user
from tritone_export import new_tracks as new_tracks_module
from tritone_export.new_tracks import add_tracks, open_newest
from tritone_export.repository import versions
from tritone_serving.recommender import Recommender, RecommendRequest, read_key
from tritone_serving.recommender.artifact import Artifact, open_artifact
from tritone_serving.recommender.artifact_writing import write_artifact
from tritone_serving.recommender.exceptions import ArtifactError
from tritone_serving.recommender.new_items import NewItem, with_items
from tritone_training.data.interactions.new_tracks import load_new_tracks
from tritone_training.exceptions import DataError

pytestmark = pytest.mark.slow
RunTritone = Callable[..., Ended]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    served = recommender_models.served("recommender")
    monkeypatch.setenv("XDG_STATE_HOME", str(recommender_models.state_folder()))
    return Path(shutil.copytree(served.repository, tmp_path / "models"))


def opened(artifact: Artifact) -> Recommender:
    return Recommender.open(artifact.folder, key=read_key(recommender_models.checkpoint() / "recommender.key"))


def jig(number: int, **changes: Any) -> NewItem:
    words = frozenset({"title: jig", "artist: major", "jig", "major", "never seen"})
    return replace(NewItem(f"new/{number}", f"jig no. {number}", "major", words), **changes)


def test_new_tracks_come_last_and_everything_else_is_unchanged(repository: Path) -> None:
    before = open_newest(repository, "recommender")
    done = add_tracks([jig(1), jig(2)], repository)
    after = open_newest(repository, "recommender")
    assert (done.version, done.before, done.n_items) == (2, 1, before.n_items + 2)
    assert done.items.added == ("new/1", "new/2")
    assert after.texts("items") == [*before.texts("items"), "new/1", "new/2"]
    assert after.texts("titles")[-2:] == ("jig no. 1", "jig no. 2")
    assert after.manifest["base_models"] == before.manifest["base_models"]
    assert after.manifest["ensembles"] == before.manifest["ensembles"]
    for name, array in before.arrays.items():
        if name.partition(".")[0] in ("history", "friends", "users", "listening", "user_knn", "ease", "vectors"):
            assert np.array_equal(after.arrays[name][: len(array)], array), name


def test_scores_of_other_tracks_are_the_same_and_new_tracks_are_found_by_tags(repository: Path) -> None:
    before = opened(open_newest(repository, "recommender"))
    add_tracks([jig(1)], repository)
    after = opened(open_newest(repository, "recommender"))
    history = [
        name for name, title in zip(before.item_ids, before.catalogue.titles or (), strict=True) if "jig" in title
    ][:5]
    requests = [RecommendRequest(history=history, k=before.artifact.n_items + 1)]
    one, two = (each.respond(each.resolve(requests))[0] for each in (before, after))
    assert not isinstance(one, Exception)
    assert not isinstance(two, Exception)
    assert "new/1" in two.items
    assert [item for item in two.items if item != "new/1"] == list(one.items)
    scores = dict(zip(two.items, two.scores.tolist(), strict=True))
    assert [scores[item] for item in one.items] == pytest.approx(one.scores.tolist(), abs=1e-5)
    assert scores["new/1"] > min(scores.values())


def test_rankings_of_stored_users_hold_what_scoring_would_give(repository: Path) -> None:
    artifact = open_newest(repository, "recommender")
    manifest = {name: value for name, value in artifact.manifest.items() if name != "arrays"}
    tables: Any = manifest["ensembles"]["a"]["cold_items"]
    for table in tables.values():  # as if new tracks had been found to be wanted
        table["tags"] = 3.0
    write_artifact(artifact.folder, manifest, artifact.arrays)
    add_tracks([jig(number) for number in range(3)], repository)
    add_tracks([jig(number, words=frozenset({"jig"})) for number in range(2, 5)], repository)
    recommender = opened(open_newest(repository, "recommender"))
    users = recommender_models.world().log.users[:40]
    requests = [RecommendRequest(user=user, k=50) for user in users]
    fresh = recommender.respond(recommender.resolve(requests, use_precomputed=False))
    listed = recommender.respond(recommender.resolve(requests))
    new = 0
    for one, two in zip(fresh, listed, strict=True):
        assert not isinstance(one, Exception)
        assert not isinstance(two, Exception)
        # Without taste_vae, which is remote, the other tracks' scores differ from the precomputed ones.
        mine, expected = (
            {item: score for item, score in zip(each.items, each.scores.tolist(), strict=True) if item[:4] == "new/"}
            for each in (two, one)
        )
        both = mine.keys() & expected.keys()
        new += len(both)
        assert {item: mine[item] for item in both} == pytest.approx({item: expected[item] for item in both}, abs=1e-5)
        assert list(two.scores) == sorted(two.scores, reverse=True)
    assert new > len(users), "few new tracks are in the rankings"


def test_the_same_tracks_again_change_nothing(repository: Path) -> None:
    add_tracks([jig(1)], repository)
    again = add_tracks([jig(1)], repository)
    assert again.version is None
    assert again.items.unchanged == ("new/1",)
    assert versions(repository / "recommender") == [1, 2]


def test_an_added_track_is_replaced_and_a_fitted_one_keeps_its_tags(repository: Path) -> None:
    add_tracks([jig(1)], repository)
    before = open_newest(repository, "recommender")
    fitted = before.texts("items")[0]
    mass = jig(1, title="mass no. 1", words=frozenset({"mass"}))
    done = add_tracks([mass, NewItem(fitted, "Another title", "", frozenset({"mass"}))], repository)
    after = open_newest(repository, "recommender")
    assert done.items.updated == ("new/1", fitted)
    assert done.items.texts_only == (fitted,)
    assert after.texts("titles")[0] == "Another title"
    assert after.texts("artists")[0] == before.texts("artists")[0]
    assert after.texts("titles")[-1] == "mass no. 1"
    tags = after.texts("tags")
    assert [tags[tag] for tag in after.rows("tags.by_item").row(after.n_items - 1)[0]] == ["mass"]
    assert np.array_equal(after.rows("tags.by_item").row(0)[0], before.rows("tags.by_item").row(0)[0])


def test_many_additions_end_like_one(repository: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(repository, tmp_path / "other"))
    for number in range(3):
        add_tracks([jig(number)], repository)
    add_tracks([jig(number) for number in range(3)], other)
    one, two = open_newest(repository, "recommender"), open_newest(other, "recommender")
    assert one.arrays.keys() == two.arrays.keys()
    for name, array in one.arrays.items():
        if name.endswith(".values") or array.dtype.kind == "f":
            assert np.allclose(array, two.arrays[name], atol=1e-6), name
        else:
            assert np.array_equal(array, two.arrays[name]), name


def test_a_dry_run_writes_nothing(repository: Path) -> None:
    done = add_tracks([jig(1)], repository, dry_run=True)
    assert done.items.added == ("new/1",)
    assert done.version is None
    assert versions(repository / "recommender") == [1]
    assert not list(repository.glob(".tracks-*"))


def test_the_card_counts_the_tracks_and_its_checksums_hold(repository: Path, run_tritone: RunTritone) -> None:
    add_tracks([jig(1)], repository)
    card = json.loads((repository / "recommender" / "2" / "model_card.json").read_text())
    assert (card["version"], card["n_items_added"]) == (2, 1)
    assert "recommender/2" not in run_tritone("lint", repository).stdout


def test_a_user_can_be_forgotten_afterwards(repository: Path) -> None:
    add_tracks([jig(1)], repository)
    user = recommender_models.world().log.users[3]
    assert forget_user(user, repository).versions == {"recommender": 3}
    artifact = open_newest(repository, "recommender")
    assert artifact.texts("items")[-1] == "new/1"
    add_tracks([jig(2)], repository)
    assert opened(open_newest(repository, "recommender")).resolver.user(user) == -1


def test_a_version_that_still_holds_a_forgotten_user_is_not_published(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = recommender_models.world().log.users[3]

    def forgotten_meanwhile(*args: Any, **kwargs: Any) -> Any:
        forget_user(user, repository, keep_old=True)
        return with_items(*args, **kwargs)

    monkeypatch.setattr(new_tracks_module, "with_items", forgotten_meanwhile)
    with pytest.raises(RepositoryBusyError, match="version 2 was published"):
        add_tracks([jig(1)], repository)
    assert opened(open_newest(repository, "recommender")).resolver.user(user) == -1


def test_two_at_once_lose_no_track(repository: Path) -> None:
    threads = [threading.Thread(target=add_tracks, args=([jig(number)], repository)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(open_newest(repository, "recommender").texts("items")[-4:]) == {f"new/{number}" for number in range(4)}


def test_without_a_recommender_the_error_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no model recommender"):
        add_tracks([jig(1)], tmp_path)
    (tmp_path / "recommender").mkdir()
    with pytest.raises(RepositoryError, match="no version of recommender"):
        add_tracks([jig(1)], tmp_path)


def test_arrays_of_unknown_purpose_are_refused(repository: Path) -> None:
    artifact = open_newest(repository, "recommender")
    arrays = {**artifact.arrays, "secret": np.zeros(artifact.n_items, np.float32)}
    manifest = {name: value for name, value in artifact.manifest.items() if name != "arrays"}
    write_artifact(artifact.folder, manifest, arrays)
    with pytest.raises(ArtifactError, match="does not know the array secret"):
        with_items(open_artifact(artifact.folder), [jig(1)])


def table(path: Path, *rows: str) -> Path:
    path.write_text("id,title,artist\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def test_the_command_adds_the_rows_of_a_table(repository: Path, tmp_path: Path, run_tritone: RunTritone) -> None:
    file = table(tmp_path / "new.csv", "new/1,jig no. 1,major", "new/2,reel no. 2,minor")
    result = run_tritone("tracks", "add", str(file), "--repository", str(repository), "--json")
    found = json.loads(result.stdout)
    assert result.status == 0
    assert found["added"] == ["new/1", "new/2"]
    assert found["version"] == 2
    assert found["n_words_known"] > 0
    again = run_tritone("tracks", "add", str(file), "--repository", str(repository))
    assert "2 unchanged" in again.stderr


def test_bad_rows_are_listed_and_the_others_added(repository: Path, tmp_path: Path, run_tritone: RunTritone) -> None:
    file = table(tmp_path / "new.csv", "new/1,a,b", ",no id,c", "new/1,twice,d", "new/2,e,f")
    result = run_tritone("tracks", "add", str(file), "--repository", str(repository), "--json")
    found = json.loads(result.stdout)
    assert result.status == 1
    assert found["added"] == ["new/1", "new/2"]
    assert [(each["row"], each["track"]) for each in found["problems"]] == [(2, ""), (3, "new/1")]
    assert open_newest(repository, "recommender").texts("titles")[-2:] == ("a", "e")


def test_tables_without_a_usable_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row can be used"):
        load_new_tracks(table(tmp_path / "new.csv", ",a,b"))
    with pytest.raises(DataError):
        load_new_tracks(tmp_path / "missing.csv")


def test_recordings_need_a_recommender_with_sound(repository: Path, tmp_path: Path, run_tritone: RunTritone) -> None:
    file = table(tmp_path / "new.csv", "new/1,a,b")
    result = run_tritone("tracks", "add", str(file), "--repository", str(repository), "--recordings", str(tmp_path))
    assert result.status == 1
    assert "was trained without recordings" in result.stderr


@pytest.fixture
def with_sound(repository: Path) -> Path:
    """The recommender as if the repository's genre_cnn had embedded its tracks."""
    export_model(exportable(), kind(), repository=repository)
    card = json.loads((repository / "genre_cnn" / "1" / "model_card.json").read_text())
    artifact = open_newest(repository, "recommender")
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((artifact.n_items, EMBEDDING_SIZE)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    sounds = {"items.embeddings": embeddings, "sound.centre": np.zeros(EMBEDDING_SIZE, np.float32)}
    manifest: dict[str, Any] = {name: value for name, value in artifact.manifest.items() if name != "arrays"}
    manifest["embedding_model"] = {"kind": "genre_cnn", "weights_sha256": card["weights_sha256"]}
    manifest["base_models"] = {**manifest["base_models"], "sound": {"kind": "sound", "scale": 0.1}}
    write_artifact(artifact.folder, manifest, {**artifact.arrays, **sounds})
    return repository


def test_recordings_are_embedded_by_the_genre_cnn_of_the_repository(
    with_sound: Path, tmp_path: Path, run_tritone: RunTritone
) -> None:
    audio = tmp_path / "audio" / "new"
    audio.mkdir(parents=True)
    (audio / "1.ogg").write_bytes(tone_file())
    (audio / "2.wav").write_bytes(b"no recording")
    file = table(tmp_path / "new.csv", "new/1,a,b", "new/2,c,d", "new/3,e,f")
    result = run_tritone(
        "tracks", "add", file, "--repository", with_sound, "--recordings", tmp_path / "audio", "--json"
    )
    found = json.loads(result.stdout)
    assert result.status == 1
    assert found["added"] == ["new/1", "new/2", "new/3"]
    assert [(each["row"], each["track"]) for each in found["problems"]] == [(2, "new/2")]
    artifact = open_newest(with_sound, "recommender")
    embeddings = artifact.arrays["items.embeddings"]
    assert np.linalg.norm(embeddings[-3]) == pytest.approx(1, abs=1e-5)
    assert not embeddings[-2:].any()
    windows = np.stack([window.samples for window in iter_windows(audio / "1.ogg")])
    with torch.inference_mode():
        mean = small_network()(torch.from_numpy(windows))[2].mean(0).numpy()
    expected = mean / np.linalg.norm(mean)
    assert embeddings[-3] == pytest.approx(expected, abs=1e-3)
    recommender = opened(artifact)
    assert recommender.catalogue.similar(embedding=expected, by="sound", n=1)[0].item == "new/1"


def test_another_genre_cnn_is_refused(with_sound: Path, tmp_path: Path, run_tritone: RunTritone) -> None:
    card = with_sound / "genre_cnn" / "1" / "model_card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "weights_sha256": "0" * 64}))
    file = table(tmp_path / "new.csv", "new/1,a,b")
    result = run_tritone("tracks", "add", file, "--repository", with_sound, "--recordings", tmp_path)
    assert result.status == 1
    assert "expected the genre_cnn that embedded the tracks" in result.stderr


def test_a_query_is_a_search(run_tritone: RunTritone) -> None:
    result = run_tritone("tracks", "reel", "--server", "127.0.0.1:1")
    assert result.status == 1
    assert "no connection" in result.stderr
