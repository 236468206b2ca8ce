"""Unit tests of the serving package: no server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tritone_serving


@pytest.fixture(scope="session")
def backend() -> Iterator[Any]:
    """The backend's modules, imported as Triton's stub does: by their own names, from their folder."""
    folder = str(Path(tritone_serving.__file__).parent / "backends" / "onnxruntime")
    sys.path.append(folder)
    try:
        import tritone_ort_batching
        import tritone_ort_contract
        import tritone_ort_session

        class Backend:
            batching = tritone_ort_batching
            contract = tritone_ort_contract
            session = tritone_ort_session

        yield Backend
    finally:
        sys.path.remove(folder)
