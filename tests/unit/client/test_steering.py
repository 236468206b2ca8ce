"""The conditions of compose, with models in memory; most tests run for both clients."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tests.unit.client.test_composing import melody
from tests.unit.client.writers import CONDITIONS, WRITING, FakeWriters, noise_columns

from tritone import Grid, InvalidInputError, ModelResponse, MusicClient, Piece
from tritone.model_cache import COMPOSER, STREAMER, CachedModel
from tritone.operations.steering import Template, templates_of
from tritone.operations.stream import PieceStream
from tritone.sampling import uniform_noise

FOLK: dict[str, Any] = {
    "style": "folk", "bar": 16, "mode": 0, "density": 3, "n_voices": 1, "repeats": [0, 1, 0, 2],
}  # fmt: skip
FOLK_MINOR = {**FOLK, "mode": 1, "density": 1, "repeats": [0, 0, 2, 2]}
WALTZ = {**FOLK, "bar": 12, "density": 2, "repeats": [0, 1, 1, 1]}
BACH: dict[str, Any] = {
    "style": "bach", "bar": 16, "mode": 1, "density": 2, "n_voices": 4, "repeats": [0, 0, 0, 0, 4, 0],
}  # fmt: skip
SCALARS = ("key", "density", "n_voices", "end")
C_MAJOR = (60, 64, 67, 72, 65, 69, 67, 71, 74, 67, 60, 64, 67, 60, 62, 60)


@pytest.fixture
def model() -> FakeWriters:
    return FakeWriters()


@pytest.fixture
def steered(model: FakeWriters) -> FakeWriters:
    """The same with templates."""
    model.parameters["templates"] = json.dumps([FOLK, FOLK_MINOR, WALTZ, BACH])
    return model


def tune(*pitches: int, length: int = 2) -> Grid:
    """One note after the other, in 4/4."""
    frames = np.zeros((length * len(pitches), 88), np.uint8)
    for number, pitch in enumerate(pitches):
        frames[number * length : (number + 1) * length, pitch - 21] = 1
        frames[number * length, pitch - 21] = 2
    return Grid(frames, meter=(16, 0))


def sent(model: FakeWriters, name: str = "music_transformer") -> dict[str, Any]:
    """The conditions of the last request: numbers, and `repeats` as a list."""
    inputs = model.asked(name)[-1].inputs
    return {**{name: int(inputs[name][0, 0]) for name in SCALARS}, "repeats": inputs["repeats"][0].tolist()}


def in_bars(repeats: list[int], length: int = 16) -> list[int]:
    """`repeats` of whole bars, as numbers of bars."""
    rows = np.array(repeats).reshape(-1, length)
    assert (rows == rows[:, :1]).all()
    return [int(row[0]) // length if row[0] > 0 else int(row[0]) for row in rows]


# --- bad input ------------------------------------------------------------------------------------------------

BAD: list[tuple[str, Any]] = [
    *(("key", key) for key in ("H", "", "C##", "C minor", " C", 12, -1, 1.5, True, b"C", [], np.array([1, 2]))),
    *(("mode", mode) for mode in ("dorian", "", "Major", 0, True, b"major", [], np.array(["major", "minor"]))),
    *(("density", density) for density in ("dense", "", "Low", 2, True, [], np.array(["low", "high"]))),
    *(("voices", voices) for voices in (0, 7, -1, 1.5, "4", True, [], np.array([1, 2]))),
    *(("structure", form) for form in ("", "aaba", "A A", "AB1", "ÄB", 65 * "A", ["A", "B"], 4, True, b"AB")),
    *(("ending", ending) for ending in (None, 1, "yes", [], np.array([True, False]))),
]


@pytest.mark.parametrize("method", ["compose", "stream_compose"])
@pytest.mark.parametrize(("argument", "value"), BAD, ids=str)
def test_invalid_conditions(connect: Any, steered: FakeWriters, method: str, argument: str, value: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()(method, bars=1, **{argument: value})
    assert caught.value.argument == argument
    assert not steered.requests


# --- what is asked --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "tonic"),
    [
        ("C", 0),
        ("c", 0),
        ("F#", 6),
        ("G♭", 6),
        ("Cb", 11),
        ("B#", 0),
        ("bb", 10),
        ("E♯", 5),
        (11, 11),
        (np.int64(3), 3),
    ],
)
@pytest.mark.parametrize("mode", ["major", "minor"])
def test_keys_and_modes(connect: Any, steered: FakeWriters, key: Any, tonic: int, mode: str) -> None:
    piece = connect()("compose", bars=2, seed=1, key=key, mode=mode)
    assert sent(steered)["key"] == 1 + 12 * ("major", "minor").index(mode) + tonic
    assert piece.conditions["key"] == ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")[tonic]
    assert piece.conditions["mode"] == mode


def test_everything_that_is_asked_reaches_the_model(connect: Any, steered: FakeWriters) -> None:
    asked = {"style": "bach", "key": "G", "mode": "minor", "density": "low", "voices": 3}
    piece = connect()("compose", bars=4, seed=1, structure="ABAC", ending=False, **asked)
    inputs = sent(steered)
    assert [inputs[name] for name in SCALARS] == [1 + 12 + 7, 1, 3, 0]
    assert in_bars(inputs["repeats"]) == [-1, -1, 2, -1]
    assert steered.asked("music_transformer")[0].inputs["style"].tolist() == [[1]]
    assert piece.conditions == {**asked, "ending": False}
    again = Piece.from_dict(json.loads(json.dumps(piece.to_dict())))
    assert again.conditions == piece.conditions


def test_what_is_left_open_is_that_of_one_template(connect: Any, steered: FakeWriters) -> None:
    ask, seen = connect(), set()
    for seed in range(60):
        piece = ask("compose", bars=4, seed=seed)
        inputs = sent(steered)
        found = (piece.conditions["style"], (inputs["key"] - 1) // 12, inputs["density"], inputs["n_voices"])
        template = {("folk", 0, 3, 1): FOLK, ("folk", 1, 1, 1): FOLK_MINOR, ("bach", 1, 2, 4): BACH}[found]
        assert inputs["end"] == 64
        assert in_bars(inputs["repeats"]) == [distance or -1 for distance in template["repeats"][:4]]
        assert piece.conditions["mode"] == ("major", "minor")[template["mode"]]
        assert piece.conditions["ending"] is True
        seen.add((piece.conditions["style"], piece.conditions["key"], piece.conditions["mode"]))
    assert {style for style, _, _ in seen} == {"bach", "folk"}
    assert len({key for _, key, _ in seen}) > 6
    assert {mode for style, _, mode in seen if style == "folk"} == {"major", "minor"}


def test_a_seed_has_its_conditions_streamed_or_not(connect: Any, steered: FakeWriters) -> None:
    first = connect()("compose", bars=8, seed=5)
    expected = sent(steered)
    assert connect()("compose", bars=8, seed=5).conditions == first.conditions
    assert sent(steered) == expected
    with MusicClient(transport=steered) as music, music.stream_compose(bars=8, seed=5) as stream:
        assert isinstance(stream, PieceStream)
        assert list(stream)
    assert sent(steered, "composer") == expected
    assert stream.result().conditions == first.conditions
    np.testing.assert_array_equal(stream.result().grid.frames, first.grid.frames)


def test_conditions_do_not_change_the_noise(connect: Any, steered: FakeWriters) -> None:
    piece = connect()("compose", bars=2, seed=7, key="D", voices=2)
    assert piece.grid.frames.argmax(axis=1).tolist() == noise_columns(7, 32)


def test_the_tempo_is_that_of_the_style_that_was_chosen(connect: Any, steered: FakeWriters) -> None:
    ask, seen = connect(), set()
    for seed in range(12):
        piece = ask("compose", bars=1, seed=seed)
        seen.add((piece.conditions["style"], piece.grid.tempo_qpm))
        assert ask("compose", bars=1, seed=seed, tempo_qpm=77).grid.tempo_qpm == 77
    assert seen == {("bach", 80.0), ("folk", 100.0)}
    with MusicClient(transport=steered) as music, music.stream_compose(bars=1, seed=0) as stream:
        assert list(stream)
    assert stream.result().grid.tempo_qpm == ask("compose", bars=1, seed=0).grid.tempo_qpm


def test_templates_are_those_that_fit(connect: Any, steered: FakeWriters) -> None:
    ask = connect()
    for seed in range(12):
        assert ask("compose", bars=1, seed=seed, style="bach").conditions["voices"] == 4
        assert ask("compose", bars=1, seed=seed, meter=(3, 4)).conditions["density"] == "medium"
        assert in_bars(sent(steered)["repeats"], 12) == [-1]
        assert ask("compose", bars=1, seed=seed, voices=4).conditions["style"] == "bach"
        assert ask("compose", bars=1, seed=seed, density="low").conditions["mode"] == "minor"
        # What no template meets is asked for all the same.
        high = ask("compose", bars=1, seed=seed, style="bach", mode="major", voices=5)
        assert high.conditions | {"key": ""} == {
            "style": "bach", "key": "", "mode": "major", "density": "medium", "voices": 5, "ending": True,
        }  # fmt: skip


def test_bars_that_templates_repeat_too_late_are_new(connect: Any, steered: FakeWriters) -> None:
    steered.parameters["max_repeat_frames"] = "16"
    connect()("compose", bars=4, seed=3, style="folk", mode="major", meter=(4, 4))
    assert in_bars(sent(steered)["repeats"]) == [-1, 1, -1, -1]


def test_long_pieces_have_several_parts(connect: Any, steered: FakeWriters) -> None:
    connect()("compose", bars=20, seed=3, style="folk", mode="major", meter=(4, 4))
    assert in_bars(sent(steered)["repeats"]) == 5 * [-1, 1, -1, 2]
    connect()("compose", bars=7, seed=3, style="bach")
    assert in_bars(sent(steered)["repeats"]) == [-1, -1, -1, -1, 4, -1, -1]


def test_a_model_without_templates_leaves_open_what_is_not_asked(connect: Any, model: FakeWriters) -> None:
    piece = connect()("compose", bars=2, seed=1)
    assert sent(model) == {"key": 0, "density": 0, "n_voices": 0, "end": 32, "repeats": 32 * [0]}
    assert piece.conditions == {
        "style": None, "key": None, "mode": None, "density": None, "voices": None, "ending": True,
    }  # fmt: skip
    connect()("compose", bars=2, seed=1, key="A", density="high", voices=2, ending=False)
    assert sent(model) == {"key": 10, "density": 3, "n_voices": 2, "end": 0, "repeats": 32 * [0]}


def test_a_mode_without_a_key_has_one_that_the_seed_chooses(connect: Any, model: FakeWriters) -> None:
    keys = [connect()("compose", bars=1, seed=seed, mode="minor").conditions for seed in range(12)]
    assert {each["mode"] for each in keys} == {"minor"}
    assert len({each["key"] for each in keys}) > 3
    assert connect()("compose", bars=1, seed=3, mode="minor").conditions == keys[3]


def test_a_style_of_the_model_without_templates(connect: Any, steered: FakeWriters) -> None:
    steered.parameters["templates"] = json.dumps([BACH])
    piece = connect()("compose", bars=1, seed=1, style="folk")
    assert piece.conditions["style"] == "folk"
    assert sent(steered)["n_voices"] == 0
    with pytest.raises(InvalidInputError) as caught:
        connect()("compose", bars=1, seed=1, style="jazz")
    assert caught.value.argument == "style"


# --- structure ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("structure", "bars", "expected"),
    [
        ("AABA", 4, [-1, 1, -1, 2]),
        ("AABA", 8, [-1, -1, 2, 2, -1, -1, 4, 4]),
        ("A", 3, [-1, -1, -1]),
        ("ABAB", 4, [-1, -1, 2, 2]),
        ("ABCA", 4, [-1, -1, -1, 3]),
        ("AAA", 3, [-1, 1, 1]),  # the latest of the same letter
        ("ZZ", 2, [-1, 1]),
    ],
)
def test_equal_letters_are_equal_bars(
    connect: Any, steered: FakeWriters, structure: str, bars: int, expected: list[int]
) -> None:
    connect()("compose", bars=bars, seed=1, structure=structure)
    assert in_bars(sent(steered)["repeats"]) == expected


@pytest.mark.parametrize(("structure", "bars"), [("AABA", 6), ("AABA", 2), ("AB", 1), (64 * "A", 63)])
def test_bars_that_do_not_divide_into_the_phrases(
    connect: Any, steered: FakeWriters, structure: str, bars: int
) -> None:
    with pytest.raises(InvalidInputError, match=rf"multiple of {len(structure)}, .*got {bars}") as caught:
        connect()("compose", bars=bars, structure=structure)
    assert caught.value.argument == "structure"
    assert not steered.asked("music_transformer")


def test_a_phrase_that_returns_later_than_the_model_can_repeat(connect: Any, steered: FakeWriters) -> None:
    steered.parameters["max_repeat_frames"] = "64"
    connect()("compose", bars=8, seed=1, structure="ABAB")  # four bars of 16 frames
    assert in_bars(sent(steered)["repeats"])[4:] == [4, 4, 4, 4]
    connect()("compose", bars=12, seed=1, structure="AABC")
    n_requests = len(steered.asked("music_transformer"))
    for structure, bars in (("ABAB", 12), ("ABCA", 8)):
        with pytest.raises(InvalidInputError, match="within 4 bars, got 6 bars from one 'A'") as caught:
            connect()("compose", bars=bars, structure=structure)
        assert caught.value.argument == "structure"
    assert len(steered.asked("music_transformer")) == n_requests
    with pytest.raises(InvalidInputError, match="within 5 bars, got 6"):
        connect()("compose", bars=12, structure="ABAB", meter=(3, 4))


@pytest.mark.parametrize(("n_frames", "n_before"), [(32, 32), (40, 48), (7, 16)])
def test_the_structure_is_that_of_the_new_bars(
    connect: Any, steered: FakeWriters, n_frames: int, n_before: int
) -> None:
    prompt = Grid(melody(3).frames[:n_frames], meter=(16, 0))
    connect()("compose", prompt=prompt, bars=4, seed=1, structure="ABAB")
    repeats = sent(steered)["repeats"]
    assert repeats[:n_before] == n_before * [0]
    assert in_bars(repeats[n_before:]) == [-1, -1, 2, 2]


def test_the_structure_of_a_waltz_counts_its_bars(connect: Any, steered: FakeWriters) -> None:
    connect()("compose", bars=2, seed=1, structure="AA", meter=(3, 4))
    assert in_bars(sent(steered)["repeats"], 12) == [-1, 1]


# --- given notes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("semitones", [0, 3, -2])
def test_a_continuation_keeps_the_key_and_the_voices_of_its_prompt(
    connect: Any, steered: FakeWriters, semitones: int
) -> None:
    prompt = tune(*(pitch + semitones for pitch in C_MAJOR))
    piece = connect()("compose", prompt=prompt, bars=2, seed=1)
    inputs = sent(steered)
    assert inputs["key"] == 1 + semitones % 12
    assert (inputs["n_voices"], inputs["density"], inputs["end"]) == (1, 0, 64)
    assert inputs["repeats"] == 64 * [0]
    assert piece.conditions["style"] is None
    assert (piece.conditions["mode"], piece.conditions["voices"]) == ("major", 1)


def test_a_continuation_in_another_key(connect: Any, steered: FakeWriters) -> None:
    connect()("compose", prompt=tune(*C_MAJOR), bars=1, seed=1, key="E", mode="minor", voices=4, density="low")
    assert [sent(steered)[name] for name in SCALARS] == [1 + 12 + 4, 1, 4, 48]
    connect()("compose", prompt=tune(*C_MAJOR), bars=1, seed=1, mode="minor")
    assert sent(steered)["key"] == 1 + 12


def test_two_pitch_classes_have_no_key(connect: Any, steered: FakeWriters) -> None:
    assert connect()("compose", prompt=tune(60, 67, 72, 79), bars=1, seed=1).conditions["key"] is None
    assert sent(steered)["key"] == 0
    connect()("compose", prompt=tune(60, 67, 64, 72), bars=1, seed=1)
    assert sent(steered)["key"] == 1


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"mode": "minor"}, 1 + 12),
        ({"mode": "major"}, 1),
        ({"key": "G"}, 1 + 7),
        ({"key": "C", "mode": "minor"}, 1 + 12),
    ],
)
def test_a_mode_or_a_key_for_two_pitch_classes(
    connect: Any, steered: FakeWriters, asked: dict[str, str], expected: int
) -> None:
    connect()("compose", prompt=tune(60, 67, 72, 60), bars=1, seed=1, **asked)
    assert sent(steered)["key"] == expected


def test_the_end_counts_from_what_the_model_reads(connect: Any, steered: FakeWriters) -> None:
    connect()("compose", prompt=melody(100), bars=2, seed=1, n_candidates=1)
    inputs = steered.asked("music_transformer")[-1].inputs
    assert inputs["end"] == inputs["given"].shape[1] == 512 + 32
    connect()("compose", prompt=melody(100), bars=2, seed=1, ending=False)
    assert sent(steered)["end"] == 0


def test_a_prompt_that_ends_in_silence_is_continued(connect: Any, steered: FakeWriters) -> None:
    frames = np.concatenate([tune(*C_MAJOR).frames, np.zeros((600, 88), np.uint8)])  # more than the model reads
    piece = connect()("compose", prompt=Grid(frames, meter=(16, 0)), bars=1, seed=1)
    assert piece.grid.n_frames == 632 + 8 + 16
    assert len(sent(steered)["repeats"]) == 512 + 8 + 16


def test_a_crowded_prompt_has_six_voices(connect: Any, steered: FakeWriters) -> None:
    frames = np.zeros((16, 88), np.uint8)
    frames[:, 30:38] = 2
    connect()("compose", prompt=Grid(frames, meter=(16, 0)), bars=1, seed=1)
    assert sent(steered)["n_voices"] == 6


def test_harmony_has_four_voices_in_the_fullest_style(connect: Any, steered: FakeWriters) -> None:
    piece = connect()("harmonize", tune(*C_MAJOR), seed=1, n_candidates=1)
    assert [sent(steered)[name] for name in SCALARS] == [1, 0, 4, 32]
    assert piece.conditions["style"] == "bach"
    assert steered.asked("music_transformer")[-1].inputs["style"].tolist() == [[1]]
    assert connect()("harmonize", tune(*C_MAJOR), seed=1, style="folk").conditions["style"] == "folk"


def test_harmony_without_templates_has_any_style(connect: Any, model: FakeWriters) -> None:
    assert connect()("harmonize", tune(*C_MAJOR), seed=1).conditions["style"] is None
    assert sent(model)["n_voices"] == 4


def test_infilled_bars_have_the_key_of_their_surroundings(connect: Any, steered: FakeWriters) -> None:
    score = Grid(np.concatenate([tune(*C_MAJOR).frames] * 20), meter=(16, 0))
    piece = connect()("infill", score, bars=(1, 3), seed=1)
    assert sent(steered)["key"] == 1
    assert sent(steered)["end"] == 0  # the model does not read the end of the piece
    assert piece.conditions["ending"] is False
    connect()("infill", score, bars=(38, 40), seed=1)
    inputs = steered.asked("music_transformer")[-1].inputs
    assert inputs["end"] == inputs["given"].shape[1]


def test_infilling_every_bar_is_composing(connect: Any, steered: FakeWriters) -> None:
    piece = connect()("infill", melody(4), bars=(0, 4), seed=1)
    assert piece.conditions["style"] in ("bach", "folk")
    assert sent(steered)["key"] > 0


def test_predictions_are_asked_for_nothing(connect: Any, steered: FakeWriters) -> None:
    connect()("predict", tune(*C_MAJOR), model="music_transformer")
    assert sent(steered) == {"key": 0, "density": 0, "n_voices": 0, "end": 0, "repeats": 32 * [0]}


# --- templates ------------------------------------------------------------------------------------------------


def known(templates: str, styles: str = '["any", "bach", "folk"]') -> CachedModel:
    parameters = {"templates": templates, "styles": styles}
    return CachedModel(ModelResponse("m", ("1",), {}, {}, 8, parameters), COMPOSER, "1")


def test_templates_are_parsed() -> None:
    found = templates_of(known(json.dumps([FOLK, BACH])))
    assert found == (
        Template("folk", 16, 0, 3, 1, (0, 1, 0, 2)),
        Template("bach", 16, 1, 2, 4, (0, 0, 0, 0, 4, 0)),
    )
    assert templates_of(known(json.dumps([FOLK]), styles="[]")) == found[:1]  # the model names no styles
    assert templates_of(CachedModel(ModelResponse("m", ("1",), {}, {}, 8, {}), COMPOSER, "1")) == ()


@pytest.mark.parametrize(
    "text", ["", "{", "null", "7", '"folk"', "{}", "[]", "[7, null, [], {}]", "[" * 100_000, "[NaN]", "\ud800"]
)
def test_other_texts_are_no_templates(text: str) -> None:
    assert templates_of(known(text)) == ()


@pytest.mark.parametrize(
    "wrong",
    [
        *({"style": style} for style in ("jazz", "", None, 1, ["folk"])),
        *({"bar": bar} for bar in (0, -16, 1.5, "16", None, True, [16])),
        *({"mode": mode} for mode in (2, -1, 0.0, "major", None, False)),
        *({"density": density} for density in (4, -1, 1.5, "low", None)),
        *({"n_voices": n_voices} for n_voices in (7, -1, 2.5, "4", None)),
        *(
            {"repeats": repeats}
            for repeats in ([], None, 4, "0102", {"0": 1}, [1], [0, 2], [0, -1], [0, 1.0], [0, None])
        ),
    ],
    ids=str,
)
def test_malformed_templates_are_left_out(wrong: dict[str, Any]) -> None:
    (found,) = templates_of(known(json.dumps([{**FOLK, **wrong}, BACH])))
    assert found.style == "bach"
    missing = {name: value for name, value in FOLK.items() if name not in wrong}
    assert len(templates_of(known(json.dumps([missing, BACH])))) == 1


def test_malformed_templates_do_not_stop_a_composition(connect: Any, model: FakeWriters) -> None:
    for text in ("{", json.dumps([{**FOLK, "bar": 0}])):
        model.parameters["templates"] = text
        assert connect()("compose", bars=1, seed=1).conditions["key"] is None


def test_templates_with_unknown_entries_are_used() -> None:
    assert len(templates_of(known(json.dumps([{**FOLK, "tempo": 120}])))) == 1


# --- models of earlier releases -------------------------------------------------------------------------------


@pytest.fixture
def old(model: FakeWriters) -> FakeWriters:
    """Models that take no conditions, as exported by earlier releases."""
    for name in ("music_transformer", "composer"):
        takes, answers, rule = model.models[name]
        model.models[name] = ({name: takes[name] for name in takes if name not in CONDITIONS}, answers, rule)
    return model


@pytest.mark.parametrize("method", ["compose", "stream_compose"])
@pytest.mark.parametrize(
    "asked", [{"key": "C"}, {"mode": "minor"}, {"density": "low"}, {"voices": 1}, {"structure": "AA"}], ids=str
)
def test_models_of_earlier_releases_cannot_be_steered(old: FakeWriters, method: str, asked: dict[str, Any]) -> None:
    with MusicClient(transport=old) as music, pytest.raises(InvalidInputError) as caught:
        getattr(music, method)(bars=2, **asked)
    assert caught.value.argument == next(iter(asked))
    assert caught.value.model == ("music_transformer" if method == "compose" else "composer")
    assert not old.asked("music_transformer")


def test_models_of_earlier_releases_compose_as_before(connect: Any, old: FakeWriters) -> None:
    for ending in (True, False):
        piece = connect()("compose", bars=2, seed=7, style="folk", ending=ending)
        assert piece.grid.frames.argmax(axis=1).tolist() == noise_columns(7, 32)
        assert not old.asked("music_transformer")[-1].inputs.keys() & set(CONDITIONS)
        assert piece.conditions == {
            "style": "folk", "key": None, "mode": None, "density": None, "voices": None, "ending": False,
        }  # fmt: skip
    assert connect()("harmonize", melody(1), seed=1).conditions["voices"] is None
    assert connect()("infill", melody(4), bars=(1, 2), seed=1).grid.n_bars == 4
    assert connect()("predict", melody(1), model="music_transformer").n_frames == 16
    with MusicClient(transport=old) as music, music.stream_compose(bars=2, seed=7) as stream:
        assert list(stream)
    assert stream.result().grid.frames.argmax(axis=1).tolist() == noise_columns(7, 32)


# --- samplers -------------------------------------------------------------------------------------------------

SAMPLER_NAME = "polyphony_rnn_sampler"


def test_a_sampler_is_asked_as_other_models_are(connect: Any, steered: FakeWriters) -> None:
    given: dict[str, Any] = {"bars": 8, "seed": 5, "key": "Eb", "mode": "minor", "density": "high", "voices": 2}
    piece = connect()("compose", **given, model="polyphony_rnn")
    inputs = steered.asked(SAMPLER_NAME)[-1].inputs
    other = connect()("compose", **given)
    expected = steered.asked("music_transformer")[0].inputs
    for name in ("meter", "style", *CONDITIONS):
        np.testing.assert_array_equal(inputs[name], expected[name], err_msg=name)
    assert inputs["prompt"].shape == (1, 1, 88)
    assert not inputs["prompt"].any()
    assert piece.conditions == other.conditions
    assert piece.conditions["key"] == "Eb"


@pytest.mark.parametrize(("meter", "length"), [(None, 16), ((3, 4), 12), ((6, 8), 12), ((2, 4), 8)])
def test_a_sampler_knows_the_metre(
    connect: Any, steered: FakeWriters, meter: tuple[int, int] | None, length: int
) -> None:
    piece = connect()("compose", bars=2, seed=1, model="polyphony_rnn", meter=meter)
    assert piece.grid.n_frames == 2 * length
    assert steered.asked(SAMPLER_NAME)[-1].inputs["meter"].tolist() == [[length, 0]]
    assert sent(steered, SAMPLER_NAME)["end"] == 2 * length


def test_the_repetitions_of_a_sampler_are_those_of_the_new_steps(connect: Any, steered: FakeWriters) -> None:
    prompt = tune(*C_MAJOR[:8])
    connect()("compose", prompt=prompt, bars=3, seed=1, structure="AAB", model="polyphony_rnn")
    found = sent(steered, SAMPLER_NAME)
    assert in_bars(found["repeats"]) == [-1, 1, -1]
    assert (found["key"], found["n_voices"], found["end"]) == (1, 1, 64)
    inputs = steered.asked(SAMPLER_NAME)[-1].inputs
    assert inputs["meter"].tolist() == [[16, 0]]
    np.testing.assert_array_equal(inputs["prompt"][0], prompt.frames)


def test_a_style_of_a_sampler(connect: Any, steered: FakeWriters) -> None:
    piece = connect()("compose", bars=2, seed=1, style="bach", model="polyphony_rnn")
    assert steered.asked(SAMPLER_NAME)[-1].inputs["style"].tolist() == [[1]]
    assert piece.conditions["voices"] == 4
    with pytest.raises(InvalidInputError) as caught:
        connect()("compose", bars=2, style="jazz", model="polyphony_rnn")
    assert (caught.value.argument, caught.value.model) == ("style", SAMPLER_NAME)


@pytest.fixture
def old_sampler(model: FakeWriters) -> FakeWriters:
    """A sampler as exported by earlier releases."""
    takes, answers, rule = model.models[SAMPLER_NAME]
    given = {name: takes[name] for name in takes if name not in (*CONDITIONS, "meter", "style")}
    model.models[SAMPLER_NAME] = (given, answers, rule)
    model.parameters.pop("styles")
    return model


def test_samplers_of_earlier_releases_cannot_be_steered(connect: Any, old_sampler: FakeWriters) -> None:
    for argument, value in (("key", "C"), ("style", "bach")):
        with pytest.raises(InvalidInputError) as caught:
            connect()("compose", bars=1, model="polyphony_rnn", **{argument: value})
        assert (caught.value.argument, caught.value.model) == (argument, SAMPLER_NAME)
    assert not old_sampler.asked(SAMPLER_NAME)


def test_samplers_of_earlier_releases_compose_as_before(connect: Any, old_sampler: FakeWriters) -> None:
    piece = connect()("compose", bars=1, seed=3, model="polyphony_rnn")
    assert old_sampler.asked(SAMPLER_NAME)[-1].inputs.keys() == {"prompt", "noise", "temperature", "top_k", "top_p"}
    assert piece.conditions["key"] is None
    assert connect()("compose", prompt=melody(1), bars=1, model="polyphony_rnn").grid.n_bars == 2


@pytest.mark.parametrize("missing", CONDITIONS)
def test_a_model_has_all_conditions_or_none(missing: str) -> None:
    def info(inputs: dict[str, Any]) -> ModelResponse:
        return ModelResponse("m", ("1",), inputs, {"frames": (-1, -1, 88), "nll": (-1, -1), "first_frame": (-1, 1)}, 8)

    assert COMPOSER.fits(info(dict(WRITING)))
    assert STREAMER.fits(info(dict(WRITING)))
    partial = {name: shape for name, shape in WRITING.items() if name != missing}
    assert not COMPOSER.fits(info(partial))
    assert not STREAMER.fits(info(partial))


# --- candidates -----------------------------------------------------------------------------------------------


CLOSED = tune(*C_MAJOR[:12], 60, 60, 60, 60).frames  # ends with a cadence in C major
OPEN = tune(*C_MAJOR[:12], 64, 64, 67, 67).frames


def answer_in_turn(model: FakeWriters, *pieces: Any) -> None:
    """The model answers with these pieces, one for each candidate."""
    remaining = list(pieces)

    def spoil(name: str, outputs: dict[str, Any]) -> None:
        del name
        outputs["frames"] = np.stack([remaining.pop(0) for _ in outputs["frames"]])

    model.spoil = spoil


def batches(model: FakeWriters) -> list[int]:
    return [len(request.inputs["noise"]) for request in model.asked("music_transformer")]


def ask_for(connect: Any, **arguments: Any) -> Piece:
    piece = connect()("compose", bars=2, seed=3, key="C", mode="major", **arguments)
    assert isinstance(piece, Piece)
    return piece


def test_the_first_candidate_is_enough_if_it_is_as_asked(connect: Any, steered: FakeWriters) -> None:
    answer_in_turn(steered, CLOSED)
    piece = ask_for(connect)
    assert piece.achieved == {"key": "C", "mode": "major", "voices": 1, "ending": True}
    assert piece.n_unmet == 0
    assert batches(steered) == [1]


def test_candidates_are_composed_until_one_is_as_asked(connect: Any, steered: FakeWriters) -> None:
    answer_in_turn(steered, OPEN, OPEN, CLOSED, OPEN)
    piece = ask_for(connect)
    np.testing.assert_array_equal(piece.grid.frames, CLOSED)
    assert batches(steered) == [1, 3]
    noise = np.concatenate([request.inputs["noise"] for request in steered.asked("music_transformer")])
    np.testing.assert_array_equal(noise, uniform_noise(3, 8, 32, 8)[:4])


def test_the_first_of_the_best_is_returned_if_none_is_as_asked(connect: Any, steered: FakeWriters) -> None:
    other_key = np.roll(OPEN, 1, axis=1)
    also_open = np.roll(OPEN, 12, axis=1)
    answer_in_turn(steered, other_key, other_key, OPEN, *[also_open] * 5)
    piece = ask_for(connect)
    np.testing.assert_array_equal(piece.grid.frames, OPEN)
    assert (piece.n_unmet, piece.achieved["ending"]) == (1, False)
    assert batches(steered) == [1, 3, 4]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_no_more_candidates_than_allowed(connect: Any, steered: FakeWriters, n: int) -> None:
    answer_in_turn(steered, *[OPEN] * 5)
    assert ask_for(connect, n_candidates=n).n_unmet == 1
    assert sum(batches(steered)) == n


def test_a_piece_without_an_asked_ending_needs_only_its_key(connect: Any, steered: FakeWriters) -> None:
    answer_in_turn(steered, OPEN)
    assert ask_for(connect, ending=False).n_unmet == 0
    answer_in_turn(steered, np.zeros_like(OPEN), OPEN)
    steered.max_batch_size = 1
    assert ask_for(connect, ending=False, n_candidates=2).achieved["key"] == "C"


def test_a_batch_is_no_larger_than_the_model_reads(connect: Any, steered: FakeWriters) -> None:
    steered.max_batch_size = 2
    answer_in_turn(steered, *[OPEN] * 8)
    ask_for(connect)
    assert batches(steered) == [1, 2, 2, 2, 1]


@pytest.mark.parametrize("n", [0, 17, 1.5, "8", True, None])
def test_invalid_numbers_of_candidates(connect: Any, steered: FakeWriters, n: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        ask_for(connect, n_candidates=n)
    assert caught.value.argument == "n_candidates"
    assert not steered.asked("music_transformer")


def test_silence_has_no_key_and_no_ending() -> None:
    silent = Piece(Grid(np.zeros((8, 88), np.uint8)))
    assert silent.achieved == {"key": None, "mode": None, "voices": 0, "ending": False}
    assert silent.n_unmet == 0  # nothing was asked
    assert Piece.from_dict(silent.to_dict()).achieved == silent.achieved


@pytest.mark.parametrize(
    "name",
    [
        "key",
        "mode",
        "density",
        "voices",
        "structure",
        "ending",
        "n_candidates",
        "instruments",
        "bars",
        "meter",
        "seed",
        "temperature",
        "tempo_qpm",
    ],
)
@pytest.mark.parametrize("value", [10**5_000, (10**5_000, 4), "x" * 100_000], ids=["integer", "tuple", "text"])
def test_errors_name_huge_values_in_short(model: FakeWriters, name: str, value: Any) -> None:
    """Python refuses to write such an integer as digits, so that its error would hide the one of the argument."""
    arguments = {"bars": 2, name: value}
    with MusicClient(transport=model) as music, pytest.raises(InvalidInputError) as caught:
        music.compose(**arguments)
    assert caught.value.argument == name
    assert len(str(caught.value)) < 600
