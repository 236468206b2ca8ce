"""A look at a Standard MIDI File before symusic parses it.

symusic loses unended notes without a word, knows only divisions in ticks a quarter, and lets times overflow; so the
chunks and events are walked here first, and what symusic then gets is whole and in the form that it knows.

Source: The Complete MIDI 1.0 Detailed Specification, "Standard MIDI Files 1.0" (MIDI Manufacturers Association, 1996).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

MAX_BYTES: Final = 1 << 22  # 4 MB: ten hours of piano playing
_MAX_TICKS: Final = 2**31 - 1  # symusic counts them in 32 bits
_STAND_IN_DIVISION: Final = 480  # for files that count time in film frames
_SMPTE_QUARTERS_PER_S: Final = 2  # MIDI's default tempo: such files know no other
_META, _SYSEX, _ESCAPE = 0xFF, 0xF0, 0xF7


class DamagedError(Exception):
    """The bytes are no Standard MIDI File; `reason` is one of `InvalidScoreError`'s."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


@dataclass(frozen=True)
class MidiBytes:
    """A file that has been looked through.

    Attributes:
        data: the header in its plainest form and the tracks, nothing else.
        ticks_per_quarter: what its ticks mean.
        in_seconds: its ticks count parts of seconds, so that its tempos mean nothing.
        n_note_ons: notes that begin, percussion included.
    """

    data: bytes
    ticks_per_quarter: Fraction
    in_seconds: bool
    n_note_ons: int


def look_through(data: bytes) -> MidiBytes:
    """Check a file's chunks and events.

    Raises:
        DamagedError: it is not MIDI, or cut off, or damaged.
    """
    if len(data) > MAX_BYTES:
        raise DamagedError("too_long", f"has {len(data):,} bytes; a MIDI file of at most {MAX_BYTES:,} can be read")
    if data[:4] != b"MThd":
        raise DamagedError(
            "not_midi", f"is not a MIDI file: it begins with {data[:4]!r} where b'MThd' is expected (.mid, .midi)"
        )
    if len(data) < 14:
        raise DamagedError("truncated", f"breaks off in its header, after {len(data)} bytes")
    length, kind, n_tracks, division = struct.unpack(">IHHH", data[4:14])
    if length < 6 or kind > 2 or not division:
        raise DamagedError(
            "unreadable", f"has a damaged header (length {length}, type {kind}, division {division}); save it again"
        )
    tracks = _tracks(data, 8 + length, n_tracks)
    ticks_per_quarter = Fraction(division)
    in_seconds = bool(division & 0x8000)
    if in_seconds:
        frames_per_s, ticks_per_frame = 256 - (division >> 8), division & 0xFF
        ticks_per_quarter = Fraction(frames_per_s * ticks_per_frame, _SMPTE_QUARTERS_PER_S)
        division = _STAND_IN_DIVISION
        if not ticks_per_frame:
            raise DamagedError("unreadable", "has a damaged header (no ticks in a film frame); save it again")
    plain = struct.pack(">4sIHHH", b"MThd", 6, 1, len(tracks), division)
    return MidiBytes(
        data=plain + b"".join(b"MTrk" + struct.pack(">I", len(track)) + track for track in tracks),
        ticks_per_quarter=ticks_per_quarter,
        in_seconds=in_seconds,
        n_note_ons=sum(_walk(track, number) for number, track in enumerate(tracks, 1)),
    )


def _tracks(data: bytes, start: int, n_tracks: int) -> list[bytes]:
    tracks: list[bytes] = []
    while len(tracks) < n_tracks:
        if start + 8 > len(data):
            raise DamagedError("truncated", f"is cut off: {len(tracks)} of its {n_tracks} tracks are there")
        length = int.from_bytes(data[start + 4 : start + 8], "big")
        body = data[start + 8 : start + 8 + length]
        if data[start : start + 4] == b"MTrk":  # others are to be skipped, says the standard
            if len(body) < length:
                raise DamagedError(
                    "truncated",
                    f"is cut off: track {len(tracks) + 1} of {n_tracks} should have {length:,} bytes, "
                    f"{len(body):,} are there",
                )
            tracks.append(body)
        start += 8 + length
    return tracks


def _walk(track: bytes, number: int) -> int:
    """Go through a track's events and count the notes that begin."""
    at = ticks = n_note_ons = status = 0
    try:
        while at < len(track):
            delta, at = _variable_length(track, at)
            ticks += delta
            first = track[at]
            if first in (_META, _SYSEX, _ESCAPE):
                if first == _META and track[at + 1] == 0x2F:  # end of track
                    break
                length, at = _variable_length(track, at + (2 if first == _META else 1))
                at += length
                continue
            if first & 0x80:
                status = first
                at += 1
            if not 0x80 <= status < 0xF0:
                raise DamagedError(
                    "unreadable", f"is damaged: byte {at} of track {number} is no MIDI event; save it again"
                )
            n_data = 1 if 0xC0 <= status < 0xE0 else 2
            n_note_ons += status >= 0x90 and status < 0xA0 and track[at + 1] > 0
            at += n_data
    except IndexError:
        at = len(track) + 1
    if at > len(track):
        raise DamagedError("truncated", f"is damaged or cut off: the last event of track {number} is incomplete")
    if ticks > _MAX_TICKS:
        raise DamagedError("too_long", f"lasts {ticks:,} ticks; at most {_MAX_TICKS:,} can be read")
    return n_note_ons


def _variable_length(data: bytes, at: int) -> tuple[int, int]:
    """A number of up to four bytes of seven bits, and where it ends."""
    value = 0
    for _ in range(4):
        byte = data[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return value, at
