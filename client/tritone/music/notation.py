"""Scores as MusicXML and ABC, through music21.

Shapes: K notes.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Final, Literal
from xml.etree.ElementTree import ParseError

from tritone.exceptions import InvalidScoreError, MissingExtraError
from tritone.extras import require
from tritone.music.grid import Grid, notes_of
from tritone.music.instruments import PIANO, program_of
from tritone.music.performance import parts_of
from tritone.music.symusic_scores import END_MARKER, require_symusic

MAX_NOTATION_BYTES: Final = 20 << 20  # of the text, unpacked: music21 needs some 50 times as much memory
TICKS_PER_QUARTER: Final = 10_080  # divisible by 2 to 10, so triplets, quintuplets and septuplets are exact
_MIDDLE_C: Final = 60
_ZIP: Final = b"PK\x03\x04"
_SCORE: Final = re.compile(rb"\s*<.*\bscore-(partwise|timewise)\b", re.S)
_ABC_TUNE: Final = re.compile(rb"X:\s*\d")  # the line with which a tune begins
_ABC_PREAMBLE: Final = re.compile(rb"%|[A-Z]:|\s*\Z")  # comments, fields and empty lines, which may precede it
_XML_ENCODING: Final = re.compile(r"""\A(\s*<\?xml\b[^>]*?)\sencoding\s*=\s*["'][^"'>]*["']""")
_DECLARATION_LENGTH: Final = 200  # characters in which an XML declaration is looked for
# Names that Python knows as encodings of text, but no XML file has; some of them take time quadratic in the length.
_NOT_CHARACTER_SETS: Final = ("idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape")
_BOM: Final = b"\xef\xbb\xbf"

NotationFormat = Literal["musicxml", "abc"]


def notation_format(data: bytes) -> NotationFormat | None:
    """Return what the bytes of a file are; None if they are neither MusicXML (plain or compressed) nor ABC."""
    head = data[:4_096].removeprefix(_BOM)
    # Without the null bytes of UTF-16, the rest is ASCII as far as it matters here.
    ascii_part = head.removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff").replace(b"\0", b"")
    if head.startswith(_ZIP) or _SCORE.match(ascii_part):
        return "musicxml"
    return "abc" if _is_abc(head) else None


def _is_abc(head: bytes) -> bool:
    """Return whether the beginning of a file is that of a tune in ABC.

    Line by line: one regular expression for all lines takes exponential time on a file of empty lines.
    """
    for line in head.splitlines():
        if _ABC_TUNE.match(line):
            return True
        if not _ABC_PREAMBLE.match(line):
            return False
    return False


def read_notation(data: bytes, name: str) -> tuple[Any, Counter[str]]:
    """Read MusicXML or ABC as a score in ticks.

    Repeats are written out, ties joined, and grace notes and percussion left out. Of several ABC tunes, the first is
    read.

    Args:
        data: bytes for which `notation_format` is not None.
        name: of the score, for messages.

    Returns:
        A `symusic.Score` with `TICKS_PER_QUARTER`, and what was left out, counted by reason as in `to_grid`.

    Raises:
        InvalidScoreError: see its `reason`.
        MissingExtraError: music21 or symusic is not installed.
    """
    symusic, music21 = require_symusic(), require_music21()
    kind = notation_format(data)
    text = _text_of(data, name)
    dropped: Counter[str] = Counter()
    try:
        parsed = music21.converter.parseData(text, format=kind)
        if isinstance(parsed, music21.stream.Opus):
            dropped["tunes"] = len(parsed.scores) - 1
            parsed = parsed.scores[0]
        parts = [_unfolded(part, music21) for part in (parsed.parts or [parsed])]
        score = symusic.Score(TICKS_PER_QUARTER)
        for part in parts:
            score.tracks.append(_track(part, symusic, music21, dropped))
        end = max(_ticks(part.highestTime) for part in parts)
        if all(note.end < end for track in score.tracks for note in track.notes):
            score.markers.append(symusic.TextMeta(end, END_MARKER))  # it ends with rests
        for at, numerator, denominator in _signatures(parts[0], music21):
            score.time_signatures.append(symusic.TimeSignature(at, numerator, denominator))
        for at, tempo_qpm in _tempos(parts, music21):
            score.tempos.append(symusic.Tempo(at, tempo_qpm))
    except (InvalidScoreError, MissingExtraError, MemoryError):
        raise
    except Exception as error:  # music21 raises exceptions of many kinds for damaged files
        what = "XML" if isinstance(error, ParseError) else f"{kind} ({type(error).__name__} from music21)"
        raise InvalidScoreError(
            f"{name}: is damaged: expected {what}, got {str(error)[:200] or 'other content'}; export it again",
            path=name,
            reason="unreadable",
        ) from error
    return score, dropped


def write_musicxml(grid: Grid, *, instruments: Sequence[str] = (PIANO,), title: str | None = None) -> bytes:
    """Return a grid as MusicXML 4.0, with as many voices on a staff as notes overlap.

    A single instrument has two staves, divided at middle C. Of several ones, each that plays has a staff. The last bar
    is completed with rests.

    Args:
        grid: the notes.
        instruments: General MIDI names, for the parts of `parts_of` from the highest down.
        title: of the score.

    Raises:
        MissingExtraError: music21 is not installed.
    """
    music21 = require_music21()
    score = music21.stream.Score()
    score.metadata = music21.metadata.Metadata(title=title or "Piece")
    notes = [(int(onset), int(end), int(pitch)) for onset, end, pitch in zip(*map(list, notes_of(grid)), strict=True)]
    if len(instruments) > 1:
        found = parts_of(grid, len(instruments)).tolist()
        parts = [
            [note for note, own in zip(notes, found, strict=True) if own == part] for part in range(len(instruments))
        ]
        named = [(name, each) for name, each in zip(instruments, parts, strict=True) if each or not notes]
    else:
        high = [note for note in notes if note[2] >= _MIDDLE_C]
        low = [note for note in notes if note[2] < _MIDDLE_C]
        named = [(instruments[0], high), *([(instruments[0], low)] if low else [])]
    staves = [_staff(each, grid, name, music21, has_tempo=not index) for index, (name, each) in enumerate(named)]
    for staff in staves:
        score.insert(0, staff)
    if len(staves) > 1:
        symbol = "bracket" if len(instruments) > 1 else "brace"
        score.insert(0, music21.layout.StaffGroup(staves, symbol=symbol, barTogether=True))
    exporter = music21.musicxml.m21ToXml.GeneralObjectExporter(score)
    return bytes(exporter.parse())


def require_music21() -> Any:
    """Import music21.

    Raises:
        MissingExtraError: with the command that installs it.
    """
    return require("music21", extra="notation", purpose="MusicXML and ABC")


def _text_of(data: bytes, name: str) -> str:
    if data.startswith(_ZIP):
        data = _unpacked(data, name)
    if len(data) > MAX_NOTATION_BYTES:
        raise InvalidScoreError(
            f"{name}: has {len(data) >> 20} MiB; expected at most {MAX_NOTATION_BYTES >> 20} MiB of MusicXML or ABC",
            path=name,
            reason="too_long",
        )
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    declared = re.match(rb"""\s*<\?xml[^>]*encoding=["']([\w.-]+)""", data[:_DECLARATION_LENGTH])
    if declared is not None and encoding != "utf-16":
        encoding = declared[1].decode("ascii", "replace")
    try:
        if codecs.lookup(encoding).name in _NOT_CHARACTER_SETS:
            raise LookupError(encoding)
        text = data.decode(encoding)
    except (UnicodeError, LookupError):
        text = data.decode("latin-1")
    # The text is decoded, so the declaration no longer holds.
    text = text.removeprefix("\ufeff")
    return _XML_ENCODING.sub(r"\1", text[:_DECLARATION_LENGTH]) + text[_DECLARATION_LENGTH:]


