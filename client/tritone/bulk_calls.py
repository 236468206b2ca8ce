"""Calls of the SDK from the workers of a job on Ray or Spark: one row in, one row out.

A `BulkCall` specifies the calls of a job, and can be pickled; a `BulkCaller` has the client, and is created on a
worker. `BulkJob` is the base class of the functions that users pass to Ray and Spark. Each worker process adapts its
number of requests in flight, as `tritone batch` does. Errors of a single recording are returned in the columns `error`
and `error_type`. Errors of the server are retried for up to `wait_s` seconds and then raised, which fails the task.
"""

from __future__ import annotations

import inspect
import io
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeAlias

from tritone.arguments import check_count, check_names
from tritone.batch.concurrency_limit import AdaptiveConcurrencyLimiter, LimitedTransport
from tritone.batch.failures import FileFailures, error_text, error_type, retry_pause_s
from tritone.batch.file_calls import FileCaller
from tritone.batch.operations import OPERATIONS, Opened, Operation
from tritone.batch.options import DEFAULT_CALL_TIMEOUT_S, DEFAULT_CONCURRENCY, MAX_CONCURRENCY
from tritone.client import MusicClient
from tritone.endpoints import DEFAULT_URL, make_endpoints
from tritone.exceptions import ClientError, InvalidInputError, RequestTimeoutError
from tritone.messages import Transport
from tritone.operations.many import map_ordered
from tritone.results.json_result import JsonResult

Row: TypeAlias = dict[str, Any]
CLIENT_OPTIONS: Final = tuple(inspect.signature(MusicClient.__init__).parameters)
Server: TypeAlias = str | Sequence[str] | Callable[[], str | Sequence[str]]

# Operations of `tritone batch` have its columns, with the types of DuckDB. Of others, the result is JSON text.
JSON_OPERATIONS: Final = ("playlist", "recommend", "search", "similar")
ERROR_COLUMNS: Final = {"error": "VARCHAR", "error_type": "VARCHAR"}

DEFAULT_WAIT_S: Final = 300.0

_SECRETS: Final = ("api_key", "headers", "service_key", "user_token")


@dataclass(frozen=True)
class BulkCall:
    """Specification of the calls of a job; picklable.

    Attributes:
        operation: an operation of `tritone batch`, or of `JSON_OPERATIONS`.
        inputs: column name for each parameter of the method of `MusicClient`; `{"path": COLUMN}` for an
            operation of `tritone batch`.
        bytes_column: column with the content of a file, which is used instead of the path where a table has it.
        server: address as for `MusicClient`. `$NAME` in it is replaced by an environment variable of the worker; a
            function is called on the worker. Both find a server on the worker's own node.
        client: further arguments of `MusicClient`; secrets only as files, because a job's arguments are logged.
        arguments: further arguments of the call, equal for all rows.
        concurrency: maximum number of requests in flight in each worker process, 1 to 256.
        wait_s: how long a worker waits, without a successful call, for a server that cannot be reached or is
            overloaded, in seconds.

    Raises:
        InvalidInputError: an argument is invalid.
    """

    operation: str
    inputs: Mapping[str, str]
    bytes_column: str | None = None
    server: Server = DEFAULT_URL
    client: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int = DEFAULT_CONCURRENCY
    wait_s: float = DEFAULT_WAIT_S

    def __post_init__(self) -> None:
        known = (*OPERATIONS, *JSON_OPERATIONS)
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
        parameters = inspect.signature(getattr(MusicClient, self.operation)).parameters
        file_call = OPERATIONS.get(self.operation)
        if file_call is None:
            check_names(self.inputs, _names(parameters), self.operation)
            check_names(self.arguments, _names(parameters), self.operation)
        else:
            check_names(self.inputs, ("path",), self.operation)
            check_names(self.arguments, ("model", "timeout_s", *file_call.arguments), self.operation)
        check_names(self.client, _names(CLIENT_OPTIONS), "the client")
        if not callable(self.server) and "$" not in "".join(self.server):
            make_endpoints(self.server)

    @property
    def columns(self) -> Mapping[str, str]:
        """The type of each column of a result, errors included."""
        known = OPERATIONS.get(self.operation)
        return {**({"result": "VARCHAR"} if known is None else known.columns), **ERROR_COLUMNS}

    def make_client(self, transport: Transport | None = None) -> MusicClient:
        """Return a new client whose requests in flight are limited, up to `concurrency`.

        Its priority is "batch" unless `client` contains another one.

        Args:
            transport: sends the requests instead of a transport for the server.

        Raises:
            InvalidInputError: an argument is invalid, or an environment variable of the address is not set.
        """
        music = MusicClient(_resolved(self.server), **{"priority": "batch", **self.client}, transport=transport)
        limiter = AdaptiveConcurrencyLimiter(self.concurrency)
        return music.with_transport(lambda inner: LimitedTransport(inner, limiter))


