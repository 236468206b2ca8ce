"""Tests of reading scores: MIDI of every kind becomes a grid, losses are counted, and errors have a reason."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import symusic
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.client.midi_files import END, meter, midi, off, on, random_frames, tempo, track

from tritone import Grid, InvalidInputError, InvalidScoreError, Piece, to_grid, to_score
from tritone.music.grid import MAX_FRAMES

NOTES = track(on(0, 60), off(480, 60), on(0, 64), off(240, 64), END)


def notes(grid: Grid) -> list[tuple[int, int, int]]:
    """(onset, length, pitch) of every note."""
    return [tuple(note) for note in Piece(grid).to_dict()["notes"]]


def single(*events: Any, **header: Any) -> bytes:
    return midi(track(*events, END), **header)


class Pipe(io.BytesIO):
    """A stream that goes one way."""

    def seekable(self) -> bool:
        return False

    def seek(self, *where: int) -> int:
        raise io.UnsupportedOperation("seek")


@given(
    st.integers(0, 2**32),
    st.integers(1, 200),
    st.floats(0.02, 6.0),
    st.sampled_from([1, 2, 3, 4, 6, 7, 8, 12, 24, 96]),
    st.booleans(),
)
def test_grid_to_score_to_midi_to_grid_is_exact(
    seed: int, n_frames: int, density: float, frames_per_quarter: int, metered: bool
) -> None:
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, 9)) * frames_per_quarter  # bars of whole quarters
    grid = Grid(
        random_frames(seed, n_frames=n_frames, density=density),
        frames_per_quarter,
        meter=(length, int(rng.integers(length // frames_per_quarter)) * frames_per_quarter) if metered else (0, 0),
        tempo_qpm=float(rng.uniform(4, 1000)),
    )
    score = to_score(grid)
    for again in (score, score.dumps_midi(), score.to("quarter")):
        read = to_grid(again, frames_per_quarter=frames_per_quarter)
        assert np.array_equal(read.frames, grid.frames)
        assert read.meter == (grid.meter if metered else (4 * frames_per_quarter, 0))
        assert read.tempo_qpm == pytest.approx(grid.tempo_qpm, rel=1e-4)
        assert read.dropped == {}


def test_all_forms_of_a_score(tmp_path: Path) -> None:
    path = tmp_path / "tune.mid"
    path.write_bytes(midi(NOTES))
    expected = [(0, 4, 60), (4, 2, 64)]
    grid = to_grid(path)
    stream = io.BytesIO(midi(NOTES))
    stream.read()  # from its beginning, wherever it stands
    pipe = io.BufferedReader(Pipe(midi(NOTES)))
    score = symusic.Score(str(path))
    for source in (
        str(path),
        path,
        path.read_bytes(),
        bytearray(path.read_bytes()),
        stream,
        pipe,
        score,
        grid,
        Piece(grid),
    ):
        assert notes(to_grid(source)) == expected
    for ttype in ("quarter", "second"):
        assert notes(to_grid(score.to(ttype))) == expected
    assert to_grid(grid) is grid


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_every_type_of_file(kind: int) -> None:
    assert notes(to_grid(midi(NOTES, kind=kind))) == [(0, 4, 60), (4, 2, 64)]


def test_several_tracks_become_one() -> None:
    bass = track(on(240, 40, channel=3), off(960, 40, channel=3), END)
    assert notes(to_grid(midi(track(tempo(0, 500_000), END), NOTES, bass))) == [(0, 4, 60), (2, 8, 40), (4, 2, 64)]


def test_running_status_and_events_in_between() -> None:
    grid = to_grid(
        single(
            (0, b"\xf0\x03\x01\x02\xf7"),  # system exclusive
            (0, b"\xff\x03\x04Tune"),
            (0, b"\xc0\x28"),
            (0, b"\x90\x3c\x40"),
            (120, b"\x3c\x00"),  # a note-on of no loudness ends the note
            (0, b"\xb0\x40\x7f"),
            (0, b"\x90\x3e\x40"),
            (120, b"\x3e\x00"),
        )
    )
    assert notes(grid) == [(0, 1, 60), (1, 1, 62)]
    assert grid.dropped == {}


def test_chunks_of_other_kinds_a_longer_header_and_bytes_after_the_end() -> None:
    alien = b"XFIH" + struct.pack(">I", 3) + b"abc"
    header = b"MThd" + struct.pack(">IHHH", 8, 1, 1, 480) + b"??"
    assert notes(to_grid(header + alien + NOTES + b"more")) == [(0, 4, 60), (4, 2, 64)]


def test_no_end_of_track() -> None:
    assert notes(to_grid(midi(track(on(0, 60), off(480, 60))))) == [(0, 4, 60)]


@pytest.mark.parametrize(
    ("frames_per_s", "ticks_per_frame", "ticks"),
    [(25, 40, 500), (24, 5, 60), (30, 80, 1200), (29, 1, 15), (25, 5, 63)],  # the last two: odd, half a tick
)
def test_time_in_film_frames(frames_per_s: int, ticks_per_frame: int, ticks: int) -> None:
    # At the default tempo a quarter lasts half a second, so these ticks are one quarter.
    division = (256 - frames_per_s) << 8 | ticks_per_frame
    # ... whatever a tempo says, which such files may not have.
    grid = to_grid(single(tempo(0, 250_000), on(ticks, 60), off(ticks, 60), division=division))
    assert notes(grid) == [(4, 4, 60)]
    assert grid.tempo_qpm == 120.0


@pytest.mark.parametrize(
    ("tick", "step"), [(0, 0), (59, 0), (60, 1), (119, 1), (120, 1), (179, 1), (180, 2), (480 * 100 + 61, 401)]
)
def test_onsets_go_to_the_nearest_step(tick: int, step: int) -> None:
    assert notes(to_grid(single(on(tick, 60), off(240, 60))))[0][0] == step


def test_ends_go_to_the_nearest_step_but_a_note_lasts_one() -> None:
    grid = to_grid(
        single(on(0, 60), off(170, 60), on(10, 62), off(30, 62), on(30, 64), off(0, 64)),
    )
    assert notes(grid) == [(0, 1, 60), (2, 1, 62), (2, 1, 64)]
    assert grid.dropped == {"lengthened": 2}


def test_notes_that_do_not_fit_a_grid_are_counted() -> None:
    drums = track(on(0, 36, channel=9), off(120, 36, channel=9), on(0, 38, channel=9), off(120, 38, channel=9), END)
    low_and_high = track(
        on(0, 20), off(240, 20), on(0, 109), off(240, 109), on(0, 127), off(240, 127), on(0, 21), off(240, 21), END
    )
    twice = track(on(0, 70), off(480, 70), END), track(on(0, 70), off(240, 70), END)
    again = track(on(120, 70), off(120, 70), END)
    hanging = track(on(0, 90), on(0, 91), off(120, 91), END)
    grid = to_grid(midi(drums, low_and_high, *twice, again, hanging))
    assert grid.dropped == {"drums": 2, "merged": 1, "out_of_range": 3, "shortened": 1, "unended": 1}
    assert notes(grid) == [(0, 1, 70), (0, 1, 91), (1, 3, 70), (6, 2, 21)]


def test_tempo_is_the_first() -> None:
    assert to_grid(midi(NOTES)).tempo_qpm == 120.0
    changing = single(tempo(0, 1_000_000), on(0, 60), tempo(240, 500_000), tempo(240, 500_000), off(0, 60))
    grid = to_grid(changing)
    assert grid.tempo_qpm == 60.0
    assert grid.dropped == {"tempo_changes": 1}
    assert notes(grid) == [(0, 4, 60)]  # in quarters, whatever they last


@pytest.mark.parametrize("microseconds", [0, 1, 16_777_215])
def test_extreme_tempos_are_ignored_or_limited(microseconds: int) -> None:
    grid = to_grid(single(tempo(0, microseconds), on(0, 60), off(480, 60)))
    assert grid.tempo_qpm == 120.0


@pytest.mark.parametrize(
    ("events", "expected", "n_changes"),
    [
        ([], (16, 0), 0),
        ([meter(0, 3, 2)], (12, 0), 0),
        ([meter(0, 6, 3)], (12, 0), 0),
        ([meter(0, 2, 1)], (16, 0), 0),
        ([meter(0, 5, 4)], (5, 0), 0),
        ([meter(0, 1, 2), meter(480, 4, 2)], (16, 12), 0),  # an upbeat of a quarter, as notation programs write it
        ([meter(0, 3, 3), meter(720, 6, 3)], (12, 6), 0),
        ([meter(0, 4, 2), meter(1920, 3, 2)], (16, 0), 1),  # a change, not an upbeat
        ([meter(0, 2, 2), meter(1920, 3, 2)], (8, 0), 1),  # two bars, not an upbeat
        ([meter(0, 4, 2), meter(0, 4, 2), meter(960, 4, 2)], (16, 0), 0),
        ([meter(480, 4, 2)], (16, 12), 0),
        ([meter(0, 3, 5)], (0, 0), 0),  # bars of one and a half steps
        ([meter(0, 0, 2)], (16, 0), 0),
        ([meter(0, 4, 8)], (16, 0), 0),  # quarters of a 64th: symusic's number overflows
        ([meter(0, 255, 0)], (4080, 0), 0),
    ],
)
def test_meter(events: list[Any], expected: tuple[int, int], n_changes: int) -> None:
    grid = to_grid(midi(track(*deltas(events), END), NOTES))
    assert grid.meter == expected
    assert grid.dropped == ({"meter_changes": n_changes} if n_changes else {})


def deltas(events: list[Any]) -> list[Any]:
    """Events at times to events after each other."""
    before = [0, *(at for at, _ in events)]
    return [(at - last, event) for last, (at, event) in zip(before, events, strict=False)]


def test_an_upbeat_written_with_rests_keeps_them() -> None:
    grid = to_grid(single(meter(0, 4, 2), on(1440, 60), off(480, 60), on(0, 62), off(480, 62)))
    assert grid.meter == (16, 0)
    assert notes(grid) == [(12, 4, 60), (16, 4, 62)]


def test_128_notes_at_once() -> None:
    events = [on(0, pitch) for pitch in range(128)] + [off(480 * (pitch == 0), pitch) for pitch in range(128)]
    grid = to_grid(single(*events))
    assert grid.dropped == {"out_of_range": 40}
    assert (grid.frames == 2).sum() == 88
    assert to_grid(midi(*[track(*events, END)] * 3)).dropped == {"merged": 2 * 88, "out_of_range": 3 * 40}


def test_finer_and_coarser_grids() -> None:
    data = single(on(0, 60), off(40, 60), on(0, 62), off(40, 62), on(0, 64), off(40, 64))
    assert notes(to_grid(data, frames_per_quarter=12)) == [(0, 1, 60), (1, 1, 62), (2, 1, 64)]
    assert to_grid(data, frames_per_quarter=12).meter == (48, 0)
    again = to_grid(to_grid(data, frames_per_quarter=12), frames_per_quarter=24)
    assert notes(again) == [(0, 2, 60), (2, 2, 62), (4, 2, 64)]
    coarse = to_grid(to_grid(single(on(0, 60), off(10, 60), on(10, 60), off(480, 60))), frames_per_quarter=1)
    assert coarse.dropped == {"lengthened": 1, "merged": 1}  # of both readings


@pytest.mark.parametrize("frames_per_quarter", [0, -4, 97, 2.5, "4"])
def test_invalid_resolutions(frames_per_quarter: Any) -> None:
    with pytest.raises(InvalidScoreError) as caught:
        to_grid(midi(NOTES), frames_per_quarter=frames_per_quarter)
    assert caught.value.argument == "frames_per_quarter"


LONG = 120 * MAX_FRAMES
BAD: list[tuple[str, bytes, str, str]] = [
    ("empty", b"", "empty", "0 bytes"),
    ("text", b"Once upon a time\n", "not_midi", "begins with b'Once"),
    ("an ABC tune without notes", b"X:1\nT:Tune\nK:G\n", "empty", "no notes"),
    ("wav", b"RIFF\x00\x00\x00\x00WAVEfmt ", "not_midi", "MThd"),
    ("header only begun", b"MThd\x00\x00", "truncated", "header"),
    ("no tracks", midi(), "empty", "no notes"),
    ("no notes", single(tempo(0, 500_000)), "empty", "no notes"),
    ("drums only", single(on(0, 36, channel=9), off(9, 36, channel=9)), "empty", "left out: 1 drums"),
    ("out of range only", single(on(0, 5), off(9, 5)), "empty", "left out: 1 out_of_range"),
    ("unended only", single(on(0, 60)), "empty", "left out: 1 unended"),
    ("half a track", midi(NOTES)[:-9], "truncated", "track 1 of 1"),
    ("all tracks are missing", midi(NOTES, NOTES)[:14], "truncated", "none of its 2 tracks"),
    ("a track's header breaks off", midi(NOTES, NOTES)[: 14 + len(NOTES) + 6], "truncated", "header of track 2 of 2"),
    ("type 5", midi(NOTES, kind=5), "unreadable", "type 5"),
    ("division 0", midi(NOTES, division=0), "unreadable", "division 0"),
    ("division of nothing", midi(NOTES, division=0xE700), "unreadable", "no ticks"),
    ("no event", single((0, b"\x3c\x40")), "unreadable", "expected a MIDI event"),
    ("an event breaks off", midi(track(on(0, 60), (9, b"\x80\x3c"))), "truncated", "last event of track 1"),
    ("a text breaks off", midi(track(on(0, 60), (9, b"\xff\x01\x7fabc"))), "truncated", "last event"),
    ("a number breaks off", midi(track(on(0, 60), (0, b"\x80\x3c\x00\xff"))), "truncated", "last event"),
    ("40 minutes", single(on(0, 60), off(480 * 40 * 120, 60)), "too_long", "19,200 time steps; at most 16,384"),
    ("one step too many", single(on(LONG, 60), off(1, 60)), "too_long", "16,385"),
    ("centuries", single(*[event for _ in range(9) for event in (on(2**28 - 1, 60), off(9, 60))]), "too_long", "ticks"),
    ("huge", b"MThd" + bytes(1 << 22), "too_long", "4,194,304"),
]


@pytest.mark.parametrize(("data", "reason", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_errors_on_invalid_scores_have_a_reason(data: bytes, reason: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "tune.mid"
    path.write_bytes(data)
    for source, name in ((path, str(path)), (data, f"<{len(data)} bytes>")):
        with pytest.raises(InvalidScoreError) as caught:
            to_grid(source)
        assert caught.value.reason == reason
        assert caught.value.path == name
        assert name in str(caught.value)
        assert message in str(caught.value)


def test_the_longest_score_that_can_be_read() -> None:
    assert to_grid(single(on(LONG - 120, 60), off(120, 60))).n_frames == MAX_FRAMES


def test_sources_that_are_not_files(tmp_path: Path) -> None:
    closed = io.BytesIO()
    closed.close()
    cases: list[tuple[Any, str, str]] = [
        (tmp_path / "none.mid", "missing", "does not exist"),
        (tmp_path, "missing", "is a folder"),
        ("/dev/null", "missing", "not a regular file"),
        ("a\0b", "missing", "does not exist"),
        (io.StringIO("text"), "unreadable", "binary mode"),
        (closed, "unreadable", "cannot be read"),
        (7, "bad_shape", "got int"),
        (None, "bad_shape", "got NoneType"),
        ([[60, 64]], "bad_shape", "got list"),
    ]
    for source, reason, message in cases:
        with pytest.raises(InvalidScoreError, match=message) as caught:
            to_grid(source)
        assert caught.value.reason == reason
        assert isinstance(caught.value, InvalidInputError)


def test_a_symusic_score_that_cannot_be_read() -> None:
    score: Any = symusic.Score(480)
    with pytest.raises(InvalidScoreError) as caught:
        to_grid(score)
    assert caught.value.reason == "empty"
    score.tracks.append(symusic.Track())
    score.tracks[0].notes.append(symusic.Note(-480, 240, 60, 80))
    with pytest.raises(InvalidScoreError, match="before its time 0") as caught:
        to_grid(score)
    assert caught.value.reason == "bad_shape"
    score.ticks_per_quarter = 0
    with pytest.raises(InvalidScoreError, match="ticks in a quarter") as caught:
        to_grid(score)
    assert caught.value.reason == "bad_shape"


READ_ALL = """
import sys
from tritone import InvalidScoreError, to_grid
read = 0
for line in sys.stdin:
    try:
        to_grid(bytes.fromhex(line))
        read += 1
    except InvalidScoreError:
        pass
