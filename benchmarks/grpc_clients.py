"""gRPC clients with the same cost for any server: prepared messages, without protobuf in the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc

TIMEOUT_S = 30.0
# A connection for each client, as separate processes would have; messages of any size.
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


class GrpcClient:
    """A connection to a port of this machine that sends serialised messages to one method in turn."""

    def __init__(self, port: int, method: str, messages: Sequence[bytes], metadata: Mapping[str, str]) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS)
        self._method = self._channel.unary_unary(method)  # without serialisers: bytes in, bytes out
        self._messages, self._metadata = messages, tuple(metadata.items())

    def ask(self, index: int) -> bytes:
        """Send a message and return the serialised response.

        Raises:
            grpc.RpcError: the call failed, or took longer than 30 s.
        """
        message = self._messages[index % len(self._messages)]
        return bytes(self._method(message, timeout=TIMEOUT_S, metadata=self._metadata))

    def call(self, index: int) -> bool:
        """Send a message and return whether the call succeeded."""
        try:
            self.ask(index)
        except grpc.RpcError:
            return False
        return True

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()
