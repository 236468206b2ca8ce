"""The exceptions that Tritone raises on purpose.

```
TritoneError                        root, for all packages
├── ClientError                     root for the client
│   ├── InvalidInputError           an argument is invalid (also a ValueError)
│   │   ├── InvalidModelNameError   the name of a model is not safe as a folder or in a URL
│   │   ├── InvalidAudioError       a recording cannot be used: unreadable, empty, silent, too short
│   │   └── InvalidScoreError       a score cannot be used: not MIDI, truncated, without notes, too long
│   ├── ConnectionFailedError       the server cannot be reached or ended (also a ConnectionError)
│   ├── RequestTimeoutError         no response within `timeout_s` (also a TimeoutError)
│   ├── BatchError                  a batch job cannot start, or stopped before its end
│   ├── FileAccessError             a file or an object of a bucket cannot be listed, read or written
│   ├── ProcessBoundError           the client belongs to another process; create one in each process
│   │   └── NotCopiedError          the object cannot be pickled or copied (also a TypeError)
│   ├── MissingExtraError           a feature needs packages that an extra installs (also an ImportError)
│   └── ServerError                 the server responded with an error, or with an invalid response
│       ├── ModelNotFoundError      no such model, or none of its versions is ready
│       ├── VersionChangedError     model versions kept changing during the call
│       ├── RequestRejectedError    the server rejected the request as invalid
│       │   └── NothingKnownError   a recommender knows none of the ids of the request
│       ├── ServerBusyError         the queue of the server is full, or the process of a model ended
│       └── AccessDeniedError       the API key or header is missing or wrong
├── TrainingError                   root for training, in `tritone_training.exceptions`
├── ExportError                     root for exporting
└── ServingError                    root for serving
```

All of them can be pickled with their attributes. Messages of more than 4,000 characters are shortened in the middle.
"""

from __future__ import annotations

from typing import Any, Final

_MAX_MESSAGE: Final = 4_000  # characters; an argument of any length may be quoted


class TritoneError(Exception):
    """The base of all exceptions that Tritone raises on purpose."""

    def __init__(self, message: object = "") -> None:
        text, half = str(message), _MAX_MESSAGE // 2
        super().__init__(text if len(text) <= _MAX_MESSAGE else f"{text[:half]} [...] {text[-half:]}")

    def __reduce__(self) -> tuple[Any, ...]:
        # The method of Exception passes only the message to __init__, which may have required attributes.
        return _rebuilt, (type(self), self.args, self.__dict__)


class ClientError(TritoneError):
    """The base of the client's exceptions.

    Attributes:
        model: name of the model, if the error is about a request to one.
        status: status of the response: the name of a gRPC code, or an HTTP number; None without a response.
        request_id: id of the request, as in the server's log; None if nothing was sent.
        reason: a fixed word for the cause, where a class covers several; None elsewhere. Classes list their own. Of
            this class: `closed` (the client is closed), `other_event_loop` (an `AsyncMusicClient` was used in two) and
            `nothing_received` (a stream has no result yet).
        n_lost: how often the connection was lost after the request was sent completely and before the response. The
            request may be the cause, so it is repeated at most once, regardless of `retries` and the number of servers.
    """

    def __init__(
        self,
        message: str,
        *,
        model: str | None = None,
        status: str | None = None,
        request_id: str | None = None,
        reason: str | None = None,
        n_lost: int = 0,
    ) -> None:
        super().__init__(message)
        self.model = model
        self.status = status
        self.request_id = request_id
        self.reason = reason
        self.n_lost = n_lost


class InvalidInputError(ClientError, ValueError):
    """Raised when an argument is invalid.

    Attributes:
        argument: name of the argument, if the error is about a single one.
        reason: of an argument that can be invalid in several ways: `too_long` (a score or its new bars exceed the
            model), `too_many_notes` (at once) or `conflict` (with another argument); of a file to write: `no_folder`,
            `is_folder`, `bad_name`, `text_file` or `not_writable`; of a TLS file: `missing` or `not_pem`.
    """

    def __init__(
        self,
        message: str,
        *,
        argument: str | None = None,
        reason: str | None = None,
        model: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, model=model, request_id=request_id, reason=reason)
        self.argument = argument


class InvalidModelNameError(InvalidInputError):
    """Raised when the name of a model is not safe as a folder, in a URL, in a log or as the label of a metric."""


class InvalidAudioError(InvalidInputError):
    """Raised when a recording cannot be used.

    Attributes:
        path: path of the recording, or a description such as `samples`.
        reason: `missing`, `unreadable`, `empty`, `too_short`, `too_long`, `silent`, `non_finite`,
            `out_of_range` or `bad_shape`.
    """

    reason: str

    def __init__(self, message: str, *, path: str, reason: str) -> None:
        super().__init__(message, reason=reason)
        self.path = path


