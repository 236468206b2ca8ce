"""A temporary DuckDB database that spills to disk, in which logs are cleaned within a bounded memory.

The environment variable `TRITONE_READ_MEMORY` (such as `2GB`) sets how much memory the database uses, without Python's
own; the default is an eighth of the machine's memory, or of the container's, between 256 MB and 1 GB.
`TRITONE_READ_FOLDER` sets where it spills; the default is the folder for temporary files (`TMPDIR`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd

from tritone.temporary_folders import temporary_folder as locked_temporary_folder
from tritone_training.exceptions import DataError

MEMORY_VARIABLE: Final = "TRITONE_READ_MEMORY"
FOLDER_VARIABLE: Final = "TRITONE_READ_FOLDER"
_PREFIX: Final = "tritone-read-"
_SHARE: Final = 8
_FEWEST_BYTES: Final = 64_000_000  # that DuckDB works with
_LEAST_BYTES: Final = 256 << 20
_MOST_BYTES: Final = 1 << 30
_UNITS: Final = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_CGROUP_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Scratch:
    """A temporary database.

    Attributes:
        folder: holds the database; removed at the end.
        database: the connection.
        memory_bytes: how much memory the database uses.
    """

    folder: Path
    database: duckdb.DuckDBPyConnection
    memory_bytes: int

    def run(self, query: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows.

        Raises:
            DataError: memory or disk space are used up.
        """
        with self.errors():
            return self.database.execute(query, parameters).fetchall()

    def columns(self, query: str, parameters: list[Any] | None = None) -> Columns:
        """Run a query and return its columns; missing numbers are NaN.

        Raises:
            DataError: memory or disk space are used up.
        """
        with self.errors():
            found = self.database.execute(query, parameters).fetchnumpy()
        return {
            name: np.where(column.mask, np.nan, column.data)
            if isinstance(column, np.ma.MaskedArray) and column.dtype.kind in "fiu"
            else np.asarray(column)
            for name, column in found.items()
        }

    def insert(self, query: str, **frames: pd.DataFrame) -> None:
        """Run a statement that names data frames as tables.

        Raises:
            DataError: memory or disk space are used up.
        """
        with self.errors():
            for name, frame in frames.items():
                self.database.register(name, frame)
            try:
                self.database.execute(query)
            finally:
                for name in frames:
                    self.database.unregister(name)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Translate what exhausts memory or disk space; other errors of the database pass.

        Raises:
            DataError: memory or disk space are used up.
        """
        try:
            yield
        except duckdb.OutOfMemoryException as error:
            if _is_disk(error):
                raise self._full(error) from error
            raise DataError(
                f"cleaning the log needs more than {self.memory_bytes / 1e6:,.0f} MB of memory: set {MEMORY_VARIABLE} "
                f"higher, such as {MEMORY_VARIABLE}={2 * self.memory_bytes // 10**6}MB"
            ) from error
        except duckdb.Error as error:
            if _is_disk(error):
                raise self._full(error) from error
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full(error) from error
            raise

    def _full(self, error: Exception) -> DataError:
        return DataError(
            f"{self.folder.parent}: no space left for temporary files of the log ({_first_line(error)}); free "
            f"space, or set {FOLDER_VARIABLE} to a folder on a larger disk"
        )


@contextmanager
def open_scratch(n_others: int = 0) -> Iterator[Scratch]:
    """Open a temporary database, and remove it at the end and what earlier processes left when they were killed.

    Args:
        n_others: databases of other processes of this computer that share the memory.

    Raises:
        DataError: a setting is invalid, or the folder cannot be written.
    """
    memory_bytes = max(_memory_bytes() // (1 + n_others), _FEWEST_BYTES)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        try:
            database = duckdb.connect(
                str(folder / "log.duckdb"),
                config={
                    "autoinstall_known_extensions": "false",
                    "autoload_known_extensions": "false",
                    "memory_limit": f"{memory_bytes}B",
                    "preserve_insertion_order": "false",
                    "temp_directory": str(folder / "spilled"),
                },
            )
        except duckdb.Error as error:
            raise DataError(f"{folder}: a temporary database cannot be created ({_first_line(error)})") from error
        stack.callback(database.close)
        with contextlib.suppress(duckdb.Error):  # in a notebook without ipywidgets, where there is no bar to turn off
            database.execute("SET enable_progress_bar = false")
        database.execute("SET TimeZone = 'UTC'")
        database.execute("SET pandas_analyze_sample = 0")  # all texts, whatever they look like
        yield Scratch(folder, database, memory_bytes)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder that only this user can read, which is removed at the end.

    Raises:
        DataError: it cannot be created.
    """
    given = os.environ.get(FOLDER_VARIABLE)
    parent = Path(given or tempfile.gettempdir())
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(locked_temporary_folder(_PREFIX, parent))
        except OSError as error:
            setting = f"{FOLDER_VARIABLE}={given}" if given else f"{FOLDER_VARIABLE} or TMPDIR"
            raise DataError(
                f"{parent}: temporary files cannot be written there ({error.strerror or error}); set {setting} to a "
                f"folder that exists and can be written"
            ) from error
        yield folder


def _memory_bytes() -> int:
    given = os.environ.get(MEMORY_VARIABLE)
    if given is not None:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", given)
        unit = _UNITS.get(found[2].lower()) if found else None
        if found is None or unit is None or float(found[1]) * unit < _FEWEST_BYTES:
            raise DataError(f"invalid {MEMORY_VARIABLE}: expected at least 64MB, such as 2GB, got {given!r}")
        return int(float(found[1]) * unit)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            machine = min(machine, int(path.read_text()))  # `max` if there is no limit
    return min(max(machine // _SHARE, _LEAST_BYTES), _MOST_BYTES)


def _is_disk(error: Exception) -> bool:
    return re.search(r"(?i)no space left|disk full|quota exceeded|max_temp_directory_size", str(error)) is not None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def sql_text(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"
