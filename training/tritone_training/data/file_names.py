"""Find files whose names are written differently in a table and on disk."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path, PureWindowsPath
from typing import Final

_DRIVE: Final = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def is_windows_path(name: str) -> bool:
    r"""Return whether a name is a Windows path: with backslashes, or with a drive (`C:/`)."""
    return "\\" in name or _DRIVE.match(name) is not None


def find_file(root: Path, name: str) -> Path:
    r"""Return the file with a name.

    Tried in order: the name as it is; with `/` for `\`; with each part in another Unicode form (NFC or NFD), because
    copying between systems changes names.

    Args:
        root: folder of relative names.

    Returns:
        The first of these that exists, else the name as it is below `root`.
    """
    names = [name, PureWindowsPath(name).as_posix()] if "\\" in name else [name]
    for each in names:
        if os.path.lexists(root / each):
            return root / each
    for each in names:
        found = _in_another_form(root, each)
        if found is not None:
            return found
    return root / name


def _in_another_form(root: Path, name: str) -> Path | None:
    given = Path(name)
    place = Path(given.anchor) if given.is_absolute() else root
    for part in given.parts[1:] if given.is_absolute() else given.parts:
        if os.path.lexists(place / part):
            place /= part
            continue
        wanted = unicodedata.normalize("NFC", part)
        try:
            entries = sorted(os.listdir(place))  # noqa: PTH208 - names are compared as they are written
        except OSError:
            return None
        match = next((entry for entry in entries if unicodedata.normalize("NFC", entry) == wanted), None)
        if match is None:
            return None
        place /= match
    return place
