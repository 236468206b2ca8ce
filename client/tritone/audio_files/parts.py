"""Split a file into its audio streams, each of which libsndfile can read from beginning to end.

The decision depends on the bytes alone, so that a path, bytes and a file object give the same samples.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, TypeAlias

from tritone.audio_files.file_bytes import FileBytes
from tritone.audio_files.formats import CONVERT, HEAD_BYTES, READABLE, Format, other_binary_format, text_format
from tritone.audio_files.joined_files import aiff_parts, au_parts, flac_parts, wav_parts
from tritone.audio_files.mp3_streams import Mp3Stream, bytes_after, first_frame, id3_bytes, mp3_streams
from tritone.audio_files.ogg_streams import OggLink, ogg_links
from tritone.audio_files.spliced_file import Segment
from tritone.exceptions import InvalidAudioError

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
class Part:
    """One stream of a file.

    Attributes:
        segments: its bytes, as `SplicedFile` takes them.
        is_recognised: False if the format is unknown and libsndfile may still be able to read it.
    """

    segments: Sequence[Segment]
    is_recognised: bool = True


def audio_parts(file: BinaryIO, fail: Fail, note: Note) -> list[Part]:
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
        return [Part([range(data.size)])]
    frame = first_frame(data)
    if frame is not None:
        streams = mp3_streams(data, frame)
        _check_mp3(streams, fail, note)
        if n_after := bytes_after(data, streams):
            note(f"holds {n_after:,} bytes after its last MP3 frame that are no MP3; they are not read")
        return [Part(stream.segments(data)) for stream in streams]
    if other := text_format(head) or other_binary_format(head, weak=True):
        raise not_audio(fail, other)
    return [Part([range(data.size)], is_recognised=False)]


def not_audio(fail: Fail, found: Format) -> InvalidAudioError:
    """Make the error for a file that is recognised as something else."""
    return fail("unreadable", f"is not audio that can be read: expected {READABLE}, got {found.name}; {found.advice}")


def _container_parts(data: FileBytes, start: int, head: bytes, fail: Fail, note: Note) -> list[Part] | None:
    if head.startswith(b"OggS"):
        links, n_headless = ogg_links(data, start)
        return _ogg_parts(data, links, n_headless, fail, note)
    if head.startswith(_WAV_MARKS) and head[8:12] == b"WAVE":
        return [Part(segments) for segments in wav_parts(data, start, note)]
    if head.startswith(b"FORM") and head[8:12] in {b"AIFF", b"AIFC"}:
        return [Part(segments) for segments in aiff_parts(data, start)]
    if head.startswith(b"fLaC"):
        return [Part(segments) for segments in flac_parts(data, start)]
    if head.startswith(b".snd"):
        return [Part(segments) for segments in au_parts(data, start)]
    return None


def _ogg_parts(data: FileBytes, links: Sequence[OggLink], n_headless: int, fail: Fail, note: Note) -> list[Part]:
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
    return [Part(link.segments(data)) for link in readable]


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
