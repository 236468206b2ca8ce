"""Models and versions of a model repository on disk, by Triton's rules.

Importing this module needs only the standard library, because backends do so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tritone.constants import CANDIDATE_SUFFIX

_COMMENT: Final = re.compile(r"^\s*#.*$", re.M)
_REMEDY = "fill it with: tritone export genre_cnn --repository {repository}"


def filled_models(repository: Path) -> set[str]:
    """Names of the models that have a version."""
    return {folder.name for folder in repository.iterdir() if versions_of(folder)}


def servable_models(repository: Path, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names of the models that have at least one version.

    A model without a version is passed over: its config is committed before its first weights are made. So is an
    ensemble with such a model among its steps.

    Args:
        repository: folder of models.
        wanted: only these, and each must be there.

    Raises:
        ModelRepositoryError: there is no such folder, nothing in it can be served, or a wanted model cannot.
    """
    from tritone_serving._exceptions import ModelRepositoryError

    remedy = _REMEDY.format(repository=repository)
    if not repository.is_dir():
        what = "is a file" if repository.exists() else "does not exist"
        raise ModelRepositoryError(f"the model repository {repository} {what}; expected a folder of models; {remedy}")
    filled = {folder.name: folder for folder in repository.iterdir() if versions_of(folder)}
    models = tuple(sorted(name for name, folder in filled.items() if steps_of(folder) <= filled.keys()))
    if not models:
        raise ModelRepositoryError(f"no model in {repository} has a version to serve; {remedy}")
    missing = [name for name in wanted or () if name not in models]
    if missing:
        raise ModelRepositoryError(
            f"{repository} holds no version of {', '.join(missing)}{_lacking(filled, missing)}; there are: "
            f"{', '.join(models)}; {remedy}"
        )
    return models if wanted is None else tuple(wanted)


def _lacking(filled: Mapping[str, Path], missing: Sequence[str]) -> str:
    lacking = sorted({step for name in missing if name in filled for step in steps_of(filled[name]) - filled.keys()})
    return f" (which pass requests on to {', '.join(lacking)})" if lacking else ""


def steps_of(folder: Path) -> set[str]:
    """Names of the models that an ensemble joins; of any other model none."""
    try:
        text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return set()  # Triton says what is wrong with it
    return set(field_values(text, "model_name"))  # only a step of an ensemble has this field


def without_comments(config: str) -> str:
    """Return the text of a config.pbtxt without its comment lines."""
    return _COMMENT.sub("", config)


def field_values(config: str, field: str) -> list[str]:
    """Return the texts of a field in a config.pbtxt, wherever it occurs.

    The protobuf parser is not used, because importing it would delay each start of a server by a quarter of a second.
    """
    text = without_comments(config)
    return [double or single for double, single in re.findall(rf"""\b{field}\s*:\s*(?:"([^"]*)"|'([^']*)')""", text)]


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
