"""Fixes of the server binary: they fit the pinned wheel, and nothing else is changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tritone_serving import ServerNotInstalledError
from tritone_serving.binary_fixes import WHEEL_FIXES, fixed_copy
from tritone_serving.installation import find_installation


@pytest.fixture(scope="module")
def binary() -> Path:
    try:
        return find_installation().binary
    except ServerNotInstalledError as error:
        pytest.skip(str(error))


def test_fixes_fit_the_pinned_wheel(binary: Path, tmp_path: Path) -> None:
    content = binary.read_bytes()
    for fix in WHEEL_FIXES:
        before, after = bytes.fromhex(fix.before), bytes.fromhex(fix.after)
        assert content[fix.offset : fix.offset + len(before)] == before
        assert len(before) == len(after)
    copy, names = fixed_copy(binary, tmp_path)
    assert names == {fix.name for fix in WHEEL_FIXES}
    assert os.access(copy, os.X_OK)
    changed = copy.read_bytes()
    assert len(changed) == len(content)
    n_replaced = sum(len(bytes.fromhex(fix.before)) for fix in WHEEL_FIXES)
    assert 0 < sum(a != b for a, b in zip(content, changed, strict=True)) <= n_replaced


def test_other_binary_runs_as_it_is(tmp_path: Path) -> None:
    other = tmp_path / "other" / "tritonserver"
    other.parent.mkdir()
    other.write_bytes(b"\x7fELF another build")
    assert fixed_copy(other, tmp_path) == (other, frozenset())
