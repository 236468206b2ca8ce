"""Files that a config refers to: weights of each version, and labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tritone_export.card import CARD_FILENAME
from tritone_export.lint.finding import Reporter
from tritone_export.lint.graph import Graph
from tritone_export.lint.layout import ModelFolder
from tritone_export.lint.pbtxt import ConfigFile
from tritone_export.precision import FILENAMES
from tritone_serving.repository.model_files import ENVIRONMENT_PARAMETER, MODEL_FILES, environment_fault, python_fault


def backend_of(config: Any) -> str:
    """The backend's name, `onnxruntime` also where an old config calls it by its platform."""
    return str(config.backend) or ("onnxruntime" if config.platform == "onnxruntime_onnx" else str(config.platform))


def model_filename(config: Any) -> str | None:
    """What a version has to hold; None where the backend alone knows."""
    return config.default_model_filename or MODEL_FILES.get(backend_of(config))


def is_reduced(config: Any) -> bool:
    """Whether a config serves a graph in less than single precision, which not every version has."""
    return model_filename(config) in FILENAMES.values()


def check_versions(folder: ModelFolder, file: ConfigFile, versions: Sequence[int], report: Reporter) -> None:
    """Report those versions that lack the model file which a config names."""
    filename = model_filename(file.config)
    for version in versions:
        path = folder.path / str(version)
        # A folder of parts holds a file of the same name.
        if filename and not ((path / filename).is_file() or (path / filename / filename).is_file()):
            report.error(
                path,
                1,
                f"version {version} holds no {filename}, which {file.path.relative_to(folder.path)} serves",
                f"export it again, or remove it: rm -r {path}",
            )


def check_python_model(folder: ModelFolder, file: ConfigFile, versions: Sequence[int], report: Reporter) -> None:
    """Report Python models whose file or packed environment cannot be loaded."""
    for version in versions:
        path = folder.path / str(version) / (model_filename(file.config) or "")
        if path.exists() and (fault := python_fault(path)) is not None:
            report.error(path, fault[1], fault[0], "correct the file")
    if ENVIRONMENT_PARAMETER in file.config.parameters:
        value = file.config.parameters[ENVIRONMENT_PARAMETER].string_value
        if (problem := environment_fault(value, folder.path)) is not None:
            report.error(file.path, file.source.line("parameters"), problem, "create it, or remove the parameter")


def check_checksum(model: Path, report: Reporter) -> None:
    """Hold a model file against the checksum in its model card, if it has one."""
    card = model.parent / CARD_FILENAME
    if not card.is_file():
        return
    try:
        expected = json.loads(card.read_text(encoding="utf-8"))["files"][model.name]["sha256"]
    except (ValueError, KeyError, TypeError, OSError):
        report.warning(card, 1, f"says no checksum of {model.name}", "export this version again")
        return
    with model.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != expected:
        report.error(
            model,
            1,
            f"is not the file that its model card describes (sha256 {found[:12]}..., expected {expected[:12]}...)",
            "copy it again from where it was exported, or export again",
        )


def check_labels(folder: ModelFolder, file: ConfigFile, graph: Graph | None, report: Reporter) -> None:
    """Report label files that are missing, or not one line per column of their output.

    Args:
        folder: the model's folder.
        file: its default config.
        report: takes the findings.
        graph: of the newest version, where it could be read.
    """
    for i, output in enumerate(file.config.output):
        if not output.label_filename:
            continue
        line = file.source.line(("output", i), "label_filename")
        path = folder.path / output.label_filename
        labels = _read_labels(path)
        if labels is None:
            message = f"label file {output.label_filename!r} of output {output.name!r} is missing"
            if folder.versions:
                report.error(file.path, line, message, f"write {path}, one class name a line, or export again")
            continue
        width = _width(output, graph)
        if width is not None and width != len(labels):
            report.error(
                path,
                1,
                f"names {len(labels)} classes, but output {output.name!r} has {width} columns",
                "one class name a line, in the order of the columns",
            )
        if folder.versions:
            newest = folder.path / str(folder.versions[-1]) / output.label_filename
            own = _read_labels(newest)
            if own is not None and own != labels:
                report.error(
                    path,
                    1,
                    f"differs from {newest.parent.name}/{newest.name}, the newest version's own labels",
                    f"copy that file here: cp {newest} {path}",
                )


def _read_labels(path: Path) -> list[str] | None:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None


def _width(output: Any, graph: Graph | None) -> int | None:
    """Columns of an output: the config's, else the graph's, else what the exporter left in the file."""
    if output.dims and output.dims[-1] > 0:
        return int(output.dims[-1])
    if graph is None:
        return None
    for tensor in graph.outputs:
        if tensor.name == output.name and tensor.dims and tensor.dims[-1] > 0:
            return tensor.dims[-1]
    count = graph.metadata.get(f"tritone.n_labels.{output.name}", "")
    return int(count) if count.isdigit() else None
