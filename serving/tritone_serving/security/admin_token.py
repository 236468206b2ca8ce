"""Create and store the admin token for this user only, and remove secrets from the server's command line."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

import platformdirs

from tritone.atomic import PRIVATE_FILE, write_atomically
from tritone_serving._exceptions import OptionsError


def state_folder() -> Path:
    """Return the folder with logs and tokens of this user's servers; it need not exist.

    Raises:
        OptionsError: this user has no home folder, and XDG_STATE_HOME is not set.
    """
    try:
        return _state_folder()
    except RuntimeError as error:
        raise OptionsError(
            "no folder for the logs and admin tokens of servers: expected a home folder of this user or "
            "XDG_STATE_HOME, got neither; set XDG_STATE_HOME to a folder that this user can write"
        ) from error


def make_state_folder(*, for_log: bool, for_token: bool) -> Path:
    """Return `state_folder`, created with mode 700.

    Args:
        for_log: whether the server's log goes there, for the error message.
        for_token: whether the admin token goes there.

    Raises:
        OptionsError: it cannot be created or used.
    """
    uses = {"log": ("log", "--log-file", for_log), "token": ("admin token", "--admin-token-file", for_token)}
    what = " and ".join(name for name, _, is_used in uses.values() if is_used)
    remedy = (
        "set XDG_STATE_HOME to a folder that this user can write, or give "
        f"{' and '.join(option for _, option, is_used in uses.values() if is_used)}"
    )
    try:
        folder = _state_folder()
    except RuntimeError as error:
        raise OptionsError(
            f"no folder for the server's {what}: expected a home folder of this user or XDG_STATE_HOME, got neither; "
            f"{remedy}"
        ) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise OptionsError(
            f"the folder for the server's {what} cannot be used: expected that this user can create and write "
            f"{folder}, got {error.strerror}; {remedy}"
        ) from error
    return folder


def _state_folder() -> Path:
    """Return the folder; RuntimeError if this user has no home folder."""
    return platformdirs.user_state_path("tritone", appauthor=False) / "servers"


def new_token() -> str:
    """Make a token of 256 random bits, in letters, digits, '-' and '_'."""
    return secrets.token_urlsafe(32)


def store_token(path: Path, token: str) -> None:
    """Write a token that only this user can read; an existing file is replaced, whatever its mode."""
    write_atomically(path, token + "\n", mode=PRIVATE_FILE)


def wipe_from_command_line(pid: int, *tokens: str) -> bool:
    """Overwrite secrets where `ps` shows the server's command line.

    Triton 2.51 reads secrets only from its command line (no file, no environment variable), which every user of the
    machine can read. The server copies them when it starts, so the originals can be overwritten. Until then they are
    readable for a moment, unless /proc is mounted with `hidepid=2`.

    Returns:
        whether they were overwritten; the kernel may forbid writing to another process's memory.
    """
    secrets_ = [token.encode() for token in tokens]
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end: 48 and 49 counted from the pid
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            line = memory.read(end - start)
            for secret in secrets_:
                at = line.find(secret)
                while at >= 0:
                    memory.seek(start + at)
                    memory.write(b"*" * len(secret))
                    at = line.find(secret, at + len(secret))
        left = Path(f"/proc/{pid}/cmdline").read_bytes()
        return not any(secret in left for secret in secrets_)
    except (OSError, ValueError, OverflowError):
        return False
