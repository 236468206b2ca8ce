"""Pieces as they are played: instruments, dynamics, articulation, and the grid that comes back from all of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import soundfile
from tests.unit.client.midi_files import random_frames

from tritone import Grid, InvalidInputError, Piece, to_grid
from tritone.music.instruments import GENERAL_MIDI, check_instruments, default_instruments, default_tempo_qpm
from tritone.music.performance import parts_of
from tritone.music.render import render

QUARTET = ("Violin", "Viola", "Cello", "Contrabass")


def grid_of(*notes: tuple[int, int, int], n_frames: int, meter: tuple[int, int] = (16, 0), **more: Any) -> Grid:
    """(onset, length, pitch) in time steps."""
    frames = np.zeros((n_frames, 88), np.uint8)
    for onset, length, pitch in notes:
        frames[onset : onset + length, pitch - 21] = 1
        frames[onset, pitch - 21] = 2
    return Grid(frames, meter=meter, **more)


def chorale(n_bars: int = 8) -> Grid:
    """Four voices in quarters."""
    notes = [(4 * beat, 4, pitch + beat % 3) for beat in range(4 * n_bars) for pitch in (72, 65, 60, 48)]
    return grid_of(*notes, n_frames=16 * n_bars)


def velocities(piece: Piece) -> dict[tuple[int, int], int]:
    """By onset in time steps and pitch."""
    step = piece.score.ticks_per_quarter // piece.grid.frames_per_quarter
    return {(note.time // step, note.pitch): note.velocity for track in piece.score.tracks for note in track.notes}


# --- instruments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("violin", ("Violin",)),
        ("VIOLIN", ("Violin",)),
        (40, ("Violin",)),
        ("40", ("Violin",)),
        (np.int64(0), ("Acoustic Grand Piano",)),
        ("piano", ("Acoustic Grand Piano",)),
        ("acoustic_guitar-nylon", ("Acoustic Guitar (nylon)",)),
        (["flute", 42], ("Flute", "Cello")),
        (QUARTET, QUARTET),
        (127, ("Gunshot",)),
        (None, None),
    ],
)
def test_instruments_are_known_by_name_and_number(given: Any, names: Any) -> None:
    assert check_instruments(given) == names


@pytest.mark.parametrize(
    "given",
    ["", "kazoo", 128, -1, 1.0, True, [], (), ["Violin"] * 5, [None], {"Violin": 1}, b"Violin", "x" * 10_000],
)
def test_unknown_instruments_are_refused(given: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_instruments(given)
    assert caught.value.argument == "instruments"
    assert len(str(caught.value)) < 1_000


def test_similar_names_are_suggested() -> None:
    with pytest.raises(InvalidInputError, match="Violin"):
        check_instruments("violine")


def test_the_names_are_those_of_general_midi() -> None:
    assert len(set(GENERAL_MIDI)) == 128
    places = {0: "Acoustic Grand Piano", 19: "Church Organ", 24: "Acoustic Guitar (nylon)", 40: "Violin"}
    places |= {48: "String Ensemble 1", 52: "Choir Aahs", 56: "Trumpet", 73: "Flute", 110: "Fiddle", 127: "Gunshot"}
    assert {number: GENERAL_MIDI[number] for number in places} == places


def test_styles_have_instruments_and_tempi() -> None:
    assert default_instruments("bach") == ("Choir Aahs",)
    assert default_instruments("ryans") == ("Violin", "Acoustic Guitar (nylon)")
    assert default_instruments("jazz") == default_instruments(None) == ("Acoustic Grand Piano",)
    assert default_tempo_qpm("bach") < default_tempo_qpm("ryans") < default_tempo_qpm(None) == 120
    assert Piece(chorale(), conditions={"style": "bach"}).instruments == ("Choir Aahs",)
    assert Piece(chorale(), conditions={"style": "bach"}, instruments=("Flute",)).instruments == ("Flute",)
    assert Piece(chorale()).played_by("organ", 42).instruments == ("Church Organ", "Cello")
    assert Piece(chorale(), conditions={"style": "ryans"}).played_by("organ").played_by().instruments[0] == "Violin"
    with pytest.raises(InvalidInputError):
        Piece(chorale()).played_by("kazoo")


def test_instruments_are_part_of_the_json() -> None:
    piece = Piece(chorale(), conditions={"style": "bach"}, instruments=("Flute", "Cello"))
    assert piece.to_dict()["instruments"] == ["Flute", "Cello"]
    again = Piece.from_dict(piece.to_dict())
    assert again.instruments == piece.instruments
    old = {name: value for name, value in piece.to_dict().items() if name not in ("conditions", "instruments")}
    assert Piece.from_dict(old).instruments == ("Acoustic Grand Piano",)


# --- parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_parts", "expected"), [(1, [0, 0, 0, 0]), (2, [0, 1, 1, 1]), (3, [0, 1, 1, 2]), (4, [0, 1, 2, 3])]
)
def test_parts_of_four_voices(n_parts: int, expected: list[int]) -> None:
    parts = parts_of(chorale(), n_parts).reshape(-1, 4)[:, ::-1]  # of each chord the highest first
    assert (parts == expected).all()


def test_two_voices_are_the_outer_parts() -> None:
    notes = [(4 * beat, 4, pitch) for beat in range(8) for pitch in (72, 48)]
    for n_parts in (2, 3, 4):
        assert parts_of(grid_of(*notes, n_frames=32), n_parts).reshape(-1, 2)[0].tolist() == [n_parts - 1, 0]


def test_a_bass_note_below_a_rest_stays_in_the_bass() -> None:
    notes = [(4 * beat, 4, pitch) for beat in range(16) for pitch in (76, 45) if (beat, pitch) != (8, 76)]
    parts = parts_of(grid_of(*notes, n_frames=64), 2)
    assert parts.tolist() == [1, 0] * 8 + [1] + [1, 0] * 7


def test_a_chord_of_more_than_four_notes_loses_none() -> None:
    grid = grid_of(*((0, 4, pitch) for pitch in range(50, 70, 2)), n_frames=16)
    piece = Piece(grid, instruments=QUARTET)
    assert piece.score.note_num() == grid.n_notes == 10
    assert np.array_equal(to_grid(piece.to_midi()).frames, grid.frames)


# --- the grid comes back -----------------------------------------------------------------------


@pytest.mark.parametrize("n_parts", [1, 2, 3, 4])
@pytest.mark.parametrize("frames_per_quarter", [1, 3, 4, 24, 96])
def test_the_grid_comes_back_from_midi(n_parts: int, frames_per_quarter: int) -> None:
    for seed in range(4):
        frames = random_frames(seed, n_frames=96, density=2)
        length = 4 * frames_per_quarter
        grid = Grid(frames, frames_per_quarter, (length, length // 2), tempo_qpm=90.0)
        piece = Piece(grid, instruments=QUARTET[:n_parts])
        for ritardando in (False, True):
            again = to_grid(piece.to_midi(ritardando=ritardando), frames_per_quarter=frames_per_quarter)
            assert np.array_equal(again.frames, grid.frames)
            assert again.meter == grid.meter
            assert set(again.dropped) <= ({"tempo_changes"} if ritardando else set())


@pytest.mark.parametrize("n_parts", [1, 2, 4])
def test_the_grid_comes_back_from_musicxml(n_parts: int) -> None:
    for seed in range(3):
        grid = Grid(random_frames(seed, n_frames=64, density=1), meter=(16, 0))
        xml = Piece(grid, instruments=QUARTET[:n_parts]).to_musicxml()
        assert np.array_equal(to_grid(xml).frames, grid.frames)
        for name in QUARTET[:n_parts]:
            assert f"<part-name>{name}</part-name>".encode() in xml
            program = GENERAL_MIDI.index(name) + 1  # MusicXML counts from 1
            assert f"<midi-program>{program}</midi-program>".encode() in xml
        assert xml.count(b"<per-minute>") == 1


def test_a_silent_piece() -> None:
    grid = Grid(np.zeros((32, 88), np.uint8))
    piece = Piece(grid, instruments=("Violin", "Cello"))
    assert piece.score.note_num() == 0
    assert piece.to_midi().startswith(b"MThd")
    assert piece.to_midi(ritardando=True).startswith(b"MThd")
    assert b"<part-name>Violin" in piece.to_musicxml()


def test_the_programs_are_in_the_file() -> None:
    file = mido.MidiFile(file=io.BytesIO(Piece(chorale(), instruments=QUARTET).to_midi()))
    sounding = [track for track in file.tracks if any(message.type == "note_on" for message in track)]
    changes = [next(message for message in track if message.type == "program_change") for track in sounding]
    assert [change.program for change in changes] == [40, 41, 42, 43]
    assert len({change.channel for change in changes}) == 4
    assert 9 not in {change.channel for change in changes}
    assert [track.name for track in sounding] == list(QUARTET)
    assert file.length == pytest.approx(16.0, abs=0.01)


def test_only_parts_with_notes_have_tracks() -> None:
    melody = grid_of(*((4 * beat, 4, 70 + beat) for beat in range(8)), n_frames=32)
    assert [track.name for track in Piece(melody, instruments=("Flute", "Harp")).score.tracks] == ["Flute"]


# --- dynamics and articulation -----------------------------------------------------------------


def test_dynamics_follow_the_bar_the_phrase_and_the_voices() -> None:
    piece = Piece(grid_of(*((step, 1, 72) for step in range(128)), n_frames=128))
    loud = velocities(piece)
    by_place = [np.mean([loud[16 * bar + at, 72] for bar in range(8)]) for at in range(16)]
    downbeat, off, half, beat, middle = (by_place[at] for at in (0, 1, 2, 4, 8))
    assert downbeat > middle > beat > half > off
    arch = [np.mean([loud[16 * bar + at, 72] for at in range(16)]) for bar in range(8)]
    assert arch[0] < arch[1] < arch[2] > arch[3]
    assert arch[4] < arch[5] < arch[6] > arch[7]
    four = velocities(Piece(chorale()))
    top, inner, bass = (np.mean([four[4 * beat, pitch + beat % 3] for beat in range(32)]) for pitch in (72, 65, 48))
    assert top > bass > inner
    assert all(36 <= value <= 116 for value in (*loud.values(), *four.values()))


def test_six_eight_has_two_beats() -> None:
    notes = [(2 * step, 2, 72) for step in range(24)]
    loud = velocities(Piece(grid_of(*notes, n_frames=48, meter=(12, 0), time_signature=(6, 8))))
    by_place = [np.mean([loud[12 * bar + 2 * at, 72] for bar in range(4)]) for at in range(6)]
    assert by_place[0] > by_place[3] > max(by_place[at] for at in (1, 2, 4, 5)) + 2


@pytest.mark.parametrize("meter", [(0, 0), (16, 5), (14, 3), (3, 1), (1, 0)])
def test_every_meter_has_dynamics(meter: tuple[int, int]) -> None:
    piece = Piece(Grid(random_frames(1, n_frames=64, density=2), meter=meter))
    assert piece.score.note_num() == piece.grid.n_notes
    assert len(set(velocities(piece).values())) > 3


def test_the_same_piece_is_always_played_alike() -> None:
    first, again = (Piece(chorale(), conditions={"style": "bach"}).to_midi() for _ in range(2))
    assert first == again


def test_repeated_notes_are_separate_and_others_are_not() -> None:
    piece = Piece(grid_of((0, 4, 60), (4, 4, 60), (8, 4, 62), (12, 4, 64), n_frames=16))
    first, second, third, fourth = sorted(piece.score.tracks[0].notes, key=lambda note: note.time)
    assert first.duration < 480 == third.duration == second.duration == fourth.duration
    samples = render(piece.played_by("Church Organ").score, rate_hz=22_050)
    gap = slice(round(0.46 * 22_050), round(0.5 * 22_050))
    held = slice(round(0.2 * 22_050), round(0.4 * 22_050))
    assert np.sqrt(np.mean(samples[gap] ** 2)) < 0.7 * np.sqrt(np.mean(samples[held] ** 2))


def test_a_ritardando_slows_the_last_bar_down(tmp_path: Path) -> None:
    piece = Piece(chorale(4))
    plain, slowed = (soundfile.info(io.BytesIO(piece.to_wav(ritardando=each))).duration for each in (False, True))
    assert plain == pytest.approx(8.0 + 1.0, abs=0.01)
    assert plain + 0.2 < slowed < plain + 1.0
    path = piece.save(tmp_path / "x.mid", ritardando=True)
    tempos = [mark.qpm for mark in to_score_of(path).tempos]
    assert tempos == sorted(tempos, reverse=True)
    assert tempos[0] == pytest.approx(120)
    assert 70 < tempos[-1] < 85
    slow = Piece(grid_of((0, 16, 60), n_frames=16, tempo_qpm=4.0))
    assert to_grid(slow.to_midi(ritardando=True)).tempo_qpm == pytest.approx(4.0)


def to_score_of(path: Path) -> Any:
    from tritone.music.scores import read_midi

    return read_midi(path)


# --- sound -------------------------------------------------------------------------------------


def spectrum(piece: Piece) -> np.ndarray[Any, Any]:
    samples = render(piece.score, rate_hz=22_050)
    power = np.abs(np.fft.rfft(samples[: 1 << 15])) ** 2
    bands = np.array([part.sum() for part in np.array_split(power[20:], 64)])
    unit: np.ndarray[Any, Any] = bands / np.linalg.norm(bands)
    return unit


def test_instruments_differ_in_sound() -> None:
    piece = Piece(chorale(2))
    spectra = [spectrum(piece.played_by(name)) for name in ("piano", "flute", "choir", "violin", "trumpet")]
    likeness = np.array([[a @ b for b in spectra] for a in spectra])
    assert np.allclose(np.diag(likeness), 1)
    assert likeness[~np.eye(5, dtype=bool)].max() < 0.99


def test_loudness_follows_the_velocities() -> None:
    def level(velocity: int) -> float:
        from tritone.music.scores import to_score

        score = to_score(grid_of((0, 4, 60), (8, 4, 60), n_frames=16))
        score.tracks[0].notes[1].velocity = velocity
        samples = render(score, rate_hz=22_050)
        return float(np.abs(samples[22_050 : 2 * 22_050]).max() / np.abs(samples[:22_050]).max())

    assert level(80) == pytest.approx(1.0, abs=0.02)
    assert level(40) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("style", ["bach", "ryans", "essen", None])
def test_no_sample_is_clipped_and_notes_end_without_a_click(style: str | None) -> None:
    samples = render(Piece(chorale(4), conditions={"style": style}).score, rate_hz=22_050)
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() == pytest.approx(0.9, abs=1e-3)
    assert (np.abs(samples) > 0.899).sum() < 20
    seconds = np.sqrt(np.mean(samples[: 8 * 22_050].reshape(8, -1) ** 2, axis=1))
    assert seconds.min() > 0.25 * seconds.max()  # it sounds throughout
    assert np.abs(samples[-200:]).max() < 0.02
