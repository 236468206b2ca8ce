"""Calls of the SDK from the workers of a job on Ray or Spark: one row in, one row out.

A `BulkCall` says what a job calls, and can be pickled; a `BulkCaller` has the client, and is made on a worker. What is
wrong with one recording becomes the columns `error` and `error_type` of its row. What is wrong with the server is not
the fault of a row: a caller waits for a server that is away, and after `wait_s` raises, which fails the task.
"""

from __future__ import annotations

import inspect
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from tritone.arguments import check_count
from tritone.client import MusicClient
from tritone.endpoints import DEFAULT_URL, make_endpoints
from tritone.exceptions import (
    AccessDeniedError,
    ClientError,
    ConnectionFailedError,
    FileAccessError,
    InvalidInputError,
    MissingExtraError,
    ModelNotFoundError,
    ProcessBoundError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    VersionChangedError,
)
from tritone.operations.many import MAX_CONCURRENCY, map_ordered
from tritone.remote_files import is_remote, open_file
from tritone.results.classification import Classification
from tritone.results.json_result import JsonResult
from tritone.retry import MAX_LOST

Row: TypeAlias = dict[str, Any]
Server: TypeAlias = str | Sequence[str] | Callable[[], str | Sequence[str]]

# The types of columns, which Arrow and Spark name differently.
TEXT: Final = "text"
NUMBER: Final = "number"
VECTOR: Final = "vector"  # float32
NUMBER_BY_NAME: Final = "number by name"

ERROR_COLUMNS: Final = {"error": TEXT, "error_type": TEXT}
RESULT_COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "classify": {
        "label": TEXT,
        "probabilities": NUMBER_BY_NAME,
        "emotions": NUMBER_BY_NAME,
        "tags": NUMBER_BY_NAME,
        "embedding": VECTOR,
        "duration_s": NUMBER,
        "model": TEXT,
        "model_version": TEXT,
    },
    "embed": {"embedding": VECTOR},
}
# Other operations: their results are JSON text in the column `result`.
JSON_OPERATIONS: Final = ("inspire", "playlist", "predict", "recommend", "search", "similar")

FILES: Final = ("audio", "prompt", "score")  # parameters whose values are files

_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 10.0
_SECRETS: Final = ("api_key", "headers", "service_key", "user_token")
_TOO_OFTEN_LOST: Final = "the connection was lost each time that the recording or its data were sent"


@dataclass(frozen=True)
class BulkCall:
    """What the workers of a job call, and where.

    Attributes:
        operation: name of a method of `MusicClient`.
        inputs: the column with the value, by parameter of the method.
        bytes_column: column with the content of a file, which is used instead of the path where a table has it.
        server: address as for `MusicClient`. `$NAME` in it is replaced by an environment variable of the worker; a
            function is called on the worker. Both find a server on the worker's own node.
        client: further arguments of `MusicClient`; secrets only as files, because a job's arguments are logged.
        arguments: further arguments of the method, equal for all rows.
        concurrency: calls at once in each worker, 1 to 256.
        wait_s: how long a worker waits for a server that cannot be reached or is overloaded, in seconds.

    Raises:
        InvalidInputError: an argument is invalid.
    """

    operation: str
    inputs: Mapping[str, str]
    bytes_column: str | None = None
    server: Server = DEFAULT_URL
    client: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int = 8
    wait_s: float = 300.0

    def __post_init__(self) -> None:
        known = (*RESULT_COLUMNS, *JSON_OPERATIONS)
        if self.operation not in known:
            raise InvalidInputError(
                f"unknown operation: expected one of {', '.join(known)}, got {self.operation!r}", argument="operation"
            )
        if not self.inputs or not all(isinstance(each, str) for each in (*self.inputs, *self.inputs.values())):
            raise InvalidInputError(
                f"invalid inputs: expected the names of columns by parameter, as in {{'user_id': 'user'}}, got "
                f"{self.inputs!r}",
                argument="inputs",
            )
        secret = [name for name in _SECRETS if self.client.get(name)]
        if secret:
            raise InvalidInputError(
                f"secrets in the arguments of a job: expected files that exist on each node, as in api_key_file=, got "
                f"{', '.join(secret)}, which logs and pickles of the job would contain",
                argument=secret[0],
            )
        check_count("concurrency", self.concurrency, least=1, most=MAX_CONCURRENCY)
        if isinstance(self.wait_s, bool) or not isinstance(self.wait_s, int | float) or not self.wait_s >= 0:
            raise InvalidInputError(
                f"invalid wait_s: expected a number of seconds, 0 or more, got {self.wait_s!r}", argument="wait_s"
            )
        _check_arguments(getattr(MusicClient, self.operation), (*self.inputs, *self.arguments), self.operation)
        _check_arguments(MusicClient.__init__, ("url", *self.client), "the client")
        if not callable(self.server) and "$" not in "".join(self.server):
            make_endpoints(self.server)

    @property
    def columns(self) -> Mapping[str, str]:
        """The type of each column of a result, errors included."""
        return {**RESULT_COLUMNS.get(self.operation, {"result": TEXT}), **ERROR_COLUMNS}

    def make_client(self) -> MusicClient:
        """Return a new client, of priority "batch" unless `client` says otherwise.

        Raises:
            InvalidInputError: an argument is invalid, or an environment variable of the address is not set.
        """
        return MusicClient(_resolved(self.server), **{"priority": "batch", **self.client})


