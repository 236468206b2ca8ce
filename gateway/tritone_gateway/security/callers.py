"""Callers: authentication by API key, scopes, and limits of rate and concurrency."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, Request

from tritone.credentials import is_loopback_host
from tritone_gateway.problems import ProblemError
from tritone_gateway.security.keys import SCOPES, ApiKey, KeyStore, Scope
from tritone_gateway.security.rates import RateLimits

ANONYMOUS: Final = "anonymous"
KEY_HEADER: Final = "x-api-key"
_BEARER: Final = "bearer "

# For the OpenAPI schema. `Callers.authenticate` reads the headers, before the body is read.
SECURITY_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "tritone_<id>_<secret>"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


@dataclass(frozen=True)
class ApiCaller:
    """Caller of a request.

    Attributes:
        key: its API key; None for an anonymous caller, who has all scopes because no keys exist.
    """

    key: ApiKey | None = None

    @property
    def name(self) -> str:
        """Return the name of the caller in logs and metrics."""
        return ANONYMOUS if self.key is None else self.key.caller

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """Return the scopes of the caller."""
        return SCOPES if self.key is None else self.key.scopes

    def may_use(self, user_id: str) -> bool:
        """Return whether the caller may use the stored data of a user without a token of that user."""
        return self.key is None or self.key.may_use(user_id)

    def check_users(self, user_ids: list[str], *, has_token: bool) -> None:
        """Check that the caller may use the stored data of users.

        Args:
            user_ids: ids of the users; empty if the request names none.
            has_token: whether the request has a token of the user, which the recommender checks itself.

        Raises:
            ProblemError: 403, the key gives no access to one of them.
        """
        if has_token:
            return
        for user_id in user_ids:
            if not self.may_use(user_id):
                raise ProblemError(
                    403,
                    "user-denied",
                    "The key gives no access to this user",
                    "the key gives no access to the stored data of this user: expected a key with --users, or the "
                    "header Tritone-User-Token with a token of the user; send a history instead",
                    argument="user_id",
                )


class Callers:
    """Authenticates requests and counts them against the limits of their keys."""

    def __init__(
        self, keys: KeyStore, *, anonymous: bool, rates: RateLimits, n_workers: int, local_names_only: bool = False
    ) -> None:
        """Initialise without any requests.

        Args:
            keys: the API keys.
            anonymous: whether to serve callers without a key while no keys exist.
            local_names_only: whether the Host header of these callers must name the loopback interface. A web page
                whose name was changed to resolve to this machine (DNS rebinding) could otherwise use the gateway with
                the browser of a person who works on it.
            rates: counts the requests of keys that have a rate limit.
            n_workers: number of workers, among which the concurrency limit of a key is divided.
        """
        self._keys = keys
        self._anonymous = anonymous
        self._local_names_only = local_names_only
        self._rates = rates
        self._n_workers = n_workers
        self._running: Counter[str] = Counter()

    def authenticate(self, headers: Mapping[bytes, bytes]) -> ApiCaller:
        """Return the caller of a request.

        Args:
            headers: headers of the request, with names in lower case.

        Raises:
            ProblemError: 401, the key is missing or invalid; 403, the Host header of a caller without a key does not
                name the loopback interface.
            ApiKeyError: the keys cannot be read.
        """
        text = _key_in_headers(headers)
        if text is not None:
            key = self._keys.find(text)
            if key is not None:
                return ApiCaller(key)
        if not self._keys.has_keys():
            if self._anonymous and text is None:
                if self._local_names_only:
                    _check_local_name(headers.get(b"host", b"localhost").decode("latin-1"))
                return ApiCaller()
            detail = "the gateway has no API keys yet; its operator creates them with `tritone keys create`"
        elif text is None:
            detail = "expected an API key in the header `Authorization: Bearer KEY` or `X-API-Key: KEY`, got none"
        else:
            detail = "the API key is unknown, revoked or expired; ask the operator of this gateway for a new one"
        raise ProblemError(
            401, "unauthenticated", "A valid API key is required", detail, headers={"WWW-Authenticate": "Bearer"}
        )

    async def admit(self, caller: ApiCaller) -> None:
        """Count a request that begins. The caller of this method must call `release` when the request ends.

        Raises:
            ProblemError: 429, a limit of the key is exceeded; `release` must not be called.
        """
        key = caller.key
        if key is None:
            return
        if key.concurrency is not None and self._running[key.id] >= math.ceil(key.concurrency / self._n_workers):
            raise _limit_exceeded(
                f"the key's limit of {key.concurrency} concurrent requests is reached; wait for a response", retry_s=1
            )
        self._running[key.id] += (
            1  # before the rate store is awaited, so that concurrent requests cannot exceed the limit
        )
        try:
            wait_s = await self._rates.wait_s(key)
            if wait_s is not None:
                raise _limit_exceeded(
                    f"the key's limit of {key.rate} is exceeded; try again in {wait_s} s", retry_s=wait_s
                )
        except BaseException:
            self.release(caller)
            raise

    def release(self, caller: ApiCaller) -> None:
        """Count a request that has ended."""
        if caller.key is not None:
            self._running[caller.key.id] -= 1


async def get_caller(request: Request) -> ApiCaller:
    """Return the caller that the middleware has authenticated."""
    caller: ApiCaller = request.scope["state"]["caller"]
    return caller


CallerDependency = Annotated[ApiCaller, Depends(get_caller)]


def requires(scope: Scope) -> Any:
    """Return a FastAPI dependency that refuses callers without a scope."""

    async def check(request: Request) -> None:
        caller: ApiCaller = request.scope["state"]["caller"]
        if scope not in caller.scopes:
            raise ProblemError(
                403,
                "scope-missing",
                "The key does not allow this",
                f"the route requires the scope {scope!r}, but the key has {', '.join(caller.scopes)}; ask the operator "
                f"for a key with it",
            )

    return Depends(check)


def _key_in_headers(headers: Mapping[bytes, bytes]) -> str | None:
    bearer = headers.get(b"authorization", b"").decode("latin-1")
    if bearer[: len(_BEARER)].lower() == _BEARER:
        return bearer[len(_BEARER) :].strip()
    key = headers.get(KEY_HEADER.encode())
    return None if key is None else key.decode("latin-1").strip()


def _check_local_name(host: str) -> None:
    """Check a Host header, which browsers always send.

    Raises:
        ProblemError: 403, it does not name the loopback interface.
    """
    name = re.sub(r":\d*\Z", "", host.strip().lower()).strip("[]").removesuffix(".")
    if not is_loopback_host(name) and not name.endswith(".localhost"):
        raise ProblemError(
            403,
            "host-refused",
            "The gateway is for this machine only",
            f"expected localhost or a loopback address in the Host header of a request without a key, got "
            f"{host[:100]!r}; its operator creates a key with `tritone keys create`, or passes --allow-anonymous",
        )


def _limit_exceeded(detail: str, *, retry_s: int) -> ProblemError:
    return ProblemError(
        429, "limit-exceeded", "A limit of the key is exceeded", detail, headers={"Retry-After": str(retry_s)}
    )
