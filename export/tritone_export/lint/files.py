"""Check the folder of a model: versions, leftovers, links, weights and labels."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tritone.arguments import check_model_name
from tritone.exceptions import InvalidModelNameError
from tritone_export.card import CARD_FILENAME, checksum
from tritone_export.lint.config_file import ConfigFile
from tritone_export.lint.findings import Findings
from tritone_export.lint.graph import OnnxGraph
from tritone_export.precision import FILENAMES
from tritone_export.repository import STAGING_PREFIX
from tritone_export.weights import WEIGHTS_SUFFIX
from tritone_serving.repository import (
    ENVIRONMENT_PARAMETER,
    LARGEST_VERSION,
    MODEL_FILES,
    environment_fault,
    python_fault,
)


def backend_of(config: Any) -> str:
    """Return the name of the backend; `onnxruntime` also for old configs that name it by its platform."""
    return str(config.backend) or ("onnxruntime" if config.platform == "onnxruntime_onnx" else str(config.platform))


def model_filename(config: Any) -> str | None:
    """Return the name of the model file of a version; None if only the backend knows it."""
    return config.default_model_filename or MODEL_FILES.get(backend_of(config))


def is_reduced(config: Any) -> bool:
    """Return whether a config serves a graph in reduced precision, which not every version has."""
    return model_filename(config) in FILENAMES.values()


def check_versions(folder: ModelFolder, file: ConfigFile, versions: Sequence[int], report: Findings) -> None:
    """Report versions without the model file that a config names."""
    filename = model_filename(file.config)
    for version in versions:
        path = folder.path / str(version)
        # A model of several files is a folder that holds a file of the same name.
        if filename and not ((path / filename).is_file() or (path / filename / filename).is_file()):
            report.error(
                path,
                1,
                f"version {version} has no {filename}, which {file.path.relative_to(folder.path)} serves",
                f"export it again, or remove it: rm -r {path}",
            )


def check_python_model(folder: ModelFolder, file: ConfigFile, versions: Sequence[int], report: Findings) -> None:
    """Report Python models whose file or packed environment cannot be loaded."""
    for version in versions:
        path = folder.path / str(version) / (model_filename(file.config) or "")
        if path.exists() and (fault := python_fault(path)) is not None:
            report.error(path, fault[1], fault[0], "correct the file")
    if ENVIRONMENT_PARAMETER in file.config.parameters:
        value = file.config.parameters[ENVIRONMENT_PARAMETER].string_value
        if (problem := environment_fault(value, folder.path)) is not None:
            report.error(file.path, file.source.line("parameters"), problem, "create it, or remove the parameter")


def check_checksums(model: Path, report: Findings) -> None:
    """Compare a model file, and the weights beside it, with the checksums in its model card, if it has one."""
    card = model.parent / CARD_FILENAME
    if not card.is_file():
        return
    try:
        files = json.loads(card.read_text(encoding="utf-8"))["files"]
        digests = {model: files[model.name]["sha256"]}
        weights = model.with_name(model.name + WEIGHTS_SUFFIX)
        if weights.is_file():
            digests[weights] = files[weights.name]["sha256"]
    except (ValueError, KeyError, TypeError, OSError):
        report.warning(card, 1, f"has no checksum of {model.name} or of its weights", "export this version again")
        return
    for path, expected in digests.items():
        found = checksum(path)["sha256"]
        if found != expected:
            report.error(
                path,
                1,
                f"does not match its model card: expected sha256 {expected[:12]}..., got {found[:12]}...",
                "copy it again from its source, or export again",
            )


def check_labels(folder: ModelFolder, file: ConfigFile, graph: OnnxGraph | None, report: Findings) -> None:
    """Report label files that are missing, or do not have one line per column of their output.

    Args:
        folder: the model's folder.
        file: its default config.
        graph: the graph of the newest version; None if it could not be read.
        report: collects the findings.
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
                report.error(file.path, line, message, f"write {path} with one class name per line, or export again")
            continue
        width = _width(output, graph)
        if width is not None and width != len(labels):
            report.error(
                path,
                1,
                f"has {len(labels)} class names, but output {output.name!r} has {width} columns",
                "write one class name per line, in the order of the columns",
            )
        if folder.versions:
            newest = folder.path / str(folder.versions[-1]) / output.label_filename
            own = _read_labels(newest)
            if own is not None and own != labels:
                report.error(
                    path,
                    1,
                    f"differs from {newest.parent.name}/{newest.name}, the labels of the newest version",
                    f"copy that file here: cp {newest} {path}",
                )


def _read_labels(path: Path) -> list[str] | None:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None


