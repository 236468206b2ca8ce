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

BACKENDS = Path(tritone_serving.__file__).parent / "backends"


@pytest.fixture(scope="session")
def backend() -> Iterator[Any]:
    """The backend's modules, imported as Triton's stub does: by their own names, from their folder."""
    yield from _imported("tritone_ort", ("batching", "contract", "cores", "limits", "marks", "session"), "onnxruntime")


@pytest.fixture(scope="session")
def composer(backend: Any) -> Iterator[Any]:
    """The modules of the `composer` backend, and those that it takes from its neighbour."""
    parts = ("engine", "graph", "metrics")
    for found in _imported("tritone_composer", parts, "composer", "onnxruntime"):
        yield SimpleNamespace(**vars(found), **vars(backend))


@pytest.fixture(scope="session")
def cf_ensemble() -> Iterator[Any]:
    """The modules of the `cf_ensemble` backend."""
    yield from _imported(
        "tritone_cf", ("events", "inputs", "loading", "metrics", "outputs", "remote", "similar"), "cf_ensemble"
    )


@pytest.fixture(scope="session")
def renderer() -> Iterator[Any]:
    """The module of the `renderer` backend that needs no server."""
    yield from _imported("tritone_renderer", ("sound",), "renderer")


@pytest.fixture(scope="session")
def recordings() -> Iterator[Any]:
    """The module of the `recordings` backend that needs no server."""
    yield from _imported("tritone_recordings", ("decoding",), "recordings")


def _imported(prefix: str, parts: tuple[str, ...], *folders: str) -> Iterator[Any]:
    paths = [str(BACKENDS / folder) for folder in folders]
    sys.path += paths
    try:
        yield SimpleNamespace(**{part: importlib.import_module(f"{prefix}_{part}") for part in parts})
    finally:
        for path in paths:
            sys.path.remove(path)
