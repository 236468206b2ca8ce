"""Request bodies: JSON, forms with files, or the bare bytes of one file, all as one pydantic model.

A route declares its options and files in one model. A file field accepts an uploaded file in a form, and notes, a URL
or Base64 in JSON; a body that is neither JSON nor a form is the file named `file`, with the options in the query.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar, cast

import aiohttp
import yarl
from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic.json_schema import SkipJsonSchema
from starlette.datastructures import FormData, UploadFile

from tritone import Grid, InvalidInputError
from tritone_gateway.gateway import Gateway
from tritone_gateway.problems import ProblemError
from tritone_gateway.settings import MIB

M = TypeVar("M", bound=BaseModel)

_MAX_FILES: Final = 2
_MAX_FIELDS: Final = 10_000  # a history is one field for each id
_MAX_FIELD_BYTES: Final = 1 << 20
_MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_JSON: Final = "application/json"
_MULTIPART: Final = "multipart/form-data"
_FORM: Final = "application/x-www-form-urlencoded"
_RAW: Final = ("application/octet-stream", "application/ogg", "application/x-midi")
_RAW_PREFIXES: Final = ("audio/", "application/vnd.recordare.musicxml")
_FILE: Final = "file"
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


class Options(BaseModel):
    """Base of the models of request bodies; unknown names are refused, so that a typing error is noticed."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


@dataclass(frozen=True, eq=False)
class Upload:
    """The bytes of an uploaded file."""

    content: bytes


class UrlFile(Options):
    """A file to fetch, from a host that the operator of the gateway allows."""

    url: str = Field(max_length=2_000, pattern=r"^https?://", examples=["https://media.example.org/song.ogg"])


class Base64File(Options):
    """A file in Base64."""

    base64: str


class NoteList(Options):
    """A score as notes; also what the gateway returns as a piece."""

    model_config = ConfigDict(extra="ignore")  # a piece that the gateway has returned has more entries

    notes: list[tuple[int, int, int]] = Field(
        max_length=100_000,
        description="Each [onset, length, pitch]: onset and length in time steps, pitch as MIDI 21..108.",
        examples=[[[0, 4, 60], [4, 4, 64], [8, 8, 67]]],
    )
    frames_per_quarter: int = Field(4, ge=1, le=96, description="Time steps in a quarter note.")
    tempo_qpm: float = Field(120.0, gt=0, description="Quarter notes per minute.")
    meter: tuple[int, int] | None = Field((4, 4), description="Time signature.")
    frames_per_bar: int | None = Field(None, ge=0, description="Time steps in a bar; that of `meter` if left out.")
    first_frame_in_bar: int = Field(0, ge=0, description="Index of the first time step in its bar.")
    n_frames: int | None = Field(None, ge=1, le=16_384, description="Length; up to the last note's end if left out.")

    def to_grid(self) -> Grid:
        """Return the score.

        Raises:
            InvalidScoreError: a note is not within the score or the keys of the piano.
        """
        steps = self.frames_per_quarter
        n_frames = self.n_frames or max((onset + length for onset, length, _ in self.notes), default=0)
        bar = self.frames_per_bar
        if bar is None:
            bar = 0 if self.meter is None else 4 * self.meter[0] * steps // max(self.meter[1], 1)
        return Grid.from_dict(
            {
                "n_frames": n_frames,
                "notes": self.notes,
                "frames_per_quarter": steps,
                "tempo_qpm": self.tempo_qpm,
                "meter": self.meter,
                "frames_per_bar": bar,
                "first_frame_in_bar": self.first_frame_in_bar,
                "dropped": {},
            }
        )


def _kind(value: Any) -> str:
    """Return which kind of file a value is, so that errors are about this kind only."""
    if isinstance(value, Upload):
        return "upload"
    for name in ("notes", "base64"):
        if (isinstance(value, Mapping) and name in value) or hasattr(value, name):
            return name
    return "url"


_Upload = Annotated[SkipJsonSchema[Upload], Tag("upload")]
_Url = Annotated[UrlFile, Tag("url")]
_Base64 = Annotated[Base64File, Tag("base64")]
_Notes = Annotated[NoteList, Tag("notes")]
AudioFile = Annotated[_Upload | _Url | _Base64, Discriminator(_kind)]
ScoreFile = Annotated[_Upload | _Notes | _Url | _Base64, Discriminator(_kind)]
File = Upload | NoteList | UrlFile | Base64File


