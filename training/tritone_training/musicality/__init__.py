"""Measures of generated music, as defined in publications."""

from __future__ import annotations

from tritone.music.keys import estimate_keys
from tritone_training.musicality.comparison import (
    duplicate_rate,
    frechet_distance,
    frechet_floor,
    histogram,
    interval_histogram,
    length_histogram,
    memorisation,
    nearest_distances,
    overlap_area,
    relative_similarity,
)
from tritone_training.musicality.measures import (
    ATTRIBUTES,
    describe,
    measure_attributes,
    note_table,
    spans_to_frames,
)

__all__ = [
    "ATTRIBUTES",
    "describe",
    "duplicate_rate",
    "estimate_keys",
    "frechet_distance",
    "frechet_floor",
    "histogram",
    "interval_histogram",
    "length_histogram",
    "measure_attributes",
    "memorisation",
    "nearest_distances",
    "note_table",
    "overlap_area",
    "relative_similarity",
    "spans_to_frames",
]
