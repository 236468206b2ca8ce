"""compose, harmonize, infill and predict, with models in memory; each test runs for both clients."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import symusic
from tests.unit.client.writers import FakeWriters, noise_columns

from tritone import (
    ClientError,
    ConnectionFailedError,
    Grid,
    InvalidInputError,
    InvalidScoreError,
    ModelNotFoundError,
    ModelRequest,
    Piece,
    RequestRejectedError,
    RequestTimeoutError,
    ServerError,
    to_grid,
)
from tritone.exceptions import VersionChangedError
from tritone.operations.plan import N_READ_MAX, first_chord, highest_voice, thinned
from tritone.sampling import uniform_noise


@pytest.fixture
def model() -> FakeWriters:
    return FakeWriters()


def melody(n_bars: int = 2, *, pitch: int = 72, meter: tuple[int, int] = (16, 0)) -> Grid:
    """A quarter note on each beat."""
    frames = np.zeros((16 * n_bars, 88), np.uint8)
    frames[:, pitch - 21] = 1
    frames[::4, pitch - 21] = 2
    return Grid(frames, meter=meter, tempo_qpm=90.0)


def chords(n_notes: int, n_frames: int = 16) -> Grid:
    frames = np.zeros((n_frames, 88), np.uint8)
    frames[:, 10 : 10 + n_notes] = 1
    return Grid(frames, meter=(16, 0))


def midi(*notes: tuple[int, int, int], drums: bool = False, tpq: int = 480) -> bytes:
    """(pitch, onset, length) in quarters."""
    score = symusic.Score(tpq)
    track = symusic.Track("", 0, drums)
    for pitch, onset, length in notes:
        track.notes.append(symusic.Note(onset * tpq, length * tpq, pitch, 80))
    score.tracks.append(track)
    return bytes(score.dumps_midi())


# --- compose -----------------------------------------------------------------------------------


def test_composing_from_scratch(connect: Any, model: FakeWriters) -> None:
    piece = connect()("compose", bars=3, seed=7, tempo_qpm=100, n_candidates=1)
    assert piece.grid.frames.argmax(axis=1).tolist() == noise_columns(7, 48)
    assert (piece.grid.meter, piece.grid.n_bars, piece.grid.tempo_qpm) == ((16, 0), 3, 100)
    assert (piece.seed, piece.model, piece.model_version) == (7, "music_transformer", "3")
    np.testing.assert_allclose(piece.nll, uniform_noise(7, 48, 8).sum(axis=1))
    (request,) = model.asked("music_transformer")
    assert request.inputs["given_mode"].tolist() == [[0] * 48]
    assert request.inputs["meter"].tolist() == [[16, 0]]
    assert request.inputs["style"].tolist() == [[0]]
    assert (request.inputs["temperature"], request.inputs["top_p"]) == (1, 1)
    assert request.inputs["top_k"] >= 10_000


def test_a_seed_reproduces_its_piece(connect: Any) -> None:
    ask = connect()
    first = ask("compose", bars=2)
    again = ask("compose", bars=2, seed=first.seed)
    other = ask("compose", bars=2)
    assert 0 <= first.seed < 2**63
    np.testing.assert_array_equal(first.grid.frames, again.grid.frames)
    assert first.seed != other.seed
    assert (first.grid.frames != other.grid.frames).any()
    assert pickle.loads(pickle.dumps(first)).seed == first.seed  # noqa: S301 - worker processes send these
    assert json.loads(json.dumps(first.to_dict()))["seed"] == first.seed


def test_options_reach_the_model(connect: Any, model: FakeWriters) -> None:
    connect()("compose", bars=1, temperature=0.5, top_k=3, top_p=0.25, style="folk", meter=(3, 4), seed=2**63 - 1)
    inputs = model.asked("music_transformer")[0].inputs
    assert (inputs["temperature"], inputs["top_k"], inputs["top_p"], inputs["style"]) == (0.5, 3, 0.25, 2)
    assert inputs["meter"].tolist() == [[12, 0]]
    assert inputs["given"].shape == (1, 12, 88)


@pytest.mark.parametrize(
    ("method", "positional", "options"),
    [
        ("compose", (), {"bars": 1}),
        ("harmonize", (True,), {}),
        ("infill", (True,), {"bars": (0, 1)}),
        ("reconstruct", (True,), {}),
        ("vary", (True,), {"attribute": "note_density", "amount": 1}),
        ("sample", (), {"n": 1}),
    ],
)
def test_instruments_are_part_of_the_piece(
    connect: Any, model: FakeWriters, method: str, positional: tuple[Any, ...], options: dict[str, Any]
) -> None:
    ask = connect()
    scores = [melody(2) for _ in positional]

    def made(**more: Any) -> Piece:
        result = ask(method, *scores, **options, **more, seed=3)
        return result[0] if isinstance(result, tuple) else result

    plain, duo = made(), made(instruments=["violin", 42])
    assert plain.instruments == ("Acoustic Grand Piano",)
    assert duo.instruments == ("Violin", "Cello")
    np.testing.assert_array_equal(plain.grid.frames, duo.grid.frames)
    n_requests = len(model.requests)
    with pytest.raises(InvalidInputError) as caught:
        made(instruments="kazoo")
    assert caught.value.argument == "instruments"
    assert len(model.requests) == n_requests


def test_a_style_has_instruments_and_a_tempo(connect: Any) -> None:
    ask = connect()
    piece = ask("compose", bars=1, style="bach")
    assert (piece.instruments, piece.grid.tempo_qpm) == (("Choir Aahs",), 80)
    assert ask("compose", bars=1, style="bach", tempo_qpm=99).grid.tempo_qpm == 99
    assert ask("compose", bars=1).grid.tempo_qpm == 120
    assert ask("infill", melody(1), bars=(0, 1), style="bach").grid.tempo_qpm == 90
    assert ask("compose", bars=1, style="bach", prompt=melody(1)).grid.tempo_qpm == 90
    assert ask("harmonize", melody(1), style="folk").instruments == ("Flute", "Acoustic Guitar (nylon)")


def test_prompts_are_continued(connect: Any, model: FakeWriters) -> None:
    prompt = melody(2)
    piece = connect()("compose", prompt=prompt, bars=1, seed=5)
    np.testing.assert_array_equal(piece.grid.frames[:32], prompt.frames)
    assert piece.grid.frames[32:].argmax(axis=1).tolist() == noise_columns(5, 48)[32:]
    assert piece.grid.tempo_qpm == 90
    inputs = model.asked("music_transformer")[0].inputs
    assert inputs["given_mode"].tolist() == [[1] * 32 + [0] * 16]
    np.testing.assert_array_equal(inputs["given"][0, :32], prompt.frames)
    assert not inputs["given"][0, 32:].any()


@pytest.mark.parametrize(
    ("n_frames", "meter", "n_new"), [(30, (16, 0), 18), (20, (16, 12), 16), (25, (12, 0), 23), (7, (0, 0), 25)]
)
def test_an_incomplete_bar_is_completed_first(connect: Any, n_frames: int, meter: tuple[int, int], n_new: int) -> None:
    prompt = Grid(melody(2).frames[:n_frames], meter=meter)
    piece = connect()("compose", prompt=prompt, bars=1, seed=1)
    assert piece.grid.n_frames == n_frames + n_new
    assert piece.grid.bars[-1].stop - piece.grid.bars[-1].start == (meter[0] or 16)


def test_a_meter_other_than_that_of_the_prompt(connect: Any, model: FakeWriters) -> None:
    piece = connect()("compose", prompt=Grid(melody(1).frames, meter=(16, 4)), bars=1, meter=(6, 8), seed=1)
    assert piece.grid.meter == (12, 0)
    assert piece.grid.n_frames == 36


@pytest.mark.parametrize("signature", [(4, 4), (3, 4), (6, 8), (12, 8), (2, 2), (3, 2), (5, 8), (2, 4)])
def test_a_given_time_signature_is_kept(connect: Any, signature: tuple[int, int]) -> None:
    length = 16 * signature[0] // signature[1]
    prompt = Piece(Grid(melody(2).frames, meter=(length, 0), time_signature=signature)).to_midi()
    ask = connect()
    for piece in (
        ask("compose", bars=1, seed=1, meter=signature),
        ask("compose", prompt=prompt, bars=1, seed=1),
        ask("compose", prompt=melody(1, meter=(length, 2)), bars=1, seed=1, meter=signature),
        ask("harmonize", prompt, seed=1),
        ask("infill", prompt, bars=(0, 1), seed=1),
    ):
        assert piece.meter == signature
        assert piece.to_dict()["meter"] == list(signature)
        assert piece.grid.meter[0] == length
        (written,) = {(mark.numerator, mark.denominator) for mark in piece.score.time_signatures[-1:]}
        assert written == signature
        assert to_grid(piece.to_midi()).time_signature == signature


def test_a_prompt_without_a_time_signature_is_in_common_time(connect: Any) -> None:
    assert connect()("compose", prompt=Grid(melody(1).frames), bars=1, seed=1).meter == (4, 4)


@pytest.mark.parametrize("as_what", ["path", "str", "bytes", "file", "score", "grid", "piece"])
def test_a_prompt_of_any_kind(connect: Any, tmp_path: Path, as_what: str) -> None:
    data = midi((60, 0, 1), (64, 1, 1), (67, 2, 2))
    path = tmp_path / "tune.mid"
    path.write_bytes(data)
    grid = to_grid(data)
    prompts: dict[str, Any] = {"path": path, "str": str(path), "bytes": data, "file": io.BytesIO(data), "grid": grid}
    prompts |= {"score": symusic.Score.from_midi(data), "piece": Piece(grid)}
    piece = connect()("compose", prompt=prompts[as_what], bars=1, seed=3)
    np.testing.assert_array_equal(piece.grid.frames[:16], grid.frames)
    assert piece.score.note_num() >= 3


def test_the_model_reads_the_end_of_a_long_prompt_and_the_piece_has_all_of_it(connect: Any, model: FakeWriters) -> None:
    prompt = Grid(melody(80).frames[:1275], meter=(16, 4))
    piece = connect()("compose", prompt=prompt, bars=2, seed=1)
    assert piece.grid.n_frames == 1275 + 1 + 32
    np.testing.assert_array_equal(piece.grid.frames[:1275], prompt.frames)
    inputs = model.asked("music_transformer")[0].inputs
    assert inputs["given"].shape == (1, N_READ_MAX + 33, 88)
    n_unheard = 1275 - N_READ_MAX
    assert inputs["meter"].tolist() == [[16, (4 + n_unheard) % 16]]
    assert (4 + n_unheard) % 16 != 4
    assert piece.grid.dropped["unread_steps"] == n_unheard
    assert np.isnan(piece.nll[:n_unheard]).all()
    assert np.isfinite(piece.nll[n_unheard:]).all()
    assert json.loads(json.dumps(piece.to_dict(), allow_nan=False))["nll"][0] is None


def test_the_model_reads_the_outer_notes_of_thick_chords(connect: Any, model: FakeWriters) -> None:
    prompt = chords(12)
    piece = connect()("compose", prompt=prompt, bars=1, seed=1)
    heard = model.asked("music_transformer")[0].inputs["given"][0, 0]
    assert np.flatnonzero(heard).tolist() == [10, 11, 12, 13, 18, 19, 20, 21]
    np.testing.assert_array_equal(piece.grid.frames[:16], prompt.frames)
    assert piece.grid.dropped == {"unread_notes": 4}


def test_128_notes_at_once(connect: Any) -> None:
    data = midi(*((pitch, 0, 1) for pitch in range(128)))
    piece = connect()("compose", prompt=data, bars=1, seed=1)
    assert piece.grid.dropped["out_of_range"] == 40
    assert piece.grid.dropped["unread_notes"] == 80
    assert (piece.grid.frames[0] > 0).all()


@pytest.mark.parametrize("name", ["polyphony_rnn", "polyphony_rnn_sampler"])
def test_frames_without_onsets(connect: Any, model: FakeWriters, name: str) -> None:
    prompt = melody(1, pitch=60)
    piece = connect()("compose", prompt=prompt, bars=1, seed=11, model=name, temperature=0.5)
    (request,) = model.asked("polyphony_rnn_sampler")
    np.testing.assert_array_equal(request.inputs["prompt"][0], prompt.frames)
    sounding = uniform_noise(11, 16, 88) < 0.05
    sounding[:2, 60 - 21] = True
    np.testing.assert_array_equal(piece.grid.frames[16:] > 0, sounding)
    assert piece.grid.frames[16:18, 60 - 21].tolist() == [1, 1]  # held on from the prompt
    assert (piece.grid.frames[16:] == 2).any()
    assert (piece.model, piece.nll) == ("polyphony_rnn_sampler", None)


def test_frames_without_onsets_from_scratch(connect: Any, model: FakeWriters) -> None:
    piece = connect()("compose", bars=2, seed=11, model="polyphony_rnn")
    assert piece.grid.n_frames == 32
    assert model.asked("polyphony_rnn_sampler")[0].inputs["prompt"].shape == (1, 1, 88)
    assert not model.asked("polyphony_rnn")


def test_a_coarser_grid(connect: Any, model: FakeWriters) -> None:
    model.parameters["frames_per_quarter"] = "2"
    piece = connect()("compose", prompt=midi((60, 0, 4)), bars=1, seed=1)
    assert piece.grid.frames_per_quarter == 2
    assert piece.grid.n_frames == 16


def test_metadata_is_requested_once(connect: Any, model: FakeWriters) -> None:
    ask = connect()
    for _ in range(3):
        ask("compose", bars=1, n_candidates=1)
    assert [type(request).__name__ for request in model.requests] == ["ModelRequest"] + 3 * ["InferRequest"]


# --- harmonize and infill ----------------------------------------------------------------------


def test_harmonize(connect: Any, model: FakeWriters) -> None:
    piece = connect()("harmonize", melody(2), seed=9, style="bach", n_candidates=1)
    frames = piece.grid.frames
    np.testing.assert_array_equal(frames[:, 72 - 21], melody(2).frames[:, 72 - 21])
    np.testing.assert_array_equal(frames[:, 60 - 21], frames[:, 72 - 21])
    inputs = model.asked("music_transformer")[0].inputs
    assert (inputs["given_mode"] == 2).all()
    assert inputs["style"] == 1
    assert (piece.seed, piece.grid.tempo_qpm) == (9, 90)


@pytest.mark.parametrize("n_candidates", [1, 2, 7, 8])
def test_the_most_likely_of_several_harmonies(connect: Any, model: FakeWriters, n_candidates: int) -> None:
    ask = connect()
    piece = ask("harmonize", melody(2), seed=9, n_candidates=n_candidates)
    (request,) = model.asked("music_transformer")  # one batch
    assert {len(array) for array in request.inputs.values()} == {n_candidates}
    noise = uniform_noise(9, n_candidates, 32, 8)
    np.testing.assert_array_equal(request.inputs["noise"], noise)
    np.testing.assert_array_equal(request.inputs["noise"][0], uniform_noise(9, 32, 8))
    nll = noise.sum(axis=2)
    np.testing.assert_array_equal(piece.nll, nll[nll.sum(axis=1).argmin()])
    again = ask("harmonize", melody(2), seed=9, n_candidates=n_candidates)
    assert again.to_dict() == piece.to_dict()
    assert piece.seed == 9


def test_more_candidates_are_never_less_likely(connect: Any) -> None:
    ask = connect()
    sums = [ask("harmonize", melody(2), seed=3, n_candidates=n).nll.sum() for n in range(1, 9)]
    assert sums == sorted(sums, reverse=True)
    assert len(set(sums)) > 1


def test_the_frames_of_the_most_likely_harmony_are_returned(connect: Any, model: FakeWriters) -> None:
    def spoil(_: str, outputs: dict[str, Any]) -> None:
        outputs["nll"][:] = np.array([3.0, 1.0, 1.0, 2.0], np.float32)[:, None]  # the first of equally likely ones
        outputs["frames"][:, -1] = 0
        for row, frames in enumerate(outputs["frames"]):
            frames[-1, row] = 2  # a last note that tells them apart

    model.spoil = spoil
    piece = connect()("harmonize", melody(1), seed=1, n_candidates=4)
    assert np.flatnonzero(piece.grid.frames[-1]).tolist() == [1]


def test_harmonies_are_sampled_more_conservatively(connect: Any, model: FakeWriters) -> None:
    def used() -> list[float]:
        inputs = model.asked("music_transformer")[-1].inputs
        return [round(float(inputs[name][0, 0]), 3) for name in ("temperature", "top_p")]

    connect()("harmonize", melody(1), seed=1)
    assert used() == [0.8, 0.9]
    connect()("harmonize", melody(1), seed=1, temperature=1.2, top_p=1)
    assert used() == [1.2, 1.0]
    connect()("infill", melody(1), bars=(0, 1), seed=1)
    assert used() == [1.0, 1.0]


BASSES = {"octaves": (48, 50, 52, 53), "thirds": (57, 59, 60, 62), "cadence": (48, 43, 45, 48)}


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        (("octaves", "thirds"), "thirds"),  # no parallels
        (("octaves", "thirds", "cadence"), "cadence"),
        (("octaves", "octaves"), "octaves"),
    ],
)
def test_the_best_of_several_harmonies(
    connect: Any, model: FakeWriters, candidates: tuple[str, ...], expected: str
) -> None:
    """Under C D E F, or C D E C: whichever is the best of them, it is the least likely."""
    tops = (60, 62, 64, 60 if "cadence" in candidates else 65)

    def score(pitches: Sequence[int]) -> np.ndarray[Any, Any]:
        frames = np.zeros((32, 88), np.uint8)
        for number, pitch in enumerate(pitches):
            start = (0, 4, 8, 16)[number]
            frames[start : (4, 8, 16, 32)[number], pitch - 21] = 1
            frames[start, pitch - 21] = 2
        return frames

    def spoil(_: str, outputs: dict[str, Any]) -> None:
        for row in range(len(outputs["nll"])):
            outputs["frames"][row] = np.maximum(score(tops), score(BASSES[candidates[row]]))
            outputs["nll"][row] = row

    model.spoil = spoil
    given = Grid(score(tops), meter=(16, 0))
    piece = connect()("harmonize", given, seed=1, n_candidates=len(candidates))
    np.testing.assert_array_equal(piece.grid.frames, np.maximum(score(tops), score(BASSES[expected])))
    first = connect()("harmonize", given, seed=1, n_candidates=1)
    np.testing.assert_array_equal(first.grid.frames, np.maximum(score(tops), score(BASSES[candidates[0]])))


@pytest.mark.parametrize("n_candidates", [0, -1, 17, 1.0, "2", True, None])
def test_invalid_numbers_of_candidates(connect: Any, model: FakeWriters, n_candidates: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()("harmonize", melody(1), n_candidates=n_candidates)
    assert caught.value.argument == "n_candidates"
    assert not model.requests


def test_more_candidates_than_the_model_takes_in_a_batch(connect: Any, model: FakeWriters) -> None:
    piece = connect()("harmonize", melody(2), seed=9, n_candidates=11)
    requests = model.asked("music_transformer")
    assert [len(request.inputs["noise"]) for request in requests] == [8, 3]
    noise = uniform_noise(9, 11, 32, 8)
    np.testing.assert_array_equal(np.concatenate([request.inputs["noise"] for request in requests]), noise)
    nll = noise.sum(axis=2)
    np.testing.assert_array_equal(piece.nll, nll[nll.sum(axis=1).argmin()])


def test_candidates_have_at_most_as_many_frames_as_a_piece(connect: Any, model: FakeWriters) -> None:
    model.parameters["max_frames"] = "100"
    connect()("harmonize", melody(2), seed=9)  # of 32 frames
    assert [len(request.inputs["noise"]) for request in model.asked("music_transformer")] == [3, 3, 2]


def test_chords_are_harmonized_only_with_highest(connect: Any, model: FakeWriters) -> None:
    ask = connect()
    frames = np.concatenate([melody(1).frames, chords(3).frames])
    with pytest.raises(InvalidInputError) as caught:
        ask("harmonize", Grid(frames, meter=(16, 0)))
    assert (caught.value.argument, caught.value.reason) == ("melody", "too_many_notes")
    assert "3 notes at once in bar 1 " in str(caught.value)  # where to look
    assert not model.asked("music_transformer")
    piece = ask("harmonize", Grid(frames, meter=(16, 0)), highest=True)
    given = model.asked("music_transformer")[0].inputs["given"][0]
    assert ((given > 0).sum(axis=1) == 1).all()
    assert np.flatnonzero(given[16]).tolist() == [12]
    assert piece.grid.n_frames == 32


def test_infill(connect: Any, model: FakeWriters) -> None:
    score = melody(4)
    piece = connect()("infill", score, bars=(1, 3), seed=4)
    inputs = model.asked("music_transformer")[0].inputs
    assert inputs["given_mode"].tolist() == [[1] * 16 + [0] * 32 + [1] * 16]
    assert not inputs["given"][0, 16:48].any()
    np.testing.assert_array_equal(piece.grid.frames[:16], score.frames[:16])
    np.testing.assert_array_equal(piece.grid.frames[48:], score.frames[48:])
    assert piece.grid.frames[16:48].argmax(axis=1).tolist() == noise_columns(4, 64)[16:48]


def test_notes_held_after_the_infilled_bars_are_struck_again(connect: Any, model: FakeWriters) -> None:
    frames = np.zeros((48, 88), np.uint8)
    frames[:, 40] = 1
    connect()("infill", Grid(frames, meter=(16, 0)), bars=(1, 2), seed=4)
    given = model.asked("music_transformer")[0].inputs["given"][0]
    assert given[[0, 15, 16, 31, 32, 33], 40].tolist() == [2, 1, 0, 0, 2, 1]


def test_an_upbeat_is_bar_0(connect: Any, model: FakeWriters) -> None:
    score = Grid(melody(2).frames, meter=(16, 12))
    connect()("infill", score, bars=(0, 1), seed=4)
    assert model.asked("music_transformer")[0].inputs["given_mode"].tolist() == [[0] * 4 + [1] * 28]


def test_the_model_reads_the_surroundings_of_the_infilled_bars(connect: Any, model: FakeWriters) -> None:
    score = melody(200)
    piece = connect()("infill", score, bars=(100, 102), seed=4)
    inputs = model.asked("music_transformer")[0].inputs
    assert inputs["given"].shape == (1, N_READ_MAX + 32, 88)
    np.testing.assert_array_equal(piece.grid.frames[:1600], score.frames[:1600])
    np.testing.assert_array_equal(piece.grid.frames[1632:], score.frames[1632:])
    written = noise_columns(4, N_READ_MAX + 32)[N_READ_MAX // 2 :][:32]
    assert piece.grid.frames[1600:1632].argmax(axis=1).tolist() == written


# --- predict -----------------------------------------------------------------------------------


def test_predict(connect: Any, model: FakeWriters) -> None:
    score = melody(2)
    prediction = connect()("predict", score)
    assert prediction.n_frames == 32
    assert prediction.nll.tolist() == [1] * 32
    assert prediction.nll_per_frame == 1
    assert prediction.probabilities.shape == (32, 88)
    assert next(iter(prediction.next_pitches(1).items())) == (72, 0.5)
    assert (prediction.model, prediction.model_version) == ("polyphony_rnn", "3")
    assert "nll_per_frame=1.000" in repr(prediction)
    assert json.loads(json.dumps(prediction.to_dict()))["nll_per_frame"] == 1
    assert pickle.loads(pickle.dumps(prediction)).n_frames == 32  # noqa: S301


def test_predict_whole_frames(connect: Any, model: FakeWriters) -> None:
    prediction = connect()("predict", melody(2), model="music_transformer")
    assert prediction.probabilities is None
    assert prediction.next_pitches() == {}
    inputs = model.asked("music_transformer")[0].inputs
    assert (inputs["given_mode"] == 1).all()
    np.testing.assert_array_equal(inputs["given"][0], melody(2).frames)
    with pytest.raises(InvalidInputError) as caught:
        connect()("predict", chords(12), model="music_transformer")
    assert (caught.value.argument, caught.value.reason) == ("score", "too_many_notes")


def test_predict_accepts_half_an_hour(connect: Any, model: FakeWriters) -> None:
    assert connect()("predict", melody(1_000)).n_frames == 16_000
    model.parameters["max_frames"] = "1000"
    with pytest.raises(InvalidInputError) as caught:
        connect()("predict", melody(1_000))
    assert (caught.value.argument, caught.value.reason) == ("score", "too_long")


# --- bad input ---------------------------------------------------------------------------------

SCORES: dict[str, Any] = {
    "no bytes": b"",
    "no notes": midi(),
    "drums only": midi((40, 0, 1), (42, 1, 1), drums=True),
    "out of range": midi((5, 0, 1), (120, 1, 1)),
    "truncated": midi((60, 0, 1), (64, 1, 1))[:-9],
    "not MIDI": b"RIFF, not MThd" * 9,
    "40 minutes": midi((60, 0, 1), (60, 4799, 1)),
    "silence": Grid(np.zeros((16, 88), np.uint8)),
    "missing": "/no/such/file.mid",
    "a number": 7,
    "text": io.StringIO("MThd"),
}


OTHERS = ("harmonize", "infill", "predict", "reconstruct", "vary", "interpolate")


@pytest.mark.parametrize(
    ("method", "name"), [*(("compose", name) for name in SCORES), *((method, "drums only") for method in OTHERS)]
)
def test_scores_that_cannot_be_used(connect: Any, model: FakeWriters, method: str, name: str) -> None:
    arguments: dict[str, Any] = {
        "compose": ((), {"prompt": SCORES[name]}),
        "infill": ((SCORES[name],), {"bars": (0, 1)}),
        "vary": ((SCORES[name],), {"attribute": "note_density", "amount": 1}),
        "interpolate": ((melody(2), SCORES[name]), {}),
    }
    positional, keywords = arguments.get(method, ((SCORES[name],), {}))
    with pytest.raises(InvalidScoreError) as caught:
        connect()(method, *positional, **keywords)
    assert caught.value.reason
    assert not any(model.asked(each) for each in model.models)


CHOICES: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": -1},
    {"temperature": float("nan")},
    {"temperature": float("inf")},
    {"temperature": 1e9},
    {"temperature": 10**320},
    {"temperature": "1"},
    {"temperature": True},
    {"top_k": 0},
    {"top_k": -3},
    {"top_k": 1.5},
    {"top_k": True},
    {"top_p": 0},
    {"top_p": -0.1},
    {"top_p": 1.01},
    {"top_p": float("nan")},
    {"seed": -1},
    {"seed": 2**63},
    {"seed": 1.0},
    {"seed": "7"},
    {"seed": True},
    {"tempo_qpm": 0},
    {"tempo_qpm": float("nan")},
    {"tempo_qpm": 1e6},
]


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        *(("compose", wrong) for wrong in CHOICES),
        *((method, CHOICES[2]) for method in ("stream_compose", "harmonize", "infill", "reconstruct", "vary")),
        *((method, {"seed": -1}) for method in ("stream_compose", "harmonize", "infill", "reconstruct", "vary")),
    ],
    ids=str,
)
def test_invalid_sampling_options(connect: Any, model: FakeWriters, method: str, wrong: dict[str, Any]) -> None:
    own: dict[str, Any] = {"infill": {"bars": (0, 1)}, "vary": {"attribute": "note_density", "amount": 1}}
    positional = () if method in ("compose", "stream_compose") else (melody(),)
    with pytest.raises(InvalidInputError) as caught:
        connect()(method, *positional, **own.get(method, {}), **wrong)
    assert caught.value.argument == next(iter(wrong))
    assert not model.requests


@pytest.mark.parametrize("bars", [0, -1, 257, 100_000, 1.5, "8", True, None])
def test_invalid_numbers_of_bars(connect: Any, model: FakeWriters, bars: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()("compose", bars=bars)
    assert caught.value.argument == "bars"
    assert not model.requests


@pytest.mark.parametrize(
    "bars", [(0, 0), (2, 1), (-1, 2), (0, 5), (4, 5), 3, None, (0,), (0, 1, 2), ("a", "b"), (0, 1.0)]
)
def test_invalid_ranges_of_bars(connect: Any, model: FakeWriters, bars: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()("infill", melody(4), bars=bars)
    assert caught.value.argument == "bars"
    assert not model.asked("music_transformer")


@pytest.mark.parametrize("meter", [(0, 4), (4, 0), (3, 5), 4, "3/4", (7, 32), (4, 4, 4)])
def test_invalid_meters(connect: Any, meter: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        connect()("compose", bars=1, meter=meter)
    assert caught.value.argument == "meter"


@pytest.mark.parametrize("style", ["jazz", "", 1, b"bach"])
def test_unknown_styles(connect: Any, style: Any) -> None:
    for model in ("music_transformer", "polyphony_rnn"):
        with pytest.raises(InvalidInputError) as caught:
            connect()("compose", bars=1, style=style, model=model)
        assert caught.value.argument == "style"
        assert not isinstance(style, str) or caught.value.model is not None  # the model was looked up first


def test_errors_on_styles_list_the_known_ones(connect: Any, model: FakeWriters) -> None:
    with pytest.raises(InvalidInputError, match="any, bach, folk"):
        connect()("compose", bars=1, style="jazz")
    model.parameters["styles"] = "not JSON"
    with pytest.raises(InvalidInputError, match="no styles"):
        connect()("compose", bars=1, style="jazz")


def test_music_beyond_the_limits_of_the_model(connect: Any, model: FakeWriters) -> None:
    model.parameters["max_frames"] = "100"
    ask = connect()
    assert ask("compose", bars=6).grid.n_frames == 96
    assert ask("compose", prompt=melody(2), bars=5).grid.dropped == {"unread_steps": 12}
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
        ("compose", (), {"bars": 7}, "bars"),
        ("compose", (), {"prompt": melody(2), "bars": 6}, "bars"),
        ("harmonize", (melody(7),), {}, "melody"),
        ("infill", (melody(8),), {"bars": (0, 7)}, "bars"),
    ]
    for method, positional, options, argument in calls:
        with pytest.raises(InvalidInputError) as caught:
            ask(method, *positional, **options)
        assert (caught.value.argument, caught.value.reason) == (argument, "too_long")


@pytest.mark.parametrize("name", ["../x", "", 3, None])
def test_invalid_model_names(connect: Any, name: Any) -> None:
    for method, positional in (("compose", ()), ("predict", (melody(),)), ("harmonize", (melody(),))):
        with pytest.raises(InvalidInputError) as caught:
            connect()(method, *positional, model=name)
        assert caught.value.argument == "model"


# --- the server ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["music_vae", "music_gan", "composer"])
def test_unsuitable_models(connect: Any, name: str) -> None:
    with pytest.raises(ServerError) as caught:
        connect()("compose", bars=1, model=name)
    assert (caught.value.model, caught.value.reason) == (name, "unsuitable_model")


def test_a_missing_model(connect: Any) -> None:
    with pytest.raises(ModelNotFoundError):
        connect()("compose", bars=1, model="music_opera")


def test_a_scorer_without_its_sampler(connect: Any, model: FakeWriters) -> None:
    del model.models["polyphony_rnn_sampler"]
    with pytest.raises(ModelNotFoundError) as caught:
        connect()("compose", bars=1, model="polyphony_rnn")
    assert caught.value.model == "polyphony_rnn_sampler"


def test_a_new_version_between_two_calls_brings_its_styles(connect: Any, model: FakeWriters) -> None:
    ask = connect()
    ask("compose", bars=1, style="folk")
    model.version, model.parameters = "4", {"styles": json.dumps(["any", "folk", "bach"])}
    piece = ask("compose", bars=1, style="folk", n_candidates=1)
    assert piece.model_version == "4"
    assert model.asked("music_transformer")[-1].inputs["style"] == 1


def test_a_prompt_from_a_stream_survives_a_new_version(connect: Any, model: FakeWriters) -> None:
    ask = connect()
    ask("compose", bars=1)
    model.version = "4"
    piece = ask("compose", prompt=io.BytesIO(midi((60, 0, 4))), bars=1, seed=1)
    assert piece.model_version == "4"
    assert piece.grid.frames[0, 60 - 21] == 2


def test_versions_that_keep_changing_are_an_error(connect: Any, model: FakeWriters) -> None:
    def flip(request: Any) -> None:
        if not isinstance(request, ModelRequest):
            model.version = str(int(model.version) + 1)

    model.before = flip
    with pytest.raises(VersionChangedError) as caught:
        connect(timeout_s=0.5)("compose", bars=1)
    assert caught.value.model == "music_transformer"


def test_a_rejected_request_is_repeated_once_with_new_metadata(connect: Any, model: FakeWriters) -> None:
    def refuse(request: Any) -> None:
        if not isinstance(request, ModelRequest):
            raise RequestRejectedError("no")

    model.before = refuse
    with pytest.raises(RequestRejectedError):
        connect()("compose", bars=1)
    assert [type(request).__name__ for request in model.requests] == 2 * ["ModelRequest", "InferRequest"]


def test_lost_connections_are_retried(connect: Any, model: FakeWriters, failing: Any) -> None:
    model.before = failing(2, ConnectionFailedError("gone"))
    assert connect(retries=2)("compose", bars=1, seed=1).seed == 1
    model.before = failing(1, RequestTimeoutError("late"))
    with pytest.raises(RequestTimeoutError):
        connect()("compose", bars=1)


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("frames", np.zeros((1, 15, 88), np.uint8)),
        ("frames", np.full((1, 16, 88), 3, np.uint8)),
        ("nll", np.full((1, 16), np.nan, np.float32)),
    ],
)
def test_invalid_responses(connect: Any, model: FakeWriters, output: str, value: Any) -> None:
    model.spoil = lambda name, outputs: outputs.update({output: value})
    with pytest.raises(ServerError) as caught:
        connect()("compose", bars=1)
    assert (caught.value.reason, caught.value.output) == ("invalid_output", output)


def test_closed_clients_raise(connect: Any) -> None:
    ask = connect()
    ask("close")
    with pytest.raises(ClientError) as caught:
        ask("compose", bars=1)
    assert caught.value.reason == "closed"


# --- voices -------------------------------------------------------------------------------------


def test_the_highest_voice() -> None:
    frames = np.zeros((5, 88), np.uint8)
    frames[0:5, 30] = [2, 1, 1, 1, 0]
    frames[1:3, 40] = [2, 1]
    voice = highest_voice(frames)
    assert [(int(t), int(p), int(voice[t, p])) for t, p in zip(*np.nonzero(voice), strict=True)] == [
        (0, 30, 2),
        (1, 40, 2),
        (2, 40, 1),
        (3, 30, 2),
    ]
    assert first_chord(frames) == 1
    assert first_chord(voice) is None


def test_thinning_takes_whole_notes() -> None:
    frames = np.zeros((6, 88), np.uint8)
    for pitch in (10, 20, 30):
        frames[0:6, pitch] = [2, 1, 1, 1, 2, 1]
    frames[2:4, 40] = [2, 1]
    thin, n_gone = thinned(frames, 3)
    assert n_gone == 1
    assert thin[:, 30].tolist() == [0, 0, 0, 0, 2, 1]  # from its beginning; the next note of the pitch stays
    for pitch in (10, 20, 40):
        np.testing.assert_array_equal(thin[:, pitch], frames[:, pitch])
    assert thinned(thin, 3)[1] == 0


def test_thinning_is_never_over_the_limit() -> None:
    rng = np.random.default_rng(0)
    for n_most in (1, 4, 8):
        frames = Grid((rng.random((64, 88)) < 0.2).astype(np.uint8)).frames
        thin, n_gone = thinned(frames, n_most)
        assert (thin > 0).sum(axis=1).max() <= n_most
        assert n_gone > 0
        np.testing.assert_array_equal(Grid(thin).frames, thin)  # nothing is held on from nothing
        assert ((thin == frames) | (thin == 0)).all()
