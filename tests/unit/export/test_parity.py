from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tests.unit.export import fixture_kind

from tritone_export import (
    ConversionError,
    DTypeMismatchError,
    ExportResult,
    NameMismatchError,
    NonFiniteError,
    ParityError,
    RankMismatchError,
    ShapeMismatchError,
    StaticAxisError,
    ValueMismatchError,
    export_model,
)
from tritone_export.parity import check_parity, check_signature, open_session
from tritone_training.declaration import Axis, Declaration, Tensor
from tritone_training.kinds.genre_cnn.declaration import DECLARATION

TINY = replace(
    DECLARATION,
    inputs=(Tensor("x", "FP32", (Axis("feature", 8),), "x"),),
    outputs=(Tensor("y", "FP32", (Axis("feature", 8),), "y"),),
)


class Apply(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def tiny_inputs(n_batch: int, seed: int) -> Mapping[str, Any]:
    return {"x": np.random.default_rng(seed).standard_normal((n_batch, 8)).astype(np.float32)}


def export_tiny(
    function: Callable[..., Any],
    repository: Path,
    declaration: Declaration = TINY,
    inputs: Any = tiny_inputs,
) -> ExportResult:
    exportable = fixture_kind.exportable(Apply(function).eval(), declaration)
    exportable = replace(exportable, label_files={})
    return export_model(exportable, fixture_kind.kind(declaration, inputs), repository=repository)


def branch_on_batch(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (x * 2 if x.shape[0] == 2 else x * 3,)


def nan_where_large(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (torch.log(x),)


@pytest.mark.parametrize(
    ("function", "errors", "tensor"),
    [
        (lambda x: (x, x), (NameMismatchError,), "output 1"),
        (lambda x: (), (NameMismatchError,), "y"),
        (lambda x: (x.double(),), (DTypeMismatchError,), "y"),
        (lambda x: (x[:, :5],), (ShapeMismatchError,), "y"),
        (lambda x: (x[:, None],), (ShapeMismatchError,), "y"),
        (lambda x: (x.reshape(2, 8),), (ConversionError, StaticAxisError), None),
        (branch_on_batch, (ValueMismatchError,), "y"),
        (nan_where_large, (NonFiniteError,), "y"),
    ],
    ids=["count", "none", "dtype", "size", "rank", "frozen", "value", "nan"],
)
def test_a_network_that_is_not_as_declared(
    tmp_path: Path, function: Callable[..., Any], errors: tuple[type[Exception], ...], tensor: str | None
) -> None:
    with pytest.raises(errors) as caught:
        export_tiny(function, tmp_path)
    if tensor is not None:
        assert isinstance(caught.value, ParityError)
        assert caught.value.tensor == tensor
    assert not (tmp_path / "genre_cnn" / "1").exists()


def test_a_value_mismatch_has_the_difference_and_its_index(tmp_path: Path) -> None:
    with pytest.raises(ValueMismatchError) as caught:
        export_tiny(branch_on_batch, tmp_path)
    x = tiny_inputs(1, 1)["x"]
    assert caught.value.tensor == "y"
    assert caught.value.tolerance == 1e-4
    assert caught.value.n_batch == 1
    assert caught.value.index == (0, int(np.abs(x).argmax()))
    assert caught.value.max_abs_difference == pytest.approx(float(np.abs(x).max()), rel=1e-5)


def test_axes_of_variable_size_stay_variable(tmp_path: Path) -> None:
    declaration = replace(
        TINY,
        inputs=(Tensor("x", "FP32", (Axis("step"), Axis("feature", 8)), "x"),),
        outputs=(Tensor("y", "FP32", (Axis("step"), Axis("feature", 8)), "y"),),
    )

    def inputs(n_batch: int, seed: int) -> Mapping[str, Any]:
        shape = (n_batch, 3 + seed, 8)
        return {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}

    result = export_tiny(lambda x: (x.cumsum(1),), tmp_path, declaration, inputs)
    model = onnx.load(result.path / "model.onnx")
    words = [dim.dim_param or dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
    assert words == ["batch", "step", 8]


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        (lambda n, seed: {"z": tiny_inputs(n, seed)["x"]}, NameMismatchError),
        (lambda n, seed: {"x": tiny_inputs(n, seed)["x"].astype(np.float64)}, DTypeMismatchError),
        (lambda n, seed: {"x": tiny_inputs(n, seed)["x"][:, :3]}, ShapeMismatchError),
        (lambda n, seed: {"x": tiny_inputs(1, seed)["x"]}, ShapeMismatchError),
    ],
)
def test_example_inputs_that_are_not_as_declared(tmp_path: Path, inputs: Any, error: type[ParityError]) -> None:
    with pytest.raises(error) as caught:
        export_tiny(lambda x: (x,), tmp_path, inputs=inputs)
    assert caught.value.tensor == "x"


# --- a good file against other declarations, and spoiled files against the right one ------------------------


@pytest.fixture(scope="session")
def model(exported_once: tuple[Path, ExportResult]) -> onnx.ModelProto:
    return onnx.load(exported_once[1].path / "model.onnx")


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def redeclared(tensor: str, **changes: Any) -> Declaration:
    def swap(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(replace(t, **changes) if t.name == tensor else t for t in tensors)

    return replace(DECLARATION, inputs=swap(DECLARATION.inputs), outputs=swap(DECLARATION.outputs))


@pytest.mark.parametrize(
    ("declaration", "error", "tensor"),
    [
        (redeclared("emotions", name="moods"), NameMismatchError, "moods"),
        (redeclared("audio", name="pcm"), NameMismatchError, "pcm"),
        (redeclared("embedding", dtype="FP16"), DTypeMismatchError, "embedding"),
        (redeclared("embedding", axes=()), RankMismatchError, "embedding"),
        (redeclared("emotions", axes=(Axis("emotion"),)), StaticAxisError, "emotions"),
        (redeclared("audio", axes=(Axis("sample"),)), StaticAxisError, "audio"),
        (redeclared("emotions", axes=(Axis("emotion", 8),)), ShapeMismatchError, "emotions"),
        (redeclared("probabilities", axes=(Axis("label", 4),)), ShapeMismatchError, "probabilities"),
    ],
)
def test_signature_against_another_declaration(
    model: onnx.ModelProto, declaration: Declaration, error: type[ParityError], tensor: str
) -> None:
    session = open_session(model.SerializeToString())
    check_signature(session, DECLARATION)
    with pytest.raises(error) as caught:
        check_signature(session, declaration)
    assert caught.value.tensor == tensor


def test_a_fixed_batch_axis_is_reported(model: onnx.ModelProto) -> None:
    frozen = copy_of(model)
    frozen.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(StaticAxisError) as caught:
        check_signature(open_session(frozen.SerializeToString()), DECLARATION)
    assert (caught.value.tensor, caught.value.axis) == ("audio", "batch")


def spoil(model: onnx.ModelProto, output: str, value: float) -> Any:
    """Add `value` to one column of an output, inside the graph."""
    spoiled = copy_of(model)
    width = {"emotions": 9, "embedding": 256}[output]
    offset = np.zeros(width, np.float32)
    offset[5] = value
    spoiled.graph.initializer.append(numpy_helper.from_array(offset, "offset"))
    for node in spoiled.graph.node:
        node.output[:] = ["right" if name == output else name for name in node.output]
    spoiled.graph.node.append(onnx.helper.make_node("Add", ["right", "offset"], [output]))
    return open_session(spoiled.SerializeToString())


def test_a_difference_above_the_tolerance_is_an_error(model: onnx.ModelProto) -> None:
    network = fixture_kind.small_network()
    good = open_session(model.SerializeToString())
    check_parity(network, good, DECLARATION, fixture_kind.example_inputs)
    with pytest.raises(ValueMismatchError) as caught:
        check_parity(network, spoil(model, "emotions", 5e-4), DECLARATION, fixture_kind.example_inputs)
    assert (caught.value.tensor, caught.value.index[1], caught.value.n_batch) == ("emotions", 5, 1)
    assert caught.value.max_abs_difference == pytest.approx(5e-4, rel=0.05)
    loose = redeclared("emotions", tolerance=1e-3)
    check_parity(network, spoil(model, "emotions", 5e-4), loose, fixture_kind.example_inputs)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_errors_for_any_tolerance(model: onnx.ModelProto, value: float) -> None:
    declaration = redeclared("embedding", tolerance=float("inf"))
    with pytest.raises(NonFiniteError) as caught:
        check_parity(
            fixture_kind.small_network(),
            spoil(model, "embedding", value),
            declaration,
            fixture_kind.example_inputs,
        )
    assert (caught.value.source, caught.value.index) == ("ONNX Runtime", (0, 5))


def test_errors_of_onnxruntime_are_translated() -> None:
    with pytest.raises(ConversionError) as caught:
        open_session(b"not an onnx file")
    assert type(caught.value.__cause__).__module__.startswith("onnxruntime")
