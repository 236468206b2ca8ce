"""HTML for notebooks: plots, players and tables."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tritone.exceptions import ClientError

if TYPE_CHECKING:
    from tritone.music.piece import Piece
    from tritone.results.classification import Classification

MAX_PLAYER_S: Final = 120.0  # a longer piece would make the notebook too large


def table(rows: Sequence[Mapping[str, Any]], *, caption: str) -> str:
    """Return rows as a table; their keys are its columns."""
    if not rows:
        return f"<p>{html.escape(caption)}: none</p>"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row.values())}</tr>" for row in rows)
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def classification_html(result: Classification) -> str:
    """Return a classification: its label, its timeline as a plot, and the strongest values."""
    parts = [f"<p><strong>{html.escape(result.label)}</strong> ({html.escape(repr(result))})</p>"]
    parts += _plot(lambda file: result.plot(file, format="svg"))
    named: Iterable[tuple[str, Mapping[str, float] | None]] = (
        ("labels", result.probabilities),
        ("emotions", result.emotions),
        ("tags", result.tags),
    )
    for name, values in named:
        if values:
            rows = [{name: key, "value": value} for key, value in list(values.items())[:10]]
            parts.append(table(rows, caption=name))
    return "".join(parts)


def piece_html(piece: Piece) -> str:
    """Return a piece: a piano roll and, up to two minutes, a player; without the packages for these, only text."""
    parts = [f"<p>{html.escape(repr(piece))}</p>", *_plot(lambda file: piece.plot(file, format="svg"))]
    if piece.grid.duration_s <= MAX_PLAYER_S:
        parts += _player(piece)
    return "".join(parts)


def _plot(draw: Any) -> list[str]:
    file = io.BytesIO()
    try:
        draw(file)
    except ClientError:  # matplotlib is not installed
        return []
    source = base64.b64encode(file.getvalue()).decode()
    return [f'<img alt="plot" style="max-width:100%" src="data:image/svg+xml;base64,{source}">']


def _player(piece: Piece) -> list[str]:
    import soundfile

    from tritone.music.render import RENDER_RATE_HZ, render

    try:
        samples = render(piece.score)
    except ClientError:  # no notes, or symusic is not installed
        return []
    file = io.BytesIO()
    soundfile.write(file, samples, RENDER_RATE_HZ, format="OGG", subtype="VORBIS")
    source = base64.b64encode(file.getvalue()).decode()
    return [f'<audio controls src="data:audio/ogg;base64,{source}"></audio>']


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else html.escape("" if value is None else str(value))
