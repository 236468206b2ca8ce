"""The collections of music21's corpus that Tritone's corpus can include, with their sources and terms.

The compositions are centuries old or traditional; the *encodings* are other people's work, and music21
passes them on by their permission, some for non-commercial use only (see `terms`). The corpus is
built on the user's machine from the user's copy of music21; nothing of it is redistributed. Weights that were
trained on it may be passed on if all its collections are in `PUBLIC_DOMAIN`; weights/LICENSES.md has the reasons.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal


@dataclass(frozen=True)
class Collection:
    """One folder of the corpus.

    Attributes:
        name: the label of its pieces, and the first half of their ids.
        pattern: glob pattern of its files in the folder.
        layout: `file` has one piece in each file, `tunes` a book of numbered ABC tunes.
        composer: for pieces that do not name one themselves.
        years: when the music was written or printed.
        beat_bpm: tempo of the beat if a score states none; the beat depends on the metre.
        min_voices: fewer than this is a fragment or an arrangement, not a piece of this collection.
        terms: who encoded it, and the terms under which music21 distributes it.
        may_share_weights: whether weights trained on it may be passed on: the music is in the public domain, and
            neither its files nor music21's notes restrict its use or what is derived from the encoding.
    """

    name: str
    title: str
    folder: str
    pattern: str
    layout: Literal["file", "tunes"]
    composer: str
    years: str
    period: str
    beat_bpm: float
    min_voices: int
    terms: str
    may_share_weights: bool = False


@dataclass(frozen=True)
class Candidate:
    """A piece that may enter the corpus.

    Attributes:
        id: `collection/name`, the id of the track in the corpus.
        number: the tune's number in its book, None if the file is a single piece.
    """

    id: str
    collection: str
    path: Path
    number: int | None = None


# A reel in 2/4 is written in sixteenths and the same reel in cut time in eighths: with the beat and
# not the quarter note as the unit both run at the same speed.
_DANCE_BEAT_BPM: Final = 96.0

_KNOWN: Final = (
    Collection(
        name="bach",
        title="Bach chorales",
        folder="bach",
        pattern="bwv*.mxl",
        layout="file",
        composer="Johann Sebastian Bach",
        years="1708-1750",
        period="Baroque",
        beat_bpm=72.0,
        min_voices=4,
        terms="encoded by Margaret Greentree and music21; included in music21 by permission",
        may_share_weights=True,
    ),
    Collection(
        name="palestrina",
        title="Palestrina masses",
        folder="palestrina",
        pattern="*.krn",
        layout="file",
        composer="Giovanni Pierluigi da Palestrina",
        years="1550-1594",
        period="Renaissance",
        beat_bpm=60.0,
        min_voices=3,
        terms="encoding (c) 2000 John Miller, all rights in derivative electronic formats reserved, "
        "converted to Humdrum by Bret Aarden; included in music21 by permission",
    ),
    Collection(
        name="ryans",
        title="Ryan's Mammoth Collection",
        folder="ryansMammoth",
        pattern="*.abc",
        layout="file",
        composer="Traditional",
        years="1883",
        period="19th century, fiddle tunes",
        beat_bpm=_DANCE_BEAT_BPM,
        min_voices=1,
        terms="transcribed by Ray Davies, John Walsh, Bob Puckette, John Chambers and others; "
        "included in music21 by permission",
        may_share_weights=True,
    ),
    Collection(
        name="oneills",
        title="O'Neill's Music of Ireland",
        folder="oneills1850",
        pattern="*.abc",
        layout="tunes",
        composer="Traditional",
        years="1903",
        period="19th century and earlier, Irish tunes",
        beat_bpm=_DANCE_BEAT_BPM,
        min_voices=1,
        terms="transcribed by Henrik Norbeck, Bob Safranek, John Chambers and others; "
        "included in music21 by permission",
        may_share_weights=True,
    ),
    Collection(
        name="airds",
        title="Aird's Airs",
        folder="airdsAirs",
        pattern="*.abc",
        layout="tunes",
        composer="Traditional",
        years="from 1778",
        period="18th century, Scottish tunes",
        beat_bpm=_DANCE_BEAT_BPM,
        min_voices=1,
        terms="transcribed by Jack Campin; included in music21 by permission",
    ),
    Collection(
        name="essen",
        title="Essen folk songs",
        folder="essenFolksong",
        pattern="*.abc",
        layout="tunes",
        composer="Traditional",
        years="undated",
        period="folk songs of Europe and China",
        beat_bpm=_DANCE_BEAT_BPM,
        min_voices=1,
        terms="Essen database (Helmut Schaffrath, Ewa Dahlig-Turek), ABC by Seymour Shlien; "
        "music21's licence note calls its legal status unclear and permits non-commercial use",
    ),
    Collection(
        name="trecento",
        title="Trecento songs",
        folder="trecento",
        pattern="*.*x*ml*",
        layout="file",
        composer="Anonymous",
        years="1330-1420",
        period="Medieval",
        beat_bpm=_DANCE_BEAT_BPM,
        min_voices=2,
        terms="encoded by Michael Scott Asato Cuthbert and others for music21",
    ),
    Collection(
        name="monteverdi",
        title="Monteverdi madrigals",
        folder="monteverdi",
        pattern="*.mxl",
        layout="file",
        composer="Claudio Monteverdi",
        years="1590-1605",
        period="Late Renaissance",
        beat_bpm=60.0,
        min_voices=4,
        terms="included in music21 by permission of the encoders; some files name an edition under copyright",
    ),
)
KNOWN_COLLECTIONS: Final = {collection.name: collection for collection in _KNOWN}
PUBLIC_DOMAIN: Final = tuple(collection.name for collection in _KNOWN if collection.may_share_weights)

# Ryan's and O'Neill's are one repertory: from the notes alone a classifier tells them apart on 72 % of
# 20 s excerpts, and these four on 98 % (with O'Neill's for Essen: 86 %).
COLLECTIONS: Final = ("bach", "palestrina", "ryans", "essen")
PIECES_PER_COLLECTION: Final = 200

_TUNE_NUMBER: Final = re.compile(r"^\s*X:\s*(\d+)", re.MULTILINE)
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")


def list_candidates(collection: Collection, music21_corpus: Path) -> list[Candidate]:
    """Return the pieces of a collection, in the order in which they are tried.

    The order is pseudorandom but depends only on the ids, so that the first N are a representative sample and the same
    on every machine.

    Args:
        collection: the collection.
        music21_corpus: music21's corpus folder.

    Returns:
        The candidates. If two have the same id, music21 can read only the first.
    """
    found = list(_iter_candidates(collection, music21_corpus / collection.folder))
    return sorted(found, key=lambda candidate: hashlib.sha256(candidate.id.encode()).digest())


def _iter_candidates(collection: Collection, folder: Path) -> Iterator[Candidate]:
    for path in sorted(folder.glob(collection.pattern)):
        stem = _UNSAFE.sub("_", path.stem)
        if collection.layout == "file":
            yield Candidate(f"{collection.name}/{stem}", collection.name, path)
            continue
        try:
            numbers = [int(number) for number in _TUNE_NUMBER.findall(read_text(path))]
        except OSError:
            numbers = []
        if not numbers:  # not a book of tunes, or not readable, which is reported when it is read
            yield Candidate(f"{collection.name}/{stem}", collection.name, path)
        for number in numbers:
            yield Candidate(f"{collection.name}/{stem}.{number}", collection.name, path, number)


def read_text(path: Path) -> str:
    """Return the text of an ABC file; bytes that are not UTF-8 are replaced."""
    return path.read_text(encoding="utf-8", errors="replace")
