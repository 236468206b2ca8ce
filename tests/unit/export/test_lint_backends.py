"""Lint of a model whose backend is ours: the ONNX file and the wire differ, and have to fit all the same."""

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


def test_states_are_not_on_the_wire_and_first_frame_is_not_in_the_graph(repository: Path) -> None:
    report = check_repository(repository)
    assert report.findings == ()
    assert report.notes == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("decoupled: true", "decoupled: false", "backend 'composer' sends many answers to one request"),
        ('name: "noise" data_type: TYPE_FP32', 'name: "noise" data_type: TYPE_FP16', "'noise' is TYPE_FP16 here and"),
        ("dims: [ -1, 8 ]", "dims: [ -1, 8, 1 ]", r"'noise' has dims [-1, 8, 1] here; the graph has [-1, 8]"),
        ('name: "style"', 'name: "styles"', "input 'styles' is not in 1/model.onnx, which has 'given'"),
        ('name: "first_frame" data_type: TYPE_INT64', 'name: "first_frame" data_type: TYPE_INT32', "'first_frame' is"),
        ('name: "nll"', 'name: "next_state_sums"', "output 'next_state_sums' is not in 1/model.onnx"),
    ],
)
def test_a_config_is_held_against_what_the_backend_makes_of_the_graph(
    repository: Path, old: str, new: str, message: str
) -> None:
    rewrite(repository, old, new)
    assert message in findings(repository)


def test_a_missing_input_is_told_and_states_are_not_missed(repository: Path) -> None:
    rewrite(repository, '  { name: "top_k" data_type: TYPE_INT64 dims: [ 1 ] reshape { } },\n', "")
    assert "1/model.onnx also needs 'top_k' (add every input" in findings(repository)


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
                "takes 'state_sums' and does not answer 'next_state_sums'",
                "answers 'next_state_totals' and does not take 'state_totals'",
            ),
        ),
        (
            retype_next,
            ("takes 'state_frame' as TYPE_INT64 [-1] and answers it as TYPE_INT64 [-1, 1]",),
        ),
    ],
)
def test_states_that_cannot_be_carried_on(
    repository: Path, edit: Callable[[Any], object], messages: tuple[str, ...]
) -> None:
    change(repository, edit)
    for message in messages:
        assert f"1/model.onnx:1: error: {message}" in findings(repository)


def test_a_graph_without_states_is_for_another_backend(repository: Path) -> None:
    rewrite(repository, 'backend: "composer"', 'backend: "onnxruntime"')
    assert "also needs 'state_frame', 'state_sums'" in findings(repository)
    rewrite(repository, 'backend: "onnxruntime"', 'backend: "composer"')
    graph = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[batch] a) => (float[batch] b) { b = Identity (a) }'
    )
    onnx.save(graph, repository / stand_in.MODEL / "1" / "model.onnx")
    assert "has no state (inputs named state_...), which 'composer' streams from" in findings(repository)


def test_a_version_without_its_file_and_a_file_cut_off(repository: Path) -> None:
    path = repository / stand_in.MODEL / "1" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.onnx:1: error: is not an ONNX file, or is cut off" in findings(repository)
    path.unlink()
    assert "version 1 holds no model.onnx" in findings(repository)
