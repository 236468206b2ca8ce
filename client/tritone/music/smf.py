"""Standard MIDI Files: check the bytes and rewrite them in the plain form that symusic reads without errors.

symusic 0.5.9 trusts the header's track count and the chunk lengths, loses notes after system-exclusive messages under
running status, reads beyond meta events that are too short, and silently drops notes without an end. The chunks and
events are therefore parsed here first; symusic gets a rewritten file with explicit status bytes, correct lengths, and
only the events that a score needs: notes, programs, tempos, time signatures, markers and track names.

Sources: The Complete MIDI 1.0 Detailed Specification, "Standard MIDI Files 1.0" (MIDI Manufacturers Association, 1996);
RP-029, "Bundling SMF and DLS data in an RMID file" (2001).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

MIDI_SUFFIXES: Final = (".mid", ".midi", ".kar", ".smf", ".rmi")  # names of MIDI files in folders
MAX_BYTES: Final = 1 << 22  # 4 MiB, about ten hours of piano playing
_MAX_TICKS: Final = 2**31 - 1  # symusic counts them in 32 bits
_MAX_DELTA: Final = 2**28 - 1  # the largest number of four bytes of seven bits
_STAND_IN_DIVISION: Final = 480  # for files that count time in SMPTE frames
_SMPTE_QUARTERS_PER_S: Final = 2  # MIDI's default tempo; such files have no other
# Frame rates of SMPTE time code; 29 means 30 drop-frame.
_FRAMES_PER_S: Final = {24: Fraction(24), 25: Fraction(25), 29: Fraction(30_000, 1_001), 30: Fraction(30)}
_HEADER: Final = b"MThd"
_HEADER_BYTES: Final = 14
_MACBINARY_BYTES: Final = 128  # of the header that old Macintosh programs put before a file
# First bytes of other formats -> advice for the error message.
_OTHER_CONTENT: Final = {
    b"RIFF": "RIFF files other than RMID hold sound or video, not notes",
    b"\x1f\x8b": "it is compressed with gzip: unpack it",
    b"PK": "it is a ZIP archive: unpack it (compressed MusicXML, .mxl, must be saved as MIDI)",
    b"<": "it is a web page or XML: download the file itself, or save MusicXML as MIDI",
    b"ID3": "it is a recording (MP3), not notes",
    b"OggS": "it is a recording (Ogg), not notes",
    b"fLaC": "it is a recording (FLAC), not notes",
}
_TRACK: Final = b"MTrk"
_NO_EVENT: Final = b"\xff\x01\x00"  # an empty text
_END_OF_TRACK: Final = b"\x00\xff\x2f\x00"
_META, _SYSEX, _ESCAPE = 0xFF, 0xF0, 0xF7
_TRACK_NAME, _MARKER, _END, _TEMPO, _TIME_SIGNATURE = 0x03, 0x06, 0x2F, 0x51, 0x58
_META_LENGTH: Final = {_TEMPO: 3, _TIME_SIGNATURE: 4}
_KEPT_META: Final = frozenset({_TRACK_NAME, _MARKER, _TEMPO, _TIME_SIGNATURE})
_NOTE_OFF, _NOTE_ON, _PROGRAM, _CHANNEL_PRESSURE = 0x80, 0x90, 0xC0, 0xD0
_MAX_TRACKS: Final = 0xFFFF


class DamagedError(Exception):
    """The bytes are not a readable Standard MIDI File; `reason` is one of `InvalidScoreError`'s."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


@dataclass(frozen=True)
class MidiFile:
    """A checked and rewritten file.

    Attributes:
        data: a plain Standard MIDI File of type 1.
        ticks_per_quarter: the meaning of its ticks.
        in_seconds: its ticks count parts of seconds, so its tempos have no meaning.
        n_note_ons: notes that begin, percussion included.
        skipped: what was not read, counted by reason; see `to_grid`.
    """

    data: bytes
    ticks_per_quarter: Fraction
    in_seconds: bool
    n_note_ons: int
    skipped: Mapping[str, int]


