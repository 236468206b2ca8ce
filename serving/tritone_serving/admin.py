"""Triton's administrative HTTP API: liveness, repository index, loading and unloading of models.

It uses the standard library, so that a start of a server need not import gRPC.
"""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.parse
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from tritone_serving._exceptions import AdminApiError

ADMIN_HEADER: Final = "tritone-admin-token"
# Triton looks for the gRPC form of a header under a prefix of its own.
GRPC_ADMIN_HEADER: Final = f"triton-grpc-protocol-{ADMIN_HEADER}"
_RELOADED: Final = "tritone_reloaded"  # a parameter that no backend reads
_TRITON_ERROR: Final = re.compile(r"\bmodel\b|restricted|\bversion\b")
RESTRICTED_APIS: Final = ("model-repository", "shared-memory", "logging", "trace")


class AdminApi:
    """Calls one server; each call opens its own connection, so that threads can share an instance.

    Args:
        token: the server's admin token.
        api_key: the server's API key, if it has one; reading a model's configuration requires it.
    """

    def __init__(self, host: str, port: int, *, token: str, api_key: str | None = None) -> None:
        self._host = host
        self._port = port
        self._headers = {ADMIN_HEADER: token}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"

    def is_live(self, *, timeout_s: float = 1.0) -> bool:
        """Return whether the server responds."""
        try:
            self._call("GET", "/v2/health/live", timeout_s=timeout_s)
        except AdminApiError:
            return False
        return True

    def index(self, *, timeout_s: float = 10.0) -> list[Mapping[str, str]]:
        """Return the models of the repository: `name`, and `version`, `state` and `reason` of loaded ones.

        Raises:
            AdminApiError: there is no Triton server, or it refuses the token.
        """
        found = self._call("POST", "/v2/repository/index", timeout_s=timeout_s)
        if not isinstance(found, list):
            raise no_triton_error(self._host, self._port, "the response is not the index of a model repository")
        return found

    def load(self, model: str, *, timeout_s: float = 60.0) -> None:
        """Load a model's newest version; the version before serves until it is ready.

        Raises:
            AdminApiError: the model does not load; the message has its reason.
        """
        self._call("POST", f"/v2/repository/models/{urllib.parse.quote(model)}/load", timeout_s=timeout_s)

    def reload(self, model: str, *, timeout_s: float = 60.0) -> None:
        """Load the current version again, with an insignificant change without which Triton would do nothing.

        Raises:
            AdminApiError: the model does not load; the message has its reason.
        """
        path = f"/v2/models/{urllib.parse.quote(model)}/config"
        config = self._call("GET", path, timeout_s=timeout_s)
        config.setdefault("parameters", {})[_RELOADED] = {"string_value": str(time.time_ns())}
        self._call(
            "POST",
            f"/v2/repository/models/{urllib.parse.quote(model)}/load",
            timeout_s=timeout_s,
            body={"parameters": {"config": json.dumps(config)}},
        )

    def unload(self, model: str, *, timeout_s: float = 60.0) -> None:
        """Unload a model after its pending requests."""
        self._call("POST", f"/v2/repository/models/{urllib.parse.quote(model)}/unload", timeout_s=timeout_s)

    def _call(self, method: str, path: str, *, timeout_s: float, body: Mapping[str, Any] | None = None) -> Any:
        return call_json(self._host, self._port, method, path, timeout_s=timeout_s, headers=self._headers, body=body)


def call_json(
    host: str,
    port: int,
    method: str,
    path: str,
    *,
    timeout_s: float = 10.0,
    headers: Mapping[str, str] = MappingProxyType({}),
    body: Mapping[str, Any] | None = None,
) -> Any:
    """Send a request to Triton's HTTP port and return the JSON of the response; None if it has none.

    Like the SDK, it does not use proxies from environment variables.

    Raises:
        AdminApiError: Triton refuses the request, or there is no Triton server.
    """
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request(method, path, body=None if body is None else json.dumps(body).encode(), headers=headers)
        response = connection.getresponse()
        content = response.read()
    except http.client.HTTPException as error:  # its text would show the received bytes
        raise no_triton_error(host, port, "the response is not HTTP") from error
    except TimeoutError as error:
        raise no_triton_error(host, port, f"no response to {path} within {timeout_s:g} s") from error
    except OSError as error:
        raise no_triton_error(host, port, error.strerror or type(error).__name__) from error
    finally:
        connection.close()
    found = _parsed(content)
    if response.status == http.client.OK:
        return found
    reason = found.get("error") if isinstance(found, dict) else None
    # Triton has all paths that are called, and names the model, its version or the restriction in its errors.
    is_missing = response.status in (http.client.NOT_FOUND, http.client.METHOD_NOT_ALLOWED)
    if (is_missing and not _TRITON_ERROR.search(str(reason))) or (content.strip() and not isinstance(found, dict)):
        raise no_triton_error(host, port, f"the response to {path} has status {response.status}", response.status)
    raise AdminApiError(in_one_line(str(reason or response.reason)), status=response.status)


def no_triton_error(host: str, port: int, reason: str, status: int | None = None) -> AdminApiError:
    """Return the error for an address at which no Triton server responds over HTTP."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return AdminApiError(
        f"no Triton server at http://{address}: {reason}; expected Triton's HTTP port (8000 by default) as "
        f"http://host:port, or its gRPC port (8001) as host:port",
        status=status,
    )


def in_one_line(reason: str) -> str:
    """Shorten Triton's message about a failed model to the model's own message, in one line.

    Drops the Python stack («At: file(line): function»), the chain of C++ prefixes, and line ends.
    """
    reason = reason.partition("\n\nAt:\n")[0]
    reason = re.sub(r"^(load failed for model '[^']*': )?(version \d+ is at \w+ state: )?", "", reason.strip())
    reason = re.sub(r"^(\w[\w ]*: )?TritonModelException: ", "", reason)
    return re.sub(r"\s+", " ", reason).strip(" ;")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
