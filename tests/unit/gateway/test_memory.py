"""The settings of malloc."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own, because the settings stay.
PROGRAM = """
import psutil
from tritone_gateway.memory import return_freed_memory
supported = return_freed_memory()
process = psutil.Process()
before = process.memory_info().rss
blocks = [bytearray(256 * 1024) for _ in range(400)]
held = process.memory_info().rss
kept = blocks.pop()  # at the top of a pool, it would keep all others from the system
del blocks
print(supported, (held - before) >> 20, (process.memory_info().rss - before) >> 20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the settings are those of glibc")
def test_freed_memory_returns_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    supported, held_mb, left_mb = done.stdout.split()

    assert supported == "True"
    assert int(held_mb) > 90
    assert int(left_mb) < 10
