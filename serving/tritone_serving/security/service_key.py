"""The service key: the secret of this server's operator, which gives access to stored data of users.

`tritone serve` creates one for this user of the machine and reuses it at each start. Backends receive only its path;
`tritone_serving.security.callers` decides what a caller may use.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tritone.atomic import PRIVATE_FILE, make_private_folder, write_atomically
from tritone.credentials import default_key_file
from tritone_serving._exceptions import OptionsError
from tritone_serving.security.callers import (
    SERVICE_KEY_HEADER,
    SERVICE_KEY_VARIABLE,
    TRUST_CALLERS_VARIABLE,
    USER_TOKEN_HEADER,
    ServiceKeyError,
    read_service_key,
)

if TYPE_CHECKING:
    from tritone_serving.server.options import ServerOptions

_N_BYTES: Final = 32
# HTTP header names keep their case, gRPC's are lower case. The anchors are needed because RE2 matches parts of a name.
_FORWARDED: Final = f"(?i)^({SERVICE_KEY_HEADER}|{USER_TOKEN_HEADER})$"


class NoKeyFolderError(OptionsError):
    """Raised when the default service key cannot be created, for example without a usable home folder."""


def service_key_flags() -> list[str]:
    """Return the server flags that forward credentials to backends as request parameters."""
    return [f"--http-header-forward-pattern={_FORWARDED}", f"--grpc-header-forward-pattern={_FORWARDED}"]


def service_key_environment(options: ServerOptions) -> dict[str, str]:
    """Return the environment variables that configure authorisation in backends; creates the default key if needed.

    The file in TRITONE_SERVICE_KEY_FILE need not exist yet; until it does, no caller is authorised.

    Raises:
        OptionsError: the key cannot be created and a model stores users, or the file in the options is invalid.
    """
    if options.trust_callers:
        return {SERVICE_KEY_VARIABLE: "", TRUST_CALLERS_VARIABLE: "1"}
    try:
        path = str(service_key_file(options.service_key_file))
    except NoKeyFolderError:
        if _stores_users(options):
            raise
        path = ""  # no model needs the key; one that is loaded later treats every user as unknown
    return {SERVICE_KEY_VARIABLE: path, TRUST_CALLERS_VARIABLE: "0"}


def service_key_file(named: Path | None) -> Path:
    """Return the path of the service key.

    Args:
        named: file given at the start, which is checked. None uses the file in TRITONE_SERVICE_KEY_FILE, or else this
            user's own key, which is created if necessary.

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
    try:
        path = default_key_file()
        make_service_key(path)
        read_service_key(path)
    except (OSError, RuntimeError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else "this user has no home folder"
        raise NoKeyFolderError(
            f"the service key, which gives access to stored users, cannot be created ({reason}); set XDG_STATE_HOME to "
            f"a folder that this user can write, give another file with --service-key-file, or give every caller "
            f"access with --trust-callers"
        ) from error
    except ServiceKeyError as error:
        raise OptionsError(str(error)) from None
    return path


def privacy_notes(options: ServerOptions) -> list[str]:
    """Return notes for the operator on who has access to stored users; empty if no served model stores users."""
    if not _stores_users(options):
        return []
    if options.trust_callers:
        return [
            "--trust-callers: everyone who can reach this server can read every user's listening history and friends; "
            "keep it in a private network"
        ]
    path = service_key_file(options.service_key_file)
    if not path.is_file():
        return [f"the service key {path} does not exist: until it does, every user is treated as unknown"]
    return [f"stored data of users requires the service key {path} or a token from `tritone user-token`"]


def _stores_users(options: ServerOptions) -> bool:
    return any(options.repository.glob("*/[0-9]*/recommender.json"))


def make_service_key(path: Path) -> None:
    """Write a new key of 256 random bits unless the file exists; safe if several servers start at once.

    The file has mode 600 in a folder of mode 700, whatever the umask. It has no line end, so that the whole content can
    be passed to a JWT library.

    Raises:
        OSError: it cannot be written.
    """
    make_private_folder(path.parent)
    if not path.exists():
        key = secrets.token_urlsafe(_N_BYTES)
        write_atomically(path, key, mode=PRIVATE_FILE, sync=True, if_exists="keep")
