"""Recommendations, similar tracks, and the search for tracks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from tritone import Recommendations, TrackPage
from tritone_gateway.bodies import AudioFile, Options, audio_field, body, body_schema, recording_of
from tritone_gateway.gateway import GatewayOf
from tritone_gateway.problems import responses
from tritone_gateway.representations import JSON, contents
from tritone_gateway.security.callers import CallerOf, requires

router = APIRouter(
    prefix="/v1",
    tags=["Recommend"],
    dependencies=[requires("recommend")],
    responses=responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 502, 503, 504),
)

Id = Annotated[str, Field(max_length=1_024)]
Ids = list[Id] | Id  # a form has a single value, not a list, where a name occurs once
_MODEL = Field("recommender", max_length=256, description="Name of the model.")
UserToken = Annotated[
    str | None, Header(alias="Tritone-User-Token", description="A token that gives access to one user's stored data.")
]


class RecommendRequest(Options):
    """Whom to recommend tracks to: any of a known user, a history, friends, a recording and a mood, or nothing."""

    user_id: Id | None = Field(None, description="A user of the listening log.")
    history: Ids | None = Field(None, description="Tracks that were listened to, the latest last.")
    weights: list[float] | None = Field(None, description="Weight of each track of `history`, such as a play count.")
    skipped: Ids | None = Field(None, description="Tracks that were skipped.")
    friends: Ids | None = Field(None, description="Users whose listening stands for a user without history.")
    file: AudioFile | None = audio_field("A recording; tracks that sound like it are recommended.", default=None)
    mood: str | None = Field(None, max_length=100, description="One of the nine emotions.")
    n: int = Field(10, ge=1, le=10_000, description="Number of tracks.")
    exclude: Ids | None = Field(None, description="Tracks not to recommend.")
    filter_listened: bool = Field(True, description="Leave out tracks of the history.")
    diversity: float = Field(0.0, ge=0, le=1, description="0 for the best tracks, 1 for the most different ones.")
    novelty: float = Field(0.0, ge=0, le=1, description="0 for no preference, 1 for the least known tracks.")
    explain: bool | int = Field(False, description="Give reasons: true for all, or how many for each track.")
    model: str = _MODEL


class SimilarRequest(Options):
    """A track or a recording to find similar tracks for."""

    track_id: Id | None = Field(None, description="A track of the listening log.")
    file: AudioFile | None = audio_field("A recording, instead of a track.", default=None)
    by: Literal["both", "listening", "sound"] = Field("both", description="What similarity is measured by.")
    n: int = Field(10, ge=1, le=10_000, description="Number of tracks.")
    model: str = _MODEL


class ExampleUsers(BaseModel):
    """Stored users that the operator shows as examples."""

    user_ids: list[str] = Field(description="For `user_id` of `recommend`; only those that the key may use.")


def _listed(ids: Any) -> list[str] | None:
    return [ids] if isinstance(ids, str) else ids


@router.post(
    "/recommend",
    operation_id="recommend",
    summary="Recommend tracks",
    responses=contents(Recommendations, (JSON,)),
    openapi_extra=body_schema(RecommendRequest),
)
async def recommend(
    gateway: GatewayOf,
    caller: CallerOf,
    options: Annotated[RecommendRequest, body(RecommendRequest)],
    user_token: UserToken = None,
) -> Response:
    """Return tracks, best first, and which source they come from: user, history, friends, audio, mood or popularity."""
    friends = _listed(options.friends)
    named = [each for each in (options.user_id, *(friends or ())) if each is not None]
    caller.check_users(named, has_token=user_token is not None)
    audio = None if options.file is None else await recording_of(options.file, gateway)
    result = await gateway.client.recommend(
        options.user_id,
        history=_listed(options.history),
        weights=options.weights,
        skipped=_listed(options.skipped),
        friends=friends,
        audio=audio,
        mood=options.mood,
        n=options.n,
        exclude=_listed(options.exclude),
        filter_listened=options.filter_listened,
        diversity=options.diversity,
        novelty=options.novelty,
        explain=options.explain,
        model=options.model,
        user_token=user_token,
    )
    return JSONResponse(result.to_dict())


@router.post(
    "/similar",
    operation_id="similar",
    summary="Find similar tracks",
    responses=contents(Recommendations, (JSON,)),
    openapi_extra=body_schema(SimilarRequest),
)
async def similar(gateway: GatewayOf, options: Annotated[SimilarRequest, body(SimilarRequest)]) -> Response:
    """Return tracks similar to a track, or to a recording."""
    audio = None if options.file is None else await recording_of(options.file, gateway)
    result = await gateway.client.similar(
        options.track_id, audio=audio, by=options.by, n=options.n, model=options.model
    )
    return JSONResponse(result.to_dict())


@router.get("/tracks", operation_id="findTracks", summary="Search for tracks", responses=contents(TrackPage, (JSON,)))
async def tracks(  # noqa: PLR0917 - FastAPI reads the query from the parameters
    gateway: GatewayOf,
    q: Annotated[str, Query(min_length=1, max_length=1_000, description="Part of a title, an artist or an id.")],
    by: Annotated[
        Literal["id", "title", "artist"] | None, Query(description="What to search in; all if left out.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Number of tracks on a page.")] = 10,
    offset: Annotated[int, Query(ge=0, le=1_000_000_000, description="Number of tracks before the page.")] = 0,
    model: Annotated[str, Query(max_length=256, description="Name of the model.")] = "recommender",
) -> Response:
    """Return tracks by title, artist or id, best match first."""
    return JSONResponse((await gateway.client.find_tracks(q, by=by, limit=limit, offset=offset, model=model)).to_dict())


@router.get(
    "/users/examples",
    operation_id="exampleUsers",
    summary="List examples of stored users",
    responses=contents(ExampleUsers, (JSON,)),
)
async def example_users(gateway: GatewayOf, caller: CallerOf) -> Response:
    """Return the users that the operator names with --example-user; none by default, for users are private."""
    user_ids = [each for each in gateway.settings.example_users if caller.may_use(each)]
    return JSONResponse({"user_ids": user_ids})
