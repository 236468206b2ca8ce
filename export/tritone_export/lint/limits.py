"""Check that the config's parameter `limits` fits the config's inputs and is the same in every profile."""

from __future__ import annotations

import json
from typing import Any

from tritone_export.limits import AXIS_KEYS, INPUT_KEYS, PARAMETER
from tritone_export.lint.finding import Reporter
from tritone_export.lint.pbtxt import ConfigFile

_REMEDY = "export the model again"


def check_limits(file: ConfigFile, report: Reporter) -> None:
    """Report limits that a backend cannot read, or whose inputs or axes differ from the config's."""
    if PARAMETER not in file.config.parameters:
        return
    line = file.source.line("parameters")
    try:
        entries = json.loads(file.config.parameters[PARAMETER].string_value)
        problems = _problems(entries, file.config)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        problems = [f"is damaged ({type(error).__name__}: {error})"]
    for problem in problems:
        report.error(file.path, line, f"parameter {PARAMETER} {problem}", _REMEDY)


def check_same_limits(file: ConfigFile, default: ConfigFile, report: Reporter) -> None:
    """Report a profile whose limits differ from the default config's."""
    ours, theirs = (
        each.config.parameters[PARAMETER].string_value if _has_limits(each) else "" for each in (file, default)
    )
    if ours != theirs:
        report.error(
            file.path,
            file.source.line("parameters"),
            f"parameter {PARAMETER} differs from {default.path.name}",
            _REMEDY,
        )


def _has_limits(file: ConfigFile) -> bool:
    return PARAMETER in file.config.parameters


def _problems(entries: dict[str, Any], config: Any) -> list[str]:
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
            found.append(f"allows {name!r} nothing: from {least} to {most}")
    for axis, limits in entries["axes"].items():
        found += [f"has the unknown entry {key!r} for axis {axis!r}" for key in sorted(limits.keys() - AXIS_KEYS)]
        if limits.get("max") is not None and not 0 <= limits.get("min", 1) <= limits["max"]:
            found.append(f"allows axis {axis!r} no size: from {limits.get('min', 1)} to {limits['max']}")
    return found
