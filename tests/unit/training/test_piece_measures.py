"""Measures of tiny scores whose values can be computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tritone.music.endings import ending_of, is_strong
from tritone.music.grid import Grid
from tritone.music.keys import PROFILES
from tritone_training.musicality.piece_measures import ENDING_MEASURES, MEASURES, measure_ending, measure_piece
from tritone_training.musicality.structure import repeated_bars, repeated_phrases, self_similarity
from tritone_training.musicality.texture import (
    longest_silence,
    note_density,
    note_lengths,
    pitch_range,
    polyphony_of,
    repeated_notes,
    silent_bars,
    voice_leading,
)
from tritone_training.musicality.tonality import (
    diatonic_consistency,
    in_scale_share,
    key_clarity,
    key_drift,
    key_name,
    key_of,
    scale_consistency_of,
)

C4, D4, E4, F4, G4, A4, B4, C5 = 60, 62, 64, 65, 67, 69, 71, 72
C_MAJOR, A_MINOR = (0, 0), (9, 1)
Note = tuple[int, int, int]  # step, MIDI pitch, length in steps


def score(
    *notes: Note, n_steps: int = 32, meter: tuple[int, int] = (16, 0), signature: tuple[int, int] | None = None
) -> Grid:
    frames = np.zeros((n_steps, 88), np.uint8)
    for step, pitch, length in notes:
        frames[step + 1 : step + length, pitch - 21] = 1
        frames[step, pitch - 21] = 2
    return Grid(frames, meter=meter, time_signature=signature)


def melody(*pitches: int, length: int = 4, n_steps: int | None = None) -> Grid:
    notes = [(length * number, pitch, length) for number, pitch in enumerate(pitches)]
    return score(*notes, n_steps=n_steps or length * len(pitches))


def silence(n_steps: int = 32) -> Grid:
    return score(n_steps=n_steps)


# --- scale and key ------------------------------------------------------------------------------


def test_scale_consistency_is_the_share_of_notes_in_the_best_scale() -> None:
    scale = (C4, D4, E4, F4, G4, A4, B4, C5)
    assert scale_consistency_of(melody(*scale)) == diatonic_consistency(melody(*scale)) == 1.0
    assert scale_consistency_of(melody(*scale, 61, 63)) == pytest.approx(8 / 10)
    assert scale_consistency_of(melody(*range(60, 72))) == pytest.approx(7 / 12)


def test_harmonic_minor_counts_only_in_the_variant_with_harmonic_minor() -> None:
    a_minor = melody(57, 59, 60, 62, 64, 65, 68, 69)  # with G sharp
    assert scale_consistency_of(a_minor) == 1.0
    assert diatonic_consistency(a_minor) == pytest.approx(7 / 8)
    assert in_scale_share(a_minor, A_MINOR) == 1.0
    assert in_scale_share(a_minor, C_MAJOR) == pytest.approx(7 / 8)
    assert in_scale_share(melody(57, 59, 60, 62, 64, 65, 67, 69), A_MINOR) == 1.0  # natural minor


def test_key_clarity_is_the_correlation_with_the_profile_of_the_best_key() -> None:
    grid = score((0, C4, 12), (12, E4, 4), (16, G4, 8), (24, C5, 8))
    durations = np.zeros(12)
    durations[[0, 4, 7]] = 20, 4, 8
    assert key_clarity(grid) == pytest.approx(float(np.corrcoef(durations, PROFILES[0])[0, 1]))
    assert key_of(grid) == C_MAJOR
    assert key_name(C_MAJOR) == "C major"
    assert key_name((6, 1)) == "F# minor"


def test_key_drift_is_counted_in_fifths() -> None:
    c_major, d_major, a_minor = (C4, E4, G4, C4), (62, 66, 69, 62), (57, 60, 64, 57)
    filler = (C4, C4) * 4
    assert key_drift(melody(*c_major, *filler, *c_major)) == 0
    assert key_drift(melody(*c_major, *filler, *d_major)) == 2
    assert key_drift(melody(*c_major, *filler, *a_minor)) == 0  # the same key signature
    f_sharp_major = (66, 70, 73, 66)
    assert key_drift(melody(*c_major, *filler, *f_sharp_major)) == 6
    assert math.isnan(key_drift(melody(*c_major, n_steps=64)))  # the last quarter is silent
    assert math.isnan(key_drift(score((0, C4, 1), n_steps=3)))  # shorter than four steps


# --- texture ------------------------------------------------------------------------------------


def test_range_density_and_polyphony() -> None:
    grid = score((0, C4, 8), (0, G4, 8), (8, C5, 8), n_steps=32)
    assert pitch_range(grid) == 12
    assert note_density(grid) == pytest.approx(3 / 8)  # notes in eight quarters
    assert polyphony_of(grid) == pytest.approx((8 * 2 + 8 * 1) / 16)  # the silent steps do not count


def test_silence() -> None:
    grid = score((4, C4, 20), (48, D4, 4), n_steps=64)
    assert silent_bars(grid) == pytest.approx(2 / 4)  # the second bar only holds a note
    assert longest_silence(grid) == pytest.approx(24 / 4)
    assert longest_silence(score((0, C4, 4), n_steps=32)) == 7.0
    assert longest_silence(score((0, C4, 32), n_steps=32)) == 0.0


def test_repeated_notes_strike_the_pitch_that_just_sounded() -> None:
    assert repeated_notes(melody(C4, C4, D4, C4)) == pytest.approx(1 / 4)
    assert repeated_notes(score((0, C4, 4), (5, C4, 4))) == 0.0  # after a rest


def test_note_lengths_are_counted_in_sixteenths() -> None:
    counts = note_lengths(score((0, C4, 4), (4, D4, 4), (8, E4, 1), (9, F4, 40), n_steps=64))
    assert {length: int(n) for length, n in enumerate(counts, 1) if n} == {1: 1, 4: 2, 32: 1}
    eighths = Grid(score((0, C4, 2), n_steps=8).frames, frames_per_quarter=2, meter=(8, 0))
    assert note_lengths(eighths)[3] == 1  # a quarter note


def two_voices(*chords: tuple[int, int]) -> Grid:
    notes = [(4 * at, pitch, 4) for at, chord in enumerate(chords) for pitch in chord]
    return score(*notes, n_steps=4 * len(chords))


def test_parallel_fifths_and_octaves_are_counted_per_100_chord_changes() -> None:
    assert voice_leading(two_voices((C4, G4), (D4, A4)))["parallels"] == 100.0  # fifths
    assert voice_leading(two_voices((C4, C5), (D4, C5 + 2)))["parallels"] == 100.0  # octaves
    assert voice_leading(two_voices((C4, G4 + 12), (D4, A4 + 12)))["parallels"] == 100.0  # twelfths
    assert voice_leading(two_voices((C4, E4), (D4, F4)))["parallels"] == 0.0  # thirds
    assert voice_leading(two_voices((C4, G4), (C4 - 5, D4)))["parallels"] == 100.0  # downwards
    assert voice_leading(two_voices((D4, A4), (C4 - 5, D4 + 12)))["parallels"] == 0.0  # contrary motion
    assert voice_leading(two_voices((C4, G4), (C4, G4)))["parallels"] != 100.0  # no voice moves
    three = two_voices((C4, G4), (D4, A4), (E4, G4), (F4, A4))
    assert voice_leading(three)["parallels"] == pytest.approx(100 / 3)


def test_oblique_motion_is_no_parallel() -> None:
    grid = score((0, C4, 8), (0, G4, 4), (4, A4, 4), n_steps=8)
    assert voice_leading(grid)["parallels"] == 0.0


def test_melodies_have_no_voice_leading() -> None:
    assert all(math.isnan(value) for value in voice_leading(melody(C4, D4, E4)).values())


def test_voices_cross_where_a_held_note_leaves_no_alternative() -> None:
    grid = score((0, C5, 8), (0, C4, 4), (4, 76, 4), n_steps=8)  # the lower voice leaps over the upper one
    assert voice_leading(grid)["voice_crossing"] == pytest.approx(4 / 8)
    assert voice_leading(two_voices((C4, G4), (D4, A4)))["voice_crossing"] == 0.0


# --- repetition ---------------------------------------------------------------------------------

A, B, C, D = ((0, C4, 8), (8, E4, 8)), ((0, D4, 16),), ((0, G4, 8), (8, D4, 8)), ((0, F4, 16),)
SILENT: tuple[Note, ...] = ()


def bars(*contents: tuple[Note, ...], upbeat: int = 0) -> Grid:
    notes = [
        (16 * bar + step - upbeat, pitch, length) for bar, each in enumerate(contents) for step, pitch, length in each
    ]
    return score(*notes, n_steps=16 * len(contents) - upbeat, meter=(16, upbeat))


def test_repeated_bars_strike_the_same_notes_as_an_earlier_bar() -> None:
    assert repeated_bars(bars(A, B, A, SILENT, SILENT)) == pytest.approx(1 / 3)
    assert repeated_bars(bars(A, A, A, A)) == pytest.approx(3 / 4)
    shorter = ((0, C4, 4), (8, E4, 2))
    assert repeated_bars(bars(A, shorter)) == pytest.approx(1 / 2)  # only the onsets count
    later = ((4, C4, 4), (8, E4, 8))
    assert repeated_bars(bars(A, later)) == 0.0


def test_bars_after_an_upbeat_are_compared_by_their_bar_lines() -> None:
    upbeat = ((12, G4, 4),)
    assert repeated_bars(bars(upbeat, A, B, A, upbeat=12)) == pytest.approx(1 / 4)


def test_repeated_phrases() -> None:
    assert repeated_phrases(bars(A, B, C, D, A, B, C, D)) == pytest.approx(1 / 5)  # ABCD BCDA CDAB DABC ABCD
    assert repeated_phrases(bars(A, B, C, D, A, B, C, A)) == 0.0
    assert math.isnan(repeated_phrases(bars(A, B, C, D)))


def test_self_similarity_is_the_mean_share_of_common_notes_at_each_distance() -> None:
    half = ((0, C4, 8), (8, F4, 8))  # shares one of three notes with A
    found = self_similarity(bars(A, A, half, A))
    assert found[:3] == pytest.approx([(1 + 1 / 3 + 1 / 3) / 3, (1 / 3 + 1) / 2, 1.0])
    assert np.isnan(found[3:]).all()
    assert np.isnan(self_similarity(bars(SILENT, SILENT))).all()


# --- endings ------------------------------------------------------------------------------------

TUNE = [(0, C4, 4), (4, E4, 4), (8, G4, 4), (12, E4, 4)]


def ending(*last: Note, n_steps: int = 32) -> Grid:
    return score(*TUNE, *last, n_steps=n_steps)


def test_a_melody_closes_with_a_long_tonic_on_a_strong_beat() -> None:
    assert ending_of(ending((16, C4, 8))).is_cadence
    assert ending_of(ending((16, D4, 8), (24, C4, 8))).is_cadence  # in the middle of the bar
    assert ending_of(ending((16, C4, 8), n_steps=64)).is_cadence  # silence follows
    assert not ending_of(ending((16, G4, 8))).on_tonic
    weak = ending_of(ending((16, E4, 4), (20, C4, 8)), C_MAJOR)
    assert (weak.on_tonic, weak.on_strong_beat, weak.is_long) == (True, False, True)
    short = ending_of(ending((16, C4, 2)), C_MAJOR)
    assert (short.on_tonic, short.on_strong_beat, short.is_long) == (True, True, False)


def test_repetitions_of_the_final_note_are_one_end() -> None:
    assert ending_of(ending((16, C4, 4), (20, C4, 4), (24, C4, 2), (26, C4, 2))).is_cadence
    assert not ending_of(ending((16, C4, 4), (21, C4, 4))).is_cadence  # not unbroken


@pytest.mark.parametrize(
    ("chord", "closes"),
    [
        ((48, 55, 64, 72), True),  # C G E C
        ((48, 55), True),  # an open fifth
        ((48, 55, 63), True),  # a minor triad
        ((52, 60, 67), False),  # first inversion
        ((43, 59, 62), False),  # the dominant
        ((48, 55, 64, 70), False),  # a dominant seventh
    ],
)
def test_a_final_chord_is_the_tonic_triad_in_root_position(chord: tuple[int, ...], closes: bool) -> None:
    grid = ending(*((16, pitch, 16) for pitch in chord))
    assert ending_of(grid, C_MAJOR).is_cadence == closes


def test_a_given_key_replaces_the_estimate() -> None:
    grid = ending((16, A4, 16))
    assert not ending_of(grid, C_MAJOR).on_tonic
    assert ending_of(grid, A_MINOR).on_tonic


def test_a_near_cadence_may_end_in_a_key_that_is_nearly_as_clear() -> None:
    ambiguous = score((0, C4, 8), (8, E4, 8), (16, A4, 16))
    assert key_of(ambiguous) == A_MINOR
    ends_on_c = score((0, A4, 16), (16, E4, 8), (24, C4, 8))  # the same durations but for order
    assert measure_ending(ends_on_c)["cadence"] == 0.0
    assert ending_of(ends_on_c, tolerance=1.0).on_tonic
    assert not ending_of(ends_on_c, tolerance=0.0).on_tonic


@pytest.mark.parametrize(
    ("meter", "signature", "strong"),
    [
        ((16, 0), (4, 4), [0, 8, 16]),
        ((16, 12), (4, 4), [4, 12, 20]),  # an upbeat of a quarter
        ((12, 0), (3, 4), [0, 12]),
        ((12, 0), (6, 8), [0, 6, 12]),
        ((18, 0), (9, 8), [0, 18]),
        ((8, 0), (2, 4), [0, 4, 8]),
        ((6, 0), (3, 8), [0, 6]),
        ((0, 0), None, [0, 8, 16]),
    ],
)
def test_strong_beats(meter: tuple[int, int], signature: tuple[int, int] | None, strong: list[int]) -> None:
    grid = score((0, C4, 1), n_steps=64, meter=meter, signature=signature)
    n_steps = strong[-1] + 1
    assert [step for step in range(n_steps) if is_strong(grid, step)] == strong


# --- bad input ----------------------------------------------------------------------------------


def test_a_piece_without_notes_has_only_the_measures_of_silence() -> None:
    values = measure_piece(silence())
    assert values.keys() == MEASURES.keys()
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    assert known == {
        "n_bars": 2,
        "empty": 1,
        "note_density": 0,
        "silent_bars": 1,
        "longest_silence": 8,
    }
    assert measure_ending(silence()) == dict.fromkeys(ENDING_MEASURES, 0.0)


def test_a_piece_with_a_single_note() -> None:
    values = measure_piece(score((0, C4, 4)))
    assert values["scale_consistency"] == 1.0
    assert values["pitch_range"] == 0
    assert values["repeated_bars"] == 0
    assert 0 < values["key_clarity"] < 1
    assert measure_ending(score((0, C4, 4)))["ends_long"] == 1.0


def test_a_piece_of_a_single_step() -> None:
    values = measure_piece(score((0, C4, 1), n_steps=1))
    assert values["n_bars"] == 1
    assert values["repeated_notes"] == 0
