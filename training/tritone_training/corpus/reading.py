"""Read pieces with music21 and write them as MIDI files; the module is also the worker process that does so.

Repeats are not expanded, tied notes become one, grace notes and chord symbols are left out (and counted).

The worker reads one JSON object from each line of stdin and writes one result to each line of stdout. `multiprocessing`
is not used, because it would run the script of the caller again in each worker if the script has no `__main__` guard,
or fork a process in which PyTorch has started threads.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TextIO

from tritone.music.symusic_scores import require_symusic
from tritone_training.corpus.sources import KNOWN_COLLECTIONS, Candidate, Collection, read_text

MIN_NOTES: Final = 24
MIN_QUARTERS: Final = 8.0
_TIE_GAP_QUARTERS: Final = 1e-3  # offsets of tuplets are fractions, and some readers round them

# (onset, duration), in quarter notes, and MIDI pitch
Note = tuple[float, float, int]

_HUMDRUM_MODES: Final = {
    "dor": "dorian",
    "phr": "phrygian",
    "lyd": "lydian",
    "mix": "mixolydian",
    "aeo": "aeolian",
    "ion": "ionian",
    "loc": "locrian",
}
TICKS_PER_QUARTER: Final = 480  # divisible by every tuplet of the corpus except sevenths
VELOCITY: Final = 80


@dataclass
class NotatedPiece:
    """A piece as plain notes.

    Attributes:
        voices: notes of each voice, in order of onset; the first sounding note is not necessarily at 0.
        group: shared by the pieces of one work or tune, so that a split can keep them together.
        pickup_quarters: length of an incomplete first bar, 0 if the piece starts on a barline.
        tempo_bpm: quarter notes a minute.
        tempo_stated: whether the score states the tempo; otherwise it is derived from the metre.
    """

    title: str
    composer: str
    group: str
    key: str | None
    metre: str | None
    pickup_quarters: float
    tempo_bpm: float
    tempo_stated: bool
    voices: list[list[Note]] = field(default_factory=list)
    n_grace_notes: int = 0


@dataclass(frozen=True)
class Unusable:
    """The reason why a candidate is not in the corpus.

    Attributes:
        reason: one word for counting: `unreadable`, `too_few_voices`, `too_short`, ...
        detail: description for the user.
    """

    reason: str
    detail: str


def read_piece(candidate: Candidate, collection: Collection) -> NotatedPiece | Unusable:
    """Read one candidate.

    Any exception of music21 is returned as `Unusable`, because its readers raise many types of exceptions for damaged
    files, and one damaged file must not stop the build.
    """
    try:
        if candidate.number is None:
            score, abc_metre = _parse_file(candidate.path)
        else:
            score, abc_metre = _parse_tune(read_text(candidate.path), candidate.number)
        piece = _to_piece(score, abc_metre, candidate, collection)
    except Exception as error:  # the one place where music21's exceptions are translated
        return Unusable("unreadable", f"{type(error).__name__}: {error}"[:300])
    return _refusal(piece, collection) or piece


def _refusal(piece: NotatedPiece, collection: Collection) -> Unusable | None:
    n_voices = len(piece.voices)
    n_notes = sum(map(len, piece.voices))
    if n_voices < collection.min_voices:
        return Unusable("too_few_voices", f"{n_voices} voices with notes; {collection.min_voices} are expected")
    quarters = end_quarters(piece)
    if n_notes < MIN_NOTES or quarters < MIN_QUARTERS:
        return Unusable(
            "too_short",
            f"{n_notes} notes in {quarters:g} quarters; at least {MIN_NOTES} in {MIN_QUARTERS:g} are needed",
        )
    return None


def end_quarters(piece: NotatedPiece) -> float:
    """Return the end of the last note, in quarter notes."""
    return max((onset + duration for voice in piece.voices for onset, duration, _ in voice), default=0.0)


def _parse_file(path: Path) -> tuple[Any, Any]:
    from music21 import converter

    if path.suffix == ".abc":
        return _parse_tune(read_text(path), None)
    # No pickles, which would store a second copy of the corpus in the user's temporary folder.
    return converter.parse(path, forceSource=True, storePickle=False), None


def _parse_tune(text: str, number: int | None) -> tuple[Any, Any]:
    """Return the score of an ABC tune and the metre of its header.

    music21 replaces the header's metre by that of the pickup bar where it re-bars a tune, so the first
    time signature of the score may be 1/16.
    """
    from music21 import abcFormat
    from music21.abcFormat import translate

    to_score: Any = translate.abcToStreamScore  # not annotated
    handler = abcFormat.ABCFile().readstr(text, number)
    metres = [t for t in handler.tokens if isinstance(t, abcFormat.ABCMetadata) and t.isMeter()]
    return to_score(handler), metres[0].getTimeSignatureObject() if metres else None


def _to_piece(score: Any, abc_metre: Any, candidate: Candidate, collection: Collection) -> NotatedPiece:
    from music21 import meter

    flat_parts = [part.flatten() for part in score.parts]
    metre = abc_metre
    if metre is None and flat_parts:
        metre = flat_parts[0].getElementsByClass(meter.TimeSignature).first()
    stated_bpm = _stated_tempo(flat_parts)
    beat_quarters = float(metre.beatDuration.quarterLength) if metre is not None else 1.0
    title, work = _titles(score.metadata, candidate)
    piece = NotatedPiece(
        title=title,
        composer=_composer(score.metadata, collection),
        group=f"{collection.name}/{work.casefold()}",
        key=_key(flat_parts),
        metre=metre.ratioString if metre is not None else None,
        pickup_quarters=_pickup(score, metre),
        tempo_bpm=stated_bpm or collection.beat_bpm * beat_quarters,
        tempo_stated=stated_bpm is not None,
    )
    for part in flat_parts:
        voice, n_grace_notes = _voice(part)
        piece.n_grace_notes += n_grace_notes
        if voice:
            piece.voices.append(voice)
    return piece


def _voice(part: Any) -> tuple[list[Note], int]:
    """Return the notes of a flat part with ties merged, and the number of grace notes that were left out."""
    from music21 import harmony

    notes: list[Note] = []
    held: dict[int, int] = {}  # pitch -> index in `notes` of a note whose tie is still open
    n_grace_notes = 0
    for element in part.notes:
        if isinstance(element, harmony.Harmony):
            continue  # a chord symbol is not part of the melody
        duration = float(element.quarterLength)
        if element.duration.isGrace or duration <= 0:
            n_grace_notes += 1
            continue
        onset = float(element.offset)
        for single in element.notes if element.isChord else (element,):
            pitch = getattr(single, "pitch", None)
            if pitch is None:
                continue  # percussion without a pitch
            _append(notes, held, (onset, duration, int(pitch.midi)), single.tie.type if single.tie else None)
    return sorted(notes), n_grace_notes


def _append(notes: list[Note], held: dict[int, int], note: Note, tie: str | None) -> None:
    onset, duration, pitch = note
    index = held.pop(pitch, None)
    if index is not None and tie in ("stop", "continue"):
        begun, length, _ = notes[index]
        # ABC slurs between different pitches are read as ties too: one note is one pitch without a gap.
        if abs(begun + length - onset) < _TIE_GAP_QUARTERS:
            notes[index] = (begun, onset + duration - begun, pitch)
            if tie == "continue":
                held[pitch] = index
            return
    if tie in ("start", "continue"):
        held[pitch] = len(notes)
    notes.append(note)


def _stated_tempo(flat_parts: list[Any]) -> float | None:
    from music21 import tempo

    for part in flat_parts:
        for mark in part.getElementsByClass(tempo.MetronomeMark):
            bpm = mark.getQuarterBPM()
            if bpm and 20 <= bpm <= 400:
                return float(bpm)
    return None


def _key(flat_parts: list[Any]) -> str | None:
    """Return the key that the source states, such as `G mixolydian`; None if it has only a key signature."""
    from music21 import key
    from music21.humdrum.spineParser import MiscTandem

    for part in flat_parts:
        for element in part.getElementsByClass([key.Key, MiscTandem]):
            if isinstance(element, key.Key):
                return f"{element.tonic.name.replace('-', 'b')} {element.mode}"
            tonic, _, mode = element.tandem.lstrip("*").partition(":")
            if tonic[:1].upper() in set("ABCDEFG") and len(tonic) <= 2 and mode in _HUMDRUM_MODES:
                return f"{tonic.replace('-', 'b').capitalize()} {_HUMDRUM_MODES[mode]}"
    return None


def _pickup(score: Any, metre: Any) -> float:
    from music21 import stream

    if metre is None or not score.parts:
        return 0.0
    first = score.parts[0].getElementsByClass(stream.Measure).first()
    if first is None:
        return 0.0
    length = float(first.duration.quarterLength)
    return length if 0 < length < float(metre.barDuration.quarterLength) else 0.0


def _composer(metadata: Any, collection: Collection) -> str:
    named = (metadata.composer or "").strip() if metadata is not None else ""
    # The art-music folders spell one composer in many ways; only tunes have composers of their own.
    return named if named and collection.composer in ("Traditional", "Anonymous") else collection.composer


def _titles(metadata: Any, candidate: Candidate) -> tuple[str, str]:
    """Return the title of a piece, and the title of the work or tune that it belongs to."""
    name = candidate.id.partition("/")[2]
    if candidate.collection == "bach":
        bwv = name.removeprefix("bwv")
        work = _chorale_titles().get(bwv.partition("-")[0])
        return (f"{work} (BWV {bwv})", work) if work else (f"Chorale (BWV {bwv})", f"bwv {bwv}")
    own = next((t for t in (metadata.title, metadata.movementName) if t and t.strip()), name).strip(" .")
    if metadata.parentTitle:
        return f"{metadata.parentTitle.strip()}: {own}", metadata.parentTitle.strip()
    # "The Merry Lads -- Reel" and "The Merry Lads (2nd setting)" are one tune.
    return own, own.partition(" -- ")[0].partition("(")[0].strip() or own


@lru_cache(maxsize=1)
def _chorale_titles() -> dict[str, str]:
    from music21.corpus import chorales

    titles: dict[str, str] = {}
    lists: list[Any] = [chorales.ChoraleList, chorales.ChoraleListRKBWV]  # not annotated
    for make in lists:
        titles.update({str(bwv): str(entry["title"]).strip() for bwv, entry in make().byBWV.items()})
    return titles


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


def handle(job: dict[str, Any]) -> dict[str, Any]:
    """Read one candidate and write its MIDI file.

    Returns:
        `{"reason", "detail"}` if the piece cannot be used, `{"failed"}` if its file cannot be written, else the
        metadata of the piece without its notes.
    """
    candidate = Candidate(job["id"], job["collection"], Path(job["path"]), job["number"])
    piece = read_piece(candidate, KNOWN_COLLECTIONS[candidate.collection])
    if isinstance(piece, Unusable):
        return asdict(piece)
    # By intervals and rhythm: the same tune in another key is the same tune.
    first_pitch = piece.voices[0][0][2]
    shape = [[(round(o, 3), round(d, 3), p - first_pitch) for o, d, p in voice] for voice in piece.voices]
    try:
        write_midi(piece, Path(job["midi"]))
    except OSError as error:  # a full disk is not this piece's fault
        return {"failed": str(error)}
    facts = asdict(piece)
    del facts["voices"]
    return facts | {
        "n_notes": sum(map(len, piece.voices)),
        "n_voices": len(piece.voices),
        "duration_quarters": end_quarters(piece),
        "shape": json.dumps(shape),
    }


def main() -> None:
    """Handle jobs until stdin ends, which it also does when the parent process dies."""
    results = _claim_stdout()
    warnings.simplefilter("ignore")  # music21's warnings about a source do not help the user
    for line in sys.stdin:
        results.write(json.dumps(handle(json.loads(line))) + "\n")
        results.flush()


def _claim_stdout() -> TextIO:
    """Return stdout as a file for results, and redirect to stderr what libraries print to stdout."""
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return results


if __name__ == "__main__":
    main()
