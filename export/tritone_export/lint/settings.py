"""Check a config by Triton's rules: scheduling, placement, tensors, warm-up, limits and tuned settings."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tritonclient.grpc import model_config_pb2

from tritone_export._exceptions import TunedError
from tritone_export.config import AXIS_KEYS, INPUT_KEYS, LIMITS_PARAMETER, response_cache_problems
from tritone_export.lint.config_file import ConfigFile
from tritone_export.lint.findings import Findings
from tritone_export.precision import FILENAMES
from tritone_export.tuned import TUNED_FILENAME, apply, read_tuned, reason_unfit, setting_of

_ONNX_PLATFORM = "onnxruntime_onnx"
_LIMITS_REMEDY = "export the model again"
_WARMUP_FOLDER: Final = "warmup"  # in the model's folder, with the files of input_data_file
_N_IMAGE_DIMS: Final = 3
_KIND_GPU = model_config_pb2.ModelInstanceGroup.KIND_GPU


def check_settings(file: ConfigFile, folder_name: str, report: Findings) -> None:
    """Report contradictory settings, which Triton refuses or misinterprets."""
    config, source = file.config, file.source
    if config.name and config.name != folder_name:
        report.error(
            file.path,
            source.line("name"),
            f"name is {config.name!r}, but the folder is {folder_name!r}",
            f"make it {folder_name!r}, or remove it",
        )
    if not config.backend and not config.platform:
        report.error(file.path, 1, "has no backend", 'add backend: "onnxruntime", "python", ...')
    if config.backend == "onnxruntime" and config.platform not in ("", _ONNX_PLATFORM):
        report.error(
            file.path,
            source.line("platform"),
            f"platform {config.platform!r} does not belong to backend 'onnxruntime'",
            f"remove it, or make it {_ONNX_PLATFORM!r}",
        )
    _check_batching(file, report)
    for i, group in enumerate(config.instance_group):
        if group.gpus and group.kind == model_config_pb2.ModelInstanceGroup.KIND_CPU:
            report.error(
                file.path,
                source.line(("instance_group", i), "gpus"),
                "a KIND_CPU group lists gpus",
                "remove gpus, or make it KIND_GPU in configs/gpu.pbtxt",
            )
    for problem in response_cache_problems(config):
        report.error(
            file.path,
            source.line("response_cache"),
            f"response_cache cannot be used: {problem}",
            "remove response_cache",
        )
    for i, warmup in enumerate(config.model_warmup):
        if warmup.batch_size > max(1, config.max_batch_size):
            report.error(
                file.path,
                source.line(("model_warmup", i), "batch_size"),
                f"warm-up batch of {warmup.batch_size} is above max_batch_size {config.max_batch_size}",
                "make it smaller",
            )


def check_default_placement(file: ConfigFile, report: Findings) -> None:
    """Report KIND_GPU in a config.pbtxt, which fails the model on a host without a GPU."""
    for i, group in enumerate(file.config.instance_group):
        if group.kind == _KIND_GPU:
            report.error(
                file.path,
                file.source.line(("instance_group", i), "kind"),
                "KIND_GPU in the default config fails the model on every host without a GPU",
                "use KIND_CPU here and KIND_GPU in configs/gpu.pbtxt, chosen with --model-config-name=gpu",
            )


def check_precision(file: ConfigFile, report: Findings) -> None:
    """Report half precision on a CPU, which converts to single precision and back at each step."""
    on_gpu = any(group.kind == _KIND_GPU for group in file.config.instance_group)
    if file.config.default_model_filename == FILENAMES["fp16"] and not on_gpu:
        report.warning(
            file.path,
            file.source.line("default_model_filename"),
            "serves half precision on a CPU, where it is slower than fp32",
            "serve model.onnx here, and the fp16 graph in configs/gpu.pbtxt",
        )


def check_agreement(file: ConfigFile, default: ConfigFile, report: Findings) -> None:
    """Report tensors and batch sizes in which a file of configs/ differs from the default config."""
    for side in ("input", "output"):
        ours = {tensor.name: tensor for tensor in getattr(file.config, side)}
        theirs = {tensor.name: tensor for tensor in getattr(default.config, side)}
        for name in theirs.keys() - ours.keys():
            report.error(
                file.path,
                file.source.line(side),
                f"{side} {name!r} of {default.path.name} is missing here",
                "add it: profiles may differ in placement, not in tensors",
            )
        for i, tensor in enumerate(getattr(file.config, side)):
            line = file.source.line((side, i))
            if tensor.name not in theirs:
                report.error(
                    file.path,
                    line,
                    f"{side} {tensor.name!r} is not in {default.path.name}",
                    "add it there or remove it",
                )
            elif differences := _tensor_differences(tensor, theirs[tensor.name]):
                report.error(
                    file.path,
                    line,
                    f"{side} {tensor.name!r} differs from {default.path.name}: {'; '.join(differences)}",
                    "make both equal",
                )
    if file.config.max_batch_size != default.config.max_batch_size:
        report.error(
            file.path,
            file.source.line("max_batch_size"),
            f"max_batch_size is {file.config.max_batch_size}, but {default.config.max_batch_size} in "
            f"{default.path.name}",
            "make both equal",
        )


def _tensor_differences(ours: Any, theirs: Any) -> list[str]:
    names = model_config_pb2.DataType.Name
    pairs = {
        "data_type": (names(ours.data_type), names(theirs.data_type)),
        "dims": (list(ours.dims), list(theirs.dims)),
        "reshape": (list(ours.reshape.shape), list(theirs.reshape.shape)),
        "label_filename": (getattr(ours, "label_filename", ""), getattr(theirs, "label_filename", "")),
    }
    return [f"{word} {mine} instead of {other}" for word, (mine, other) in pairs.items() if mine != other]


def _check_batching(file: ConfigFile, report: Findings) -> None:
    config, source = file.config, file.source
    batching = config.dynamic_batching
    if config.max_batch_size < 0:
        report.error(
            file.path,
            source.line("max_batch_size"),
            f"max_batch_size is {config.max_batch_size}",
            "use 0 or more",
        )
    if not config.HasField("dynamic_batching"):
        return
    if config.max_batch_size == 0:
        report.error(
            file.path,
            source.line("dynamic_batching"),
            "dynamic_batching needs a batch axis, but max_batch_size is 0",
            "set max_batch_size, or remove dynamic_batching",
        )
        return
    _check_lone_instance(file, report)
    for i, size in enumerate(batching.preferred_batch_size):
        if not 1 <= size <= config.max_batch_size:
            report.error(
                file.path,
                source.line("dynamic_batching", ("preferred_batch_size", i)),
                f"preferred batch size {size} is not between 1 and max_batch_size {config.max_batch_size}",
                "remove it, or raise max_batch_size",
            )


def _check_lone_instance(file: ConfigFile, report: Findings) -> None:
    """Report a queue limit with a single instance, for which Triton delays requests.

    A queue limit disables the prefetching of the batcher, which then may miss the signal that the instance is free.
    Measured on 2.51: of two simultaneous requests, about every second one waits for 0.5 s, the timeout of the batcher;
    with two instances or without a limit, none does.
    """
    config = file.config
    policies = [config.dynamic_batching.default_queue_policy, *config.dynamic_batching.priority_queue_policy.values()]
    limited = any(policy.max_queue_size or policy.default_timeout_microseconds for policy in policies)
    n_instances = sum(max(group.count, 1) * max(len(group.gpus), 1) for group in config.instance_group) or 1
    if limited and n_instances == 1:
        report.warning(
            file.path,
            file.source.line("instance_group") if config.instance_group else file.source.line("dynamic_batching"),
            "has a queue policy with a timeout or a size but a single instance, so Triton delays simultaneous requests "
            "by 0.5 s",
            "use two instances, or remove the limits",
        )


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
    if not _is_sample_of(list(sample.dims), list(tensor.dims)):
        found.append(f"has dims {list(sample.dims)}: expected {list(tensor.dims)}, with sizes in place of -1")
    source = sample.WhichOneof("input_data_type")
    if source is None:
        found.append("has no data: expected zero_data, random_data or input_data_file")
    elif source == "input_data_file":
        folder = file.path.parent.parent if file.path.parent.name == "configs" else file.path.parent
        if not (folder / _WARMUP_FOLDER / sample.input_data_file).is_file():
            found.append(f"reads {_WARMUP_FOLDER}/{sample.input_data_file}, which is missing")
    return found


def _is_sample_of(sizes: Sequence[int], dims: Sequence[int]) -> bool:
    return len(sizes) == len(dims) and all(most in (size, -1) for size, most in zip(sizes, dims, strict=True))


def check_limits(file: ConfigFile, report: Findings) -> None:
    """Report limits that a backend cannot read, or whose inputs or axes differ from those of the config."""
    if LIMITS_PARAMETER not in file.config.parameters:
        return
    line = file.source.line("parameters")
    try:
        entries = json.loads(file.config.parameters[LIMITS_PARAMETER].string_value)
        problems = _limits_problems(entries, file.config)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        problems = [f"is invalid ({type(error).__name__}: {error})"]
    for problem in problems:
        report.error(file.path, line, f"parameter {LIMITS_PARAMETER} {problem}", _LIMITS_REMEDY)


def check_same_limits(file: ConfigFile, default: ConfigFile, report: Findings) -> None:
    """Report a profile whose limits differ from those of the default config."""
    ours, theirs = (
        each.config.parameters[LIMITS_PARAMETER].string_value if _has_limits(each) else "" for each in (file, default)
    )
    if ours != theirs:
        report.error(
            file.path,
            file.source.line("parameters"),
            f"parameter {LIMITS_PARAMETER} differs from {default.path.name}",
            _LIMITS_REMEDY,
        )


def _has_limits(file: ConfigFile) -> bool:
    return LIMITS_PARAMETER in file.config.parameters


def _limits_problems(entries: dict[str, Any], config: Any) -> list[str]:
    inputs = {tensor.name: tensor for tensor in config.input}
    found = [
        f"names input {name!r}, which the config does not have" for name in sorted(entries["inputs"].keys() - inputs)
    ]
    found += [f"does not name input {name!r}" for name in sorted(inputs.keys() - entries["inputs"].keys())]
    for name, limits in entries["inputs"].items():
        found += [f"has the unknown entry {key!r} for {name!r}" for key in sorted(limits.keys() - INPUT_KEYS)]
        if name in inputs:
            tensor = inputs[name]
            dims = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
            if len(limits["axes"]) != len(dims):
                found.append(f"names axes {limits['axes']} of {name!r}, whose dims are {dims}")
        least, most = limits.get("min", limits.get("above")), limits.get("max", limits.get("below"))
        if least is not None and most is not None and not least <= most:
            found.append(f"has an empty range for {name!r}: {least} to {most}")
    for axis, limits in entries["axes"].items():
        found += [f"has the unknown entry {key!r} for axis {axis!r}" for key in sorted(limits.keys() - AXIS_KEYS)]
        if limits.get("max") is not None and not 0 <= limits.get("min", 1) <= limits["max"]:
            found.append(f"has an empty range for axis {axis!r}: {limits.get('min', 1)} to {limits['max']}")
    return found


def check_tuned(folder: Path, default: ConfigFile, report: Findings) -> None:
    """Report a `serving.json` that is invalid, does not fit the model, or is not applied to its config.

    Args:
        default: the config.pbtxt of the model.
    """
    path = folder / TUNED_FILENAME
    undo = f"`tritone optimize {folder.name} --reset` removes it"
    try:
        tuned = read_tuned(folder)
    except TunedError as error:
        report.error(path, 1, str(error).removeprefix(f"{path}: "), f"correct it; {undo}")
        return
    if tuned is None:
        return
    if reason := reason_unfit(tuned["setting"], default.config):
        report.error(path, 1, reason, f"correct it; {undo}")
    elif apply(tuned["setting"], default.config) != default.config:
        report.error(
            path,
            1,
            f"has {tuned['setting']}, but {default.path.name} has {setting_of(default.config)}",
            f"`tritone export KIND --configs-only` applies it to the config; {undo}",
        )
