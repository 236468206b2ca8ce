"""Generation with conditions: frames that repeat earlier ones, and the end, in chunks and as a whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tests.unit.training.music_transformer_pieces import SIZES, Asked, ask, network
from tests.unit.training.test_music_transformer_writer import in_chunks, teacher_forced

from tritone_training.data.piece_conditions import NEW, UNKNOWN
from tritone_training.kinds.music_transformer.generator import PieceGenerator

WINDOW = SIZES["copy_window"]  # 9, shorter than a chunk of 16 frames
LONG_WINDOW = 40  # several chunks
N_FRAMES = 40
CUTS = ([16, 32], [1, 2, 17, 35], [20])


def asked_for(repeats: list[int] | int, *, seed: int = 1) -> Asked:
    """Two pieces from scratch, asked for nothing but repetitions."""
    asked = ask(2, N_FRAMES, seed=seed, mode="compose", temperature=1.0).unsteered
    row = [repeats] * N_FRAMES if isinstance(repeats, int) else repeats
    return dataclasses.replace(asked, repeats=torch.tensor([row, row]))


@pytest.mark.parametrize("window", [WINDOW, LONG_WINDOW])
@pytest.mark.parametrize("distance", [NEW, UNKNOWN, 1, 5, 9, 10, 15, 16, 17, 31, 32, 33, 39, 40, 41, 4096])
def test_every_distance_is_the_same_in_chunks_and_in_training(distance: int, window: int) -> None:
    # Within a chunk, across its boundary, as far as the window, further than it, and before the piece.
    made = network(copy_window=window)
    asked = asked_for(distance)
    frames, nll = asked.write(PieceGenerator(made))
    for cuts in CUTS:
        chunked, nats = in_chunks(made, asked, cuts)
        np.testing.assert_array_equal(chunked, frames)
        np.testing.assert_allclose(nats, nll, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(nll, teacher_forced(made, asked, frames), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("onsets", [True, False])
def test_distances_may_change_from_frame_to_frame(onsets: bool) -> None:
    made = network(copy_window=LONG_WINDOW, onsets=onsets)
    repeats = [NEW] * 16 + [16] * 8 + [UNKNOWN, 3, 24, NEW] * 2 + [32] * 8
    asked = asked_for(repeats)
    frames, nll = asked.write(PieceGenerator(made))
    for cuts in CUTS:
        np.testing.assert_array_equal(in_chunks(made, asked, cuts)[0], frames)
    np.testing.assert_allclose(nll, teacher_forced(made, asked, frames), rtol=2e-4, atol=2e-4)


def test_what_is_further_back_than_the_window_is_only_known_to_be_a_repetition() -> None:
    writer = PieceGenerator(network())
    beyond, further = (asked_for(distance).write(writer) for distance in (WINDOW + 1, 4096))
    np.testing.assert_array_equal(beyond[0], further[0])
    np.testing.assert_array_equal(beyond[1], further[1])
    kinds = [asked_for(distance).write(writer)[1] for distance in (NEW, UNKNOWN, WINDOW, WINDOW + 1)]
    for n, one in enumerate(kinds):
        for other in kinds[:n]:
            assert np.abs(one - other).max() > 1e-3


def test_repetition_changes_nothing_before_it() -> None:
    writer = PieceGenerator(network(copy_window=LONG_WINDOW))
    plain, nll = asked_for(NEW).write(writer)
    for start in (10, 16, 30):
        frames, nats = asked_for([NEW] * start + [7] * (N_FRAMES - start)).write(writer)
        np.testing.assert_array_equal(frames[:, :start], plain[:, :start])
        np.testing.assert_array_equal(nats[:, :start], nll[:, :start])
        assert (nats[:, start] != nll[:, start]).any()


def test_the_repeated_moment_is_the_one_that_is_asked_for() -> None:
    """Only the notes that a frame repeats, not those beside them, matter to a network that sees nothing else."""
    made = network(copy_window=LONG_WINDOW, window=1)
    with torch.no_grad():
        made.frame.weight.zero_()  # the frame before
        made.copies.nothing.fill_(100.0)  # no copies
    asked = ask(1, N_FRAMES, seed=3, mode="continue").unsteered
    asked = dataclasses.replace(asked, repeats=torch.full((1, N_FRAMES), 18))
    changed = dataclasses.replace(asked, given=asked.given.clone())
    changed.given[0, 5] = 0
    changed.given[0, 5, 40:43] = 2
    (_, nll), (_, nats) = asked.write(PieceGenerator(made)), changed.write(PieceGenerator(made))
    moved = np.flatnonzero(np.abs(nats[0] - nll[0])[20:] > 1e-4) + 20  # of the frames that are written
    assert moved[0] == 5 + 18


# --- the end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [1, 20, 39, 40, 41, 60, 168, 169, 10_000])
def test_the_end_is_counted_down_from_chunk_to_chunk(end: int) -> None:
    made = network()
    asked = dataclasses.replace(asked_for(UNKNOWN), end=torch.tensor([end, 0]))
    frames, nll = asked.write(PieceGenerator(made))
    for cuts in CUTS:
        chunked, nats = in_chunks(made, asked, cuts)
        np.testing.assert_array_equal(chunked, frames)
        np.testing.assert_allclose(nats, nll, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(nll, teacher_forced(made, asked, frames), rtol=2e-4, atol=2e-4)


def test_a_distant_end_is_like_any_other_but_not_like_none() -> None:
    writer = PieceGenerator(network())

    def nll(end: int) -> list[float]:
        asked = dataclasses.replace(asked_for(UNKNOWN), end=torch.full((2,), end))
        nats: list[float] = asked.write(writer)[1].ravel().tolist()
        return nats

    assert nll(1_000) == nll(10_000)
    assert nll(1_000) != nll(0)
    assert nll(1_000) != nll(N_FRAMES)


# --- the other conditions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["key", "density", "n_voices", "end"])
def test_each_condition_matters_and_unsuitable_values_are_tamed(name: str) -> None:
    writer = PieceGenerator(network())
    asked = asked_for(UNKNOWN)

    def nll(value: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return dataclasses.replace(asked, **{name: torch.full((2,), value)}).write(writer)[1]

    assert np.abs(nll(1) - nll(0)).max() > 1e-3
    assert np.abs(nll(2) - nll(1)).max() > 1e-3
    for value in (-5, 99, 2**40):
        assert np.isfinite(nll(value)).all()


def test_conditions_of_one_piece_do_not_reach_the_others() -> None:
    writer = PieceGenerator(network())
    asked = ask(8, 24, seed=4)
    together, nll = asked.write(writer)
    for row in range(8):
        alone, nats = asked.rows(row).write(writer)
        np.testing.assert_array_equal(alone[0], together[row])
        np.testing.assert_allclose(nats[0], nll[row], rtol=1e-4, atol=1e-4)
