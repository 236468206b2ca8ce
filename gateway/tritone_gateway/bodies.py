"""Request bodies, parsed into one pydantic model for each route: JSON, forms with files, or the raw bytes of one file.

In a form, a file field is an uploaded file; in JSON, it is a list of notes, a URL or Base64. A body that is neither
JSON nor a form is the content of the field `file`; the other options are then in the query.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar, cast

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile

from tritone import Grid, InvalidInputError
from tritone_gateway.gateway import Gateway
from tritone_gateway.notation_work import read_notation
from tritone_gateway.problems import ProblemError
from tritone_gateway.request_models import Base64File, NoteList, Upload, UrlFile
from tritone_gateway.url_download import download

M = TypeVar("M", bound=BaseModel)

_MAX_FILES: Final = 2
_MAX_FIELDS: Final = 10_000  # a history is one field for each id
_MAX_FIELD_BYTES: Final = 1 << 20
_MAX_VALUES: Final = 700_000  # two scores of 100,000 notes; parsing more JSON would block the event loop for seconds
_MAX_ERRORS: Final = 100  # that are described; describing one takes as long as finding hundreds
_JSON: Final = "application/json"
_MULTIPART: Final = "multipart/form-data"
_FORM: Final = "application/x-www-form-urlencoded"
_RAW: Final = ("application/octet-stream", "application/ogg", "application/x-midi")
_RAW_PREFIXES: Final = ("audio/", "application/vnd.recordare.musicxml")
_FILE: Final = "file"
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


COMPONENTS: Final[dict[str, type[BaseModel]]] = {}  # models of all request bodies by name, for the OpenAPI schema


def body(model: type[M]) -> Any:
    """Return a FastAPI dependency that parses the body of a request into a model."""
    COMPONENTS[model.__name__] = model

    async def read(request: Request) -> M:
        values = await _values(request)
        try:
            return model.model_validate(values)
        except ValidationError as error:
            if error.error_count() > _MAX_ERRORS:
                raise ProblemError(
                    422,
                    "invalid-argument",
                    "An argument is invalid",
                    f"expected the values that /docs describes, got {error.error_count():,} invalid or unknown ones",
                ) from error
            entries = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
            raise RequestValidationError(_first_error_per_location(entries)) from error

    return Depends(read)


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a route's `openapi_extra`: the body as JSON, as a form and, if it has a field `file`, as raw bytes."""
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


async def read_recording(file: Upload | UrlFile | Base64File, gateway: Gateway) -> bytes:
    """Return the content of a recording that was uploaded, encoded in Base64, or named by its URL.

    Raises:
        ProblemError: the URL cannot be downloaded.
        InvalidInputError: the Base64 is invalid.
    """
    if isinstance(file, Upload):
        return file.content
    if isinstance(file, UrlFile):
        return await download(file.url, gateway.settings)
    try:
        return binascii.a2b_base64(file.base64, strict_mode=True)
    except ValueError as error:  # also for characters beyond ASCII
        raise InvalidInputError(f"invalid base64: expected Base64 without line breaks ({error})") from error


async def read_score(file: Upload | NoteList | UrlFile | Base64File, gateway: Gateway) -> bytes | Grid:
    """Return a score: a list of notes, MusicXML and ABC as a grid, or the content of a MIDI file.

    Raises:
        ProblemError, InvalidInputError: as `read_recording`.
        InvalidScoreError: a note or the file is invalid.
    """
    if isinstance(file, NoteList):
        return await asyncio.to_thread(file.to_grid)
    return await read_notation(await read_recording(file, gateway), gateway.notation)


async def _values(request: Request) -> dict[str, Any]:
    """Return the values of the query and the body by name; the body takes precedence."""
    values = _group_by_name(request.query_params.multi_items())
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in (_MULTIPART, _FORM):
        limits = {"max_files": _MAX_FILES, "max_fields": _MAX_FIELDS, "max_part_size": _MAX_FIELD_BYTES}
        try:
            async with request.form(**limits) as form:
                return values | await _form_values(form)
        except UnicodeError as error:  # raised by some character sets that a part of a form can name
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
    _check_n_values(content.count(b","))
    try:
        values = _parse_json(content.decode("utf-8-sig"))
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
            items.append((name, _check_encodable(value)))
        _check_encodable(name)
    return _group_by_name(items)


def _group_by_name(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return values by name: a list for a name that occurs several times; texts that are JSON are parsed."""
    found: dict[str, list[Any]] = {}
    n_values = 0
    for name, value in items:
        if isinstance(value, str):
            n_values += value.count(",")
            _check_n_values(n_values)
        found.setdefault(name, []).append(_parse_value(value))
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _check_n_values(n_values: int) -> None:
    """Check a number of values in JSON, of which each but the first has a comma before it.

    Raises:
        ProblemError: 413; a body of 64 MiB can hold 20 million empty lists, which take a gigabyte of memory.
    """
    if n_values > _MAX_VALUES:
        raise ProblemError(
            413,
            "too-many-values",
            "The body holds too many values",
            f"expected at most {_MAX_VALUES:,} values, got {n_values:,} or more; send scores as files",
        )


def _parse_value(value: Any) -> Any:
    """Parse a text of a form that is a JSON object, list or null; return any other value unchanged."""
    if isinstance(value, str) and (value == "null" or value[:1] in "[{"):
        try:
            return _parse_json(value)
        except (ValueError, RecursionError):
            return value
    return value


def _parse_json(text: str) -> Any:
    """Parse JSON strictly as RFC 8259 defines it.

    Raises:
        ValueError: the text is not JSON, or has NaN, an infinity or half of a surrogate pair, none of which can be
            sent to a model or returned.
        RecursionError: it is nested too deeply.
    """
    values = json.loads(text, parse_constant=_refuse_constant)
    if _SURROGATE.search(text):
        _check_encodable(json.dumps(values, ensure_ascii=False))
    return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _check_encodable(text: str) -> str:
    """Return a text after checking that it can be encoded as UTF-8.

    Raises:
        UnicodeEncodeError: it has half of a surrogate pair.
    """
    text.encode()
    return text


def _is_file(field: Any) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and "x-file" in extra


def _first_error_per_location(entries: list[dict[str, Any]]) -> list[Any]:
    """Return the first error of each location in the body."""
    first: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in entries:
        first.setdefault(cast("tuple[Any, ...]", entry["loc"]), entry)
    return list(first.values())
