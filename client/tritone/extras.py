"""Imports of packages that extras install."""

from __future__ import annotations

import importlib
from typing import Any

from tritone.exceptions import MissingExtraError


def require(package: str, *, extra: str, purpose: str) -> Any:
    """Import a package of an extra.

    Args:
        package: name of the package, or of a module in it.
        extra: the extra of `tritone` that installs it.
        purpose: plural noun phrase for the message: what needs the package.

    Raises:
        MissingExtraError: with the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} need the package {package.partition('.')[0]} ({error}); install it with: "
            f"pip install 'tritone[{extra}]'"
        ) from error
