"""Tracks that `tritone tracks add` added to the served recommender, so that a refit keeps them.

Shapes: N added tracks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender import Artifact
from tritone_serving.recommender.artifact import EMBEDDINGS, N_FITTED
from tritone_serving.recommender.new_items import MOOD_CENTRE, MOOD_SPREAD
from tritone_training.data.interactions import ListeningData, TagTable, words_of
from tritone_training.kinds.recommender.fitting.recording_embeddings import RecordingEmbeddings

ADDED_ITEMS: Final = "added_items"  # in the manifest of a refit: ids of the added tracks that its data do not describe


@dataclass(frozen=True, eq=False)
class AddedTracks:
    """Tracks of an artifact that were not in its last fit.

    Attributes:
        items: their ids.
        titles: empty where unknown.
        artists: empty where unknown.
        words: words of each.
        embeddings: (N, 256), zeros without a recording; None if the artifact has none.
        emotions: (N, 9) of the recordings; None if the artifact has none.
    """

    items: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()
    artists: tuple[str, ...] = ()
    words: tuple[tuple[str, ...], ...] = ()
    embeddings: npt.NDArray[np.float32] | None = None
    emotions: npt.NDArray[np.float32] | None = field(default=None)

    @classmethod
    def of(cls, artifact: Artifact | None) -> AddedTracks:
        """Return the added tracks of an artifact, also those of before its last refit; none without one."""
        if artifact is None:
            return cls()
        names = artifact.texts("items")
        kept = artifact.manifest.get(ADDED_ITEMS)
        before = set(kept) if isinstance(kept, list) else set()
        first = int(artifact.manifest.get(N_FITTED, artifact.n_items))
        indices = [index for index, name in enumerate(names) if index >= first or name in before]
        if not indices:
            return cls()

        def texts(name: str) -> tuple[str, ...]:
            if f"{name}.ends" not in artifact.arrays:
                return ("",) * len(indices)
            found = artifact.texts(name)
            return tuple(found[index] for index in indices)

        words: tuple[tuple[str, ...], ...] = ((),) * len(indices)
        if "tags.ends" in artifact.arrays:
            tags, by_item = artifact.texts("tags"), artifact.rows("tags.by_item")
            words = tuple(tuple(tags[tag] for tag in by_item.row(index)[0].tolist()) for index in indices)
        emotions = None
        if MOOD_CENTRE in artifact.arrays:
            moods = np.asarray(artifact.arrays["items.moods"][indices])
            emotions = np.asarray(moods * artifact.arrays[MOOD_SPREAD] + artifact.arrays[MOOD_CENTRE], np.float32)
        embeddings = np.asarray(artifact.arrays[EMBEDDINGS][indices]) if EMBEDDINGS in artifact.arrays else None
        return cls(texts("items"), texts("titles"), texts("artists"), words, embeddings, emotions)


def with_added_tracks(
    listening: ListeningData, sounds: RecordingEmbeddings | None, added: AddedTracks
) -> dict[str, Any]:
    """Return the data with the added tracks, as the fields `listening` and `sounds` of `TrainingData`.

    What the metadata and recordings say of a track comes before what it was added with.
    """
    metadata = dict(listening.metadata)
    items, tags = list(listening.tags.items), list(listening.tags.tags)
    users = list(listening.tags.users)
    for index, item in enumerate(added.items):
        if item in metadata:
            continue
        texts = {"title": added.titles[index], "artist": added.artists[index]}
        metadata[item] = {name: text for name, text in texts.items() if text}
        more = sorted(set(added.words[index]) - words_of(metadata[item]))
        items += [item] * len(more)
        tags += more
        users += [""] * len(more)
    listening = replace(listening, metadata=metadata, tags=TagTable(items, tags, users, listening.tags.report))
    if sounds is None or added.embeddings is None:
        return {"listening": listening, "sounds": sounds}
    known = set(sounds.items)
    new = [index for index, item in enumerate(added.items) if item not in known and added.embeddings[index].any()]
    emotions = sounds.emotions
    if emotions is not None:
        mean = emotions.mean(0, keepdims=True)
        of_new = mean.repeat(len(new), 0) if added.emotions is None else added.emotions[new]
        emotions = np.concatenate([emotions, of_new.astype(np.float32)])
    sounds = replace(
        sounds,
        items=[*sounds.items, *(added.items[index] for index in new)],
        embeddings=np.concatenate([sounds.embeddings, added.embeddings[new]]),
        emotions=emotions,
    )
    return {"listening": listening, "sounds": sounds}
