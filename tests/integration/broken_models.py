"""Small models with one fault each, for tests that compare lint with the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tests.integration.python_models import MODEL

CONFIG = """
name: "{name}"
backend: "{backend}"
max_batch_size: {max_batch_size}
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ {dims} ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 {output} }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
{more}
"""
WARMUP = (
    'model_warmup {{ name: "w" batch_size: 1 inputs {{ key: "x" '
    "value {{ data_type: {data_type} dims: [ {dims} ] {data} }} }} }}"
)
Build = Callable[[Path], object]


def write(
    folder: Path,
    *,
    backend: str = "onnxruntime",
    files: dict[str, bytes] | None = None,
    max_batch_size: int = 4,
    dims: str = "2",
    output: str = "dims: [ 2 ]",
    more: str = "",
    version: str = "1",
) -> None:
    """Write a model whose folder's name is its name."""
    (folder / version).mkdir(parents=True)
    for name, content in (files or {}).items():
        (folder / version / name).write_bytes(content)
    (folder / "config.pbtxt").write_text(
        CONFIG.format(
            name=folder.name, backend=backend, max_batch_size=max_batch_size, dims=dims, output=output, more=more
        )
    )


def graph(
    *,
    op: str = "Identity",
    domain: str = "",
    opset: int = 18,
    ir_version: int = 10,
    opsets: Sequence[tuple[str, int]] = (),
    constant: Any = None,
    shape: Sequence[str | int] = ("batch", 2),
    out_shape: Sequence[str | int] | None = None,
    **attributes: Any,
) -> bytes:
    """Return an ONNX file of one node, x -> y."""
    from onnx import TensorProto, helper

    inputs = ["x"] if constant is None else ["x", constant.name]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(op, inputs, ["y"], domain=domain, **attributes)],
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape if out_shape is None else out_shape)],
            [] if constant is None else [constant],
        ),
        opset_imports=[helper.make_opsetid("", opset), *(helper.make_opsetid(*each) for each in opsets)],
        ir_version=ir_version,
    )
    content: bytes = model.SerializeToString()
    return content


def external(location: str) -> Any:
    """Return a tensor of 8 bytes that lies in another file."""
    from onnx import TensorProto, numpy_helper
    from onnx.external_data_helper import set_external_data

    tensor = numpy_helper.from_array(np.ones(2, np.float32), "weight")
    set_external_data(tensor, location, length=8)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def python(source: str = MODEL, **given: Any) -> Build:
    given = {"dims": "1", "output": "dims: [ 1 ]", **given}
    return lambda folder: write(folder, backend="python", files={"model.py": source.encode()}, **given)


def onnx_file(content: bytes, **given: Any) -> Build:
    return lambda folder: write(folder, files={"model.onnx": content}, **given)


def make_folders(*names: str) -> Build:
    return lambda folder: [(folder / name).mkdir(parents=True) for name in names]


def with_weights(content: bytes) -> Build:
    weights = {"weight.bin": b"\0" * 8}
    return lambda folder: write(folder, files={"model.onnx": content, **weights})


SCALAR = graph(op="ReduceSum", keepdims=0, shape=(2, 2), out_shape=())

