"""Check ONNX files, and the tensors of a config against them, by the rules of the backends that serve them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2

from tritone_export.dtypes import CONFIG_TYPE_BY_ONNX
from tritone_export.lint.config_file import ConfigFile
from tritone_export.lint.findings import Findings

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a graph.

    Attributes:
        data_type: element type, as Triton names it.
        dims: sizes including the batch axis, -1 for variable ones; None if the rank is unknown.
    """

    name: str
    data_type: str
    dims: tuple[int, ...] | None


@dataclass(frozen=True)
class OnnxGraph:
    """Inputs, outputs and metadata of an ONNX file."""

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    metadata: Mapping[str, str]


def read_graph(path: Path, report: Findings) -> OnnxGraph | None:
    """Read inputs, outputs and metadata of an ONNX file, and report a damaged file.

    Returns:
        the graph; None if it cannot be read.
    """
    import onnx

    remedy = "export this version again, or remove its folder"
    try:
        model = onnx.load(str(path), load_external_data=False)
        if not _check_external_data(model, path, report):
            return None
        onnx.checker.check_model(str(path))  # the path, so that external data is found
    except DecodeError:
        report.error(path, 1, "is not an ONNX file, or is truncated", remedy)
        return None
    except onnx.checker.ValidationError as error:
        report.error(path, 1, f"is not a valid ONNX model: {str(error).splitlines()[0]}", remedy)
        return None
    except OSError as error:
        report.error(path, 1, f"cannot be read: {error.strerror}", "check its owner and permissions")
        return None
    constants = {initializer.name for initializer in model.graph.initializer}  # old files list these as inputs, too
    return OnnxGraph(
        tuple(_tensor(value) for value in model.graph.input if value.name not in constants),
        tuple(_tensor(value) for value in model.graph.output),
        {prop.key: prop.value for prop in model.metadata_props},
    )


def check_tensors(file: ConfigFile, graph: OnnxGraph, onnx_path: Path, report: Findings) -> None:
    """Report tensors whose name, type, dimensions or batch axis differ between config and graph."""
    for side, found in (("input", graph.inputs), ("output", graph.outputs)):
        configured = getattr(file.config, side)
        if not configured and not file.config.input and not file.config.output:
            continue  # Triton completes a config without tensors
        by_name = {tensor.name: tensor for tensor in found}
        for i, tensor in enumerate(configured):
            if tensor.name not in by_name:
                report.error(
                    file.path,
                    file.source.line((side, i), "name"),
                    f"{side} {tensor.name!r} is not in {_short(onnx_path)}, which has {_listed(by_name)}",
                    _closest(tensor.name, by_name),
                )
            else:
                _check_tensor(file, (side, i), tensor, by_name[tensor.name], report)
        missing = by_name.keys() - {tensor.name for tensor in configured}
        if side == "output" and not configured:
            report.error(
                file.path, 1, f"declares no output; {_short(onnx_path)} has {_listed(missing)}", "add an output"
            )
        if side == "input" and missing:
            report.error(
                file.path,
                file.source.line("input"),
                f"lacks inputs of {_short(onnx_path)}: {_listed(missing)}",
                "add every input of the graph",
            )


def _check_tensor(file: ConfigFile, field: tuple[str, int], tensor: Any, found: GraphTensor, report: Findings) -> None:
    side = field[0]
    data_type = model_config_pb2.DataType.Name(tensor.data_type)
    if data_type != found.data_type:
        report.error(
            file.path,
            file.source.line(field, "data_type"),
            f"{side} {tensor.name!r} is {data_type} here and {found.data_type} in the graph",
            f"make it {found.data_type}",
        )
    if found.dims is None:
        return
    dims = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
    batched = file.config.max_batch_size > 0
    line = file.source.line(field, "dims")
    if batched and (not found.dims or found.dims[0] != -1):
        report.error(
            file.path,
            line,
            f"{side} {tensor.name!r} has no variable batch axis in the graph, whose shape is {list(found.dims)}",
            "export with a dynamic batch axis, or set max_batch_size to 0",
        )
        return
    full = [-1, *dims] if batched else dims
    # For inputs, the backend accepts a fixed size in the config where the graph has a variable one.
    fits = len(full) == len(found.dims) and all(
        ours == theirs or (side == "input" and theirs == -1) for ours, theirs in zip(full, found.dims, strict=True)
    )
    if not fits:
        expected = list(found.dims[1:] if batched else found.dims)
        report.error(
            file.path,
            line,
            f"{side} {tensor.name!r} has dims {dims} here; the graph has {expected}"
            + (" after the batch axis" if batched else ""),
            f"make them {expected}",
        )


