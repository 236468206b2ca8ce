"""Published data sets in one file, `.mat` and JSON: read whole, and what is damaged is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from tritone_training.data.scores import ScoreSet, load_scores
from tritone_training.exceptions import DataError


def reasons(scores: ScoreSet) -> dict[str, str]:
    return {problem.name: problem.reason for problem in scores.problems}


def rolls(*lengths: int, seed: int = 0) -> np.ndarray[Any, Any]:
    cells = np.empty((1, len(lengths)), object)
    rng = np.random.default_rng(seed)
    for index, length in enumerate(lengths):
        cells[0, index] = (rng.random((length, 88)) < 0.1).astype(np.uint8)
    return cells


def test_matlab_splits_and_frames(tmp_path: Path) -> None:
    path = tmp_path / "Tunes.mat"
    train, valid = rolls(5, 9), rolls(3, seed=1)
    savemat(path, {"traindata": train, "validdata": valid})
    scores = load_scores(path)
    assert [(piece.name, piece.split, piece.style, piece.meter) for piece in scores.pieces] == [
        ("train/0000", "train", "Tunes", (0, 0)),
        ("train/0001", "train", "Tunes", (0, 0)),
        ("valid/0000", "valid", "Tunes", (0, 0)),
    ]
    assert not scores.has_onsets
    assert scores.frames_per_quarter == 0
    for piece, roll in zip(scores.pieces, [*train[0], *valid[0]], strict=True):
        assert np.array_equal(piece.frames > 0, roll > 0)
        starts = np.diff(roll.astype(int), axis=0, prepend=0) == 1
        assert np.array_equal(piece.frames == 2, starts)
    assert scores.report()["n_frames"] == {"train": 14, "valid": 3}
    with pytest.raises(DataError, match=r"expected one of: train \(2\), valid \(1\)"):
        scores.split("test")


def test_a_matlab_column_of_cells_and_floats_will_do(tmp_path: Path) -> None:
    savemat(tmp_path / "x.mat", {"testdata": rolls(4, 4).T.astype(object)})
    cells = np.empty((2, 1), object)
    cells[0, 0], cells[1, 0] = np.eye(88), np.eye(88, dtype=bool)
    savemat(tmp_path / "y.mat", {"testdata": cells})
    for name in ("x.mat", "y.mat"):
        assert [piece.split for piece in load_scores(tmp_path / name).pieces] == ["test", "test"]


def test_bad_matlab_cells_are_reported(tmp_path: Path) -> None:
    cells = rolls(4, 4, 4, 4, 4)
    cells[0, 1] = np.zeros((4, 87))
    cells[0, 2] = np.full((4, 88), 3)
    cells[0, 3] = np.zeros((0, 88))
    cells[0, 4] = np.full((4, 88), np.nan)
    savemat(tmp_path / "x.mat", {"traindata": cells})
    scores = load_scores(tmp_path / "x.mat")
    assert [piece.name for piece in scores.pieces] == ["train/0000"]
    assert reasons(scores) == {f"train/000{index}": "bad_roll" for index in (1, 2, 3, 4)}


def test_repeats_in_published_splits_are_kept_and_counted(tmp_path: Path) -> None:
    train, valid = rolls(5, 6, 7), rolls(5)
    train[0, 1] = train[0, 0]
    savemat(tmp_path / "x.mat", {"traindata": train, "validdata": valid})
    scores = load_scores(tmp_path / "x.mat")
    assert len(scores.pieces) == 4
    assert scores.report()["n_repeats_kept"] == {"train": 1, "train and valid": 1}


def test_what_is_no_matlab_file_of_scores(tmp_path: Path) -> None:
    (tmp_path / "noise.mat").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "empty.mat").touch()
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512))
    savemat(tmp_path / "other.mat", {"songs": rolls(4)})
    savemat(tmp_path / "plain.mat", {"traindata": np.zeros((4, 88))})
    savemat(tmp_path / "bad.mat", {"traindata": np.array([["a", 1]], object)})
    whole = (tmp_path / "other.mat").read_bytes()
    (tmp_path / "cut.mat").write_bytes(whole[: len(whole) // 2])
    for name, message in (
        ("noise.mat", "not a MATLAB file"),
        ("empty.mat", "not a MATLAB file"),
        ("new.mat", "save it with -v7"),
        ("other.mat", "holds songs; expected the cell arrays traindata"),
        ("plain.mat", "expected a cell array"),
        ("bad.mat", "no piece can be used; the first: bad.mat train/0000"),
        ("cut.mat", "not a MATLAB file"),
    ):
        with pytest.raises(DataError, match=message):
            load_scores(tmp_path / name)


def write_json(path: Path, contents: Any) -> Path:
    path.write_text(json.dumps(contents))
    return path


def test_json_with_voices(tmp_path: Path) -> None:
    steps = [[72, 67, 60, 48], [72, 67, -1, 48], [74, 72, 60, None]]
    path = write_json(tmp_path / "Tiny16thSeparated.json", {"train": [steps], "valid": [steps]})
    scores = load_scores(path)
    assert scores.frames_per_quarter == 4
    assert not scores.has_onsets
    piece = scores.split("train")[0]
    assert piece.voices is not None
    assert piece.voices.tolist() == [[72, 67, 60, 48], [72, 67, -1, 48], [74, 72, 60, -1]]
    assert piece.frames[:, 72 - 21].tolist() == [2, 1, 2]  # the second voice takes over the first's pitch
    assert piece.frames[:, 60 - 21].tolist() == [2, 0, 2]
    assert piece.frames[:, 48 - 21].tolist() == [2, 1, 0]
    assert piece.style == "Tiny16thSeparated"


def test_json_without_voices(tmp_path: Path) -> None:
    path = write_json(tmp_path / "x-quarter.json", {"test": [[[60, 64], [60], []]]})
    scores = load_scores(path)
    assert scores.frames_per_quarter == 1
    assert scores.pieces[0].voices is None
    assert (scores.pieces[0].frames > 0).sum(axis=1).tolist() == [2, 1, 0]
    assert load_scores(write_json(tmp_path / "x.json", {"test": [[[60]]]})).frames_per_quarter == 0


@pytest.mark.parametrize(
    "bad", [[[200]], [[60.5]], [["C4"]], [[True]], [60], {}, [], "piece", None, [[float("nan")]], [[10**400]]]
)
def test_bad_pieces_in_json_are_reported(bad: Any, tmp_path: Path) -> None:
    scores = load_scores(write_json(tmp_path / "x.json", {"train": [[[60]], bad]}))
    assert reasons(scores) == {"train/0001": "bad_steps"}
    assert len(scores.pieces) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"train": 3}', "3", "null", "[" * 100_000, "\udcff"])
def test_what_is_no_json_of_scores(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"is not JSON|expected an object with the lists train"):
        load_scores(path)


def test_json_with_only_bad_pieces(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"can be used; the first: x\.json train/0000: holds the pitch 200"):
        load_scores(write_json(tmp_path / "x.json", {"train": [[[200]]]}))
