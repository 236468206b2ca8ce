"""Lint of a model for the backend `composer`, whose config declares other tensors than the ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.integration import composer_stand_in as stand_in

from tritone_export import check_repository, lint_repository


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return stand_in.make_repository(tmp_path)


def findings(repository: Path) -> str:
    return "\n".join(map(str, lint_repository(repository)))


def rewrite(repository: Path, old: str, new: str) -> None:
    config = repository / stand_in.MODEL / "config.pbtxt"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))


def change(repository: Path, edit: Callable[[Any], object]) -> None:
    path = repository / stand_in.MODEL / "1" / "model.onnx"
    model = onnx.load(path)
    edit(model.graph)
    onnx.save(model, path)


def value(values: Any, name: str) -> Any:
    return next(value for value in values if value.name == name)


def test_a_config_without_states_and_with_first_frame_is_valid(repository: Path) -> None:
    report = check_repository(repository)
    assert report.findings == ()
    assert report.notes == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("decoupled: true", "decoupled: false", "backend 'composer' sends several responses per request"),
        ('name: "noise" data_type: TYPE_FP32', 'name: "noise" data_type: TYPE_FP16', "'noise' is TYPE_FP16 here and"),
        ("dims: [ -1, 8 ]", "dims: [ -1, 8, 1 ]", r"'noise' has dims [-1, 8, 1] here; the graph has [-1, 8]"),
        ('name: "style"', 'name: "styles"', "input 'styles' is not in 1/model.onnx, which has '"),
        ('name: "first_frame" data_type: TYPE_INT64', 'name: "first_frame" data_type: TYPE_INT32', "'first_frame' is"),
        ('name: "nll"', 'name: "next_state_sums"', "output 'next_state_sums' is not in 1/model.onnx"),
    ],
)
def test_a_config_is_compared_with_the_tensors_of_the_backend(
    repository: Path, old: str, new: str, message: str
) -> None:
    rewrite(repository, old, new)
    assert message in findings(repository)


def test_a_missing_input_is_reported_but_missing_states_are_not(repository: Path) -> None:
    rewrite(repository, '  { name: "top_k" data_type: TYPE_INT64 dims: [ 1 ] reshape { } },\n', "")
    assert "lacks inputs of 1/model.onnx: 'top_k' (add every input" in findings(repository)


def rename_next(graph: Any) -> None:
    for node in graph.node:
        node.output[:] = ["next_state_totals" if name == "next_state_sums" else name for name in node.output]
    value(graph.output, "next_state_sums").name = "next_state_totals"


def retype_next(graph: Any) -> None:
    value(graph.output, "next_state_frame").type.tensor_type.shape.dim.add().dim_value = 1


@pytest.mark.parametrize(
    ("edit", "messages"),
    [
        (
            rename_next,
            (
                "has input 'state_sums' but no output 'next_state_sums'",
                "has output 'next_state_totals' but no input 'state_totals'",
            ),
        ),
        (
            retype_next,
            ("state 'state_frame' is TYPE_INT64 [-1] as an input and TYPE_INT64 [-1, 1] as an output",),
        ),
    ],
)
def test_states_whose_input_and_output_do_not_match(
    repository: Path, edit: Callable[[Any], object], messages: tuple[str, ...]
) -> None:
    change(repository, edit)
    for message in messages:
        assert f"1/model.onnx:1: error: {message}" in findings(repository)


def test_a_graph_without_states_is_for_another_backend(repository: Path) -> None:
    rewrite(repository, 'backend: "composer"', 'backend: "onnxruntime"')
    assert "lacks inputs of 1/model.onnx: 'state_frame', 'state_sums'" in findings(repository)
    rewrite(repository, 'backend: "onnxruntime"', 'backend: "composer"')
    graph = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[batch] a) => (float[batch] b) { b = Identity (a) }'
    )
    onnx.save(graph, repository / stand_in.MODEL / "1" / "model.onnx")
    assert "has no state (inputs named state_...), which backend 'composer' needs" in findings(repository)


def test_a_truncated_and_a_missing_model_file(repository: Path) -> None:
    path = repository / stand_in.MODEL / "1" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.onnx:1: error: is not an ONNX file, or is truncated" in findings(repository)
    path.unlink()
    assert "version 1 has no model.onnx" in findings(repository)