print(read)
"""


def read_in_another_process(files: list[bytes]) -> int:
    """How many can be read; fails if one brings the process down."""
    lines = "\n".join(data.hex() for data in files)
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL], input=lines, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_damaged_files_never_bring_the_process_down() -> None:
    whole = to_score(Grid(random_frames(1, n_frames=64, density=2), meter=(16, 4))).dumps_midi()
    chance = np.random.default_rng(0)
    files = []
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(chance.integers(1, 7)):
            place = int(chance.integers(14, max(15, len(data))))
            match int(chance.integers(4)):
                case 0:
                    data[place : place + 1] = chance.bytes(1)
                case 1:
                    data = data[:place]
                case 2:
                    data[place:place] = chance.bytes(3)
                case 3:
                    del data[place : place + int(chance.integers(1, 6))]
        files.append(bytes(data))
    assert 0 < read_in_another_process(files) < 1500


def test_pitches_over_127_never_bring_the_process_down() -> None:
    # symusic by itself writes beyond its tables then.
    chance = np.random.default_rng(0)
    files = []
    for _ in range(100):
        events = []
        for _ in range(200):
            channel, pitch = int(chance.integers(16)), int(chance.integers(128, 256))
            delta = int(chance.integers(100))
            events += [on(delta, pitch, channel=channel), off(delta, pitch, channel=channel)]
        files.append(single(*events))
    read_in_another_process(files)


def test_the_counts_add_up_on_random_scores() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        score: Any = symusic.Score(480)
        score.tracks.append(symusic.Track())
        for _ in range(200):
            onset, length = int(rng.integers(0, 4000)), int(rng.integers(1, 900))
            score.tracks[0].notes.append(symusic.Note(onset, length, int(rng.integers(10, 120)), 80))
        grid = to_grid(score)
        counts = Counter(grid.dropped)
        assert grid.n_notes == 200 - counts["out_of_range"] - counts["merged"]
