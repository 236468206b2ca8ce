"""Load score data sets of all supported formats."""

from __future__ import annotations

from pathlib import Path

from tritone.music.smf import MIDI_SUFFIXES
from tritone_training.data.scores.score_set import ScoreSet
from tritone_training.exceptions import DataError


def load_scores(data: Path | None, *, progress: bool = True) -> ScoreSet:
    """Return a data set of scores.

    Args:
        data: a folder of MIDI files (a subfolder is a style), a poly-music `.mat`, a JSB-style `.json`, or None for
            the embedded corpus.
        progress: show a progress bar on stderr.

    Raises:
        DataError: there are no usable scores, or the format is not supported.
        MissingExtraError: a package of the `train` extra is not installed.
    """
    if data is None:
        from tritone_training.data.scores.embedded import embedded_scores

        return embedded_scores(progress=progress)
    if data.is_dir():
        from tritone_training.data.scores.midi_folder import from_midi_folder

        return from_midi_folder(data, progress=progress)
    if not data.is_file():
        raise DataError(f"{data}: no such file or folder; expected a folder of MIDI files, a .mat file or a .json file")
    suffix = data.suffix.lower()
    if suffix == ".mat":
        from tritone_training.data.scores.benchmark_files import from_matlab

        return from_matlab(data)
    if suffix == ".json":
        from tritone_training.data.scores.benchmark_files import from_json

        return from_json(data)
    hint = "; give the folder of the MIDI files" if suffix in MIDI_SUFFIXES else ""
    raise DataError(
        f"{data}: {suffix or 'a name without a suffix'} is not a data set of scores; "
        f"expected a folder of MIDI files, a .mat file or a .json file{hint}"
    )
