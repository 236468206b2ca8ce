"""Build MIDI files byte by byte, in the variants that different programs write."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

END = (0, b"\xff\x2f\x00")
Event = tuple[int, bytes]


def on(delta: int, pitch: int, *, channel: int = 0, velocity: int = 64) -> Event:
    return delta, bytes([0x90 | channel, pitch, velocity])


def off(delta: int, pitch: int, *, channel: int = 0) -> Event:
    return delta, bytes([0x80 | channel, pitch, 0])


def meter(delta: int, numerator: int, power: int) -> Event:
    return delta, bytes([0xFF, 0x58, 4, numerator, power, 24, 8])


def tempo(delta: int, microseconds: int) -> Event:
    return delta, b"\xff\x51\x03" + microseconds.to_bytes(3, "big")


def track(*events: Event) -> bytes:
    body = b"".join(variable_length(delta) + event for delta, event in events)
    return b"MTrk" + struct.pack(">I", len(body)) + body


def midi(*tracks: bytes, kind: int = 1, division: int = 480) -> bytes:
    return b"MThd" + struct.pack(">IHHH", 6, kind, len(tracks), division) + b"".join(tracks)


def variable_length(number: int) -> bytes:
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))


def random_frames(seed: int, *, n_frames: int, density: float) -> np.ndarray[Any, Any]:
    """(N, 88) a valid grid with notes of all lengths, repeated ones among them."""
    rng = np.random.default_rng(seed)
    frames = np.zeros((n_frames, 88), np.uint8)
    for _ in range(max(1, round(n_frames * density))):
        start, column = int(rng.integers(n_frames)), int(rng.integers(88))
        frames[start : start + int(rng.integers(1, 9)), column] = 1
        frames[start, column] = 2
    before = np.vstack([np.zeros((1, 88), np.uint8), frames[:-1]])
    frames[(frames == 1) & (before == 0)] = 2
    return frames
