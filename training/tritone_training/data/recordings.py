"""A folder per label or a manifest CSV, read into one list of recordings and a report of what cannot be used.

```python
recordings = load_recordings(Path("my_music"))       # my_music/<label>/<file>, or my_music/manifest.csv
recordings = load_recordings(Path("manifest.csv"))   # path,label[,fold][,artist][,emotion_*]
```
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile

from tritone_client.audio import FloatArray, load_mono
from tritone_client.constants import EMOTIONS
from tritone_training._exceptions import DataError

MANIFEST_NAME = "manifest.csv"
_EMOTION_PREFIX = "emotion_"
_SUFFIXES = frozenset(f".{name.lower()}" for name in soundfile.available_formats()) | {
    ".aif", ".oga", ".opus", ".m4a", ".wma", ".aac",
}  # fmt: skip


@dataclass(frozen=True)
class Recording:
    """One recording and what is known about it.

    Attributes:
        name: the path as the data set writes it, or a catalogue id; unique within a set.
        load: reads it as (S,) float32 at 22,050 Hz, mono; raises InvalidAudioError.
        path: the file, if it is one.
        fold: the data set's own fold, held out together.
        artist: recordings of one artist never stand on both sides of a split.
        piece: the composition, where several recordings may be of one; never on both sides either.
        emotions: nine fractions in 0..1 in the order of `EMOTIONS`, or None.
    """

    name: str
    label: str
    load: Callable[[], FloatArray]
    path: Path | None = None
    fold: int | None = None
    artist: str | None = None
    emotions: tuple[float, ...] | None = None
    piece: str | None = None

    @property
    def group(self) -> str:
        """What stays together when the set is split: the artist, else the piece, else the recording itself."""
        if self.artist:
            return f"artist {self.artist}"
        return f"piece {self.piece}" if self.piece else f"recording {self.name}"


@dataclass(frozen=True)
class Problem:
    """A recording that cannot be used, and why."""

    name: str
    reason: str
    message: str


@dataclass(frozen=True)
class RecordingSet:
    """The usable recordings of a data set and the report on the rest.

    Attributes:
        source: where they come from, for the model card.
        licence: the data's licence, if the data set says.
    """

    source: str
    recordings: tuple[Recording, ...]
    problems: tuple[Problem, ...] = ()
    licence: str = "not stated"
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, sorted."""
        return tuple(sorted({recording.label for recording in self.recordings}))

    @property
    def has_emotions(self) -> bool:
        """Whether any recording has emotion fractions."""
        return any(recording.emotions is not None for recording in self.recordings)

    def without(self, problems: Iterable[Problem]) -> RecordingSet:
        """The same set without the recordings that turned out to be unusable, which move to the report."""
        problems = tuple(problems)
        bad = {problem.name for problem in problems}
        kept = tuple(recording for recording in self.recordings if recording.name not in bad)
        return replace(self, recordings=kept, problems=(*self.problems, *problems))

    def only(self, names: Iterable[str]) -> RecordingSet:
        """The recordings of these names."""
        wanted = set(names)
        return replace(self, recordings=tuple(r for r in self.recordings if r.name in wanted))

    def report(self) -> dict[str, Any]:
        """Counts in and out and every problem, for people and the model card."""
        return {
            "source": self.source,
            "licence": self.licence,
            "n_in": len(self.recordings) + len(self.problems),
            "n_used": len(self.recordings),
            "labels": dict(sorted(Counter(r.label for r in self.recordings).items())),
            "n_artists": len({r.artist for r in self.recordings if r.artist}),
            "n_with_emotions": sum(r.emotions is not None for r in self.recordings),
            "problems": [{"path": p.name, "reason": p.reason, "message": p.message} for p in self.problems],
            **self.notes,
        }


