"""Events in a Valkey or Redis server, for the servers of several machines.

| key | holds |
|---|---|
| `PREFIX:users` | sorted set of the pseudonyms that have events, all with the same score, hence in their own order |
| `PREFIX:count` | number of events |
| `PREFIX:<user>` | sorted set of packed events, which begin with their ids, by the time they happened |
| `PREFIX:<user>:ids` | set of the ids in it |

Scripts change the keys together. A single server or a primary with replicas is supported, a cluster is not.
"""

from __future__ import annotations

import json
import math
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from tritone_serving.events.address import ValkeyAddress
from tritone_serving.events.event import EVENT_KINDS, ID_BYTES, Event
from tritone_serving.events.exceptions import (
    EventStoreDamagedError,
    EventStoreFullError,
    EventStoreUnavailableError,
    EventStoreUrlError,
)
from tritone_serving.events.store import read_cursor

PAUSE_S: Final = 0.5  # after a failure, calls fail at once for so long instead of waiting for a server that is down
_EVENTS_AT_ONCE: Final = 256  # appended by one script, during which the server does nothing else
_USERS_AT_ONCE: Final = 256
_PRUNED_AT_ONCE: Final = 1_000  # events of one user
_CONNECTIONS: Final = 16
# id, kind, time of arrival and seconds played (NaN if unknown); the track, and after a zero byte the context follow
_HEADER: Final = struct.Struct(f">{ID_BYTES}sBdd")

_APPEND: Final = """
local most, at, is_new, n_added = tonumber(ARGV[1]), 2, {}, 0
for k = 3, #KEYS, 2 do
  local user, n, added = ARGV[at], tonumber(ARGV[at + 1]), 0
  at = at + 2
  for _ = 1, n do
    local new = redis.call('SADD', KEYS[k + 1], string.sub(ARGV[at + 1], 1, 16))
    if new == 1 then
      redis.call('ZADD', KEYS[k], ARGV[at], ARGV[at + 1])
      added = added + 1
    end
    is_new[#is_new + 1] = new
    at = at + 2
  end
  if added > 0 then
    local over = redis.call('ZCARD', KEYS[k]) - most
    if over > 0 then
      local popped = redis.call('ZPOPMIN', KEYS[k], over)
      for i = 1, #popped, 2 do redis.call('SREM', KEYS[k + 1], string.sub(popped[i], 1, 16)) end
      added = added - over
    end
    redis.call('ZADD', KEYS[1], 0, user)
    n_added = n_added + added
  end
end
redis.call('INCRBY', KEYS[2], n_added)
return is_new
"""
_FORGET: Final = """
local n = redis.call('ZCARD', KEYS[3])
redis.call('DEL', KEYS[3], KEYS[4])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('DECRBY', KEYS[2], n)
return n
"""
_PRUNE: Final = """
local function remove(members)
  for _, member in ipairs(members) do
    redis.call('ZREM', KEYS[3], member)
    redis.call('SREM', KEYS[4], string.sub(member, 1, 16))
  end
  return #members
end
local limit = tonumber(ARGV[4])
local n = remove(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. ARGV[2], 'LIMIT', 0, limit))
local over = math.min(redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[3]), limit)
if over > 0 then n = n + remove(redis.call('ZRANGE', KEYS[3], 0, over - 1)) end
if redis.call('EXISTS', KEYS[3]) == 0 then redis.call('ZREM', KEYS[1], ARGV[1]) end
redis.call('DECRBY', KEYS[2], n)
return n
"""


