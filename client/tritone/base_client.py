"""Constructor options, copying and pickling of both clients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar, get_args

from tritone.arguments import check_model_name
from tritone.constants import GENRE_MODEL, PRIORITIES, AudioFormat, Priority
from tritone.credentials import Credentials
from tritone.endpoints import DEFAULT_URL, Endpoint, make_endpoints
from tritone.exceptions import ClientError, InvalidInputError, NotCopiedError, ServerBusyError, ServerError
from tritone.messages import AsyncTransport, InferRequest, RequestT, StreamRequest, Transport
from tritone.model_cache import ModelCache
from tritone.retry import DEFAULT_RETRIES, Attempts, Deadline
from tritone.secret_files import SecretFile

TRANSPORT = TypeVar("TRANSPORT", Transport, AsyncTransport)
CLIENT = TypeVar("CLIENT", bound="BaseClient[Any]")
DEFAULT_TIMEOUT_S: Final = 60.0
LONGEST_TIMEOUT_S: Final = 30 * 86_400  # the clocks of sockets and gRPC overflow far beyond

_SECRETS: Final = ("api_key", "headers", "service_key", "user_token")  # constructor arguments


class BaseClient(Generic[TRANSPORT]):
    """The common part of `MusicClient` and `AsyncMusicClient`."""

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        api_key: str | None = None,
        api_key_file: str | Path | None = None,
        headers: Mapping[str, str] | None = None,
        ca_file: str | Path | None = None,
        client_cert_file: str | Path | None = None,
        client_key_file: str | Path | None = None,
        service_key: str | None = None,
        service_key_file: str | Path | None = None,
        user_token: str | None = None,
        genre_model: str = GENRE_MODEL,
        audio_format: AudioFormat = "int16",
        priority: Priority = "interactive",
        transport: TRANSPORT | None = None,
    ) -> None:
        """Create a client; nothing is sent before the first call.

        Args:
            url: address of the server: `host:port` (gRPC), `grpc://`, `grpcs://`, `http://` or `https://`. The default
                ports are those of Triton (8001, 8000), with TLS 443. Several servers with the same models are given as
                a list or separated by commas: calls are distributed among them, a server that cannot be reached is
                avoided for a while, and its requests go to another one.
            timeout_s: time limit of a call, with all its requests and retries, in seconds.
            retries: how often a request is sent again after the connection failed or the server was busy. A request
                whose connection was lost after it had been sent completely is repeated at most once, on any server, so
                that a request that crashes servers does not reach all of them; see `tritone.retry`.
            api_key: sent as `authorization: Bearer ...`.
            api_key_file: file with the API key, instead of `api_key`. It is read again when it changes, and need not
                exist yet; until it does, no key is sent.
            headers: additional headers (gRPC: metadata) of every request.
            ca_file: PEM file with the certificate authorities to trust instead of those of the system.
            client_cert_file: PEM file with the certificate of the client, for servers that require one.
            client_key_file: PEM file with the key of that certificate.
            service_key: the key of the operator of the server, which lets `recommend` use the stored data of all
                users. With None, this user's own key is sent if the server runs on this machine as this user (see
                `tritone serve`); an empty string sends none.
            service_key_file: file with the service key, instead of `service_key`; read as `api_key_file`.
            user_token: a token that lets `recommend` use the stored data of one user; see `tritone user-token`.
            genre_model: the default model of `classify` and `embed`, also used by `recommend` and `similar` to embed
                recordings.
            audio_format: how recordings are sent. With "int16" and "float32", the client decodes them and sends
                samples. "int16" takes half the bytes and is used where the server has the companion of the model for
                it and no sample of the request is beyond full scale, otherwise floats. Both have the same network;
                probabilities differ by less than 0.001. With "file", paths, bytes and file objects are sent as they
                are, usually a tenth of the bytes, and decoded by the server; other recordings, those beyond its
                limits, and all if it cannot decode, are sent as with "int16".
            priority: "batch" queues requests behind the interactive ones of all clients, for background work. It does
                not affect `stream_compose`. See also `with_priority`.
            transport: sends the requests instead of a transport for `url`; closed with the client. See
                `tritone.testing` for one that needs no server.

        Raises:
            InvalidInputError: an option is invalid.
        """
        self._arguments: dict[str, Any] = {
            "url": url,
            "timeout_s": timeout_s,
            "retries": retries,
            "api_key": api_key,
            "api_key_file": api_key_file,
            "headers": headers,
            "ca_file": ca_file,
            "client_cert_file": client_cert_file,
            "client_key_file": client_key_file,
            "service_key": service_key,
            "service_key_file": service_key_file,
            "user_token": user_token,
            "genre_model": genre_model,
            "audio_format": audio_format,
            "priority": priority,
            "transport": transport,
        }
        endpoints = make_endpoints(
            url,
            api_key=api_key,
            api_key_file=None if api_key_file is None else SecretFile("api_key", api_key_file),
            headers=headers,
            ca_file=ca_file,
            client_cert_file=client_cert_file,
            client_key_file=client_key_file,
        )
        if isinstance(retries, bool) or not isinstance(retries, int) or not 0 <= retries <= 100:
            raise InvalidInputError(
                f"invalid retries: expected a whole number from 0 to 100, got {retries!r}", argument="retries"
            )
        self._timeout_s = _checked_timeout(timeout_s)
        self._retries = retries
        self._genre_model = check_model_name(genre_model)
        self._audio_format = _checked_audio_format(audio_format)
        self._priority = _checked_priority(priority)
        self._urls = ",".join(endpoint.url for endpoint in endpoints)
        self._credentials = Credentials(
            service_key=service_key,
            service_key_file=service_key_file,
            user_token=user_token,
            endpoints=endpoints,
            finds_own_key=transport is None,
        )
        self._models = ModelCache()
        self._closed = False
        self._transport: TRANSPORT = self._make_transport(endpoints) if transport is None else transport

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        return f"{type(self).__name__}({self._urls!r}, timeout_s={self._timeout_s:g}{state})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the constructor arguments: the copy opens its own connections in the process that unpickles it.

        Raises:
            ProcessBoundError: the client is closed, or has keys or tokens, which must not end up in pickles.
        """
        secrets = [name for name in _SECRETS if self._arguments[name]]
        if secrets:
            raise NotCopiedError(
                f"a client with secrets cannot be pickled: expected none of {', '.join(_SECRETS)}, got "
                f"{', '.join(secrets)}; create a client in each process and read the secrets there",
                reason="secrets",
            )
        return _make, (type(self), self._open_arguments())

    def __copy__(self) -> Self:
        """Return a client with the same arguments, secrets included, and its own connections."""
        return _make(type(self), self._open_arguments())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a client as `copy.copy` does; a `transport` is copied too."""
        arguments = self._open_arguments()
        return _make(type(self), {**arguments, "transport": copy.deepcopy(arguments["transport"], memo)})

    @property
    def n_servers(self) -> int:
        """Return the number of servers that the client was given."""
        return self._urls.count(",") + 1

    def with_priority(self, priority: Priority) -> Self:
        """Return a client with another priority that shares the connections of this one.

        Closing either client closes the connections.

        Raises:
            InvalidInputError: the priority is unknown.
        """
        checked = _checked_priority(priority)
        other = object.__new__(type(self))  # `copy.copy` would open other connections
        other.__dict__.update(self.__dict__)
        other._arguments = {**self._arguments, "priority": priority}
        other._priority = checked
        return other

    def with_transport(self, wrap: Callable[[TRANSPORT], TRANSPORT]) -> Self:
        """Return a client whose requests go through a wrapper of this client's transport.

        Closing either client closes the connections.

        Args:
            wrap: takes the transport and returns the one to use, which may count, delay or change requests.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._transport = wrap(self._transport)
        other._arguments = {**self._arguments, "transport": other._transport}
        return other

    def _open_arguments(self) -> dict[str, Any]:
        if self._closed:
            raise NotCopiedError("a closed client cannot be copied or pickled; create a new one", reason="closed")
        return self._arguments

    def _make_transport(self, endpoints: tuple[Endpoint, ...]) -> TRANSPORT:
        raise NotImplementedError

    def _deadline(self, timeout_s: float | None) -> Deadline:
        if self._closed:
            raise ClientError("this client is closed; create a new one", reason="closed")
        return Deadline(self._timeout_s if timeout_s is None else _checked_timeout(timeout_s))

    def _attempts(self, request: RequestT) -> Attempts[RequestT]:
        return Attempts(self._prioritized(request), retries=self._retries, servers=self._urls)

    def _prioritized(self, request: RequestT) -> RequestT:
        if isinstance(request, InferRequest) and self._priority != PRIORITIES["interactive"]:
            return replace(request, priority=self._priority)
        return request

    def _stream_failed(self, request: StreamRequest, error: ClientError, *, has_begun: bool) -> None:
        """Forget a model that may have changed; raise the error if responses have arrived, as it is then final."""
        if isinstance(error, ServerError) and not isinstance(error, ServerBusyError):
            self._models.forget(request.model)
        if has_begun:
            raise error


def _make(kind: type[CLIENT], arguments: dict[str, Any]) -> CLIENT:
    return kind(**arguments)


def _checked_priority(priority: Priority) -> int:
    if not isinstance(priority, str) or priority not in PRIORITIES:
        raise InvalidInputError(
            f"unknown priority: expected one of {', '.join(PRIORITIES)}, got {priority!r}", argument="priority"
        )
    return PRIORITIES[priority]


def _checked_audio_format(audio_format: AudioFormat) -> AudioFormat:
    known = get_args(AudioFormat)
    if not isinstance(audio_format, str) or audio_format not in known:
        raise InvalidInputError(
            f"unknown audio_format: expected one of {', '.join(known)}, got {audio_format!r}", argument="audio_format"
        )
    return audio_format


def _checked_timeout(timeout_s: float) -> float:
    is_plain = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not is_plain or not 0 < timeout_s <= LONGEST_TIMEOUT_S:
        raise InvalidInputError(
            f"invalid timeout_s: expected a number of seconds above 0 and at most {LONGEST_TIMEOUT_S} (30 days), got "
            f"{timeout_s!r}",
            argument="timeout_s",
        )
    return float(timeout_s)
