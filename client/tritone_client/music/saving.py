"""A score as a file: MIDI or sound, by the name's suffix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritone_client._exceptions import InvalidInputError
from tritone_client._files import replacing
from tritone_client.music.render import RENDER_RATE_HZ, render

if TYPE_CHECKING:
    from tritone_client.music.piece import Piece

MIDI_SUFFIXES: Final = (".mid", ".midi")
SOUND_SUFFIX: Final = ".wav"


def save(piece: Piece, path: Path) -> Path:
    """Write the piece; see `Piece.save`."""
    suffix = path.suffix.lower()
    if suffix in MIDI_SUFFIXES:
        midi = piece.score.dumps_midi()
        with replacing(path, "the score") as written:
            written.write_bytes(midi)  # not dump_midi: its error on a full disk does not say so
    elif suffix == SOUND_SUFFIX:
        _write_sound(piece.score, path)
    else:
        raise InvalidInputError(f"{path}: a score's name ends in .mid or .midi (notes) or .wav (sound)")
    return path


def _write_sound(score: Any, path: Path) -> None:
    import soundfile

    samples = render(score)  # (S,)
    with replacing(path, "the sound") as written:
        try:
            soundfile.write(written, samples, RENDER_RATE_HZ, subtype="PCM_16", format="WAV")
        except soundfile.LibsndfileError as error:
            raise OSError(str(error)) from error
