"""Test an application's own code without a server: `tritone.testing` answers its requests.

python examples/testing_without_a_server.py
"""

from __future__ import annotations

import numpy as np

from tritone import MusicClient, Request, Response, ServerBusyError
from tritone.testing import FakeGenreModel, MockTransport

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


def tone(gain: float) -> np.ndarray:
    """Return 3.5 s of a tone."""
    return gain * np.sin(np.arange(int(3.5 * RATE_HZ)) / 10).astype(np.float32)


def test_the_most_similar_recording_is_found() -> None:
    """The quiet tone is closest to the quietest candidate, as the embeddings of the fake follow the loudness."""
    transport = MockTransport(FakeGenreModel())
    with MusicClient(transport=transport) as music:
        assert most_similar(music, tone(0.2), [tone(0.9), tone(0.25)]) == 1
    assert {request.model for request in transport.requests} == {"genre_cnn"}


def test_a_busy_server_is_not_an_error() -> None:
    """The application tells its users to wait."""

    def busy(request: Request) -> Response:
        raise ServerBusyError("the queue is full", model=request.model)

    with MusicClient(transport=MockTransport(busy), retries=0) as music:
        assert most_similar(music, tone(0.2), [tone(0.9)]) is None


if __name__ == "__main__":
    test_the_most_similar_recording_is_found()
    test_a_busy_server_is_not_an_error()
    print("2 tests passed")
