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

from tritone.exceptions import (
    AccessDeniedError,
    BatchError,
    ClientError,
    ConnectionFailedError,
    FileAccessError,
    InvalidAudioError,
    InvalidInputError,
    InvalidModelNameError,
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
    VersionChangedError,
)

if TYPE_CHECKING:
    from tritone.async_client import AsyncMusicClient
    from tritone.audio import Audio
    from tritone.client import MusicClient
    from tritone.messages import (
        AsyncTransport,
        InferRequest,
        InferResponse,
        ModelRequest,
        ModelResponse,
        ModelStatistics,
        ReadyRequest,
        ReadyResponse,
        Request,
        Response,
        StatisticsRequest,
        StatisticsResponse,
        StreamRequest,
        Transport,
    )
    from tritone.music.grid import Grid
    from tritone.music.piece import Piece
    from tritone.music.scores import to_grid, to_score
    from tritone.operations.events import ListeningEvent
    from tritone.operations.sample import Conditions
    from tritone.operations.stream import AsyncPieceStream, PieceStream
    from tritone.results.classification import Classification, TimelineWindow
    from tritone.results.events import RecordedEvent, RecordedEvents
    from tritone.results.inspiration import Inspiration
    from tritone.results.model_info import ModelInfo
    from tritone.results.piece_chunk import PieceChunk
    from tritone.results.playlist import Playlist, PlaylistTrack
    from tritone.results.prediction import Prediction
    from tritone.results.recommendations import (
        AppliedMood,
        Reason,
        Recommendation,
        Recommendations,
        Track,
        TrackPage,
        UnknownIds,
    )

# Imported when first used: every package and `tritone --help` import the exceptions only, and importing NumPy,
# libsndfile and soxr would take each of them a tenth of a second.
_LAZY = {
    "AsyncMusicClient": "async_client",
    "AsyncPieceStream": "operations.stream",
    "AsyncTransport": "messages",
    "Audio": "audio",
    "Classification": "results.classification",
    "Conditions": "operations.sample",
    "Grid": "music.grid",
    "InferRequest": "messages",
    "InferResponse": "messages",
    "Inspiration": "results.inspiration",
    "ListeningEvent": "operations.events",
    "ModelInfo": "results.model_info",
    "ModelRequest": "messages",
    "ModelResponse": "messages",
    "ModelStatistics": "messages",
    "AppliedMood": "results.recommendations",
    "MusicClient": "client",
    "Piece": "music.piece",
    "PieceChunk": "results.piece_chunk",
    "PieceStream": "operations.stream",
    "Playlist": "results.playlist",
    "PlaylistTrack": "results.playlist",
    "Prediction": "results.prediction",
    "ReadyRequest": "messages",
    "ReadyResponse": "messages",
    "Reason": "results.recommendations",
    "Recommendation": "results.recommendations",
    "Recommendations": "results.recommendations",
    "RecordedEvent": "results.events",
    "RecordedEvents": "results.events",
    "Request": "messages",
    "Response": "messages",
    "StatisticsRequest": "messages",
    "StatisticsResponse": "messages",
    "StreamRequest": "messages",
    "TimelineWindow": "results.classification",
    "Track": "results.recommendations",
    "TrackPage": "results.recommendations",
    "Transport": "messages",
    "UnknownIds": "results.recommendations",
    "to_grid": "music.scores",
    "to_score": "music.scores",
}

__all__ = [
    "AccessDeniedError",
    "AppliedMood",
    "AsyncMusicClient",
    "AsyncPieceStream",
    "AsyncTransport",
    "Audio",
    "BatchError",
    "Classification",
    "ClientError",
    "Conditions",
    "ConnectionFailedError",
    "FileAccessError",
    "Grid",
    "InferRequest",
    "InferResponse",
    "Inspiration",
    "InvalidAudioError",
    "InvalidInputError",
    "InvalidModelNameError",
    "InvalidScoreError",
    "ListeningEvent",
    "MissingExtraError",
    "ModelInfo",
    "ModelNotFoundError",
    "ModelRequest",
    "ModelResponse",
    "ModelStatistics",
    "MusicClient",
    "NothingKnownError",
    "Piece",
    "PieceChunk",
    "PieceStream",
    "Playlist",
    "PlaylistTrack",
    "Prediction",
    "ProcessBoundError",
    "ReadyRequest",
    "ReadyResponse",
    "Reason",
    "Recommendation",
    "Recommendations",
    "RecordedEvent",
    "RecordedEvents",
    "Request",
    "RequestRejectedError",
    "RequestTimeoutError",
    "Response",
    "ServerBusyError",
    "ServerError",
    "StatisticsRequest",
    "StatisticsResponse",
    "StreamRequest",
    "TimelineWindow",
    "Track",
    "TrackPage",
    "Transport",
    "TritoneError",
    "UnknownIds",
    "VersionChangedError",
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
