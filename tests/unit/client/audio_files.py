"""Build irregular audio files byte by byte: joined, recorded live, mislabelled, or with damaged headers."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
import soundfile

RATE = 22_050


def tone(duration_s: float, rate_hz: int = RATE, *, pitch_hz: float = 440.0) -> np.ndarray:
    """(S,) float64."""
    return 0.4 * np.sin(2 * np.pi * pitch_hz * np.arange(round(duration_s * rate_hz)) / rate_hz)


def encoded(samples: np.ndarray, rate_hz: int = RATE, **how: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, **how)
    return file.getvalue()


def mp3(duration_s: float, rate_hz: int = 44_100, *, n_channels: int = 1) -> bytes:
    return encoded(np.stack([tone(duration_s, rate_hz)] * n_channels, axis=1), rate_hz, format="MP3")


def id3(content: bytes, *, claimed: int | None = None) -> bytes:
    """An ID3v2.3 tag; its size is written with seven bits a byte."""
    size = len(content) if claimed is None else claimed
    return b"ID3\x03\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + content


def without_xing(data: bytes) -> bytes:
    """An MPEG-1 MP3 without its first frame, which says how many there are."""
    kbps = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[data[2] >> 4]
    rate_hz = (44_100, 48_000, 32_000)[data[2] >> 2 & 3]
    return data[144_000 * kbps // rate_hz + (data[2] >> 1 & 1) :]


def wav(
    pcm: bytes,
    *,
    data_size: int | None = None,
    riff_size: int | None = None,
    form: bytes = b"RIFF",
    chunks: bytes = b"",
    rate_hz: int = RATE,
) -> bytes:
    """16-bit mono WAV whose sizes may lie."""
    order = ">" if form == b"RIFX" else "<"
    size = len(pcm) if data_size is None else data_size
    fmt = struct.pack(order + "IHHIIHH", 16, 1, 1, rate_hz, 2 * rate_hz, 2, 16)
    body = b"WAVE" + chunks + b"fmt " + fmt + b"data" + struct.pack(order + "I", size) + pcm
    return form + struct.pack(order + "I", len(body) if riff_size is None else riff_size) + body


def pcm16(samples: np.ndarray, order: str = "<") -> bytes:
    return (samples * 32_767).astype(order + "i2").tobytes()


# --- Ogg ---------------------------------------------------------------------------------------


def ogg_crc(page: bytes) -> int:
    """Ogg's checksum, bit by bit as RFC 3533 words it."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc


def ogg_page(segments: bytes, body: bytes, *, flags: int, granule: int, serial: int, number: int) -> bytes:
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, granule, serial, number, 0, len(segments)) + segments
    return head[:22] + struct.pack("<I", ogg_crc(head + body)) + head[26:] + body


def ogg_pages(data: bytes) -> list[tuple[bytes, bytes, dict[str, int]]]:
    """(segment table, body, the other fields) of each page, as `ogg_page` takes them."""
    pages = []
    while data:
        _, _, flags, granule, serial, number, _, n = struct.unpack("<4sBBqIIIB", data[:27])
        end = 27 + n + sum(data[27 : 27 + n])
        fields = {"flags": flags, "granule": granule, "serial": serial, "number": number}
        pages.append((data[27 : 27 + n], data[27 + n : end], fields))
        data = data[end:]
    return pages


def changed_ogg(data: bytes, *, serial: int | None = None, later: int = 0, ends: bool = True) -> bytes:
    """The same stream with another serial number, later granule positions, or no end-of-stream flag."""
    made = []
    for segments, body, fields in ogg_pages(data):
        new = dict(fields)
        new["serial"] = fields["serial"] if serial is None else serial
        if fields["granule"] > 0:
            new["granule"] += later
        if not ends:
            new["flags"] &= ~4
        made.append(ogg_page(segments, body, **new))
    return b"".join(made)


def ogg_of_packets(packets: Sequence[tuple[bytes, int]], *, serial: int) -> bytes:
    """A page for each (packet, granule position)."""
    made = []
    for number, (packet, granule) in enumerate(packets):
        segments = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
        flags = (2 if number == 0 else 0) | (4 if number == len(packets) - 1 else 0)
        made.append(ogg_page(segments, packet, flags=flags, granule=granule, serial=serial, number=number))
    return b"".join(made)


def flac_in_ogg(samples: np.ndarray, rate_hz: int = RATE, *, serial: int = 7) -> bytes:
    """FLAC in Ogg (https://xiph.org/flac/ogg_mapping.html), which libsndfile reads but does not write."""
    data = encoded(samples, rate_hz, format="FLAC")
    position, blocks = 4, []
    while True:
        n_bytes = 4 + int.from_bytes(data[position + 1 : position + 4], "big")
        is_last = data[position] & 0x80
        blocks.append(bytes([data[position] & 0x7F]) + data[position + 1 : position + n_bytes])
        position += n_bytes
        if is_last:
            break
    first, *others = blocks
    comment = [block for block in others if block[0] == 4] or [b"\x04\0\0\x08" + bytes(8)]
    comment[-1] = bytes([comment[-1][0] | 0x80]) + comment[-1][1:]
    packets = [(b"\x7fFLAC\x01\0" + len(comment[:1]).to_bytes(2, "big") + b"fLaC" + first, 0), (comment[-1], 0)]
    frames = _flac_frames(data, position)
    n_block = int.from_bytes(first[4:6], "big")
    packets += [(frame, min((i + 1) * n_block, len(samples))) for i, frame in enumerate(frames)]
    return ogg_of_packets(packets, serial=serial)


def _flac_frames(data: bytes, start: int) -> list[bytes]:
    starts = [i for i in range(start, len(data) - 16) if data[i : i + 2] == b"\xff\xf8" and _is_flac_header(data, i)]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def _is_flac_header(data: bytes, at: int) -> bool:
    lead = data[at + 4]
    n_number = 1 if lead < 0x80 else next(n for n in range(2, 8) if not lead << n & 0x80)
    n_size = {6: 1, 7: 2}.get(data[at + 2] >> 4, 0)
    n_rate = {12: 1, 13: 2, 14: 2}.get(data[at + 2] & 15, 0)
    end = at + 4 + n_number + n_size + n_rate
    crc = 0
    for byte in data[at:end]:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x07 if crc & 0x80 else 0)) & 0xFF
    return crc == data[end]
