"""Read and clean listening logs, in this process or by workers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from tritone_training.data.interactions.cleaning import CleaningRules, LogTraits, clean
from tritone_training.data.interactions.columns import (
    Columns,
    distinct,
    ignored_notes,
    item_of_log,
    names_item,
    optional,
    required,
    shown_columns,
)
from tritone_training.data.interactions.log import Log
from tritone_training.data.interactions.parts_staging import ReadingWorkers, stage_parts
from tritone_training.data.interactions.scratch import Scratch, open_scratch, temporary_folder
from tritone_training.data.interactions.staged_cells import StagedLog, read_cells
from tritone_training.data.interactions.staging import RowColumns, Staging, stage_frames, stage_table
from tritone_training.data.interactions.stored_log import StoredLog
from tritone_training.data.interactions.user_sequences import is_sequence_file, read_sequences
from tritone_training.data.recordings import printable
from tritone_training.data.tables import Table, open_table
from tritone_training.exceptions import DataError

_NO_COLUMNS: Final = Columns()
_Stage = Callable[[Scratch, str, Table, RowColumns], Staging]


def load_log(path: Path, columns: Columns = _NO_COLUMNS, *, rules: CleaningRules | None = None) -> Log:
    """Read and clean a listening log: a table, or a file with lines `user item item ...` in order of time.

    Raises:
        DataError: it is missing or unreadable, has no column for users or items, or has no rows left after cleaning.
    """
    if is_sequence_file(path):
        return load_sequences(path, rules=rules)
    return keep_log(path, columns, rules=rules).load()


def keep_log(
    path: Path,
    columns: Columns = _NO_COLUMNS,
    *,
    rules: CleaningRules | None = None,
    workers: ReadingWorkers | None = None,
) -> StoredLog:
    """Read and clean a listening log as `load_log`, into temporary files that exist as long as the result.

    Args:
        workers: read the log if it is in Parquet files; the result is the same.

    Raises:
        DataError: as `load_log`, or disk space or memory are used up.
    """
    if not is_sequence_file(path):
        return _kept(partial(_clean_table, workers=workers), path, columns, rules)
    if workers is not None and workers.is_required:
        raise _not_by_workers(path, "it has lines `user item item ...`")
    return _kept(_clean_sequences, path, columns, rules)


def _kept(
    read: Callable[[Scratch, Path, Columns, Path, CleaningRules], StoredLog],
    path: Path,
    columns: Columns,
    rules: CleaningRules | None,
) -> StoredLog:
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        with open_scratch() as scratch:
            stored = read(scratch, path, columns, folder, rules or CleaningRules())
        weakref.finalize(stored, stack.pop_all().close)
    return stored


def _clean_table(
    scratch: Scratch,
    path: Path,
    columns: Columns,
    folder: Path,
    rules: CleaningRules,
    *,
    workers: ReadingWorkers | None = None,
) -> StoredLog:
    with _opened(path, columns, workers) as (table, stage):
        user = required(table, "user", columns.user)
        item, item_notes = item_of_log(table, columns.item, user=user)
        if columns.plays is not None and columns.rating is not None:
            raise DataError(
                f"{path}: expected play counts or ratings, got a column of each ({columns.plays!r}, "
                f"{columns.rating!r}); leave --plays-column or --rating-column out"
            )
        # A rating column that is given by name takes precedence over a column of plays that was found by its name.
        plays = None if columns.rating is not None else optional(table, "plays", columns.plays)
        rating = None if plays else optional(table, "rating", columns.rating)
        time = optional(table, "time", columns.time)
        skip = optional(table, "skipped", columns.skipped)
        chosen = {"user": user, "item": item, "plays": plays, "rating": rating, "time": time, "skipped": skip}
        distinct(table, **chosen)
        option = "--plays-column" if plays else "--rating-column"
        source = printable(path.name)
        row_columns = RowColumns(user, item, plays or rating, time, skip, option)
        staged = read_cells(stage(scratch, source, table, row_columns))
        notes = [*table.notes, *ignored_notes(table), *item_notes, *staged.count_notes, *staged.time_notes]
    report = {"columns": shown_columns(chosen), "notes": notes, "ids": _id_report(staged)}
    if staged.times is not None:
        report["times"] = staged.times
    traits = LogTraits(has_ratings=rating is not None, has_times=time is not None, has_skips=skip is not None)
    return clean(scratch, source, staged, traits, folder=folder, rules=rules, report=report)


@contextmanager
def _opened(path: Path, columns: Columns, workers: ReadingWorkers | None) -> Iterator[tuple[Table, _Stage]]:
    """Yield a log and the function that reads its rows.

    Raises:
        DataError: the log cannot be opened, or the workers that have to read it cannot.
    """
    if workers is not None:
        with open_table(path, footers_only=True) as table:
            why_not = workers.why_not(table)
            if why_not is None and table.origins and not names_item(table, columns.item):
                why_not = "no column has a usual name of items; name it with --item-column"
            if why_not is None:
                yield table, partial(stage_parts, workers=workers)
                return
            if workers.is_required:
                raise _not_by_workers(path, why_not)
            if not table.origins:
                yield table, stage_table
                return
    with open_table(path) as table:
        yield table, stage_table


def _not_by_workers(path: Path, why: str) -> DataError:
    return DataError(
        f"{path}: cannot be read by workers ({why}): expected uncompressed files of Parquet; write the log so, or "
        f"leave --read workers out"
    )


def load_sequences(path: Path, *, rules: CleaningRules | None = None) -> Log:
    """Read and clean a log with lines `user item item ...`, each user's items in order of time, oldest first.

    This is the format of S3-Rec's data (https://github.com/RUCAIBox/CIKM2020-S3Rec). Each item is one play.

    Raises:
        DataError: the file is missing or not UTF-8, or a line has no item.
    """
    return _kept(_clean_sequences, path, _NO_COLUMNS, rules).load()


def _clean_sequences(scratch: Scratch, path: Path, _columns: Columns, folder: Path, rules: CleaningRules) -> StoredLog:
    source = printable(path.name)
    staged = read_cells(stage_frames(scratch, source, path, read_sequences(path)))
    report = {"columns": {}, "notes": [], "ids": _id_report(staged)}
    return clean(scratch, source, staged, LogTraits(is_ordered=True), folder=folder, rules=rules, report=report)


def _id_report(staged: StagedLog) -> dict[str, dict[str, int]]:
    return {what: found for what, counts in staged.id_counts.items() if (found := counts.to_dict())}
