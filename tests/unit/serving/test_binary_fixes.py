"""Fixes of the server binary: they fit the pinned wheel, and nothing else is changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tritone_serving import ServerNotInstalledError
from tritone_serving.server.binary_fixes import (
    BACKEND,
    BACKEND_FIXES,
    BINARY_FIXES,
    LIBRARY,
    LIBRARY_FIXES,
    BinaryFix,
    fixed_copy,
)
from tritone_serving.server.installation import Installation, find_installation


@pytest.fixture(scope="module")
def installed() -> Installation:
    try:
        return find_installation()
    except ServerNotInstalledError as error:
        pytest.skip(str(error))


def check(before: bytes, after: bytes, fixes: tuple[BinaryFix, ...]) -> None:
    """Only the named bytes differ, and they were what each fix expects."""
    expected = bytearray(before)
    for fix in fixes:
        old, new = bytes.fromhex(fix.before), bytes.fromhex(fix.after)
        assert len(old) == len(new), fix.name
        assert before[fix.offset : fix.offset + len(old)] == old, fix.name
        expected[fix.offset : fix.offset + len(new)] = new
    assert after == expected


def test_fixes_fit_the_pinned_wheel(installed: Installation, tmp_path: Path) -> None:
    backend = tmp_path / "backends" / "python" / BACKEND
    backend.parent.mkdir(parents=True)
    shutil.copy(installed.backends / "python" / BACKEND, backend)
    copy, names = fixed_copy(installed, tmp_path)
    assert names == {fix.name for fix in (*BINARY_FIXES, *LIBRARY_FIXES, *BACKEND_FIXES)}
    check((installed.backends / "python" / BACKEND).read_bytes(), backend.read_bytes(), BACKEND_FIXES)
    assert os.access(copy, os.X_OK)
    check(installed.binary.read_bytes(), copy.read_bytes(), BINARY_FIXES)
    libraries = next(each for each in installed.libraries if (each / LIBRARY).is_file())
    private = copy.parent / "../../../nvidia_pytriton.libs"  # where the binary's own search path leads
    check((libraries / LIBRARY).read_bytes(), (private / LIBRARY).read_bytes(), LIBRARY_FIXES)
    assert {each.name for each in private.iterdir()} == {each.name for each in libraries.iterdir()}
    assert private.resolve().is_relative_to(tmp_path)


def test_other_binary_runs_as_it_is(installed: Installation, tmp_path: Path) -> None:
    other = tmp_path / "other" / "tritonserver"
    other.parent.mkdir()
    other.write_bytes(b"\x7fELF another build")
    changed = Installation(other, installed.backends, installed.caches, installed.libraries, installed.stub)
    assert fixed_copy(changed, tmp_path) == (other, frozenset())
    assert not (tmp_path / "pytriton").exists()
