"""The listening test of `harmonize` with models in memory, and its measures; tests/integration uses a real server."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.client.writers import FakeWriters

from tritone import InvalidInputError, MusicClient, Piece, ServerError
from tritone.music.grid import HELD, STRUCK, Grid
from tritone.operations.plan import highest_voice
from tritone_training import HarmonizationTestResult, harmonization_test
from tritone_training.exceptions import DataError
from tritone_training.musicality.harmony import HARMONY_MEASURES, measure_harmony

# C major, A minor, F major, G major, C major; no parallel fifths or octaves.
CHORDS = ((48, 64, 67, 72), (45, 64, 69, 72), (41, 65, 69, 72), (43, 62, 71, 79), (48, 60, 67, 76))


def chorale(chords: tuple[tuple[int, ...], ...] = CHORDS, *, transposition: int = 0) -> Grid:
    """Half notes in 4/4; the last chord is a whole note."""
    frames = np.zeros((8 * len(chords) + 8, 88), np.uint8)
    for number, chord in enumerate(chords):
        columns = np.array(chord) + transposition - 21
        stop = len(frames) if number == len(chords) - 1 else 8 * number + 8
        frames[8 * number : stop, columns] = HELD
        frames[8 * number, columns] = STRUCK
    return Grid(frames, meter=(16, 0))


def melody_of(grid: Grid) -> Any:
    return highest_voice(grid.frames)


def measured(*chords: tuple[int, ...]) -> dict[str, float]:
    grid = chorale(chords)
    return measure_harmony(grid, melody_of(grid))


def test_all_measures_have_titles() -> None:
    assert set(measured(*CHORDS)) == set(HARMONY_MEASURES)


def test_a_melody_is_accompanied_where_another_note_sounds_at_its_onset() -> None:
    assert measured(*CHORDS)["accompanied"] == 1
    assert measured((72,), (60, 72), (74,), (62, 74))["accompanied"] == 0.5
    assert measured((72,))["accompanied"] == 0
    frames = chorale(((60, 72),)).frames.copy()
    frames[0, 60 - 21] = 0  # the other voice begins later
    frames[1, 60 - 21] = STRUCK
    assert measure_harmony(Grid(frames), highest_voice(frames))["accompanied"] == 0


def test_notes_at_once_are_counted_where_the_melody_sounds() -> None:
    assert measured(*CHORDS)["n_notes"] == 4
    assert measured((72,), (74,), (60, 72))["n_notes"] == 1.5  # the last one is twice as long
    assert measured((72,))["n_notes"] == 1
    silent = Grid(np.zeros((16, 88), np.uint8))
    values = measure_harmony(silent, silent.frames)
    assert math.isnan(values["n_notes"])
    assert math.isnan(values["accompanied"])


def test_ranges_are_of_each_voice_from_the_highest_down() -> None:
    values = measured(*CHORDS)
    assert [values[f"range_{voice}"] for voice in range(1, 5)] == [79 - 72, 71 - 67, 65 - 60, 48 - 41]
    values = measured((60, 72), (62, 74))
    assert [values["range_1"], values["range_2"]] == [2, 2]
    assert math.isnan(values["range_3"])


def test_parallels_are_those_of_the_texture() -> None:
    assert measured(*CHORDS)["parallels"] == 0
    assert measured((60, 72), (62, 74), (64, 76))["parallels"] == 100


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Twenty chorales, and twenty of their melodies as songs."""
    folder = tmp_path / "real"
    for number in range(20):
        grid = chorale(transposition=number % 7)
        for style, each in (("chorale", grid), ("song", Grid(melody_of(grid), meter=grid.meter))):
            (folder / style).mkdir(parents=True, exist_ok=True)
            Piece(each).save(folder / style / f"{number:02d}.mid")
    return folder


@pytest.fixture
def server() -> FakeWriters:
    return FakeWriters(max_batch_size=16)


@pytest.fixture
def music(server: FakeWriters) -> Iterator[MusicClient]:
    with MusicClient("x:1", transport=server, retries=0) as client:
        yield client


def run(music: MusicClient, real: Path, **options: Any) -> HarmonizationTestResult:
    model = options.pop("model", "music_transformer")
    return harmonization_test(music, model, data=real, progress=False, **options)


