"""Find a Triton installation: in a folder, or in the nvidia-pytriton wheel."""

from __future__ import annotations

import ctypes
import importlib.metadata
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tritone_serving._exceptions import GpuMissingError, ServerNotInstalledError

NVIDIA_IMAGE_ROOT: Final = Path("/opt/tritonserver")  # where NVIDIA's containers keep it
WHEEL: Final = "nvidia-pytriton"
_PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Installation:
    """Paths of the parts of a Triton installation.

    Attributes:
        binary: `tritonserver`.
        backends: folder of backends, with at least `python`.
        caches: folder of response caches.
        libraries: folders of the binary's shared libraries.
        stub: executable that runs Python models with this version of Python; None if `backends/python` has its own.
    """

    binary: Path
    backends: Path
    caches: Path
    libraries: tuple[Path, ...]
    stub: Path | None


def find_installation(root: Path | None = None) -> Installation:
    """Find a Triton installation.

    Args:
        root: folder of an installation; None tries /opt/tritonserver, then the wheel.

    Raises:
        ServerNotInstalledError: there is no installation, or it does not support this version of Python.
    """
    if root is not None:
        return _installed(root)
    if (NVIDIA_IMAGE_ROOT / "bin" / "tritonserver").is_file():
        return _installed(NVIDIA_IMAGE_ROOT)
    return _from_wheel()


def _installed(root: Path) -> Installation:
    binary = root / "bin" / "tritonserver"
    if not binary.is_file():
        raise ServerNotInstalledError(f"invalid Triton folder: expected {binary}, which does not exist")
    return Installation(binary, root / "backends", root / "caches", (root / "lib",), None)


def _from_wheel() -> Installation:
    # From the wheel's metadata, because importing pytriton takes seconds and configures logging.
    try:
        distribution = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError as error:
        raise ServerNotInstalledError(
            "no Triton server is installed; run: pip install 'tritone[serve]' "
            "(Linux on x86-64, glibc 2.35 or later), or use NVIDIA's container, "
            "which has it in /opt/tritonserver"
        ) from error
    site = Path(str(distribution.locate_file("")))
    root = site / "pytriton" / "tritonserver"
    stub = root / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    for part in (root / "bin" / "tritonserver", stub):
        if not part.is_file():
            raise ServerNotInstalledError(
                f"{WHEEL} {distribution.version} lacks {part.relative_to(site)}; Python {_PYTHON} may be "
                f"too new for it; run: pip install --force-reinstall 'tritone[serve]'"
            )
    libraries = site / "nvidia_pytriton.libs"
    return Installation(root / "bin" / "tritonserver", root / "backends", root / "caches", (libraries,), stub)


def find_libpython() -> Path:
    """Find the shared library of the running Python, to which the stub is linked.

    Raises:
        ServerNotInstalledError: this Python was built without a shared library.
    """
    name = f"libpython{_PYTHON}.so.1.0"
    folders = [sysconfig.get_config_var("LIBDIR"), Path(sys.base_prefix) / "lib"]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    if multiarch:  # Debian and derivatives
        folders += [f"/usr/lib/{multiarch}", f"/lib/{multiarch}"]
    for folder in folders:
        if folder and (Path(folder) / name).is_file():
            return Path(folder) / name
    raise ServerNotInstalledError(
        f"no {name} in {sys.base_prefix}, which Triton needs for models in Python; install it "
        f"(Debian and Ubuntu: apt install libpython{_PYTHON}), or use a Python "
        f"that was built with --enable-shared"
    )


def require_gpu() -> None:
    """Check that CUDA finds a device.

    Raises:
        GpuMissingError: there is no driver or no device.
    """
    remedy = "use --profile cpu here, or start on a machine with an NVIDIA GPU"
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise GpuMissingError(
            f"profile gpu requires an NVIDIA driver: libcuda.so.1 cannot be loaded; {remedy}"
        ) from error
    count = ctypes.c_int(0)
    status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        raise GpuMissingError(f"profile gpu requires a GPU: CUDA finds none (status {status}); {remedy}")
