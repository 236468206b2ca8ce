"""The CPU image without a container engine: its install script in a fresh Debian root, and its server from inside.

The root stands in for the Dockerfile's base image, and is treated as the deployments treat a container: another user,
nothing writable but /tmp and /dev/shm. The network is the host's.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.deploy.balancing import ROOT, free_ports, wait_until
from tests.integration.conftest import make_repository

pytestmark = [pytest.mark.image, pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(1200)]

MIRROR = "http://deb.debian.org/debian"
DOCKERFILE = ROOT / "docker/server-cpu.Dockerfile"
MAX_BYTES = 1_000_000_000
MADE_S, INSTALLED_S, READY_S = 300, 600, 60
# $1 is the root, $2 the repository; the rest is run inside. Mounts end with the namespace.
INSIDE = """
set -e
mount --bind "$1" "$1"
mount --bind "$2" "$1/models"
mount -o remount,ro,bind "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs -o size=1g,mode=1777 tmpfs "$1/dev/shm"
mount -t tmpfs -o size=256m,mode=1777,exec tmpfs "$1/tmp"
root=$1; shift 2
exec chroot --userspec=10001:10001 "$root" "$@"
"""
# $1 is the root, $2 the script, $3 its step.
INSTALL = """
set -e
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
exec chroot "$1" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin bash "/src/docker/$2" "$3" /src
"""


def said(instruction: str) -> str:
    """What the Dockerfile says after an instruction, lines joined; the last one counts."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    found: list[str] = re.findall(rf"^{instruction}\s+(.*)$", text, re.M)
    return found[-1]


def environment() -> list[str]:
    """The Dockerfile's variables, as NAME=VALUE."""
    return [word.replace("$PATH", "/usr/local/bin:/usr/bin:/bin") for word in shlex.split(said("ENV"))]


def unshared(script: str, *arguments: object) -> list[str]:
    """The command that runs a script with mounts and processes of its own."""
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", *map(str, arguments)]


def install(root: Path, script: str, step: str) -> None:
    done = subprocess.run(
        unshared(INSTALL, root, script, step), check=False, capture_output=True, text=True, timeout=INSTALLED_S
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def debian() -> Iterator[Path]:
    """A Debian with the CPU image's install script run in it."""
    if os.geteuid() != 0:
        pytest.skip("a root of its own needs root: sudo make image-test")
    missing = [tool for tool in ("debootstrap", "unshare", "chroot") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)} (Debian and Ubuntu: apt install debootstrap)")
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody make mount namespaces")
    with tempfile.TemporaryDirectory(prefix="image-") as folder:
        root = Path(folder) / "root"
        made = subprocess.run(
            ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", root, MIRROR],
            check=False, capture_output=True, text=True, timeout=MADE_S,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]
        # First what the Dockerfile copies for the dependencies: that step must need nothing else.
        (root / "src/docker").mkdir(parents=True)
        for part in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / part, root / "src")
        for part in ("common.sh", "requirements.py", "install-server-cpu.sh"):
            shutil.copy(ROOT / "docker" / part, root / "src/docker")
        # The host's way to the network, and whom it trusts there.
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        trusted = Path("/etc/ssl/certs/ca-certificates.crt")
        if trusted.is_file():
            shutil.copy(trusted, root / trusted.relative_to("/"))
        install(root, "install-server-cpu.sh", "dependencies")
        for part in ("README.md", "LICENSE"):
            shutil.copy(ROOT / part, root / "src")
        for part in ("cli", "client", "docker", "export", "gateway", "serving", "training"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, root / "src" / part, ignore=ignored, dirs_exist_ok=True)
        install(root, "install-server-cpu.sh", "application")
        yield root


@pytest.fixture(scope="module")
def repository() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        Path(folder).chmod(0o755)
        yield make_repository(Path(folder))


@pytest.fixture(scope="module")
def ports() -> tuple[int, ...]:
    return tuple(free_ports(3))


@pytest.fixture(scope="module")
def served(debian: Path, repository: Path, ports: tuple[int, ...]) -> Iterator[str]:
    """The image's server, started as the Dockerfile starts it; answers its gRPC address."""
    command = [
        *json.loads(said("ENTRYPOINT")), *json.loads(said("CMD")),
        "--host", "127.0.0.1", "--http-port", ports[0], "--grpc-port", ports[1], "--metrics-port", ports[2],
    ]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            unshared(INSIDE, debian, repository, "/usr/bin/env", "-i", *environment(), *command),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            ready = wait_until(lambda: _ready(ports[0]), READY_S)
            log.seek(0)
            assert ready, log.read().decode(errors="replace")
            yield f"127.0.0.1:{ports[1]}"
            os.kill(_first_inside(process.pid), signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()  # and what it started: --kill-child
            process.wait(20)


def _first_inside(unshare: int) -> int:
    """The process that is number 1 in there; `unshare` itself lets signals pass by."""
    return int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0])


def _ready(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        pass
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2) as reply:
        return bool(reply.status == 200)


def run_inside(debian: Path, mounted: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        unshared(INSIDE, debian, mounted, "/usr/bin/env", "-i", *environment(), *command),
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_its_content_is_below_a_gigabyte(debian: Path) -> None:
    done = subprocess.run(
        ["du", "-sx", "-B1", f"--exclude={debian}/src", debian], check=True, capture_output=True, text=True
    )
    n_bytes = int(done.stdout.split()[0])
    print(f"the image's content: {n_bytes / 1e6:.0f} MB")
    assert n_bytes < MAX_BYTES
    for heavy in ("torch", "lightning", "onnx", "pandas"):
        assert not list(debian.glob(f"opt/tritone/lib/python3*/site-packages/{heavy}")), heavy


def test_it_is_installed_for_another_user(debian: Path) -> None:
    writable = subprocess.run(
        ["find", debian / "opt/tritone", "-not", "-type", "l", "(", "-user", "10001", "-o", "-perm", "-o+w", ")"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert writable.stdout == ""
    assert "tritone:x:10001:10001:" in (debian / "etc/passwd").read_text()


def test_it_classifies_a_recording(debian: Path, served: str) -> None:
    rng = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        soundfile.write(Path(folder) / "song.wav", rng.uniform(-0.5, 0.5, 22_050 * 9), 22_050)
        begun = time.monotonic()
        done = run_inside(debian, Path(folder), "tritone", "classify", "/models/song.wav", "--server", served, "--json")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert time.monotonic() - begun < 30
    (heard,) = answer["results"]
    assert sum(heard["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert len(heard["timeline"]) == 3


@pytest.mark.usefixtures("served")
def test_the_health_check_tells_a_server_that_answers(debian: Path, ports: tuple[int, ...], tmp_path: Path) -> None:
    *check, program = json.loads(said("HEALTHCHECK").partition("CMD ")[2])
    supervisor_port = ports[2] + 1  # the one after that of the metrics
    done = run_inside(debian, tmp_path, *check, program.replace("8003", str(supervisor_port)))
    assert done.returncode == 0, done.stdout + done.stderr
    done = run_inside(debian, tmp_path, *check, program.replace("8003", str(free_ports(1)[0])))
    assert done.returncode == 1


def test_the_balancer_is_installed_and_reads_its_configuration(debian: Path) -> None:
    install(debian, "install-balancer.sh", "dependencies")
    install(debian, "install-balancer.sh", "application")  # it ends with HAProxy's own check of the configuration
    done = run_inside(debian, Path(tempfile.gettempdir()), "/usr/sbin/haproxy", "-v")
    assert "HAProxy version 2.6." in done.stdout
