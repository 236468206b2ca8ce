from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.unit.training.music_transformer_pieces import Asked, ask, network

from tritone.music.grid import HELD, N_PITCHES, STRUCK
from tritone_training.data.piece_conditions import PieceConditions
from tritone_training.kinds.music_transformer.dataset import PieceSegment, collate
from tritone_training.kinds.music_transformer.declaration import LOOK_AHEAD
from tritone_training.kinds.music_transformer.generator import PieceGenerator, StreamingGenerator, initial_state
from tritone_training.kinds.music_transformer.module import frame_nll
from tritone_training.kinds.music_transformer.network import MusicTransformer
from tritone_training.kinds.music_transformer.notes import END, MAX_NOTES, readable

Frames = npt.NDArray[np.uint8]


def sounded_before(frames: Frames) -> npt.NDArray[np.bool_]:
    """(B, N, 88) -> (B, N, 88), what sounds in the frame before."""
    return np.concatenate([np.zeros_like(frames[:, :1]), frames[:, :-1]], axis=1) > 0


@pytest.mark.parametrize("onsets", [True, False])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 30.0])
def test_what_is_written_keeps_the_grammar(temperature: float, onsets: bool) -> None:
    made = network(onsets=onsets, seed=int(10 * temperature))
    asked = ask(6, 24, seed=1, mode="compose", temperature=temperature)
    asked = dataclasses.replace(asked, top_k=torch.full((6,), 177), top_p=torch.ones(6))
    frames, nll = asked.write(PieceGenerator(made))
    assert set(np.unique(frames)) <= {0, HELD, STRUCK}
    assert (frames > 0).sum(2).max() <= MAX_NOTES
    assert ((frames == HELD) <= sounded_before(frames)).all()
    if not onsets:  # a note that goes on is held on
        assert ((frames == STRUCK) <= ~sounded_before(frames)).all()
    assert np.isfinite(nll).all()
    assert (nll >= 0).all()
    assert (frames > 0).any()


def test_pieces_are_written_differently() -> None:
    frames, _ = ask(4, 20, seed=2, mode="compose", temperature=1.0).write(PieceGenerator(network()))
    assert len({row.tobytes() for row in frames}) == 4


def within_reach(shown: Frames, repeats: npt.NDArray[np.int64], window: int) -> Frames:
    """(N, 88) what each frame repeats; nothing from before the piece, or from further back than the window."""
    repeated = np.zeros_like(shown)
    for frame, back in enumerate(repeats):
        if 0 < back <= min(frame, window):
            repeated[frame] = shown[frame - back]
    return repeated


def teacher_forced(made: MusicTransformer, asked: Asked, frames: Frames) -> npt.NDArray[np.float32]:
    """(B, N) nats of the given pieces, as in training."""
    answers = []
    for row, piece in enumerate(frames):
        meter = tuple(int(number) for number in asked.meter[row])
        mode = asked.given_mode[row].numpy()
        shown = readable(piece, onsets=made.onsets)
        key, density, n_voices, end = (int(each[row]) for each in (asked.key, asked.density, asked.n_voices, asked.end))
        repeats = asked.repeats[row].numpy()
        conditions = PieceConditions(key, density, n_voices, end, np.zeros_like(repeats))
        segment = PieceSegment(shown, 0, len(piece), (meter[0], meter[1]), int(asked.style[row]), mode, conditions)
        batch = collate([segment])
        given = torch.nn.functional.pad(asked.given[row : row + 1], (0, 0, 0, LOOK_AHEAD))
        repeated = torch.from_numpy(within_reach(shown, repeats, made.copies.bias.shape[1]))[None]
        counted = torch.ones_like(batch.counted)
        batch = batch._replace(given=given, repeats=asked.repeats[row : row + 1], repeated=repeated, counted=counted)
        answers.append(frame_nll(made, batch))
    return torch.stack(answers).numpy()


@pytest.mark.parametrize("onsets", [True, False])
@pytest.mark.parametrize("n_layers", [1, 3])
def test_frame_by_frame_is_as_likely_as_all_at_once(n_layers: int, onsets: bool) -> None:
    # Longer than both windows, so the rings have gone round; with every kind of task.
    made = network(n_layers=n_layers, onsets=onsets)
    asked = ask(8, 24, seed=3)
    frames, nll = asked.write(PieceGenerator(made))
    expected = teacher_forced(made, asked, frames)
    # Where all eight places are taken by what is given, more notes may have been given.
    crowded = (frames > 0).sum(2) > MAX_NOTES
    assert not crowded.any()
    np.testing.assert_allclose(nll, expected, rtol=2e-4, atol=2e-4)


