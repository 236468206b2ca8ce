"""Content negotiation: responses in the media type that the caller accepts."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from tritone import Classification, Piece
from tritone_gateway.notation_work import NotationWork
from tritone_gateway.problems import ProblemError

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
MIDI: Final = "audio/midi"
WAV: Final = "audio/wav"
MUSICXML: Final = "application/vnd.recordare.musicxml+xml"
PNG: Final = "image/png"
SVG: Final = "image/svg+xml"
ZIP: Final = "application/zip"
_ALIASES: Final = {
    "audio/mid": MIDI,
    "audio/x-midi": MIDI,
    "audio/sp-midi": MIDI,
    "application/x-midi": MIDI,
    "audio/x-wav": WAV,
    "audio/wave": WAV,
    "audio/vnd.wave": WAV,
    "application/musicxml+xml": MUSICXML,
}
_VARY: Final = {"Vary": "Accept"}


@dataclass(frozen=True)
class _Format:
    suffix: str
    encode: Callable[[Piece], bytes]


def _plot_encoder(kind: str) -> Callable[[Piece], bytes]:
    def draw(piece: Piece) -> bytes:
        return piece.plot(io.BytesIO(), format=kind).getvalue()

    return draw


_PIECE_FORMATS: Final[Mapping[str, _Format]] = {
    MIDI: _Format("mid", Piece.to_midi),
    MUSICXML: _Format("musicxml", Piece.to_musicxml),
    WAV: _Format("wav", Piece.to_wav),
    PNG: _Format("png", _plot_encoder("png")),
    SVG: _Format("svg", _plot_encoder("svg")),
}
RESULTS: Final[dict[str, type[Any]]] = {}  # result types of all routes by name, for the OpenAPI schema
PIECE_TYPES: Final = (JSON, *_PIECE_FORMATS)
PIECES_TYPES: Final = (JSON, ZIP)
CLASSIFICATION_TYPES: Final = (JSON, PNG, SVG)


def negotiate(request: Request, offered: Sequence[str]) -> str:
    """Return the offered media type with the highest weight in the Accept header; among equal ones, the first.

    Raises:
        ProblemError: 406, none of them is accepted.
    """
    accepted = _accepted(request.headers.get("accept", "*/*"))
    best, best_quality = "", 0.0
    for media_type in offered:
        quality = max(
            (
                (specificity, weight)
                for pattern, weight in accepted
                if (specificity := _specificity(pattern, media_type)) is not None
            ),
            default=(0, 0.0),
        )[1]
        if quality > best_quality:
            best, best_quality = media_type, quality
    if not best:
        raise ProblemError(
            406,
            "not-acceptable",
            "None of the accepted media types can be produced",
            f"expected one of {', '.join(offered)} in Accept, got {request.headers.get('accept', '')[:200]!r}",
        )
    return best


async def piece_response(piece: Piece, media_type: str, notation: NotationWork) -> Response:
    """Return a piece in a media type of `PIECE_TYPES`.

    Raises:
        ProblemError: as `NotationWork.run`, for MusicXML.
    """
    if media_type == JSON:
        return JSONResponse(await asyncio.to_thread(piece.to_dict), headers=_VARY)
    form = _PIECE_FORMATS[media_type]
    if media_type == MUSICXML:
        content = await notation.run(form.encode, piece)
    else:
        content = await asyncio.to_thread(form.encode, piece)
    headers = {
        **_VARY,
        "Content-Disposition": f'inline; filename="{piece.model or "piece"}-{piece.seed}.{form.suffix}"',
        **_provenance(piece),
    }
    return Response(content, media_type=media_type, headers=headers)


async def pieces_response(pieces: Sequence[Piece], media_type: str) -> Response:
    """Return pieces as a JSON list, or as a ZIP archive of MIDI files."""
    if media_type == JSON:
        return JSONResponse(
            {"pieces": await asyncio.to_thread(lambda: [each.to_dict() for each in pieces])}, headers=_VARY
        )
    content = await asyncio.to_thread(_archive, pieces)
    headers = {**_VARY, "Content-Disposition": 'attachment; filename="pieces.zip"'}
    return Response(content, media_type=media_type, headers=headers)


async def classification_response(result: Classification, media_type: str) -> Response:
    """Return a classification as JSON, or its timeline as a plot."""
    if media_type == JSON:
        return JSONResponse(result.to_dict(), headers=_VARY)
    kind = "png" if media_type == PNG else "svg"
    content = await asyncio.to_thread(lambda: result.plot(io.BytesIO(), format=kind).getvalue())
    return Response(content, media_type=media_type, headers=_VARY)


def result_responses(schema: type[Any], media_types: Sequence[str]) -> dict[int | str, dict[str, Any]]:
    """Return the 200 response of a route for the OpenAPI schema.

    Args:
        schema: type of the JSON result.
        media_types: media types that the route offers.
    """
    RESULTS[schema.__name__] = schema
    content: dict[str, Any] = {}
    for media_type in media_types:
        if media_type == JSON:
            content[JSON] = {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}}
        elif media_type == EVENT_STREAM:
            content[EVENT_STREAM] = {"schema": {"type": "string", "description": "Server-sent events."}}
        elif media_type == SVG:
            content[SVG] = {"schema": {"type": "string"}}
        else:
            content[media_type] = {"schema": {"type": "string", "format": "binary"}}
    return {200: {"description": "The result, in the accepted media type.", "content": content}}


def _archive(pieces: Sequence[Piece]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, piece in enumerate(pieces):
            archive.writestr(f"{index:03d}.mid", piece.to_midi())
    return file.getvalue()


def _provenance(piece: Piece) -> dict[str, str]:
    fields = {"Seed": piece.seed, "Model": piece.model, "Model-Version": piece.model_version}
    return {f"Tritone-{name}": str(value) for name, value in fields.items() if value is not None}


def _accepted(header: str) -> list[tuple[str, float]]:
    """Return the media ranges of an Accept header with their weights; ranges that cannot be read are left out."""
    found = []
    for part in header.split(","):
        pattern, *parameters = (each.strip().lower() for each in part.split(";"))
        if pattern.count("/") != 1:
            continue
        weight = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        try:
            found.append((_ALIASES.get(pattern, pattern), min(max(float(weight), 0.0), 1.0)))
        except ValueError:
            continue
    return found or ([("*/*", 1.0)] if not header.strip() else [])


def _specificity(pattern: str, media_type: str) -> int | None:
    if pattern == media_type:
        return 2
    kind, _, rest = pattern.partition("/")
    if rest == "*" and kind == media_type.partition("/")[0]:
        return 1
    return 0 if pattern == "*/*" else None
