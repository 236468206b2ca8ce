"""Rate limits of API keys, counted in memory or in a Valkey server that several gateways share.

While the store fails, each worker counts in memory: rate limits protect capacity, so refusing all callers would be
worse than counting the requests of each gateway separately for some time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from tritone import MissingExtraError
from tritone_gateway.security.keys import ApiKey

STORE_TIMEOUT_S: Final = 0.5
RETRY_S: Final = 2.0  # time between two attempts to use a store that has failed
_MAX_CONNECTIONS: Final = 32
_LOGGER: Final = logging.getLogger(__name__)


class RateLimits:
    """Counts the requests of keys that have a rate limit.

    A store that does not respond delays a request by at most `STORE_TIMEOUT_S`. Once it has failed, only one request
    every `RETRY_S` tries it.
    """

    def __init__(
        self, *, store: str | None = None, n_workers: int = 1, on_fallback: Callable[[], None] = lambda: None
    ) -> None:
        """Create the counters; the store is first used by a request.

        Args:
            store: URL of a Valkey or Redis server that several gateways share; None to count in memory.
            n_workers: number of workers that share a key's rate when requests are counted in memory.
            on_fallback: called for each request that is counted in memory because the store fails.

        Raises:
            MissingExtraError: the client of the store is not installed.
            ValueError: the URL is invalid.
        """
        self._n_workers = n_workers
        self._on_fallback = on_fallback
        self._local = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._pool = None if store is None else _connection_pool(store)
        self._shared = None if self._pool is None else SlidingWindowCounterRateLimiter(_storage(self._pool))
        self._items: dict[tuple[str, int], RateLimitItem] = {}
        self._failing = False
        self._retry_at_s = 0.0

    async def wait_s(self, key: ApiKey) -> int | None:
        """Count a request of a key.

        Returns:
            None if the request is within the rate, or the key has none; otherwise the seconds until one is allowed.
        """
        if key.rate is None:
            return None
        if self._shared is not None:
            now_s = time.monotonic()
            if not self._failing or now_s >= self._retry_at_s:
                self._retry_at_s = now_s + RETRY_S  # while the store fails, only one request tries it
                try:
                    async with asyncio.timeout(STORE_TIMEOUT_S):
                        wait_s = await _counted(self._shared, self._item(key.rate, 1), key.id)
                except (
                    Exception
                ) as error:  # any exception: another service at this address makes the client fail in many ways
                    self._failed(error)
                else:
                    self._recovered()
                    return wait_s
            self._on_fallback()
        return await _counted(self._local, self._item(key.rate, self._n_workers), key.id)

    async def close(self) -> None:
        """Close the connections to the store."""
        if self._pool is not None:
            await self._pool.disconnect()

    def _item(self, text: str, n_workers: int) -> RateLimitItem:
        if (text, n_workers) not in self._items:
            amount, _, unit = text.partition("/")
            self._items[text, n_workers] = parse(f"{math.ceil(int(amount) / n_workers)}/{unit}")
        return self._items[text, n_workers]

    def _failed(self, error: Exception) -> None:
        self._retry_at_s = time.monotonic() + RETRY_S
        if not self._failing:
            why = f"no response within {STORE_TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else error
            _LOGGER.warning(
                "the rate store fails (%s): expected a Valkey or Redis server at the address of --rate-store; until it "
                "responds, each worker counts in memory",
                why,
            )
        self._failing = True

    def _recovered(self) -> None:
        if self._failing:
            _LOGGER.warning("the rate store responds again")
        self._failing = False


async def _counted(limiter: SlidingWindowCounterRateLimiter, item: RateLimitItem, key_id: str) -> int | None:
    if await limiter.hit(item, key_id):
        return None
    reset_s, _ = await limiter.get_window_stats(item, key_id)
    return max(1, math.ceil(reset_s - time.time()))


def _connection_pool(url: str) -> Any:
    try:
        from valkey.asyncio import BlockingConnectionPool
    except ImportError as error:
        raise MissingExtraError(
            "--rate-store needs the package valkey, which is not installed: pip install 'tritone[gateway]'"
        ) from error
    # Valkey's client also works with Redis, but accepts only URLs that begin with valkey:// or valkeys://.
    scheme, _, address = url.partition("://")
    return BlockingConnectionPool.from_url(
        f"{scheme.replace('redis', 'valkey')}://{address}",
        max_connections=_MAX_CONNECTIONS,
        timeout=STORE_TIMEOUT_S,
        socket_timeout=STORE_TIMEOUT_S,
        socket_connect_timeout=STORE_TIMEOUT_S,
    )


def _storage(pool: Any) -> RedisStorage:
    return RedisStorage("async+valkey://", connection_pool=pool)
