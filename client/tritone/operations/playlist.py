"""Playlists: paths between two tracks, and mixes from one.

Shapes: K tracks of a response.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np

from tritone.arguments import (
    Id,
    Ids,
    Mood,
    check_count,
    check_id,
    check_ids,
    check_model_name,
    check_share,
    mood_input,
    scalar,
    text,
)
from tritone.constants import LARGEST_ARTIST_GAP, N_PLAYLIST_MAX
from tritone.credentials import Credentials
from tritone.exceptions import InvalidInputError
from tritone.messages import Array, Flow, InferRequest, InferResponse, next_request_id
from tritone.operations.track_outputs import check_finite, n_tracks_of, parse_unknown, parsed, row_of
from tritone.results.playlist import Playlist, PlaylistTrack

_COLUMNS: Final = ("item_ids", "scores", "titles", "artists")
_USER_INPUTS: Final = ("user_id",)


@dataclass(frozen=True, eq=False)
class PlaylistOptions:
    """The arguments of `MusicClient.playlist`; see there."""

    start: Id
    end: Id | None
    n: int
    after: Ids | None
    exclude: Ids | None
    artist_gap: int | None
    diversity: float
    mood: Mood | None
    user_id: Id | None
    history: Ids | None
    skipped: Ids | None
    seed: int

    def inputs(self) -> dict[str, Array]:
        """Check the options and return the input tensors.

        Raises:
            InvalidInputError: an option is invalid.
        """
        start = check_id("start", self.start)
        n = check_count("n", self.n, least=1 if self.end is None else 2, most=N_PLAYLIST_MAX)
        inputs: dict[str, Array] = {
            "playlist_from": text([start]),
            "k": scalar(n, 1, np.int32),
            "seed": scalar(self.seed, 1, np.int64),
            "diversity": scalar(check_share("diversity", self.diversity), 1, np.float32),
        }
        for name in ("after", "exclude", "history", "skipped"):
            if ids := check_ids(name, getattr(self, name)):
                inputs[name] = text(ids)
        if self.end is not None:
            end = check_id("end", self.end)
            if end == start:
                raise InvalidInputError(
                    "invalid end: expected another track than start; leave end out for a mix", argument="end"
                )
            if "after" in inputs:
                raise InvalidInputError(
                    "ambiguous arguments: expected end or after, got both; a path is complete, only a mix goes on",
                    argument="after",
                    reason="conflict",
                )
            inputs["playlist_to"] = text([end])
        if self.artist_gap is not None:
            gap = check_count("artist_gap", self.artist_gap, least=0, most=LARGEST_ARTIST_GAP)
            inputs["artist_gap"] = scalar(gap, 1, np.int32)
        if self.mood is not None:
            inputs |= mood_input(self.mood)
        if self.user_id is not None:
            inputs["user_id"] = text([check_id("user_id", self.user_id)])
        return inputs


def playlist_flow(
    options: PlaylistOptions, *, model: str, credentials: Credentials, user_token: str | None = None
) -> Flow[Playlist]:
    """Make a playlist; see `MusicClient.playlist`."""
    check_model_name(model)
    inputs = options.inputs()
    is_about_users = user_token is not None or not inputs.keys().isdisjoint(_USER_INPUTS)
    headers = credentials.headers(user_token) if is_about_users else {}
    outputs = (*_COLUMNS, "unknown", "playlist")
    request = InferRequest(model, next_request_id("playlist"), inputs, outputs, headers=headers)
    response = cast(InferResponse, (yield request))
    n_tracks = n_tracks_of(response, most=int(inputs["k"][0, 0]))
    columns = [row_of(response, name, n_tracks) for name in _COLUMNS]
    parsed(response, "scores", check_finite, [response.outputs["scores"]])
    ((unknown, mood),) = parsed(response, "unknown", parse_unknown, row_of(response, "unknown", 1))
    (details,) = parsed(response, "playlist", _details, row_of(response, "playlist", 1))
    has_step_first = "after" in inputs
    return Playlist(
        tuple(
            PlaylistTrack(track_id, score if position or has_step_first else None, title or None, artist or None)
            for position, (track_id, score, title, artist) in enumerate(zip(*columns, strict=True))
        ),
        seed=options.seed,
        mood=mood,
        unknown=unknown,
        model=response.model,
        model_version=response.version,
        request_id=response.request_id,
        **details,
    )


def _details(text: str) -> dict[str, Any]:
    """Parse `{"artist_gap": 3, "relaxed": [...], "compared_by": [...], "by_taste": true}`."""
    found = json.loads(text)
    return {
        "artist_gap": int(found["artist_gap"]),
        "relaxed": tuple(map(str, found["relaxed"])),
        "compared_by": tuple(map(str, found["compared_by"])),
        "by_taste": bool(found["by_taste"]),
    }
