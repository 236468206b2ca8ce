"""The embedded corpus as labelled recordings: each piece is rendered several times; its collection is the label."""

from __future__ import annotations

from functools import partial

from tritone_training.corpus import load_corpus, render
from tritone_training.data.recordings import Recording, RecordingSet

LICENCE = "music in the public domain; encodings from music21's corpus, rendered with the SoundFont of pretty_midi"


def embedded_recordings(*, n_variants: int, progress: bool = True) -> RecordingSet:
    """Return `n_variants` seeded renderings of every piece of the corpus.

    Instrument, tempo, key and starting point differ between renderings, so that only the notes indicate the label.
    """
    corpus = load_corpus(progress=progress)
    recordings = tuple(
        Recording(
            name=f"{track.id}#{variant}",
            label=track.collection,
            load=partial(render, track, seed=variant),
            piece=track.group,
        )
        for track in corpus.tracks
        for variant in range(n_variants)
    )
    return RecordingSet(
        source=f"embedded corpus ({len(corpus.tracks)} pieces, {n_variants} renderings each)",
        recordings=recordings,
        licence=LICENCE,
        notes={"corpus_fingerprint": corpus.fingerprint},
    )
