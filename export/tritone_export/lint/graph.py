"""A config's tensors against the ONNX file, by the rules of Triton's native ONNX Runtime backend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2

from tritone_export.dtypes import TRITON_BY_ONNX
from tritone_export.lint.finding import Reporter
from tritone_export.lint.pbtxt import ConfigFile

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class GraphTensor:
    """One tensor of a graph.

    Attributes:
        data_type: Triton's name of its type.
        dims: batch axis included, -1 where it is free; None if the file does not say.
    """

    name: str
    data_type: str
    dims: tuple[int, ...] | None


@dataclass(frozen=True)
class Graph:
    """What an ONNX file promises.

    Attributes:
        metadata: the file's own key-value strings.
    """

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    metadata: Mapping[str, str]


def read_graph(path: Path, report: Reporter) -> Graph | None:
    """Read an ONNX file's promises without its external data; reports what is corrupt.

    Returns:
        None if it cannot be read.
    """
    import onnx

    remedy = "export this version again, or remove its folder"
    try:
        model = onnx.load(str(path), load_external_data=False)
        if not _check_external_data(model, path, report):
            return None
        onnx.checker.check_model(str(path))  # the path, so that external data is found
    except DecodeError:
        report.error(path, 1, "is not an ONNX file, or is cut off", remedy)
        return None
    except onnx.checker.ValidationError as error:
        report.error(path, 1, f"is not a valid ONNX model: {str(error).splitlines()[0]}", remedy)
        return None
    except OSError as error:
        report.error(path, 1, f"cannot be read: {error.strerror}", "check its owner and rights")
        return None
    constants = {initializer.name for initializer in model.graph.initializer}  # old files list these as inputs too
    return Graph(
        tuple(_tensor(value) for value in model.graph.input if value.name not in constants),
        tuple(_tensor(value) for value in model.graph.output),
        {prop.key: prop.value for prop in model.metadata_props},
    )


def check_tensors(file: ConfigFile, graph: Graph, onnx_path: Path, report: Reporter) -> None:
    """Report tensors whose name, type, dimensions or batch axis differ between config and graph."""
    for side, found in (("input", graph.inputs), ("output", graph.outputs)):
        configured = getattr(file.config, side)
        if not configured and not file.config.input and not file.config.output:
            continue  # Triton completes a config that names no tensors
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
            report.error(file.path, 1, f"names no output; {_short(onnx_path)} has {_listed(missing)}", "add an output")
        if side == "input" and missing:
            report.error(
                file.path,
                file.source.line("input"),
                f"{_short(onnx_path)} also needs {_listed(missing)}",
                "add every input of the graph",
            )


def _check_tensor(file: ConfigFile, place: tuple[str, int], tensor: Any, found: GraphTensor, report: Reporter) -> None:
    side = place[0]
    data_type = model_config_pb2.DataType.Name(tensor.data_type)
    if data_type != found.data_type:
        report.error(
            file.path,
            file.source.line(place, "data_type"),
            f"{side} {tensor.name!r} is {data_type} here and {found.data_type} in the graph",
            f"make it {found.data_type}",
        )
    if found.dims is None:
        return
    dims = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
    batched = file.config.max_batch_size > 0
    line = file.source.line(place, "dims")
    if batched and (not found.dims or found.dims[0] != -1):
        report.error(
            file.path,
            line,
            f"{side} {tensor.name!r} has no free batch axis in the graph, whose shape is {list(found.dims)}",
            "export with a dynamic batch axis, or set max_batch_size to 0",
        )
        return
    full = [-1, *dims] if batched else dims
    # The backend lets a config fix what the graph leaves free, on inputs only.
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


def _check_external_data(model: onnx.ModelProto, path: Path, report: Reporter) -> bool:
    """Report weights in other files that are missing or too short; returns whether all are there."""
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
            report.error(path, 1, f"keeps weights outside its version, in {location}", "export again as one file")
        elif not target.is_file():
            report.error(
                path,
                1,
                f"keeps weights in {location}, which is missing",
                "put the file back, or export again",
            )
        elif target.stat().st_size < n_bytes:
            report.error(
                path,
                1,
                f"keeps weights in {location}, which is cut off: expected at least {n_bytes} bytes, got "
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
    return GraphTensor(value.name, TRITON_BY_ONNX.get(name, f"{name}, which Triton cannot serve"), dims)


def _closest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else "name a tensor of the graph"


def _listed(names: Iterable[str] | Sequence[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names)) or "none"


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
