"""Route that records plays, skips, likes and dislikes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import AwareDatetime, Field, field_validator

from tritone import ListeningEvent, RecordedEvents
from tritone.constants import (
    LONGEST_PLAY_S,
    N_CONTEXT_MAX,
    N_CONTEXT_VALUE_MAX,
    N_EVENT_ID_MAX,
    N_EVENT_TRACK_BYTES_MAX,
    EventKind,
)
from tritone_gateway.bodies import body, body_schema
from tritone_gateway.gateway import GatewayDependency
from tritone_gateway.problems import problem_responses
from tritone_gateway.representations import JSON, result_responses
from tritone_gateway.request_models import RequestBody
from tritone_gateway.routers.recommend import UserToken
from tritone_gateway.security.callers import CallerDependency, requires

router = APIRouter(
    prefix="/v1",
    tags=["Recommend"],
    dependencies=[requires("recommend")],
    responses=problem_responses(400, 401, 403, 404, 408, 413, 415, 422, 429, 502, 503, 504),
)

_ContextName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
_ContextValue = Annotated[str, Field(min_length=1, max_length=N_CONTEXT_VALUE_MAX)]


class EventBody(RequestBody):
    """What a user did with a track."""

    user_id: Annotated[str, Field(min_length=1, max_length=1_024)] = Field(
        description="Id of the user, as in the listening log."
    )
    track_id: Annotated[str, Field(min_length=1, max_length=N_EVENT_TRACK_BYTES_MAX)] = Field(
        description="Id of the track, as in the listening log, of at most 1,024 bytes in UTF-8."
    )
    kind: EventKind = Field("play", description="What the user did.")
    played_s: float | None = Field(
        None, ge=0, le=LONGEST_PLAY_S, description="How long the track was played, in seconds."
    )
    at: AwareDatetime | Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="When: RFC 3339 with a time zone, or seconds since 1970; by default, the time of the request.",
        examples=["2026-11-29T12:00:00Z"],
    )
    context: dict[_ContextName, _ContextValue] | None = Field(
        None, max_length=N_CONTEXT_MAX, description="Circumstances, such as the device.", examples=[{"device": "car"}]
    )
    event_id: str | None = Field(
        None,
        min_length=1,
        max_length=N_EVENT_ID_MAX,
        pattern=r"^[\x21-\x7e]+$",
        description="An id of the caller's choice. An id is stored once, so a request with ids can be repeated safely; "
        "by default, random.",
    )

    @field_validator("at", mode="before")
    @classmethod
    def _check_number(cls, at: Any) -> Any:
        if isinstance(at, int | float) and at < 0:  # pydantic would read it as a time before 1970
            raise ValueError("expected 0 or more seconds since 1970")
        return at


class RecordRequest(RequestBody):
    """Events to record, of any users and in any order."""

    events: list[EventBody] = Field(fail_fast=True, min_length=1, max_length=1_000, description="The events.")


@router.post(
    "/events",
    operation_id="record",
    summary="Record plays, skips, likes and dislikes",
    responses=result_responses(RecordedEvents, (JSON,)),
    openapi_extra=body_schema(RecordRequest),
)
async def record(
    gateway: GatewayDependency,
    caller: CallerDependency,
    request: Annotated[RecordRequest, body(RecordRequest)],
    user_token: UserToken = None,
) -> Response:
    """Store events, from which the next recommendations of their users are computed.

    The response says for each event whether it is new, a duplicate, or refused, and why.
    """
    caller.check_users(sorted({each.user_id for each in request.events}), has_token=user_token is not None)
    recorded = await gateway.client.record_many(map(_event, request.events), user_token=user_token)
    return JSONResponse(recorded.to_dict())


def _event(given: EventBody) -> ListeningEvent:
    own: dict[str, Any] = {} if given.event_id is None else {"event_id": given.event_id}
    at: datetime | float | None = given.at
    return ListeningEvent(given.user_id, given.track_id, given.kind, given.played_s, at, given.context, **own)
