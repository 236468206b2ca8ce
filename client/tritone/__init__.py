"""The Tritone SDK: recordings, scores and listening histories in, typed results and music out.

```python
from tritone import MusicClient

with MusicClient("localhost:8001") as music:
    result = music.classify("song.mp3")
    print(result.label, result.emotions)
    piece = music.compose(prompt="tune.mid", bars=8, seed=7)
    piece.save("more.wav")
    for track in music.recommend("user 42"):
        print(track.track_id, track.score)
```
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from tritone._exceptions import (
    AccessDeniedError,
    ClientError,
    ConnectionFailedError,
    InvalidAudioError,
    InvalidInputError,
    InvalidScoreError,
    MissingExtraError,
    ModelNotFoundError,
    NothingKnownError,
    ProcessBoundError,
    RequestRejectedError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    TritoneError,
)

if TYPE_CHECKING:
    from tritone._async_client import AsyncMusicClient
    from tritone._client import MusicClient
    from tritone._messages import (
        AsyncTransport,
        InferRequest,
        InferResponse,
        ModelRequest,
        ModelResponse,
        ReadyRequest,
        ReadyResponse,
        Request,
        Response,
        StreamRequest,
        Transport,
    )
    from tritone._predicting import Prediction
    from tritone._recommendations import (
        Reason,
        Recommendation,
        Recommendations,
        Track,
        TrackPage,
        UnknownIds,
    )
    from tritone._results import Classification, TimelineWindow
    from tritone._sampling import Conditions
    from tritone._streaming import AsyncPieceStream, PieceChunk, PieceStream
    from tritone.audio import Audio
    from tritone.music.grid import Grid
    from tritone.music.piece import Piece
    from tritone.music.reading import to_grid
    from tritone.music.writing import to_score

# Looked up when first used: the errors alone are wanted by every package and by `tritone --help`, and
# NumPy, libsndfile and soxr would cost each of them a tenth of a second.
_LAZY = {
    "AsyncMusicClient": "_async_client",
    "AsyncPieceStream": "_streaming",
    "AsyncTransport": "_messages",
    "Audio": "audio",
    "Classification": "_results",
    "Conditions": "_sampling",
    "Grid": "music.grid",
    "InferRequest": "_messages",
    "InferResponse": "_messages",
    "ModelRequest": "_messages",
    "ModelResponse": "_messages",
    "MusicClient": "_client",
    "Piece": "music.piece",
    "PieceChunk": "_streaming",
    "PieceStream": "_streaming",
    "Prediction": "_predicting",
    "ReadyRequest": "_messages",
    "ReadyResponse": "_messages",
    "Reason": "_recommendations",
    "Recommendation": "_recommendations",
    "Recommendations": "_recommendations",
    "Request": "_messages",
    "Response": "_messages",
    "StreamRequest": "_messages",
    "TimelineWindow": "_results",
    "Track": "_recommendations",
    "TrackPage": "_recommendations",
    "Transport": "_messages",
    "UnknownIds": "_recommendations",
    "to_grid": "music.reading",
    "to_score": "music.writing",
}

__all__ = [
    "AccessDeniedError",
    "AsyncMusicClient",
    "AsyncPieceStream",
    "AsyncTransport",
    "Audio",
    "Classification",
    "ClientError",
    "Conditions",
    "ConnectionFailedError",
    "Grid",
    "InferRequest",
    "InferResponse",
    "InvalidAudioError",
    "InvalidInputError",
    "InvalidScoreError",
    "MissingExtraError",
    "ModelNotFoundError",
    "ModelRequest",
    "ModelResponse",
    "MusicClient",
    "NothingKnownError",
    "Piece",
    "PieceChunk",
    "PieceStream",
    "Prediction",
    "ProcessBoundError",
    "ReadyRequest",
    "ReadyResponse",
    "Reason",
    "Recommendation",
    "Recommendations",
    "Request",
    "RequestRejectedError",
    "RequestTimeoutError",
    "Response",
    "ServerBusyError",
    "ServerError",
    "StreamRequest",
    "TimelineWindow",
    "Track",
    "TrackPage",
    "Transport",
    "TritoneError",
    "UnknownIds",
    "to_grid",
    "to_score",
]


# Retries and fail-over are logged under this name; without a handler of the program's own, nothing is printed.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tritone")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