def load_recordings(path: Path) -> RecordingSet:
    """List the recordings of a data set; the audio itself is read later, when it is needed.

    Args:
        path: a manifest CSV, a folder that holds `manifest.csv`, or a folder with a folder per label.

    Raises:
        DataError: nothing usable is there, or the manifest's columns are wrong.
    """
    if path.is_file():
        return _from_manifest(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; expected a manifest CSV or a folder per label")
    if (path / MANIFEST_NAME).is_file():
        return _from_manifest(path / MANIFEST_NAME)
    return _from_folders(path)


def _from_folders(root: Path) -> RecordingSet:
    recordings: list[Recording] = []
    problems: list[Problem] = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        for file in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
            name = file.relative_to(root).as_posix()
            if file.suffix.lower() in _SUFFIXES:
                recordings.append(_recording(name, folder.name, file))
            else:
                problems.append(Problem(name, "not_audio", f"{name}: {file.suffix or 'no suffix'} is not audio"))
    if not recordings:
        raise DataError(
            f"{root}: holds no recordings; expected {root.name}/<label>/<file>.wav (or .flac, .ogg, .mp3 ...), "
            f"or a {MANIFEST_NAME} with the columns path,label"
        )
    return RecordingSet(str(root), tuple(recordings), tuple(problems))


def _from_manifest(manifest: Path) -> RecordingSet:
    try:
        table = pd.read_csv(manifest, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{manifest}: is not a CSV table ({error})") from error
    table.columns = [str(column).strip() for column in table.columns]
    missing = [column for column in ("path", "label") if column not in table]
    if missing:
        raise DataError(
            f"{manifest}: has no column {' and '.join(missing)}; expected path,label[,fold][,artist][,emotion_*], "
            f"found {','.join(table.columns)}"
        )
    emotion_columns = _emotion_columns(list(table.columns), manifest)
    recordings: dict[str, Recording] = {}
    problems: list[Problem] = []
    for line, row in enumerate(table.to_dict("records"), start=2):
        cells = {str(key): str(value).strip() for key, value in row.items()}
        name = cells["path"] or f"line {line}"
        try:
            if name in recordings:
                raise _RowError("duplicate", "stands twice in the manifest; the first is used")
            recordings[name] = _manifest_row(name, cells, manifest, emotion_columns)
        except _RowError as error:
            problems.append(Problem(name, error.reason, f"{manifest.name} line {line}: {name}: {error}"))
    if not recordings:
        raise DataError(f"{manifest}: no row can be used" + (f"; the first: {problems[0].message}" if problems else ""))
    return RecordingSet(str(manifest), tuple(recordings.values()), tuple(problems))


class _RowError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _emotion_columns(columns: Sequence[str], manifest: Path) -> tuple[str, ...]:
    """The nine emotion columns in our order, or none; part of them is an error, because it would be noise."""
    wanted = tuple(_EMOTION_PREFIX + name for name in EMOTIONS)
    found = {column for column in columns if column.startswith(_EMOTION_PREFIX)}
    if not found:
        return ()
    if found != set(wanted):
        raise DataError(
            f"{manifest}: emotion columns are all nine or none; missing: {sorted(set(wanted) - found) or 'none'}, "
            f"unknown: {sorted(found - set(wanted)) or 'none'}"
        )
    return wanted


def _manifest_row(name: str, cells: Mapping[str, str], manifest: Path, emotion_columns: Sequence[str]) -> Recording:
    if not cells["path"]:
        raise _RowError("no_path", "the path is empty")
    if not cells["label"]:
        raise _RowError("no_label", "the label is empty")
    fold = cells.get("fold", "")
    if fold and not fold.removesuffix(".0").isdigit():
        raise _RowError("bad_fold", f"the fold is {fold!r}; expected a whole number from 0")
    return _recording(
        name,
        cells["label"],
        manifest.parent / name,
        fold=int(float(fold)) if fold else None,
        artist=cells.get("artist") or None,
        emotions=_emotions([cells[column] for column in emotion_columns]),
    )


def _emotions(cells: Sequence[str]) -> tuple[float, ...] | None:
    if not any(cells):
        return None
    try:
        values = tuple(float(cell) for cell in cells)
    except ValueError as error:
        raise _RowError("bad_emotion", f"emotions are numbers, all nine or none: {error}") from error
    if not all(np.isfinite(value) and 0 <= value <= 1 for value in values):
        raise _RowError("bad_emotion", f"emotions are fractions in 0..1, got {min(values)} to {max(values)}")
    return values


def _recording(
    name: str,
    label: str,
    path: Path,
    *,
    fold: int | None = None,
    artist: str | None = None,
    emotions: tuple[float, ...] | None = None,
) -> Recording:
    return Recording(name, label, lambda: load_mono(path), path, fold, artist, emotions)
