"""Playlists: order, smoothness, artists, continuation, and invalid requests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import recommender_artifacts as models

from tritone_serving.recommender import (
    InvalidRequestError,
    PlaylistRequest,
    PlaylistResponse,
    Recommender,
    RecommendRequest,
)
from tritone_serving.recommender.artifact import text_arrays
from tritone_serving.recommender.playlist_vectors import TrackVectors

START, END = models.item_id(3), models.item_id(40)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("key") / "key"


@pytest.fixture(scope="module")
def recommender(key_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """Items without artists, so that no playlist is restricted by them."""
    return opened(tmp_path_factory.mktemp("plain"), key_file, artists=None)


def opened(folder: Path, key_file: Path, **changes: Any) -> Recommender:
    """Open a recommender with other arrays; None removes one, and artists are given as texts."""
    artifact = models.opened(models.make_artifact(folder / "artifact", key_file), key_file).artifact
    arrays = dict(artifact.arrays)
    for name, value in changes.items():
        if name == "artists":
            for part in ("artists.ids", "artists.ends"):
                del arrays[part]
            arrays |= {} if value is None else text_arrays("artists", value)
        elif value is None:
            del arrays[name]
        else:
            arrays[name] = value
    from tritone_serving.recommender import write_artifact

    manifest = {name: each for name, each in artifact.manifest.items() if name not in ("arrays", "format")}
    write_artifact(folder / "changed", manifest, arrays)
    return models.opened(folder / "changed", key_file)


def steps(recommender: Recommender, items: tuple[str, ...]) -> np.ndarray[Any, Any]:
    vectors = TrackVectors.of(recommender.artifact, recommender.resolver.n_listeners).vectors
    rows = vectors[[recommender.resolver.item(item) for item in items]]
    return np.einsum("id,id->i", rows[1:], rows[:-1])


@pytest.mark.parametrize("n", [2, 3, 20, 60])
def test_a_path_has_its_ends_and_no_repeats(recommender: Recommender, n: int) -> None:
    found = recommender.playlist(PlaylistRequest(START, END, n))
    assert (found.items[0], found.items[-1], len(found.items)) == (START, END, n)
    assert len(set(found.items)) == n
    assert found.relaxed == ()
    assert found.similarities[0] == 0
    np.testing.assert_allclose(found.similarities[1:], steps(recommender, found.items), atol=1e-6)
    assert (found.by_taste, found.mood.source, found.compared_by) == (False, "none", ("listening", "sound"))


def test_a_path_is_smoother_than_chance_and_leads_to_its_end(recommender: Recommender) -> None:
    rng = np.random.default_rng(0)
    vectors = TrackVectors.of(recommender.artifact, recommender.resolver.n_listeners).vectors
    made, drawn, progress = [], [], []
    for _ in range(10):
        start, end = rng.choice(100, 2, replace=False).tolist()
        items = recommender.playlist(PlaylistRequest(models.item_id(start), models.item_id(end), 12)).items
        made.append(steps(recommender, items).mean())
        random = [start, *rng.permutation(np.setdiff1d(np.arange(100), [start, end]))[:10].tolist(), end]
        drawn.append(steps(recommender, tuple(map(models.item_id, random))).mean())
        towards = vectors[[recommender.resolver.item(item) for item in items]] @ (vectors[end] - vectors[start])
        progress.append(np.corrcoef(np.arange(12), towards)[0, 1])
    assert np.mean(made) > np.mean(drawn) + 0.2
    assert np.mean(progress) > 0.5


def test_a_mix_goes_on_without_repeats(recommender: Recommender) -> None:
    request = PlaylistRequest(START, n=20, artist_gap=0)
    heard = list(recommender.playlist(request).items)
    assert heard[0] == START
    while True:
        part = recommender.playlist(replace(request, after=heard))
        assert not set(part.items) & set(heard)
        heard += part.items
        if part.relaxed:
            break
        assert len(part.items) == 20
        assert part.similarities[0] != 0  # to the last of the earlier tracks
    assert part.relaxed == ("n",)
    known = TrackVectors.of(recommender.artifact, recommender.resolver.n_listeners).vectors.any(1)
    assert len(heard) == known.sum() == models.N_ITEMS


def test_the_seed_decides(recommender: Recommender) -> None:
    request = PlaylistRequest(START, n=20)
    first = recommender.playlist(replace(request, seed=1))
    assert first.items == recommender.playlist(replace(request, seed=1)).items
    assert first.items != recommender.playlist(replace(request, seed=2)).items


def test_diversity_makes_the_tracks_less_alike(key_file: Path, tmp_path: Path) -> None:
    around = np.random.default_rng(0).standard_normal((models.N_ITEMS, 3)).astype(np.float32)
    recommender = opened(tmp_path, key_file, artists=None, vectors=around, **{"items.embeddings": None})
    vectors = TrackVectors.of(recommender.artifact, recommender.resolver.n_listeners).vectors

    def alike(diversity: float) -> float:
        found = []
        for number in range(8):
            request = PlaylistRequest(models.item_id(number), n=15, diversity=diversity)
            rows = vectors[[recommender.resolver.item(item) for item in recommender.playlist(request).items]]
            found.append((rows @ rows.T)[np.triu_indices(15, 1)].mean())
        return float(np.mean(found))

    assert alike(1.0) < alike(0.3) - 0.02 < alike(0.0) - 0.04


def test_excluded_and_skipped_items_are_left_out(recommender: Recommender) -> None:
    plain = recommender.playlist(PlaylistRequest(START, n=10)).items
    listener = RecommendRequest(exclude=[plain[1], "nothing"], skipped=[plain[2]])
    found = recommender.playlist(PlaylistRequest(START, n=10, listener=listener))
    assert not {plain[1], plain[2]} & set(found.items)
    assert found.unknown.exclude == ("nothing",)


# --- artists ----------------------------------------------------------------------------------------------


def gap_of(items: tuple[str, ...], artists: list[str]) -> int:
    """The smallest number of tracks between two of the same artist."""
    names = [artists[int(item.removeprefix("track-"))] for item in items]
    return min(
        (b - a - 1 for a in range(len(names)) for b in range(a + 1, len(names)) if names[a] == names[b]), default=99
    )


@pytest.mark.parametrize(("gap", "expected"), [(None, 3), (0, 0), (5, 5)])
def test_artists_keep_their_distance(key_file: Path, tmp_path: Path, gap: int | None, expected: int) -> None:
    artists = [f"artist {number % 30}" for number in range(models.N_ITEMS)]
    recommender = opened(tmp_path, key_file, artists=artists)
    for request in (
        PlaylistRequest(models.item_id(0), models.item_id(7), 25, artist_gap=gap),
        PlaylistRequest(models.item_id(0), n=25, artist_gap=gap),
    ):
        found = recommender.playlist(request)
        assert found.artist_gap == expected
        assert gap_of(found.items, artists) >= expected
        assert found.relaxed == ()
    more = recommender.playlist(replace(request, after=found.items))
    assert gap_of((*found.items, *more.items), artists) >= expected


def test_with_one_artist_the_gap_is_given_up_and_it_is_said(key_file: Path, tmp_path: Path) -> None:
    recommender = opened(tmp_path, key_file, artists=["The same"] * models.N_ITEMS)
    for gap in (None, 4):
        found = recommender.playlist(PlaylistRequest(START, END, 20, artist_gap=gap))
        assert (found.artist_gap, found.relaxed, len(found.items)) == (0, ("artist_gap",), 20)


def test_a_gap_that_is_asked_for_is_kept_as_far_as_possible(key_file: Path, tmp_path: Path) -> None:
    artists = [f"artist {number % 3}" for number in range(models.N_ITEMS)]
    recommender = opened(tmp_path, key_file, artists=artists)
    assert recommender.playlist(PlaylistRequest(START, n=12)).artist_gap == 0  # too few artists by default
    asked = recommender.playlist(PlaylistRequest(START, n=12, artist_gap=2))
    assert (asked.artist_gap, asked.relaxed, gap_of(asked.items, artists)) == (2, (), 2)
    too_much = recommender.playlist(PlaylistRequest(START, n=12, artist_gap=6))
    assert too_much.relaxed == ("artist_gap",)
    assert too_much.artist_gap == gap_of(too_much.items, artists)


# --- taste and mood ---------------------------------------------------------------------------------------


def test_the_taste_of_a_listener_is_followed(recommender: Recommender) -> None:
    request = PlaylistRequest(START, n=15)
    listener = RecommendRequest(user=models.user_id(4))
    mine, plain = recommender.playlist(replace(request, listener=listener)), recommender.playlist(request)
    assert (mine.by_taste, plain.by_taste) == (True, False)
    resolved = recommender.resolve([listener])
    scores = recommender.score(resolved).ensemble[0]

    def liked(found: PlaylistResponse) -> float:
        return float(scores[[recommender.resolver.item(item) for item in found.items[1:]]].mean())

    assert liked(mine) > liked(plain)
    stranger = recommender.playlist(replace(request, listener=RecommendRequest(user="nobody")))
    assert (stranger.items, stranger.by_taste, stranger.unknown.user) == (plain.items, False, True)


def test_a_mood_is_followed(recommender: Recommender) -> None:
    moods = recommender.artifact.arrays["items.moods"]

    def strength(mood: Any) -> float:
        items = recommender.playlist(PlaylistRequest(START, n=20, listener=RecommendRequest(mood=mood))).items
        return float(moods[[recommender.resolver.item(item) for item in items[1:]], 5].mean())

    assert strength("power") > strength({"power": 0.1}) > strength({"sadness": 1.0})
    found = recommender.playlist(PlaylistRequest(START, listener=RecommendRequest(mood={"power": 0.5})))
    assert (found.mood.source, found.mood.strengths) == ("given", {"power": 0.5})


def test_a_mood_without_trained_emotions_is_ignored_and_reported(key_file: Path, tmp_path: Path) -> None:
    recommender = opened(tmp_path, key_file, **{"items.moods": None})
    plain = recommender.playlist(PlaylistRequest(START))
    found = recommender.playlist(PlaylistRequest(START, listener=RecommendRequest(mood="power")))
    assert found.items == plain.items
    assert (found.unknown.mood, found.mood.source, plain.unknown.mood) == (True, "none", False)


# --- spaces -----------------------------------------------------------------------------------------------


def test_playlists_use_what_is_known(key_file: Path, tmp_path: Path) -> None:
    only_sound = opened(tmp_path / "a", key_file, vectors=None)
    assert only_sound.playlist(PlaylistRequest(START)).compared_by == ("sound",)
    only_listening = opened(tmp_path / "b", key_file, **{"items.embeddings": None})
    assert only_listening.playlist(PlaylistRequest(START)).compared_by == ("listening",)
    nothing = opened(tmp_path / "c", key_file, **{"items.embeddings": None, "vectors": None})
    with pytest.raises(InvalidRequestError, match=r"^nothing is known by which to compare start 'track-3'"):
        nothing.playlist(PlaylistRequest(START))


def test_the_listening_of_few_users_is_not_disclosed(recommender: Recommender) -> None:
    few = np.zeros(models.N_ITEMS, np.int64)
    joint = TrackVectors.of(recommender.artifact, few)
    assert joint.spaces == ("sound",)


# --- invalid requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"start": "nothing"}, "item 'nothing' is not known"),
        ({"end": "nothing"}, "item 'nothing' is not known"),
        ({"start": ""}, "invalid start"),
        ({"end": START}, "invalid end: expected another item than start"),
        ({"n": 0}, "invalid n: expected a whole number from 1 to 200, got 0"),
        ({"n": 1, "end": END}, "invalid n: expected a whole number from 2 to 200 with an end, got 1"),
        ({"n": 10_000}, "invalid n"),
        ({"artist_gap": -1}, "invalid artist_gap"),
        ({"artist_gap": 101}, "invalid artist_gap"),
        ({"diversity": float("nan")}, "invalid diversity"),
        ({"diversity": 1.1}, "invalid diversity"),
        ({"seed": -1}, "invalid seed"),
        ({"end": END, "after": [models.item_id(5)]}, "end and after exclude each other"),
        ({"listener": RecommendRequest(mood="joy")}, "unknown mood"),
        ({"listener": RecommendRequest(mood={"joy": 1.0})}, "unknown mood"),
        ({"listener": RecommendRequest(mood={"power": float("nan")})}, "invalid mood"),
        ({"listener": RecommendRequest(mood={"power": -1.0})}, "invalid mood"),
        ({"listener": RecommendRequest(mood={"power": 0.0})}, "invalid mood"),
        ({"listener": RecommendRequest(mood={})}, "invalid mood"),
        ({"listener": RecommendRequest(mood=np.ones(8))}, "expected 9 strengths"),
        ({"listener": RecommendRequest(history=["nothing"])}, "none of the ids is known"),
    ],
)
def test_invalid_requests(recommender: Recommender, given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        recommender.playlist(PlaylistRequest(**{"start": START, **given}))


def test_one_track_is_the_start(recommender: Recommender) -> None:
    found = recommender.playlist(PlaylistRequest(START, n=1))
    assert (found.items, found.similarities.tolist(), found.relaxed) == ((START,), [0.0], ())


def test_a_catalogue_smaller_than_n(recommender: Recommender) -> None:
    found = recommender.playlist(PlaylistRequest(START, END, 200, artist_gap=0))
    assert (len(found.items), found.items[-1], found.relaxed) == (models.N_ITEMS, END, ("n",))


def test_unknown_ids_of_after_are_reported(recommender: Recommender) -> None:
    found = recommender.playlist(PlaylistRequest(START, n=5, after=["gone"]))
    assert found.unknown.exclude == ("gone",)
    assert START not in found.items
    assert len(found.items) == 5
