"""The demonstration's page: pictures, players and links, one file without scripts or outside resources."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tritone_cli.demonstration.listening import Heard, Medley
from tritone_cli.demonstration.writing import Written

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
section { border-top: 1px solid #ddd; margin-top: 2rem }
img { max-width: 100%; height: auto }
audio { width: 100%; margin: .3rem 0 }
code { background: #f4f4f4; padding: .1rem .3rem }
.wrong { color: #a00 }
"""


def write_page(
    out: Path, heard: Sequence[Heard], medley: Medley, written: Sequence[Written], *, facts: Sequence[str]
) -> Path:
    """Write `index.html`, whose links are relative, so the folder can be moved or put on any web server.

    Args:
        out: the folder that holds all that is linked to.
        facts: lines for the top of the page.

    Returns:
        The page's path.
    """
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Tritone: what it hears and writes</title>',
        '<meta name="viewport" content="width=device-width">',
        f"<style>{_STYLE}</style>",
        "<h1>Tritone: what it hears and writes</h1>",
        "<p>Small models, trained in minutes on this machine with old and traditional music, and served by Triton.</p>",
        "<ul>" + "".join(f"<li>{html.escape(fact)}</li>" for fact in facts) + "</ul>",
        "<h2>What it hears</h2>",
        *(_recording(each, out) for each in heard),
        "<section><h3>A medley, window by window</h3>",
        f"{_image(medley.picture, out)}{_player(medley.path, out)}</section>",
        "<h2>What it writes</h2>",
        *(_piece(each, out) for each in written),
        "</html>",
    ]
    page = out / "index.html"
    staged = page.with_suffix(".tmp")
    staged.write_text("\n".join(parts) + "\n", encoding="utf-8")
    staged.replace(page)
    return page


def _recording(heard: Heard, out: Path) -> str:
    label, share = heard.answer.label, heard.answer.probabilities[heard.answer.label]
    shown = "" if heard.right else ' class="wrong"'
    verdict = f"<p{shown}>It hears <b>{html.escape(label)}</b> ({share:.2f}).</p>"
    title = f"{heard.track.title} ({heard.track.collection})"
    return f"<section><h3>{html.escape(title)}</h3>{verdict}{_player(heard.path, out)}</section>"


def _piece(written: Written, out: Path) -> str:
    midi, sound, picture = written.files
    return (
        f"<section><h3>{html.escape(written.title)}</h3><p><code>{html.escape(written.call)}</code> &middot; "
        f'{html.escape(written.piece.model or "")} &middot; <a href="{_link(midi, out)}">MIDI</a></p>'
        f"{_image(picture, out)}{_player(sound, out)}</section>"
    )


def _image(path: Path, out: Path) -> str:
    return f'<img src="{_link(path, out)}" alt="{html.escape(path.stem)}" loading="lazy">'


def _player(path: Path, out: Path) -> str:
    return f'<audio controls preload="none" src="{_link(path, out)}"></audio>'


def _link(path: Path, out: Path) -> str:
    return html.escape(path.relative_to(out).as_posix())
