"""Check names, types and shapes of a config's tensors, priorities and warm-up requests by Triton's own rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from tritonclient.grpc import model_config_pb2

from tritone_export.lint.config_file import ConfigFile
from tritone_export.lint.findings import Findings

_N_IMAGE_DIMS: Final = 3


def check_shapes(file: ConfigFile, report: Findings) -> None:
    """Report tensors that Triton refuses in any model."""
    for side in ("input", "output"):
        seen: set[str] = set()
        for i, tensor in enumerate(getattr(file.config, side)):
            line = file.source.line((side, i))
            for problem, remedy in _shape_problems(tensor, file.config.max_batch_size > 0):
                report.error(file.path, line, f"{side} {tensor.name!r} {problem}", remedy)
            if tensor.name in seen:
                report.error(file.path, line, f"{side} {tensor.name!r} is named twice", "remove one")
            seen.add(tensor.name)


def check_priorities(file: ConfigFile, report: Findings) -> None:
    """Report priorities of dynamic batching outside the levels that the config declares."""
    batching = file.config.dynamic_batching
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        report.error(
            file.path,
            file.source.line("dynamic_batching", "default_priority_level"),
            f"default_priority_level is {default}: expected 1 to priority_levels, which is {levels}",
            "name a level that exists",
        )
    for level in sorted(batching.priority_queue_policy):
        if levels and not 1 <= level <= levels:
            report.error(
                file.path,
                file.source.line("dynamic_batching", "priority_queue_policy"),
                f"priority_queue_policy is for level {level}: expected 1 to priority_levels, which is {levels}",
                "name a level that exists",
            )


def _shape_problems(tensor: Any, is_batched: bool) -> list[tuple[str, str]]:
    dims = list(tensor.dims)
    found = []
    if not tensor.name:
        found.append(("has no name", "add name"))
    if tensor.data_type == model_config_pb2.TYPE_INVALID:
        found.append(("has no data_type", "add data_type"))
    if not dims:
        found.append(("has no dims", "add dims; a scalar is dims: [ 1 ] with reshape { shape: [ ] }"))
    if any(size < 1 and size != -1 for size in dims):
        found.append((f"has dims {dims}: expected sizes of 1 or more, or -1", "correct the sizes"))
    form = getattr(tensor, "format", model_config_pb2.ModelInput.FORMAT_NONE)  # inputs only
    if form != model_config_pb2.ModelInput.FORMAT_NONE and len(dims) != _N_IMAGE_DIMS:
        found.append((f"has a format for images and dims {dims}: expected 3 dims", "remove format"))
    if tensor.HasField("reshape"):
        shape = list(tensor.reshape.shape)
        if not shape and not is_batched:
            found.append(
                (
                    "has an empty reshape, which needs a batch axis, but max_batch_size is 0",
                    "reshape to [ 1 ], or batch",
                )
            )
        elif not _is_same_size(dims, shape):
            found.append((f"has dims {dims} and reshape {shape} of another size", "make both hold as many values"))
    return found


def _is_same_size(dims: Sequence[int], shape: Sequence[int]) -> bool:
    """Return whether a reshape keeps the number of values; between variable sizes, segment by segment."""
    if (dims.count(-1), -1 in dims) != (shape.count(-1), -1 in shape):
        return False
    return _segments(dims) == _segments(shape)


def _segments(sizes: Sequence[int]) -> list[int]:
    """Return the products of the fixed sizes before, between and after the variable ones."""
    segments: list[list[int]] = [[]]
    for size in sizes:
        if size == -1:
            segments.append([])
        else:
            segments[-1].append(size)
    return [math.prod(segment) for segment in segments]


_FOLDER = "warmup"  # subfolder of the model's folder with the files of input_data_file


def check_warmup(file: ConfigFile, report: Findings) -> None:
    """Report warm-up requests whose inputs do not fit the config, or whose data is missing."""
    config = file.config
    inputs = {tensor.name: tensor for tensor in config.input}
    if not inputs:
        return  # the backend completes such a config
    for i, warmup in enumerate(config.model_warmup):
        line = file.source.line(("model_warmup", i))
        for name, tensor in inputs.items():
            if name not in warmup.inputs:
                if not tensor.optional:
                    report.error(file.path, line, f"warm-up {warmup.name!r} has no input {name!r}", "add it")
                continue
            for problem in _warmup_problems(warmup.inputs[name], tensor, file):
                report.error(file.path, line, f"warm-up {warmup.name!r}: input {name!r} {problem}", "correct it")


def _warmup_problems(sample: Any, tensor: Any, file: ConfigFile) -> list[str]:
    found = []
    if sample.data_type != tensor.data_type:
        type_name = model_config_pb2.DataType.Name
        found.append(f"is {type_name(sample.data_type)}: expected {type_name(tensor.data_type)}")
    if not _fits(list(sample.dims), list(tensor.dims)):
        found.append(f"has dims {list(sample.dims)}: expected {list(tensor.dims)}, with sizes in place of -1")
    source = sample.WhichOneof("input_data_type")
    if source is None:
        found.append("has no data: expected zero_data, random_data or input_data_file")
    elif source == "input_data_file":
        folder = file.path.parent.parent if file.path.parent.name == "configs" else file.path.parent
        if not (folder / _FOLDER / sample.input_data_file).is_file():
            found.append(f"reads {_FOLDER}/{sample.input_data_file}, which is missing")
    return found


def _fits(sizes: Sequence[int], dims: Sequence[int]) -> bool:
    return len(sizes) == len(dims) and all(most in (size, -1) for size, most in zip(sizes, dims, strict=True))
