"""Download of files that callers name by URL, from hosts that the operator allows."""

from __future__ import annotations

import asyncio
import re
from typing import Final

import aiohttp
import yarl

from tritone_gateway.problems import ProblemError
from tritone_gateway.settings import MIB, GatewaySettings

_MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = (301, 302, 303, 307, 308)


async def download(url: str, settings: GatewaySettings) -> bytes:
    """Return the content of a file at a URL, with redirects followed.

    Raises:
        ProblemError: 422, the host is not allowed, or responds too late or with an error; or the file is too large.
    """
    deadline_s = settings.timeout_s
    try:
        async with asyncio.timeout(deadline_s), aiohttp.ClientSession(trust_env=False) as session:
            for _ in range(_MAX_REDIRECTS + 1):
                _check_host(url, settings.url_hosts)
                async with session.get(url, allow_redirects=False) as response:
                    if response.status in _REDIRECTS and "location" in response.headers:
                        url = str(response.url.join(yarl.URL(response.headers["location"])))
                        continue
                    if response.status != 200:
                        raise _fetch_error(url, f"the host responded with status {response.status}")
                    return await _read_at_most(response, settings.max_body_mb * MIB, url)
            raise _fetch_error(url, f"more than {_MAX_REDIRECTS} redirects")
    except TimeoutError as error:
        raise _fetch_error(url, f"no complete response within {deadline_s:g} s") from error
    except aiohttp.ClientConnectionError as error:  # its message has addresses of the operator's network
        raise _fetch_error(url, "the host cannot be reached, or has closed the connection") from error
    except (aiohttp.ClientError, ValueError) as error:
        raise _fetch_error(url, str(error) or type(error).__name__) from error


async def _read_at_most(response: aiohttp.ClientResponse, max_bytes: int, url: str) -> bytes:
    parts: list[bytes] = []
    n_bytes = 0
    async for part in response.content.iter_chunked(1 << 16):
        n_bytes += len(part)
        if n_bytes > max_bytes:
            raise _fetch_error(url, f"the file has more than {max_bytes // MIB} MiB")
        parts.append(part)
    return b"".join(parts)


def _check_host(url: str, allowed: tuple[str, ...]) -> None:
    """Check that the operator allows the host of a URL, and its port unless it is the default of the scheme.

    Raises:
        ProblemError: 422.
        ValueError: it is not a URL, or has a user name or a password, which the gateway would send.
    """
    parsed = yarl.URL(url)
    if parsed.raw_user is not None or parsed.raw_password is not None:
        raise ValueError("expected a URL without user name and password")
    host = parsed.host or ""
    names = {f"{host}:{parsed.port}", *([host] if parsed.is_default_port() else [])}
    if parsed.scheme not in ("http", "https") or not names & {each.lower() for each in allowed}:
        known = ", ".join(allowed) or "none"
        raise ProblemError(
            422,
            "host-not-allowed",
            "The host of the URL is not allowed",
            f"expected a URL on one of the hosts that the operator allows ({known}), got host {host!r} and port "
            f"{parsed.port}; upload the file instead",
            argument="url",
        )


def _fetch_error(url: str, why: str) -> ProblemError:
    return ProblemError(
        422,
        "not-fetched",
        "The file cannot be fetched",
        f"{_without_password(url)[:200]}: {why}; upload the file instead",
        argument="url",
    )


def _without_password(url: str) -> str:
    """Return a URL, also an invalid one, without the part before an @ in the name of its host."""
    return re.sub(r"\A([a-z]+://)[^/?#]*@", r"\1", url, flags=re.IGNORECASE)
