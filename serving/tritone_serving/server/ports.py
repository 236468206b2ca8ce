"""Check and choose the server's ports before it starts, because Triton reports a taken port late and unclearly."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack

from tritone_serving._exceptions import OptionsError, PortTakenError


def claim_ports(host: str | Mapping[str, str], wanted: Mapping[str, int]) -> dict[str, int]:
    """Check that the wanted ports are free, and pick free ones for those given as 0.

    Args:
        host: the address that the server will listen on; one for all options, or by option.
        wanted: port by the option that chose it.

    Returns:
        port by option. Another program could still take one of them before the server does.

    Raises:
        PortTakenError: another program listens on a port.
        OptionsError: this machine does not have the address, or the port requires more rights.
    """
    at = dict.fromkeys(wanted, host) if isinstance(host, str) else host
    ports: dict[str, int] = {}
    with ExitStack() as held:  # all at once, so that no two options get the same free port
        for option, port in wanted.items():
            ports[option] = held.enter_context(_bound(at[option], port, option)).getsockname()[1]
    return ports


def wait_for_ports(ports: Mapping[str, tuple[str, int]], *, timeout_s: float) -> bool:
    """Wait until ports that an ending process still holds are free.

    Args:
        ports: address and port by option.
        timeout_s: how long to wait at most.

    Returns:
        whether all are free.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            claim_ports(
                {option: host for option, (host, _) in ports.items()},
                {option: port for option, (_, port) in ports.items()},
            )
        except PortTakenError:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.1)
        else:
            return True


def _bound(host: str, port: int, option: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # As the server does it, so that connections of an earlier server in TIME_WAIT do not count as taken.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1)  # with SO_REUSEADDR two sockets may bind, but only one may listen
    except socket.gaierror as error:
        listener.close()
        raise OptionsError(f"host {host!r} cannot be resolved to an IPv4 address: {error.strerror}") from error
    except PermissionError as error:
        listener.close()
        raise OptionsError(f"{option} {port} requires more rights; choose a port above 1023") from error
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise OptionsError(f"host {host!r} is not an address of this machine; try 127.0.0.1 or 0.0.0.0") from error
        flag = "--" + option.replace("_", "-")
        raise PortTakenError(
            f"port {port} on {host} is taken by another program; stop it, or choose another port with "
            f"{flag} N ({option}=N in Python, 0 picks a free one)",
            port=port,
            option=option,
        ) from error
    return listener