class InvalidScoreError(InvalidInputError):
    """Raised when a score cannot be used.

    Attributes:
        path: path of the score, or a description of its source.
        reason: `missing`, `unreadable`, `not_midi`, `truncated`, `empty`, `too_long` or `bad_shape`.
        argument: name of the argument of `Grid` that is invalid, if it is a single one.
    """

    reason: str

    def __init__(self, message: str, *, path: str, reason: str, argument: str | None = None) -> None:
        super().__init__(message, reason=reason, argument=argument)
        self.path = path


class ConnectionFailedError(ClientError, ConnectionError):
    """Raised when the server cannot be reached, or ended during the call.

    Attributes:
        endpoint: address of the server; the addresses, separated by commas, if none of several can be reached.
        reason: `unreachable` (refused, unknown host, no route), `lost` (during the call), `wrong_protocol`, `tls`, or
            `no_response` (to a health check).
    """

    def __init__(self, message: str, *, endpoint: str | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.endpoint = endpoint


class RequestTimeoutError(ClientError, TimeoutError):
    """Raised when there was no response within the time limit.

    Attributes:
        timeout_s: the time limit in seconds.
    """

    def __init__(self, message: str, *, timeout_s: float | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.timeout_s = timeout_s


class FileAccessError(ClientError):
    """Raised when a local file or an object of a bucket cannot be listed, read or written; see `tritone.remote_files`.

    Attributes:
        url: path or URL of the file.
        reason: `missing`, `access_denied` (to this file), `unreadable` (an error of the disk), `no_bucket`,
            `no_credentials` (none were found), `wrong_credentials`, `expired_credentials`, `unreachable` (no connection
            to the store), `busy` (the store asks for fewer requests, or has an internal error), `exists` (a file that
            must not be replaced), `no_space`, `is_folder`, `invalid_url`, or `other`.
        retryable: whether the same call may succeed later: the store could not be reached or was busy, or the
            credentials have expired and may be renewed.
    """

    reason: str

    def __init__(self, message: str, *, url: str, reason: str) -> None:
        super().__init__(message, reason=reason)
        self.url = url

    @property
    def retryable(self) -> bool:
        return self.reason in ("expired_credentials", "unreachable", "busy")


class BatchError(ClientError):
    """Raised when a batch job cannot start, or stopped before its end; what it has written stays valid.

    Attributes:
        reason: `not_resumed` (the output has parts of an earlier job), `other_job` (those parts are of another source,
            operation, shard or setting), `running` (another process writes the same output), `damaged` (a part or the
            manifest cannot be read), `ambiguous_paths` (two files have the same path as text), `storage` (the source
            or the output failed), `arguments` (an argument is invalid or the model does something else, so that no
            file can succeed) or `server` (no successful request within `outage_timeout_s`).
    """


class ProcessBoundError(ClientError):
    """Raised when a client is used outside its process; create a client in each process.

    Attributes:
        reason: `forked` (after a fork during gRPC calls), or of a `NotCopiedError`: `closed`, `secrets` (which must
            not be in pickles) or `stream`.
    """


class NotCopiedError(ProcessBoundError, TypeError):
    """Raised when an object cannot be pickled or copied; a `TypeError`, as `pickle` raises for other objects."""


class MissingExtraError(ClientError, ImportError):
    """Raised when a feature needs packages that an extra installs; the message contains the command."""


class ServerError(ClientError):
    """Raised when the server responded with an error, or with an invalid response.

    Attributes:
        reason: what is invalid in a response: `malformed` (not in the format of the protocol), `missing_output`,
            `invalid_output` (shape or values), `unsuitable_model` (the model does something else) or
            `incomplete_stream`. None for an error of the server.
        output: name of the output that is missing or invalid.
    """

    def __init__(self, message: str, *, output: str | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.output = output


class ModelNotFoundError(ServerError):
    """Raised when the server has no such model, or none of its versions is ready."""


class VersionChangedError(ServerError):
    """Raised when the server has the model, but not the requested version of it.

    The clients start the call again with the new version; callers see the error only if versions kept changing until
    the time of the call was used up.
    """


class RequestRejectedError(ServerError):
    """Raised when the server rejected the request as invalid: wrong name, type or shape of a tensor."""


class NothingKnownError(RequestRejectedError):
    """Raised when a recommender knows none of the ids of the request, or cannot use them as requested."""


class ServerBusyError(ServerError):
    """Raised when the server's queue is full, the wait in it was too long, or the model's process ended."""


class AccessDeniedError(ServerError):
    """Raised when the API key or header that the server requires is missing or wrong."""


def _rebuilt(kind: type[TritoneError], args: tuple[Any, ...], fields: dict[str, Any]) -> TritoneError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error
