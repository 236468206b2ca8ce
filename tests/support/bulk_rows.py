"""Rows of jobs on Ray and Spark, compared with the results of the SDK."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tritone import MusicClient
from tritone.batch import OPERATIONS

N_COPIES = 10  # of each recording, in jobs that take a while


def paths(music: Path) -> list[str]:
    return sorted(str(path) for path in music.iterdir())


def paths_and_copies(music: Path) -> list[tuple[str, int]]:
    """Return each path with the numbers of its copies."""
    return [(path, copy) for copy in range(N_COPIES) for path in paths(music)]


def assert_classified_as_by_the_sdk(rows: Iterable[Mapping[str, Any]], music: Path, server: str) -> None:
    """Check that there is one row for each file, with the result of `MusicClient.classify` or an error."""
    by_path = _by_path(rows, music)
    with MusicClient(server) as client:
        for path, row in by_path.items():
            if row["error"] is None:
                expected = client.classify(path)
                assert row["label"] == expected.label
                assert dict(row["probabilities"]) == pytest.approx(expected.probabilities, abs=1e-6)
                assert dict(row["emotions"]) == pytest.approx(expected.emotions, abs=1e-6)
                assert row["tags"] is None
                assert (row["duration_s"], row["model_version"]) == (expected.duration_s, "1")
    broken = _broken(by_path)
    assert (broken["label"], broken["probabilities"]) == (None, None)


def assert_embedded_as_by_the_sdk(
    rows: Iterable[Mapping[str, Any]], music: Path, server: str, *, unknown: list[float] | None
) -> None:
    """Check that there is one row for each file, with the result of `MusicClient.embed` or an error.

    Args:
        rows: to check.
        music: folder of the files.
        server: address of the server.
        unknown: embedding of a row with an error.
    """
    by_path = _by_path(rows, music)
    with MusicClient(server) as client:
        for path, row in by_path.items():
            if row["error"] is None:
                np.testing.assert_allclose(row["embedding"], client.embed(path), atol=1e-6)
    found = _broken(by_path)["embedding"]
    if unknown is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found, unknown)


def write_good_and_bad_files(folder: Path) -> dict[str, str | None]:
    """Write usable and unusable files; return the expected `error_type` by path, also of one that is missing."""
    rng = np.random.default_rng(5)
    samples = rng.uniform(-0.5, 0.5, 22_050).astype(np.float32)
    for name, content in (("a", samples), ("silent", 0 * samples), ("short", samples[:1_000]), ("z", samples)):
        soundfile.write(folder / f"{name}.wav", content, 22_050)
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no audio")
    kinds = {
        "a": None,
        "empty": "empty",
        "gone": "missing",
        "short": "too_short",
        "silent": "silent",
        "text": "unreadable",
        "z": None,
    }
    return {str(folder / f"{name}.wav"): kind for name, kind in kinds.items()}


def assert_errors(rows: Iterable[Mapping[str, Any]], expected: Mapping[str, str | None]) -> None:
    """Check that each file has a row, with a result or with the expected error and no result."""
    found = {row["path"].removeprefix("file:"): row for row in rows}
    assert {path: row["error_type"] for path, row in found.items()} == expected
    columns = OPERATIONS["classify"].columns
    for path, row in found.items():
        if expected[path] is None:
            assert row["error"] is None
            assert row["label"] is not None
        else:
            assert row["error"]
            assert {row[name] for name in columns} == {None}


def assert_one_row_for_each_copy(rows: Iterable[Mapping[str, Any]], music: Path) -> None:
    """Check that a job of `paths_and_copies` has each row once, and errors only for `broken.wav`."""
    found = list(rows)
    assert Counter((row["path"], row["copy"]) for row in found) == Counter(paths_and_copies(music))
    for row in found:
        assert row["error_type"] == ("unreadable" if Path(row["path"]).name == "broken.wav" else None), row["path"]


def _by_path(rows: Iterable[Mapping[str, Any]], music: Path) -> dict[str, Mapping[str, Any]]:
    found = [(row["path"].removeprefix("file:"), row) for row in rows]
    assert sorted(path for path, _ in found) == paths(music)
    return dict(found)


def _broken(by_path: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    [(path, row)] = [(path, row) for path, row in by_path.items() if row["error"] is not None]
    assert Path(path).name == "broken.wav"
    assert row["error_type"] == "unreadable"
    return row
