"""The studio page without a browser: the tests of its modules (vitest), and the size of what is built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tritone_gateway.routers.studio import PAGE

STUDIO = Path(__file__).parents[3] / "studio"
# `make studio` installs node beside Python where a machine has none.
SEARCHED = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
NPX = shutil.which("npx", path=SEARCHED)
MAX_BUNDLE_BYTES = 3_000_000  # all files that a browser may load, without the SoundFont


@pytest.mark.slow
@pytest.mark.skipif(NPX is None, reason="needs npm")
@pytest.mark.skipif(not (STUDIO / "node_modules" / "vitest").is_dir(), reason="needs `make studio`")
def test_the_modules_of_the_page_work() -> None:
    command = [str(NPX), "--no-install", "vitest", "run", "--reporter=dot", "--no-color"]
    environment = {**os.environ, "PATH": SEARCHED}
    ran = subprocess.run(command, cwd=STUDIO, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.skipif(not (PAGE / "index.html").is_file(), reason="needs the page (make studio)")
def test_the_bundle_is_small() -> None:
    built = {path.name: path.stat().st_size for path in PAGE.rglob("*") if path.is_file() and path.suffix != ".map"}
    assert sum(built.values()) <= MAX_BUNDLE_BYTES, built
