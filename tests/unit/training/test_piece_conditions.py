"""The conditions that training reads from pieces, by pieces whose conditions are plain."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tritone.music.grid import HELD, LOWEST_PITCH, N_PITCHES, STRUCK
from tritone.music.keys import estimate_keys
from tritone_training.data.piece_conditions import (
    CONDITIONS,
    MOST_VOICES,
    NEW,
    UNKNOWN,
    PieceConditions,
    conditions_of,
    degrees,
    density_edges,
    density_of,
    excerpt_of,
    key_of,
    n_voices_of,
    repeats_of,
    templates,
    unknown,
)
from tritone_training.data.scores import ScorePiece

Frames = npt.NDArray[np.uint8]
C_MAJOR = (60, 64, 67, 72, 60, 65, 69, 72, 67, 71, 74, 67, 60, 64, 67, 60)
A_MINOR = (57, 60, 64, 69, 57, 62, 65, 69, 64, 68, 71, 64, 57, 60, 64, 57)
BAR = 8  # frames
REACH = 10_000


def line(*pitches: int, length: int = 1) -> Frames:
    """A melody of notes of equal length; 0 for a rest."""
    frames = np.zeros((length * len(pitches), N_PITCHES), np.uint8)
    for number, pitch in enumerate(pitches):
        if pitch:
            frames[number * length : (number + 1) * length, pitch - LOWEST_PITCH] = HELD
            frames[number * length, pitch - LOWEST_PITCH] = STRUCK
    return frames


def bars(form: str, *, length: int = BAR) -> Frames:
    """A bar of its own for each letter; a dot is a silent one, a small letter differs by one note of eight."""
    rows = []
    for letter in form:
        if letter == ".":
            rows.append(line(*[0] * length))
            continue
        pitches = list(np.random.default_rng(ord(letter.upper())).permutation(range(40, 80))[:length])
        if letter.islower():
            pitches[3] = 90
        rows.append(line(*pitches))
    return np.concatenate(rows)


def piece(frames: Frames, *, style: str = "folk", meter: tuple[int, int] = (BAR, 0)) -> ScorePiece:
    return ScorePiece("a", frames, "train", style, meter)


# --- key ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("semitones", range(-6, 6))
def test_the_key_of_a_tune_moves_with_it(semitones: int) -> None:
    for mode, tune, tonic in ((0, C_MAJOR, 0), (1, A_MINOR, 9)):
        frames = line(*(pitch + semitones for pitch in tune), length=2)
        assert key_of(frames) == 1 + 12 * mode + (tonic + semitones) % 12
        whole = conditions_of(piece(line(*tune, length=2)), {}, reach=REACH)
        assert whole.transposed(semitones).key == key_of(frames)
        assert (whole.transposed(semitones).repeats == whole.repeats).all()


def test_unclear_and_silent_pieces_have_no_key() -> None:
    chromatic = line(*range(60, 72))
    for frames in (chromatic, np.zeros((8, N_PITCHES), np.uint8), line(60, 66)):
        assert key_of(frames) == UNKNOWN
        conditions = conditions_of(piece(frames), {}, reach=REACH)
        assert conditions.transposed(5) is conditions
        assert conditions.end == UNKNOWN  # there is no tonic to end on


def test_octaves_and_order_do_not_matter_for_the_key() -> None:
    frames = line(*C_MAJOR, length=2)
    assert key_of(np.roll(frames, 12, axis=1)) == key_of(frames) == key_of(frames[::-1]) == 1


@pytest.mark.parametrize("key", [1, 12, 13, 24])
def test_degrees_count_from_the_tonic(key: int) -> None:
    table = degrees()
    assert table.shape == (25, N_PITCHES)
    assert (table[UNKNOWN] == 24).all()
    mode, tonic = divmod(key - 1, 12)
    for octave in range(2, 7):
        assert table[key, 12 * octave + tonic - LOWEST_PITCH] == 12 * mode
        assert table[key, 12 * octave + tonic + 7 - LOWEST_PITCH] == 12 * mode + 7
    # A piece and its key moved alike have the same degrees.
    np.testing.assert_array_equal(np.roll(table[1 + 12 * mode], tonic)[tonic:], table[key][tonic:])


# --- the end --------------------------------------------------------------------------------------------------


def test_a_piece_ends_if_it_closes_with_a_cadence() -> None:
    closed = np.concatenate([line(*C_MAJOR, length=2), line(60, length=8)])
    assert conditions_of(piece(closed), {}, reach=REACH).end == len(closed)
    rests = np.concatenate([closed, line(0, 0, 0)])
    assert conditions_of(piece(rests), {}, reach=REACH).end == len(rests)
    for name, last in {
        "another note": line(62, length=4),
        "a weak beat": line(62, 60, length=2),
        "too short": line(60),
    }.items():
        frames = np.concatenate([line(*C_MAJOR, length=2), last])
        assert key_of(frames) == 1, name
        assert conditions_of(piece(frames), {}, reach=REACH).end == UNKNOWN, name
    sixth = closed.copy()
    sixth[-8:, 57 - LOWEST_PITCH] = sixth[-8:, 60 - LOWEST_PITCH]  # A below the C
    assert key_of(sixth) == 1
    assert conditions_of(piece(sixth), {}, reach=REACH).end == UNKNOWN


# --- excerpts -------------------------------------------------------------------------------------------------


def excerpts(source: ScorePiece, n: int = 40) -> list[tuple[ScorePiece, PieceConditions]]:
    found = (excerpt_of(source, {}, reach=REACH, random=np.random.default_rng(seed)) for seed in range(n))
    return [each for each in found if each is not None]


def closing(n_phrases: int) -> Frames:
    """Phrases of four bars of 4/4 that each end with a whole note on the tonic."""
    phrase = np.concatenate([line(*C_MAJOR, length=2), line(67, 65, 64, 62, length=4), line(60, length=16)])
    return np.tile(phrase, (n_phrases, 1))


def test_excerpts_are_whole_bars_that_end_with_a_cadence() -> None:
    found = excerpts(piece(closing(6), meter=(16, 0)))
    assert len(found) >= 35  # of 40: at times none of those tried ends with a phrase
    lengths = {len(part.frames) // 16 for part, _ in found}
    assert lengths == {4, 8, 12, 16, 20, 24}
    for part, conditions in found:
        assert part.meter == (16, 0)
        assert conditions.end == len(part.frames)
        assert conditions.key == 1


def test_an_excerpt_begins_at_a_bar_line_and_holds_its_last_chord_through_the_next_upbeat() -> None:
    source = piece(np.concatenate([line(67, length=4), closing(3)]), meter=(16, 12))
    for part, conditions in excerpts(source):
        assert part.frames[0, 60 - LOWEST_PITCH] == STRUCK
        assert (part.frames[-4:, 60 - LOWEST_PITCH] == HELD).all()
        assert conditions.end == len(part.frames)


@pytest.mark.parametrize(
    "source",
    [
        piece(closing(2), meter=(0, 0)),  # unknown bars
        piece(closing(1)[:48], meter=(16, 0)),  # too short
        piece(line(*range(60, 72), *range(60, 72), *range(60, 72), *range(60, 72), length=4), meter=(16, 0)),  # no key
    ],
)
def test_pieces_without_an_excerpt(source: ScorePiece) -> None:
    assert excerpts(source) == []


# --- density and voices ---------------------------------------------------------------------------------------


def test_density_is_a_third_of_the_pieces_of_the_same_style() -> None:
    def struck(n_notes: int, style: str) -> ScorePiece:
        return piece(line(*[60] * n_notes, *[0] * (30 - n_notes)), style=style)

    pieces = [struck(n, "folk") for n in range(1, 10)] + [struck(n, "dance") for n in range(11, 29, 2)]
    edges = density_edges(pieces)
    assert list(edges) == ["dance", "folk"]
    found = [conditions_of(each, edges, reach=REACH).density for each in pieces]
    assert found == 2 * [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert density_of(pieces[0].frames) == pytest.approx(1 / 30)
    assert conditions_of(struck(5, "unheard of"), edges, reach=REACH).density == UNKNOWN


def test_held_notes_are_no_density_but_voices() -> None:
    chord = np.maximum(line(60, length=8), line(64, length=8))
    assert density_of(chord) == 2 / 8
    assert n_voices_of(chord) == 2
    assert n_voices_of(np.zeros_like(chord)) == UNKNOWN


def test_voices_are_the_median_of_what_sounds_and_at_most_six() -> None:
    frames = np.zeros((10, N_PITCHES), np.uint8)
    frames[:5, 30:34] = STRUCK
    frames[5:7, 30] = STRUCK  # and three frames of silence
    assert n_voices_of(frames) == 4
    frames[:, 20:50] = STRUCK
    assert n_voices_of(frames) == MOST_VOICES


# --- repeated bars --------------------------------------------------------------------------------------------


def distances(form: str, *, reach: int = REACH, meter: int = BAR) -> list[int]:
    """How many bars back each bar's model is; the same in all its frames."""
    found = repeats_of(bars(form, length=meter), (meter, 0), reach=reach).reshape(len(form), meter)
    assert (found == found[:, :1]).all()
    return [int(row[0]) // meter if row[0] > 0 else int(row[0]) for row in found]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("AABA", [NEW, 1, NEW, 2]),
        ("ABAB", [NEW, NEW, 2, 2]),
        ("AAAA", [NEW, 1, 1, 1]),  # the nearest of several
        ("ABCD", [NEW] * 4),
        ("AaA", [NEW, NEW, 2]),  # seven notes of nine in common are fewer than 80 %
        (".A..A.", [NEW, NEW, NEW, NEW, 3, NEW]),  # silence repeats nothing
        ("A", [NEW]),
    ],
)
def test_a_bar_repeats_the_nearest_equal_one(form: str, expected: list[int]) -> None:
    assert distances(form) == expected


