"""Python environments of the peers, outside that of this project; recreated when their packages change."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.interface import Peer, PeerError

REQUIREMENTS = Path(__file__).parent / "environments"
INSTALL_S = 900.0
_MARK = ".installed"


def python_of(peer: type[Peer], folder: Path) -> Path:
    """Return the interpreter of a peer; create its environment if necessary.

    Args:
        peer: the peer.
        folder: folder with the environments of all peers.

    Raises:
        PeerError: the packages cannot be installed.
    """
    if peer.requirements is None:
        return Path(sys.executable)
    requirements = REQUIREMENTS / peer.requirements
    environment = folder.resolve() / requirements.stem
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    mark, python = environment / _MARK, environment / "bin" / "python"
    if mark.is_file() and mark.read_text() == wanted:
        return python
    print(f"{peer.title}: installing the packages of {requirements.name} into {environment}", file=sys.stderr)
    shutil.rmtree(environment, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(environment)], peer)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    _run([*install, "--requirement", str(requirements)], peer)
    mark.write_text(wanted)
    return python


def installed_version(python: Path, distribution: str) -> str:
    """Return the version of a distribution in an environment, or "unknown"."""
    program = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _run(command: list[str], peer: type[Peer]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"{peer.title} cannot be installed: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise PeerError(f"{peer.title} cannot be installed: {lines[-1]}")
