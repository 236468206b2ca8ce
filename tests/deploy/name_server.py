"""A name server of one name, as Docker's and Kubernetes' are for their services: its addresses come and go."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

A_RECORD = 1


class NameServer:
    """Answers every question for an IPv4 address with `addresses`, on a UDP port of 127.0.0.1."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._closing = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join(2)
        self._socket.close()

    def _serve(self) -> None:
        while not self._closing:
            asked, whence = self._socket.recvfrom(4096)
            if len(asked) > 12:
                self._socket.sendto(answer(asked, list(self.addresses)), whence)


def answer(asked: bytes, addresses: list[str]) -> bytes:
    """The reply to a question (RFC 1035, section 4.1): its header and question, then an A record for each address."""
    end = asked.index(0, 12) + 5  # the name ends with a length of 0; type and class follow
    (wanted,) = struct.unpack("!H", asked[end - 4 : end - 2])
    records = b"".join(
        struct.pack("!HHHIH4s", 0xC00C, A_RECORD, 1, 1, 4, socket.inet_aton(address))
        for address in (addresses if wanted == A_RECORD else [])
    )
    counts = struct.pack("!HHHHH", 0x8580, 1, len(records) // 16, 0, 0)
    return asked[:2] + counts + asked[12:end] + records
