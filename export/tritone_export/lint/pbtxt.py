"""Reading config files: syntax, unknown fields and unknown values, each with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tritone_export.lint.finding import Reporter
from tritone_export.lint.source import FieldPath, Source, read_source

_ENUM_VALUE: Final = re.compile(r'Enum type "(?P<enum>[\w.]+)" has no value named (?P<value>\w+)')
# A parse error begins with the line and column that it also carries as fields, and may quote the line again.
_POSITION: Final = re.compile(r"^\d+:\d+ : (?:'.*': )?", re.DOTALL)
_ENUMS: Final = (
    model_config_pb2.DataType.DESCRIPTOR,
    model_config_pb2.ModelInstanceGroup.Kind.DESCRIPTOR,
    model_config_pb2.ModelInput.Format.DESCRIPTOR,
    model_config_pb2.ModelQueuePolicy.TimeoutAction.DESCRIPTOR,
    model_config_pb2.ModelOptimizationPolicy.ModelPriority.DESCRIPTOR,
)


@dataclass(frozen=True)
class ConfigFile:
    """A configuration that could be read.

    Attributes:
        config: an `inference.ModelConfig`, without the fields that are unknown.
        source: where its fields stand.
    """

    path: Path
    config: Any
    source: Source


def read_config(path: Path, report: Reporter) -> ConfigFile | None:
    """Read a config file and report all that is wrong with its text.

    Returns:
        None if it cannot be parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        report.error(path, 1, f"is not UTF-8 text (byte {error.start})", "write it as plain text")
        return None
    except OSError as error:
        report.error(path, 1, f"cannot be read: {error.strerror}", "check its owner and rights")
        return None
    source = read_source(text)
    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(text, config, allow_unknown_field=True)
    except text_format.ParseError as error:
        message = _POSITION.sub("", str(error))
        report.error(path, error.GetLine() or 1, f"cannot be parsed: {message}", _remedy(message))
        _report_unknown_fields(path, source, report)
        return None
    _report_unknown_fields(path, source, report)
    return ConfigFile(path, config, source)


def _report_unknown_fields(path: Path, source: Source, report: Reporter) -> None:
    unknown: list[FieldPath] = []
    for field_path, line in source.lines.items():
        if any(field_path[: len(outer)] == outer for outer in unknown):
            continue  # what an unknown field holds is not judged
        known = _known_fields(field_path[:-1])
        name, index = field_path[-1]
        if known is None or name in known:
            continue
        unknown.append(field_path)
        if index == 0:
            report.error(path, line, f"unknown field {name!r}", _did_you_mean(name, known))


def _known_fields(path: FieldPath) -> list[str] | None:
    """Names of the fields of the message at `path`; None where there is no message."""
    descriptor = model_config_pb2.ModelConfig.DESCRIPTOR
    for name, _ in path:
        step = descriptor.fields_by_name.get(name)
        if step is None or step.message_type is None:
            return None
        descriptor = step.message_type
    return list(descriptor.fields_by_name)


def _remedy(message: str) -> str:
    match = _ENUM_VALUE.search(message)
    if match:
        for enum in _ENUMS:
            if enum.full_name == match["enum"]:
                return _did_you_mean(match["value"], enum.values_by_name)
    return "correct the text; the format is that of Triton's model_config.proto"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"expected one of {', '.join(sorted(known))}"
