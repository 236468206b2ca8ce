"""Tests of the server's log: its size limit, and JSON lines without tables."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tritone_serving.server import logs as json_log
from tritone_serving.server import triton_server as server
from tritone_serving.server.command import wait_for_ports
from tritone_serving.server.logs import parsed

SUPERVISOR = Path(server.__file__).with_name("supervisor_process.py")


def run_supervised(tmp_path: Path, program: str, **order: Any) -> tuple[int, Path]:
    """Run a program in place of the server; its exit code and its log."""
    log, folder = tmp_path / "server.log", tmp_path / "folder"
    folder.mkdir()
    whole = {
        "command": [sys.executable, "-c", program],
        "environment": {},
        "cwd": str(tmp_path),
        "folder": str(folder),
        "stop_file": str(folder / "stopping"),
        "prefix": "no-such-prefix",
        "shared_memory": str(tmp_path),
        "log": str(log),
        "log_max_bytes": 0,
        "stop_timeout_s": 5.0,
        **order,
    }
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(SUPERVISOR)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(whole).encode() + b"\n")
        process.stdin.flush()
        return process.wait(30), log


def test_log_keeps_all_lines_of_a_server_that_ends(tmp_path: Path) -> None:
    program = "import sys\nfor n in range(5000): print('line', n)\nprint('last words')\nsys.exit(3)"
    code, log = run_supervised(tmp_path, program)
    assert code == 3
    lines = log.read_text().splitlines()
    assert sorted(lines) == sorted([f"line {n}" for n in range(5000)] + ["last words"])
    assert log.stat().st_mode & 0o777 == 0o600


def test_log_is_begun_again_when_it_is_too_large(tmp_path: Path) -> None:
    program = "import time\nfor n in range(200):\n    print('x' * 999, flush=True)\n    time.sleep(0.001)"
    code, log = run_supervised(tmp_path, program, log_max_bytes=50_000)
    assert code == 0
    older = log.with_name("server.log.1")
    assert log.stat().st_size <= 50_000
    assert 0 < older.stat().st_size <= 50_000


def test_log_that_cannot_be_written_does_not_stop_the_server(tmp_path: Path) -> None:
    (tmp_path / "server.log").mkdir()
    code, _ = run_supervised(tmp_path, "print('x' * 200_000)")
    assert code == 0


@pytest.mark.parametrize(
    "line",
    [
        r'2026-11-28T09:13:02Z I 26911 server.cc:604] "\n+------+\n| Model |\n+------+\n"',
        "+--------+------+",
        "| server | 2.51 |",
        "",
    ],
)
def test_tables_are_left_out_of_the_json_log(line: str) -> None:
    assert parsed(line) is None


@pytest.mark.parametrize(
    ("text", "level"),
    [
        (
            "Unable to allocate pinned system memory: CUDA driver version is insufficient for CUDA runtime version",
            "debug",
        ),
        ("CudaDriverHelper has not been initialized.", "debug"),
        ("failed to load 'recommender' version 1: the key is missing", "error"),
    ],
)
def test_missing_cuda_is_no_error_in_the_json_log(text: str, level: str) -> None:
    made = parsed(f'2026-11-28T09:13:02Z E 26911 server.cc:241] "{text}"')
    assert made is not None
    assert (made["level"], made["message"]) == (level, text)


def test_port_of_an_ending_process_is_waited_for() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        ports = {"http_port": ("127.0.0.1", holder.getsockname()[1])}
        assert not wait_for_ports(ports, timeout_s=0.2)
        threading.Timer(0.3, holder.close).start()
        begun_s = time.monotonic()
        assert wait_for_ports(ports, timeout_s=10)
        assert time.monotonic() - begun_s < 5


def test_no_line_is_lost_when_the_followed_log_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_log, "PERIOD_S", 60.0)
    log = tmp_path / "log"
    written: list[str] = []
    log.write_text("first\nsec")
    follower = json_log.LogFollower(log, written.append)
    follower._hand_on()
    with log.open("a") as file:
        file.write("ond\nthi")
    log.rename(tmp_path / "log.1")
    log.write_text("rd\nfourth\n")
    follower.close()
    assert [json.loads(line)["message"] for line in written] == ["first", "second", "third", "fourth"]
