"""List, read and write files by path or URL: local files, S3 (`s3://`) and Google Cloud Storage (`gs://`).

Buckets are reached through fsspec with the packages of the extra `batch`; local files need no package. Credentials come
from the standard environment of each store, never from arguments:

- S3: the chain of the AWS SDKs: `AWS_ACCESS_KEY_ID` and the other variables, profiles (`AWS_PROFILE`), web identity,
  roles of containers and instances. `AWS_ENDPOINT_URL` and `AWS_REGION` are respected.
- Google Cloud Storage: the application default credentials (`GOOGLE_APPLICATION_CREDENTIALS`, `gcloud auth`, metadata
  server).

```python
for found in list_files("s3://bucket/recordings/"):
    with open_file(found.url) as file:
        music.classify(file)
```

All errors are `FileAccessError`, whose `reason` distinguishes a missing file from a missing bucket, and expired
credentials from wrong ones.
"""

from __future__ import annotations

import errno
import glob
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

from tritone import atomic
from tritone.exceptions import FileAccessError
from tritone.extras import require
from tritone.files import PathLike
from tritone.remote_errors import causes, error_code, translated_errors

SCHEMES: Final = ("file", "s3", "gs")
STAGED_SUFFIX: Final = ".partial"  # of a local file that is being written; left behind if the process is killed
_PACKAGES: Final = {"s3": "s3fs", "gs": "gcsfs"}
_WILDCARDS: Final = "*?["
_SPOOL_BYTES: Final = 1 << 24  # of an object are kept in memory, the rest on disk
_CHUNK_BYTES: Final = 1 << 24
_CONNECT_TIMEOUT_S: Final = 10
_READ_TIMEOUT_S: Final = 30
_LOCK: Final = threading.Lock()  # fsspec's cache of file systems may create two of them in two threads


@dataclass(frozen=True)
class FoundFile:
    """A file that was found in a folder or bucket.

    Attributes:
        url: its path, or its URL with the scheme.
        n_bytes: its size; None if it is not known.
    """

    url: str
    n_bytes: int | None = None


def is_remote(url: PathLike) -> bool:
    """Return whether a path or URL refers to a bucket.

    Raises:
        FileAccessError: the scheme is unknown (`invalid_url`).
    """
    return _scheme(os.fspath(url)) != "file"


def local_path(url: PathLike) -> Path:
    """Return the path of a local file that may be given as `file://` URL."""
    return Path(os.fspath(url).removeprefix("file://"))


def filesystem(url: PathLike) -> Any:
    """Return the fsspec file system of a bucket URL, for libraries that take one, such as DuckDB.

    Calls of its methods raise what fsspec raises; wrap them in `translated_errors`.

    Raises:
        MissingExtraError: the package for the store is not installed.
        FileAccessError: the URL is invalid.
    """
    text = os.fspath(url)
    scheme = _scheme(text)
    purpose = f"{text}: files of {scheme}://"
    fsspec = require("fsspec", extra="batch", purpose=purpose)
    if scheme != "file":
        with warnings.catch_warnings():  # Google's packages announce the end of support for versions of Python
            warnings.simplefilter("ignore", FutureWarning)
            require(_PACKAGES[scheme], extra="batch", purpose=purpose)
    options: dict[str, Any] = {}
    if scheme == "s3":
        timeouts = {"connect_timeout": _CONNECT_TIMEOUT_S, "read_timeout": _READ_TIMEOUT_S}
        options = {"use_listings_cache": False, "config_kwargs": {**timeouts, "retries": {"max_attempts": 2}}}
    elif scheme == "gs":
        options = {"use_listings_cache": False}
    with _LOCK, translated_errors(text):
        return fsspec.filesystem(scheme, **options)


def list_files(source: PathLike) -> Iterator[FoundFile]:
    """Yield the files of a folder and its subfolders, of a glob, or of a bucket prefix, or a single file.

    Names that begin with a dot are left out, except where a glob names them. Links to files are followed, links to
    folders are not. The order is always the same. Memory does not grow with the number of files, except in one local
    folder, with a glob, and in Google Cloud Storage.

    Args:
        source: a path or URL; `*`, `?`, `[...]` and `**` are wildcards unless a local file has that very name.

    Raises:
        FileAccessError: the source does not exist, or a folder in it cannot be read.
    """
    text = os.fspath(source)
    if not is_remote(text):
        yield from _local_files(local_path(text))
        return
    scheme, bucket, key = _split(text)
    files = filesystem(text)
    found: Iterator[tuple[str, dict[str, Any]]]
    with translated_errors(text):
        if any(mark in key for mark in _WILDCARDS):
            names = sorted(files.glob(f"{bucket}/{key}", detail=True).items())
            found = ((name, info) for name, info in names if info.get("type") == "file")
        elif scheme == "s3":
            found = _s3_objects(files, bucket, key)
        else:
            found = ((name, info) for name, info in sorted(files.find(f"{bucket}/{key}", detail=True).items()))
        n_found = 0
        for name, info in found:
            if any(part.startswith(".") for part in name.removeprefix(f"{bucket}/{key}").split("/")):
                continue
            n_found += 1
            yield FoundFile(f"{scheme}://{name}", info.get("size"))
    if not n_found:
        raise FileAccessError(f"{text}: no files found; check the bucket and the prefix", url=text, reason="missing")


