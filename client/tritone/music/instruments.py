"""General MIDI instruments: their names, and the instruments and tempi of the models' styles.

Source: General MIDI System Level 1 (MIDI Manufacturers Association, 1991), table 2. Programs are counted from 0, as in
MIDI files; the standard's table counts from 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from tritone.arguments import is_whole, shown
from tritone.exceptions import InvalidInputError
from tritone.music.grid import TEMPO_QPM

# One for the whole piece, or one for each part from the highest down.
Instruments: TypeAlias = str | int | Sequence[str | int]
N_PARTS_MAX: Final = 4
PIANO: Final = "Acoustic Grand Piano"

GENERAL_MIDI: Final = (
    "Acoustic Grand Piano", "Bright Acoustic Piano", "Electric Grand Piano", "Honky-tonk Piano",
    "Electric Piano 1", "Electric Piano 2", "Harpsichord", "Clavinet",
    "Celesta", "Glockenspiel", "Music Box", "Vibraphone", "Marimba", "Xylophone", "Tubular Bells", "Dulcimer",
    "Drawbar Organ", "Percussive Organ", "Rock Organ", "Church Organ",
    "Reed Organ", "Accordion", "Harmonica", "Tango Accordion",
    "Acoustic Guitar (nylon)", "Acoustic Guitar (steel)", "Electric Guitar (jazz)", "Electric Guitar (clean)",
    "Electric Guitar (muted)", "Overdriven Guitar", "Distortion Guitar", "Guitar Harmonics",
    "Acoustic Bass", "Electric Bass (finger)", "Electric Bass (pick)", "Fretless Bass",
    "Slap Bass 1", "Slap Bass 2", "Synth Bass 1", "Synth Bass 2",
    "Violin", "Viola", "Cello", "Contrabass",
    "Tremolo Strings", "Pizzicato Strings", "Orchestral Harp", "Timpani",
    "String Ensemble 1", "String Ensemble 2", "Synth Strings 1", "Synth Strings 2",
    "Choir Aahs", "Voice Oohs", "Synth Voice", "Orchestra Hit",
    "Trumpet", "Trombone", "Tuba", "Muted Trumpet", "French Horn", "Brass Section", "Synth Brass 1", "Synth Brass 2",
    "Soprano Sax", "Alto Sax", "Tenor Sax", "Baritone Sax", "Oboe", "English Horn", "Bassoon", "Clarinet",
    "Piccolo", "Flute", "Recorder", "Pan Flute", "Blown Bottle", "Shakuhachi", "Whistle", "Ocarina",
    "Lead 1 (square)", "Lead 2 (sawtooth)", "Lead 3 (calliope)", "Lead 4 (chiff)",
    "Lead 5 (charang)", "Lead 6 (voice)", "Lead 7 (fifths)", "Lead 8 (bass + lead)",
    "Pad 1 (new age)", "Pad 2 (warm)", "Pad 3 (polysynth)", "Pad 4 (choir)",
    "Pad 5 (bowed)", "Pad 6 (metallic)", "Pad 7 (halo)", "Pad 8 (sweep)",
    "FX 1 (rain)", "FX 2 (soundtrack)", "FX 3 (crystal)", "FX 4 (atmosphere)",
    "FX 5 (brightness)", "FX 6 (goblins)", "FX 7 (echoes)", "FX 8 (sci-fi)",
    "Sitar", "Banjo", "Shamisen", "Koto", "Kalimba", "Bagpipe", "Fiddle", "Shanai",
    "Tinkle Bell", "Agogo", "Steel Drums", "Woodblock", "Taiko Drum", "Melodic Tom", "Synth Drum", "Reverse Cymbal",
    "Guitar Fret Noise", "Breath Noise", "Seashore", "Bird Tweet",
    "Telephone Ring", "Helicopter", "Applause", "Gunshot",
)  # fmt: skip
# Short names, and the General MIDI names that they stand for.
_SHORT_NAMES: Final = {
    "piano": "Acoustic Grand Piano",
    "grand piano": "Acoustic Grand Piano",
    "electric piano": "Electric Piano 1",
    "organ": "Church Organ",
    "guitar": "Acoustic Guitar (nylon)",
    "nylon guitar": "Acoustic Guitar (nylon)",
    "steel guitar": "Acoustic Guitar (steel)",
    "bass": "Acoustic Bass",
    "double bass": "Contrabass",
    "harp": "Orchestral Harp",
    "strings": "String Ensemble 1",
    "string ensemble": "String Ensemble 1",
    "choir": "Choir Aahs",
    "horn": "French Horn",
    "saxophone": "Alto Sax",
}


@dataclass(frozen=True)
class _Manner:
    """Default instruments, from the highest part down, and tempo of a style."""

    instruments: tuple[str, ...]
    tempo_qpm: float


_CHORAL: Final = _Manner(("Choir Aahs",), 80.0)
_FIDDLE: Final = _Manner(("Violin", "Acoustic Guitar (nylon)"), 110.0)
_SONG: Final = _Manner(("Flute", "Acoustic Guitar (nylon)"), 100.0)
_PLAIN: Final = _Manner((PIANO,), TEMPO_QPM)
# Collections of the corpus, and other words; each applies to all styles whose names contain it.
_OF_STYLES: Final[Mapping[str, _Manner]] = {
    "bach": _CHORAL,
    "chorale": _CHORAL,
    "jsb": _CHORAL,
    "palestrina": _CHORAL,
    "ryan": _FIDDLE,
    "oneill": _FIDDLE,
    "fiddle": _FIDDLE,
    "reel": _FIDDLE,
    "jig": _FIDDLE,
    "essen": _SONG,
    "nottingham": _SONG,
    "folk": _SONG,
}


def _simplified(name: str) -> str:
    return " ".join(re.findall(r"[a-z0-9+]+", name.casefold().replace("'", "")))


_BY_NAME: Final = {
    **{_simplified(name): name for name in GENERAL_MIDI},
    **_SHORT_NAMES,
}


def default_instruments(style: str | None) -> tuple[str, ...]:
    """Return the instruments of a style, from the highest part down; the piano for unknown styles and None."""
    return _manner(style).instruments


def default_tempo_qpm(style: str | None) -> float:
    """Return the tempo of a style in quarter notes per minute; 120 for unknown styles and None."""
    return _manner(style).tempo_qpm


def _manner(style: Any) -> _Manner:
    known = _simplified(style) if isinstance(style, str) else ""  # other types are refused later
    return next((manner for word, manner in _OF_STYLES.items() if word in known), _PLAIN)


def program_of(name: str) -> int:
    """Return the MIDI program (0 to 127) of a name in `GENERAL_MIDI`."""
    return GENERAL_MIDI.index(name)


def check_instruments(instruments: Instruments | None) -> tuple[str, ...] | None:
    """Return the General MIDI names of instruments; None for None.

    Args:
        instruments: a name, in any spelling of case and punctuation or a short one such as `piano`, or a MIDI program
            (0 to 127), for the whole piece; or 1 to 4 of them for its parts from the highest down.

    Raises:
        InvalidInputError: an instrument is unknown, or there are none or more than four.
    """
    if instruments is None:
        return None
    several = [instruments] if isinstance(instruments, str) or is_whole(instruments) else instruments
    if not isinstance(several, list | tuple) or not 1 <= len(several) <= N_PARTS_MAX:
        raise InvalidInputError(
            f"invalid instruments: expected 1 to {N_PARTS_MAX} General MIDI instruments, from the highest part down, "
            f"got {shown(instruments)}",
            argument="instruments",
        )
    return tuple(_checked(each) for each in several)


def _checked(instrument: Any) -> str:
    if is_whole(instrument) and 0 <= int(instrument) < len(GENERAL_MIDI):
        return GENERAL_MIDI[int(instrument)]
    simple = _simplified(instrument) if isinstance(instrument, str) else ""
    if simple.isdigit() and int(simple) < len(GENERAL_MIDI):  # a number as text, as in a form or on a command line
        return GENERAL_MIDI[int(simple)]
    if simple in _BY_NAME:
        return _BY_NAME[simple]
    import difflib  # imported here, because only errors need it

    near = [_BY_NAME[each] for each in difflib.get_close_matches(simple, _BY_NAME, n=3, cutoff=0.5)]
    hint = f"; similar: {', '.join(dict.fromkeys(near))}" if near else ""
    raise InvalidInputError(
        f"unknown instrument: expected a General MIDI name such as 'Violin', or a program from 0 to 127, got "
        f"{shown(instrument)}{hint}",
        argument="instruments",
    )
