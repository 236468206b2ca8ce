"""Many calls at once: ordered, with bounded concurrency and memory.

Results come in the order of the inputs. At most `concurrency` calls run, and at most twice as many inputs are
read ahead of the result that is returned next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from tritone.arguments import check_count
from tritone.exceptions import ClientError, InvalidInputError

if TYPE_CHECKING:
    import asyncio

A = TypeVar("A")
T = TypeVar("T")

OnError: TypeAlias = Literal["raise", "return"]
OnProgress: TypeAlias = Callable[[int], None]
MAX_CONCURRENCY = 256


def map_ordered(
    call: Callable[[A], T],
    inputs: Iterable[A],
    *,
    concurrency: int,
    on_error: OnError,
    on_progress: OnProgress | None,
) -> Iterator[T | ClientError]:
    """Yield the result of each input in order; see `MusicClient.classify_many`."""
    _check(concurrency, on_error)
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="tritone-many")
    pending: deque[Future[T]] = deque()
    source = iter(inputs)
    n_done = 0
    try:
        while True:
            while len(pending) < 2 * concurrency:
                try:
                    pending.append(pool.submit(call, next(source)))
                except StopIteration:
                    break
            if not pending:
                return
            result = _settled(pending.popleft(), on_error)
            n_done += 1
            if on_progress is not None:
                on_progress(n_done)
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


async def amap_ordered(
    call: Callable[[A], Awaitable[T]],
    inputs: Iterable[A],
    *,
    concurrency: int,
    on_error: OnError,
    on_progress: OnProgress | None,
) -> AsyncIterator[T | ClientError]:
    """Yield the result of each input in order; see `AsyncMusicClient.classify_many`."""
    import asyncio  # imported here, because synchronous clients do not need it

    _check(concurrency, on_error)
    free = asyncio.Semaphore(concurrency)

    async def limited(value: A) -> T:
        async with free:
            return await call(value)

    pending: deque[asyncio.Task[T]] = deque()
    source = iter(inputs)
    n_done = 0
    try:
        while True:
            while len(pending) < 2 * concurrency:
                try:
                    pending.append(asyncio.ensure_future(limited(next(source))))
                except StopIteration:
                    break
            if not pending:
                return
            try:
                result: T | ClientError = await pending[0]
            except ClientError as error:
                if on_error == "raise":
                    raise
                result = error
            pending.popleft()
            n_done += 1
            if on_progress is not None:
                on_progress(n_done)
            yield result
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


def _settled(future: Future[T], on_error: OnError) -> T | ClientError:
    try:
        return future.result()
    except ClientError as error:
        if on_error == "raise":
            raise
        return error


def _check(concurrency: int, on_error: OnError) -> None:
    check_count("concurrency", concurrency, least=1, most=MAX_CONCURRENCY)
    if on_error not in ("raise", "return"):
        raise InvalidInputError(
            f"invalid on_error: expected 'raise' or 'return', got {on_error!r}", argument="on_error"
        )
