"""Makes the package `tritone_serving.recommender` importable in Triton's Python stub.

The package is imported without running `tritone_serving/__init__.py`, whose dependencies are missing in NVIDIA's
containers. It is taken from the folder above the backends, or from the installed package if the backends were copied.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

_PACKAGE = "tritone_serving"


def make_importable() -> None:
    """Make `tritone_serving.recommender` importable."""
    package_folder = Path(__file__).resolve().parents[2]
    if _PACKAGE in sys.modules or not (package_folder / "recommender").is_dir():
        return
    package = types.ModuleType(_PACKAGE)
    package.__path__ = [str(package_folder)]
    sys.modules[_PACKAGE] = package
