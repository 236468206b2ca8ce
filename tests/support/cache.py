"""A cache on disk for tiny checkpoints and exports, which take seconds to make and are the same in every run.

An entry is found by a hash of everything that it is made from: the source files of the packages, the versions of the
libraries, and the builder's own arguments. A changed source file therefore makes a new entry. Test processes share the
cache: an entry is built under a file lock, in a temporary folder that is renamed when it is complete.

The environment variable TRITONE_TEST_CACHE sets the cache folder. Deleting the folder is always safe.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import platformdirs
from filelock import FileLock

ROOT = Path(__file__).parents[2]
LIBRARIES = ("lightning", "numpy", "onnx", "onnxruntime", "onnxscript", "scipy", "torch")
KEEP_S = 7 * 24 * 3600  # entries that were not used for longer are removed


def cache_folder() -> Path:
    """Return the folder that holds the entries."""
    given = os.environ.get("TRITONE_TEST_CACHE")
    return Path(given) if given else platformdirs.user_cache_path("tritone-tests")


@functools.cache
def sources_hash(*folders: str) -> str:
    """Return a hash of the Python files in folders of the project and of the libraries' versions."""
    digest = hashlib.sha256(sys.version.encode())
    for library in LIBRARIES:
        digest.update(f"{library}=={version(library)}\n".encode())
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


def copy_cached(
    name: str, build: Callable[[Path], object], to: Path, *, sources: tuple[str, ...], key: str = ""
) -> None:
    """Copy what `build` writes into a folder to `to`, from the cache if it holds it.

    The test gets a copy, so that it cannot damage what other tests and later runs use.

    Args:
        name: of the entry; part of its folder's name.
        build: writes the entry's files into the folder that it is called with.
        to: destination; created if necessary, and files that are there already are kept.
        sources: folders of the project, relative to its root, whose Python files the result depends on.
        key: everything else that the result depends on.
    """
    root = cache_folder()
    root.mkdir(parents=True, exist_ok=True)
    hashed = hashlib.sha256(f"{sources_hash(*sources)} {key}".encode()).hexdigest()[:24]
    entry = root / f"{name}-{hashed}"
    with FileLock(root / f"{entry.name}.lock"):
        if not entry.is_dir():
            _remove_unused(root)
            with tempfile.TemporaryDirectory(dir=root, prefix=".building-") as building:
                made = Path(building) / "entry"
                made.mkdir()
                build(made)
                made.rename(entry)
        os.utime(entry)
        shutil.copytree(entry, to, dirs_exist_ok=True)


def _remove_unused(root: Path) -> None:
    oldest = time.time() - KEEP_S
    for path in root.iterdir():
        try:
            if path.stat().st_mtime >= oldest:
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError:  # another process removed it, or still builds it
            continue