def test_similar_bars_are_repeats_and_equal_ones_are_preferred() -> None:
    assert distances("Aa", meter=12) == [NEW, 1]  # 11 notes of 13
    assert distances("AaA", meter=12) == [NEW, 1, 2]


def test_a_bar_beyond_the_reach_is_no_repeat() -> None:
    assert distances("ABCA", reach=3 * BAR) == [NEW, NEW, NEW, 3]
    assert distances("ABCA", reach=3 * BAR - 1) == [NEW] * 4


def test_bars_may_be_of_any_length() -> None:
    for length in (1, 5, 6, 12, 24):
        assert distances("ABA", meter=length) == [NEW, NEW, 2]


def test_an_upbeat_and_an_incomplete_last_bar() -> None:
    whole = bars("XAABA")
    upbeat = whole[BAR - 3 :]  # three frames of the first bar are left
    found = repeats_of(upbeat, (BAR, BAR - 3), reach=REACH)
    expected = [NEW] * 3 + [NEW] * BAR + [BAR] * BAR + [NEW] * BAR + [2 * BAR] * BAR
    assert found.tolist() == expected
    # Most of a last bar can repeat, less than half of one cannot.
    last = np.concatenate([line(60, 62, 64, 65, 67, 0, 0, 0), line(60, 62, 64, 65, 67)])
    assert repeats_of(last, (BAR, 0), reach=REACH).tolist() == [NEW] * BAR + [BAR] * 5
    short = np.concatenate([line(60, 62, 64, 0, 0, 0, 0, 0), line(60, 62, 64)])
    assert repeats_of(short, (BAR, 0), reach=REACH).tolist() == [NEW] * (BAR + 3)


