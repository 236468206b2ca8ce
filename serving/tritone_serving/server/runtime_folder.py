"""The private folder in which a server runs, and removal of what killed servers left behind.

The names of the folder and of the server's regions in /dev/shm begin with an identifier of the launching process:
`tritone-<pid namespace>-<pid>-<start>-`. A stop therefore removes only what belongs to this server, and a start
recognises what killed servers left behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import Final

from tritone_serving._exceptions import ServerNotInstalledError
from tritone_serving.server.installation import Installation, find_libpython

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  - where the kernel keeps POSIX shared memory
BACKENDS_FOLDER: Final = Path(__file__).parents[1] / "backends"
# Path of a file that is created when the server is asked to stop; streaming backends check for it.
STOP_FILE_VARIABLE: Final = "TRITONE_STOP_FILE"
RUNNING_FILE_VARIABLE: Final = "TRITONE_RUNNING_FILE"  # as in backends/onnxruntime/tritone_ort_cores.py
# A secret shared by this launcher and its backends; see backends/onnxruntime/tritone_ort_marks.py.
HEALTH_TOKEN_VARIABLE: Final = "TRITONE_HEALTH_TOKEN"  # noqa: S105  - a name
_PREFIX: Final = "tritone-"
# Threads of NumPy's matrix products. By default each process of a model has one per core; while they wait, they take
# the cores from other processes, and a server has a process per instance.
_BLAS_THREADS_VARIABLE: Final = "OPENBLAS_NUM_THREADS"


def make_runtime_folder() -> Path:
    """Create the private, empty folder of a server of this process; its name is the server's prefix."""
    return Path(tempfile.mkdtemp(prefix=f"{_owner_prefix(os.getpid())}-"))


def fill_runtime_folder(folder: Path, installation: Installation, *, health_token: str = "") -> dict[str, str]:
    """Create links to the backends and a Python environment for the server in its private folder.

    ```
    tritonserver            copy of the server binary with fixes of known faults, if there are any for it
    backends/python/        libtriton_python.so, triton_python_backend_stub
    backends/onnxruntime/   link to our python-based backend, unless the installation has a native one
    bin/python3 lib/ pyvenv.cfg   an environment with the packages that this process can import
    cwd/                    empty, because Triton's stub imports from its working folder first
    running                 locked by instances while they compute, so that they share the cores
    stopping                created when the server is asked to stop
    ```

    Args:
        health_token: secret by which backends recognise the launcher's health checks.

    Returns:
        the environment variables to start the server with.

    Raises:
        ServerNotInstalledError: a part of the server is missing.
    """
    backends = folder / "backends"
    backends.mkdir()
    (folder / "cwd").mkdir()
    _link_backends(backends, installation)
    environment = {
        **os.environ,
        STOP_FILE_VARIABLE: str(folder / "stopping"),
        RUNNING_FILE_VARIABLE: str(folder / "running"),
        HEALTH_TOKEN_VARIABLE: health_token,
    }
    environment.setdefault(_BLAS_THREADS_VARIABLE, environment.get("OMP_NUM_THREADS", "1"))
    libraries = [str(path) for path in installation.libraries]
    if installation.stub is not None:
        _link_python(folder)
        libraries.insert(0, str(folder / "lib"))
        environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment.get('PATH', os.defpath)}"
        environment.pop("PYTHONHOME", None)
    if environment.get("LD_LIBRARY_PATH"):
        libraries.append(environment["LD_LIBRARY_PATH"])
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    return environment


def remove_left_behind() -> list[Path]:
    """Remove folders and shared memory of servers whose launchers are dead; return what was removed."""
    removed = []
    for folder in (Path(tempfile.gettempdir()), SHARED_MEMORY):
        for path in folder.glob(f"{_PREFIX}*"):
            if _owner_is_dead(path):
                removed.append(path)
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
    return removed


def remove_of(folder: Path) -> None:
    """Remove one server's private folder and its shared memory; the server must have ended."""
    for region in SHARED_MEMORY.glob(f"{folder.name}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def shared_memory_bytes(folder: Path) -> int:
    """Return the allocated size of a server's shared memory, in bytes; pages never written do not count."""
    total = 0
    for region in SHARED_MEMORY.glob(f"{folder.name}*"):
        with contextlib.suppress(OSError):
            total += region.stat().st_blocks * 512
    return total


def _link_backends(backends: Path, installation: Installation) -> None:
    if installation.stub is None:
        for backend in installation.backends.iterdir():
            (backends / backend.name).symlink_to(backend)
    else:
        python = backends / "python"
        python.mkdir()
        # A copy: Triton refuses a library whose real path lies outside the backend's folder.
        shutil.copy(installation.backends / "python" / "libtriton_python.so", python)
        (python / "triton_python_backend_utils.py").symlink_to(
            installation.backends / "python" / "triton_python_backend_utils.py"
        )
        (python / "triton_python_backend_stub").symlink_to(installation.stub)
    if not (backends / "python").exists():
        raise ServerNotInstalledError(f"{installation.backends} has no python backend, which the models need")
    for ours in BACKENDS_FOLDER.iterdir():
        if (ours / "model.py").is_file() and not (backends / ours.name).exists():
            (backends / ours.name).symlink_to(ours)


def _link_python(folder: Path) -> None:
    """Create a minimal virtual environment: the stub ignores PYTHONPATH, but uses `python3` on the PATH."""
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    (folder / "bin" / "python3").symlink_to(base)
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    (site / "launcher.pth").write_text("\n".join(_importable_folders()) + "\n")
    library = find_libpython()
    (folder / "lib" / library.name).symlink_to(library)


def _importable_folders() -> list[str]:
    folders = []
    for entry in sys.path:
        path = Path(entry)
        if not entry or not path.is_absolute() or not path.is_dir():
            continue
        # The stub imports the backend as `model`; another module of this name on the path would be served instead.
        if (path / "model.py").exists() or (path / "model").is_dir():
            continue
        folders.append(entry)
    return folders


def _owner_prefix(pid: int) -> str:
    return f"{_PREFIX}{Path('/proc/self/ns/pid').stat().st_ino}-{pid}-{_start_ticks(pid)}"


def _owner_is_dead(path: Path) -> bool:
    parts = path.name.split("-")
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    if len(parts) < 5 or not all(part.isdecimal() for part in parts[1:4]) or stat.S_ISLNK(status.st_mode):
        return False
    namespace, pid, ticks = (int(part) for part in parts[1:4])
    ours = status.st_uid == os.getuid() and namespace == Path("/proc/self/ns/pid").stat().st_ino
    return ours and _start_ticks(pid) != ticks


def _start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot, to recognise a reused pid; 0 if it does not exist."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])
