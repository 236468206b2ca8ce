"""What an item's metadata says, as words that count like tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_WORD: Final = re.compile(r"\w{3,}")


def words_of(row: Mapping[str, str]) -> set[str]:
    """A title's words one by one, every other column's value whole."""
    title = {f"title: {word}" for word in _WORD.findall(row.get("title", "").lower())}
    return title | {f"{name}: {value}" for name, value in row.items() if name != "title"}
