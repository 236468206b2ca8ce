"""Measures of written music, after their published definitions: what is in it, how it is spread, what it copies."""

from __future__ import annotations

from tritone_training.musicality.attributes import ATTRIBUTES, measure_attributes
from tritone_training.musicality.distance import frechet_distance, frechet_floor
from tritone_training.musicality.histograms import (
    histogram,
    interval_histogram,
    length_histogram,
    overlap_area,
    relative_similarity,
)
from tritone_training.musicality.key import estimate_keys
from tritone_training.musicality.metrics import describe
from tritone_training.musicality.novelty import duplicate_rate, memorisation, nearest_distances
from tritone_training.musicality.spans import note_table, spans_to_frames

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