def open_file(url: PathLike) -> BinaryIO:
    """Open a file for reading; an object of a bucket is copied first, up to 16 MB to memory and more to disk.

    Raises:
        FileAccessError: the file cannot be read.
    """
    text = os.fspath(url)
    if not is_remote(text):
        with translated_errors(text):
            return cast(BinaryIO, local_path(text).open("rb"))
    _, bucket, key = _split(text)
    files = filesystem(text)
    copy = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - the caller closes it
    try:
        with translated_errors(text):
            for chunk in _chunks(files, f"{bucket}/{key}"):
                copy.write(chunk)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return cast(BinaryIO, copy)


def _chunks(files: Any, name: str) -> Iterator[bytes]:
    """Yield the content in chunks of 16 MB.

    Reading without asking for the size first saves a request, and keeps the error code of the store.
    """
    start = 0
    while True:
        try:
            chunk: bytes = files.cat_file(name, start=start, end=start + _CHUNK_BYTES)
        except Exception as error:  # the packages have classes of their own
            if any(error_code(each) in ("416", "InvalidRange") for each in causes(error)):  # no further chunk
                return
            raise
        yield chunk
        start += len(chunk)
        if len(chunk) < _CHUNK_BYTES:
            return


def read_file(url: PathLike) -> bytes:
    """Return the content of a file.

    Raises:
        FileAccessError: the file cannot be read.
    """
    text = os.fspath(url)
    with translated_errors(text):
        if not is_remote(text):
            return local_path(text).read_bytes()
        return b"".join(_chunks(filesystem(text), "/".join(_split(text)[1:])))


def read_range(url: PathLike, start: int, end: int) -> bytes:
    """Return the bytes of a file from `start` to before `end`.

    Raises:
        FileAccessError: the file cannot be read.
    """
    text = os.fspath(url)
    with translated_errors(text):
        if not is_remote(text):
            with local_path(text).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        content: bytes = filesystem(text).cat_file("/".join(_split(text)[1:]), start=start, end=end)
        return content


def write_file(url: PathLike, content: bytes, *, if_exists: Literal["replace", "error"] = "replace") -> None:
    """Write a file in one step: readers see all of it or nothing. Missing local folders are created.

    Args:
        url: a local file is written under a temporary name, to disk, and renamed; an object is sent as a whole.
        content: up to 100 MB are one request to a bucket.
        if_exists: `replace` an existing file, or raise an `error`, also where another process writes it meanwhile.

    Raises:
        FileAccessError: the file cannot be written, or exists (`exists`).
    """
    text = os.fspath(url)
    with translated_errors(text):
        if is_remote(text):
            files, name = filesystem(text), "/".join(_split(text)[1:])
            files.pipe_file(name, content, mode="create" if if_exists == "error" else "overwrite")
            return
        path = local_path(text)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_atomically(path, content, mode=0o644, sync=True, if_exists=if_exists, staged_suffix=STAGED_SUFFIX)


def _scheme(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    if not separator:
        return "file"
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise FileAccessError(
            f"{url}: unknown scheme: expected a path or {known}, got {scheme}://", url=url, reason="invalid_url"
        )
    return scheme


def _split(url: str) -> tuple[str, str, str]:
    """Return the scheme, the bucket and the key of a URL."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise FileAccessError(f"{url}: expected {scheme}://BUCKET/KEY, got no bucket", url=url, reason="invalid_url")
    return scheme, bucket, key


def _s3_objects(files: Any, bucket: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, info) of an object, or of the objects of a folder, from pages of 1,000."""
    is_folder = not key or key.endswith("/")
    token: dict[str, str] = {}
    while True:
        page = files.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, **token)
        for each in page.get("Contents", ()):
            name = each["Key"]
            if name.endswith("/") or not (is_folder or name == key or name.startswith(f"{key}/")):
                continue  # the marker of a folder; a neighbour whose name only begins with the key
            yield f"{bucket}/{name}", {"size": each["Size"]}
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def _local_files(path: Path) -> Iterator[FoundFile]:
    text = str(path)
    with translated_errors(text):
        if path.is_dir():
            yield from _files_below(text)
            return
        if path.exists() or path.is_symlink():
            yield _found(text)
            return
        if not any(mark in text for mark in _WILDCARDS):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
        n_found = 0
        for name in sorted(glob.iglob(text, recursive=True)):  # noqa: PTH207 - the pattern may be absolute
            if not Path(name).is_dir():
                n_found += 1
                yield _found(name)
    if not n_found:
        raise FileAccessError(f"{text}: no files match; check the pattern", url=text, reason="missing")


def _files_below(folder: str) -> Iterator[FoundFile]:
    with translated_errors(folder), os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(entry.path)
        elif entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)):  # noqa: PTH110 - not a Path
            yield _found(entry.path)


def _found(path: str) -> FoundFile:
    try:
        return FoundFile(path, Path(path).stat().st_size)
    except OSError:  # vanished, or a link to nothing: reading it will tell
        return FoundFile(path)