@dataclass(frozen=True)
class _Track:
    """A parsed track: rewritten events, and where it ends in the file."""

    events: bytes
    end: int
    n_note_ons: int
    n_malformed: int


def parse_midi(data: bytes) -> MidiFile:
    """Check a file's chunks and events and rewrite them.

    All tracks in the file are read, also if the header's count or the chunks' lengths contradict; an end-of-track
    event closes a track. RIFF RMID and MacBinary files are unwrapped.

    Raises:
        DamagedError: the bytes are not MIDI, or cut off, damaged or too long.
    """
    data = _without_container(data)
    if data[:4] != _HEADER:
        raise DamagedError(
            "not_midi",
            f"is not a MIDI file: it begins with {data[:4]!r} where b'MThd' is expected ({', '.join(MIDI_SUFFIXES)})"
            + next((f"; {hint}" for magic, hint in _OTHER_CONTENT.items() if data.startswith(magic)), ""),
        )
    if len(data) > MAX_BYTES:
        raise DamagedError("too_long", f"has more than {MAX_BYTES:,} bytes, the most that can be read; cut it")
    if len(data) < _HEADER_BYTES:
        raise DamagedError("truncated", f"breaks off in its header, after {len(data)} bytes")
    length, kind, n_tracks, division = struct.unpack(">IHHH", data[4:14])
    if kind > 2 or not division:
        raise DamagedError("unreadable", f"has a damaged header (type {kind}, division {division}); save it again")
    start = 8 + length if length >= 6 and _is_boundary(data, 8 + length) else _HEADER_BYTES
    tracks, skipped = _tracks(data, start, n_tracks)
    ticks_per_quarter = Fraction(division)
    in_seconds = bool(division & 0x8000)
    if in_seconds:
        ticks_per_quarter, division = _smpte_ticks_per_quarter(division), _STAND_IN_DIVISION
    rewritten = [track.events + _END_OF_TRACK for track in tracks if track.events]
    plain = struct.pack(">4sIHHH", _HEADER, 6, 1, len(rewritten), division)
    return MidiFile(
        data=plain + b"".join(_TRACK + struct.pack(">I", len(events)) + events for events in rewritten),
        ticks_per_quarter=ticks_per_quarter,
        in_seconds=in_seconds,
        n_note_ons=sum(track.n_note_ons for track in tracks),
        skipped=skipped,
    )


def _without_container(data: bytes) -> bytes:
    """Return the MIDI file inside a RIFF RMID or MacBinary file; other data unchanged."""
    if data[:1] == b"\0" and data[_MACBINARY_BYTES : _MACBINARY_BYTES + 4] == _HEADER:
        return data[_MACBINARY_BYTES:]
    if data[:4] != b"RIFF" or data[8:12] != b"RMID":
        return data
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size
        if data[at : at + 4] == b"data":
            after = end + (size & 1)
            # The MIDI data may be followed by a sound bank. A size that does not lead to a chunk is ignored.
            leads_on = after >= len(data) or _is_chunk_name(data[after : after + 4])
            is_whole = size >= _HEADER_BYTES and end <= len(data) and leads_on
            return data[at + 8 : end] if is_whole else data[at + 8 :]
        at = end + (size & 1)
    raise DamagedError("not_midi", "is a RIFF RMID file without a data chunk; save it again as a MIDI file (.mid)")


def _smpte_ticks_per_quarter(division: int) -> Fraction:
    frames_per_s, ticks_per_frame = 256 - (division >> 8), division & 0xFF
    if not ticks_per_frame:
        raise DamagedError("unreadable", "has a damaged header (no ticks in an SMPTE frame); save it again")
    if frames_per_s not in _FRAMES_PER_S:
        raise DamagedError(
            "unreadable",
            f"has a damaged header: expected 24, 25, 29 or 30 SMPTE frames per second, got {frames_per_s}; save it "
            f"again",
        )
    return _FRAMES_PER_S[frames_per_s] * ticks_per_frame / _SMPTE_QUARTERS_PER_S