def test_harmonising_keeps_the_melody_and_its_rests() -> None:
    made = network()
    asked = ask(5, 40, seed=4, mode="harmonise", temperature=5.0)
    given = asked.given.numpy()
    frames, _ = asked.write(PieceGenerator(made))
    melody = np.where((given > 0).any(2), N_PITCHES - 1 - (given > 0)[:, :, ::-1].argmax(2), -1)
    written = np.where((frames > 0).any(2), N_PITCHES - 1 - (frames > 0)[:, :, ::-1].argmax(2), -1)
    np.testing.assert_array_equal(written, melody)
    assert (melody == -1).any()
    on = melody >= 0
    values = np.take_along_axis(given, np.maximum(melody, 0)[:, :, None], 2)[:, :, 0]
    found = np.take_along_axis(frames, np.maximum(melody, 0)[:, :, None], 2)[:, :, 0]
    # Held on where it can be: another voice may have had the pitch, or nobody.
    held = values == HELD
    could = np.take_along_axis(sounded_before(frames), np.maximum(melody, 0)[:, :, None], 2)[:, :, 0]
    np.testing.assert_array_equal(found[on], np.where(held & could, HELD, STRUCK)[on])
    assert ((frames > 0).sum(2) > 1).any()  # there is harmony


@pytest.mark.parametrize("n_voices", range(7))
def test_harmonising_writes_a_note_below_every_note_of_the_melody(n_voices: int) -> None:
    made = network()
    with torch.no_grad():
        made.notes.out.bias[END] += 20  # it would write nothing
    asked = ask(5, 40, seed=4, mode="harmonise", temperature=5.0)
    asked.given[0, 3] = 0
    asked.given[0, 3, 0] = STRUCK  # nothing is lower
    asked = dataclasses.replace(asked, n_voices=torch.full((5,), n_voices))
    frames, nll = asked.write(PieceGenerator(made))
    n_notes = (frames > 0).sum(2)
    has_melody = (asked.given.numpy() > 0).any(2)
    assert not n_notes[~has_melody].any()
    assert n_notes[0, 3] == 1
    has_melody &= ~(frames[:, :, 0] > 0)  # below the lowest pitch there is none to add
    at_least = max(2, n_voices - 1) if n_voices > 1 else 1
    assert n_notes[has_melody].min() == at_least
    np.testing.assert_allclose(nll, teacher_forced(made, asked, frames), rtol=2e-4, atol=2e-3)  # not of what is allowed


def test_only_harmonising_requires_notes() -> None:
    made = network()
    with torch.no_grad():
        made.notes.out.bias[END] += 20
    for mode in ("compose", "infill"):
        asked = ask(5, 40, seed=4, mode=mode, temperature=1.0)
        asked = dataclasses.replace(asked, n_voices=torch.full((5,), 4))
        frames, _ = asked.write(PieceGenerator(made))
        assert not frames[(asked.given_mode == 0).numpy()].any()


def test_filling_a_gap_keeps_the_surroundings_bit_by_bit() -> None:
    asked = ask(4, 40, seed=5, mode="infill", temperature=5.0)
    # A grid may hold a note on from nothing where the gap ends, and more notes than are ever written.
    asked.given[0, 30, :20] = HELD
    frames, nll = asked.write(PieceGenerator(network()))
    kept = (asked.given_mode == 1).numpy()
    np.testing.assert_array_equal(frames[kept], asked.given.numpy()[kept])
    assert np.isfinite(nll).all()
    assert (frames[~kept] != asked.given.numpy()[~kept]).any()


@pytest.mark.parametrize("mode", ["harmonise", "infill"])
def test_what_is_given_later_is_heeded_now(mode: str) -> None:
    asked = ask(1, 24, seed=6, mode=mode, temperature=1.0)
    other = dataclasses.replace(asked, given=asked.given.clone())
    other.given[0, 20] = 0
    other.given[0, 20, 60] = STRUCK
    writer = PieceGenerator(network())
    assert (asked.write(writer)[1][:, :20] != other.write(writer)[1][:, :20]).any()


