"""Read SoundFont 2 files: the zones (samples and parameters) that sound for a key of a program.

```python
zones = load_soundfont().zones(program=0, key=60)
```

Source: SoundFont Technical Specification 2.04 (E-mu Systems, 2006), sections 7 (structure), 8.1 (generators) and 9.4
(how zones of presets and instruments add up). Modulators are not read.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.exceptions import MissingExtraError
from tritone.music.symusic_scores import INSTALL

_HEADER_BYTES: Final = 8  # of a chunk: name and size
_LIST_BYTES: Final = 12  # of a LIST or RIFF chunk: also its kind
_PRESET: Final = np.dtype([("name", "S20"), ("program", "<u2"), ("bank", "<u2"), ("bag", "<u2"), ("unused", "<u4", 3)])
_INSTRUMENT: Final = np.dtype([("name", "S20"), ("bag", "<u2")])
_BAG: Final = np.dtype([("generator", "<u2"), ("modulator", "<u2")])
_GENERATOR: Final = np.dtype([("operator", "<u2"), ("amount", "<i2")])
_SAMPLE: Final = np.dtype(
    [
        ("name", "S20"),
        ("start", "<u4"),
        ("end", "<u4"),
        ("loop_start", "<u4"),
        ("loop_end", "<u4"),
        ("rate_hz", "<u4"),
        ("pitch", "u1"),
        ("cents", "i1"),
        ("link", "<u2", 2),
    ]
)
_VELOCITY: Final = 100  # MIDI velocity for which zones are chosen, for all notes
# Numbers of generators (section 8.1).
_START, _END, _LOOP_START, _LOOP_END = (0, 4), (1, 12), (2, 45), (3, 50)  # fine, and coarse in steps of 32,768
_CUTOFF, _CUTOFF_BY_ENVELOPE = 8, 11
_ATTACK, _HOLD, _DECAY, _SUSTAIN, _RELEASE, _HOLD_BY_KEY, _DECAY_BY_KEY = 34, 35, 36, 37, 38, 39, 40
_INSTRUMENT_ID, _KEYS, _VELOCITIES, _ATTENUATION, _COARSE, _FINE = 41, 43, 44, 48, 51, 52
_SAMPLE_ID, _MODE, _SCALE, _ROOT = 53, 54, 56, 58
_DEFAULTS: Final = {_CUTOFF: 13_500, _SCALE: 100, **dict.fromkeys((_ATTACK, _HOLD, _DECAY, _RELEASE), -12_000)}
_ALL: Final = 127 << 8  # a range from 0 to 127
_ATTENUATION_FACTOR: Final = 0.4  # as E-mu's hardware, and FluidSynth (EMU_ATTENUATION_FACTOR)

Generators = Mapping[int, int]


@dataclass(frozen=True)
class Zone:
    """A sample, and the parameters with which a key plays it.

    Attributes:
        samples: (S,) int16, the whole sample.
        loop: start and end index of the part that repeats while the key is held; None if the sample is played once.
        rate_hz: sampling rate at which the sample has the key's pitch.
        cutoff_hz: cutoff frequency of the second-order low-pass filter, at the peak of its envelope.
        gain: factor of the amplitude.
        attack_s, hold_s: durations of these phases of the volume envelope.
        decay_s: time in which the level falls by 100 dB.
        sustain_db: level after the decay, relative to the peak; at most 0.
        release_s: time in which the level falls by 100 dB after the key is released.
    """

    samples: npt.NDArray[np.int16]
    loop: tuple[int, int] | None
    rate_hz: float
    cutoff_hz: float
    gain: float
    attack_s: float
    hold_s: float
    decay_s: float
    sustain_db: float
    release_s: float


class SoundFont:
    """A SoundFont 2 file."""

    def __init__(self, data: bytes) -> None:
        """Read the structure of a file; its samples are decoded when they are used.

        Raises:
            ValueError: the data are not a SoundFont 2 file.
        """
        if data[:4] != b"RIFF" or data[8:12] != b"sfbk":
            raise ValueError(f"not a SoundFont 2 file: expected RIFF ... sfbk, got {data[:12]!r}")
        chunks = _chunks(data)
        try:
            self._samples = np.frombuffer(chunks[b"smpl"], "<i2")
            self._headers = np.frombuffer(chunks[b"shdr"], _SAMPLE)
            presets, instruments = (
                np.frombuffer(chunks[name], kind) for name, kind in ((b"phdr", _PRESET), (b"inst", _INSTRUMENT))
            )
            of_presets = _zones(chunks[b"pbag"], chunks[b"pgen"])
            of_instruments = _zones(chunks[b"ibag"], chunks[b"igen"])
        except (KeyError, ValueError) as error:
            raise ValueError(f"damaged SoundFont 2 file: {error}") from error
        self._instruments = [
            _with_globals(of_instruments[start:end], _SAMPLE_ID) for start, end in pairwise(instruments["bag"].tolist())
        ]
        self._presets: dict[int, list[dict[int, int]]] = {}
        for preset, (start, end) in zip(presets, pairwise(presets["bag"].tolist()), strict=False):
            if preset["bank"] == 0:
                self._presets[int(preset["program"])] = _with_globals(of_presets[start:end], _INSTRUMENT_ID)

    def zones(self, program: int, key: int) -> list[Zone]:
        """Return the zones that sound together for a key (0 to 127) of a General MIDI program (0 to 127).

        A key without zones uses those of the nearest key, at its own pitch.
        """
        presets = self._presets.get(program, self._presets.get(0, []))
        by_distance = sorted(range(128), key=lambda each: abs(each - key))
        return next((found for each in by_distance if (found := self._zones_of(presets, each, key))), [])

    def _zones_of(self, presets: list[dict[int, int]], covered: int, key: int) -> list[Zone]:
        found = []
        for preset in presets:
            if not _covers(preset, covered):
                continue
            for instrument in self._instruments[preset[_INSTRUMENT_ID]]:
                if _covers(instrument, covered):
                    names = instrument.keys() | preset.keys() | _DEFAULTS.keys()
                    sums = {
                        name: instrument.get(name, _DEFAULTS.get(name, 0)) + preset.get(name, 0)
                        for name in names - {_KEYS, _VELOCITIES, _INSTRUMENT_ID}
                    }
                    found.append(self._zone(sums, key))
        return found

    def _zone(self, values: Generators, key: int) -> Zone:
        header = self._headers[values[_SAMPLE_ID]]

        def position(field: str, generators: tuple[int, int]) -> int:
            fine, coarse = generators
            return int(header[field]) + values.get(fine, 0) + 32_768 * values.get(coarse, 0)

        start, end = position("start", _START), position("end", _END)
        loop = position("loop_start", _LOOP_START) - start, position("loop_end", _LOOP_END) - start
        is_looped = values.get(_MODE, 0) in (1, 3) and 0 <= loop[0] < loop[1] - 3 and loop[1] <= end - start
        root = values.get(_ROOT, -1)
        root = root if 0 <= root <= 127 else int(header["pitch"])
        cents = (key - root) * values[_SCALE] + 100 * values.get(_COARSE, 0) + values.get(_FINE, 0) + header["cents"]
        attenuation_db = _ATTENUATION_FACTOR * values.get(_ATTENUATION, 0) / 10
        return Zone(
            samples=self._samples[start:end],
            loop=loop if is_looped else None,
            rate_hz=float(header["rate_hz"]) * 2.0 ** (float(cents) / 1200),
            cutoff_hz=8.176 * 2.0 ** ((values[_CUTOFF] + max(0, values.get(_CUTOFF_BY_ENVELOPE, 0))) / 1200),
            gain=10.0 ** (-max(attenuation_db, 0.0) / 20),
            attack_s=_seconds(values[_ATTACK]),
            hold_s=_seconds(values[_HOLD] + (60 - key) * values.get(_HOLD_BY_KEY, 0)),
            decay_s=_seconds(values[_DECAY] + (60 - key) * values.get(_DECAY_BY_KEY, 0)),
            sustain_db=-min(max(values.get(_SUSTAIN, 0), 0), 1_000) / 10,
            release_s=_seconds(values[_RELEASE]),
        )


@lru_cache(maxsize=1)
def load_soundfont() -> SoundFont:
    """Return pretty_midi's SoundFont, which stays in memory (6 MB).

    Raises:
        MissingExtraError: it is not installed.
    """
    return SoundFont(find_soundfont().read_bytes())


@lru_cache(maxsize=1)
def find_soundfont() -> Path:
    """Return the path of pretty_midi's SoundFont, without importing that package (which warns on import).

    Raises:
        MissingExtraError: it is not installed.
    """
    spec = find_spec("pretty_midi")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / "TimGM6mb.sf2"
        if path.is_file():
            return path
    raise MissingExtraError(f"rendering needs the SoundFont of the package pretty_midi; install it with: {INSTALL}")


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """Return the chunks inside the LIST chunks of a file by name."""
    found = {}
    at = _LIST_BYTES
    while at + _HEADER_BYTES <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        if name == b"LIST":
            at += _LIST_BYTES
            continue
        found[name] = data[at + _HEADER_BYTES : at + _HEADER_BYTES + size]
        at += _HEADER_BYTES + size + (size & 1)
    return found


def _zones(bags: bytes, generators: bytes) -> list[dict[int, int]]:
    """Return the generators of each zone."""
    values: Any = np.frombuffer(generators, _GENERATOR).tolist()
    first = np.frombuffer(bags, _BAG)["generator"].tolist()
    return [dict(values[start:end]) for start, end in pairwise(first)]


def _with_globals(zones: list[dict[int, int]], target: int) -> list[dict[int, int]]:
    """Return the zones that name their instrument or sample, with the values of the global zone before them."""
    shared = zones[0] if zones and target not in zones[0] else {}
    return [{**shared, **zone} for zone in zones if target in zone]


def _covers(zone: Generators, key: int) -> bool:
    keys, velocities = zone.get(_KEYS, _ALL), zone.get(_VELOCITIES, _ALL)
    return (keys & 255) <= key <= (keys >> 8 & 255) and (velocities & 255) <= _VELOCITY <= (velocities >> 8 & 255)


def _seconds(timecents: int) -> float:
    return float(2.0 ** (min(timecents, 8_000) / 1200)) if timecents > -12_000 else 0.0
