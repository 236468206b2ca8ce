"""Read a folder of MIDI files; the name of the subfolder is the style of a piece."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tritone import InvalidScoreError
from tritone.music.grid import FRAMES_PER_QUARTER
from tritone.music.scores import to_grid
from tritone.music.smf import MIDI_SUFFIXES
from tritone_training.data.loading import visible_files
from tritone_training.data.recordings import DataProblem, printable
from tritone_training.data.scores.score_set import SPLIT_NOTE, ScorePiece, ScoreSet, hashed_splits, notes_digest
from tritone_training.exceptions import DataError
from tritone_training.progress import progress_bar

_NAMES = ", ".join(MIDI_SUFFIXES)


def from_midi_folder(root: Path, *, progress: bool = True) -> ScoreSet:
    """Return every MIDI file below a folder on a grid of sixteenths.

    The style of a file is the name of its topmost subfolder, or the name of `root` for files in `root` itself. A file
    with the same notes as an earlier file is left out and reported.

    Raises:
        DataError: no file can be used.
    """
    try:
        files = [(printable("/".join(file.relative_to(root).parts)), file) for file in visible_files(root)]
    except OSError as error:
        raise DataError(f"{root}: a folder cannot be read ({error})") from error
    problems = [
        DataProblem(
            name,
            "not_midi",
            f"{name}: {printable(file.suffix) or 'no suffix'} is not a MIDI suffix; expected one of {_NAMES}",
        )
        for name, file in files
        if file.suffix.lower() not in MIDI_SUFFIXES
    ]
    files = [(name, file) for name, file in files if file.suffix.lower() in MIDI_SUFFIXES]
    pieces: dict[bytes, ScorePiece] = {}
    lost: Counter[str] = Counter()
    with progress_bar("reading scores", shown=progress) as on_progress:
        for done, (name, file) in enumerate(files, 1):
            style = _style(root, name)
            if not style.isprintable():  # label files hold one style a line
                problems.append(
                    DataProblem(name, "bad_style", f"{name}: the style {style!r} holds unprintable characters")
                )
                continue
            try:
                grid = to_grid(file)
            except InvalidScoreError as error:
                problems.append(DataProblem(name, error.reason, printable(str(error))))
                continue
            finally:
                on_progress(done, len(files))
            digest = notes_digest(grid.frames)
            if digest in pieces:
                problems.append(DataProblem(name, "duplicate", f"{name}: has the same notes as {pieces[digest].name}"))
                continue
            lost.update(grid.dropped)
            pieces[digest] = ScorePiece(name, grid.frames, "", style, grid.meter)
    if not pieces:
        raise DataError(
            f"{root}: holds no scores that can be used; expected .mid files, or <style>/<file>.mid (also "
            f"{', '.join(MIDI_SUFFIXES[1:])}; a .mat or .json is given by its own name)"
            + (f"; the first problem: {problems[0].message}" if problems else "")
        )
    return ScoreSet(
        source=printable(str(root)),
        pieces=tuple(_with_splits(list(pieces.values()))),
        has_onsets=True,
        frames_per_quarter=FRAMES_PER_QUARTER,
        problems=tuple(problems),
        notes={"split": SPLIT_NOTE, "dropped": dict(sorted(lost.items()))},
    )


def _style(root: Path, name: str) -> str:
    above, _, _ = name.partition("/")
    return above if "/" in name else printable(root.resolve().name)


def _with_splits(pieces: list[ScorePiece]) -> Iterator[ScorePiece]:
    splits = hashed_splits([piece.name for piece in pieces])
    for piece, split in zip(pieces, splits, strict=True):
        yield ScorePiece(piece.name, piece.frames, split, piece.style, piece.meter)
