"""Job metadata (description and file list, stored next to the parts) and the lock of the output.

`<base>.job.json` describes the job, and `<base>.files.jsonl.gz` lists its files; `<base>` is the name of the parts
without the number, with `.KofN` for a shard. The list is written first, and the description last: with a description,
the record is complete. Which files are done is not recorded here, but read from the parts.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tritone.batch.file_list import FileList
from tritone.batch.options import BatchOptions
from tritone.batch.parts import PartNames, iter_done
from tritone.batch.sources import iter_paths
from tritone.exceptions import BatchError, FileAccessError
from tritone.remote_errors import translated_errors
from tritone.remote_files import is_remote, local_path, open_file, read_file, write_file

_FORMAT: Final = 1


@dataclass(frozen=True)
class JobRecord:
    """Where the record of a job is, and what the job does.

    Attributes:
        names: of the parts.
        settings: what must be the same in all runs of the job.
    """

    names: PartNames
    settings: dict[str, Any]

    @classmethod
    def of(cls, options: BatchOptions, names: PartNames) -> JobRecord:
        """Return the record of a job."""
        source = options.source if is_remote(options.source) else str(local_path(options.source).absolute())
        k, n = options.shard
        return cls(
            names,
            {
                "operation": options.operation,
                "model": options.model_name,
                "arguments": dict(options.arguments),
                "source": source,
                "shard": f"{k}/{n}",
                "max_duration_s": options.max_duration_s,
            },
        )

    @property
    def base(self) -> str:
        """Return the start of the names of the files of the record."""
        k, n = self.settings["shard"].split("/")
        return self.names.base if n == "1" else f"{self.names.base}.{k}of{n}"

    @property
    def url(self) -> str:
        """Return the path or URL of the description."""
        return self.names.sibling_url(f"{self.base}.job.json")

    @property
    def list_url(self) -> str:
        """Return the path or URL of the list of files."""
        return self.names.sibling_url(f"{self.base}.files.jsonl.gz")

    def exists(self, names: list[str]) -> bool:
        """Return whether the job has been recorded.

        Args:
            names: names of the files in the folder of the parts.

        Raises:
            BatchError: there is a record of the same name with another number of shards (`other_job`).
        """
        others = re.compile(rf"{re.escape(self.names.base)}(\.\d+of(\d+))?\.job\.json")
        n_mine = self.settings["shard"].split("/")[1]
        for name in names:
            match = others.fullmatch(name)
            if match and (match[2] or "1") != n_mine:
                raise BatchError(
                    f"{self.names.sibling_url(name)}: belongs to a job with {match[2] or 1} shards: expected "
                    f"{n_mine}; give the same number of shards, or another --out",
                    reason="other_job",
                )
        return f"{self.base}.job.json" in names

    def write(self, files: FileList) -> None:
        """Record the job with its files.

        Raises:
            BatchError: another process has recorded a job meanwhile (`running`).
            FileAccessError: the files cannot be written.
        """
        digest = hashlib.sha256()
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:
            for path in files.all_paths():
                line = json.dumps(path).encode() + b"\n"
                digest.update(line)
                file.write(line)
        write_file(self.list_url, packed.getvalue())
        described = {
            "format": _FORMAT,
            "id": secrets.token_hex(8),  # distinguishes jobs that two processes start at once
            **self.settings,
            "n_files": files.n_files,
            "files_sha256": digest.hexdigest(),
        }
        content = json.dumps(described, indent=2, ensure_ascii=True).encode() + b"\n"
        try:
            write_file(self.url, content, if_exists="error")
        except FileAccessError as error:
            if error.reason != "exists":
                raise
            if read_file(self.url) != content:  # else the response to the request was lost, and it was sent again
                raise BatchError(
                    f"{self.url}: another process has started a job with the same output; wait for it, or give another "
                    f"--out",
                    reason="running",
                ) from error

    def remove(self) -> None:
        """Remove the record from a local folder.

        Raises:
            FileAccessError: it cannot be removed.
        """
        for url in (self.url, self.list_url):
            with translated_errors(url):
                local_path(url).unlink(missing_ok=True)

    def load(self, files: FileList) -> None:
        """Read the files of a recorded job.

        Raises:
            BatchError: the job does something else (`other_job`), or its record is damaged.
            FileAccessError: the record cannot be read.
        """
        try:
            described = json.loads(read_file(self.url))
            differing = [name for name, value in self.settings.items() if described[name] != value]
            n_files, expected = described["n_files"], described["files_sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(self.url, error) from error
        if differing:
            name = differing[0]
            raise BatchError(
                f"{self.url}: belongs to another job: its {name} is {described[name]!r}, but {self.settings[name]!r} "
                f"was given; repeat the command of that job, or give another --out",
                reason="other_job",
            )
        digest = hashlib.sha256()
        try:
            with open_file(self.list_url) as packed, gzip.GzipFile(fileobj=packed, mode="rb") as file:
                files.add(_paths(file, digest), (1, 1))
        except FileAccessError as error:
            if error.reason == "missing":
                raise self._damaged(self.list_url, error) from error
            raise
        except (OSError, EOFError, ValueError) as error:  # not gzip, cut off, not JSON
            raise self._damaged(self.list_url, error) from error
        if digest.hexdigest() != expected or files.n_files != n_files:
            raise self._damaged(self.list_url, "its content has changed")

    def _damaged(self, url: str, why: object) -> BatchError:
        return BatchError(
            f"{url}: the record of the job is damaged ({why}); start again with another --out, or delete the parts and "
            f"the record",
            reason="damaged",
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes on this machine from writing the same parts; buckets have no lock.

        In a bucket, a second process stops at the job record or the first part that exists already; see `write_file`.

        Raises:
            BatchError: another process has the lock (`running`).
            FileAccessError: the folder cannot be written.
        """
        if is_remote(self.names.folder):
            yield
            return
        url = self.names.sibling_url(f".{self.base}.lock")
        with translated_errors(url):
            local_path(self.names.folder).mkdir(parents=True, exist_ok=True)
            descriptor = os.open(local_path(url), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                with translated_errors(url):  # of network file systems without locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except FileAccessError as error:
                if not isinstance(error.__cause__, BlockingIOError):
                    raise
                raise BatchError(
                    f"{url}: another process is writing these parts; wait for it, or give another --out",
                    reason="running",
                ) from error
            yield
        finally:
            os.close(descriptor)


def _paths(file: gzip.GzipFile, digest: Any) -> Iterator[str]:
    for line in file:
        digest.update(line)
        yield json.loads(line)


def prepare_job(options: BatchOptions, record: JobRecord, files: FileList, folder: Path) -> tuple[int, Counter[str]]:
    """Fill the list of files, and mark those that finished parts contain.

    Args:
        folder: for temporary files.

    Returns:
        (number of the next part, number of failed files in the finished parts by error type).

    Raises:
        BatchError: the output belongs to another job, or is damaged.
        FileAccessError: the source or the output cannot be read or written.
        InvalidInputError: the manifest is invalid.
    """
    names = record.names
    existing = names.list_names()
    numbers = names.numbers(existing)
    is_recorded = record.exists(existing)
    if is_recorded and not numbers and not is_remote(names.folder):
        # No file is done, and the lock shows that no process is working on the job: it may have had a wrong option.
        record.remove()
        is_recorded = False
    if (numbers or is_recorded) and not options.resume:
        raise BatchError(
            f"{names.folder}: already holds parts of an earlier job: expected an empty output; add --resume to "
            f"continue it, or give another --out",
            reason="not_resumed",
        )
    if numbers and not is_recorded:
        raise BatchError(
            f"{names.url(numbers[0])}: expected {record.url} next to the parts, got none; give another --out",
            reason="other_job",
        )
    number = names.next_number(numbers[-1] if numbers else None)
    # The last part may be complete and its temporary file still there: both exist between the link and the removal.
    last_parts = [names.url(n) for n in (*numbers[-1:], number)]
    names.remove_staged((*last_parts, record.url, record.list_url), existing)
    if is_recorded:
        record.load(files)
    else:
        own = _own_files(names)
        files.add((path for path in iter_paths(options.source) if not own(path)), options.shard)
        if not files.n_files and options.shard[1] == 1:
            raise FileAccessError(
                f"{options.source}: holds no files: expected at least one; check the path",
                url=options.source,
                reason="missing",
            )
        record.write(files)
    errors: Counter[str] = Counter()

    def done_paths() -> Iterator[str]:
        for path, kind in iter_done(names, numbers, folder):
            if kind:
                errors[kind] += 1
            yield path

    n_other, example = files.mark_done(done_paths())
    if n_other:
        raise BatchError(
            f"{names.folder}: expected one row for each file of {record.list_url}, got {n_other} rows that are "
            f"duplicates or of other files, such as {example}; remove the part that was added or copied, or give "
            f"another --out",
            reason="damaged",
        )
    return number, errors


def _own_files(names: PartNames) -> Callable[[str], bool]:
    """Return a function that recognizes files of jobs with this output; it may be in the folder of the recordings."""
    if is_remote(names.folder):
        start = names.sibling_url(names.base)
        return lambda path: path.startswith(start) and path.endswith((".job.json", ".files.jsonl.gz", ".parquet"))
    folder = local_path(names.folder).absolute()

    def own(path: str) -> bool:
        if is_remote(path) or not path.endswith((".job.json", ".files.jsonl.gz", ".parquet")):
            return False
        found = local_path(path).absolute()
        return found.parent == folder and found.name.startswith(names.base)

    return own