# Faults in a model's files, which `serve` finds before the start, and what its reason contains.
FAULTY_FILES: dict[str, tuple[Build, str]] = {
    "no_model_py": (lambda folder: write(folder, backend="python", files={"notes.txt": b""}), "has no model.py"),
    "no_model_onnx": (lambda folder: write(folder, files={"notes.txt": b""}), "has no model.onnx"),
    "empty_version": (lambda folder: write(folder, backend="python"), "is empty"),
    "syntax_error": (python("class TritonPythonModel:\n    def execute(:\n"), "line 2"),
    "no_class": (python("x = 1\n"), "defines no class TritonPythonModel"),
    "no_execute": (python("class TritonPythonModel:\n    pass\n"), "no method `execute`"),
    "no_environment": (
        python(more='parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/no/such/env.tar.gz" } }'),
        "/no/such/env.tar.gz",
    ),
    "own_environment": (
        python(
            more='parameters { key: "EXECUTION_ENV_PATH" '
            'value { string_value: "$$TRITON_MODEL_DIRECTORY/env.tar.gz" } }'
        ),
        "own_environment/env.tar.gz",
    ),
    "other_file": (python(more='default_model_filename: "other.py"'), "has no other.py"),
    # Each of the next two would end the whole server.
    "label_folder": (
        python(output='dims: [ 1 ] label_filename: "1"'),
        "its label file '1' is a folder",
    ),
    "config_folder": (
        lambda folder: (folder / "1").mkdir(parents=True) or (folder / "config.pbtxt").mkdir(),
        "is a folder",
    ),
    "no_backend": (lambda folder: write(folder, backend="tensorrt", files={"model.plan": b"0"}), "not installed"),
}
# Faults that need the runtime or Triton, and lint.
FAULTY: dict[str, Build] = {
    "opset": onnx_file(graph(opset=99)),
    "ir_version": onnx_file(graph(ir_version=99)),
    "operator": onnx_file(graph(op="NoSuchOperator")),
    "domain": onnx_file(graph(op="Mine", domain="org.example", opsets=[("org.example", 1)])),
    "vendor_operator": onnx_file(graph(op="NoSuchOperator", domain="com.microsoft", opsets=[("com.microsoft", 1)])),
    "operator_type": onnx_file(graph(op="Not")),
    "attribute": onnx_file(graph(op="Softmax", nonsense=3)),
    "weights_missing": onnx_file(graph(op="Add", constant=external("weight.bin"))),
    "weights_short": lambda folder: write(
        folder, files={"model.onnx": graph(op="Add", constant=external("weight.bin")), "weight.bin": b"\0"}
    ),
    "text": onnx_file(b"this is not a model"),
    "scalar_output": onnx_file(SCALAR, max_batch_size=0, dims="2, 2", output="dims: [ 1 ] reshape { shape: [ ] }"),
    "reshape": python(output="dims: [ 4 ] reshape { shape: [ 2, 3 ] }"),
    "no_dims": python(output=""),
    "zero_dim": python(output="dims: [ 0 ]"),
    "negative_dim": python(output="dims: [ -2 ]"),
    "priority": python(more="dynamic_batching { priority_levels: 2 default_priority_level: 3 }"),
    "format": python(more='input [ { name: "z" data_type: TYPE_FP32 dims: [ 1 ] format: FORMAT_NHWC } ]'),
    "cached_sequence": python(more="sequence_batching { }\nresponse_cache { enable: true }"),
    "no_label_file": python(output='dims: [ 1 ] label_filename: "labels.txt"'),
    "warmup_without_input": python(more='model_warmup { name: "w" batch_size: 1 }'),
    "warmup_type": python(more=WARMUP.format(data_type="TYPE_INT64", dims="1", data="zero_data: true")),
    "warmup_dims": python(more=WARMUP.format(data_type="TYPE_FP32", dims="3", data="zero_data: true")),
    "warmup_no_data": python(more=WARMUP.format(data_type="TYPE_FP32", dims="1", data="")),
    "warmup_no_file": python(more=WARMUP.format(data_type="TYPE_FP32", dims="1", data='input_data_file: "none"')),
    "preferred": python(more="dynamic_batching { preferred_batch_size: [ 9 ] }"),
}
SOUND: dict[str, Build] = {
    "warmed_up": python(more=WARMUP.format(data_type="TYPE_FP32", dims="1", data="zero_data: true")),
    "plain_onnx": onnx_file(graph()),
    "vendor_gelu": onnx_file(graph(op="Gelu", domain="com.microsoft", opsets=[("com.microsoft", 1)])),
    "weights_beside": with_weights(graph(op="Add", constant=external("weight.bin"))),
    "plain_python": python(),
    "assigned_class": python(MODEL.replace("class TritonPythonModel", "class Model") + "\nTritonPythonModel = Model\n"),
    "class_by_name": python(
        MODEL.replace("class TritonPythonModel", "class Model") + '\nglobals()["TritonPythonModel"] = Model\n'
    ),
    "priorities": python(more="dynamic_batching { priority_levels: 2 default_priority_level: 1 }"),
    "reshaped": python(output="dims: [ 1 ] reshape { shape: [ 1 ] }"),
}
# What volumes and tools put beside models.
OF_VOLUMES = ("lost+found", ".snapshot", ".Trash-1000", "..2026_11_28", ".git", "System Volume Information", "@eaDir")
