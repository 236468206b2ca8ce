"""Load labelled recordings: from a manifest CSV, a folder for each label, or the embedded corpus.

```python
recordings = load_recordings(Path("my_music"))       # my_music/<label>/<file>, or my_music/manifest.csv
recordings = load_recordings(Path("manifest.csv"))   # path,label[,fold][,artist][,emotion_*]
recordings.report()                                  # counts, and the reason for each file that is not used
```
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any, Final

import soundfile

from tritone.constants import EMOTIONS
from tritone_training.corpus import load_corpus, parse_selection, render
from tritone_training.data.recordings import DataProblem, Recording, RecordingSet, normal_label, printable
from tritone_training.data.tables import open_table
from tritone_training.exceptions import DataError

MANIFEST_NAME: Final = "manifest.csv"
_SUFFIXES = frozenset(f".{name.lower()}" for name in soundfile.available_formats()) | {
    ".aif", ".aifc", ".snd", ".oga", ".opus", ".m4a", ".wma", ".aac",
}  # fmt: skip
_EMOTION_COLUMNS: Final = tuple(f"emotion_{name}" for name in EMOTIONS)
_EXPECTED: Final = "path,label[,fold][,artist][,emotion_*]"
_DRIVE: Final = re.compile(r"[A-Za-z]:[\\/]|\\\\")
LICENCE = "music in the public domain; encodings from music21's corpus, rendered with the SoundFont of pretty_midi"


def load_recordings(path: Path) -> RecordingSet:
    """Return the recordings of a data set; the audio itself is read when it is needed.

    Args:
        path: a manifest CSV, a folder that holds `manifest.csv`, or a folder with a folder per label.

    Raises:
        DataError: there are no usable recordings, or the manifest has wrong columns.
    """
    if parse_selection(path) is not None:
        raise DataError(
            f"{path}: expected recordings, got scores of the corpus; leave --data out to train on renderings of the "
            f"corpus, or give a manifest CSV or a folder per label"
        )
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
            problems.append(DataProblem(name, "not_audio", f"{name}: expected an audio file, got {kind}"))
        elif len(parts) == 1:
            problems.append(
                DataProblem(name, "no_label", f"{name}: is not in the folder of a label; expected <label>/{name}")
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
    """Yield all files below a folder in a fixed order, without hidden ones (.DS_Store, .git, ._song.wav)."""
    above = above | {folder.resolve()}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.resolve() not in above:  # a link to a parent folder would recurse without end
                yield from visible_files(entry, above)
        else:
            yield entry


def from_manifest(manifest: Path) -> RecordingSet:
    """Return the recordings of a manifest; rows that cannot be used are reported with their lines.

    Paths are relative to the manifest.

    Raises:
        DataError: the file is not a manifest, or no row of it can be used.
    """
    recordings: dict[str, Recording] = {}
    problems: list[DataProblem] = []
    for line, cells in _rows(manifest):
        name = cells["path"] or f"line {line}"
        try:
            path = find_file(manifest.parent, name)
            # The same file under another spelling is the same recording.
            key = os.path.normpath(path)
            if key in recordings:
                raise _RowError("duplicate", "occurs twice in the manifest; the first is used")
            recordings[key] = _recording(name, cells, path)
        except _RowError as error:
            problems.append(DataProblem(name, error.reason, f"{manifest.name} line {line}: {name}: {error}"))
    if not recordings:
        raise DataError(f"{manifest}: no row can be used" + (f"; the first: {problems[0].message}" if problems else ""))
    return RecordingSet(printable(str(manifest)), tuple(recordings.values()), tuple(problems))


class _RowError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _rows(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line in the file, cells by column) of each row that is not blank."""
    with open_table(manifest) as table:
        _check_columns(table.names, manifest)
        yield from table.rows()


def _check_columns(columns: Sequence[str], manifest: Path) -> None:
    missing = [column for column in ("path", "label") if column not in columns]
    if missing:
        raise DataError(
            f"{manifest}: has no column {' and '.join(missing)}; expected {_EXPECTED}, found {','.join(columns)}"
        )
    emotions = {column for column in columns if column.startswith("emotion_")}
    if emotions and emotions != set(_EMOTION_COLUMNS):  # an incomplete set cannot be trained on
        raise DataError(
            f"{manifest}: incomplete emotion columns: expected all nine or none; "
            f"missing: {', '.join(sorted(set(_EMOTION_COLUMNS) - emotions)) or 'none'}, "
            f"unknown: {', '.join(sorted(emotions - set(_EMOTION_COLUMNS))) or 'none'}"
        )


def _recording(name: str, cells: Mapping[str, str], path: Path) -> Recording:
    if not cells["path"]:
        raise _RowError("no_path", "the path is empty")
    if is_windows_path(name) and not path.exists():
        raise _RowError("missing", f"is a Windows path, and there is no such file here ({path})")
    label = normal_label(cells["label"])
    if not label:
        raise _RowError("no_label", "the label is empty")
    if not label.isprintable():  # label files hold one label a line
        raise _RowError("bad_label", f"the label {label!r} holds unprintable characters")
    known: dict[str, Any] = {"fold": _fold(cells.get("fold", "")), "artist": cells.get("artist") or None}
    return Recording.of_file(name, label, path, emotions=_emotions(cells), **known)


def _fold(cell: str) -> int | None:
    if not cell:
        return None
    digits = cell.removesuffix(".0")  # as tables with gaps write whole numbers
    if not digits.isdecimal() or len(digits) > 9:
        raise _RowError("bad_fold", f"the fold is {cell!r}; expected a whole number from 0")
    return int(digits)


def _emotions(cells: Mapping[str, str]) -> tuple[float, ...] | None:
    given = [cells.get(column, "") for column in _EMOTION_COLUMNS]
    if not any(given):
        return None
    try:
        values = tuple(float(cell) for cell in given)
    except ValueError as error:
        raise _RowError("bad_emotion", f"emotions are numbers, all nine or none: {error}") from error
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in values):
        raise _RowError("bad_emotion", f"emotions are fractions in 0..1, got {min(values)} to {max(values)}")
    return values


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


def embedded_recordings(*, n_variants: int, progress: bool = True) -> RecordingSet:
    """Return `n_variants` seeded renderings of every piece of the corpus.

    Instrument, tempo, key and starting point differ between renderings, so that only the notes indicate the label.
    """
    corpus = load_corpus(progress=progress)
    recordings = tuple(
        Recording(
            name=f"{track.id}#{variant}",
            label=track.collection,
            load=partial(render, track, seed=variant),
            piece=track.group,
        )
        for track in corpus.tracks
        for variant in range(n_variants)
    )
    return RecordingSet(
        source=f"embedded corpus ({len(corpus.tracks)} pieces, {n_variants} renderings each)",
        recordings=recordings,
        licence=LICENCE,
        notes={"corpus_fingerprint": corpus.fingerprint},
    )