def _check_external_data(model: onnx.ModelProto, path: Path, report: Findings) -> bool:
    """Report files of external weights that are missing or too short; return whether all are complete."""
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    infos = [ExternalDataInfo(tensor) for tensor in _tensors(model.graph) if uses_external_data(tensor)]
    needed: dict[str, int] = {}
    for info in infos:
        n_bytes = int(info.offset or 0) + int(info.length or 0)
        needed[info.location] = max(needed.get(info.location, 0), n_bytes)
    n_before = len(report.findings)
    for location, n_bytes in sorted(needed.items()):
        target = (path.parent / location).resolve()
        if not target.is_relative_to(path.parent.resolve()):
            report.error(path, 1, f"has weights outside its version folder, in {location}", "export this version again")
        elif not target.is_file():
            report.error(
                path,
                1,
                f"has weights in {location}, which is missing",
                "restore the file, or export again",
            )
        elif target.stat().st_size < n_bytes:
            report.error(
                path,
                1,
                f"has weights in {location}, which is truncated: expected at least {n_bytes} bytes, got "
                f"{target.stat().st_size}",
                "copy the file again, or export again",
            )
    return len(report.findings) == n_before


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield the tensors that a graph and the graphs of its nodes hold."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _tensors(inner)


def _tensor(value: Any) -> GraphTensor:
    from onnx import TensorProto

    tensor_type = value.type.tensor_type
    name = TensorProto.DataType.Name(tensor_type.elem_type)
    dims = None
    if tensor_type.HasField("shape"):
        dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor_type.shape.dim)
    return GraphTensor(value.name, CONFIG_TYPE_BY_ONNX.get(name, f"{name}, which Triton cannot serve"), dims)


def _closest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else "name a tensor of the graph"


def _listed(names: Iterable[str] | Sequence[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names)) or "none"


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


# Prefix of error messages of onnxruntime: its name, the file, and a position in its source code.
_PREFIX: Final = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"|Load model from \S+ failed:"
    r"|\S+\.(?:cc|h):\d+ (?:[\w:<>&*, ~]+?\((?:[^()]|\([^()]*\))*\) (?:const )?)?"
)
_LONGEST: Final = 300


def check_loads(model: Path, config: Any, report: Findings) -> None:
    """Report an ONNX file that the installed onnxruntime does not open.

    Models that need a custom operator library are skipped, as are all models if onnxruntime is not installed.
    """
    if config.model_operations.op_library_filename:
        return
    try:
        import onnxruntime
    except ModuleNotFoundError:
        report.note(f"{model}: not opened, because onnxruntime is not installed (pip install 'tritone[export]')")
        return
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # warnings would be printed to the terminal
    try:
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class
        reason = " ".join(_PREFIX.sub("", " ".join(str(error).split())).split())[:_LONGEST]
        report.error(
            model,
            1,
            f"onnxruntime {onnxruntime.__version__} cannot open this file: {reason}",
            "export it for this version of onnxruntime, or update onnxruntime",
        )


ONNX_BACKENDS: Final = ("onnxruntime", "composer")
_STATE: Final = "state_"
_NEXT: Final = "next_"
_ADDED_OUTPUT: Final = GraphTensor("first_frame", "TYPE_INT64", (-1,))  # the composer backend adds it
_REMEDY: Final = "export this version again with the release that serves it"


def wire_of(graph: OnnxGraph, backend: str, onnx_path: Path, report: Findings) -> OnnxGraph:
    """Return the tensors that a config must declare for a graph, which depend on the backend.

    Reports states that the backend could not pass from one step to the next.
    """
    if backend != "composer":
        return graph
    states = {tensor.name: tensor for tensor in graph.inputs if tensor.name.startswith(_STATE)}
    carried = {tensor.name: tensor for tensor in graph.outputs if tensor.name.startswith(_NEXT + _STATE)}
    _check_states(states, carried, onnx_path, report)
    return OnnxGraph(
        tuple(tensor for tensor in graph.inputs if tensor.name not in states),
        (*(tensor for tensor in graph.outputs if tensor.name not in carried), _ADDED_OUTPUT),
        graph.metadata,
    )


def check_policy(file: ConfigFile, backend: str, report: Findings) -> None:
    """Report a streaming backend whose config is not decoupled."""
    if backend == "composer" and not file.config.model_transaction_policy.decoupled:
        report.error(
            file.path,
            file.source.line("backend"),
            "backend 'composer' sends several responses per request, but the config is not decoupled",
            "add model_transaction_policy { decoupled: true }",
        )


def _check_states(
    states: Mapping[str, GraphTensor], carried: Mapping[str, GraphTensor], onnx_path: Path, report: Findings
) -> None:
    if not states:
        report.error(onnx_path, 1, f"has no state (inputs named {_STATE}...), which backend 'composer' needs", _REMEDY)
    for name in sorted(carried.keys() - {_NEXT + name for name in states}):
        report.error(onnx_path, 1, f"has output {name!r} but no input {name.removeprefix(_NEXT)!r}", _REMEDY)
    for name, tensor in states.items():
        after = carried.get(_NEXT + name)
        if after is None:
            report.error(onnx_path, 1, f"has input {name!r} but no output {_NEXT + name!r}", _REMEDY)
        elif (after.data_type, after.dims) != (tensor.data_type, tensor.dims):
            report.error(
                onnx_path,
                1,
                f"state {name!r} is {_shown(tensor)} as an input and {_shown(after)} as an output",
                _REMEDY,
            )


def _shown(tensor: GraphTensor) -> str:
    return f"{tensor.data_type} {'of unknown rank' if tensor.dims is None else list(tensor.dims)}"
