"""Convert a piece to bytes or a file: MIDI, WAV or a plot."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from tritone.files import Target, format_of, write_result
from tritone.music.plot import PICTURE_FORMATS, plot_piece
from tritone.music.render import RENDER_RATE_HZ, render

if TYPE_CHECKING:
    from tritone.music.piece import Piece

MIDI_FORMATS: Final = ("mid", "midi")
SOUND_FORMAT: Final = "wav"
_EXPECTED: Final = "a score's name ends in .mid or .midi (notes) or .wav (sound), or in " + ", ".join(
    f".{kind}" for kind in PICTURE_FORMATS
)


def save(piece: Piece, target: Target, kind: str | None) -> Any:
    """Write the piece; see `Piece.save`."""
    kind = format_of(target, kind, (*MIDI_FORMATS, SOUND_FORMAT, *PICTURE_FORMATS), _EXPECTED)
    if kind in PICTURE_FORMATS:
        return plot_piece(piece, target, kind)
    what, content = _CONTENTS[kind]
    return write_result(target, lambda: content(piece), what)


def midi_bytes(piece: Piece) -> bytes:
    """Return a Standard MIDI File; see `Piece.to_midi`."""
    return bytes(piece.score.dumps_midi())


def wav_bytes(piece: Piece) -> bytes:
    """Return a WAV file; see `Piece.to_wav`."""
    import soundfile

    samples = render(piece.score)  # (S,)
    file = io.BytesIO()
    soundfile.write(file, samples, RENDER_RATE_HZ, subtype="PCM_16", format="WAV")
    return file.getvalue()


_CONTENTS: Final[Mapping[str, tuple[str, Callable[[Piece], bytes]]]] = {
    "mid": ("the score", midi_bytes),
    "midi": ("the score", midi_bytes),
    SOUND_FORMAT: ("the sound", wav_bytes),
}