def _unpacked(data: bytes, name: str) -> bytes:
    """Return the score in a compressed MusicXML file (.mxl)."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            member = _score_member(archive)
            with archive.open(member) as file:
                return file.read(MAX_NOTATION_BYTES + 1)
    except (zipfile.BadZipFile, KeyError, OSError, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise InvalidScoreError(
            f"{name}: is damaged: expected compressed MusicXML (.mxl), got a ZIP archive without a readable score "
            f"({error}); export it again",
            path=name,
            reason="not_midi",
        ) from error


def _score_member(archive: zipfile.ZipFile) -> str:
    names = archive.namelist()
    if "META-INF/container.xml" in names:
        with archive.open("META-INF/container.xml") as file:
            found = re.search(rb"""full-path=["']([^"']+)["']""", file.read(100_000))
        if found and found[1].decode("utf-8", "replace") in names:
            return found[1].decode()
    scores = [each for each in names if each.lower().endswith((".xml", ".musicxml")) and "META-INF" not in each]
    if not scores:
        raise KeyError("no .xml or .musicxml file inside")
    return scores[0]


def _unfolded(part: Any, music21: Any) -> Any:
    """Return a part with its repeats written out."""
    if part.recurse().getElementsByClass((music21.bar.Repeat, music21.repeat.RepeatMark)):
        with contextlib.suppress(music21.repeat.ExpanderException):  # repeats that do not fit are played once
            part = part.expandRepeats()
    return part


def _track(part: Any, symusic: Any, music21: Any, dropped: Counter[str]) -> Any:
    track = symusic.Track("", 0, False)
    for start, end, pitch in _tied(_sounding(part, music21, dropped)):
        track.notes.append(symusic.Note(start, max(end - start, 1), pitch, 80))
    return track


def _sounding(part: Any, music21: Any, dropped: Counter[str]) -> Iterator[tuple[int, int, int, str | None]]:
    """Yield start and end in ticks, MIDI pitch and tie of each note, in order of time."""
    for element in part.flatten().notes:
        if isinstance(element, music21.harmony.Harmony):
            continue  # a chord symbol
        if element.duration.isGrace:
            dropped["grace_notes"] += 1
            continue
        members = [each for each in getattr(element, "notes", [element]) if hasattr(each, "pitch")]
        if not members:
            dropped["drums"] += 1
        start, end = _ticks(element.offset), _ticks(element.offset + element.quarterLength)
        for each in members:
            tie = each.tie or element.tie
            if 0 <= each.pitch.midi <= 127:
                yield start, end, int(each.pitch.midi), None if tie is None else tie.type
            else:
                dropped["out_of_range"] += 1


def _tied(notes: Iterable[tuple[int, int, int, str | None]]) -> list[tuple[int, int, int]]:
    """Return notes with those that a tie joins as one.

    music21's own `stripTies` joins by order within a voice, and misses ties that cross voices.
    """
    found: list[list[int]] = []
    open_at: dict[tuple[int, int], list[int]] = {}  # by end and pitch, of notes whose tie begins
    for start, end, pitch, tie in sorted(notes, key=lambda each: (each[0], each[2])):
        waiting = open_at.get((start, pitch)) if tie in ("stop", "continue") else None
        note = waiting if waiting is not None else [start, end, pitch]
        if waiting is not None:
            del open_at[start, pitch]
            note[1] = end
        else:
            found.append(note)
        if tie in ("start", "continue"):
            open_at[end, pitch] = note
    return [(start, end, pitch) for start, end, pitch in found]


def _signatures(part: Any, music21: Any) -> list[tuple[int, int, int]]:
    """Return (tick, numerator, denominator) of each; an upbeat is a bar with a signature of its own."""
    found = [
        (_ticks(each.getOffsetInHierarchy(part)), int(each.numerator), int(each.denominator))
        for each in part.recurse().getElementsByClass(music21.meter.TimeSignature)
    ]
    found = list(dict(zip((each[0] for each in found), found, strict=True)).values())
    measures = list(part.getElementsByClass(music21.stream.Measure))
    if not found or found[0][0] != 0 or len(measures) < 2:
        return found
    first = Fraction(measures[1].offset).limit_denominator(1_000)
    whole = Fraction(4 * found[0][1], found[0][2])
    if not 0 < first < whole or (len(found) > 1 and found[1][0] == _ticks(first)):
        return found
    denominator = found[0][2]
    while (first * denominator / 4).denominator != 1 and denominator < 64:
        denominator *= 2
    beats = first * denominator / 4
    if beats.denominator != 1:
        return found
    return [(0, int(beats), denominator), (_ticks(first), *found[0][1:]), *found[1:]]


def _tempos(parts: Sequence[Any], music21: Any) -> Iterable[tuple[int, float]]:
    marks: dict[int, float] = {}
    for part in parts:
        for each in part.recurse().getElementsByClass(music21.tempo.MetronomeMark):
            tempo_qpm = each.getQuarterBPM()
            if tempo_qpm:
                marks.setdefault(_ticks(each.getOffsetInHierarchy(part)), float(tempo_qpm))
    return sorted(marks.items())


def _ticks(quarters: Any) -> int:
    return round(Fraction(quarters) * TICKS_PER_QUARTER)


def _staff(notes: Sequence[tuple[int, int, int]], grid: Grid, instrument: str, music21: Any, *, has_tempo: bool) -> Any:
    part = music21.stream.Part()
    part.insert(0, _instrument(instrument, music21))
    is_high = not notes or sum(note[2] for note in notes) >= _MIDDLE_C * len(notes)
    part.insert(0, music21.clef.TrebleClef() if is_high else music21.clef.BassClef())
    steps = grid.frames_per_quarter
    if grid.time_signature is not None:
        part.insert(0, music21.meter.TimeSignature("/".join(map(str, grid.time_signature))))
    if has_tempo:
        quarter = music21.note.Note(type="quarter")
        part.insert(0, music21.tempo.MetronomeMark(number=grid.tempo_qpm, referent=quarter))
    voices = _voices(_chords(notes))
    for index, voice in enumerate(voices or [[]]):
        stream = music21.stream.Voice(id=str(index + 1))
        for onset, end, pitches in voice:
            chord = music21.chord.Chord(list(pitches)) if len(pitches) > 1 else music21.note.Note(pitches[0])
            chord.quarterLength = Fraction(end - onset, steps)
            stream.insert(Fraction(onset, steps), chord)
        part.insert(0, stream)
    return _measured(part, grid, music21)


def _instrument(name: str, music21: Any) -> Any:
    instrument = music21.instrument.Instrument(name)
    instrument.midiProgram = program_of(name)
    return instrument


def _measured(part: Any, grid: Grid, music21: Any) -> Any:
    """Return a part with measures, rests, ties and beams."""
    length, index = grid.meter
    upbeat = Fraction((length - index) % length, grid.frames_per_quarter) if length else Fraction(0)
    whole = Fraction(grid.n_frames, grid.frames_per_quarter)
    for voice in part.voices:
        voice.makeRests(refStreamOrTimeRange=[0, whole], fillGaps=True, inPlace=True, hideRests=voice.id != "1")
    if upbeat:
        padding = Fraction(length, grid.frames_per_quarter) - upbeat
        for voice in part.voices:
            voice.shiftElements(padding)
    measured = part.makeMeasures()
    measured.makeTies(inPlace=True)
    if upbeat:
        first = measured.getElementsByClass(music21.stream.Measure)[0]
        padding = Fraction(length, grid.frames_per_quarter) - upbeat
        for voice in first.voices or [first]:  # a single voice is dissolved
            for element in list(voice.notesAndRests):
                voice.setElementOffset(element, element.offset - padding)
        first.paddingLeft = padding
        first.number = 0
        for later in measured.getElementsByClass(music21.stream.Measure)[1:]:
            measured.setElementOffset(later, later.offset - padding)
            later.number -= 1
    for measure in measured.getElementsByClass(music21.stream.Measure):
        for voice in measure.voices:
            voice.makeRests(fillGaps=True, inPlace=True, hideRests=voice.id != "1")
            if len(voice.notes):
                music21.stream.makeNotation.splitElementsToCompleteTuplets(voice, recurse=False)
        measure.flattenUnnecessaryVoices(inPlace=True)
    measured.makeAccidentals(inPlace=True)
    with contextlib.suppress(music21.exceptions21.StreamException):  # an unknown metre
        measured.makeBeams(inPlace=True)
    return measured


def _chords(notes: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, tuple[int, ...]]]:
    """Return notes that begin and end together as one chord."""
    found: dict[tuple[int, int], list[int]] = {}
    for onset, end, pitch in notes:
        found.setdefault((onset, end), []).append(pitch)
    return [(onset, end, tuple(sorted(pitches))) for (onset, end), pitches in sorted(found.items())]


def _voices(
    chords: Sequence[tuple[int, int, tuple[int, ...]]],
) -> list[list[tuple[int, int, tuple[int, ...]]]]:
    """Return chords in as few voices as do not overlap, the highest chord first where several begin together."""
    voices: list[list[tuple[int, int, tuple[int, ...]]]] = []
    for chord in sorted(chords, key=lambda each: (each[0], -each[2][-1])):
        free = next((voice for voice in voices if voice[-1][1] <= chord[0]), None)
        if free is None:
            voices.append([chord])
        else:
            free.append(chord)
    return voices
