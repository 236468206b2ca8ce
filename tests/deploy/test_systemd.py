"""The systemd unit: valid, hardened, and its command serves without a home folder and reports that it is ready."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.deploy.balancing import free_ports
from tests.integration import python_models

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "tritone.service"
COMMAND = "/opt/tritone/bin/tritone"
MAX_EXPOSURE = 20  # of systemd's 0 (none) to 100; a unit without any hardening has 96
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine (Debian: apt install systemd)"
)


def values(name: str) -> list[str]:
    """Return the values of a setting in the unit, in order."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.M)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """A copy whose command exists on this machine, as systemd checks that."""
    command = tmp_path / "tritone"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace(COMMAND, str(command)))
    return path


@needs_systemd
def test_the_unit_is_valid(unit: Path) -> None:
    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("KillMode=mixed", "KillMode=mixd"))
    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert "kill mode" in checked.stderr  # the check above can fail


@needs_systemd
def test_the_unit_is_hardened(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", "--no-pager", unit]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout[-300:]


def test_settings_that_serving_needs() -> None:
    assert values("Type") == ["notify"]
    assert values("KillMode") == ["mixed"]  # processes of the server are stopped by `tritone serve`
    assert values("Restart") == ["on-failure"]
    assert values("OOMPolicy") == ["continue"]
    assert values("User") == ["tritone"]
    assert values("LimitCORE") == ["0"]
    for name in ("NoExecPaths", "MemoryDenyWriteExecute", "ProcSubset"):
        assert values(name) == [], f"{name} stops Triton or its supervisor"


@pytest.mark.triton
def test_the_units_command_serves_and_reports_its_state(tmp_path: Path) -> None:
    repository = python_models.make_repository(tmp_path / "models", adder=1)
    http, grpc, metrics = free_ports(3)
    variables = dict(each.split("=", 1) for line in values("Environment") for each in shlex.split(line))
    assert variables["XDG_STATE_HOME"] == "/var/lib"
    assert f"{variables['XDG_STATE_HOME']}/{values('StateDirectory')[0]}" == "/var/lib/tritone"
    variables |= {
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "TRITONE_REPOSITORY": str(repository),
        "TRITONE_SERVE_OPTIONS": f"--http-port {http} --grpc-port {grpc} --metrics-port {metrics} --supervisor-port 0",
    }
    command = [sys.executable, "-m", "tritone_cli"]
    for word in values("ExecStart")[0].removeprefix(COMMAND).split():
        # As systemd does: ${NAME} is one word, $NAME is split at blanks.
        if word.startswith("${"):
            command.append(variables[word[2:-1]])
        elif word.startswith("$"):
            command += variables[word[1:]].split()
        else:
            command.append(word)
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with contextlib.closing(manager):
        manager.bind(str(tmp_path / "notify"))
        environment = {name: value for name, value in os.environ.items() if name != "HOME"}
        environment |= variables | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            try:
                manager.settimeout(READY_TIMEOUT_S)
                assert manager.recv(4096).decode() == "READY=1\nSTATUS=serving adder"
                process.send_signal(signal.SIGTERM)
                manager.settimeout(STOP_TIMEOUT_S)
                assert manager.recv(4096).decode() == "STOPPING=1\nSTATUS=stopping"
                assert process.wait(STOP_TIMEOUT_S) == 0
            finally:
                process.kill()


REFIT = UNIT.with_name("tritone-refit.service")


@needs_systemd
def test_the_timer_and_the_unit_of_refits_are_valid_and_hardened(tmp_path: Path) -> None:
    command = tmp_path / "tritone"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    for source in (REFIT, REFIT.with_suffix(".timer")):
        (tmp_path / source.name).write_text(source.read_text().replace(COMMAND, str(command)))
    units = [tmp_path / REFIT.name, tmp_path / REFIT.with_suffix(".timer").name]
    checked = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    security = ["systemd-analyze", "security", "--offline=true", f"--threshold={MAX_EXPOSURE}", "--no-pager", units[0]]
    assert subprocess.run(security, capture_output=True, text=True, check=False).returncode == 0


def test_the_unit_of_refits_runs_a_command_that_exists() -> None:
    from typer.main import get_command

    from tritone_cli.main import build_app

    line = re.findall(r"^ExecStart=(.*)$", REFIT.read_text(), re.M)[0]
    words = shlex.split(line)
    assert words[:2] == [COMMAND, "refit"]
    command: object = get_command(build_app()).commands["refit"]  # type: ignore[attr-defined]
    known = {name for param in command.params for name in param.opts}  # type: ignore[attr-defined]
    assert {word for word in words if word.startswith("--")} <= known
