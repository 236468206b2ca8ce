"""Recommendation of tracks, similar tracks, playlists, and search for tracks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from tritone import Playlist, Recommendations, TrackPage
from tritone.constants import LARGEST_ARTIST_GAP, N_PLAYLIST_MAX, PLAYLIST_DIVERSITY
from tritone_gateway.bodies import body, body_schema, read_recording
from tritone_gateway.gateway import GatewayDependency
from tritone_gateway.problems import problem_responses
from tritone_gateway.representations import JSON, result_responses
from tritone_gateway.request_models import MOOD_DESCRIPTION, AudioFile, Mood, RequestBody, audio_field
from tritone_gateway.security.callers import CallerDependency, requires

router = APIRouter(
    prefix="/v1",
    tags=["Recommend"],
    dependencies=[requires("recommend")],
    responses=problem_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 502, 503, 504),
)

Id = Annotated[str, Field(max_length=1_024)]
Ids = (
    Annotated[list[Id], Field(fail_fast=True)] | Id
)  # in a form, a name that occurs once has a single value instead of a list
_SKIPPED = "Ids of tracks that the user skipped or disliked; they are not recommended, and similar ones rank lower."
_MODEL = Field("recommender", max_length=256, description="Name of the model.")
UserToken = Annotated[
    str | None,
    Header(alias="Tritone-User-Token", description="Token that gives access to the stored data of one user."),
]


class RecommendRequest(RequestBody):
    """Request for recommendations from any of a known user, a history, friends, a recording and a mood, or none."""

    user_id: Id | None = Field(None, description="Id of a user of the listening log.")
    history: Ids | None = Field(None, description="Ids of tracks that were listened to, the most recent last.")
    weights: Annotated[list[float], Field(fail_fast=True)] | None = Field(
        None, description="Weight of each track of `history`, such as a play count."
    )
    times: Annotated[list[float | None], Field(fail_fast=True)] | None = Field(
        None,
        description="Time of each track of `history` in seconds since 1970, null if unknown; they decide the order.",
    )
    skipped: Ids | None = Field(None, description=_SKIPPED)
    friends: Ids | None = Field(None, description="Ids of friends, whose listening is used for a user without history.")
    file: AudioFile | None = audio_field("A recording; tracks with a similar sound are recommended.", default=None)
    mood: Mood | None = Field(None, description=MOOD_DESCRIPTION)
    n: int = Field(10, ge=1, le=10_000, description="Number of tracks.")
    exclude: Ids | None = Field(None, description="Ids of tracks not to recommend.")
    filter_listened: bool = Field(True, description="Do not recommend tracks of the history.")
    diversity: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Weight of diversity: 0 ranks by score only, 1 prefers tracks that differ from each other.",
    )
    novelty: float = Field(
        0.0, ge=0, le=1, description="Weight of novelty: 0 has no effect, 1 prefers the least popular tracks."
    )
    explain: bool | int = Field(
        False, description="Whether to return reasons: true for all, or the maximum number for each track."
    )
    resolve: bool = Field(False, description="Whether `history`, `skipped` and `exclude` may hold titles.")
    model: str = _MODEL


class SimilarRequest(RequestBody):
    """A track or a recording to find similar tracks for."""

    track_id: Id | None = Field(None, description="Id of a track of the listening log.")
    file: AudioFile | None = audio_field("A recording, instead of `track_id`.", default=None)
    by: Literal["both", "listening", "sound"] = Field(
        "both", description="Basis of the similarity: common listeners, sound, or both."
    )
    n: int = Field(10, ge=1, le=10_000, description="Number of tracks.")
    resolve: bool = Field(False, description="Whether `track_id` may be a title.")
    model: str = _MODEL


class PlaylistRequest(RequestBody):
    """Start and end of a path, or the start of a mix."""

    start: Id = Field(description="Id of the first track.")
    end: Id | None = Field(None, description="Id of the last track of a path; a mix has none.")
    n: int = Field(20, ge=1, le=N_PLAYLIST_MAX, description="Number of tracks.")
    mood: Mood | None = Field(None, description=MOOD_DESCRIPTION)
    diversity: float = Field(
        PLAYLIST_DIVERSITY, ge=0, le=1, description="0 allows tracks like the previous ones, 1 avoids them."
    )
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="Seed of the playlist; random if null.")
    after: Ids | None = Field(None, description="Ids of the earlier tracks of a mix, which goes on after the last.")
    exclude: Ids | None = Field(None, description="Ids of tracks to leave out.")
    artist_gap: int | None = Field(
        None,
        ge=0,
        le=LARGEST_ARTIST_GAP,
        description="Number of tracks between two of the same artist; if null, 3, or less where there are few artists.",
    )
    user_id: Id | None = Field(None, description="Id of a user of the listening log, whose taste is followed.")
    history: Ids | None = Field(None, description="Ids of tracks that show a taste.")
    skipped: Ids | None = Field(None, description=_SKIPPED)
    model: str = _MODEL


class ExampleUsers(BaseModel):
    """Stored users that the operator has chosen as examples."""

    user_ids: list[str] = Field(description="Values for `user_id` of `recommend`; only users that the key may use.")


def _as_list(ids: Any) -> list[str] | None:
    return [ids] if isinstance(ids, str) else ids


@router.post(
    "/recommend",
    operation_id="recommend",
    summary="Recommend tracks",
    responses=result_responses(Recommendations, (JSON,)),
    openapi_extra=body_schema(RecommendRequest),
)
async def recommend(
    gateway: GatewayDependency,
    caller: CallerDependency,
    options: Annotated[RecommendRequest, body(RecommendRequest)],
    user_token: UserToken = None,
) -> Response:
    """Return tracks, best first, and their source: user, history, friends, audio, mood or popularity."""
    friends = _as_list(options.friends)
    named = [each for each in (options.user_id, *(friends or ())) if each is not None]
    caller.check_users(named, has_token=user_token is not None)
    audio = None if options.file is None else await read_recording(options.file, gateway)
    result = await gateway.client.recommend(
        options.user_id,
        history=_as_list(options.history),
        weights=options.weights,
        times=options.times,
        skipped=_as_list(options.skipped),
        friends=friends,
        audio=audio,
        mood=options.mood,
        n=options.n,
        exclude=_as_list(options.exclude),
        filter_listened=options.filter_listened,
        diversity=options.diversity,
        novelty=options.novelty,
        explain=options.explain,
        resolve=options.resolve,
        model=options.model,
        user_token=user_token,
    )
    return JSONResponse(result.to_dict())


@router.post(
    "/similar",
    operation_id="similar",
    summary="Find similar tracks",
    responses=result_responses(Recommendations, (JSON,)),
    openapi_extra=body_schema(SimilarRequest),
)
async def similar(gateway: GatewayDependency, options: Annotated[SimilarRequest, body(SimilarRequest)]) -> Response:
    """Return tracks similar to a track, or to a recording."""
    audio = None if options.file is None else await read_recording(options.file, gateway)
    result = await gateway.client.similar(
        options.track_id, audio=audio, by=options.by, n=options.n, resolve=options.resolve, model=options.model
    )
    return JSONResponse(result.to_dict())


@router.post(
    "/playlist",
    operation_id="playlist",
    summary="Make a playlist",
    responses=result_responses(Playlist, (JSON,)),
    openapi_extra=body_schema(PlaylistRequest),
)
async def playlist(
    gateway: GatewayDependency,
    caller: CallerDependency,
    options: Annotated[PlaylistRequest, body(PlaylistRequest)],
    user_token: UserToken = None,
) -> Response:
    """Return a smooth path between two tracks, or a mix from one that `after` continues."""
    caller.check_users([] if options.user_id is None else [options.user_id], has_token=user_token is not None)
    result = await gateway.client.playlist(
        options.start,
        options.end,
        n=options.n,
        mood=options.mood,
        diversity=options.diversity,
        seed=options.seed,
        after=_as_list(options.after),
        exclude=_as_list(options.exclude),
        artist_gap=options.artist_gap,
        user_id=options.user_id,
        history=_as_list(options.history),
        skipped=_as_list(options.skipped),
        model=options.model,
        user_token=user_token,
    )
    return JSONResponse(result.to_dict())


@router.get(
    "/tracks", operation_id="findTracks", summary="Search for tracks", responses=result_responses(TrackPage, (JSON,))
)
async def tracks(  # noqa: PLR0917 - FastAPI reads the query from the parameters
    gateway: GatewayDependency,
    q: Annotated[str, Query(min_length=1, max_length=1_000, description="Part of a title, artist or id.")],
    by: Annotated[
        Literal["id", "title", "artist"] | None, Query(description="Field to search; all by default.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Number of tracks on a page.")] = 10,
    offset: Annotated[int, Query(ge=0, le=1_000_000_000, description="Number of tracks to skip before the page.")] = 0,
    model: Annotated[str, Query(max_length=256, description="Name of the model.")] = "recommender",
) -> Response:
    """Return tracks by title, artist or id, best match first."""
    return JSONResponse((await gateway.client.find_tracks(q, by=by, limit=limit, offset=offset, model=model)).to_dict())


@router.get(
    "/search",
    operation_id="search",
    summary="Search for tracks by a description",
    responses=result_responses(Recommendations, (JSON,)),
)
async def search(
    gateway: GatewayDependency,
    q: Annotated[
        str, Query(min_length=1, max_length=1_000, description="A description, such as `calm piano for reading`.")
    ],
    n: Annotated[int, Query(ge=1, le=10_000, description="Number of tracks.")] = 10,
    model: Annotated[str, Query(max_length=256, description="Name of the model.")] = "recommender",
) -> Response:
    """Return tracks, best first, and their source: meaning, or words if only words were compared."""
    return JSONResponse((await gateway.client.search(q, n, model=model)).to_dict())


@router.get(
    "/users/examples",
    operation_id="exampleUsers",
    summary="List example users",
    responses=result_responses(ExampleUsers, (JSON,)),
)
async def example_users(gateway: GatewayDependency, caller: CallerDependency) -> Response:
    """Return the users that the operator names with --example-user; none by default, because user ids are private."""
    user_ids = [each for each in gateway.settings.example_users if caller.may_use(each)]
    return JSONResponse({"user_ids": user_ids})