class BulkCaller:
    """Makes the calls of a worker with one client.

    Attributes:
        call: what to call.

    Args:
        call: what to call.
        client: the client to use; a new one that `call` describes if None.
    """

    def __init__(self, call: BulkCall, client: MusicClient | None = None) -> None:
        self.call = call
        self._client = call.make_client() if client is None else client
        self._method = getattr(self._client, call.operation)

    def rows(self, inputs: Iterable[Mapping[str, Any]]) -> list[Row]:
        """Return the result columns of each row, in order.

        Args:
            inputs: the arguments of each row's call.

        Raises:
            ClientError: the calls cannot succeed for any row: the server stays away, refuses the key or lacks the
                model, or an argument is invalid.
        """
        rows = map_ordered(self._row, inputs, concurrency=self.call.concurrency, on_error="raise", on_progress=None)
        return [row for row in rows if not isinstance(row, ClientError)]  # all of them: errors are raised

    def _result(self, arguments: Mapping[str, Any]) -> Row:
        with ExitStack() as files:
            opened = {name: _opened(value, files) if name in FILES else value for name, value in arguments.items()}
            return {**_columns(self._method(**opened, **self.call.arguments)), "error": None, "error_type": None}

    def _row(self, arguments: Mapping[str, Any]) -> Row:
        ends_s = time.monotonic() + self.call.wait_s
        n_lost, pause_s = 0, _FIRST_WAIT_S
        while True:
            try:
                return self._result(arguments)
            except ClientError as error:
                n_lost += error.n_lost
                if n_lost >= MAX_LOST:
                    error.add_note(_TOO_OFTEN_LOST)
                    return self._failed(error)
                if not self._is_temporary(error):
                    if _is_about_job(error) or self._is_fixed_argument(error):
                        raise
                    return self._failed(error)
                if time.monotonic() + pause_s > ends_s:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_WAIT_S)

    def _is_temporary(self, error: ClientError) -> bool:
        """Return whether the call may succeed later, without any change to it."""
        if isinstance(error, FileAccessError):
            return error.retryable
        if isinstance(error, ConnectionFailedError):
            return error.reason not in ("tls", "wrong_protocol")
        if isinstance(error, ServerBusyError | VersionChangedError):
            return True
        if isinstance(error, ModelNotFoundError | RequestTimeoutError):  # while a server starts, or does not respond
            try:
                return not self._client.server_ready(timeout_s=5.0)
            except ClientError:
                return True
        return False

    def _is_fixed_argument(self, error: ClientError) -> bool:
        return isinstance(error, InvalidInputError) and error.argument in self.call.arguments

    def _failed(self, error: ClientError) -> Row:
        return {
            **dict.fromkeys(self.call.columns),
            "error": "; ".join([str(error), *getattr(error, "__notes__", ())]),
            "error_type": type(error).__name__,
        }


def shared_caller(call: BulkCall) -> BulkCaller:
    """Return a caller with the client of this process for the same server and arguments.

    Raises:
        InvalidInputError: as `BulkCall.make_client`.
    """
    server = _resolved(call.server)
    key = (server if isinstance(server, str) else tuple(server), repr(sorted(call.client.items())))
    return BulkCaller(call, _client(key, call))


def require(package: str, extra: str) -> Any:
    """Import a package of an extra.

    Raises:
        MissingExtraError: with the command that installs it.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"jobs on {extra.capitalize()} need the package {package.partition('.')[0]} ({error}); install it with: "
            f"pip install 'tritone[{extra}]'"
        ) from error


_CLIENTS: Final[dict[tuple[Any, ...], MusicClient]] = {}


def _client(key: tuple[Any, ...], call: BulkCall) -> MusicClient:
    if key not in _CLIENTS:
        _CLIENTS[key] = call.make_client()
    return _CLIENTS[key]


def _resolved(server: Server) -> str | Sequence[str]:
    given = server() if callable(server) else server
    return _expanded(given) if isinstance(given, str) else [_expanded(each) for each in given]


def _expanded(address: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise InvalidInputError(
                f"the server's address needs an environment variable of the worker: expected {name} for {address!r}, "
                f"which is not set; set it on every node",
                argument="server",
            )
        return os.environ[name]

    return re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, address)


def _check_arguments(function: Callable[..., Any], names: Iterable[str], what: str) -> None:
    known = [name for name in inspect.signature(function).parameters if name not in ("self", "transport")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InvalidInputError(
            f"unknown argument of {what}: expected one of {', '.join(known)}, got {unknown[0]!r}", argument=unknown[0]
        )


def _opened(value: Any, files: ExitStack) -> Any:
    """Return a path as it is, and the open file of a URL; `file:/` and `s3a://` are Spark's own forms."""
    if not isinstance(value, str):
        return value
    url = re.sub(r"^s3a://", "s3://", re.sub(r"^file:/+", "/", value))
    return files.enter_context(open_file(url)) if is_remote(url) else url


def _columns(result: Any) -> Row:
    """Return the columns of a result."""
    if isinstance(result, Classification):
        return {name: getattr(result, name) for name in RESULT_COLUMNS["classify"]}
    if isinstance(result, JsonResult):
        return {"result": result.to_json()}
    return {"embedding": result}


def _is_about_job(error: ClientError) -> bool:
    """Return whether the error would be the same for every row."""
    if isinstance(error, ServerError) and error.reason == "unsuitable_model":
        return True
    if isinstance(error, FileAccessError):
        return error.reason in ("no_bucket", "no_credentials", "wrong_credentials")
    return isinstance(
        error,
        AccessDeniedError | ConnectionFailedError | MissingExtraError | ModelNotFoundError | ProcessBoundError,
    )
