"""Version folders of a model, by Triton's rules. Needs only the standard library, because backends import it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

# Suffix of the model name under which `tritone publish` stages a candidate version until it has passed its checks.
CANDIDATE_SUFFIX: Final = ".candidate"
LARGEST_VERSION: Final = 2**63 - 1  # a larger number terminates Triton 2.51


def is_candidate(model: str) -> bool:
    """Return whether a model's name is that of a candidate version, which must not be served at start-up."""
    return model.endswith(CANDIDATE_SUFFIX)


def versions_of(folder: Path) -> list[str]:
    """Return the names of a model's version folders, unordered; none for a hidden folder or a candidate."""
    if folder.name.startswith(".") or is_candidate(folder.name) or not folder.is_dir():
        return []
    # Triton's own rule: a whole number above 0, without leading zeros.
    return [
        child.name
        for child in folder.iterdir()
        if child.name.isdecimal()
        and child.name.isascii()
        and not child.name.startswith("0")
        and int(child.name) <= LARGEST_VERSION
        and child.is_dir()
    ]


def newest_version(folder: Path) -> Path | None:
    """Return the folder of a model's newest version; None if it has none."""
    versions = sorted(versions_of(folder), key=int)
    return folder / versions[-1] if versions else None
