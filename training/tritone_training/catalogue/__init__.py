"""The embedded catalogue: pieces of early and traditional music, as scores and as rendered audio.

catalogue = load_catalogue()
track = catalogue["bach/bwv269"]
samples = render(track, seed=7)
"""

from __future__ import annotations

from tritone_training.catalogue.audio import render, write_audio, write_samples
from tritone_training.catalogue.sources import COLLECTIONS, KNOWN_COLLECTIONS, PIECES_PER_COLLECTION, Collection
from tritone_training.catalogue.store import (
    Catalogue,
    CatalogueTrack,
    CollectionReport,
    Dropped,
    cache_folder,
    load_catalogue,
)

__all__ = [
    "COLLECTIONS",
    "KNOWN_COLLECTIONS",
    "PIECES_PER_COLLECTION",
    "Catalogue",
    "CatalogueTrack",
    "Collection",
    "CollectionReport",
    "Dropped",
    "cache_folder",
    "load_catalogue",
    "render",
    "write_audio",
    "write_samples",
]
