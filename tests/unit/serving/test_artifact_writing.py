"""Artifacts on disk: the bytes of NumPy's own format, and the system's reason where they cannot be written."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tritone_serving.recommender import ArtifactError, open_artifact
from tritone_serving.recommender.artifact_writing import write_artifact

ARRAYS = {
    "floats": np.arange(4000, dtype=np.float32).reshape(40, 100),
    "pseudonyms": np.arange(6, dtype=np.uint64).reshape(3, 2),
    "transposed": np.arange(6, dtype=np.int64).reshape(3, 2).T,
    "no_rows": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False]),
}


def test_arrays_are_written_as_numpy_writes_them(tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact", {}, ARRAYS)
    for name, array in ARRAYS.items():
        np.save(tmp_path / "by_numpy.npy", np.ascontiguousarray(array))
        assert (tmp_path / "artifact" / f"{name}.npy").read_bytes() == (tmp_path / "by_numpy.npy").read_bytes()
        assert np.array_equal(np.load(tmp_path / "artifact" / f"{name}.npy"), array)


@contextmanager
def small_disk() -> Iterator[None]:
    """Let files have 1,000 bytes at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with small_disk(), pytest.raises(OSError, match="File too large") as caught:
        write_artifact(tmp_path, {}, ARRAYS)
    assert caught.value.errno == errno.EFBIG  # by which the command line knows that it is the system's reason
    assert not list(tmp_path.iterdir())


def test_an_artifact_that_was_not_written_again_completely_is_not_opened(tmp_path: Path) -> None:
    """Its arrays may have the shapes of the manifest that was there before."""
    write_artifact(tmp_path, {}, ARRAYS)
    assert (tmp_path / "recommender.json").is_file()
    with small_disk(), pytest.raises(OSError, match="File too large"):
        write_artifact(tmp_path, {}, ARRAYS)
    with pytest.raises(ArtifactError, match=r"holds no recommender \(recommender.json is missing\)"):
        open_artifact(tmp_path)


def test_arrays_and_temporary_files_of_another_artifact_are_removed(tmp_path: Path) -> None:
    for name in ("removed.npy", ".floats-0123456789ab.npy", "other.txt"):
        (tmp_path / name).write_bytes(b"")
    write_artifact(tmp_path, {}, ARRAYS)
    expected = {*(f"{name}.npy" for name in ARRAYS), "recommender.json", "other.txt"}
    assert {path.name for path in tmp_path.iterdir()} == expected
