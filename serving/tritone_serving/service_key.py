"""The service key: the secret of this server's operator, which opens what is stored about users.

`tritone serve` makes one for this user of the machine and uses it again at each start. Backends are given the path
alone; `tritone_serving.recommender.callers` decides what a caller may use.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tritone_client._service_key import default_key_file
from tritone_serving._exceptions import OptionsError
from tritone_serving.recommender.callers import (
    SERVICE_KEY_HEADER,
    SERVICE_KEY_VARIABLE,
    TRUST_CALLERS_VARIABLE,
    USER_TOKEN_HEADER,
    ServiceKeyError,
    read_service_key,
)

if TYPE_CHECKING:
    from tritone_serving.options import ServerOptions

_N_BYTES: Final = 32
# HTTP hands names on as they were written, gRPC in lower case; RE2 would take a part of a name for the whole.
_FORWARDED: Final = f"(?i)^({SERVICE_KEY_HEADER}|{USER_TOKEN_HEADER})$"


def service_key_flags() -> list[str]:
    """The server's flags that hand credentials on to backends, as parameters of the request."""
    return [f"--http-header-forward-pattern={_FORWARDED}", f"--grpc-header-forward-pattern={_FORWARDED}"]


def service_key_environment(options: ServerOptions) -> dict[str, str]:
    """The environment variables by which backends learn whom to authorise; makes the key if none is named.

    A file that TRITONE_SERVICE_KEY_FILE names need not be there yet: until it is, nobody is authorised.

    Raises:
        OptionsError: the key cannot be made, or a file that the options name cannot be used.
    """
    if options.trust_callers:
        return {SERVICE_KEY_VARIABLE: "", TRUST_CALLERS_VARIABLE: "1"}
    return {SERVICE_KEY_VARIABLE: str(service_key_file(options.service_key_file)), TRUST_CALLERS_VARIABLE: "0"}


def service_key_file(named: Path | None) -> Path:
    """Where the service key is.

    Args:
        named: by whoever starts the server, and checked; None takes what TRITONE_SERVICE_KEY_FILE names, else this
            user's own key, which is made if there is none.

    Raises:
        OptionsError: as `service_key_environment`.
    """
    if named is not None:
        try:
            read_service_key(named)
        except ServiceKeyError as error:
            raise OptionsError(f"service_key_file: {error}") from None
        return named.absolute()
    if variable := os.environ.get(SERVICE_KEY_VARIABLE):
        return Path(variable).absolute()
    path = default_key_file()
    try:
        make_service_key(path)
        read_service_key(path)
    except OSError as error:
        raise OptionsError(
            f"{path}: the service key cannot be made ({error.strerror}); name another file with --service-key-file, or "
            f"let every caller use what is stored with --trust-callers"
        ) from error
    except ServiceKeyError as error:
        raise OptionsError(str(error)) from None
    return path


def privacy_notes(options: ServerOptions) -> list[str]:
    """What people should know of who may use what is stored about users; empty where no model stores anything."""
    if not _stores_users(options):
        return []
    if options.trust_callers:
        return [
            "--trust-callers: whoever reaches this server can read every user's listening history and friends; keep it "
            "in a private network"
        ]
    path = service_key_file(options.service_key_file)
    if not path.is_file():
        return [f"there is no service key {path}: until there is, every user is answered as unknown"]
    return [f"users' stored data is for callers with the service key {path}, or with a token of `tritone user-token`"]


def _stores_users(options: ServerOptions) -> bool:
    return any(options.repository.glob("*/[0-9]*/recommender.json"))


def make_service_key(path: Path) -> None:
    """Write a new key of 256 random bits, unless there is one; of two that start at once, one makes it.

    The file has mode 600 in a folder of mode 700, whatever the umask is. It has no line end, so that a JWT library
    may be given the whole content.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    if path.exists():
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(secrets.token_urlsafe(_N_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)  # a rename would replace the key of whoever was first
    finally:
        partial.unlink(missing_ok=True)
