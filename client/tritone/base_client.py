"""What `MusicClient` and `AsyncMusicClient` share: options, their checks and flows; no input or output."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar, cast

from tritone.audio import Audio, FloatArray
from tritone.constants import GENRE_MODEL, PRIORITIES, Priority
from tritone.credentials import Credentials
from tritone.endpoints import DEFAULT_URL, Endpoint, make_endpoints
from tritone.exceptions import (
    ClientError,
    InvalidInputError,
    NotCopiedError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
)
from tritone.generation_models import Writers
from tritone.messages import (
    AsyncTransport,
    InferRequest,
    ReadyRequest,
    ReadyResponse,
    Request,
    RequestT,
    StreamRequest,
    Transport,
)
from tritone.model_cache import Catalogue, Flow, check_model_name
from tritone.operations.classify import classify_flow, embed_flow
from tritone.results.classification import Classification
from tritone.retry import Deadline, retry_delay_s, timed_out, was_lost_too_often

TRANSPORT = TypeVar("TRANSPORT", Transport, AsyncTransport)
CLIENT = TypeVar("CLIENT", bound="BaseClient[Any]")
DEFAULT_TIMEOUT_S: Final = 60.0
DEFAULT_RETRIES: Final = 2
LONGEST_TIMEOUT_S: Final = 30 * 86_400  # clocks of sockets and of gRPC overflow far beyond

_SECRETS: Final = ("api_key", "headers", "service_key", "user_token")  # constructor arguments

_logger = logging.getLogger("tritone")


class BaseClient(Generic[TRANSPORT]):
    """Options and flows; see `__init__` for the options."""

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca_file: str | Path | None = None,
        client_cert_file: str | Path | None = None,
        client_key_file: str | Path | None = None,
        service_key: str | None = None,
        user_token: str | None = None,
        genre_model: str = GENRE_MODEL,
        priority: Priority = "interactive",
        transport: TRANSPORT | None = None,
    ) -> None:
        """Make a client; nothing is sent before the first call.

        Args:
            url: `host:port` (gRPC), `grpc://`, `grpcs://`, `http://` or `https://`; without a port,
                Triton's own (8001, 8000), with TLS 443. Several, as a list or with commas between them, for servers
                that serve the same models: calls are shared among them, one that cannot be reached is left alone
                for a while, and what may be repeated goes to another at once, within the call's time.
            timeout_s: for a whole call, with all its requests and retries.
            retries: how often a request is sent again after the connection failed or the server was busy. A request
                whose connection was lost after it had been sent completely is repeated at most once, on any server, so
                that a request that crashes servers does not reach all of them.
            api_key: sent as `authorization: Bearer ...`.
            headers: more headers (gRPC: metadata) for every request.
            ca_file: PEM with the authorities to trust instead of the system's.
            client_cert_file: PEM with the client's certificate, for servers that ask for one.
            client_key_file: PEM with its key.
            service_key: the key of the server's operator, which lets `recommend` use the stored data of all users. None
                sends this user's own key if the server runs on this machine as this user (see `tritone serve`); an
                empty string sends none.
            user_token: a token that lets `recommend` use the stored data of one user; see `tritone user-token`.
            genre_model: what `classify` and `embed` ask unless told otherwise, and `recommend` and `similar` about
                a recording.
            priority: "batch" queues requests behind the interactive ones of all clients, for background work. Does not
                affect `stream_compose`. See also `with_priority`.
            transport: carries the requests instead of one made for `url`; it is closed with the client.

        Raises:
            InvalidInputError: says which option is wrong.
        """
        self._arguments: dict[str, Any] = {
            "url": url,
            "timeout_s": timeout_s,
            "retries": retries,
            "api_key": api_key,
            "headers": headers,
            "ca_file": ca_file,
            "client_cert_file": client_cert_file,
            "client_key_file": client_key_file,
            "service_key": service_key,
            "user_token": user_token,
            "genre_model": genre_model,
            "priority": priority,
            "transport": transport,
        }
        endpoints = make_endpoints(
            url,
            api_key=api_key,
            headers=headers,
            ca_file=ca_file,
            client_cert_file=client_cert_file,
            client_key_file=client_key_file,
        )
        if isinstance(retries, bool) or not isinstance(retries, int) or not 0 <= retries <= 100:
            raise InvalidInputError(f"retries is {retries!r}; expected a whole number from 0 to 100")
        self._timeout_s = _checked_timeout(timeout_s)
        self._retries = retries
        self._genre_model = check_model_name(genre_model)
        self._priority = _checked_priority(priority)
        self._endpoints = endpoints
        self._credentials = Credentials(
            service_key=service_key, user_token=user_token, endpoints=endpoints, finds_own_key=transport is None
        )
        self._catalogue = Catalogue()
        self._writers = Writers()
        self._closed = False
        self._transport: TRANSPORT = self._make_transport(endpoints) if transport is None else transport

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        urls = ",".join(endpoint.url for endpoint in self._endpoints)
        return f"{type(self).__name__}({urls!r}, timeout_s={self._timeout_s:g}{state})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the constructor's arguments: the copy connects by itself, in the process that unpickles it.

        Raises:
            ProcessBoundError: the client has keys or tokens, which must not end up in pickles, or is closed.
        """
        secrets = [name for name in _SECRETS if self._arguments[name]]
        if secrets:
            raise NotCopiedError(
                f"a client with secrets cannot be pickled: expected none of {', '.join(_SECRETS)}, got "
                f"{', '.join(secrets)}; create a client in each process and read the secrets there"
            )
        return _make, (type(self), self._open_arguments())

    def __copy__(self) -> Self:
        """Return a client with the same arguments, secrets included, and connections of its own."""
        return _make(type(self), self._open_arguments())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a client as `copy.copy` does; a `transport` is copied too."""
        arguments = self._open_arguments()
        return _make(type(self), {**arguments, "transport": copy.deepcopy(arguments["transport"], memo)})

    def _open_arguments(self) -> dict[str, Any]:
        if self._closed:
            raise NotCopiedError("a closed client cannot be copied or pickled; create a new one")
        return self._arguments

    def with_priority(self, priority: Priority) -> Self:
        """Return a client that shares this one's connections and whose requests have another priority.

        Closing either closes the connections.

        Raises:
            InvalidInputError: there is no such priority.
        """
        checked = _checked_priority(priority)
        other = object.__new__(type(self))  # `copy.copy` would open connections of its own
        other.__dict__.update(self.__dict__)
        other._arguments = {**self._arguments, "priority": priority}
        other._priority = checked
        return other

    def _prioritized(self, request: RequestT) -> RequestT:
        """Return the request with this client's priority."""
        if isinstance(request, InferRequest) and self._priority != PRIORITIES["interactive"]:
            return replace(request, priority=self._priority)
        return request

    def _make_transport(self, endpoints: tuple[Endpoint, ...]) -> TRANSPORT:
        raise NotImplementedError

    def _classify(self, audio: Audio, top: int | None, model: str | None) -> Flow[Classification]:
        if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
            raise InvalidInputError(f"top is {top!r}; expected a whole number, 1 or more, or None for all labels")
        name = check_model_name(self._genre_model if model is None else model)
        return classify_flow(self._catalogue, audio, model=name, top=top)

    def _embed(self, audio: Audio, model: str | None) -> Flow[FloatArray]:
        name = check_model_name(self._genre_model if model is None else model)
        return embed_flow(self._catalogue, audio, model=name)

    def _ready(self, model: str | None) -> Flow[bool]:
        return _ready_flow(None if model is None else check_model_name(model))

    def _deadline(self, timeout_s: float | None) -> Deadline:
        if self._closed:
            raise ClientError("this client is closed; make a new one")
        return Deadline(self._timeout_s if timeout_s is None else _checked_timeout(timeout_s))

    def _delay_s(self, request: Request, failures: Sequence[ClientError], deadline: Deadline) -> float:
        """How long to wait before sending again; raises the last of `failures` if that is not to be."""
        error = failures[-1]
        if isinstance(error, RequestTimeoutError):  # the transport knew only what was left of the call's time
            raise timed_out(request, deadline.timeout_s) from error
        delay_s = retry_delay_s(request, failures, retries=self._retries, left_s=deadline.left_s())
        if delay_s is None:
            if was_lost_too_often(request, failures):
                raise _lost_again(error, failures) from error
            raise error
        _logger.warning(
            "%s to %s failed (attempt %d of %d): %s; retrying in %.2f s",
            type(request).__name__,
            ",".join(endpoint.url for endpoint in self._endpoints),
            len(failures),
            self._retries + 1,
            error,
            delay_s,
        )
        return delay_s

    def _stream_delay_s(
        self, request: StreamRequest, failures: Sequence[ClientError], n_answers: int, deadline: Deadline
    ) -> float:
        """As `_delay_s`, for a stream: once it has begun, what failed stays failed."""
        error = failures[-1]
        if isinstance(error, ServerError) and not isinstance(error, ServerBusyError):
            self._writers.forget(request.model)  # it may have been replaced by one with other tensors
        if n_answers:
            raise error
        return self._delay_s(request, failures, deadline)


