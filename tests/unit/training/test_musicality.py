from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tritone.music.voices import grid_to_voices, voices_to_grid
from tritone_training.exceptions import DataError
from tritone_training.musicality import (
    describe,
    duplicate_rate,
    estimate_keys,
    frechet_distance,
    frechet_floor,
    histogram,
    interval_histogram,
    length_histogram,
    measure_attributes,
    memorisation,
    nearest_distances,
    note_table,
    overlap_area,
    relative_similarity,
    spans_to_frames,
)
from tritone_training.musicality.measures import polyphony_rate

C4 = 60
MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11)


def span(*notes: tuple[int, int, int], n_steps: int = 32) -> npt.NDArray[np.uint8]:
    """(1, n_steps, 88) from (step, MIDI pitch, length)."""
    frames = np.zeros((1, n_steps, 88), np.uint8)
    for step, pitch, length in notes:
        frames[0, step + 1 : step + length, pitch - 21] = 1
        frames[0, step, pitch - 21] = 2
    return frames


def scale(*, tonic: int = C4, length: int = 2) -> npt.NDArray[np.uint8]:
    return span(*((length * i, tonic + s, length) for i, s in enumerate((*MAJOR_SCALE, 12))))


def random_voices(n: int, seed: int = 0) -> npt.NDArray[np.int64]:
    random = np.random.default_rng(seed)
    voices = random.integers(0, 90, (n, 32, 4))
    return np.where(random.random(voices.shape) < 0.6, 1, voices)


def test_voices_become_the_grids_that_the_client_makes_of_them() -> None:
    voices = random_voices(50)
    np.testing.assert_array_equal(spans_to_frames(voices), np.stack([voices_to_grid(each) for each in voices]))
    with pytest.raises(DataError):
        spans_to_frames(voices[0])


def test_notes_and_their_lengths() -> None:
    frames = span((0, C4, 4), (4, C4, 28), (8, 40, 1))
    notes = note_table(frames)
    assert sorted(zip(notes.step, notes.pitch + 21, notes.length, strict=True)) == [(0, C4, 4), (4, C4, 28), (8, 40, 1)]
    own = note_table(grid_to_voices(frames[0])[None])
    assert sorted(zip(own.step, own.pitch + 21, own.length, own.voice, strict=True)) == [
        (0, C4, 4, 0),
        (4, C4, 28, 0),
        (8, 40, 1, 1),
    ]
    with pytest.raises(DataError):
        note_table(frames[0])


def test_a_hold_after_a_rest_is_no_note() -> None:
    voices = np.zeros((1, 32, 4), np.int64)
    voices[0, :, 1] = 1
    voices[0, 5, 0] = 41
    voices[0, 7:9, 0] = 1
    assert note_table(voices).length.tolist() == [1]
    assert (spans_to_frames(voices) > 0).sum() == 1


def test_the_measures_of_a_scale_in_one_bar_and_nothing_in_the_next() -> None:
    measures = describe(scale())
    assert measures["empty_bar_rate"] == 0.5
    assert measures["used_pitch_classes"] == 7
    assert measures["scale_consistency"] == 1
    assert measures["polyphony"] == 1
    assert measures["polyphony_rate"] == 0
    assert measures["note_length"] == 2
    assert measures["note_density"] == 1
    assert measures["pitch_range"] == 12
    shares = np.array([2, 1, 1, 1, 1, 1, 1]) / 8
    assert measures["pitch_class_entropy"] == pytest.approx(-(shares * np.log2(shares)).sum())


def test_the_measures_of_silence_are_numbers() -> None:
    measures = describe(np.zeros((3, 32, 88), np.uint8))
    assert measures.pop("empty_bar_rate") == 1
    assert set(measures.values()) == {0.0}


def test_chromatic_notes_and_chords() -> None:
    chromatic = span(*((i, C4 + i, 1) for i in range(12)))
    assert describe(chromatic)["scale_consistency"] == pytest.approx(7 / 12)
    chord = span(*((0, pitch, 16) for pitch in (48, 55, 64, 72)))
    assert describe(chord)["polyphony"] == 4
    assert polyphony_rate(chord) == 0.5
    assert polyphony_rate(chord, threshold=5) == 0


@pytest.mark.parametrize("shape", [(0, 32, 88), (2, 30, 88), (2, 32, 4), (32, 88)])
def test_what_cannot_be_measured_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError):
        describe(np.zeros(shape, np.uint8))


def test_rhythmic_complexity_follows_the_metrical_weights() -> None:
    on_bars = span((0, C4, 16), (16, C4, 16))
    quarters = span(*((4 * i, C4, 4) for i in range(8)))
    between = span(*((2 * i + 1, C4, 1) for i in range(16)))
    complexity = measure_attributes(np.concatenate([on_bars, quarters, between]))[:, 2]
    # Toussaint's weights of the quarters are 5, 3, 4, 3: 1 - (4 + 2 + 3 + 2) / 16.
    np.testing.assert_allclose(complexity, [0, 5 / 16, 1])
    with pytest.raises(DataError):
        measure_attributes(on_bars[:, :20])