def in_chunks(made: MusicTransformer, asked: Asked, cuts: Sequence[int]) -> tuple[Frames, npt.NDArray[np.float32]]:
    """The piece, chunk by chunk, as a backend drives the stateful graph."""
    given = torch.nn.functional.pad(asked.given, (0, 0, 0, LOOK_AHEAD))
    mode = torch.nn.functional.pad(asked.given_mode, (0, LOOK_AHEAD))
    state = initial_state(made, len(given))
    frames, nll = [], []
    for start, stop in zip([0, *cuts], [*cuts, asked.noise.shape[1]], strict=True):
        span = slice(start, stop + LOOK_AHEAD)
        here = dataclasses.replace(asked, repeats=asked.repeats[:, start:stop], noise=asked.noise[:, start:stop])
        asking = here.tensors[2:]
        written, nats, *state = StreamingGenerator(made)(given[:, span], mode[:, span], *asking, *state)
        frames.append(written.numpy())
        nll.append(nats.numpy())
    return np.concatenate(frames, 1), np.concatenate(nll, 1)


@pytest.mark.parametrize("onsets", [True, False])
def test_chunks_are_the_whole(onsets: bool) -> None:
    made = network(n_layers=2, onsets=onsets)
    asked = ask(8, 24, seed=7)
    frames, nll = asked.write(PieceGenerator(made))
    for cuts in ([1, 2, 17], list(range(1, 24))):
        chunked, nats = in_chunks(made, asked, cuts)
        np.testing.assert_array_equal(chunked, frames)
        np.testing.assert_allclose(nats, nll, rtol=1e-4, atol=1e-4)


def test_chunks_as_long_as_those_of_the_whole_are_rounded_alike() -> None:
    made = network(n_layers=2)
    for mode in ("compose", "continue"):
        asked = ask(3, 48, seed=8, mode=mode)
        frames, nll = asked.write(PieceGenerator(made))
        chunked, nats = in_chunks(made, asked, [16, 32])
        np.testing.assert_array_equal(chunked, frames)
        np.testing.assert_allclose(nats, nll, rtol=1e-6, atol=1e-6)


def test_the_state_begins_with_zeros_and_goes_on_with_the_piece() -> None:
    made = network()
    state = initial_state(made, 2)
    assert all((tensor == 0).all() for tensor in state)
    asked = ask(2, 5, seed=9, mode="continue")
    given = torch.nn.functional.pad(asked.given, (0, 0, 0, LOOK_AHEAD))
    mode = torch.nn.functional.pad(asked.given_mode, (0, LOOK_AHEAD))
    frames, _, *after = StreamingGenerator(made)(given, mode, *asked.tensors[2:], *state)
    assert [tensor.shape for tensor in after] == [tensor.shape for tensor in state]
    assert [tensor.dtype for tensor in after] == [tensor.dtype for tensor in state]
    assert after[2][:, -5:].equal(frames)
    assert after[3].tolist() == [5, 5]
    assert after[4].tolist() == [1, 1]


@pytest.mark.parametrize("extreme", [0.0, 1e-6, 1e6])
def test_extreme_settings_are_survived(extreme: float) -> None:
    # Clients are told of a temperature of 0; Triton's own warm-up is all zeros.
    asked = ask(2, 6, seed=10, mode="compose", temperature=extreme)
    asked = dataclasses.replace(asked, top_k=torch.tensor([0, 10**9]), top_p=torch.tensor([0.0, extreme]))
    frames, nll = asked.write(PieceGenerator(network()))
    assert np.isfinite(nll).all()
    assert ((frames == HELD) <= sounded_before(frames)).all()


def test_top_k_of_one_needs_no_noise() -> None:
    writer = PieceGenerator(network())
    asked = ask(3, 12, seed=11, mode="compose")
    asked = dataclasses.replace(asked, top_k=torch.ones(3, dtype=torch.int64))
    other = dataclasses.replace(asked, noise=torch.rand_like(asked.noise))
    np.testing.assert_array_equal(asked.write(writer)[0], other.write(writer)[0])


def test_alone_or_among_strangers_the_same_notes() -> None:
    writer = PieceGenerator(network())
    asked = ask(12, 8, seed=12)
    together, nll = asked.write(writer)
    for row in range(12):
        alone, nats = asked.rows(row).write(writer)
        np.testing.assert_array_equal(alone[0], together[row])
        np.testing.assert_allclose(nats[0], nll[row], rtol=1e-4, atol=1e-4)
