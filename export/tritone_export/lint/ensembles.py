"""An ensemble's steps against the configs of the models that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tritone_export.lint.finding import Reporter
from tritone_export.lint.layout import CONFIG
from tritone_export.lint.pbtxt import ConfigFile


def check_steps(file: ConfigFile, repository: Path, report: Reporter) -> None:
    """Report steps that no model can take, and tensors that come from nowhere."""
    config = file.config
    if not config.HasField("ensemble_scheduling"):
        return
    made = {tensor.name: file.source.line(("input", i)) for i, tensor in enumerate(config.input)}
    wanted: dict[str, int] = {}
    for place, step in enumerate(config.ensemble_scheduling.step):
        line = file.source.line("ensemble_scheduling", ("step", place))
        made |= dict.fromkeys(step.output_map.values(), line)
        wanted |= dict.fromkeys(step.input_map.values(), line)
        _check_step(step, line, file, repository, report)
    wanted |= {tensor.name: file.source.line(("output", i)) for i, tensor in enumerate(config.output)}
    for name, line in wanted.items():
        if name not in made:
            report.error(
                file.path, line, f"tensor {name!r} comes from no step and no input", "map an output of a step to it"
            )
    for name in sorted(made.keys() - wanted.keys()):  # Triton does not load an ensemble with one
        report.error(
            file.path, made[name], f"tensor {name!r} is taken by no step and is no output", "take it, or map it not"
        )


def _check_step(step: Any, line: int, file: ConfigFile, repository: Path, report: Reporter) -> None:
    path = repository / step.model_name / CONFIG
    if not path.is_file():
        report.error(
            file.path,
            line,
            f"passes requests on to {step.model_name!r}, and there is no {path}",
            f"export {step.model_name} into this repository, or remove the ensemble",
        )
        return
    try:
        model = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError):
        return  # reported where that model is checked
    for side, mapped in (("input", step.input_map), ("output", step.output_map)):
        known = {tensor.name: tensor for tensor in getattr(model, side)}
        for name in sorted(mapped.keys() - known.keys()):
            report.error(
                file.path,
                line,
                f"{step.model_name} has no {side} {name!r}; it has {', '.join(sorted(known)) or 'none'}",
                f"correct {side}_map",
            )
    for tensor in model.input:
        if not tensor.optional and tensor.name not in step.input_map:
            report.error(file.path, line, f"gives {step.model_name} no input {tensor.name!r}", "add it to input_map")
