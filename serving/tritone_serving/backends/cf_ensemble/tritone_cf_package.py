"""Finds the recommender's code, which is not a part of any backend: offline evaluation calls it too.

It is imported without running `tritone_serving/__init__.py`, whose dependencies a container of NVIDIA's lacks.
Beside the backends' folder lies the package; where this folder was copied elsewhere, an installed one is used.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

_PACKAGE = "tritone_serving"


def make_importable() -> None:
    """Make `tritone_serving.recommender` importable."""
    beside = Path(__file__).resolve().parents[2]
    if _PACKAGE in sys.modules or not (beside / "recommender").is_dir():
        return
    package = types.ModuleType(_PACKAGE)
    package.__path__ = [str(beside)]
    sys.modules[_PACKAGE] = package