def audio_field(description: str, *, default: Any = ...) -> Any:
    """Return a field for a recording."""
    return Field(default, description=description, json_schema_extra={"x-file": "audio"})


def score_field(description: str, *, default: Any = ...) -> Any:
    """Return a field for a score."""
    return Field(default, description=description, json_schema_extra={"x-file": "score"})


COMPONENTS: Final[dict[str, type[BaseModel]]] = {}  # the models of all bodies by name, for the OpenAPI schema


def body(model: type[M]) -> Any:
    """Return a dependency that reads a request's body as a model."""
    COMPONENTS[model.__name__] = model

    async def read(request: Request) -> M:
        values = await _values(request)
        try:
            return model.model_validate(values)
        except ValidationError as error:
            entries = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
            raise RequestValidationError(_first_of_each(entries)) from error

    return Depends(read)


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a route's `openapi_extra`: the body as JSON, as a form and, if it has a field `file`, as bare bytes."""
    name = model.__name__
    fields = model.model_fields
    content: dict[str, Any] = {_JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    files = [each for each, field in fields.items() if _is_file(field)]
    if files:
        content[_MULTIPART] = {"schema": {"$ref": f"#/components/schemas/{name}Form"}}
    if _FILE in files:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    required = any(field.is_required() for field in fields.values())
    return {"requestBody": {"required": required, "content": content}}


def form_schema(model: type[BaseModel], schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the JSON schema of a model's form, whose files are binary; None for a model without files."""
    files = [each for each, field in model.model_fields.items() if _is_file(field)]
    if not files:
        return None
    properties = dict(schema["properties"])
    for name in files:
        described = {"description": properties[name]["description"]} if "description" in properties[name] else {}
        properties[name] = {"type": "string", "format": "binary", **described}
    return {**schema, "properties": properties, "title": f"{schema['title']}Form"}


async def recording_of(file: Upload | UrlFile | Base64File, gateway: Gateway) -> bytes:
    """Return a file's bytes.

    Raises:
        ProblemError: the URL cannot be fetched.
        InvalidInputError: the Base64 is invalid.
    """
    if isinstance(file, Upload):
        return file.content
    if isinstance(file, UrlFile):
        return await _fetched(file.url, gateway)
    try:
        return binascii.a2b_base64(file.base64, strict_mode=True)
    except ValueError as error:  # also for characters beyond ASCII
        raise InvalidInputError(f"invalid base64: expected Base64 without line breaks ({error})") from error


async def score_of(file: File, gateway: Gateway) -> bytes | Grid:
    """Return a score: notes as a grid, or a file's bytes.

    Raises:
        ProblemError, InvalidInputError: as `recording_of`.
        InvalidScoreError: a note is invalid.
    """
    return file.to_grid() if isinstance(file, NoteList) else await recording_of(file, gateway)


async def _values(request: Request) -> dict[str, Any]:
    """Return the values of a query and a body by name; those of the body win."""
    values = _collected(request.query_params.multi_items())
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in (_MULTIPART, _FORM):
        limits = {"max_files": _MAX_FILES, "max_fields": _MAX_FIELDS, "max_part_size": _MAX_FIELD_BYTES}
        try:
            async with request.form(**limits) as form:
                return values | await _form_values(form)
        except UnicodeError as error:  # some character sets that a part can name fail in their own ways
            raise ProblemError(
                400, "malformed-form", "The form cannot be read", f"expected UTF-8 in the fields of the form: {error}"
            ) from error
    if media_type == _JSON or media_type.endswith("+json"):
        return values | _json_values(await request.body())
    if media_type in _RAW or media_type.startswith(_RAW_PREFIXES):
        content = await request.body()
        return values | {_FILE: Upload(content)}
    if not media_type and not await request.body():
        return values
    raise ProblemError(
        415,
        "media-type",
        "The media type of the body cannot be read",
        f"expected {_JSON}, {_MULTIPART}, audio/* or application/octet-stream in Content-Type, got "
        f"{media_type[:80] or 'none'!r}",
        headers={"Accept": f"{_JSON}, {_MULTIPART}, audio/*, application/octet-stream"},
    )


def _json_values(content: bytes) -> dict[str, Any]:
    if not content.strip():
        return {}
    try:
        values = _decoded(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ProblemError(
            400, "malformed-json", "The body is not JSON", f"expected JSON in the body: {str(error)[:200]}"
        ) from error
    if not isinstance(values, dict):
        raise ProblemError(
            422,
            "invalid-argument",
            "An argument is invalid",
            f"expected a JSON object in the body, got {type(values).__name__}",
        )
    return values


async def _form_values(form: FormData) -> dict[str, Any]:
    items: list[tuple[str, Any]] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            items.append((name, Upload(await value.read())))
        else:
            items.append((name, _encodable(value)))
        _encodable(name)
    return _collected(items)


def _collected(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return values by name: a list where a name occurs several times, and JSON where a text is JSON."""
    found: dict[str, list[Any]] = {}
    for name, value in items:
        found.setdefault(name, []).append(_parsed(value))
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _parsed(value: Any) -> Any:
    """Return what a text of a form stands for if it is a JSON object, a list or null; other values as they are."""
    if isinstance(value, str) and (value == "null" or value[:1] in "[{"):
        try:
            return _decoded(value)
        except (ValueError, RecursionError):
            return value
    return value


def _decoded(text: str) -> Any:
    """Return what JSON stands for, without what Python accepts beyond RFC 8259.

    Raises:
        ValueError: the text is not JSON, or holds NaN, an infinity or half of a surrogate pair, which no response and
            no request to a model could hold.
        RecursionError: it is nested too deeply.
    """
    values = json.loads(text, parse_constant=_refuse_constant)
    if _SURROGATE.search(text):
        _encodable(json.dumps(values, ensure_ascii=False))
    return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _encodable(text: str) -> str:
    """Return a text.

    Raises:
        UnicodeEncodeError: it holds half of a surrogate pair.
    """
    text.encode()
    return text


async def _fetched(url: str, gateway: Gateway) -> bytes:
    settings = gateway.settings
    deadline_s = settings.timeout_s
    try:
        async with asyncio.timeout(deadline_s), aiohttp.ClientSession(trust_env=False) as session:
            for _ in range(_MAX_REDIRECTS + 1):
                _check_host(url, settings.url_hosts)
                async with session.get(url, allow_redirects=False) as response:
                    if response.status in _REDIRECTS and "location" in response.headers:
                        url = str(response.url.join(yarl.URL(response.headers["location"])))
                        continue
                    if response.status != 200:
                        raise _unfetched(url, f"the host responded with status {response.status}")
                    return await _bounded(response, settings.max_body_mb * MIB, url)
            raise _unfetched(url, f"more than {_MAX_REDIRECTS} redirects")
    except TimeoutError as error:
        raise _unfetched(url, f"no complete response within {deadline_s:g} s") from error
    except (aiohttp.ClientError, ValueError) as error:
        raise _unfetched(url, str(error) or type(error).__name__) from error


async def _bounded(response: aiohttp.ClientResponse, most: int, url: str) -> bytes:
    parts: list[bytes] = []
    n_bytes = 0
    async for part in response.content.iter_chunked(1 << 16):
        n_bytes += len(part)
        if n_bytes > most:
            raise _unfetched(url, f"the file has more than {most // MIB} MiB")
        parts.append(part)
    return b"".join(parts)


def _check_host(url: str, allowed: tuple[str, ...]) -> None:
    parsed = yarl.URL(url)
    named = parsed.host or ""
    with_port = f"{named}:{parsed.port}"
    if parsed.scheme not in ("http", "https") or not ({named, with_port} & set(allowed)):
        known = ", ".join(allowed) or "none"
        raise ProblemError(
            422,
            "host-not-allowed",
            "The host of the URL is not allowed",
            f"expected a URL on one of the hosts that the operator allows ({known}), got host {named!r}; upload the "
            f"file instead",
            argument="url",
        )


def _unfetched(url: str, why: str) -> ProblemError:
    return ProblemError(
        422, "not-fetched", "The file cannot be fetched", f"{url[:200]}: {why}; upload the file instead", argument="url"
    )


def _is_file(field: Any) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and "x-file" in extra


def _first_of_each(entries: list[dict[str, Any]]) -> list[Any]:
    """Return one error for each place."""
    first: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in entries:
        first.setdefault(cast("tuple[Any, ...]", entry["loc"]), entry)
    return list(first.values())
