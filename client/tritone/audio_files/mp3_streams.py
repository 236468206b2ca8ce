"""Find the MPEG audio streams (MP3, MP2, MP1) of a file, between tags and other data.

libsndfile recognises MP3 by the first bytes and, for a path, by the suffix, and stops where a second stream begins.
Here the frames are found by their headers (ISO/IEC 11172-3, section 2.4.2.3), so that tags of a wrong size, data before
the first frame, joined files and variable bit rates without a header make no difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from tritone.audio_files.byte_sources import FileBytes, Segment, check_count

SEARCH_BYTES: Final = 1 << 24  # where the first frame must begin; cover images take megabytes
_N_CHAIN: Final = 4  # consecutive frames of one kind that prove MPEG audio
_SYNC: Final = re.compile(rb"\xff[\xe2-\xff]")
_ID3_HEADER_BYTES: Final = 10
_ID3V1_BYTES: Final = 128
_FEW_BYTES: Final = 1 << 14  # padding and small tags of other kinds; a second of MP3 has about as many
_TAG_MARKS: Final = (b"ID3", b"TAG", b"APETAGEX")
_RATES_HZ: Final = (44_100, 48_000, 32_000)
_KBPS: Final = {  # by (is it MPEG 1, layer); index 0 is the free format, whose frame length is not in the header
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@dataclass(frozen=True)
class _Frame:
    n_bytes: int
    n_samples: int
    kind: tuple[int, int, int, bool]  # version, layer, rate, whether it is mono: constant in a stream


@dataclass
class Mp3Stream:
    """The frames of one encoded stream.

    Attributes:
        ranges: positions of its frames in the file, contiguous ones joined.
        n_frames: number of frames, without the one that holds a Xing, Info or VBRI header.
        n_claimed: number of frames according to that header; None without it.
        n_skipped: bytes between its frames that are neither frames nor tags.
        duration_s: of its frames.
    """

    kind: tuple[int, int, int, bool]
    ranges: list[range] = field(default_factory=list)
    n_frames: int = 0
    n_claimed: int | None = None
    n_skipped: int = 0
    duration_s: float = 0.0

    def add(self, position: int, n_bytes: int) -> None:
        """Append a frame."""
        if self.ranges and self.ranges[-1].stop == position:
            self.ranges[-1] = range(self.ranges[-1].start, position + n_bytes)
        else:
            self.ranges.append(range(position, position + n_bytes))

    def segments(self, data: FileBytes) -> list[Segment]:
        """Return the stream's bytes, preceded by a header frame if the stream has none.

        Without it, libsndfile estimates the length from the first frame's bit rate and stops there.
        """
        if self.n_claimed or self.kind[1] != 3:
            return list(self.ranges)
        n_frames = self.n_frames + (self.n_claimed is not None)  # a header without a count is decoded as a frame
        return [_header_frame(data.at(self.ranges[0].start, 4), n_frames), *self.ranges]


@lru_cache(maxsize=4096)
def _parsed(header: bytes) -> _Frame | None:
    """Parse the four bytes of a frame header; None if they are not one."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE2:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)  # version 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    bitrate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate in {0, 15} or rate == 3 or header[3] & 3 == 2:
        return None
    is_mpeg1 = version == 3
    rate_hz = _RATES_HZ[rate] // {3: 1, 2: 2, 0: 4}[version]
    bits_per_s = 1000 * _KBPS[is_mpeg1, layer][bitrate]
    n_samples = 384 if layer == 1 else 1152 if layer == 2 or is_mpeg1 else 576
    n_bytes = (
        (12 * bits_per_s // rate_hz + padding) * 4 if layer == 1 else n_samples // 8 * bits_per_s // rate_hz + padding
    )
    return _Frame(n_bytes, n_samples, (version, layer, rate_hz, header[3] >> 6 == 3))


def _header_frame(first: bytes, n_frames: int) -> bytes:
    """Return a frame of layer III with a Xing header for `n_frames` frames.

    Args:
        first: the four header bytes of the first of them.
    """
    # No checksum; the bit rate (128 or 80 kbit/s) gives a frame large enough for the Xing header.
    head = bytes([first[0], first[1] | 1, 9 << 4 | first[2] & 0x0C, first[3]])
    frame = _parsed(head)
    if frame is None:
        raise ValueError(f"expected the header of a frame, got {first.hex()}")
    is_mpeg1, is_mono = frame.kind[0] == 3, frame.kind[3]
    n_side = (17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17)
    xing = b"Xing" + (1).to_bytes(4, "big") + n_frames.to_bytes(4, "big")
    return (head + bytes(n_side) + xing).ljust(frame.n_bytes, b"\0")


def id3_bytes(data: FileBytes, position: int) -> int:
    """Return the length that an ID3v2 tag at a position claims; 0 if there is none."""
    header = data.at(position, _ID3_HEADER_BYTES)
    if len(header) < _ID3_HEADER_BYTES or header[:3] != b"ID3" or max(header[3:5]) == 0xFF or max(header[6:]) > 0x7F:
        return 0
    size = sum(byte << 7 * (3 - index) for index, byte in enumerate(header[6:]))
    return _ID3_HEADER_BYTES + size + (_ID3_HEADER_BYTES if header[5] & 0x10 else 0)


def first_frame(data: FileBytes) -> int | None:
    """Return the position of the first frame, or None if the file holds no MPEG audio."""
    position = 0
    while n_bytes := id3_bytes(data, position):
        position += n_bytes
        if _is_chain(data, position):
            return position
    # A tag whose size is too large would hide the first frames: search everything after the first tag's header.
    return _next_chain(data, _ID3_HEADER_BYTES if position else 0, SEARCH_BYTES)


def mp3_streams(data: FileBytes, start: int) -> list[Mp3Stream]:
    """Return the streams from the first frame on; joined files give several.

    A new stream begins where the format changes, after a tag, at a header frame, or after the number of
    frames that the header claims.
    """
    streams: list[Mp3Stream] = []
    for position, frame, n_before, is_tag in _frames(data, start):
        stream = streams[-1] if streams else None
        claims = _claimed_frames(data.at(position, min(frame.n_bytes, 200)))
        if (
            stream is None
            or is_tag
            or claims is not None
            or frame.kind != stream.kind
            or (stream.n_claimed and stream.n_frames >= stream.n_claimed)
        ):
            check_count(streams)
            stream = Mp3Stream(frame.kind, n_claimed=claims)
            streams.append(stream)
        elif n_before:
            stream.n_skipped += n_before
        stream.add(position, frame.n_bytes)
        if claims is None:
            stream.n_frames += 1
            stream.duration_s += frame.n_samples / frame.kind[2]
    return [stream for stream in streams if stream.n_frames]


def bytes_after(data: FileBytes, streams: Sequence[Mp3Stream]) -> int:
    """Return how many bytes follow the last frame, 0 if they are a tag or few."""
    end = streams[-1].ranges[-1].stop if streams else data.size
    n_bytes = data.size - end
    return n_bytes if n_bytes > _FEW_BYTES and not _is_tag(data, end) else 0


def _frames(data: FileBytes, position: int) -> Iterator[tuple[int, _Frame, int, bool]]:
    """Yield (position, frame, bytes skipped before it, whether they begin with a tag); only whole frames."""
    kind: tuple[int, int, int, bool] | None = None
    n_before, is_tag = 0, False
    while position < data.size:
        frame = _parsed(data.at(position, 4))
        if frame is not None and (frame.kind == kind or _is_chain(data, position, 2)):
            if position + frame.n_bytes > data.size:
                return
            yield position, frame, n_before, is_tag
            kind, n_before, is_tag = frame.kind, 0, False
            position += frame.n_bytes
            continue
        mark = data.at(position, 8)
        is_tag = is_tag or mark.startswith(_TAG_MARKS)
        begun = position
        after_tag = position + (id3_bytes(data, position) or (_ID3V1_BYTES if mark.startswith(b"TAG") else 0))
        if after_tag > position and (
            after_tag >= data.size or _is_chain(data, after_tag, 2) or _is_tag(data, after_tag)
        ):
            position = after_tag
        else:
            found = _next_chain(data, position + 1, data.size)
            if found is None:
                return
            position = found
        n_before += position - begun


def _is_tag(data: FileBytes, position: int) -> bool:
    return data.at(position, 8).startswith(_TAG_MARKS)


def _next_chain(data: FileBytes, position: int, end: int) -> int | None:
    found = data.find(_SYNC, position, end)
    while found is not None and not _is_chain(data, found):
        found = data.find(_SYNC, found + 1, end)
    return found


def _is_chain(data: FileBytes, position: int, n_wanted: int = _N_CHAIN) -> bool:
    """Return whether `n_wanted` frames of one kind follow one another here, or two before the end of the file."""
    first = frame = _parsed(data.at(position, 4))
    for n_found in range(1, n_wanted + 1):
        if first is None or frame is None or frame.kind != first.kind:
            return False
        position += frame.n_bytes
        if position + 4 > data.size:
            return n_found > 1
        frame = _parsed(data.at(position, 4))
        if frame is None and n_found > 1 and _is_tag(data, position):
            return True
    return True


def _claimed_frames(frame: bytes) -> int | None:
    """Read the number of frames from a Xing, Info or VBRI header; 0 if it has no number, None without a header."""
    for mark in (b"Xing", b"Info"):
        at = frame.find(mark, 4, 48)
        if at > 0:
            has_count = frame[at + 7 : at + 8] and frame[at + 7] & 1
            return int.from_bytes(frame[at + 8 : at + 12], "big") if has_count else 0
    if frame[36:40] == b"VBRI":
        return int.from_bytes(frame[50:54], "big")
    return None
