"""Tests of the memory of sessions: what is returned to the kernel after opening, and the common arena."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
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


# Prints the growth in MB after two sessions ran in turns; the largest value has 64 MB.
_GROWTH = """
import sys
import numpy as np
from tritone_ort_session import open_session

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

path, shares = sys.argv[1], sys.argv[2] == "shares"
sessions = [open_session(path, {}, instance_kind="CPU", device_id=0, shares_arena=shares) for _ in range(2)]
before = resident_mb()
for session in 3 * sessions:
    assert session.run(None, {"x": np.ones(1, np.float32)})[0] == 2**24
print(resident_mb() - before)
"""


def test_sessions_that_run_in_turns_share_an_arena(backend: Any, tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]), helper.make_tensor_value_info("y", 1, [])]
    size = helper.make_tensor("size", TensorProto.INT64, [1], [2**24])
    nodes = [
        helper.make_node("Expand", ["x", "size"], ["wide"]),
        helper.make_node("ReduceSum", ["wide"], ["y"], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "wide", ends[:1], ends[1:], [size])
    made = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), made)
    folder = Path(backend.session.__file__).parent

    def growth_mb(how: str) -> float:
        command = [sys.executable, "-c", _GROWTH, str(made), how]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(folder)})
        return float(run.stdout)

    assert growth_mb("shares") < 0.75 * growth_mb("apart")


@pytest.mark.parametrize(("parameters", "expected"), [({}, "1"), ({"enable_mem_arena": {"string_value": "0"}}, None)])
def test_a_config_without_an_arena_has_no_common_one(
    backend: Any, path: Path, parameters: dict[str, Any], expected: str | None
) -> None:
    config = {"parameters": parameters}
    session = backend.session.open_session(str(path), config, instance_kind="CPU", device_id=0, shares_arena=True)
    options = session.get_session_options()
    if expected is None:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry("session.use_env_allocators")
    else:
        assert options.get_session_config_entry("session.use_env_allocators") == expected


def test_an_onnxruntime_that_cannot_share_an_arena_opens_the_session(
    backend: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(onnxruntime, "create_and_register_allocator")
    backend.session._make_common_arena.cache_clear()
    said: list[str] = []
    session = backend.session.open_session(
        str(path), {}, instance_kind="CPU", device_id=0, shares_arena=True, warn=said.append
    )
    backend.session._make_common_arena.cache_clear()
    assert session.get_inputs()[0].name == "x"
    assert "an arena of its own: module 'onnxruntime' has no attribute" in said[0]
