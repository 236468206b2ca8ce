"""Tests of MIDI files that violate the format: they give the right notes, or an error with the reason."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.client.midi_files import END, Event, meter, midi, off, on, tempo, track, variable_length

from tritone import Grid, InvalidScoreError, to_grid
from tritone.music.grid import notes_of
from tritone.music.scores import read_midi
from tritone.music.smf import MAX_BYTES, parse_midi

SYSEX = b"\xf0\x05\x7e\x7f\x09\x01\xf7"
ESCAPE = b"\xf7\x02\xf3\x01"
NOTES = track(on(0, 60), off(480, 60), on(0, 64), off(240, 64), END)
NOTES_READ = [(0, 4, 60), (4, 2, 64)]
BASS = track(on(0, 40, channel=1), off(960, 40, channel=1), END)


def notes(grid: Grid) -> list[tuple[int, int, int]]:
    onset, end, pitch = notes_of(grid)
    return list(zip(onset.tolist(), (end - onset).tolist(), pitch.tolist(), strict=True))


def header(n_tracks: int, *, length: int = 6, kind: int = 1, division: int = 480) -> bytes:
    return b"MThd" + struct.pack(">IHHH", length, kind, n_tracks, division)


def with_length(chunk: bytes, length: int) -> bytes:
    return chunk[:4] + struct.pack(">I", length) + chunk[8:]


def running(between: bytes | None, *, n: int = 16) -> bytes:
    """Notes of a sixteenth under one status byte, with an event in the middle."""
    events: list[Event] = [(0, b"\x90\x3c\x50"), (120, b"\x3c\x00")]
    for number in range(1, n):
        if number == n // 2 and between is not None:
            events.append((0, between))
        events += [(0, bytes([60 + number, 0x50])), (120, bytes([60 + number, 0]))]
    return midi(track(*events, END))


@pytest.mark.parametrize(
    "between", [None, SYSEX, b"\xf0\x03\x01\x02\x03", ESCAPE, b"\xf7\x00", SYSEX + b"\x00" + ESCAPE, b"\xff\x01\x02hi"]
)
def test_running_status_goes_on_after_system_exclusive_escapes_and_meta_events(between: bytes | None) -> None:
    grid = to_grid(running(between))
    assert notes(grid) == [(step, 1, 60 + step) for step in range(16)]
    assert grid.dropped == {}


def test_a_note_held_across_a_system_exclusive_message() -> None:
    grid = to_grid(midi(track(on(0, 60), (240, SYSEX), (240, b"\x3c\x00"), (0, b"\x3e\x50"), (480, b"\x3e\x00"), END)))
    assert notes(grid) == [(0, 4, 60), (4, 4, 62)]


@pytest.mark.parametrize("between", [SYSEX, ESCAPE])
def test_running_status_before_any_status_is_an_error(between: bytes) -> None:
    with pytest.raises(InvalidScoreError, match="expected a MIDI event") as caught:
        to_grid(midi(track((0, between), (0, b"\x3c\x40"), END)))
    assert caught.value.reason == "unreadable"


def test_running_status_does_not_go_on_in_the_next_track() -> None:
    with pytest.raises(InvalidScoreError, match="expected a MIDI event") as caught:
        to_grid(midi(NOTES, track((0, b"\x3c\x40"), END)))
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(("n_claimed", "n_missing"), [(0, 0), (1, 0), (2, 0), (3, 1), (65_535, 65_533)])
def test_tracks_are_those_in_the_file(n_claimed: int, n_missing: int) -> None:
    for kind in (0, 1, 2):
        grid = to_grid(header(n_claimed, kind=kind) + NOTES + BASS)
        assert notes(grid) == [(0, 8, 40), *NOTES_READ]
        assert grid.dropped == ({"missing_tracks": n_missing} if n_missing else {})


@pytest.mark.parametrize("length", [0, 1, 7, 21, 23, 1_148, 2**31, 2**32 - 1])
@pytest.mark.parametrize("after", [b"", BASS])
def test_the_declared_length_of_a_track_is_not_trusted(length: int, after: bytes) -> None:
    grid = to_grid(header(2 if after else 1) + with_length(NOTES, length) + after)
    assert notes(grid) == ([(0, 8, 40), *NOTES_READ] if after else NOTES_READ)
    assert grid.dropped == {}


@pytest.mark.parametrize("length", [0, 4, 5, 7, 1_000, 2**32 - 1])
def test_the_declared_length_of_the_header_is_not_trusted(length: int) -> None:
    assert notes(to_grid(header(1, length=length) + NOTES)) == NOTES_READ


def test_end_of_track_closes_a_track_and_the_rest_is_counted() -> None:
    more = b"".join(variable_length(delta) + event for delta, event in (on(0, 70), off(480, 70)))
    behind_the_end = with_length(NOTES, len(NOTES) - 8 + len(more)) + more
    grid = to_grid(header(2) + behind_the_end + BASS)
    assert notes(grid) == [(0, 8, 40), *NOTES_READ]
    assert grid.dropped == {"skipped_bytes": len(more)}


@pytest.mark.parametrize(
    ("between", "after", "dropped"),
    [
        (b"", b"\x00", {"skipped_bytes": 1}),
        (b"", bytes(3_000), {"skipped_bytes": 3_000}),
        (b"", b"<html>not found</html>", {"skipped_bytes": 22}),
        (b"\x00\x00\x00", b"", {"skipped_bytes": 3}),
        (b"\xff" * 100, b"junk", {"skipped_bytes": 104}),
        (b"XFIH" + struct.pack(">I", 3) + b"abc", b"", {"skipped_chunks": 1}),
        (b"XFIH" + struct.pack(">I", 3) + b"abc", b"XFKM" + bytes(4), {"skipped_chunks": 2}),
        (b"junk" + struct.pack(">I", 99_999) + b"abc", b"", {"skipped_bytes": 11}),
        (b"", midi(NOTES), {"skipped_bytes": len(midi(NOTES))}),  # a second file is not laid over the first
    ],
)
def test_other_bytes_are_skipped_and_counted(between: bytes, after: bytes, dropped: Any) -> None:
    grid = to_grid(header(2) + NOTES + between + BASS + after)
    assert notes(grid) == [(0, 8, 40), *NOTES_READ]
    assert grid.dropped == dropped


@pytest.mark.parametrize("after", [b"", b"\x00", bytes(500), b"junk", b"\x81\x82\x83", b"XFIH" + bytes(4)])
def test_a_track_without_an_end_ends_at_its_length(after: bytes) -> None:
    assert notes(to_grid(midi(track(on(0, 60), off(480, 60))) + after)) == [(0, 4, 60)]
    assert notes(to_grid(header(2) + track(on(0, 60), off(480, 60)) + after + BASS)) == [(0, 8, 40), (0, 4, 60)]


@pytest.mark.parametrize(
    ("events", "tempo_qpm", "n_changes"),
    [
        ([tempo(480, 1_000_000)], 120.0, 1),
        ([tempo(480, 500_000)], 120.0, 0),  # the tempo that held before
        ([tempo(480, 1_000_000), tempo(480, 750_000)], 120.0, 2),
        ([tempo(0, 1_000_000), tempo(480, 500_000)], 60.0, 1),
        ([tempo(0, 1_000_000), tempo(0, 750_000)], 80.0, 0),  # at one time, the last holds
        ([tempo(10, 1_000_000)], 60.0, 0),  # within the first time step
    ],
)
def test_the_tempo_is_120_before_the_first_tempo_event(events: list[Event], tempo_qpm: float, n_changes: int) -> None:
    grid = to_grid(midi(track(*events, END), NOTES))
    assert grid.tempo_qpm == pytest.approx(tempo_qpm)
    assert grid.dropped == ({"tempo_changes": n_changes} if n_changes else {})


@pytest.mark.parametrize(
    ("events", "expected", "signature", "n_changes"),
    [
        ([meter(480, 3, 2)], (16, 0), (4, 4), 1),
        ([meter(1920, 3, 2)], (16, 0), (4, 4), 1),
        ([meter(1920, 5, 2)], (16, 0), (4, 4), 1),  # no upbeat either: nothing was written before it
        ([meter(1920, 6, 3), meter(1440, 2, 1)], (16, 0), (4, 4), 2),
        ([meter(1920, 4, 2)], (16, 0), (4, 4), 0),
        ([meter(480, 4, 2)], (16, 12), (4, 4), 0),
        ([meter(0, 3, 2), meter(1440, 6, 3)], (12, 0), (3, 4), 1),  # bars of one length, but another signature
    ],
)
def test_the_meter_is_4_4_before_the_first_time_signature(
    events: list[Event], expected: tuple[int, int], signature: tuple[int, int], n_changes: int
) -> None:
    grid = to_grid(midi(track(*events, END), NOTES))
    assert (grid.meter, grid.time_signature) == (expected, signature)
    assert grid.dropped == ({"meter_changes": n_changes} if n_changes else {})


OTHERS = [
    midi(track(tempo(0, microseconds), meter(0, numerator, 3), END), NOTES)
    for microseconds, numerator in ((250_000, 3), (1_000_000, 7), (300_000, 255))
]


@pytest.mark.parametrize("event", [b"\xff\x51", b"\xff\x58"], ids=["tempo", "time signature"])
@pytest.mark.parametrize("content", [b"", b"\x07", b"\x07\xa1", b"\x0f\x42\x40\x00\x01", b"\x03\x02\x18\x08\x00\x00"])
@pytest.mark.parametrize("where", ["first", "last", "last without an end"])
def test_a_tempo_or_time_signature_of_a_wrong_length_is_ignored(event: bytes, content: bytes, where: str) -> None:
    damaged = (0, event + variable_length(len(content)) + content)
    rest = [on(0, 60), off(480, 60)]
    events = [damaged, *rest, END] if where == "first" else [*rest, damaged, *([END] if where == "last" else [])]
    data = midi(track(*events))
    for other in OTHERS:
        assert to_grid(other).tempo_qpm != 120.0  # what is left of it in memory must not be read
        grid = to_grid(data)
        assert (grid.tempo_qpm, grid.meter, grid.time_signature) == (120.0, (16, 0), (4, 4))
        assert notes(grid) == [(0, 4, 60)]
        assert grid.dropped == {"malformed_events": 1}


@pytest.mark.parametrize("kind", [0x00, 0x03, 0x06, 0x20, 0x2E, 0x54, 0x59, 0x7F])
@pytest.mark.parametrize("content", [b"", b"\x01", bytes(200)])
def test_other_meta_events_of_any_length_change_nothing(kind: int, content: bytes) -> None:
    event = bytes([0xFF, kind]) + variable_length(len(content)) + content
    assert notes(to_grid(midi(track((0, event), on(0, 60), (480, event), off(0, 60), (0, event), END)))) == [(0, 4, 60)]


def riff(*chunks: tuple[bytes, bytes], name: bytes = b"RMID") -> bytes:
    body = name
    for kind, content in chunks:
        body += kind + struct.pack("<I", len(content)) + content + b"\x00" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("name", ["a.rmi", "a.mid", "a.kar", "a.smf", "A.RMI"])
def test_riff_files_are_unwrapped_under_any_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for data in (
        riff((b"data", midi(NOTES))),
        riff((b"LIST", b"INFOINAM\x04\x00\x00\x00tune"), (b"data", midi(NOTES)), (b"LIST", b"INFO")),
        riff((b"data", midi(NOTES)), (b"RIFF", b"DLS " + bytes(MAX_BYTES))),  # with a sound bank, larger than a score
    ):
        path.write_bytes(data)
        for source in (path, data, io.BytesIO(data)):
            grid = to_grid(source)
            assert notes(grid) == NOTES_READ
            assert grid.dropped == {}
        assert read_midi(path).note_num() == 2


@pytest.mark.parametrize("size", [0, 3, 2**32 - 1])
def test_the_sizes_in_a_riff_file_are_not_trusted(size: int) -> None:
    data = riff((b"data", midi(NOTES)))
    assert notes(to_grid(data[:4] + struct.pack("<I", size) + data[8:16] + struct.pack("<I", size) + data[20:])) == (
        NOTES_READ
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (riff(), "not_midi"),
        (riff((b"LIST", b"INFO")), "not_midi"),
        (riff((b"data", b"")), "not_midi"),
        (riff((b"data", b"no MIDI")), "not_midi"),
        (riff((b"data", midi(NOTES)[:-9])), "truncated"),
        (riff((b"fmt ", bytes(16)), (b"data", midi(NOTES)), name=b"WAVE"), "not_midi"),
    ],
)
def test_riff_files_without_a_score(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidScoreError) as caught:
        to_grid(data)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(midi(NOTES), mtime=0), "gzip: unpack it"),
        (b"PK\x03\x04" + bytes(30), "ZIP archive"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b'<?xml version="1.0"?><svg/>', "save MusicXML as MIDI"),
        (b"ID3\x04\x00", "recording"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "sound"),
    ],
)
def test_files_of_other_formats_are_reported_by_name(data: bytes, message: str) -> None:
    with pytest.raises(InvalidScoreError, match=message) as caught:
        to_grid(data)
    assert caught.value.reason == "not_midi"


def test_macbinary_files_are_unwrapped() -> None:
    grid = to_grid(b"\x00\x08tune.mid" + bytes(118) + midi(NOTES) + bytes(10))
    assert notes(grid) == NOTES_READ
    assert grid.dropped == {"skipped_bytes": 10}


@pytest.mark.parametrize(
    ("events", "reason", "message"),
    [
        ([(0, b"\x90\x3c\x80"), off(9, 60)], "unreadable", "from 0 to 127"),
        ([(0, b"\x90\xc3\x40"), off(9, 60)], "unreadable", "from 0 to 127"),
        ([(0, b"\xb0\x07\xff"), on(0, 60), off(9, 60)], "unreadable", "from 0 to 127"),
        ([(0, b"\xf8"), on(0, 60), off(9, 60)], "unreadable", "expected a MIDI event"),
        ([(0, b"\xf4\x00"), on(0, 60), off(9, 60)], "unreadable", "expected a MIDI event"),
        ([on(0, 60), off(480, 60), (0, b"\xff\x01\xff\xff\xff\x7fabc")], "truncated", "last event"),
        ([on(0, 60), off(480, 60), (0, b"\xff\x01\x83\xff\xff\xff\x7f")], "unreadable", "four bytes"),
        ([on(0, 60), off(480, 60), (0, b"\xf0\x7f\x01")], "truncated", "last event"),
    ],
)
def test_damaged_events_are_errors(events: list[Event], reason: str, message: str) -> None:
    for after in ((), (BASS,)):
        with pytest.raises(InvalidScoreError, match=message) as caught:
            to_grid(midi(track(*events), *after))
        assert caught.value.reason == reason


def test_a_time_of_five_bytes_is_an_error() -> None:
    body = b"\x80\x80\x80\x80\x00\x90\x3c\x40" + b"\x60\x80\x3c\x00\x00\xff\x2f\x00"
    with pytest.raises(InvalidScoreError, match="four bytes"):
        to_grid(header(1) + b"MTrk" + struct.pack(">I", len(body)) + body)


def test_drop_frame_time_code_has_29_97_frames_per_second() -> None:
    division = (256 - 29) << 8 | 100
    second = 2997  # 29.97 frames of 100 ticks
    grid = to_grid(midi(track(on(100 * second, 60), off(second, 60), END), division=division))
    assert notes(grid) == [(800, 8, 60)]


@pytest.mark.parametrize("frames_per_s", [1, 23, 60, 128])
def test_other_frame_rates_are_errors(frames_per_s: int) -> None:
    with pytest.raises(InvalidScoreError, match="SMPTE") as caught:
        to_grid(midi(NOTES, division=(256 - frames_per_s) << 8 | 40))
    assert caught.value.reason == "unreadable"


def test_overlapping_notes_of_one_pitch_keep_both_beginnings() -> None:
    grid = to_grid(midi(track(on(0, 60), on(480, 60), off(480, 60), off(480, 60), END)))
    assert notes(grid)[0] == (0, 4, 60)
    assert notes(grid)[1][:1] == (4,)
    assert grid.dropped == {"shortened": 1}


HOSTILE = {
    "zeros": bytes(64 << 20),
    "zeros after a header": header(1) + bytes(64 << 20),
    "zeros after a track": midi(NOTES) + bytes(64 << 20),
    "empty tracks": header(1) + (b"MTrk" + bytes(4)) * (MAX_BYTES // 8 - 2),
    "tracks without lengths": header(1) + (b"MTrk\x00\x00\x00\x05\x00\x90\x3c\x40\x00\x01") * (MAX_BYTES // 14 - 2),
    "junk between tracks": header(1) + (b"MTrk" + bytes(4) + b"\xff") * (MAX_BYTES // 9 - 2),
    "notes": header(1) + b"MTrk\xff\xff\xff\xff" + b"\x01\x90\x3c\x40" * (MAX_BYTES // 4 - 6),
    "riff in riff": b"RIFF\x00\x00\x00\x00RMID" + b"LIST\x00\x00\x00\x00" * (MAX_BYTES // 8),
}


READ_ONE = """
import resource, sys, time
from tritone import InvalidScoreError, to_grid
from tritone.music.symusic_scores import require_symusic
require_symusic()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.process_time()
try:
    to_grid(sys.argv[1])
