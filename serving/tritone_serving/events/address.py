"""Addresses of event stores, with their settings.

| address | store |
|---|---|
| `sqlite:///var/lib/tritone/events.db` | a file, for the servers of one machine; the path is absolute |
| `valkey://host:6379/0` | a Valkey or Redis server (`redis://` too), for several machines |
| `valkeys://host:6379/0` | the same with TLS (`rediss://` too) |

Settings follow the address: `sqlite:///events.db?retention_days=90&most_per_user=1000`. A password is never part of it,
because command lines are visible to all users of a machine: it is in TRITONE_EVENTS_PASSWORD, or in the file that
`password_file` names.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from tritone_serving.events.exceptions import EventStoreUrlError

EVENTS_VARIABLE: Final = "TRITONE_EVENTS"  # the address of the store, which `tritone serve` sets for its backends
PASSWORD_VARIABLE: Final = "TRITONE_EVENTS_PASSWORD"  # noqa: S105 - a variable's name
NO_EVENTS: Final = "off"  # instead of an address
DEFAULT_RETENTION_DAYS: Final = 180.0
DEFAULT_MOST_PER_USER: Final = 2_000
DEFAULT_PORT: Final = 6_379
DEFAULT_PREFIX: Final = "tritone:events"
_LARGEST_MOST_PER_USER: Final = 100_000
_LONGEST_RETENTION_DAYS: Final = 36_500.0
_LONGEST_TIMEOUT_S: Final = 30.0
_DAY_S: Final = 86_400.0
_PLAIN: Final = ("valkey", "redis")
_TLS: Final = ("valkeys", "rediss")


@dataclass(frozen=True)
class EventRetention:
    """How many events are kept for how long.

    Attributes:
        days: events are kept for so many days after they happened.
        most_per_user: number of events of a user, of which the latest are kept.
    """

    days: float = DEFAULT_RETENTION_DAYS
    most_per_user: int = DEFAULT_MOST_PER_USER

    def cutoff(self, now: float) -> float:
        """Return the time, in seconds since 1970, before which events are dropped."""
        return now - self.days * _DAY_S


@dataclass(frozen=True)
class SqliteAddress:
    """A file.

    Attributes:
        path: absolute.
        timeout_s: time to wait for other writers.
    """

    path: Path
    retention: EventRetention = EventRetention()
    timeout_s: float = 2.0

    def exists(self) -> bool:
        """Return whether there is a file; also true if it cannot be looked up, which opening it reports."""
        try:
            self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            pass
        return True


@dataclass(frozen=True)
class ValkeyAddress:
    """A Valkey or Redis server.

    Attributes:
        database: its number.
        user: name for the password; None for the default user.
        password_file: file with the password; None uses TRITONE_EVENTS_PASSWORD, if that is set.
        ca_file: PEM file with the authority of the server's certificate; None uses the system's.
        prefix: of all keys.
        timeout_s: time limit of connecting, and of each answer.
    """

    host: str
    port: int = DEFAULT_PORT
    database: int = 0
    user: str | None = None
    password_file: Path | None = None
    has_tls: bool = False
    ca_file: Path | None = None
    prefix: str = DEFAULT_PREFIX
    retention: EventRetention = EventRetention()
    timeout_s: float = 0.5

    def password(self) -> str | None:
        """Return the password, None if there is none.

        Raises:
            EventStoreUrlError: the file cannot be read.
        """
        if self.password_file is None:
            return os.environ.get(PASSWORD_VARIABLE) or None
        try:
            return self.password_file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise EventStoreUrlError(
                f"invalid event store: password_file {self.password_file} cannot be read ({reason})"
            ) from error


def store_url() -> str | None:
    """Return the address of this server's store: that in TRITONE_EVENTS, or else a file in this user's state folder.

    Returns:
        None if TRITONE_EVENTS is `off`.

    Raises:
        EventStoreUrlError: there is no state folder.
    """
    named = os.environ.get(EVENTS_VARIABLE)
    if named:
        return None if named == NO_EVENTS else named
    try:
        state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    except RuntimeError as error:
        raise EventStoreUrlError(
            f"no event store: expected a home folder of this user or XDG_STATE_HOME, got neither; name a store in "
            f"{EVENTS_VARIABLE}"
        ) from error
    return f"sqlite://{quote(str(Path(state).absolute() / 'tritone' / 'events.db'))}"


def existing_store_url(given: str | None = None) -> str | None:
    """Return the address of a store from which events can be read.

    Args:
        given: the address, or `off`; None for that of this user's server, as `store_url`.

    Returns:
        None if the address is `off`, or if none is given and the file of the server does not exist.

    Raises:
        EventStoreUrlError: the address is invalid, or there is no state folder.
    """
    found = given or store_url()
    if found is None or found == NO_EVENTS:
        return None
    address = parse_address(found)
    is_missing = isinstance(address, SqliteAddress) and not address.exists()
    return None if is_missing and not given else found


def parse_address(url: str) -> SqliteAddress | ValkeyAddress:
    """Return the address of a store; nothing is opened or read.

    Raises:
        EventStoreUrlError: the address or a setting is invalid.
    """
    parsed = _split(url)
    settings = _Settings(parsed.query)
    retention = EventRetention(
        settings.number("retention_days", DEFAULT_RETENTION_DAYS, 0.001, _LONGEST_RETENTION_DAYS),
        int(settings.number("most_per_user", DEFAULT_MOST_PER_USER, 1, _LARGEST_MOST_PER_USER)),
    )
    if parsed.scheme == "sqlite":
        timeout_s = settings.number("timeout_s", SqliteAddress.timeout_s, 0.01, _LONGEST_TIMEOUT_S)
        settings.check_unknown()
        return SqliteAddress(_path(parsed), retention, timeout_s)
    address = ValkeyAddress(
        host=parsed.hostname or "",
        port=parsed.port or DEFAULT_PORT,
        database=_database(parsed.path),
        user=unquote(parsed.username) if parsed.username else None,
        password_file=settings.path("password_file"),
        has_tls=parsed.scheme in _TLS,
        ca_file=settings.path("ca_file"),
        prefix=settings.text("prefix") or DEFAULT_PREFIX,
        retention=retention,
        timeout_s=settings.number("timeout_s", ValkeyAddress.timeout_s, 0.01, _LONGEST_TIMEOUT_S),
    )
    settings.check_unknown()
    return address


def _split(url: str) -> SplitResult:
    try:
        parsed = urlsplit(url)
        _ = parsed.port
    except ValueError as error:
        raise EventStoreUrlError(f"invalid event store {_without_secret(url)!r}: {error}") from None
    if parsed.scheme not in ("sqlite", *_PLAIN, *_TLS) or (parsed.scheme != "sqlite" and not parsed.hostname):
        raise EventStoreUrlError(
            f"invalid event store: expected sqlite:///path/events.db or valkey://host:port/database, got "
            f"{_without_secret(url)!r}"
        )
    if parsed.password is not None:
        raise EventStoreUrlError(
            f"invalid event store: expected no password in the address, which all users of a machine can read; put it "
            f"into {PASSWORD_VARIABLE}, or into a file: ?password_file=FILE"
        )
    return parsed


def _without_secret(url: str) -> str:
    return url.rsplit("@", 1)[-1][:100]


def _path(parsed: SplitResult) -> Path:
    path = unquote(parsed.path)
    if parsed.netloc or not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise EventStoreUrlError(
            f"invalid event store: expected sqlite:///path/events.db with an absolute path, got "
            f"{_without_secret(parsed.geturl())!r}"
        )
    return Path(path)


def _database(path: str) -> int:
    text = path.strip("/") or "0"
    if not text.isdecimal() or len(text) > 5:
        raise EventStoreUrlError(f"invalid event store: expected the number of a database after the port, got {path!r}")
    return int(text)


class _Settings:
    """Settings after the `?` of an address."""

    def __init__(self, query: str) -> None:
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=20)
        except ValueError:
            raise EventStoreUrlError("invalid event store: expected settings as in ?retention_days=90") from None
        self._left = dict(pairs)

    def text(self, name: str) -> str:
        return self._left.pop(name, "")

    def path(self, name: str) -> Path | None:
        text = self.text(name)
        return Path(text) if text else None

    def number(self, name: str, default: float, least: float, largest: float) -> float:
        text = self.text(name)
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= largest:
            raise EventStoreUrlError(
                f"invalid event store: expected {name} to be a number from {least:g} to {largest:g}, got {text!r}"
            )
        return value

    def check_unknown(self) -> None:
        if self._left:
            raise EventStoreUrlError(f"invalid event store: unknown setting {next(iter(self._left))!r}")
