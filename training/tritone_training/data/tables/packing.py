"""Compressed files and archives, unpacked within a bound on their size."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, cast

import zstandard

from tritone_training.exceptions import DataError

MAX_UNPACKED_BYTES: Final = 64 << 30
MAX_UNPACKED_RATIO: Final = 200  # times the packed size; logs compress 3 to 50 times
ALWAYS_UNPACKED_BYTES: Final = 64 << 20  # allowed at any ratio
_CHUNK: Final = 1 << 20
_ZSTANDARD_CHUNK: Final = 1 << 10  # four bytes may unpack to 128 KiB, and a whole unpacked chunk is kept in memory


def _zstandard(file: BinaryIO) -> Any:
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    return decompressor.stream_reader(file, read_across_frames=True, closefd=False)


def _lzma_alone(file: BinaryIO) -> Any:
    return lzma.LZMAFile(file, format=lzma.FORMAT_ALONE)


# By first bytes, because downloads may have lost their suffix.
_COMPRESSED: Final[tuple[tuple[bytes, Callable[[BinaryIO], Any]], ...]] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
    (b"]\x00\x00", _lzma_alone),
    (b"\x28\xb5\x2f\xfd", _zstandard),
)
UNPACKING_ERRORS: Final = (
    OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, zipfile.BadZipFile, NotImplementedError,
    RuntimeError,
)  # fmt: skip


@dataclass(frozen=True)
class Content:
    """The bytes of a table.

    Attributes:
        path: the file on disk, for messages.
        name: file name of the table, within an archive if it is in one.
        open: returns a stream of the unpacked bytes, which the caller closes.
        is_packed: whether the bytes on disk are compressed.
    """

    path: Path
    name: str
    open: Callable[[], BinaryIO]
    is_packed: bool = False

    def head(self, n_bytes: int) -> bytes:
        """Return the first bytes."""
        with self.open() as file:
            return file.read(n_bytes)

    def save(self, folder: Path) -> Path:
        """Return a file with the unpacked bytes: the one on disk, or a copy in a folder."""
        if not self.is_packed:
            return self.path
        copy = folder / "table"
        with self.open() as file, copy.open("wb") as target:
            shutil.copyfileobj(file, target, _CHUNK)
        return copy


def content_of(path: Path) -> Content:
    """Return the bytes of a table, unpacked if they are compressed or the only member of a ZIP archive.

    Raises:
        DataError: the file is damaged, unpacks to too much, or is an archive of several files.
    """
    with path.open("rb") as file:
        start = file.read(6)
    try:
        if start.startswith(b"PK\x03\x04"):
            return _of_zip(path)
        unpack = next((unpack for magic, unpack in _COMPRESSED if start.startswith(magic)), None)
        if unpack is None:
            return Content(path, path.name, lambda: path.open("rb"))
        name = path.stem if path.suffix.lower() in (".gz", ".bz2", ".xz", ".zst", ".lzma") else path.name
        content = Content(path, name, lambda: _Owning(unpack, path), is_packed=True)
        if unpack is _zstandard:
            _check_zstandard(path)
        else:
            _check_size(path, content.open, path.stat().st_size)
    except UNPACKING_ERRORS as error:
        raise DataError(f"{path}: is not a table that can be read ({error}); it is damaged or cut off") from error
    return content


class _Owning(io.BufferedReader):
    """A decompressing stream that closes its file too."""

    def __init__(self, unpack: Callable[[BinaryIO], Any], path: Path) -> None:
        self._file = path.open("rb")
        super().__init__(unpack(self._file), _CHUNK)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._file.close()


def _of_zip(path: Path) -> Content:
    """Return the only table of an archive, or a workbook, which is an archive too, unchanged."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [each for each in archive.infolist() if not each.is_dir()]
    except zipfile.BadZipFile as error:
        raise DataError(
            f"{path}: is a damaged {'Excel workbook' if is_workbook_name(path.name) else 'ZIP archive'} ({error}); "
            f"write it again, or save the table as CSV"
        ) from error
    if _is_workbook({each.filename for each in members}):
        _check_members(path, members)
        return Content(path, path.name, lambda: path.open("rb"))
    tables = [each for each in members if not _is_hidden(each.filename)]
    if len(tables) != 1:
        some = ", ".join(repr(each.filename) for each in tables[:5]) + " ..." * (len(tables) > 5)
        raise DataError(
            f"{path}: is a ZIP archive of {len(tables)} files ({some}): expected one table; unpack it and name the file"
        )
    member = tables[0]
    if member.flag_bits & 1:
        raise DataError(f"{path}: is a ZIP archive with a password; unpack it")
    content = Content(path, PurePosixPath(member.filename).name, lambda: _member(path, member.filename), is_packed=True)
    _check_size(path, content.open, member.compress_size)
    return content


