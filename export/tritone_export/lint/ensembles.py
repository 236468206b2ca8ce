"""Check the steps of an ensemble against the configs of their models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from tritonclient.grpc import model_config_pb2

from tritone_export._exceptions import ConfigFileError
from tritone_export.config import read_config
from tritone_export.lint.config_file import ConfigFile
from tritone_export.lint.files import CONFIG
from tritone_export.lint.findings import Findings
from tritone_serving.repository import steps_of

_Shape: TypeAlias = tuple[int, tuple[int, ...]]  # data type, and dims with the batch axis


def check_steps(file: ConfigFile, repository: Path, report: Findings) -> None:
    """Report steps that do not fit their models, and tensors that no step produces or reads."""
    config = file.config
    if not config.HasField("ensemble_scheduling"):
        return
    if config.instance_group:
        report.error(
            file.path,
            file.source.line("instance_group"),
            "an ensemble cannot have an instance_group",
            "remove instance_group",
        )
    loop = _loop(repository, file.path.parent.name if file.path.name == CONFIG else file.path.parent.parent.name)
    if loop:
        report.error(
            file.path,
            file.source.line("ensemble_scheduling"),
            f"the steps form a loop: {loop}",
            "remove a step of the loop",
        )
    seen = {tensor.name: (tensor.data_type, _full_dims(tensor, config)) for tensor in (*config.input, *config.output)}
    made = {tensor.name: file.source.line(("input", i)) for i, tensor in enumerate(config.input)}
    wanted: dict[str, int] = {}
    for index, step in enumerate(config.ensemble_scheduling.step):
        line = file.source.line("ensemble_scheduling", ("step", index))
        made |= dict.fromkeys(step.output_map.values(), line)
        wanted |= dict.fromkeys(step.input_map.values(), line)
        _check_step(step, line, file, repository, report, seen=seen)
    wanted |= {tensor.name: file.source.line(("output", i)) for i, tensor in enumerate(config.output)}
    for name, line in wanted.items():
        if name not in made:
            report.error(
                file.path,
                line,
                f"tensor {name!r} is neither an output of a step nor an input",
                "map an output of a step to it",
            )
    for name in sorted(made.keys() - wanted.keys()):  # Triton does not load an ensemble with one
        report.error(
            file.path,
            made[name],
            f"tensor {name!r} is neither an input of a step nor an output",
            "map it to an input of a step, or remove it",
        )


def _loop(repository: Path, start: str) -> str:
    """Return the names of the models in a loop through an ensemble, as text; empty without a loop."""
    waiting: list[tuple[str, ...]] = [(start,)]
    visited = {start}
    while waiting:
        path = waiting.pop()
        for step in sorted(steps_of(repository / path[-1])):
            if step == start:
                return " -> ".join((*path, start))
            if step not in visited:
                visited.add(step)
                waiting.append((*path, step))
    return ""


def _full_dims(tensor: Any, config: Any) -> tuple[int, ...]:
    return (*([-1] if config.max_batch_size > 0 else []), *tensor.dims)


def _check_same(name: str, found: _Shape, seen: dict[str, _Shape]) -> str | None:
    """Return how a tensor of an ensemble differs from its other uses; None if it does not."""
    (data_type, dims), (other_type, others) = found, seen.setdefault(name, found)
    if data_type != other_type:
        type_name = model_config_pb2.DataType.Name
        return f"tensor {name!r} is {type_name(data_type)} here and {type_name(other_type)} elsewhere in the ensemble"
    is_other = any(-1 not in pair and pair[0] != pair[1] for pair in zip(dims, others, strict=False))
    if is_other or len(dims) != len(others):
        return f"tensor {name!r} has shape {list(dims)} here and {list(others)} elsewhere in the ensemble"
    return None


def _check_step(
    step: Any, line: int, file: ConfigFile, repository: Path, report: Findings, *, seen: dict[str, _Shape]
) -> None:
    path = repository / step.model_name / CONFIG
    if not path.is_file():
        report.error(
            file.path,
            line,
            f"has a step with model {step.model_name!r}, but {path} is missing",
            f"export {step.model_name} into this repository, or remove the ensemble",
        )
        return
    try:
        model = read_config(path)
    except ConfigFileError:
        return  # reported where that model is checked
    if file.config.max_batch_size > model.max_batch_size:
        report.error(
            file.path,
            line,
            f"max_batch_size is {file.config.max_batch_size}, but {step.model_name} allows {model.max_batch_size}",
            "use the smallest max_batch_size of all steps",
        )
    if step.model_version > 0 and not (path.parent / str(step.model_version)).is_dir():
        report.error(
            file.path,
            line,
            f"{step.model_name} has no version {step.model_version}",
            "name a version that exists, or -1 for the latest",
        )
    for side, mapped in (("input", step.input_map), ("output", step.output_map)):
        known = {tensor.name: tensor for tensor in getattr(model, side)}
        for name in sorted(mapped.keys() & known.keys()):
            found = known[name].data_type, _full_dims(known[name], model)
            if (problem := _check_same(mapped[name], found, seen)) is not None:
                report.error(file.path, line, problem, f"make both the same, or correct {side}_map")
        for name in sorted(mapped.keys() - known.keys()):
            report.error(
                file.path,
                line,
                f"{step.model_name} has no {side} {name!r}; it has {', '.join(sorted(known)) or 'none'}",
                f"correct {side}_map",
            )
    for tensor in model.input:
        if not tensor.optional and tensor.name not in step.input_map:
            report.error(
                file.path, line, f"input {tensor.name!r} of {step.model_name} is not mapped", "add it to input_map"
            )
