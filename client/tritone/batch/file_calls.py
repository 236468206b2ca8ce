"""The call for one file: open it, check its length, and call the operation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tritone.batch.operations import FileCall, Opened, Operation, Row
from tritone.exceptions import ClientError, InvalidAudioError
from tritone.remote_files import is_remote, local_path, open_file

if TYPE_CHECKING:
    from tritone.client import MusicClient

_HEALTH_TIMEOUT_S: Final = 10.0
_LONGEST_CLAIM_S: Final = 1e9  # libsndfile reports such lengths where the header has none


@dataclass(frozen=True, kw_only=True)
class FileCaller:
    """Calls an operation for single files; thread-safe.

    Attributes:
        operation: the operation.
        model: name of the model.
        timeout_s: time limit of a call.
        arguments: further arguments of the call.
        max_duration_s: maximum length of a recording; None for no limit.
    """

    operation: Operation
    model: str
    timeout_s: float
    arguments: Mapping[str, Any] = field(default_factory=dict)
    max_duration_s: float | None = None

    def server_responds(self, music: MusicClient) -> bool:
        """Return whether the model is ready, which tells a file that times out from a server that does."""
        try:
            return music.model_ready(self.model, timeout_s=min(_HEALTH_TIMEOUT_S, self.timeout_s))
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
            opened: Opened = source
            if isinstance(source, str):
                opened = files.enter_context(open_file(source)) if is_remote(source) else str(local_path(source))
                if not isinstance(opened, str):
                    on_read()
            try:
                if self.operation.reads == "recordings" and self.max_duration_s is not None:
                    _check_duration(path, opened, self.max_duration_s)
                return self.operation.call(music, FileCall(path, opened, self.model, self.arguments, self.timeout_s))
            except InvalidAudioError as error:
                raise _without_copy_name(error, path) from error


def _check_duration(path: str, opened: Opened, most_s: float) -> None:
    """Check the length in the header of a recording; decoding reports what is wrong with other recordings.

    Raises:
        InvalidAudioError: it is too long.
    """
    import soundfile

    try:
        info: Any = soundfile.info(opened)
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError, ValueError):
        return
    finally:
        if not isinstance(opened, str):
            opened.seek(os.SEEK_SET)
    duration_s = info.frames / info.samplerate if info.samplerate else 0.0
    if most_s < duration_s < _LONGEST_CLAIM_S:
        raise InvalidAudioError(
            f"{path}: is too long: expected at most {most_s:.0f} s, got {duration_s:.0f} s; split it, or raise "
            f"the limit (--max-duration)",
            path=path,
            reason="too_long",
        )


def _without_copy_name(error: InvalidAudioError, path: str) -> InvalidAudioError:
    """Return the error with the URL of an object instead of the name of its local copy."""
    if str(error).startswith(path):
        return error
    return InvalidAudioError(f"{path}: {str(error).partition(': ')[2]}", path=path, reason=error.reason)
