"""Read config.pbtxt files with line numbers, and report syntax errors, unknown fields and unknown values."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tritone_export.lint.findings import Findings

_ENUM_VALUE: Final = re.compile(r'Enum type "(?P<enum>[\w.]+)" has no value named (?P<value>\w+)')
# Prefix of a parse error: line and column, which the exception also has as attributes, and sometimes the quoted line.
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
    """A parsed configuration file.

    Attributes:
        config: an `inference.ModelConfig`, without unknown fields.
        source: line numbers of its fields.
    """

    path: Path
    config: Any
    source: ConfigLines


def read_config(path: Path, report: Findings) -> ConfigFile | None:
    """Read a config file and report errors in its text.

    Returns:
        the configuration; None if it cannot be parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        report.error(path, 1, f"is not UTF-8 text (byte {error.start})", "write it as plain text")
        return None
    except OSError as error:
        report.error(path, 1, f"cannot be read: {error.strerror}", "check its owner and permissions")
        return None
    config = model_config_pb2.ModelConfig()
    try:
        source = read_source(text)
    except RecursionError:
        report.error(path, 1, "is nested too deeply", "export the model again")
        return None
    try:
        text_format.Parse(text, config, allow_unknown_field=True)
    except text_format.ParseError as error:
        message = _POSITION.sub("", str(error))
        report.error(path, error.GetLine() or 1, f"cannot be parsed: {message}", _remedy(message))
        _report_unknown_fields(path, source, report)
        return None
    _report_unknown_fields(path, source, report)
    return ConfigFile(path, config, source)


def _report_unknown_fields(path: Path, source: ConfigLines, report: Findings) -> None:
    unknown: list[FieldPath] = []
    for field_path, line in source.lines.items():
        if any(field_path[: len(outer)] == outer for outer in unknown):
            continue  # the fields inside an unknown field are not checked
        known = _known_fields(field_path[:-1])
        name, index = field_path[-1]
        if known is None or name in known:
            continue
        unknown.append(field_path)
        if index == 0:
            report.error(path, line, f"unknown field {name!r}", _did_you_mean(name, known))


def _known_fields(path: FieldPath) -> list[str] | None:
    """Return the names of the fields of the message at `path`; None if there is no message."""
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
    return "correct the text; Triton's model_config.proto defines the format"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"expected one of {', '.join(sorted(known))}"


# ("input", 0), ("dims", 0): the first `dims` of the first `input`.
FieldPath: TypeAlias = tuple[tuple[str, int], ...]

_TOKEN: Final = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<mark>[{}<>\[\]:,;])
      | (?P<word>[^\s{}<>\[\]:,;"'\#]+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_CLOSING: Final = {"{": "}", "<": ">"}


@dataclass(frozen=True)
class ConfigLines:
    """Line numbers of the fields of a file.

    Attributes:
        lines: line number, counted from 1, by path of the field.
    """

    lines: Mapping[FieldPath, int] = field(default_factory=dict)

    def line(self, *path: tuple[str, int] | str) -> int:
        """Return the line of a field, or of the nearest enclosing field in the file.

        Args:
            path: names, or (name, index) for repeated fields.
        """
        full: FieldPath = tuple((step, 0) if isinstance(step, str) else step for step in path)
        for n in range(len(full), 0, -1):
            if full[:n] in self.lines:
                return self.lines[full[:n]]
        return 1


def read_source(text: str) -> ConfigLines:
    """Return the line numbers of the fields of a pbtxt file; for a malformed file, of those before the error."""
    reader = _Reader(text)
    reader.read_message((), None)
    return ConfigLines(reader.lines)


class _Reader:
    def __init__(self, text: str) -> None:
        self.lines: dict[FieldPath, int] = {}
        self._tokens = list(_tokens(text))
        self._at = 0

    def read_message(self, path: FieldPath, closing: str | None) -> None:
        counts: Counter[str] = Counter()
        while (token := self._next()) is not None:
            text, line = token
            if text == closing:
                return
            if text in {",", ";"}:
                continue
            if self._peek() == ":":
                self._next()
            self._read_values(path, text, line, counts)

    def _read_values(self, path: FieldPath, name: str, line: int, counts: Counter[str]) -> None:
        if self._peek() != "[":
            self._read_value((*path, (name, counts[name])), line)
            counts[name] += 1
            return
        self._next()
        while (mark := self._peek()) is not None and mark != "]":
            if mark == ",":
                self._next()
                continue
            self._read_value((*path, (name, counts[name])), self._tokens[self._at][1])
            counts[name] += 1
        self._next()

    def _read_value(self, path: FieldPath, line: int) -> None:
        self.lines[path] = line
        token = self._next()
        if token is not None and token[0] in _CLOSING:
            self.read_message(path, _CLOSING[token[0]])
            return
        while (mark := self._peek()) is not None and mark[0] in "\"'":  # adjacent strings are one value
            self._next()

    def _peek(self) -> str | None:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    def _next(self) -> tuple[str, int] | None:
        if self._at >= len(self._tokens):
            return None
        self._at += 1
        return self._tokens[self._at - 1]


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "skip":
            yield match.group(), line
        line += match.group().count("\n")