def _member(path: Path, name: str) -> BinaryIO:
    archive = zipfile.ZipFile(path)
    file = archive.open(name)
    archive.close()  # the member keeps the file open
    return cast("BinaryIO", file)


def is_workbook_name(name: str) -> bool:
    """Return whether a file name is that of a spreadsheet."""
    return name.lower().endswith((".xlsx", ".xlsm", ".xlsb", ".ods", ".xls"))


def _is_workbook(names: set[str]) -> bool:
    return any(name.startswith("xl/workbook") for name in names) or {"mimetype", "content.xml"} <= names


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return parts[0] == "__MACOSX" or any(part.startswith((".", "_")) for part in parts)


def _check_size(path: Path, open_stream: Callable[[], BinaryIO], n_packed: int) -> None:
    """Unpack once without keeping the result, so that a decompression bomb is refused before it fills the memory.

    Raises:
        DataError: the unpacked size is above the limit.
    """
    most = _most_bytes(n_packed)
    n_bytes = 0
    with open_stream() as file:
        while chunk := file.read(_CHUNK):
            n_bytes += len(chunk)
            if n_bytes > most:
                raise _too_large(path, most)


def _check_zstandard(path: Path) -> None:
    """Check the unpacked size, and that the last frame is complete, which the stream reader does not check.

    Raises:
        DataError: the unpacked size is above the limit.
        EOFError: the file is cut off.
    """
    most = _most_bytes(path.stat().st_size)
    n_bytes, frame = 0, None
    with path.open("rb") as file:
        while chunk := file.read(_ZSTANDARD_CHUNK):
            while chunk:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
                n_bytes += len(frame.decompress(chunk))
                if n_bytes > most:
                    raise _too_large(path, most)
                chunk = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame is incomplete")


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Check the real unpacked size of a workbook's members; the sizes in the archive's directory may be false.

    Raises:
        DataError: the unpacked size is above the limit.
    """
    most = _most_bytes(path.stat().st_size)
    n_bytes = 0
    with path.open("rb") as file:
        for member in members:
            file.seek(member.header_offset)
            header = file.read(30)
            file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), io.SEEK_CUR)
            unpacker = zlib.decompressobj(-15) if member.compress_type == zipfile.ZIP_DEFLATED else None
            left = member.compress_size
            while left > 0 and (chunk := file.read(min(left, _CHUNK // 16))):
                left -= len(chunk)
                while chunk:
                    n_bytes += len(unpacker.decompress(chunk, _CHUNK)) if unpacker else len(chunk)
                    chunk = unpacker.unconsumed_tail if unpacker else b""
                    if n_bytes > most:
                        raise _too_large(path, most)


def _most_bytes(n_packed: int) -> int:
    return min(max(ALWAYS_UNPACKED_BYTES, MAX_UNPACKED_RATIO * n_packed), MAX_UNPACKED_BYTES)


def _too_large(path: Path, most: int) -> DataError:
    return DataError(
        f"{path}: unpacks to too much: expected at most {most:,} bytes ({MAX_UNPACKED_RATIO} times its size, or "
        f"{ALWAYS_UNPACKED_BYTES:,}); unpack it yourself if you trust it"
    )
