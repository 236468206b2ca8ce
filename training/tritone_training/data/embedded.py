"""The embedded catalogue as recordings: each piece rendered several times, its collection as the label."""

from __future__ import annotations

from functools import partial

from tritone_training.catalogue import load_catalogue, render
from tritone_training.data.recordings import Recording, RecordingSet

LICENCE = "music in the public domain; encodings from music21's corpus, rendered with the SoundFont of pretty_midi"


def embedded_recordings(*, n_variants: int, progress: bool = True) -> RecordingSet:
    """Every piece of the catalogue in `n_variants` seeded renderings.

    Instrument, tempo, key and starting point differ between renderings, so that only the music tells the label.
    """
    catalogue = load_catalogue(progress=progress)
    recordings = tuple(
        Recording(
            name=f"{track.id}#{variant}",
            label=track.collection,
            load=partial(render, track, seed=variant),
            piece=track.group,
        )
        for track in catalogue.tracks
        for variant in range(n_variants)
    )
    return RecordingSet(
        source=f"embedded catalogue ({len(catalogue.tracks)} pieces, {n_variants} renderings each)",
        recordings=recordings,
        licence=LICENCE,
        notes={"catalogue_fingerprint": catalogue.fingerprint},
    )
