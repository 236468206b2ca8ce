"""Artifacts on disk: the bytes of NumPy's own format, and the system's reason where they cannot be written."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import numpy as np
import pytest

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


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_artifact(tmp_path, {}, ARRAYS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG  # by which the command line knows that it is the system's reason
    assert not list(tmp_path.iterdir())