def _width(output: Any, graph: OnnxGraph | None) -> int | None:
    """Return the number of columns of an output from the config, the graph or the metadata of the ONNX file."""
    if output.dims and output.dims[-1] > 0:
        return int(output.dims[-1])
    if graph is None:
        return None
    for tensor in graph.outputs:
        if tensor.name == output.name and tensor.dims and tensor.dims[-1] > 0:
            return tensor.dims[-1]
    count = graph.metadata.get(f"tritone.n_labels.{output.name}", "")
    return int(count) if count.isascii() and count.isdigit() else None


CONFIG: Final = "config.pbtxt"
CONFIGS: Final = "configs"
_VERSION: Final = re.compile(r"[1-9][0-9]*")
# Folders that file systems, storage devices and tools create; Triton does not serve them.
_OF_VOLUMES: Final = frozenset(
    {"lost+found", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "#recycle", "#snapshot", "__pycache__"}
)


def is_of_volume(name: str) -> bool:
    """Return whether a folder of this name belongs to the volume or a tool, not to the repository."""
    return name in _OF_VOLUMES or name.startswith(".")


@dataclass(frozen=True)
class ModelFolder:
    """Contents of a model's folder.

    Attributes:
        versions: version numbers that Triton recognises, ascending.
        config: path of config.pbtxt; None if it is missing.
        other_configs: paths of configs/*.pbtxt.
    """

    path: Path
    versions: tuple[int, ...]
    config: Path | None
    other_configs: tuple[Path, ...]

    @property
    def is_empty(self) -> bool:
        """Whether the folder has neither configs nor versions, as after a failed first export."""
        return not self.versions and self.config is None and not self.other_configs


def read_folder(path: Path, report: Findings) -> ModelFolder:
    """List a model's folder, and report invalid names and leftovers."""
    try:
        check_model_name(path.name)
    except InvalidModelNameError as error:
        report.error(path, 1, str(error), "rename the folder, and `name` in its config")
    found = []
    for child in sorted(path.iterdir()):
        if not child.is_dir() or child.name == CONFIGS:
            continue
        if is_of_volume(child.name) and not child.name.startswith(STAGING_PREFIX):
            continue
        if child.name.startswith(STAGING_PREFIX):
            report.warning(child, 1, "is a leftover of an interrupted export", f"remove it: rm -r {child}")
        elif _VERSION.fullmatch(child.name) and int(child.name) > LARGEST_VERSION:
            report.error(
                child,
                1,
                f"version folder {child.name!r} exceeds the largest version {LARGEST_VERSION}",
                "rename it",
            )
        elif _VERSION.fullmatch(child.name):
            found.append(int(child.name))
        elif child.name.isascii() and child.name.isdigit():
            report.error(
                child,
                1,
                f"version folder {child.name!r} starts with a zero, so Triton ignores it",
                f"rename it to {int(child.name) or 1}",
            )
        elif not _holds_assets(child):
            report.error(
                child,
                1,
                f"version folder {child.name!r} is not a number, so Triton ignores it",
                "name it 1, 2, 3, ...",
            )
    configs = path / CONFIGS
    others = sorted(configs.glob("*.pbtxt")) if configs.is_dir() else []
    config = path / CONFIG
    return ModelFolder(path, tuple(sorted(found)), config if config.is_file() else None, tuple(others))


def _holds_assets(folder: Path) -> bool:
    """Return whether a folder holds data that a model reads, rather than being a misnamed version."""
    return not any((folder / name).exists() for name in ("model.onnx", "model.py", "model.plan", "model.pt")) and not (
        re.fullmatch(r"v?[0-9][0-9._-]*", folder.name)
    )


def check_links(path: Path, repository: Path, report: Findings) -> None:
    """Report links that are broken or point out of the repository, which break when it is copied or mounted."""
    root = repository.resolve()
    for child in sorted(path.rglob("*")):
        if not child.is_symlink():
            continue
        target = child.resolve()
        if not target.exists():
            report.error(child, 1, f"links to {target}, which does not exist", "remove or correct the link")
        elif not target.is_relative_to(root):
            report.warning(child, 1, f"links out of the repository, to {target}", "replace the link by a copy")


def served_versions(config: Any, versions: tuple[int, ...]) -> list[int]:
    """Return the versions on disk that Triton would load.

    Args:
        config: an `inference.ModelConfig`.
        versions: version numbers, ascending.
    """
    policy = config.version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return list(versions)
    if choice == "specific":
        return [version for version in versions if version in policy.specific.versions]
    n_latest = policy.latest.num_versions if choice == "latest" else 1
    return list(versions[-max(1, n_latest) :])