class BulkJob:
    """Calls a method of `MusicClient` for each row of a table; base class of the classes of Ray and Spark.

    All columns of a table are kept, except `bytes_column`. The columns of a result are those of `tritone batch`; for
    operations that it does not have, the column `result` is the method's result as JSON text. The object can be sent
    to workers: it has no connections.

    Args:
        operation: an operation of `tritone batch`, such as `compose`; or `playlist`, `recommend`, `search`, `similar`.
        inputs: the column with the value, by parameter of the method, as in `{"user_id": "user"}`; `{"path": COLUMN}`
            for an operation of `tritone batch`.
        bytes_column: column with the content of a recording or score, which is used instead of its path where a table
            has the column. Default: `bytes` on Ray, as `ray.data.read_binary_files` names it, and `content` on Spark,
            as the source `binaryFile` names it. An empty string if paths are used in any case.
        server: address as for `MusicClient`: one server, or several with the same models. `$NAME` in it is an
            environment variable of the worker, as in "$NODE_IP:8001"; a function is called on the worker. Both find a
            server on the worker's own node.
        arguments: further arguments of the method, equal for all rows.
        concurrency: maximum number of requests in flight in each worker process, 1 to 256. A worker uses fewer if more
            would not be faster, or if the queue of the server is full.
        wait_s: how long a worker waits, without a successful call, for a server that cannot be reached or is
            overloaded, in seconds.
        client: further arguments of `MusicClient`. Secrets only as files (`api_key_file`, `service_key_file`), which
            must exist on each node. The priority is "batch" if none is given.

    Raises:
        InvalidInputError: an argument is invalid.
    """

    _CONTENT_COLUMN: ClassVar[str]

    def __init__(
        self,
        operation: str,
        *,
        inputs: Mapping[str, str],
        bytes_column: str | None = None,
        server: Server = DEFAULT_URL,
        arguments: Mapping[str, Any] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        wait_s: float = DEFAULT_WAIT_S,
        **client: Any,
    ) -> None:
        self._call = BulkCall(
            operation,
            inputs=inputs,
            bytes_column=self._CONTENT_COLUMN if bytes_column is None else bytes_column,
            server=server,
            client=client,
            arguments=arguments or {},
            concurrency=concurrency,
            wait_s=wait_s,
        )


