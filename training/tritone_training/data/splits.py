"""Folds and held-out splits that keep the recordings of an artist together.

With a random split, a model can recognise the artist or the studio instead of the genre, and its metrics are too good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from tritone_training.data.recordings import Recording, RecordingSet
from tritone_training.exceptions import DataError


def assign_folds(recordings: RecordingSet, *, n_folds: int = 4, seed: int = 0) -> RecordingSet:
    """Return the set with a fold for every recording: the given ones, or stratified and artist-disjoint folds.

    Raises:
        DataError: some recordings have a fold and some have none, or a label has too few artists for the folds.
    """
    known = [recording.fold is not None for recording in recordings.recordings]
    if all(known):
        return replace(recordings, notes={**recordings.notes, "folds": _how_given(recordings)})
    if any(known):
        bare = next(r.name for r in recordings.recordings if r.fold is None)
        raise DataError(
            f"{recordings.source}: {sum(known)} of {len(known)} recordings have a fold and {bare} has none; "
            f"expected a fold for all recordings or for none; complete the column, or leave it out"
        )
    folds = _group_folds(recordings.recordings, n_folds, seed)
    return replace(
        recordings,
        recordings=tuple(replace(r, fold=int(f)) for r, f in zip(recordings.recordings, folds, strict=True)),
        notes={**recordings.notes, "folds": _how_split(recordings)},
    )


def held_out_split(
    recordings: Sequence[Recording], *, n_parts: int, seed: int
) -> tuple[tuple[Recording, ...], tuple[Recording, ...]]:
    """Hold out about 1 / `n_parts` of the recordings, artist-disjoint and stratified by label.

    Returns:
        (training recordings, held-out recordings).

    Raises:
        DataError: a label has too few artists.
    """
    folds = _group_folds(recordings, n_parts, seed)
    rest = tuple(r for r, fold in zip(recordings, folds, strict=True) if fold != 0)
    held_out = tuple(r for r, fold in zip(recordings, folds, strict=True) if fold == 0)
    return rest, held_out


def _group_folds(
    recordings: Sequence[Recording], n_folds: int, seed: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    labels = np.array([r.label for r in recordings])
    groups = np.array([r.group for r in recordings])
    for label in np.unique(labels):
        n_groups = np.unique(groups[labels == label]).size
        if n_groups < n_folds:
            raise DataError(
                f"label {label!r} has {n_groups} artist{'s' * (n_groups != 1)} or single recordings; {n_folds} folds "
                f"that keep artists apart need at least {n_folds}: add recordings or use fewer folds"
            )
    folds = np.zeros(len(recordings), np.int64)
    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    for fold, (_, indices) in enumerate(splitter.split(labels, labels, groups)):
        folds[indices] = fold
    return folds


def _how_given(recordings: RecordingSet) -> str:
    folds_of: dict[str, set[int | None]] = {}
    for recording in recordings.recordings:
        folds_of.setdefault(recording.group, set()).add(recording.fold)
    n_torn = sum(len(folds) > 1 for folds in folds_of.values())
    if n_torn:
        return f"the data set's own; {n_torn} artists or pieces stand in several, so figures flatter"
    return "the data set's own"


def _how_split(recordings: RecordingSet) -> str:
    n_artists = sum(r.artist is not None for r in recordings.recordings)
    if not n_artists:
        return "by recording: no artists are known"
    return f"artist-disjoint ({n_artists} of {len(recordings.recordings)} recordings name their artist)"
