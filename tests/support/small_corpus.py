"""A few pieces of music21's corpus in a folder of its layout, so that all of a collection can be read in seconds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tritone_training.corpus.build import find_music21_corpus
from tritone_training.corpus.sources import KNOWN_COLLECTIONS

COPIED = ("bach", "palestrina", "ryans", "oneills", "essen")


def copy_small_corpus(folder: Path, *, n_files: int = 8) -> Path:
    """Copy the first files of some collections, and the first tunes of their books, and return the folder."""
    source = find_music21_corpus()
    for name in COPIED:
        collection = KNOWN_COLLECTIONS[name]
        target = folder / collection.folder
        target.mkdir()
        files = sorted((source / collection.folder).glob(collection.pattern))
        if collection.layout == "tunes":
            text = files[0].read_text(encoding="utf-8", errors="replace")
            tunes = re.split(r"(?m)^(?=\s*X:)", text)
            (target / files[0].name).write_text("".join(tunes[: n_files + 1]), encoding="utf-8")
        else:
            for file in files[:n_files]:
                shutil.copyfile(file, target / file.name)
    return folder
