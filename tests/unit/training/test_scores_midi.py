"""A folder of MIDI files: what is read, and that nothing is dropped without a word."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritone import Grid, Piece
from tritone_training.data.scores import load_scores
from tritone_training.exceptions import DataError


def tune(seed: int, *, n_frames: int = 16) -> Piece:
    rng = np.random.default_rng(seed)
    frames = np.zeros((n_frames, 88), np.uint8)
    frames[np.arange(n_frames), rng.integers(88, size=n_frames)] = 2
    return Piece(Grid(frames, meter=(12, 4)))


def test_a_style_for_each_folder(tmp_path: Path) -> None:
    for index, name in enumerate(("reels/a.mid", "reels/old/b.MID", "jigs/c.midi", "d.mid")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        tune(index).save(tmp_path / "x.mid").rename(tmp_path / name)
    scores = load_scores(tmp_path, progress=False)
    assert {piece.name: piece.style for piece in scores.pieces} == {
        "d.mid": tmp_path.name,
        "jigs/c.midi": "jigs",
        "reels/a.mid": "reels",
        "reels/old/b.MID": "reels",
    }
    assert scores.styles == tuple(sorted({"reels", "jigs", tmp_path.name}))
    assert scores.has_onsets
    assert scores.frames_per_quarter == 4
    piece = next(piece for piece in scores.pieces if piece.name == "reels/a.mid")
    assert np.array_equal(piece.frames, tune(0).grid.frames)
    assert piece.meter == (12, 4)
    assert piece.voices is None


def test_the_other_names_of_midi_files(tmp_path: Path) -> None:
    for index, name in enumerate(("a.kar", "b.smf", "c.RMI", "d.rmi", "e.midi")):
        data = tune(index).to_midi()
        if name.casefold().endswith(".rmi"):
            size = struct.pack("<I", len(data))
            data = b"RIFF" + struct.pack("<I", len(data) + 12) + b"RMIDdata" + size + data
        (tmp_path / name).write_bytes(data)
    scores = load_scores(tmp_path, progress=False)
    assert [piece.name for piece in scores.pieces] == ["a.kar", "b.smf", "c.RMI", "d.rmi", "e.midi"]
    assert not scores.problems
    assert all(np.array_equal(piece.frames, tune(index).grid.frames) for index, piece in enumerate(scores.pieces))


@pytest.mark.parametrize("name", ["a.mid", "a.kar", "a.smf", "a.rmi"])
def test_one_file_where_a_folder_is_expected(tmp_path: Path, name: str) -> None:
    path = tune(0).save(tmp_path / name, format="mid")
    with pytest.raises(DataError, match="give the folder of the MIDI files"):
        load_scores(path, progress=False)


def test_what_is_skipped_in_the_used_files_is_counted(tmp_path: Path) -> None:
    data = bytearray(tune(0).to_midi())
    n_tracks = int.from_bytes(data[10:12], "big")
    data[10:12] = (n_tracks + 2).to_bytes(2, "big")
    (tmp_path / "a.mid").write_bytes(data + b"junk!")
    assert load_scores(tmp_path, progress=False).report()["dropped"] == {"missing_tracks": 2, "skipped_bytes": 5}


def test_what_cannot_be_used_is_reported(tmp_path: Path) -> None:
    tune(0).save(tmp_path / "a.mid")
    tune(1).save(tmp_path / "b.mid")
    (tmp_path / "b2.mid").write_bytes((tmp_path / "b.mid").read_bytes())
    (tmp_path / "cut.mid").write_bytes((tmp_path / "b.mid").read_bytes()[:-20])
    (tmp_path / "empty.mid").touch()
    (tmp_path / "fake.mid").write_bytes(b"RIFF and so on")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".hidden.mid").write_bytes(b"x")
    scores = load_scores(tmp_path, progress=False)
    assert [piece.name for piece in scores.pieces] == ["a.mid", "b.mid"]
    assert {problem.name: problem.reason for problem in scores.problems} == {
        "b2.mid": "duplicate",
        "cut.mid": "truncated",
        "empty.mid": "empty",
        "fake.mid": "not_midi",
        "notes.txt": "not_midi",
    }
    assert all(problem.name in problem.message for problem in scores.problems)
    report = scores.report()
    assert (report["n_in"], report["n_used"], len(report["problems"])) == (7, 2, 5)
    json.dumps(report)


def test_what_is_lost_of_the_used_ones_is_counted(tmp_path: Path) -> None:
    import symusic

    score: Any = symusic.Score(480)
    score.tracks.append(symusic.Track())
    score.tracks[0].notes.extend([symusic.Note(0, 480, pitch, 80) for pitch in (5, 60, 60)])
    (tmp_path / "a.mid").write_bytes(score.dumps_midi())
    assert load_scores(tmp_path, progress=False).report()["dropped"] == {"merged": 1, "out_of_range": 1}


def test_a_style_that_no_label_file_can_hold_is_reported(tmp_path: Path) -> None:
    (tmp_path / "two\nlines").mkdir()
    tune(0).save(tmp_path / "two\nlines" / "a.mid")
    tune(1).save(tmp_path / "b.mid")
    scores = load_scores(tmp_path, progress=False)
    assert [piece.name for piece in scores.pieces] == ["b.mid"]
    assert [problem.reason for problem in scores.problems] == ["bad_style"]


def test_no_usable_file_is_an_error_with_the_expected_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected \.mid files, or <style>/<file>\.mid"):
        load_scores(tmp_path, progress=False)
    (tmp_path / "empty.mid").touch()
    with pytest.raises(DataError, match=r"the first problem: .*0 bytes"):
        load_scores(tmp_path, progress=False)
