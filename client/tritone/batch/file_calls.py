"""The calls for one file or a group of files: open them, and call the operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tritone.batch.operations import CallInputs, Opened, Operation, Row
from tritone.exceptions import (
    ClientError,
    FileAccessError,
    InvalidAudioError,
    InvalidScoreError,
    RequestTimeoutError,
)
from tritone.remote_files import bucket_of, is_remote, local_path, open_file, read_range

if TYPE_CHECKING:
    from tritone.client import MusicClient

Unusable: TypeAlias = InvalidAudioError | InvalidScoreError

HEALTH_TIMEOUT_S: Final = 10.0


class ReadableObjects:
    """The object of each bucket that was read last, which shows later whether the bucket can be read; thread-safe."""

    def __init__(self) -> None:
        self._urls: dict[str, str] = {}  # by bucket

    def add(self, url: str) -> None:
        """Record that an object was read."""
        self._urls[bucket_of(url)] = url

    def is_readable(self, bucket: str) -> bool:
        """Return whether an object of a bucket, which was read before, can be read now."""
        url = self._urls.get(bucket)
        if url is None:
            return False
        try:
            read_range(url, 0, 1)
        except FileAccessError:
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class FileCaller:
    """Calls an operation for files; thread-safe.

    Attributes:
        operation: the operation.
        model: name of the model.
        timeout_s: time limit of a call.
        arguments: further arguments of the call.
        max_duration_s: maximum length of a recording; None for no limit.
        objects: the objects that were read.
    """

    operation: Operation
    model: str
    timeout_s: float
    arguments: Mapping[str, Any] = field(default_factory=dict)
    max_duration_s: float | None = None
    objects: ReadableObjects = field(default_factory=ReadableObjects)

    def may_be_due_to_file(self, music: MusicClient, error: ClientError) -> bool:
        """Return whether the cause of repeated errors may be the file, and not the server or the store.

        After a timeout, the server must respond; after an error of the store, another object of the same bucket must be
        readable.
        """
        if isinstance(error, RequestTimeoutError):
            return self._server_responds(music)
        if isinstance(error, FileAccessError) and error.retryable:
            return is_remote(error.url) and self.objects.is_readable(bucket_of(error.url))
        return True

    def _server_responds(self, music: MusicClient) -> bool:
        """Return whether the model is ready."""
        try:
            return music.model_ready(self.model, timeout_s=min(HEALTH_TIMEOUT_S, self.timeout_s))
        except ClientError:
            return False

    def call(self, music: MusicClient, path: str, source: Opened, *, on_read: Callable[[], None] = lambda: None) -> Row:
        """Return the values of the operation's columns.

        Args:
            path: name of the file in errors, which also determines the seed.
            source: path or URL of the file, or its content.
            on_read: called after the content of an object was read.

        Raises:
            ClientError: the file cannot be read, or the call failed.
        """
        with ExitStack() as files:
            try:
                return self.operation.call(music, self._inputs(files, path, source, on_read))
            except (InvalidAudioError, InvalidScoreError) as error:
                raise _without_copy_name(error, path) from error

    def call_group(
        self, music: MusicClient, files: Sequence[tuple[str, str]], *, on_read: Callable[[], None] = lambda: None
    ) -> list[Row | ClientError]:
        """Return the values of the operation's columns for several files, called with shared requests.

        Args:
            files: path as for `call`, and path or URL, of each file.
            on_read: as for `call`.

        Returns:
            for each file its values, or the error if it cannot be read or used.

        Raises:
            ClientError: the call failed. One of the files may be the cause.
            TypeError: the operation takes single files only.
        """
        if self.operation.call_group is None:
            raise TypeError(f"operation {self.operation.name!r} takes single files only")
        with ExitStack() as opened:
            calls = [self._inputs_or_error(opened, path, url, on_read) for path, url in files]
            usable = [call for call in calls if isinstance(call, CallInputs)]
            results = iter(self.operation.call_group(music, usable) if usable else ())
        outcomes: list[Row | ClientError] = []
        for call in calls:
            outcome = next(results) if isinstance(call, CallInputs) else call
            if isinstance(call, CallInputs) and isinstance(outcome, InvalidAudioError):
                outcome = _without_copy_name(outcome, call.path)
            outcomes.append(outcome)
        return outcomes

    def _inputs_or_error(
        self, files: ExitStack, path: str, url: str, on_read: Callable[[], None]
    ) -> CallInputs | ClientError:
        try:
            return self._inputs(files, path, url, on_read)
        except ClientError as error:
            return error

    def _inputs(self, files: ExitStack, path: str, source: Opened, on_read: Callable[[], None]) -> CallInputs:
        """Return the call for a file, which `files` closes."""
        opened: Opened = source
        if isinstance(source, str):
            opened = files.enter_context(open_file(source)) if is_remote(source) else str(local_path(source))
            if not isinstance(opened, str):
                self.objects.add(source)
                on_read()
        max_duration_s = self.max_duration_s if self.operation.reads == "recordings" else None
        return CallInputs(path, opened, self.model, self.arguments, self.timeout_s, max_duration_s)


def _without_copy_name(error: Unusable, path: str) -> Unusable:
    """Return the error with the URL of an object instead of the name of its local copy."""
    if str(error).startswith(path):
        return error
    return type(error)(f"{path}: {str(error).removeprefix(f'{error.path}: ')}", path=path, reason=error.reason)
