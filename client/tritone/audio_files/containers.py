"""Split a file into its audio streams, each of which libsndfile can read from beginning to end.

WAV, AIFF, AU and FLAC files may hold several recordings, joined end to end. libsndfile reads only the first of them, or
none, and treats a WAV file with a size of 0, as interrupted recorders leave it, as empty.

The decision depends on the bytes alone, so that a path, bytes and a file object give the same samples.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, TypeAlias

from tritone.audio_files.byte_sources import FileBytes, Segment, check_count
from tritone.audio_files.formats import CONVERT, HEAD_BYTES, READABLE, Format, other_binary_format, text_format
from tritone.audio_files.mp3_streams import Mp3Stream, bytes_after, first_frame, id3_bytes, mp3_streams
from tritone.audio_files.ogg_streams import OggLink, ogg_links
from tritone.exceptions import InvalidAudioError

_WAV: Final = re.compile(rb"(?:RIFF|RIFX|RF64)....WAVE(?:fmt |ds64|JUNK|bext|LIST|fact)", re.DOTALL)
_FLAC: Final = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_AU_HEADER_BYTES: Final = 24
_LARGEST_SIZE: Final = 0xFFFF_FFFF  # also means "unknown"
_STREAMED_SIZE: Final = 0x7FFF_0000  # sizes from here on mean that a writer of a stream did not know the size
_MISSING_S: Final = 0.5  # seconds; shorter losses are not noted
_UNKNOWN: Final = b"\xff\xff\xff\xff"


def wav_parts(data: FileBytes, start: int, note: Callable[[str], None]) -> list[list[Segment]]:
    """Return the segments of each WAV file (RIFF, RIFX or RF64), with sizes of 0 replaced by "unknown".

    Args:
        note: receives how much is missing or not read.
    """
    parts: list[list[Segment]] = []
    while check_count(parts) and _WAV.match(data.at(start, 16)):
        end, size_at = _wav_end(data, start, note)
        segments: list[Segment] = [range(start, end)]
        if size_at is not None:
            magic = b"RIFX" if data.at(start, 4) == b"RIFX" else b"RIFF"
            segments = [magic, _UNKNOWN, range(start + 8, size_at), _UNKNOWN, range(size_at + 4, end)]
        parts.append(segments)
        start = end
    return parts or [[range(start, data.size)]]


def _wav_end(data: FileBytes, start: int, note: Callable[[str], None]) -> tuple[int, int | None]:
    """Return (end of the WAV file, position of the size of its data chunk if that must be replaced, else None)."""
    order: Literal["little", "big"] = "big" if data.at(start, 4) == b"RIFX" else "little"
    position = start + 12
    long_size: int | None = None  # RF64 keeps the size of its samples in a chunk of its own
    has_samples, bytes_per_s = False, 1
    while position + 8 <= data.size and not _WAV.match(data.at(position, 16)):
        name = data.at(position, 4)
        size = int.from_bytes(data.at(position + 4, 4), order)
        if has_samples and (not _is_name(name) or position + 8 + size > data.size + 1):
            if (n_after := data.size - position) > _MISSING_S * bytes_per_s:
                note(f"holds {n_after:,} bytes behind the end that its header gives; they are not read")
            return data.size, None
        if name == b"fmt ":
            bytes_per_s = max(1, int.from_bytes(data.at(position + 16, 4), order))
        if name == b"ds64":
            long_size = int.from_bytes(data.at(position + 16, 8), "little")
        if name == b"data":
            if size == _LARGEST_SIZE and long_size is not None:
                size = long_size
            has_samples = True
            is_unset = size == 0 and not _is_chunk(data, position + 8)
            if is_unset or position + 8 + size > data.size:  # streamed: the samples go on until another file begins
                there_s, claimed_s = (n / bytes_per_s for n in (data.size - position - 8, size))
                if size < _STREAMED_SIZE and claimed_s - there_s > _MISSING_S:
                    note(f"breaks off after {there_s:.1f} of {claimed_s:.1f} s")
                return data.find(_WAV, position + 8) or data.size, position + 4 if is_unset else None
        position += 8 + size
        if size % 2 and not _WAV.match(data.at(position, 16)):
            position += 1  # chunks are padded to even sizes
    return min(position, data.size) if _WAV.match(data.at(position, 16)) else data.size, None


def _is_name(name: bytes) -> bool:
    return all(0x20 <= byte < 0x7F for byte in name)


def _is_chunk(data: FileBytes, position: int) -> bool:
    """Return whether a chunk or the end of the file is at this position."""
    name = data.at(position, 4)
    size = int.from_bytes(data.at(position + 4, 4), "little")
    return len(name) < 4 or (name.isalnum() and position + 8 + size <= data.size + 1)


def aiff_parts(data: FileBytes, start: int) -> list[list[Segment]]:
    """Return the segments of each AIFF file."""
    parts: list[list[Segment]] = []
    while check_count(parts) and data.at(start, 4) == b"FORM" and data.at(start + 8, 4) in {b"AIFF", b"AIFC"}:
        end = start + 8 + int.from_bytes(data.at(start + 4, 4), "big")
        end = next((each for each in (end, end + 1) if data.at(each, 4) == b"FORM"), data.size)
        parts.append([range(start, end)])
        start = end
    return parts or [[range(start, data.size)]]


def au_parts(data: FileBytes, start: int) -> list[list[Segment]]:
    """Return the segments of each AU file (big-endian; the rare little-endian ones are not split)."""
    parts: list[list[Segment]] = []
    while check_count(parts) and data.at(start, 4) == b".snd":
        n_header, n_samples = (int.from_bytes(data.at(start + at, 4), "big") for at in (4, 8))
        end = start + max(n_header, _AU_HEADER_BYTES) + n_samples
        end = end if data.at(end, 4) == b".snd" else data.size
        parts.append([range(start, end)])
        start = end
    return parts or [[range(start, data.size)]]


def flac_parts(data: FileBytes, start: int) -> list[list[Segment]]:
    """Return the segments of each FLAC file."""
    parts: list[list[Segment]] = []
    while check_count(parts) and start < data.size:
        end = data.find(_FLAC, start + 4) or data.size
        parts.append([range(start, end)])
        start = end
    return parts


Fail: TypeAlias = Callable[[str, str], InvalidAudioError]
Note: TypeAlias = Callable[[str], None]

# A recording with less audio than its header says is damaged if more than this is missing. Headers that are often wrong
# (a streamed WAV claims 4 GB) are not checked.
MISSING_S: Final = 0.5
_WAV_MARKS: Final = (b"RIFF", b"RIFX", b"RF64")
# Other containers that libsndfile reads as they are.
_OTHER_CONTAINERS: Final = re.compile(
    rb"caff|riff\x2e\x91|NIST_1A|Creative Voice File|\x64\xa3|\x00\x00\xa3\x64|dns\.|2BIT| paf|fap |PVF1|MATLAB 5|"
    rb"Extended Instrument|ALawSoundFile|\x01\x04|\xf0\x7e|FORM"
)


@dataclass(frozen=True)
class AudioPart:
    """One stream of a file.

    Attributes:
        segments: its bytes, as `SplicedFile` takes them.
        is_recognised: False if the format is unknown and libsndfile may still be able to read it.
    """

    segments: Sequence[Segment]
    is_recognised: bool = True


def audio_parts(file: BinaryIO, fail: Fail, note: Note) -> list[AudioPart]:
    """Find the streams of a file.

    Args:
        file: seekable and not empty.
        fail: makes the error from a reason and a message.
        note: called with a message for each part of the file that is not read.

    Raises:
        InvalidAudioError: the file has another format, or a part of it is missing.
    """
    data = FileBytes(file)
    start = 0
    while n_bytes := id3_bytes(data, start):
        start += n_bytes
    if start >= data.size:
        start = 0
    for position in {start, 0}:
        head = data.at(position, HEAD_BYTES)
        if found := _container_parts(data, position, head, fail, note):
            return found
        if other := other_binary_format(head):
            raise not_audio(fail, other)
    head = data.at(0, HEAD_BYTES)
    if _OTHER_CONTAINERS.match(head):
        return [AudioPart([range(data.size)])]
    frame = first_frame(data)
    if frame is not None:
        streams = mp3_streams(data, frame)
        _check_mp3(streams, fail, note)
        if n_after := bytes_after(data, streams):
            note(f"holds {n_after:,} bytes after its last MP3 frame that are not MP3; they are not read")
        return [AudioPart(stream.segments(data)) for stream in streams]
    if other := text_format(head) or other_binary_format(head, weak=True):
        raise not_audio(fail, other)
    return [AudioPart([range(data.size)], is_recognised=False)]


def not_audio(fail: Fail, found: Format) -> InvalidAudioError:
    """Make the error for a file that is recognised as something else."""
    return fail("unreadable", f"is not audio that can be read: expected {READABLE}, got {found.name}; {found.advice}")


def _container_parts(data: FileBytes, start: int, head: bytes, fail: Fail, note: Note) -> list[AudioPart] | None:
    if head.startswith(b"OggS"):
        links, n_headless = ogg_links(data, start)
        return _ogg_parts(data, links, n_headless, fail, note)
    if head.startswith(_WAV_MARKS) and head[8:12] == b"WAVE":
        return [AudioPart(segments) for segments in wav_parts(data, start, note)]
    if head.startswith(b"FORM") and head[8:12] in {b"AIFF", b"AIFC"}:
        return [AudioPart(segments) for segments in aiff_parts(data, start)]
    if head.startswith(b"fLaC"):
        return [AudioPart(segments) for segments in flac_parts(data, start)]
    if head.startswith(b".snd"):
        return [AudioPart(segments) for segments in au_parts(data, start)]
    return None


def _ogg_parts(data: FileBytes, links: Sequence[OggLink], n_headless: int, fail: Fail, note: Note) -> list[AudioPart]:
    if not links:
        raise fail(
            "unreadable",
            "is an Ogg file without the beginning of a stream: expected its header packets first, got "
            f"{n_headless} pages from the middle; record or download it from its beginning",
        )
    if n_headless:
        note(f"begins with {n_headless} Ogg pages of a stream whose beginning is missing; they are not read")
    readable = [link for link in links if link.codec]
    if not readable:
        contents = ", ".join(dict.fromkeys(name for link in links for name in link.contents))
        raise not_audio(fail, Format(f"an Ogg file with {contents}", CONVERT))
    for link in links:
        if not link.codec:
            note(f"holds an Ogg stream with {', '.join(link.contents)} that is not read")
        elif len(link.contents) > 1:
            note(f"holds Ogg streams that play at the same time ({', '.join(link.contents)}); one is read")
        if link.n_damaged:
            note(f"holds {link.n_damaged} Ogg pages that are damaged or cut off; they are not read")
    return [AudioPart(link.segments(data)) for link in readable]


def _check_mp3(streams: Sequence[Mp3Stream], fail: Fail, note: Note) -> None:
    before_s = 0.0
    for stream in streams:
        duration_s = stream.duration_s
        if stream.n_claimed and stream.n_frames:
            claimed_s = duration_s * stream.n_claimed / stream.n_frames
            if claimed_s - duration_s > MISSING_S and stream.n_skipped:
                raise fail(
                    "unreadable",
                    f"is damaged: expected {claimed_s:.1f} s of MP3, got {duration_s:.1f} s with {stream.n_skipped} "
                    f"bytes between them that are not audio; copy or download it again",
                )
            if claimed_s - duration_s > MISSING_S:
                raise fail(
                    "unreadable",
                    f"breaks off after {before_s + duration_s:.1f} of {before_s + claimed_s:.1f} s; "
                    f"copy or download it again",
                )
        if stream.n_skipped:
            note(f"holds {stream.n_skipped} bytes between its MP3 frames that are not audio; they are not read")
        before_s += duration_s
