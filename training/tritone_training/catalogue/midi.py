"""Write notes as a MIDI file with one track for each voice."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tritone.music.scores import require_symusic
from tritone_training.catalogue.reading import NotatedPiece

TICKS_PER_QUARTER: Final = 480  # divisible by every tuplet of the corpus except sevenths
VELOCITY: Final = 80


def write_midi(piece: NotatedPiece, path: Path) -> None:
    """Write a piece with its tempo, its metre and one track for each voice (program 0).

    Raises:
        OSError: the file cannot be written.
    """
    symusic = require_symusic()
    score = symusic.Score(TICKS_PER_QUARTER)
    score.tempos.append(symusic.Tempo(0, piece.tempo_bpm))
    if piece.metre is not None:
        numerator, denominator = (int(number) for number in piece.metre.split("/"))
        # MIDI writes the denominator as a power of two.
        if denominator & (denominator - 1) == 0:
            score.time_signatures.append(symusic.TimeSignature(0, numerator, denominator))
    for index, voice in enumerate(piece.voices):
        track = symusic.Track(f"voice {index + 1}", 0, False)
        for onset, duration, pitch in voice:
            begin, end = _ticks(onset), _ticks(onset + duration)
            track.notes.append(symusic.Note(begin, max(1, end - begin), pitch, VELOCITY))
        score.tracks.append(track)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(score.dumps_midi())  # dump_midi does not report a full disk


def _ticks(quarters: float) -> int:
    return round(quarters * TICKS_PER_QUARTER)
