"""Split an Ogg file (RFC 3533) into its links, each of which libsndfile can read.

libsndfile reads only the first link of a chained file, and refuses Opus that ends without an end-of-stream flag, as
live recordings and cut downloads do. Here each link becomes a file of its own whose last page has the flag. FLAC is
extracted from its pages, because the libsndfile of the Python package is built without FLAC in Ogg.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tritone.audio_files.byte_sources import FileBytes, Segment, check_count

_CAPTURE: Final = re.compile(rb"OggS\0")
_HEADER_BYTES: Final = 27
_CHECKSUM: Final = slice(22, 26)
_BEGINS, _ENDS = 2, 4  # header flags
_FLAC_MAPPING_BYTES: Final = 9  # before the native stream: https://xiph.org/flac/ogg_mapping.html
_NO_PACKET_ENDS: Final = 0xFFFF_FFFF_FFFF_FFFF
_REVERSED_BITS: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
# First bytes of a stream's first packet.
_READABLE: Final = {b"\x01vorbis": "Vorbis", b"OpusHead": "Opus", b"\x7fFLAC": "FLAC"}
_OTHERS: Final = {
    b"Speex   ": "Speex",
    b"\x80theora": "Theora video",
    b"PCM     ": "OggPCM",
    b"CELT    ": "CELT",
    b"BBCD\0": "Dirac video",
    b"\x80kate": "Kate subtitles",
    b"fishead\0": "Skeleton",
}


class _Page(NamedTuple):
    position: int
    n_header: int
    n_bytes: int
    flags: int
    granule: int
    serial: int
    first: bytes  # the first bytes of its body


@dataclass
class OggLink:
    """One link of a chain.

    Attributes:
        pages: the pages of the audio stream, without damaged ones.
        contents: names of all streams in the link.
        codec: of the audio stream that is read; None if libsndfile can read none of them.
        n_damaged: pages with a wrong checksum, or cut off.
    """

    pages: list[_Page] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    codec: str | None = None
    n_damaged: int = 0

    def segments(self, data: FileBytes) -> list[Segment]:
        """Return the stream's bytes, with the end-of-stream flag set on the last page on which a packet ends."""
        if self.codec == "FLAC":
            bodies = [range(page.position + page.n_header, page.position + page.n_bytes) for page in self.pages]
            return [bodies[0][_FLAC_MAPPING_BYTES:], *bodies[1:]]
        pages = self.pages
        while len(pages) > 1 and pages[-1].granule == _NO_PACKET_ENDS:
            pages = pages[:-1]
        segments: list[Segment] = []
        for page in pages[:-1]:
            last = segments[-1] if segments else None
            if isinstance(last, range) and last.stop == page.position:
                segments[-1] = range(last.start, page.position + page.n_bytes)
            else:
                segments.append(range(page.position, page.position + page.n_bytes))
        return [*segments, _with_flags(data.at(pages[-1].position, pages[-1].n_bytes), pages[-1].flags | _ENDS)]


def ogg_links(data: FileBytes, start: int) -> tuple[list[OggLink], int]:
    """Split a file into links.

    Returns:
        (links in order, number of pages before the first beginning of a stream).
    """
    links: list[OggLink] = []
    n_headless = 0
    serial: int | None = None  # of the stream that is read from the current link
    in_beginnings = False
    for page in _pages(data, start):
        if page is None:
            if links:
                links[-1].n_damaged += 1
            continue
        if page.flags & _BEGINS:
            if not in_beginnings:
                check_count(links)
                links.append(OggLink())
                serial = None
            in_beginnings = True
            name = _name_of(page.first, _READABLE)
            links[-1].contents.append(name or _name_of(page.first, _OTHERS) or "an unknown stream")
            if name and serial is None:
                serial = page.serial
                links[-1].codec = name
        else:
            in_beginnings = False
            n_headless += not links
        if links and page.serial == serial:
            links[-1].pages.append(page)
    return links, n_headless


def _name_of(first: bytes, names: dict[bytes, str]) -> str | None:
    return next((name for mark, name in names.items() if first.startswith(mark)), None)


def _pages(data: FileBytes, position: int) -> Iterator[_Page | None]:
    """Yield the pages in order, None for a page that is damaged or cut off."""
    found = data.find(_CAPTURE, position)
    while found is not None:
        header = data.at(found, _HEADER_BYTES + 255)
        n_header = _HEADER_BYTES + header[26] if len(header) >= _HEADER_BYTES else 0
        n_bytes = n_header + sum(header[_HEADER_BYTES:n_header])
        whole = data.at(found, n_bytes) if n_header else b""
        if n_header and len(whole) == n_bytes and whole == _with_flags(whole, whole[5]):
            granule, serial = struct.unpack_from("<QI", whole, 6)
            yield _Page(found, n_header, n_bytes, whole[5], granule, serial, whole[n_header : n_header + 8])
            position = found + n_bytes
        else:
            yield None
            position = found + 1
        found = data.find(_CAPTURE, position)


def _with_flags(page: bytes, flags: int) -> bytes:
    """Return the page with the given header flags and a matching checksum."""
    changed = bytearray(page)
    changed[5] = flags
    changed[_CHECKSUM] = bytes(4)
    # Ogg's CRC-32 is zlib's with the bits of bytes and result in the opposite order, from 0 and without a final NOT.
    crc = zlib.crc32(changed.translate(_REVERSED_BITS), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    changed[_CHECKSUM] = struct.pack("<I", int(f"{crc:032b}"[::-1], 2))
    return bytes(changed)
