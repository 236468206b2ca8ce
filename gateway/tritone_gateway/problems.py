"""Errors as `application/problem+json` (RFC 9457).

Each exception of the SDK maps to one status and one problem type; its fields (`argument`, `model`, `reason`,
`request_id`) are members of the problem. Any other exception becomes a status 500 without details, which only the log
has.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

import tritone
from tritone.exceptions import VersionChangedError
from tritone_gateway.security.keys import ApiKeyError

_LOGGER: Final = logging.getLogger(__name__)
PROBLEM_JSON: Final = "application/problem+json"
BUSY_RETRY_S: Final = 1


class FieldProblem(BaseModel):
    """One invalid value of a request."""

    argument: str = Field(description="Name of the value, with dots between levels.")
    message: str = Field(description="What was expected.")


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="Type of the error, a URN.", examples=["urn:tritone:problem:invalid-audio"])
    title: str = Field(description="Short text for the type of the error.", examples=["The recording cannot be used"])
    status: Annotated[int, Field(description="HTTP status.", examples=[422])]
    detail: str = Field(description="What was wrong, what was expected, and how to correct it.")
    instance: str | None = Field(None, description="URN with the id of this request.")
    argument: str | None = Field(None, description="Name of the invalid argument, if exactly one is invalid.")
    model: str | None = Field(None, description="The model that was called.")
    reason: str | None = Field(None, description="Why a recording or score cannot be used.", examples=["silent"])
    request_id: str | None = Field(
        None, description="Id of the request to the model, as in the log of the models' server."
    )
    errors: list[FieldProblem] | None = Field(None, description="All invalid values.")


class ProblemError(Exception):
    """Raised by the gateway itself for a request that it cannot serve; the response is a problem.

    Attributes:
        kind: last part of the problem's type.
        headers: headers of the response, such as Retry-After.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        *,
        argument: str | None = None,
        headers: Mapping[str, str] | None = None,
        errors: list[FieldProblem] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.title = title
        self.argument = argument
        self.headers = dict(headers or {})
        self.errors = errors


# Status, type and title of each exception; the first class that an exception is an instance of applies.
_PROBLEMS: Final[tuple[tuple[type[Exception], int, str, str], ...]] = (
    (tritone.InvalidAudioError, 422, "invalid-audio", "The recording cannot be used"),
    (tritone.InvalidScoreError, 422, "invalid-score", "The score cannot be used"),
    (tritone.InvalidInputError, 422, "invalid-argument", "An argument is invalid"),
    (tritone.MissingExtraError, 501, "missing-extra", "A package that this request needs is not installed"),
    (tritone.ModelNotFoundError, 404, "model-not-found", "The model is not served"),
    (tritone.NothingKnownError, 404, "nothing-known", "None of the ids is known to the recommender"),
    (tritone.RequestRejectedError, 422, "rejected", "The model rejected the request"),
    (tritone.ServerBusyError, 503, "busy", "The model is busy"),
    (tritone.AccessDeniedError, 403, "access-denied", "Access to the stored data is denied"),
    (VersionChangedError, 503, "version-changed", "The model is being replaced"),
    (tritone.ServerError, 502, "bad-response", "The models' server failed"),
    (tritone.RequestTimeoutError, 504, "timeout", "The model did not respond in time"),
    (tritone.ConnectionFailedError, 503, "unreachable", "The models' server cannot be reached"),
    (ApiKeyError, 503, "keys-unreadable", "The API keys cannot be read"),
)
_SDK_FIELDS: Final = ("argument", "model", "reason", "request_id")
_HTTP_PROBLEMS: Final = {
    404: ("not-found", "There is no such route"),
    405: ("method-not-allowed", "The route does not support this method"),
}