def test_melodies_of_each_style_are_compared_with_the_style_of_most_voices(music: MusicClient, real: Path) -> None:
    result = run(music, real)
    assert (result.source, result.real_style) == ("music_transformer v3", "chorale")
    assert [(group.style, group.n_candidates) for group in result.groups] == [("chorale", None), ("song", None)]
    for group in result.groups:
        assert group.n_pieces > 0
        values = {name: each.generated.mean for name, each in group.measures.items()}
        # The model writes the octave below.
        assert (values["accompanied"], values["n_notes"]) == (1, 2)
        assert values["parallels"] == 100
        assert values["nll"] == pytest.approx(4, abs=0.3)  # the sum of eight uniform numbers
        assert group.measures["accompanied"].real.mean == 1
        assert group.measures["n_notes"].real.mean == 4
        assert group.measures["accompanied"].is_met
        assert group.measures["n_notes"].is_met is False
    assert result.n_missed == 4  # notes at once, and parallels


def test_the_song_is_sent_and_nothing_of_its_harmony(music: MusicClient, server: FakeWriters, real: Path) -> None:
    run(music, real, n_melodies=1)
    for request in server.asked("music_transformer"):
        assert ((request.inputs["given"] > 0).sum(2) == 1).all()
        assert (request.inputs["given_mode"] == 2).all()


def test_numbers_of_candidates_are_compared(music: MusicClient, server: FakeWriters, real: Path) -> None:
    result = run(music, real, n_melodies=2, n_candidates=(1, 4))
    assert [(group.style, group.n_candidates) for group in result.groups] == [
        ("chorale", 1), ("song", 1), ("chorale", 4), ("song", 4)
    ]  # fmt: skip
    assert {len(request.inputs["noise"]) for request in server.asked("music_transformer")} == {1, 4}
    one, _, four, _ = (group.measures["nll"].generated.mean for group in result.groups)
    assert four <= one


def test_arguments_reach_the_model_and_the_result(music: MusicClient, server: FakeWriters, real: Path) -> None:
    result = run(music, real, n_melodies=1, seed=5, arguments={"temperature": 0.5, "style": "folk"})
    inputs = server.asked("music_transformer")[0].inputs
    assert inputs["temperature"].tolist() == 8 * [[0.5]]  # the client's own number of candidates
    assert inputs["style"].tolist() == 8 * [[2]]
    values = json.loads(json.dumps(result.to_dict()))
    assert (values["seed"], values["arguments"]["style"], values["n_melodies"]) == (5, "folk", 1)
    assert values["groups"][0]["measures"]["accompanied"]["generated"]["mean"] == 1


def test_pieces_are_passed_on_in_order(music: MusicClient, real: Path) -> None:
    seen: list[Any] = []
    result = run(music, real, n_candidates=(4,), on_piece=lambda *about: seen.append(about[:3]))
    assert seen == [(group.style, number, 4) for group in result.groups for number in range(group.n_pieces)]
    assert len(seen) > 2


def test_the_overview_has_a_column_for_each_group(music: MusicClient, real: Path) -> None:
    overview = run(music, real, n_melodies=2, n_candidates=(1, 4)).overview
    assert list(overview.rows[0]) == [
        "", "chorale, 1 candidate", "song, 1 candidate", "chorale, 4 candidates", "song, 4 candidates",
        "real chorale", "target",
    ]  # fmt: skip
    by_title = {row[""]: row for row in overview.rows}
    assert by_title["notes at once (median)"]["song, 1 candidate"] == "2.000 MISSED"
    assert by_title["melody onsets with another voice"]["target"] == ">= 0.98"


@pytest.mark.parametrize("n_melodies", [0, 101, 1.5, True])
def test_the_number_of_melodies_is_checked(
    music: MusicClient, server: FakeWriters, real: Path, n_melodies: Any
) -> None:
    with pytest.raises(InvalidInputError, match="n_melodies"):
        run(music, real, n_melodies=n_melodies)
    assert not server.requests


def test_problems_are_reported(music: MusicClient, real: Path) -> None:
    with pytest.raises(DataError):
        run(music, real / "nowhere")
    with pytest.raises(InvalidInputError, match="n_candidates"):
        run(music, real, n_candidates=(17,))
    with pytest.raises(ServerError) as raised:
        run(music, real, model="music_vae")
    assert raised.value.reason == "unsuitable_model"
