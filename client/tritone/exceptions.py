"""What can go wrong, as types.

```
TritoneError                      everything that Tritone raises on purpose (all packages)
└── ClientError                   everything that the SDK raises
    ├── InvalidInputError         what was passed in cannot be used
    │   ├── InvalidAudioError     ... as a recording: not audio, empty, silent, too short, non-finite
    │   └── InvalidScoreError     ... as a score: not MIDI, cut off, without notes, too long
    ├── ConnectionFailedError     the server cannot be reached, or went away during the call
    ├── RequestTimeoutError       no answer within `timeout_s`
    ├── ProcessBoundError         the client belongs to another process: create one in each process
    ├── MissingExtraError         a feature needs packages that an extra installs
    └── ServerError               the server answered with an error, or with nonsense
        ├── ModelNotFoundError    no such model, or none of its versions is ready
        ├── RequestRejectedError  the server says that the request is not valid
        │   └── NothingKnownError a recommender knows nothing of what it was asked about
        ├── ServerBusyError       the server's queue was full, the wait in it too long, or a part of it is dead
        └── AccessDeniedError     the API key or header is missing or wrong
```
"""

from __future__ import annotations

from typing import Any


class TritoneError(Exception):
    """Root of every error that Tritone raises on purpose; its text is meant for people."""


class ClientError(TritoneError):
    """Root of the SDK's errors.

    Attributes:
        model: name of the model that was asked, if the call had got that far.
        status: the transport's status (gRPC code name or HTTP number), if there was one.
        request_id: the id the request carried; the server's log has the same.
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
        n_lost: int = 0,
    ) -> None:
        super().__init__(message)
        self.model = model
        self.status = status
        self.request_id = request_id
        self.n_lost = n_lost

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own way calls __init__ with the message alone and so loses, or misses, the keywords;
        # worker processes send errors home by pickling them.
        return _rebuilt, (type(self), self.args, self.__dict__)


class InvalidInputError(ClientError, ValueError):
    """Raised when an argument is invalid.

    Attributes:
        argument: name of the argument, if the error is about a single one.
    """

    def __init__(
        self, message: str, *, argument: str | None = None, model: str | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message, model=model, request_id=request_id)
        self.argument = argument


class InvalidAudioError(InvalidInputError):
    """The recording cannot be used.

    Attributes:
        path: the recording's path or a word for where it came from.
        reason: `missing`, `unreadable`, `empty`, `too_short`, `silent`, `non_finite`, `out_of_range` or
            `bad_shape`.
    """

    def __init__(self, message: str, *, path: str, reason: str) -> None:
        super().__init__(message)
        self.path = path
        self.reason = reason


class InvalidScoreError(InvalidInputError):
    """The score cannot be used.

    Attributes:
        path: the score's path or a word for where it came from.
        reason: `missing`, `unreadable`, `not_midi`, `truncated`, `empty`, `too_long` or `bad_shape`.
    """

    def __init__(self, message: str, *, path: str, reason: str) -> None:
        super().__init__(message)
        self.path = path
        self.reason = reason


class ConnectionFailedError(ClientError, ConnectionError):
    """The server cannot be reached, or went away during the call."""


class RequestTimeoutError(ClientError, TimeoutError):
    """No answer came within the timeout."""


class ProcessBoundError(ClientError):
    """The client or its connection belongs to another process; create a client in each process."""


class NotCopiedError(ProcessBoundError, TypeError):
    """The object cannot be pickled or copied; a `TypeError`, as `pickle` raises for other objects of this sort."""


class MissingExtraError(ClientError, ImportError):
    """A feature needs packages that an extra installs; the message has the command."""


class ServerError(ClientError):
    """The server answered with an error, or with something that is not an answer."""


class ModelNotFoundError(ServerError):
    """No such model on this server, or none of its versions is ready."""


class VersionChangedError(ServerError):
    """The model is there, but not in the version that the call went by: it must begin again with another one.

    Callers meet it only where versions kept changing for all of the call's time.
    """


class RequestRejectedError(ServerError):
    """The server says that the request is not valid: wrong name, type or shape."""


class NothingKnownError(RequestRejectedError):
    """A recommender knows none of the ids that it was asked about, or not in the way that was asked for."""


class ServerBusyError(ServerError):
    """The server's queue was full, the request waited in it for too long, or the model's process is dead."""


class AccessDeniedError(ServerError):
    """The API key or header that the server wants is missing or wrong."""


def _rebuilt(kind: type[ClientError], args: tuple[Any, ...], fields: dict[str, Any]) -> ClientError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error