def test_keys_of_scales_and_triads() -> None:
    spans = np.concatenate([scale(tonic=C4 + i) for i in range(12)])
    tonic, mode = estimate_keys(spans)
    assert tonic.tolist() == list(range(12))
    assert set(mode.tolist()) == {0}
    a_minor = span((0, 57, 8), (8, 60, 4), (12, 64, 4), (16, 68, 2), (18, 57, 14), (0, 45, 32))
    assert [int(each[0]) for each in estimate_keys(a_minor)] == [9, 1]
    silent = np.zeros((1, 32, 88), np.uint8)
    assert [int(each[0]) for each in estimate_keys(silent)] == [-1, -1]


def test_histograms_and_their_overlap() -> None:
    assert histogram(np.array([-30, 0, 0, 5]), lowest=-1, highest=2).tolist() == [0.25, 0.5, 0, 0.25]
    assert histogram(np.array([]), lowest=0, highest=1).tolist() == [0, 0]
    assert length_histogram(scale())[1] == 1
    voices = grid_to_voices(scale()[0])[None]
    intervals = interval_histogram(voices)
    assert intervals[12 + 2] == pytest.approx(5 / 7)
    assert intervals[12 + 1] == pytest.approx(2 / 7)
    assert overlap_area(np.array([0.5, 0.5, 0]), np.array([0, 0.5, 0.5])) == 0.5
    with pytest.raises(DataError):
        overlap_area(np.ones(2), np.ones(3))


def test_intervals_do_not_run_from_voice_to_voice_or_span_to_span() -> None:
    voices = np.ones((2, 32, 4), np.int64)
    voices[:, 0] = (60, 50, 40, 30)
    assert interval_histogram(voices).sum() == 0
    voices[1, 4, 2] = 39
    assert np.flatnonzero(interval_histogram(voices)).tolist() == [12 - 1]


def test_sets_of_one_kind_overlap_more_than_sets_of_two() -> None:
    random = np.random.default_rng(0)
    same = relative_similarity(random.normal(0, 1, 300), random.normal(0, 1, 300))
    other = relative_similarity(random.normal(5, 1, 300), random.normal(0, 1, 300))
    assert same["overlap_area"] > 0.9
    assert other["overlap_area"] < 0.3
    assert same["kl_divergence"] < 0.1 < other["kl_divergence"]
    assert relative_similarity(np.ones(5), np.ones(9)) == {"overlap_area": 1.0, "kl_divergence": 0.0}
    with pytest.raises(DataError):
        relative_similarity(np.ones(1), np.ones(9))


def test_the_frechet_distance_of_known_gaussians() -> None:
    random = np.random.default_rng(1)
    first = random.normal(size=(4000, 3))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first, first + np.array([3, 0, 4])) == pytest.approx(25)
    # Diagonal covariances: the sum of (s - s')**2.
    assert frechet_distance(first, 3 * (first - first.mean(0)) + first.mean(0)) == pytest.approx(
        4 * np.trace(np.cov(first, rowvar=False))
    )
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    second = random.normal(size=(4000, 3)) * np.array([1, 2, 3])
    assert frechet_distance(first @ turn, second @ turn) == pytest.approx(frechet_distance(first, second))
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first))
    with pytest.raises(DataError):
        frechet_distance(first, second[:, :2])


def test_the_floor_keeps_pieces_whole_and_shrinks_with_size() -> None:
    random = np.random.default_rng(2)
    centres = random.normal(size=(40, 4))
    groups = np.repeat(np.arange(40), 10)
    features = centres[groups] + 0.01 * random.normal(size=(400, 4))
    floor, n_each = frechet_floor(features, groups)
    assert n_each == 200
    split = frechet_distance(features[::2], features[1::2])  # both halves hold all pieces
    assert floor > 10 * split
    independent = random.normal(size=(4000, 4))
    assert frechet_floor(independent, np.arange(4000))[0] < floor
    with pytest.raises(DataError):
        frechet_floor(features, np.zeros(400))


def test_duplicates_are_counted_once_each() -> None:
    voices = random_voices(4)
    assert duplicate_rate(voices) == 0
    assert duplicate_rate(np.concatenate([voices, voices[:2], voices[:1]])) == pytest.approx(3 / 7)


def test_copies_are_found_in_any_key() -> None:
    reference = np.concatenate([scale(tonic=C4), span((0, 40, 8), (8, 47, 8), (16, 43, 16))])
    copy = scale(tonic=C4 - 5)
    changed = scale(tonic=C4 + 3)
    changed[0, 14] = 0
    changed[0, 14, 3] = 2
    unlike = span((1, 90, 1), (3, 80, 1))
    distances = nearest_distances(np.concatenate([copy, changed, unlike]), reference)
    np.testing.assert_allclose(distances, [0, 1 - 7 / 9, 1], atol=1e-6)
    assert nearest_distances(copy, reference, transpositions=(0,))[0] > 0.5
    silent = np.zeros((1, 32, 88), np.uint8)
    assert nearest_distances(silent, silent)[0] == 0
    assert nearest_distances(silent, reference)[0] == 1


def test_memorisation_relative_to_held_out_music() -> None:
    held_out = np.linspace(0.2, 0.8, 101)
    par = memorisation(held_out, held_out)
    assert par["nearer_share"] == pytest.approx(0.5)
    assert par["copy_rate"] == par["held_out_copy_rate"] == 0
    copies = memorisation(np.array([0.0, 0.05, 0.9, 0.9]), held_out)
    assert copies["copy_rate"] == 0.5
    assert copies["nearer_share"] == pytest.approx(0.5)
