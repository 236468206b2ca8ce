"""The embedded catalogue as labelled recordings: each piece is rendered several times; its collection is the label."""

from __future__ import annotations

from functools import partial

from tritone_training.catalogue import load_catalogue, render
from tritone_training.data.recordings import Recording, RecordingSet

LICENCE = "music in the public domain; encodings from music21's corpus, rendered with the SoundFont of pretty_midi"


def embedded_recordings(*, n_variants: int, progress: bool = True) -> RecordingSet:
    """Return `n_variants` seeded renderings of every piece of the catalogue.

    Instrument, tempo, key and starting point differ between renderings, so that only the notes indicate the label.
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
