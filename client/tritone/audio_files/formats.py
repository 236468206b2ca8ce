"""Recognise file formats by their first bytes, so that errors name the format of files that cannot be read."""

from __future__ import annotations

import re
import string
from typing import Final, NamedTuple

READABLE: Final = "WAV, FLAC, Ogg (Vorbis, Opus, FLAC), MP3, AIFF, AU or CAF"
HEAD_BYTES: Final = 4096

CONVERT: Final = "convert it first, for example with `ffmpeg -i FILE recording.flac`"
_DOWNLOAD: Final = "download the recording itself"
_EXTRACT: Final = "extract the recordings first"
_RENDER: Final = "it holds notes, not sound: render it first, or use it as a score"
_LISTED: Final = "give the recordings that it lists"
_NO_SOUND: Final = "give the path of a recording"


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        name: with its article, as in "a ZIP archive".
        advice: what the user should do instead.
    """

    name: str
    advice: str


UNKNOWN: Final = Format("data of an unknown format", "check that this is a recording, and that it is whole")
# (position, bytes there, what it is)
_SIGNATURES: Final = (
    (4, b"ftyp", Format("an MPEG-4 file (.m4a, .mp4, .mov; mostly AAC or ALAC)", CONVERT)),
    *((4, atom, Format("a QuickTime file", CONVERT)) for atom in (b"moov", b"mdat", b"wide", b"pnot")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Format("a Windows Media file (.wma, .wmv, .asf)", CONVERT)),
    (0, b"\x1a\x45\xdf\xa3", Format("a Matroska or WebM file (.mka, .mkv, .webm)", CONVERT)),
    (0, b"wvpk", Format("a WavPack file", CONVERT)),
    (0, b"MAC ", Format("a Monkey's Audio file (.ape)", CONVERT)),
    (0, b"MPCK", Format("a Musepack file", CONVERT)),
    (0, b"MP+", Format("a Musepack file", CONVERT)),
    (0, b"TTA1", Format("a True Audio file (.tta)", CONVERT)),
    (0, b"DSD ", Format("a DSD file (.dsf)", CONVERT)),
    (0, b"FRM8", Format("a DSD file (.dff)", CONVERT)),
    (0, b"ajkg", Format("a Shorten file", CONVERT)),
    (0, b"OFR ", Format("an OptimFROG file", CONVERT)),
    (0, b"#!AMR", Format("an AMR file", CONVERT)),
    (0, b".RMF", Format("a RealMedia file", CONVERT)),
    (0, b".ra\xfd", Format("a RealAudio file", CONVERT)),
    (0, b"FLV\x01", Format("a Flash video", CONVERT)),
    (0, b"\x0b\x77", Format("a Dolby Digital file (AC-3)", CONVERT)),
    (0, b"\x7f\xfe\x80\x01", Format("a DTS file", CONVERT)),
    (0, b"\x00\x00\x01\xba", Format("an MPEG video", CONVERT)),
    (0, b"qoaf", Format("a QOA file", CONVERT)),
    (0, b"ADIF", Format("an AAC file", CONVERT)),
    (8, b"AVI ", Format("an AVI video", CONVERT)),
    (8, b"8SVX", Format("an Amiga 8SVX file", CONVERT)),
    (0, b"MThd", Format("a MIDI file", _RENDER)),
    (8, b"RMID", Format("a MIDI file in a RIFF container", _RENDER)),
    (8, b"CDDA", Format("a link to an audio CD's track (.cda)", "copy the track itself from the CD")),
    (8, b"XDIR", Format("an Extended MIDI file (XMI)", _RENDER)),
    (0, b"Extended Module: ", Format("a tracker module (XM)", _RENDER)),
    (0, b"IMPM", Format("a tracker module (IT)", _RENDER)),
    (8, b"sfbk", Format("a SoundFont", _NO_SOUND)),
    (8, b"WEBP", Format("an image (WebP)", _NO_SOUND)),
    (0, b"\x89PNG", Format("an image (PNG)", _NO_SOUND)),
    (0, b"\xff\xd8\xff", Format("an image (JPEG)", _NO_SOUND)),
    (0, b"GIF8", Format("an image (GIF)", _NO_SOUND)),
    (0, b"BM", Format("an image (BMP)", _NO_SOUND)),
    (0, b"II*\x00", Format("an image (TIFF)", _NO_SOUND)),
    (0, b"MM\x00*", Format("an image (TIFF)", _NO_SOUND)),
    (0, b"\x00\x00\x01\x00", Format("an image (ICO)", _NO_SOUND)),
    (0, b"%PDF", Format("a PDF document", _NO_SOUND)),
    (0, b"%!PS", Format("a PostScript document", _NO_SOUND)),
    (0, b"{\\rtf", Format("an RTF document", _NO_SOUND)),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Format("a Microsoft Office document", _NO_SOUND)),
    (0, b"SQLite format 3\x00", Format("an SQLite database", _NO_SOUND)),
    (0, b"PAR1", Format("a Parquet table", _NO_SOUND)),
    (0, b"\x93NUMPY", Format("a NumPy array (.npy)", "load it with numpy.load and pass (samples, rate_hz)")),
    (0, b"\x89HDF", Format("an HDF5 file", _NO_SOUND)),
    (0, b"\x7fELF", Format("a program (ELF)", _NO_SOUND)),
    (0, b"MZ", Format("a Windows program", _NO_SOUND)),
    (0, b"PK\x03\x04", Format("a ZIP archive (or a document in one, such as .docx, .xlsx, .mxl)", _EXTRACT)),
    (0, b"PK\x05\x06", Format("an empty ZIP archive", _EXTRACT)),
    (0, b"\x1f\x8b", Format("a gzip file", _EXTRACT)),
    (0, b"BZh", Format("a bzip2 file", _EXTRACT)),
    (0, b"\xfd7zXZ\x00", Format("an xz file", _EXTRACT)),
    (0, b"\x28\xb5\x2f\xfd", Format("a Zstandard file", _EXTRACT)),
    (0, b"7z\xbc\xaf\x27\x1c", Format("a 7-Zip archive", _EXTRACT)),
    (0, b"Rar!", Format("a RAR archive", _EXTRACT)),
    (257, b"ustar", Format("a tar archive", _EXTRACT)),
    (0, b"\x00\x05\x16\x07", Format("macOS metadata (AppleDouble)", _DOWNLOAD)),
    (0, b"bplist00", Format("a macOS property list", _DOWNLOAD)),
)
# Audio may begin with shorter signatures by chance: they count only where no audio was found.
_WEAK: Final = 3
_AAC: Final = Format("an AAC file (ADTS)", CONVERT)
_TRANSPORT_STREAM: Final = Format("an MPEG transport stream", CONVERT)
_TEXTS: Final = (
    (r"version https://git-lfs", Format("a Git LFS pointer", "fetch the file with `git lfs pull`")),
    (
        r"(<!--.*?-->\s*)*<(!doctype html|html|head|body|script|meta|title|div|p\b)",
        Format("a web page (HTML)", _DOWNLOAD),
    ),
    (r"<\?xml.*<(score-partwise|score-timewise)", Format("a MusicXML score", _RENDER)),
    (r"(<\?xml.*)?<svg", Format("an image (SVG)", _NO_SOUND)),
    (r"(<\?xml.*)?<(rss|feed)\b", Format("a feed (XML)", _DOWNLOAD)),
    (r"(<\?xml.*)?<(playlist|smil|asx)\b", Format("a playlist", _LISTED)),
    (r"<", Format("an XML document or a web page", _DOWNLOAD)),
    (r"#extm3u|\[playlist\]|\[reference\]", Format("a playlist", _LISTED)),
    (r"(rem .*)?(performer|title|file) \".*^\s*track \d+ audio", Format("a cue sheet", _LISTED)),
    (r"\[internetshortcut\]", Format("a link to a web page", _DOWNLOAD)),
    (r"[\[{]\s*([\"\[{\]}-]|\d+\s*[,\]]|true|false|null)", Format("JSON", _DOWNLOAD)),
    (r"http/\d|icy \d", Format("an HTTP response", _DOWNLOAD)),
    (r"x:\s*\d+\s*\n.*^k:", Format("a score in ABC notation", _RENDER)),
)
_PLAYLIST: Final = re.compile(r"(#.*|\S.*\.(mp3|ogg|oga|opus|flac|wav|m4a|aac|wma|aiff?)|https?://\S+)", re.IGNORECASE)
_PRINTABLE: Final = frozenset(string.printable) - set("\x0b\x0c")


def other_binary_format(head: bytes, *, weak: bool = False) -> Format | None:
    """Recognise a binary file that is not audio, or is audio that libsndfile cannot read.

    Args:
        head: the first HEAD_BYTES bytes.
        weak: also use signatures that other data may have by chance.
    """
    for position, signature, found in _SIGNATURES:
        if head.startswith(signature, position) and (weak or len(signature) >= _WEAK):
            return found
    if len(head) >= 7 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS: a frame's length leads to the next one
        n_bytes = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        following = head[n_bytes : n_bytes + 2]
        if n_bytes > 7 and (len(following) < 2 or following == head[:2]):
            return _AAC
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return _TRANSPORT_STREAM
    return None


def text_format(head: bytes) -> Format | None:
    """Recognise text of any kind; None if it is not text."""
    text = _decoded(head)
    if text is None:
        return None
    stripped = text.lstrip("\ufeff \t\r\n")
    for pattern, found in _TEXTS:
        if re.match(pattern, stripped, re.IGNORECASE | re.DOTALL | re.MULTILINE):
            return found
    lines = [line.strip() for line in stripped.splitlines()[:20] if line.strip()]
    complete = lines[:-1] if len(head) == HEAD_BYTES else lines
    if complete and all(_PLAYLIST.fullmatch(line) for line in complete):
        return Format("a playlist", _LISTED)
    return Format("a text", _NO_SOUND)


def _decoded(head: bytes) -> str | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head.decode("utf-16", "replace")
        return text if text.isprintable() or sum(map(str.isspace, text)) else None
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not merely cut within a character
            text = head.decode("latin-1")
            return text if all(_is_written(character) for character in text) else None
        text = head[: error.start].decode("utf-8")
    return text if text and all(_is_written(character) for character in text) else None


def _is_written(character: str) -> bool:
    return character in _PRINTABLE or ord(character) >= 0xA0