def problem_of(error: Exception, request_id: str | None) -> tuple[Problem, dict[str, str]]:
    """Return the problem for an exception, and headers of the response."""
    headers: dict[str, str] = {}
    fields: dict[str, Any] = {}
    if isinstance(error, ProblemError):
        status, kind, title, headers = error.status, error.kind, error.title, error.headers
        fields = {"argument": error.argument, "errors": error.errors}
    elif isinstance(error, RequestValidationError):
        status, kind, title, fields = _validation_problem(error)
    elif isinstance(error, HTTPException):
        status, headers = error.status_code, dict(error.headers or {})
        kind, title = _HTTP_PROBLEMS.get(status, ("http", str(error.detail)))
        return _problem(status, kind, title, str(error.detail), request_id), headers
    else:
        for cls, status, kind, title in _PROBLEMS:  # noqa: B007 - used after the loop
            if isinstance(error, cls):
                fields = {name: getattr(error, name, None) for name in _SDK_FIELDS}
                break
        else:
            detail = "an unexpected error, logged with the id of this request; report it to the operator of the gateway"
            return _problem(500, "internal", "Internal error", detail, request_id), headers
        if isinstance(error, ApiKeyError):  # its message has the path of the file and a part of the content
            _LOGGER.error("%s", error, extra={"request_id": request_id})
            fields["detail"] = "the gateway cannot read its API keys, and has logged why; ask its operator"
        if status == 503:
            headers = {"Retry-After": str(BUSY_RETRY_S)}
    detail = fields.pop("detail", None) or str(error)
    return _problem(status, kind, title, detail, request_id, **fields), headers


def problem_response(error: Exception, request_id: str | None) -> JSONResponse:
    """Return the response for an exception."""
    problem, headers = problem_of(error, request_id)
    content = problem.model_dump(exclude_none=True)
    return JSONResponse(content, status_code=problem.status, headers=headers, media_type=PROBLEM_JSON)


def add_error_handlers(app: FastAPI) -> None:
    """Make an application respond to errors with problems; `Admission` does this for unexpected exceptions."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        request_id = request.scope.get("state", {}).get("request_id")
        return problem_response(error, request_id)

    kinds: tuple[type[Exception], ...] = (
        ProblemError,
        tritone.TritoneError,
        RequestValidationError,
        HTTPException,
    )
    for cls in kinds:
        app.add_exception_handler(cls, handle)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route for the OpenAPI schema."""
    return {status: {"description": _DESCRIPTIONS[status], "content": _CONTENT} for status in statuses}


_CONTENT: Final = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_DESCRIPTIONS: Final = {
    400: "The request is malformed.",
    401: "The API key is missing or invalid.",
    403: "The key does not allow this.",
    404: "The model is not served, or no id of the request is known.",
    406: "None of the accepted media types can be produced.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The media type of the body cannot be read.",
    422: "A value is invalid, or a file cannot be used.",
    429: "A limit of the key is exceeded; see Retry-After.",
    502: "The models' server sent an invalid response.",
    503: "The gateway or the model is overloaded or not ready; see Retry-After.",
    504: "The model did not respond in time.",
}


def _problem(status: int, kind: str, title: str, detail: str, instance_id: str | None, **fields: Any) -> Problem:
    return Problem(
        type=f"urn:tritone:problem:{kind}",
        title=title,
        status=status,
        detail=detail,
        instance=None if instance_id is None else f"urn:tritone:request:{instance_id}",
        **fields,
    )


def _name(loc: Sequence[int | str]) -> str:
    """Return the name of a value from its location, whose first part is `body` or `query`."""
    return ".".join(map(str, loc[1:] or loc))


def _validation_problem(error: RequestValidationError) -> tuple[int, str, str, dict[str, Any]]:
    entries = error.errors()
    if any(each["type"] == "json_invalid" for each in entries):
        why = str(entries[0].get("ctx", {}).get("error", entries[0]["msg"]))
        return 400, "malformed-json", "The body is not JSON", {"detail": f"expected JSON in the body: {why}"}
    errors = [FieldProblem(argument=_name(each["loc"]), message=each["msg"]) for each in entries]
    detail = "; ".join(f"invalid {each.argument}: {each.message}" for each in errors[:5])
    argument = errors[0].argument if len(errors) == 1 else None
    return 422, "invalid-argument", "An argument is invalid", {"detail": detail, "argument": argument, "errors": errors}
