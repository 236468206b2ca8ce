"""Readiness notifications to systemd, for units of `Type=notify`.

Protocol: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

_VARIABLE: Final = "NOTIFY_SOCKET"


class ServiceManager:
    """Sends the state of this process to the service manager that started it; does nothing without one."""

    def __init__(self, address: str | None) -> None:
        """Set the address of the manager's datagram socket.

        Args:
            address: a path, or an abstract name after "@"; None or empty if there is no manager.
        """
        self._address = "\0" + address[1:] if address and address.startswith("@") else address

    @classmethod
    def from_environment(cls) -> ServiceManager:
        """Return the manager in NOTIFY_SOCKET, and remove the variable so that child processes do not get it."""
        return cls(os.environ.pop(_VARIABLE, None))

    def ready(self, status: str) -> None:
        """Report that the service is ready."""
        self._send(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        # Only the manager needs this; a service must not fail because the manager does not listen.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
        ):
            out.sendto(state.encode(), self._address)
