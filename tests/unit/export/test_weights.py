"""Weights in a file beside the graph: the same results, one copy in memory, and nothing for small models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from tests.unit.export import fixture_kind

from tritone_export import export_model, lint_repository
from tritone_export.candidates import check_files
from tritone_export.parity import open_session
from tritone_export.weights import MIN_N_BYTES, split_weights
from tritone_serving import RefusedVersionError

WIDTH = 128  # 64 KiB of weights


def loop_model(width: int = WIDTH) -> bytes:
    """Return a graph that adds a bias and multiplies by a matrix, and by another one in the body of a Scan."""
    random = np.random.default_rng(0)
    inner = numpy_helper.from_array(random.normal(size=(width, width)).astype(np.float32), "inner")
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "inner"], ["next"]), helper.make_node("Identity", ["next"], ["y"])],
        "body",
        [value("x", 1, [1, width]), value("step", 1, [1])],
        [value("next", 1, [1, width]), value("y", 1, [1, width])],
        [inner],
    )
    weights = {"matrix": random.normal(size=(width, width)), "bias": random.normal(size=(width,))}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["in", "matrix"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["first"]),
            helper.make_node("Scan", ["first", "steps"], ["out", "all"], num_scan_inputs=1, body=body),
        ],
        "graph",
        [value("in", 1, [1, width]), value("steps", 1, [2, 1])],
        [value("out", 1, [1, width]), value("all", 1, [2, 1, width])],
        [numpy_helper.from_array(each.astype(np.float32), name) for name, each in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def saved(folder: Path, content: bytes) -> Path:
    for name, each in split_weights(content, "model.onnx").items():
        (folder / name).write_bytes(each)
    return folder / "model.onnx"


def mappings(path: Path) -> list[int]:
    """Return the size in kB of the private copies in each mapping of a file."""
    found = Path("/proc/self/smaps").read_text().split(str(path))[1:]
    return [int(entry.partition("Anonymous:")[2].split()[0]) for entry in found]


def test_a_split_model_computes_the_same(tmp_path: Path) -> None:
    content = loop_model()
    path = saved(tmp_path, content)
    onnx.checker.check_model(str(path), full_check=True)
    inputs = {"in": np.ones((1, WIDTH), np.float32), "steps": np.zeros((2, 1), np.float32)}
    expected, found = (open_session(each).run(None, inputs) for each in (content, path))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_only_large_weights_are_moved_to_whole_pages() -> None:
    files = split_weights(loop_model(), "model.onnx")
    assert list(files) == ["model.onnx", "model.onnx.data"]
    model = onnx.ModelProto.FromString(files["model.onnx"])
    body = next(node for node in model.graph.node if node.op_type == "Scan").attribute[0].g
    places = {}
    for tensor in (*model.graph.initializer, *body.initializer):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            places[tensor.name] = {entry.key: entry.value for entry in tensor.external_data}
        else:
            assert len(tensor.raw_data) < MIN_N_BYTES
    n_bytes = str(4 * WIDTH * WIDTH)
    assert places == {
        "matrix": {"location": "model.onnx.data", "offset": "0", "length": n_bytes},
        "inner": {"location": "model.onnx.data", "offset": n_bytes, "length": n_bytes},
    }
    assert len(files["model.onnx.data"]) == 2 * int(n_bytes)
    assert split_weights(loop_model(), "model.onnx") == files


def test_a_small_model_stays_in_one_file() -> None:
    content = loop_model(width=8)
    assert split_weights(content, "model.onnx") == {"model.onnx": content}


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_sessions_share_the_weights(tmp_path: Path) -> None:
    path = saved(tmp_path, loop_model())
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")  # ONNX Runtime copies what it rearranges
    sessions = []
    for n_sessions in (1, 2):
        sessions.append(onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
        sessions[-1].run(None, {"in": np.ones((1, WIDTH), np.float32), "steps": np.zeros((2, 1), np.float32)})
        assert mappings(tmp_path / "model.onnx.data") == [0] * 2 * n_sessions  # a mapping per tensor


def test_an_exported_version_has_a_checksum_of_its_weights(tmp_path: Path) -> None:
    version = export_model(fixture_kind.exportable(), fixture_kind.kind(), repository=tmp_path).path
    check_files(version)
    assert lint_repository(tmp_path) == []
    weights = version / "model.onnx.data"
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RefusedVersionError, match=r"model\.onnx\.data does not match the checksum"):
        check_files(version)
    assert "1/model.onnx.data:1: error: does not match its model card" in "\n".join(map(str, lint_repository(tmp_path)))
    weights.unlink()
    with pytest.raises(RefusedVersionError, match=r"model\.onnx\.data is missing"):
        check_files(version)
