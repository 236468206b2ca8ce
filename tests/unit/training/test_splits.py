from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.training import sounds

from tritone_training import DataError
from tritone_training.data.recordings import Recording, RecordingSet, assign_folds, held_out_split


def unread() -> sounds.Array:
    raise AssertionError("splitting reads no audio")


def recording(
    name: str, label: str, *, fold: int | None = None, artist: str | None = None, piece: str | None = None
) -> Recording:
    return Recording(name, label, unread, fold=fold, artist=artist, piece=piece)


def collection(*recordings: Recording) -> RecordingSet:
    return RecordingSet("test", recordings)


@st.composite
def collections(draw: st.DrawFn) -> RecordingSet:
    """2-4 labels, each with 5-12 artists or pieces of 1-6 recordings; some artists work in two labels."""
    made: list[Recording] = []
    n_labels = draw(st.integers(2, 4))
    known_as = draw(st.sampled_from(["artist", "piece"]))
    for label in range(n_labels):
        for group in range(draw(st.integers(5, 12))):
            shared = label > 0 and draw(st.integers(0, 9)) == 0
            name = f"g{0 if shared else label}-{group}"
            for _ in range(draw(st.integers(1, 6))):
                by = {"artist": name} if known_as == "artist" else {"piece": name}
                made.append(recording(f"r{len(made)}", f"label{label}", artist=by.get("artist"), piece=by.get("piece")))
    return collection(*made)


@settings(max_examples=40, deadline=None)
@given(data=collections(), n_folds=st.integers(2, 5), seed=st.integers(0, 2**32 - 1))
def test_folds_keep_groups_together_and_are_stratified(data: RecordingSet, n_folds: int, seed: int) -> None:
    assigned = assign_folds(data, n_folds=n_folds, seed=seed)
    assert [r.name for r in assigned.recordings] == [r.name for r in data.recordings]
    fold_of_group: dict[str, int | None] = {}
    for r in assigned.recordings:
        assert fold_of_group.setdefault(r.group, r.fold) == r.fold
    counts = Counter((r.fold, r.label) for r in assigned.recordings)
    totals = Counter(r.label for r in assigned.recordings)
    assert {fold for fold, _ in counts} == set(range(n_folds))
    for label in data.labels:  # no label is gathered in one fold, so each can be learned without any fold
        assert max(counts[fold, label] for fold in range(n_folds)) < totals[label]
    again = assign_folds(data, n_folds=n_folds, seed=seed)
    assert [r.fold for r in again.recordings] == [r.fold for r in assigned.recordings]


@settings(max_examples=40, deadline=None)
@given(data=collections(), n_parts=st.integers(2, 5), seed=st.integers(0, 1000))
def test_a_held_out_part_shares_no_group_with_the_rest(data: RecordingSet, n_parts: int, seed: int) -> None:
    rest, held_out = held_out_split(data.recordings, n_parts=n_parts, seed=seed)
    assert sorted(r.name for r in (*rest, *held_out)) == sorted(r.name for r in data.recordings)
    assert not {r.group for r in rest} & {r.group for r in held_out}
    assert held_out
    assert {r.label for r in rest} == set(data.labels)
    assert held_out_split(data.recordings, n_parts=n_parts, seed=seed) == (rest, held_out)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 30), min_size=2, max_size=3), min_size=2, max_size=4),
    seed=st.integers(0, 99),
)
def test_very_unequal_artists_still_leave_something_of_each_label_to_learn(sizes: list[list[int]], seed: int) -> None:
    made = [
        recording(f"{label}-{artist}-{index}", f"l{label}", artist=f"{label}-{artist}")
        for label, artists in enumerate(sizes)
        for artist, n in enumerate(artists)
        for index in range(n)
    ]
    rest, held_out = held_out_split(made, n_parts=2, seed=seed)
    assert held_out
    assert {r.label for r in rest} == {f"l{label}" for label in range(len(sizes))}


def test_seeds_differ() -> None:
    data = collection(*(recording(f"r{i}", "ab"[i % 2], artist=f"{i // 2}") for i in range(60)))
    assert len({tuple(r.fold for r in assign_folds(data, seed=seed).recordings) for seed in range(5)}) == 5


def test_folds_of_equal_recordings_are_of_equal_size() -> None:
    data = collection(*(recording(f"r{i}", "abc"[i % 3]) for i in range(120)))
    counts = Counter((r.fold, r.label) for r in assign_folds(data, n_folds=4).recordings)
    assert set(counts.values()) == {10}


def test_an_artist_is_one_however_the_name_is_written() -> None:
    names = ["Björk", "BJÖRK", "Bjo\u0308rk", "björk"]
    assert len({recording("x", "y", artist=name).group for name in names}) == 1


def test_the_artist_counts_before_the_piece_and_names_do_not_collide() -> None:
    assert recording("r", "l", artist="A", piece="P").group == recording("s", "l", artist="A", piece="Q").group
    assert recording("r", "l", piece="P").group == recording("s", "l", piece="P").group
    assert (
        len({recording("x", "l", artist="x").group, recording("x", "l", piece="x").group, recording("x", "l").group})
        == 3
    )


def test_given_folds_are_respected() -> None:
    data = collection(*(recording(f"r{i}", "ab"[i % 2], fold=7 + i // 4, artist=f"{i // 4}") for i in range(12)))
    assigned = assign_folds(data, n_folds=2)
    assert assigned.recordings == data.recordings
    assert assigned.report()["folds"] == "the data set's own"


def test_given_folds_that_divide_artists_are_reported() -> None:
    data = collection(*(recording(f"r{i}", "ab"[i % 2], fold=i % 3, artist=f"{i // 4}") for i in range(12)))
    assert "3 artists or pieces are in several" in assign_folds(data).report()["folds"]


def test_folds_in_some_rows_only_are_an_error() -> None:
    data = collection(recording("has.wav", "a", fold=0), recording("bare.wav", "b"))
    with pytest.raises(DataError, match=r"1 of 2 recordings have a fold and bare\.wav has none; expected a fold"):
        assign_folds(data)


def test_too_few_artists_are_an_error() -> None:
    plenty = [recording(f"a{i}", "rock", artist=f"{i}") for i in range(8)]
    few = [recording(f"b{i}", "pop", artist=f"p{i % 3}") for i in range(8)]
    with pytest.raises(DataError, match=r"label 'pop' has 3 artists .*; 4 folds .* need at least 4"):
        assign_folds(collection(*plenty, *few), n_folds=4)


def test_the_report_states_how_folds_were_assigned() -> None:
    known = [recording(f"a{i}", "ab"[i % 2], artist=f"{i}") for i in range(8)]
    bare = [recording(f"b{i}", "ab"[i % 2]) for i in range(8)]
    assert assign_folds(collection(*known)).report()["folds"] == "artist-disjoint (8 of 8 recordings name their artist)"
    assert assign_folds(collection(*bare)).report()["folds"] == "by recording: no artists are known"
