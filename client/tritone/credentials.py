"""Credentials for the stored data of users, and the lookup of the operator's own key on the operator's machine."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tritone.endpoints import Endpoint
from tritone.exceptions import InvalidInputError
from tritone.secret_files import LONGEST_SECRET, SECRET, SecretFile, checked_secret

SERVICE_KEY_HEADER: Final = "tritone-service-key"
USER_TOKEN_HEADER: Final = "tritone-user-token"  # noqa: S105 - a header's name
_FOUND_FOR_S: Final = 1.0  # how long a found key is used before the server's owner is checked again
_LISTENING: Final = "0A"  # a socket's state in /proc/net/tcp
_SOCKET_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def default_key_file() -> Path:
    """Return the path where `tritone serve` keeps this user's service key.

    Raises:
        RuntimeError: this user has no home folder, and XDG_STATE_HOME is not set.
    """
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "tritone" / "service" / "service.key"


class Credentials:
    """Credential headers for requests about users; neither shown in `repr` nor pickled."""

    def __init__(
        self,
        *,
        service_key: str | None,
        service_key_file: str | os.PathLike[str] | None = None,
        user_token: str | None,
        endpoints: Sequence[Endpoint],
        finds_own_key: bool,
    ) -> None:
        """Check the given credentials.

        Args:
            service_key: None to look for this user's own key; empty to send none.
            service_key_file: file with the service key, read again when it changes.
            user_token: a token for one user.
            endpoints: where requests go.
            finds_own_key: whether to send this user's own service key if no credential is given and all `endpoints` are
                servers of this user on this machine.

        Raises:
            InvalidInputError: a value cannot be sent, or several are given.
        """
        sends_key = service_key is not None and not (isinstance(service_key, str) and not service_key)
        given = {"service_key": sends_key, "service_key_file": service_key_file, "user_token": user_token}
        names = [name for name, value in given.items() if value is not None and value is not False]
        if len(names) > 1:
            raise InvalidInputError(
                f"{' and '.join(names)} are both given: expected only one of them", argument=names[0], reason="conflict"
            )
        self._headers: dict[str, str] = {}
        if sends_key:
            self._headers[SERVICE_KEY_HEADER] = checked_secret("service_key", service_key)
        elif user_token is not None:
            self._headers[USER_TOKEN_HEADER] = checked_secret("user_token", user_token)
        self._key_file = None if service_key_file is None else SecretFile("service_key", service_key_file)
        self._ports = {endpoint.port for endpoint in endpoints}
        is_local = bool(endpoints) and all(map(is_loopback, endpoints))
        self._finds = finds_own_key and is_local and service_key is None and not names
        self._found: dict[str, str] = {}
        self._found_until_s = 0.0

    def headers(self, user_token: str | None = None) -> Mapping[str, str]:
        """Return the headers for a request about a user.

        Args:
            user_token: sent instead of the client's credentials.

        Raises:
            InvalidInputError: the token cannot be sent.
        """
        if user_token is not None:
            return {USER_TOKEN_HEADER: checked_secret("user_token", user_token)}
        if self._key_file is not None:
            secret = self._key_file.secret()
            return {} if secret is None else {SERVICE_KEY_HEADER: secret}
        if not self._finds:
            return self._headers
        now_s = time.monotonic()
        if now_s >= self._found_until_s:
            try:
                key = own_key(default_key_file(), self._ports)
            except RuntimeError:  # no home folder, so no key file
                key = None
            self._found = {} if key is None else {SERVICE_KEY_HEADER: key}
            self._found_until_s = now_s + _FOUND_FOR_S if key is not None else 0.0
        return self._found

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._headers) or self._key_file or 'none'})"

    def __reduce__(self) -> Any:
        raise TypeError("credentials cannot be pickled; create a client in each process")


def is_loopback(endpoint: Endpoint) -> bool:
    """Return whether an endpoint's address is a loopback address."""
    return is_loopback_host(endpoint.host)


def is_loopback_host(host: str) -> bool:
    """Return whether a host name or address is that of this machine's loopback interface."""
    return host in ("localhost", "::1") or bool(re.fullmatch(r"127(\.\d{1,3}){3}", host))


def own_key(path: Path, ports: set[int]) -> str | None:
    """Return this user's service key if only processes of this user or root listen on the ports; None otherwise.

    This keeps the key from a server that another user of the machine has started on the port. It cannot tell a server
    from a forwarded port (`ssh -L`) of this user.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
                return None
            key = file.read(LONGEST_SECRET + 1).strip()
    except (OSError, ValueError, AttributeError):  # AttributeError: these flags and ids exist only on POSIX
        return None
    if len(key) > LONGEST_SECRET or not SECRET.fullmatch(key):
        return None
    owners = _owners(ports)
    return key if set(owners) == ports and set().union(*owners.values()) <= {os.getuid(), 0} else None


def _owners(ports: set[int]) -> dict[int, set[int]]:
    """Return the user ids of all listening sockets by port; empty on systems without /proc/net."""
    owners: dict[int, set[int]] = {}
    for table in _SOCKET_TABLES:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except (OSError, ValueError):
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 7 and fields[3] == _LISTENING and (port := int(fields[1].rpartition(":")[2], 16)) in ports:
                owners.setdefault(port, set()).add(int(fields[7]))
    return owners
