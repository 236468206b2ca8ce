"""Triton's log: search of its last lines, and conversion to JSON lines while the server runs.

Triton 2.51 writes text only, and that file is left unchanged. JSON entries hold the request's id if a line has one.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

PERIOD_S: Final = 0.2
_LEVELS: Final = {"I": "info", "W": "warning", "E": "error", "F": "fatal", "V": "debug"}
# 2026-11-22T05:00:32Z I 11368 server.cc:305] "text, with \" and \n escaped"
_LINE: Final = re.compile(r"^(?P<time>\S+Z) (?P<level>[IWEFV]) (?P<pid>\d+) (?P<source>[\w.]+:\d+)\] (?P<text>.*)$")
_REQUEST: Final = re.compile(r"\[request id: ([^\]]+)\]")
# Triton's messages about CUDA on a machine without a GPU; it logs the second one as an error.
_NO_CUDA: Final = re.compile(
    r"CUDA driver version is insufficient|CudaDriverHelper has not been initialized|CUDA memory pool disabled"
    r"|no CUDA-capable device"
)
_MODEL: Final = re.compile(r"\bmodel(?: instance)? '([\w.-]+?)(?:_\d+_\d+)?'|^(\w+_\d+_\d+), ")


def entry(level: str, message: str, **more: Any) -> dict[str, Any]:
    """Return an entry with the current time."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"time": now, "level": level, "logger": "tritone", "message": message, **more}


def parsed(line: str) -> dict[str, Any] | None:
    """Return a line of Triton's log as an entry, None for tables and empty lines.

    Messages about missing CUDA become debug messages, since they are normal on a machine without a GPU. Lines in
    another format (a stack trace, output of a library) become entries without a source.
    """
    found = _LINE.match(line)
    if found is None:
        text = line.strip()
        return None if not text or text[0] in "+|" else entry("info", text, logger="triton")
    text = _unquoted(found["text"]).strip()
    if text[:1] in ("+", "|", ""):  # a table as one message
        return None
    made: dict[str, Any] = {
        "time": found["time"],
        "level": "debug" if _NO_CUDA.search(text) else _LEVELS[found["level"]],
        "logger": "triton",
        "pid": int(found["pid"]),
        "source": found["source"],
        "message": text,
    }
    if request := _REQUEST.search(text):
        made["request_id"] = request[1]
    if (model := _MODEL.search(text)) and model[1]:
        made["model"] = model[1]
    return made


class LogFollower:
    """Writes each line of a growing log as JSON, in its own thread, until it is closed.

    When the log is rotated or the server restarted, the rest of the renamed file comes before the new one.
    """

    def __init__(self, path: Path, write: Callable[[str], None]) -> None:
        self._path = path
        self._write = write
        self._closing = threading.Event()
        self._place = 0
        self._inode = 0
        self._rest = b""
        self._thread = threading.Thread(target=self._run, name="tritone-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write the remaining lines and stop."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(PERIOD_S):
            self._hand_on()
        self._hand_on()

    def _hand_on(self) -> None:
        for line in self._new_lines():
            made = parsed(line)
            if made is not None:
                self._write(json.dumps(made, ensure_ascii=False))

    def _new_lines(self) -> Iterator[str]:
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or self._place > status.st_size:
                    self._rest += self._rest_of_renamed()
                    self._inode, self._place = status.st_ino, 0
                file.seek(self._place)
                data = file.read()
        except OSError:
            return
        self._place += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in lines)

    def _rest_of_renamed(self) -> bytes:
        """Return what was written to the followed file between the last read and its renaming to `<name>.1`."""
        try:
            with self._path.with_name(f"{self._path.name}.1").open("rb") as file:
                if os.fstat(file.fileno()).st_ino != self._inode:
                    return b""
                file.seek(self._place)
                return file.read()
        except OSError:
            return b""


def _unquoted(text: str) -> str:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text[1:-1]


_TAIL_BYTES: Final = 64 << 10  # a log may have grown for weeks
# 2026-11-22T05:00:32Z E 11368 model_lifecycle.cc:642] "failed to load ..."
_ERROR: Final = re.compile(r'^\S+Z [EF] \d+ [\w.]+:\d+\] "?(.*?)"?$')

_ANY: Final = re.compile(r"^\S+Z [IWEF] \d+ [\w.]+:\d+\] ")
_STACK_FRAME: Final = re.compile(r"^\s*\d+# ")  # " 3# 0x000055B0 in .../tritonserver"


def last_lines(log_path: Path, n_lines: int = 8) -> str:
    """Return the last lines of a log, without Triton's tables at start-up and without the stack of a crash."""
    lines = [
        line
        for line in _tail(log_path)
        if line.strip() and not line.startswith(("+", "|")) and not _STACK_FRAME.match(line)
    ]
    return "\n".join(f"    {line}" for line in lines[-n_lines:]) or "    (empty)"


def reason_in_log(log_path: Path, model: str) -> str:
    """Return the log's message on a model that did not load; the index has none for a config it cannot read."""
    errors = [found[1] for line in _tail(log_path) if (found := _ERROR.match(line))]
    about = [line for line in errors if model in line]
    # The first is the cause, the later ones its consequences.
    return (about or errors or [f"no reason was given; see {log_path}"])[0].replace('\\"', '"')


def names_in_tail(log_path: Path, text: str) -> bool:
    """Return whether the end of a log contains a text."""
    return any(text in line for line in _tail(log_path))


def has_begun(log_path: Path) -> bool:
    """Return whether the server itself has written to its log; a warning of the dynamic linker does not count."""
    return any(_ANY.match(line) for line in _tail(log_path))


def _tail(log_path: Path) -> list[str]:
    try:
        with log_path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