def _make(kind: type[CLIENT], arguments: dict[str, Any]) -> CLIENT:
    return kind(**arguments)


def _lost_again(error: ClientError, failures: Sequence[ClientError]) -> ClientError:
    n_lost = sum(each.n_lost for each in failures)
    return type(error)(
        f"{error}; the connection was lost {n_lost} times after the request had been sent, so it is not sent again; "
        f"check the servers' logs for crashes caused by the request",
        model=error.model,
        status=error.status,
        request_id=error.request_id,
        n_lost=n_lost,
    )


def _ready_flow(model: str | None) -> Flow[bool]:
    return cast(ReadyResponse, (yield ReadyRequest(model))).ready


def _checked_priority(priority: Priority) -> int:
    if not isinstance(priority, str) or priority not in PRIORITIES:
        raise InvalidInputError(f"priority is {priority!r}; expected one of: {', '.join(PRIORITIES)}")
    return PRIORITIES[priority]


def _checked_timeout(timeout_s: float) -> float:
    number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not number or not math.isfinite(timeout_s) or not 0 < timeout_s <= LONGEST_TIMEOUT_S:
        raise InvalidInputError(
            f"timeout_s is {timeout_s!r}; expected a number of seconds above 0, at most {LONGEST_TIMEOUT_S} (30 days)"
        )
    return float(timeout_s)
