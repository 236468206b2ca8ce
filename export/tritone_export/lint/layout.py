"""A model's folder: versions, leftovers, links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tritone_export._exceptions import InvalidModelNameError
from tritone_export.lint.finding import Reporter
from tritone_export.repository import STAGING_PREFIX, check_model_name
from tritone_serving.repository.folders import LARGEST_VERSION

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
    """What lies in a model's folder.

    Attributes:
        versions: ascending, only those that Triton would see.
        config: config.pbtxt, if there is one.
        other_configs: configs/*.pbtxt.
    """

    path: Path
    versions: tuple[int, ...]
    config: Path | None
    other_configs: tuple[Path, ...]

    @property
    def is_empty(self) -> bool:
        """Nothing that Triton would look at: what a failed first export leaves."""
        return not self.versions and self.config is None and not self.other_configs


def read_folder(path: Path, report: Reporter) -> ModelFolder:
    """List a model's folder and report what does not belong there."""
    try:
        check_model_name(path.name)
    except InvalidModelNameError as error:
        report.error(path, 1, f"odd model name: {error}", "rename the folder, and `name` in its config")
    found = []
    for child in sorted(path.iterdir()):
        if not child.is_dir() or child.name == CONFIGS:
            continue
        if is_of_volume(child.name) and not child.name.startswith(STAGING_PREFIX):
            continue
        if child.name.startswith(STAGING_PREFIX):
            report.warning(child, 1, "is the leftover of an export that did not finish", f"remove it: rm -r {child}")
        elif _VERSION.fullmatch(child.name) and int(child.name) > LARGEST_VERSION:
            report.error(
                child,
                1,
                f"version folder {child.name!r} is above the largest version {LARGEST_VERSION}",
                "rename it",
            )
        elif _VERSION.fullmatch(child.name):
            found.append(int(child.name))
        elif child.name.isdigit():
            report.error(
                child,
                1,
                f"version folder {child.name!r} begins with a zero; Triton ignores it",
                f"rename it to {int(child.name) or 1}",
            )
        elif not _holds_assets(child):
            report.error(
                child,
                1,
                f"version folder {child.name!r} is not a number; Triton ignores it",
                "name it 1, 2, 3, ...",
            )
    configs = path / CONFIGS
    others = sorted(configs.glob("*.pbtxt")) if configs.is_dir() else []
    config = path / CONFIG
    return ModelFolder(path, tuple(sorted(found)), config if config.is_file() else None, tuple(others))


def _holds_assets(folder: Path) -> bool:
    """Whether a folder beside the versions is data that a model reads, rather than a misnamed version."""
    return not any((folder / name).exists() for name in ("model.onnx", "model.py", "model.plan", "model.pt")) and not (
        re.fullmatch(r"v?[0-9][0-9._-]*", folder.name)
    )


def check_links(path: Path, repository: Path, report: Reporter) -> None:
    """Report links that lead nowhere or out of the repository: they break when it is copied or mounted."""
    root = repository.resolve()
    for child in sorted(path.rglob("*")):
        if not child.is_symlink():
            continue
        target = child.resolve()
        if not target.exists():
            report.error(child, 1, f"is a link to {target}, which does not exist", "remove or correct the link")
        elif not target.is_relative_to(root):
            report.warning(child, 1, f"links out of the repository, to {target}", "copy what it points to into place")


def served_versions(config: Any, versions: tuple[int, ...]) -> list[int]:
    """Which of the versions on disk Triton would load.

    Args:
        config: an `inference.ModelConfig`.
        versions: ascending.
    """
    policy = config.version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return list(versions)
    if choice == "specific":
        return [version for version in versions if version in policy.specific.versions]
    n_latest = policy.latest.num_versions if choice == "latest" else 1
    return list(versions[-max(1, n_latest) :])
