"""Test an application's own code without a server: a transport of the test answers its requests.

python examples/testing_without_a_server.py
"""

from __future__ import annotations

import numpy as np

from tritone import (
    InferRequest,
    InferResponse,
    ModelRequest,
    ModelResponse,
    MusicClient,
    ReadyResponse,
    Request,
    Response,
    ServerBusyError,
)

RATE_HZ = 22_050


# --- the application ---


def most_similar(music: MusicClient, wanted: np.ndarray, others: list[np.ndarray]) -> int | None:
    """Return the index of the recording that sounds most like the wanted one; None while the server is busy."""
    try:
        vectors = [music.embed((samples, RATE_HZ)) for samples in (wanted, *others)]
    except ServerBusyError:
        return None
    return int(np.argmax([vectors[0] @ vector for vector in vectors[1:]]))


# --- its tests ---


class FakeServer:
    """A transport that answers as `genre_cnn` with an embedding that depends on the loudness alone."""

    def __init__(self, *, busy: bool = False) -> None:
        self.busy = busy

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        """Answer one request; a real transport would send it."""
        if isinstance(request, ModelRequest):
            inputs = {"audio": (-1, 66_150)}
            outputs = {"probabilities": (-1, 2), "emotions": (-1, 9), "embedding": (-1, 256)}
            return ModelResponse(request.model, ("1",), inputs, outputs, 64)
        if not isinstance(request, InferRequest):
            return ReadyResponse(True)
        if self.busy:
            raise ServerBusyError("the queue is full", model=request.model)
        angle = np.abs(request.inputs["audio"]).mean(axis=1)
        embedding = np.zeros((len(angle), 256), np.float32)
        embedding[:, 0], embedding[:, 1] = np.cos(angle), np.sin(angle)
        outputs = dict.fromkeys(request.outputs, embedding)
        return InferResponse(request.model, "1", request.request_id, outputs)

    def close(self) -> None:
        """Nothing to close."""


def tone(gain: float) -> np.ndarray:
    """Return 3.5 s of a tone."""
    return gain * np.sin(np.arange(int(3.5 * RATE_HZ)) / 10).astype(np.float32)


def test_the_most_similar_recording_is_found() -> None:
    """The quiet tone is closest to the quietest candidate."""
    with MusicClient(transport=FakeServer()) as music:
        assert most_similar(music, tone(0.2), [tone(0.9), tone(0.25)]) == 1


def test_a_busy_server_is_not_an_error() -> None:
    """The application tells its users to wait."""
    with MusicClient(transport=FakeServer(busy=True), retries=0) as music:
        assert most_similar(music, tone(0.2), [tone(0.9)]) is None


if __name__ == "__main__":
    test_the_most_similar_recording_is_found()
    test_a_busy_server_is_not_an_error()
    print("2 tests passed")