def test_repeats_without_a_meter_are_unknown() -> None:
    assert repeats_of(bars("AA"), (0, 0), reach=REACH).tolist() == [UNKNOWN] * 16


def test_a_piece_shorter_than_its_bar_repeats_nothing() -> None:
    assert repeats_of(line(60, 62), (16, 0), reach=REACH).tolist() == [NEW] * 2
    assert repeats_of(line(60, 62), (16, 14), reach=REACH).tolist() == [NEW] * 2


# --- leaving conditions out -----------------------------------------------------------------------------------


def test_conditions_can_be_left_out_one_by_one() -> None:
    bar = np.concatenate([line(60, 64, 67, 72, 67, 65, 64, 62), line(60, length=8)])
    frames = np.concatenate([bar, bar])
    known = conditions_of(piece(frames, meter=(16, 0)), {"folk": [0.1, 0.2]}, reach=REACH)
    assert (known.key, known.density, known.n_voices, known.end) == (1, 3, 1, 32)
    assert known.repeats.tolist() == [NEW] * 16 + [16] * 16
    for name in CONDITIONS:
        left = known.without([name])
        for other in CONDITIONS:
            expected: Any = getattr(known, other) if other != name else 0
            assert np.all(getattr(left, other) == expected)
    everything, nothing = known.without(CONDITIONS), unknown(32)
    assert all(np.all(getattr(everything, name) == getattr(nothing, name)) for name in CONDITIONS)
    assert (known.repeats != 0).all()  # that of the piece is not changed


