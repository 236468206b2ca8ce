"""A data set from disk: a manifest CSV or a folder per label.

```python
recordings = load_recordings(Path("my_music"))       # my_music/<label>/<file>, or my_music/manifest.csv
recordings = load_recordings(Path("manifest.csv"))   # path,label[,fold][,artist][,emotion_*]
recordings.report()                                  # what is used, and what is not and why
```
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import soundfile

from tritone_training.data.manifest import from_manifest
from tritone_training.data.recordings import DataProblem, Recording, RecordingSet, normal_label, printable
from tritone_training.exceptions import DataError

MANIFEST_NAME: Final = "manifest.csv"
_SUFFIXES = frozenset(f".{name.lower()}" for name in soundfile.available_formats()) | {
    ".aif", ".aifc", ".snd", ".oga", ".opus", ".m4a", ".wma", ".aac",
}  # fmt: skip


def load_recordings(path: Path) -> RecordingSet:
    """List the recordings of a data set; the audio itself is read later, when it is needed.

    Args:
        path: a manifest CSV, a folder that holds `manifest.csv`, or a folder with a folder per label.

    Raises:
        DataError: nothing usable is there, or the manifest's columns are wrong.
    """
    if path.is_file():
        return from_manifest(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; expected a manifest CSV or a folder per label")
    if (path / MANIFEST_NAME).is_file():
        return from_manifest(path / MANIFEST_NAME)
    return _from_folders(path)


def _from_folders(root: Path) -> RecordingSet:
    recordings: list[Recording] = []
    problems: list[DataProblem] = []
    for file in visible_files(root):
        parts = file.relative_to(root).parts
        name = printable("/".join(parts))
        label = normal_label(parts[0])
        if file.suffix.lower() not in _SUFFIXES:
            kind = printable(file.suffix) or "no suffix"
            problems.append(DataProblem(name, "not_audio", f"{name}: {kind} is not the name of an audio file"))
        elif len(parts) == 1:
            problems.append(
                DataProblem(name, "no_label", f"{name}: lies in no label's folder; expected <label>/{name}")
            )
        elif not label.isprintable():
            problems.append(
                DataProblem(name, "bad_label", f"{name}: the label {parts[0]!r} holds unprintable characters")
            )
        else:
            recordings.append(Recording.of_file(name, label, file))
    if not recordings:
        raise DataError(
            f"{root}: holds no recordings; expected {root.name}/<label>/<file>.wav (or .flac, .ogg, .mp3 ...), "
            f"or a {MANIFEST_NAME} with the columns path,label"
            + (f"; the first problem: {problems[0].message}" if problems else "")
        )
    return RecordingSet(printable(str(root)), tuple(recordings), tuple(problems))


def visible_files(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """All files below a folder in a fixed order, but for what systems hide (.DS_Store, .git, ._song.wav)."""
    above = above | {folder.resolve()}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.resolve() not in above:  # a link to a folder above would never end
                yield from visible_files(entry, above)
        else:
            yield entry
