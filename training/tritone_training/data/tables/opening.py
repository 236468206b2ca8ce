"""Detect the format of a table by the content of its file or folder, and open it."""

from __future__ import annotations

import re
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from tritone_training.data.tables.packing import Content, content_of, is_workbook_name
from tritone_training.data.tables.parquet import parquet_table
from tritone_training.data.tables.sources import Source, located
from tritone_training.data.tables.table import EXPECTED, NOTHING, Table
from tritone_training.data.tables.text import decoded, encoding_of, json_table, text_table
from tritone_training.data.tables.workbook import workbook_table
from tritone_training.exceptions import DataError

_HEAD: Final = 4_096
# First bytes of files that are not tables, or tables that are not read here.
_OTHERS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"ARROW1", "an Arrow (Feather) file"),
    (b"FEA1", "a Feather file"),
    (b"ORC", "an ORC file"),
    (b"Obj\x01", "an Avro file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"%PDF", "a PDF document"),
    (b"{\\rtf", "an RTF document"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"PK\x03\x04", "a ZIP archive in a compressed file"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"RIFF", "a RIFF (audio or image) file"),
    (b"ID3", "an MP3 file"),
    (b"OggS", "an Ogg file"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
)
_LAKES: Final = {"_delta_log": "Delta Lake", ".hoodie": "Apache Hudi", "metadata": "Apache Iceberg"}
_NULL_PARTITION: Final = "__HIVE_DEFAULT_PARTITION__"


@contextmanager
def open_table(path: Path, *, footers_only: bool = False) -> Iterator[Table]:
    """Open a table: a file in any supported format, or a folder of parts.

    Args:
        footers_only: copy only the footers of Parquet files in a bucket: the table's columns are known, but not its
            rows. Tables on disk are not affected.

    Raises:
        DataError: it is missing, empty, damaged, or in another format.
    """
    with ExitStack() as stack:
        source = stack.enter_context(located(path, footers_only=footers_only))
        try:
            yield replace(_opened(path, source, stack), origins=source.urls)
        except FileNotFoundError as error:
            raise DataError(
                f"{error.filename or path}: was deleted while {path} was being read; make sure that no other process "
                f"writes to it, and read it again"
            ) from error


def _opened(path: Path, source: Source, stack: ExitStack) -> Table:
    base = source.base
    if source.files is not None:
        return replace(_of_parts(base, [each for each in source.files if _is_part(each, base)], stack), path=path)
    if base.is_dir():
        return _folder(base, stack)
    if base.is_file():
        return replace(_file(base, stack), path=path)
    if base.exists():
        raise DataError(f"{base}: is a pipe or device: expected {EXPECTED}, as a file; write it to disk first")
    raise DataError(f"{base}: no such file; expected {EXPECTED}")


def _file(path: Path, stack: ExitStack) -> Table:
    try:
        content = content_of(path)
        head = content.head(_HEAD)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    is_parquet_name = content.name.lower().endswith((".parquet", ".pq"))
    if head.startswith((b"PAR1", b"PARE")) or (is_parquet_name and not head):
        return parquet_table(content.path, _saved(content, stack))
    if head.startswith(b"\xd0\xcf\x11\xe0") or (head.startswith(b"PK\x03\x04") and not content.is_packed):
        return workbook_table(path)
    if is_workbook_name(content.name) and head.startswith(b"PK\x03\x04"):
        return workbook_table(_saved(content, stack), path)
    for magic, what in _OTHERS:
        if head.startswith(magic):
            raise DataError(f"{path}: is {what}: expected {EXPECTED}; write the table as Parquet or CSV")
    if head[257:262] == b"ustar":
        raise DataError(f"{path}: is a tar archive: expected {EXPECTED}; unpack it and name the file")
    return _text(content, head)


def _saved(content: Content, stack: ExitStack) -> Path:
    """Return a file with the unpacked bytes; a temporary one is removed when the stack closes."""
    if not content.is_packed:
        return content.path
    return content.save(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tritone-table-"))))


def _text(content: Content, head: bytes) -> Table:
    path = content.path
    encoding = encoding_of(head)
    start = decoded(head, encoding).lstrip("\ufeff \t\r\n").lower()
    if not start:
        raise DataError(f"{path}: is empty; expected a header line and at least one row")
    if start.startswith(("<!doctype html", "<html", "<head", "<body")):
        raise DataError(
            f"{path}: is a web page (HTML): expected {EXPECTED}; the download failed or needs a login: fetch it again"
        )
    if start.startswith("<?xml") or (start.startswith("<") and content.name.lower().endswith(".xml")):
        raise DataError(f"{path}: is an XML document: expected {EXPECTED}; write the table as CSV or Parquet")
    if start.startswith("version https://git-lfs"):
        raise DataError(f"{path}: is a pointer of Git LFS, not the table itself; run: git lfs pull")
    if re.match(r"(\[\s*)?\{|\[\s*[\[\]]", start) or content.name.lower().endswith((".json", ".jsonl", ".ndjson")):
        return json_table(content, encoding)
    return text_table(content, encoding)


def _folder(path: Path, stack: ExitStack) -> Table:
    """Open all parts of a folder as one table; folders called `column=value` (Hive) become columns."""
    for name, lake in _LAKES.items():
        if (path / name).is_dir() and (name != "metadata" or any((path / name).glob("*.metadata.json"))):
            raise DataError(
                f"{path}: is a table of {lake}, whose folder also holds files that are no longer part of it: expected "
                f"{EXPECTED}; export its current rows as Parquet"
            )
    return _of_parts(path, [file for file in sorted(path.rglob("*")) if _is_part(file, path)], stack)


def _is_part(file: Path, base: Path) -> bool:
    """Return whether a file is part of a table: it is not empty, and neither a checksum nor hidden."""
    return (
        file.is_file()
        and file.stat().st_size > 0
        and file.suffix != ".crc"
        and not any(part.startswith(("_", ".")) and "=" not in part for part in file.relative_to(base).parts)
    )


def _of_parts(path: Path, files: Sequence[Path], stack: ExitStack) -> Table:
    """Open files as one table.

    Args:
        path: the folder that they are in.
    """
    if not files:
        raise DataError(f"{path}: is a folder without parts of a table; expected {EXPECTED}, or a folder of such files")
    parts = [_file(file, stack) for file in files]
    formats = sorted({part.format for part in parts})
    if len(formats) > 1:
        one, other = (next(part.path for part in parts if part.format == each) for each in formats[:2])
        raise DataError(f"{path}: holds files of several kinds ({one.name}, {other.name}): expected parts of one table")
    keys = [_partition_keys(file.relative_to(path).parts[:-1]) for file in files]
    return _joined(path, parts, keys)


def _partition_keys(folders: Sequence[str]) -> dict[str, str | None]:
    pairs = (each.partition("=") for each in folders if "=" in each)
    return {name: None if value == _NULL_PARTITION else urllib.parse.unquote(value) for name, _, value in pairs}


def _joined(path: Path, parts: Sequence[Table], keys: Sequence[dict[str, str | None]]) -> Table:
    # A column that is empty in one part may hold values in another.
    known = {name for part in parts for name in part.names}
    unusable = {
        name: what for part in parts for name, what in part.unusable.items() if what != NOTHING or name not in known
    }
    every = (name for part, key in zip(parts, keys, strict=True) for name in (*part.names, *key))
    names = [name for name in dict.fromkeys(every) if name not in unusable]
    incomplete = {
        name: (part.path.relative_to(path).as_posix(), part.names)
        for part, key in zip(parts, keys, strict=True)
        for name in names
        if name not in part.names and name not in key and part.unusable.get(name) != NOTHING
    }

    def load(wanted: Sequence[str]) -> pd.DataFrame:
        frames = []
        for part, key in zip(parts, keys, strict=True):
            # A partition's value replaces the column: where both exist, they are equal.
            there = [name for name in wanted if name in part.names and name not in key]
            frame = part.read(there or [part.names[0]])
            columns = {
                name: frame[name] if name in there else pd.Series([key.get(name)] * len(frame), dtype=object)
                for name in wanted
            }
            frames.append(pd.DataFrame(columns, dtype=object))
        return pd.concat(frames, ignore_index=True)

    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    return Table(
        path,
        parts[0].format,
        names,
        load,
        unusable=unusable,
        binary=frozenset().union(*(part.binary for part in parts)),
        incomplete=incomplete,
        notes=(f"read {len(parts)} parts of a folder", *notes),
        separator=parts[0].separator,
        first_row=next((part.first_row for part in parts if part.lacks_header), ()),
        parts=list(zip(parts, keys, strict=True)),
    )