class ValkeyEventStore:
    """An `EventStore` in a Valkey or Redis server; the first method call connects to it."""

    def __init__(self, address: ValkeyAddress) -> None:
        """Create the client.

        Raises:
            EventStoreUrlError: the package `valkey` is not installed, or the password file cannot be read.
        """
        try:
            import valkey
            import valkey.backoff
            import valkey.retry
        except ImportError as error:
            raise EventStoreUrlError(
                "event store: the client of Valkey is not installed; run: pip install 'tritone[backends]'"
            ) from error
        self._errors = valkey.exceptions
        self._address = address
        self._retention = address.retention
        self._name = f"event store {address.host}:{address.port}"
        tls: dict[str, Any] = (
            {"ssl": True, "ssl_check_hostname": True, "ssl_ca_certs": address.ca_file and str(address.ca_file)}
            if address.has_tls
            else {}
        )
        self._client: Any = valkey.Valkey(
            host=address.host,
            port=address.port,
            db=address.database,
            username=address.user,
            password=address.password(),
            socket_timeout=address.timeout_s,
            socket_connect_timeout=address.timeout_s,
            socket_keepalive=True,
            max_connections=_CONNECTIONS,
            # Once more if a connection from before a restart of the server was used.
            retry=valkey.retry.Retry(valkey.backoff.NoBackoff(), 1, (valkey.exceptions.ConnectionError,)),
            client_name="tritone-events",
            **tls,
        )
        self._scripts = [self._client.register_script(each) for each in (_APPEND, _FORGET, _PRUNE)]
        self._lock = threading.Lock()
        self._paused_until_s = 0.0
        self._users, self._count = f"{address.prefix}:users", f"{address.prefix}:count"

    def append(self, events: Sequence[Event]) -> list[bool]:
        is_new: list[bool] = []
        for start in range(0, len(events), _EVENTS_AT_ONCE):
            is_new += self._append(events[start : start + _EVENTS_AT_ONCE])
        return is_new

    def _append(self, events: Sequence[Event]) -> list[bool]:
        by_user: dict[str, list[int]] = {}
        for index, event in enumerate(events):
            by_user.setdefault(event.user, []).append(index)
        keys = [self._users, self._count]
        args: list[Any] = [self._retention.most_per_user]
        for user, indices in by_user.items():
            keys += self._keys(user)
            args += [user, len(indices)]
            for index in indices:
                args += [repr(events[index].at), _packed(events[index])]
        with self._translated():
            answers = self._scripts[0](keys=keys, args=args)
        is_new = [False] * len(events)
        for index, new in zip((each for indices in by_user.values() for each in indices), answers, strict=True):
            is_new[index] = bool(new)
        return is_new

    def latest(self, users: Sequence[str], most: int) -> list[list[Event]]:
        if not users or most < 1:
            return [[] for _ in users]
        cutoff = repr(self._retention.cutoff(time.time()))
        with self._translated():
            pipeline = self._client.pipeline(transaction=False)
            for user in users:
                pipeline.zrevrangebyscore(self._keys(user)[0], "+inf", cutoff, 0, most, withscores=True)
            answers = pipeline.execute()
            return [
                [_unpacked(user, member, at) for member, at in reversed(found)]
                for user, found in zip(users, answers, strict=True)
            ]

    def forget(self, user: str) -> int:
        with self._translated():
            return int(self._scripts[1](keys=[self._users, self._count, *self._keys(user)], args=[user]))

    def scan(self, after: str = "", limit: int = 1_000) -> list[Event]:
        user, at, id_ = read_cursor(after)
        cutoff = self._retention.cutoff(time.time())
        found: list[Event] = []
        with self._translated():
            start = f"[{user}" if user else "-"
            while len(found) < limit:
                users = [each.decode() for each in self._client.zrangebylex(self._users, start, "+", 0, _USERS_AT_ONCE)]
                if not users:
                    break
                for each, since in self._until(users, limit - len(found)):
                    first = max(cutoff, at) if each == user else cutoff
                    rows = self._client.zrangebyscore(since, repr(first), "+inf", withscores=True)
                    events = [_unpacked(each, member, score) for member, score in rows]
                    found += [event for event in events if each != user or (event.at, event.id) > (at, id_)]
                    start = f"({each}"
        return found[:limit]

    def _until(self, users: list[str], limit: int) -> list[tuple[str, str]]:
        """Return as many of the users, with the keys of their events, as have at least `limit` events, or all."""
        pipeline = self._client.pipeline(transaction=False)
        for user in users:
            pipeline.zcard(self._keys(user)[0])
        chosen, total = [], 0
        for user, n_events in zip(users, pipeline.execute(), strict=True):
            chosen.append((user, self._keys(user)[0]))
            total += n_events
            if total >= limit:
                break
        return chosen

    def count(self) -> int:
        with self._translated():
            return int(self._client.get(self._count) or 0)

    def prune(self, now: float | None = None) -> int:
        cutoff = repr(self._retention.cutoff(time.time() if now is None else now))
        n_events, start = 0, "-"
        with self._translated():
            while users := [
                each.decode() for each in self._client.zrangebylex(self._users, start, "+", 0, _USERS_AT_ONCE)
            ]:
                for user in users:
                    keys = [self._users, self._count, *self._keys(user)]
                    args = [user, cutoff, self._retention.most_per_user, _PRUNED_AT_ONCE]
                    while removed := int(self._scripts[2](keys=keys, args=args)):
                        n_events += removed
                start = f"({users[-1]}"
        return n_events

    def advice(self) -> list[str]:
        with self._translated():
            try:
                persistence = self._client.info("persistence")
                policy = self._client.info("memory").get("maxmemory_policy", "noeviction")
            except self._errors.ResponseError:
                return []  # the account lacks the permission for INFO
        found = []
        if not persistence.get("aof_enabled"):
            found.append(f"{self._name} loses the latest events when it stops; set appendonly yes")
        if policy != "noeviction":
            found.append(f"{self._name} may drop events when its memory is full; set maxmemory-policy noeviction")
        return found

    def close(self) -> None:
        self._client.close()

    def _keys(self, user: str) -> tuple[str, str]:
        key = f"{self._address.prefix}:{user}"
        return key, f"{key}:ids"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate the errors of the client; fail at once for some time after the server was down."""
        with self._lock:
            left_s = self._paused_until_s - time.monotonic()
        if left_s > 0:
            raise EventStoreUnavailableError(f"{self._name}: it is down; trying again in {left_s:.1f} s")
        errors = self._errors
        try:
            yield
        except errors.OutOfMemoryError as error:
            raise EventStoreFullError(
                f"{self._name}: its memory is full ({error}); raise maxmemory, or run `tritone events prune`"
            ) from error
        except errors.ReadOnlyError as error:
            raise EventStoreUnavailableError(
                f"{self._name}: it is a read-only replica; use the address of the primary"
            ) from error
        except (errors.AuthenticationError, errors.NoPermissionError) as error:
            self._pause()
            raise EventStoreUnavailableError(
                f"{self._name}: it refuses this user ({error}); check user and password"
            ) from error
        except errors.ResponseError as error:
            if "WRONGTYPE" in str(error) or "not an integer" in str(error):
                raise EventStoreDamagedError(
                    f"{self._name}: keys that begin with {self._address.prefix} belong to another program; choose "
                    f"another prefix"
                ) from error
            if str(error).startswith("MISCONF"):  # snapshots cannot be written
                raise EventStoreFullError(f"{self._name}: it cannot write to its disk ({error}); free space") from error
            raise EventStoreUnavailableError(f"{self._name}: it reported an error ({error}); see its log") from error
        except (errors.ValkeyError, OSError) as error:
            self._pause()
            raise EventStoreUnavailableError(
                f"{self._name}: it does not answer ({error}); start it, or try again"
            ) from error

    def _pause(self) -> None:
        with self._lock:
            self._paused_until_s = time.monotonic() + PAUSE_S


def _packed(event: Event) -> bytes:
    header = _HEADER.pack(
        bytes.fromhex(event.id),
        EVENT_KINDS.index(event.kind),
        event.received,
        float("nan") if event.played_s is None else event.played_s,
    )
    packed = header + event.track.encode()
    if event.context:
        packed += b"\0" + json.dumps(dict(event.context), ensure_ascii=False, separators=(",", ":")).encode()
    return packed


def _unpacked(user: str, member: bytes, at: float) -> Event:
    try:
        id_, kind, received, played_s = _HEADER.unpack_from(member)
        track, _, context = member[_HEADER.size :].partition(b"\0")
        return Event(
            id_.hex(),
            user,
            track.decode(),
            EVENT_KINDS[kind],
            at,
            None if math.isnan(played_s) else played_s,
            json.loads(context) if context else None,
            received,
        )
    except (struct.error, ValueError, IndexError) as error:
        raise EventStoreDamagedError("event store: expected a packed event, got something else") from error