except InvalidScoreError as error:
    print(time.process_time() - begin, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, error)
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_bounded_time_and_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.mid"
    path.write_bytes(HOSTILE[name])
    command = [sys.executable, "-c", READ_ONE, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    cpu_s, mebibytes, message = done.stdout.split(maxsplit=2)
    assert str(path) in message
    assert float(cpu_s) < 30
    assert int(mebibytes) < 400


@dataclass(frozen=True)
class TwoForms:
    """The same notes in an irregular file and in a plain one, which other readers can read."""

    irregular: bytes
    plain: bytes


PITCHES = st.integers(0, 127)
DELTAS = st.integers(0, 8).map(lambda steps: steps * 120)
NOTE_EVENTS = st.tuples(DELTAS, PITCHES, st.sampled_from([0, 64]), st.integers(0, 8), st.booleans())
BETWEEN = st.sampled_from(
    [b"", SYSEX, ESCAPE, b"\xff\x01\x03abc", b"\xff\x7f\x00", b"\xff\x51\x00", b"\xff\x59\x01\x00"]
)
LENGTHS = st.sampled_from([None, 0, 5, 2**32 - 1])
JUNK = st.sampled_from([b"", b"\x00", b"junk", b"\xff\xff\xff"])


@st.composite
def files(draw: st.DrawFn) -> TwoForms:
    irregular, plain = b"", b""
    n_tracks = draw(st.integers(1, 3))
    for _ in range(n_tracks):
        body, plain_body, status = b"", b"", 0
        for delta, pitch, velocity, channel, is_off in draw(st.lists(NOTE_EVENTS, min_size=1, max_size=12)):
            new = (0x80 if is_off else 0x90) | channel
            event = variable_length(delta), bytes([new]), bytes([pitch, velocity])
            plain_body += b"".join(event)
            body += event[0] + (b"" if new == status else event[1]) + event[2]
            between = draw(BETWEEN)
            body += b"\x00" + between if between else b""
            status = new
        plain_track = b"MTrk" + struct.pack(">I", len(plain_body) + 4) + plain_body + b"\x00\xff\x2f\x00"
        length = draw(LENGTHS)
        body += b"\x00\xff\x2f\x00"
        irregular += b"MTrk" + struct.pack(">I", len(body) if length is None else length) + body + draw(JUNK)
        plain += plain_track
    n_claimed = draw(st.sampled_from([0, n_tracks, 65_535]))
    return TwoForms(header(n_claimed, length=draw(st.sampled_from([6, 0, 99]))) + irregular, header(n_tracks) + plain)


def by_mido(data: bytes) -> Counter[tuple[int, int, int]]:
    """(onset, end, pitch) of each note; the first that began is the first that ends."""
    found: Counter[tuple[int, int, int]] = Counter()
    for each in mido.MidiFile(file=io.BytesIO(data)).tracks:
        open_notes: dict[tuple[int, int], list[int]] = {}
        ticks = 0
        for message in each:
            ticks += message.time
            if message.type == "note_on" and message.velocity > 0:
                open_notes.setdefault((message.channel, message.note), []).append(ticks)
            elif message.type in {"note_on", "note_off"} and open_notes.get((message.channel, message.note)):
                found[open_notes[message.channel, message.note].pop(0), ticks, message.note] += 1
    return found


@settings(derandomize=True, max_examples=300)
@given(files())
def test_the_notes_are_those_that_mido_reads(file: TwoForms) -> None:
    expected = by_mido(file.plain)
    assert by_mido(parse_midi(file.irregular).data) == expected
    score = read_midi(file.irregular)
    assert Counter((n.time, n.time + n.duration, n.pitch) for each in score.tracks for n in each.notes) == expected


@settings(derandomize=True, max_examples=400)
@given(files(), st.data())
def test_any_damage_gives_notes_or_an_error(file: TwoForms, draw: st.DataObject) -> None:
    damaged = bytearray(draw.draw(st.sampled_from([file.irregular, file.plain])))
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, max(0, len(damaged) - 1)))
        damaged[place : place + draw.draw(st.integers(0, 3))] = draw.draw(st.binary(max_size=3))
    try:
        first = to_grid(bytes(damaged))
    except InvalidScoreError as error:
        assert error.reason in {"not_midi", "truncated", "unreadable", "empty", "too_long"}  # noqa: PT017
        return
    to_grid(OTHERS[1])
    again = to_grid(bytes(damaged))
    assert np.array_equal(first.frames, again.frames)
    assert (first.tempo_qpm, first.meter, first.dropped) == (again.tempo_qpm, again.meter, again.dropped)
