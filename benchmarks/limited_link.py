"""A network namespace behind a link of limited rate, so that a client on this machine sees a server as over a network.

Needs root, and the programs `ip` and `tc` (Debian: package iproute2) with the kernel's `sch_tbf`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

# In 198.18.0.0/15, which is reserved for measurements of networks (RFC 2544).
_SERVER_ADDRESS = "198.18.77.1"
_CLIENT_ADDRESS = "198.18.77.2"


@dataclass(frozen=True)
class LimitedLink:
    """A namespace and its link.

    Attributes:
        namespace: its name.
        server_address: of this side of the link, on which the server has to listen.
    """

    namespace: str
    server_address: str

    def command(self, *arguments: str) -> list[str]:
        """Return the command that runs a program inside the namespace."""
        return ["ip", "netns", "exec", self.namespace, *arguments]


@contextlib.contextmanager
def limited_link(rate_mbit: float) -> Iterator[LimitedLink]:
    """Create a namespace that is joined to this one by a link of the given rate in each direction.

    Exits the program with an explanation if that is not possible here.
    """
    missing = [program for program in ("ip", "tc") if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        needed = f"the programs {', '.join(missing)} (apt-get install iproute2)" if missing else "root"
        sys.exit(f"a link of limited rate needs {needed}; or measure over loopback only: --links loopback")
    name, outer, inner = f"tritone{os.getpid()}", f"tr{os.getpid()}o", f"tr{os.getpid()}i"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
        _run("ip", "address", "add", f"{_SERVER_ADDRESS}/30", "dev", outer)
        _run("ip", "link", "set", outer, "up")
        _run("ip", "-n", name, "address", "add", f"{_CLIENT_ADDRESS}/30", "dev", inner)
        _run("ip", "-n", name, "link", "set", inner, "up")
        # A burst of 2 ms at full rate, as a switch buffers; a queue of 50 ms.
        burst_bytes = max(3_200, int(rate_mbit * 1e6 / 8 * 0.002))
        shape = ["root", "tbf", "rate", f"{rate_mbit:g}mbit", "burst", str(burst_bytes), "latency", "50ms"]
        _run("tc", "qdisc", "add", "dev", outer, *shape)
        _run("tc", "-n", name, "qdisc", "add", "dev", inner, *shape)
        yield LimitedLink(name, _SERVER_ADDRESS)
    finally:
        for command in (("ip", "link", "delete", outer), ("ip", "netns", "delete", name)):
            subprocess.run(command, stderr=subprocess.DEVNULL, check=False)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed: {done.stderr.strip()}; --links loopback needs no link")
