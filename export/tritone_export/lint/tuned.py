"""`serving.json`, what `tritone optimize` found: against its form, the model, and config.pbtxt beside it."""

from __future__ import annotations

from pathlib import Path

from tritone_export._exceptions import TunedError
from tritone_export.lint.finding import Reporter
from tritone_export.lint.pbtxt import ConfigFile
from tritone_export.tuned import TUNED_FILENAME, apply, read_tuned, setting_of, unfit


def check_tuned(folder: Path, default: ConfigFile, report: Reporter) -> None:
    """Report a file that is nonsense, does not fit the model, or is not what the model is served with.

    Args:
        default: its config.pbtxt.
    """
    path = folder / TUNED_FILENAME
    undo = f"`tritone optimize {folder.name} --reset` removes it"
    try:
        said = read_tuned(folder)
    except TunedError as error:
        report.error(path, 1, str(error).removeprefix(f"{path}: "), f"correct it; {undo}")
        return
    if said is None:
        return
    if reason := unfit(said["setting"], default.config):
        report.error(path, 1, reason, f"correct it; {undo}")
    elif apply(said["setting"], default.config) != default.config:
        report.error(
            path,
            1,
            f"says {said['setting']}, but {default.path.name} says {setting_of(default.config)}",
            f"`tritone export KIND --configs-only` makes them agree; {undo}",
        )