# --- templates ------------------------------------------------------------------------------------------------


def tune(form: str = "AABA" * 2, *, style: str = "folk", meter: tuple[int, int] = (16, 0)) -> ScorePiece:
    """A piece in C major with the given form."""
    rows = [line(*np.random.default_rng(ord(letter)).permutation(C_MAJOR).tolist()) for letter in form]
    return piece(np.concatenate(rows), style=style, meter=meter)


def templates_of(*pieces: ScorePiece) -> list[dict[str, Any]]:
    edges = density_edges(pieces)
    found = templates(pieces, [conditions_of(each, edges, reach=REACH) for each in pieces])
    json.dumps(found)  # they become a parameter of the model
    return found


def test_a_template_describes_a_piece_without_its_notes() -> None:
    (template,) = templates_of(tune("AABACCBA"))
    assert template == {
        "style": "folk",
        "bar": 16,
        "mode": 0,
        "density": template["density"],
        "n_voices": 1,
        "repeats": [0, 1, 0, 2, 0, 1, 4, 4],
    }
    assert template["density"] in (1, 2, 3)


def test_pieces_that_are_short_or_without_key_or_meter_give_no_template() -> None:
    assert not templates_of(tune("AABAAAB"))
    assert not templates_of(tune(meter=(0, 0)))
    assert not templates_of(piece(line(*(12 * list(range(60, 72)))), meter=(BAR, 0)))
    assert not templates_of(piece(np.zeros((16 * 16, N_PITCHES), np.uint8)))


def test_incomplete_bars_are_no_part_of_a_template() -> None:
    whole = tune("XAABACCBAX")
    cut = piece(whole.frames[12:-4], meter=(16, 12))  # an upbeat of four frames, and an incomplete bar at the end
    (template,) = templates_of(cut)
    assert template["repeats"] == [0, 1, 0, 2, 0, 1, 4, 4]


def test_at_most_sixty_templates_of_a_style_are_kept() -> None:
    found = templates_of(*[tune() for _ in range(130)], *[tune(style="dance") for _ in range(3)])
    assert [each["style"] for each in found].count("folk") == 60
    assert [each["style"] for each in found].count("dance") == 3


def test_equal_pieces_have_equal_conditions() -> None:
    a, b = (conditions_of(tune(), {}, reach=REACH) for _ in range(2))
    assert isinstance(a, PieceConditions)
    assert (a.key, a.density, a.n_voices, a.end) == (b.key, b.density, b.n_voices, b.end)
    np.testing.assert_array_equal(a.repeats, b.repeats)


def test_conditions_agree_with_the_key_that_clients_estimate() -> None:
    frames = line(*A_MINOR, length=2)
    tonic, mode = estimate_keys(frames[None])
    assert key_of(frames) == 1 + 12 * int(mode[0]) + int(tonic[0])
