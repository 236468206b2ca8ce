"""Tests that a session returns freed memory to the kernel after it was opened."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper


@pytest.fixture
def path(tmp_path: Path) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", values[:1], values[1:])
    made = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), made)
    return made


def test_freed_memory_is_returned_after_opening(backend: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    monkeypatch.setattr(backend.session.ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=kept.append))
    backend.session.open_session(str(path), {}, instance_kind="CPU", device_id=0)
    assert kept == [0]


def test_a_session_opens_with_a_c_library_that_cannot_do_it(
    backend: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend.session.ctypes, "CDLL", lambda _: SimpleNamespace())
    assert backend.session.open_session(str(path), {}, instance_kind="CPU", device_id=0).get_inputs()[0].name == "x"