def _is_chunk_name(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)


def _is_boundary(data: bytes, at: int) -> bool:
    """Return whether a chunk or the end of the file can be at this position."""
    return at == len(data) or data[at : at + 4] == _TRACK or _other_chunk_end(data, at) is not None


def _other_chunk_end(data: bytes, at: int) -> int | None:
    """Return the end of a chunk of an unknown type at this position, or None if there is none."""
    name = data[at : at + 4]
    if at + 8 > len(data) or name in {_TRACK, _HEADER} or not _is_chunk_name(name):
        return None
    end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "big")
    is_followed = end == len(data) or data[end : end + 4] == _TRACK or _is_chunk_name(data[end : end + 4])
    return end if end <= len(data) and is_followed else None


def _tracks(data: bytes, at: int, n_claimed: int) -> tuple[list[_Track], Counter[str]]:
    """Parse all tracks from a position on, and count what is between and after them."""
    tracks: list[_Track] = []
    skipped: Counter[str] = Counter()
    while at < len(data):
        if data[at : at + 4] == _TRACK:
            if len(tracks) == _MAX_TRACKS:
                raise DamagedError("too_long", f"has more than {_MAX_TRACKS:,} tracks, the most that can be read")
            track, end = _track(data, at, len(tracks) + 1, n_claimed)
            skipped["skipped_bytes"] += max(0, end - track.end)
            skipped["malformed_events"] += track.n_malformed
            tracks.append(track)
            at = end
        elif (end_of_other := _other_chunk_end(data, at)) is not None:
            skipped["skipped_chunks"] += 1
            at = end_of_other
        else:
            # A second header begins another file, whose tracks do not belong to this one.
            following = data.find(_TRACK, at)
            if following < 0 or data.find(_HEADER, at, following) >= 0:
                following = len(data)
            skipped["skipped_bytes"] += following - at
            at = following
    if n_claimed and not tracks:
        raise DamagedError("truncated", f"is cut off: none of its {n_claimed} tracks is in the file")
    skipped["missing_tracks"] = max(0, n_claimed - len(tracks))
    return tracks, Counter({reason: n for reason, n in skipped.items() if n})


def _track(data: bytes, at: int, number: int, n_claimed: int) -> tuple[_Track, int]:
    """Parse the track chunk at a position.

    Returns:
        The track, and where to look for the next chunk.
    """
    name = f"track {number} of {max(number, n_claimed)}"
    if at + 8 > len(data):
        raise DamagedError("truncated", f"is cut off in the header of {name}")
    claimed_end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "big")
    track = _Parser(data, at + 8, claimed_end, name).track()
    if track.end < claimed_end and data[track.end : track.end + 4] != _TRACK and _is_boundary(data, claimed_end):
        return track, claimed_end
    return track, track.end


