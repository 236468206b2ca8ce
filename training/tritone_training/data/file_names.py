"""Finds files whose names are written in another Unicode form than the disk has them."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Final

_FORMS: Final = ("NFC", "NFD")


def existing_path(path: Path) -> Path:
    """Return the file that a path means, whether names are composed (`Jóga`, NFC) or decomposed as macOS writes them.

    The path itself comes back if it exists, or if no form of it does.
    """
    if path.exists() or str(path).isascii():
        return path
    for form in _FORMS:
        if (other := Path(unicodedata.normalize(form, str(path)))).exists():
            return other
    found = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        exact = found / part
        if not exact.exists():
            wanted = unicodedata.normalize("NFC", part)
            try:
                names = (each for each in found.iterdir() if unicodedata.normalize("NFC", each.name) == wanted)
                exact = next(names, exact)
            except OSError:
                return path
        found = exact
    return found if found.exists() else path
