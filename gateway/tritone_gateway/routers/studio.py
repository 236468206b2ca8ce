"""The studio page, the SoundFont of its synthesiser, and the recordings of tracks."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from tritone import MissingExtraError, Piece, to_grid
from tritone.music.soundfont import find_soundfont
from tritone_gateway.gateway import GatewayDependency
from tritone_gateway.problems import ProblemError, problem_responses
from tritone_gateway.security.callers import requires

PAGE: Final = Path(__file__).parents[1] / "static"
# Only resources of the gateway itself are allowed. The synthesiser decodes samples in WebAssembly; recordings and
# downloads are blobs.
CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "style-src 'self' 'nonce-{nonce}'",  # for the style elements that wavesurfer.js creates
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self' blob:",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = {
    "X-Content-Type-RequestBody": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_NO_NONCE: Final = 'name="csp-nonce" content=""'
_FOREVER: Final = "public, max-age=31536000, immutable"  # the names of these files contain a hash of their content
_SCORES: Final = (".mid", ".midi")
_SUFFIXES: Final = (".ogg", ".mp3", ".flac", ".wav", ".opus", ".m4a")

router = APIRouter()


@router.get("/", include_in_schema=False)
async def root() -> Response:
    """Redirect to the page, or to the API documentation if the page is not built."""
    return RedirectResponse("/studio/" if PAGE.is_dir() else "/docs")


@router.get("/studio/soundfont.sf2", include_in_schema=False)
async def soundfont() -> Response:
    """Return the SoundFont of the package pretty_midi, which `Piece.to_wav` also uses."""
    try:
        path = find_soundfont()
    except MissingExtraError as error:
        raise ProblemError(
            404, "no-soundfont", "There is no SoundFont", "install it with: pip install 'tritone[gateway]'"
        ) from error
    return FileResponse(path, media_type="audio/sf2", headers={"Cache-Control": "public, max-age=86400"})


@router.get(
    "/v1/tracks/{track_id:path}/audio",
    operation_id="trackAudio",
    summary="Get the recording of a track",
    tags=["Recommend"],
    dependencies=[requires("recommend")],
    responses={200: {"content": {"audio/*": {}}}, **problem_responses(401, 403, 404, 429, 503)},
    response_class=FileResponse,
)
async def track_audio(track_id: str, gateway: GatewayDependency) -> Response:
    """Return the recording of a track, from the folder that the operator names with --recordings."""
    folder = gateway.settings.recordings
    path = None if folder is None else _recording(folder, track_id)
    if path is None:
        raise ProblemError(
            404,
            "no-recording",
            "There is no recording",
            f"no recording of track {track_id[:100]!r}: expected a file named by this id in the folder of --recordings",
        )
    headers = {"Cache-Control": "private, max-age=3600"}
    if path.suffix in _SCORES:
        return Response(await asyncio.to_thread(_rendered, path), media_type="audio/wav", headers=headers)
    return FileResponse(path, headers=headers)


class _Page(StaticFiles):
    """Static files of the page, with security headers and a new nonce for each response."""

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder, html=True)
        self._index = (folder / "index.html").read_text(encoding="utf-8")

    async def get_response(self, path: str, scope: Scope) -> Response:
        nonce = secrets.token_urlsafe(16)
        if path in (".", "index.html"):
            response: Response = HTMLResponse(self._index.replace(_NO_NONCE, f'name="csp-nonce" content="{nonce}"', 1))
        else:
            response = await super().get_response(path, scope)
        response.headers.update({**_HEADERS, "Content-Security-Policy": CONTENT_SECURITY_POLICY.format(nonce=nonce)})
        response.headers["Cache-Control"] = _FOREVER if path.startswith("assets/") else "no-cache"
        return response


def mount_page(app: FastAPI) -> None:
    """Serve the page, if it is built."""
    if PAGE.is_dir():
        app.mount("/studio", _Page(PAGE), name="studio")


def _recording(folder: Path, track_id: str) -> Path | None:
    """Return the file of a track, or None if the folder has none; an id may have a subfolder, as in `ryans/reel-7`."""
    root = folder.resolve()
    for suffix in (*_SUFFIXES, *_SCORES):
        try:
            path = (root / f"{track_id}{suffix}").resolve()
            if path.is_relative_to(root) and path.is_file():
                return path
        except (OSError, ValueError):  # the name is too long or has a null byte
            return None
    return None


def _rendered(path: Path) -> bytes:
    """Return a score file rendered as WAV."""
    return Piece(to_grid(path)).to_wav()