class _Parser:
    """Parses the events of one track and rewrites those that a score needs."""

    def __init__(self, data: bytes, start: int, claimed_end: int, name: str) -> None:
        self._data = data
        self._start = start
        self._claimed_end = claimed_end
        self._name = name
        self._is_claim_good = _is_boundary(data, claimed_end)
        self._events = bytearray()
        self._ticks = 0
        self._ticks_written = 0  # of the last event that was rewritten
        self._status = 0  # running status
        self._n_note_ons = 0
        self._n_malformed = 0

    def track(self) -> _Track:
        """Parse up to the end of the track.

        Raises:
            DamagedError: the track is cut off or damaged.
        """
        at_claimed_end: _Track | None = None
        # Behind a claimed length that leads nowhere, an end-of-track event is looked for up to the next track.
        limit = len(self._data)
        at = self._start
        try:
            while True:
                if at == self._claimed_end:
                    at_claimed_end = self._finished(at)
                    following = self._data.find(_TRACK, at)
                    limit = following if following >= 0 else limit
                if self._ends_unmarked(at):
                    return at_claimed_end or self._finished(at)
                begin, is_end, at = at, *self._event(at)
                if at > limit or (self._is_claim_good and begin < self._claimed_end < at):
                    raise self._cut_off()
                if is_end:
                    return self._finished(at)
        except (IndexError, DamagedError) as error:
            if at_claimed_end is not None:  # without an end-of-track event, the bytes behind it are not events
                return at_claimed_end
            if isinstance(error, DamagedError):
                raise
            raise self._cut_off() from None

    def _ends_unmarked(self, at: int) -> bool:
        """Return whether the track ends at this position without an end-of-track event."""
        if at == len(self._data):
            if self._claimed_end > at:
                raise DamagedError(
                    "truncated",
                    f"is cut off: {self._name} should have {self._claimed_end - self._start:,} bytes, "
                    f"{at - self._start:,} are there",
                )
            return True
        if self._is_claim_good:
            return at == self._claimed_end
        return at > self._start and self._data[at : at + 4] == _TRACK

    def _event(self, at: int) -> tuple[bool, int]:
        """Parse one event; return whether it is the end of the track, and the position behind it."""
        data = self._data
        delta, at = self._number(at)
        self._ticks += delta
        if self._ticks > _MAX_TICKS:
            raise DamagedError("too_long", f"lasts {self._ticks:,} ticks; at most {_MAX_TICKS:,} can be read")
        first = data[at]
        if first == _META:
            kind = data[at + 1]
            length, begin = self._number(at + 2)
            end = begin + length
            if kind in _META_LENGTH and length != _META_LENGTH[kind]:
                self._n_malformed += 1
            elif kind in _KEPT_META and end <= len(data):
                self._write(data[at:end])
            return kind == _END, end
        if first in (_SYSEX, _ESCAPE):
            length, begin = self._number(at + 1)
            return False, begin + length
        if first & 0x80:
            self._status = first
            at += 1
        return False, self._channel_event(at)

    def _channel_event(self, at: int) -> int:
        # The standard ends running status at a meta or system-exclusive event; many files go on with it.
        status = self._status
        if not 0x80 <= status < 0xF0:
            raise DamagedError(
                "unreadable", f"is damaged: expected a MIDI event at byte {at} of the file; save it again"
            )
        kind = status & 0xF0
        end = at + (1 if kind in (_PROGRAM, _CHANNEL_PRESSURE) else 2)
        body = self._data[at:end]
        if end > len(self._data):
            raise self._cut_off()
        if max(body) > 0x7F:
            raise DamagedError(
                "unreadable",
                f"is damaged: expected data from 0 to 127 at byte {at} of the file, got {max(body)}; save it again",
            )
        if kind in (_NOTE_ON, _NOTE_OFF, _PROGRAM):
            self._write(bytes((status,)) + body)
            self._n_note_ons += kind == _NOTE_ON and body[1] > 0
        return end

    def _write(self, event: bytes) -> None:
        delta = self._ticks - self._ticks_written
        while delta > _MAX_DELTA:  # events that were left out may add up to more than one number holds
            self._events += _variable_length(_MAX_DELTA) + _NO_EVENT
            delta -= _MAX_DELTA
        self._events += _variable_length(delta) + event
        self._ticks_written = self._ticks

    def _finished(self, end: int) -> _Track:
        return _Track(bytes(self._events), end, self._n_note_ons, self._n_malformed)

    def _number(self, at: int) -> tuple[int, int]:
        """Read a number of at most four bytes of seven bits; return it and the position behind it."""
        value = 0
        for index in range(at, at + 4):
            byte = self._data[index]
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value, index + 1
        raise DamagedError(
            "unreadable", f"is damaged: the number at byte {at} of the file has more than four bytes; save it again"
        )

    def _cut_off(self) -> DamagedError:
        return DamagedError("truncated", f"is damaged or cut off: the last event of {self._name} is incomplete")


def _variable_length(number: int) -> bytes:
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))
