"""The embedded corpus: pieces of early and traditional music, as scores and as rendered audio.

corpus = load_corpus()
track = corpus["bach/bwv269"]
samples = render(track, seed=7)
"""

from __future__ import annotations

from tritone_training.corpus.audio import render, write_audio, write_samples
from tritone_training.corpus.selection import CorpusSelection, parse_selection
from tritone_training.corpus.sources import (
    COLLECTIONS,
    KNOWN_COLLECTIONS,
    PIECES_PER_COLLECTION,
    PUBLIC_DOMAIN,
    Collection,
)
from tritone_training.corpus.store import (
    CollectionReport,
    Corpus,
    CorpusTrack,
    Dropped,
    cache_folder,
    load_corpus,
)

__all__ = [
    "COLLECTIONS",
    "KNOWN_COLLECTIONS",
    "PIECES_PER_COLLECTION",
    "PUBLIC_DOMAIN",
    "Collection",
    "CollectionReport",
    "Corpus",
    "CorpusSelection",
    "CorpusTrack",
    "Dropped",
    "cache_folder",
    "load_corpus",
    "parse_selection",
    "render",
    "write_audio",
    "write_samples",
]