class BulkCaller:
    """Makes the calls of a worker with one client.

    Attributes:
        call: what to call.

    Args:
        call: what to call.
        client: the client to use; see `BulkCall.make_client`.
    """

    def __init__(self, call: BulkCall, client: MusicClient) -> None:
        self.call = call
        self._client = client
        self._succeeded_s = -math.inf  # time of the last successful call

    def rows(self, inputs: Iterable[Mapping[str, Any]]) -> list[Row]:
        """Return the result columns of each row, in order.

        Args:
            inputs: the arguments of each row's call.

        Raises:
            ClientError: no row can succeed: the server is unavailable or busy for longer than `wait_s`, rejects the API
                key, or does not have the model, or an argument is invalid.
        """
        rows = map_ordered(self._row, inputs, concurrency=self.call.concurrency, on_error="raise", on_progress=None)
        return [row for row in rows if not isinstance(row, ClientError)]  # all of them: errors are raised

    def _row(self, arguments: Mapping[str, Any]) -> Row:
        failures = FileFailures(fixed=self.call.arguments)
        unavailable_s: float | None = None  # of the first failure; calls that time out because of a file do not count
        n_failed = 0
        while True:
            try:
                row = {**self._result(arguments), "error": None, "error_type": None}
            except ClientError as error:
                action = failures.classify(error)
                if action == "record" and isinstance(error, RequestTimeoutError) and not self._server_responds():
                    action = "retry"
                if action == "record":
                    empty = dict.fromkeys(self.call.columns)
                    return {**empty, "error": error_text(error), "error_type": error_type(error)}
                n_failed += 1
                pause_s = retry_pause_s(n_failed)
                if action == "retry" and unavailable_s is None:
                    unavailable_s = time.monotonic()
                # While other rows succeed, the server is only busy.
                waited_s = 0.0 if unavailable_s is None else time.monotonic() - max(unavailable_s, self._succeeded_s)
                if action == "stop" or (action == "retry" and waited_s + pause_s > self.call.wait_s):
                    raise
            else:
                self._succeeded_s = time.monotonic()
                return row
            time.sleep(pause_s)

    def _result(self, arguments: Mapping[str, Any]) -> Row:
        known = OPERATIONS.get(self.call.operation)
        if known is None:
            result: JsonResult = getattr(self._client, self.call.operation)(**arguments, **self.call.arguments)
            return {"result": result.to_json()}
        return self._file_caller(known).call(self._client, *_path_and_source(arguments["path"]))

    def _file_caller(self, operation: Operation) -> FileCaller:
        given = dict(self.call.arguments)
        model = given.pop("model", operation.model)
        timeout_s = given.pop("timeout_s", self.call.client.get("timeout_s", DEFAULT_CALL_TIMEOUT_S))
        return FileCaller(operation=operation, model=model, timeout_s=timeout_s, arguments=given)

    def _server_responds(self) -> bool:
        known = OPERATIONS.get(self.call.operation)
        return known is None or self._file_caller(known).server_responds(self._client)


def shared_caller(call: BulkCall) -> BulkCaller:
    """Return a caller with the client that this process has for calls of the same kind.

    Calls of the same operation, model, server and client arguments share their connections and the limit of their
    requests in flight.

    Raises:
        InvalidInputError: as `BulkCall.make_client`.
    """
    server = _resolved(call.server)
    key = (
        server if isinstance(server, str) else tuple(server),
        repr(sorted(call.client.items())),
        call.operation,
        call.arguments.get("model"),
        call.concurrency,
    )
    with _CLIENTS_LOCK:
        if key not in _CLIENTS:
            _CLIENTS[key] = call.make_client()
        return BulkCaller(call, _CLIENTS[key])


_CLIENTS: Final[dict[tuple[Any, ...], MusicClient]] = {}
_CLIENTS_LOCK: Final = threading.Lock()


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


def _names(parameters: Iterable[str]) -> list[str]:
    """Return the names of parameters that a job may give."""
    return [name for name in parameters if name not in ("self", "url", "transport")]


def _path_and_source(value: Any) -> tuple[str, Opened]:
    """Return the path of a file, or "" for its content; and its path, URL or content.

    `file:/` and `s3a://` are Spark's forms of paths and URLs.

    Raises:
        InvalidInputError: the value is neither.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return "", io.BytesIO(value)
    if not isinstance(value, str):
        raise InvalidInputError(
            f"invalid path: expected text, or the content of a file as bytes, got {type(value).__name__}",
            argument="path",
        )
    url = re.sub(r"^s3a://", "s3://", re.sub(r"^file:/+", "/", value))
    return value, url
