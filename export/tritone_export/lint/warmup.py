"""Check the warm-up requests of a config: Triton runs them at load, and the load fails if one fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tritonclient.grpc import model_config_pb2

from tritone_export.lint.finding import Reporter
from tritone_export.lint.pbtxt import ConfigFile

_FOLDER = "warmup"  # beside config.pbtxt, where input_data_file is looked up


def check_warmup(file: ConfigFile, report: Reporter) -> None:
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
                    report.error(file.path, line, f"warm-up {warmup.name!r} gives no input {name!r}", "add it")
                continue
            for problem in _problems(warmup.inputs[name], tensor, file):
                report.error(file.path, line, f"warm-up {warmup.name!r}: input {name!r} {problem}", "correct it")


def _problems(sample: Any, tensor: Any, file: ConfigFile) -> list[str]:
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
