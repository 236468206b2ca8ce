"""Unit tests of the serving package: no server."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tritone_serving


@pytest.fixture(scope="session")
def backend() -> Iterator[Any]:
    """The backend's modules, imported as Triton's stub does: by their own names, from their folder."""
    folder = str(Path(tritone_serving.__file__).parent / "backends" / "onnxruntime")
    sys.path.append(folder)
    try:
        names = ("batching", "contract", "session")
        yield SimpleNamespace(**{name: importlib.import_module(f"tritone_ort_{name}") for name in names})
    finally:
        sys.path.remove(folder)
