"""Reading the server's log."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_TAIL_BYTES: Final = 64 << 10  # a log may have grown for weeks
# 2026-11-22T05:00:32Z E 11368 model_lifecycle.cc:642] "failed to load ..."
_ERROR: Final = re.compile(r'^\S+Z [EF] \d+ [\w.]+:\d+\] "?(.*?)"?$')

_ANY: Final = re.compile(r"^\S+Z [IWEF] \d+ [\w.]+:\d+\] ")
_STACK_FRAME: Final = re.compile(r"^\s*\d+# ")  # " 3# 0x000055B0 in .../tritonserver"


def last_lines(log_path: Path, n_lines: int = 8) -> str:
    """The last lines of a log, without the tables that Triton draws at its start and the stack of a crash."""
    lines = [
        line
        for line in _tail(log_path)
        if line.strip() and not line.startswith(("+", "|")) and not _STACK_FRAME.match(line)
    ]
    return "\n".join(f"    {line}" for line in lines[-n_lines:]) or "    (empty)"


def reason_in_log(log_path: Path, model: str) -> str:
    """What the log says of a model that did not load: the index has no reason for a config it cannot read."""
    errors = [found[1] for line in _tail(log_path) if (found := _ERROR.match(line))]
    about = [line for line in errors if model in line]
    # The first is the cause, the later ones its consequences.
    return (about or errors or [f"no reason was given; see {log_path}"])[0].replace('\\"', '"')


def names_in_tail(log_path: Path, text: str) -> bool:
    """Return whether the end of a log contains a text."""
    return any(text in line for line in _tail(log_path))


def has_begun(log_path: Path) -> bool:
    """Whether the server itself has written to its log; a dynamic linker's warning is not enough."""
    return any(_ANY.match(line) for line in _tail(log_path))


def _tail(log_path: Path) -> list[str]:
    try:
        with log_path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
