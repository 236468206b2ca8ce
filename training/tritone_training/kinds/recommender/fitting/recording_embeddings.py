"""Embeddings and emotions of items' recordings, computed by a trained `genre_cnn`.

Shapes: n recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tritone import InvalidAudioError
from tritone.constants import EMBEDDING_SIZE, EMOTIONS
from tritone_serving.ids import normalize_id
from tritone_serving.recommender.artifact import EMBEDDINGS
from tritone_serving.recommender.new_items import MOOD_CENTRE, MOOD_SPREAD
from tritone_training.data.interactions import files_of
from tritone_training.data.loading import visible_files
from tritone_training.data.recordings import Recording
from tritone_training.exceptions import DataError
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.fitting.base_models import ArtifactParts
from tritone_training.kinds.recommender.fitting.interaction_dataset import InteractionDataset
from tritone_training.progress import progress_bar

Floats = npt.NDArray[np.float32]
_WINDOWS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class RecordingEmbeddings:
    """Embeddings of recordings.

    Attributes:
        items: ids of the recorded items.
        embeddings: (n, 256) of norm 1.
        emotions: (n, 9), or None if the network was not trained on emotions.
        problems: files that could not be used, with the reason.
        embedding_model: kind of the network and SHA-256 of its weights, as in its model card.
        tags: (n, tags) probabilities of the tags that a pretrained backbone knows; None if it knows none.
        tag_names: names of these tags.
    """

    items: Sequence[str]
    embeddings: Floats
    emotions: Floats | None
    problems: Sequence[str]
    embedding_model: Mapping[str, str]
    tags: Floats | None = None
    tag_names: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class RecordingAnalysis:
    """What a network says about one recording.

    Attributes:
        embedding: (256,) of norm 1.
        emotions: (9,), -1 if the network was not trained on emotions.
        tags: (tags,) probabilities of the backbone's own tags; None if it has none.
    """

    embedding: Floats
    emotions: Floats
    tags: Floats | None = None


@dataclass(frozen=True, eq=False)
class EmbeddingNetwork:
    """A network that analyses recordings.

    Attributes:
        model: kind of the network and SHA-256 of its weights, as in its model card.
        tag_names: names of the backbone's own tags.
    """

    analyse: Callable[[Recording], RecordingAnalysis]
    model: Mapping[str, str]
    tag_names: Sequence[str] = ()


def embed_recordings(request: TrainRequest) -> RecordingEmbeddings | None:
    """Embed the recordings of a request; return None if there are none.

    Raises:
        DataError: only one of recordings and network is given, or no file can be read.
    """
    given = files_of(request.data)
    if given.recordings is None and given.genre_checkpoint is None:
        return None
    if given.genre_checkpoint is None:
        raise DataError(
            "--recordings need a network that embeds them: give --genre-checkpoint, the output of `train genre_cnn`"
        )
    if given.recordings is not None:
        recordings = [
            (
                normalize_id(file.relative_to(given.recordings).with_suffix("").as_posix()),
                Recording.of_file(file.stem, "", file),
            )
            for file in visible_files(given.recordings)
        ]
    elif given.interactions is None:
        recordings = _bundled_recordings(request.progress)
    else:
        raise DataError("--genre-checkpoint embeds recordings: give --recordings too, or leave it out")
    return _embed(recordings, given.genre_checkpoint, request.progress)


def _bundled_recordings(progress: bool) -> list[tuple[str, Recording]]:
    from tritone_training.data.loading import embedded_recordings

    found = embedded_recordings(n_variants=1, progress=progress).recordings
    return [(recording.name.partition("#")[0], recording) for recording in found]


def _embed(recordings: Sequence[tuple[str, Recording]], checkpoint: Path, progress: bool) -> RecordingEmbeddings:
    network = embedding_network(checkpoint)
    items, analyses, problems = [], [], []
    seen: set[str] = set()
    with progress_bar("embedding recordings", shown=progress) as on_progress:
        for number, (item, recording) in enumerate(recordings, start=1):
            if item in seen:
                problems.append(f"{recording.path}: is a second recording of {item!r}; the first is used")
                continue
            seen.add(item)
            try:
                analysis = network.analyse(recording)
            except InvalidAudioError as error:
                problems.append(str(error))
            else:
                items.append(item)
                analyses.append(analysis)
            on_progress(number, len(recordings))
    if not items:
        raise DataError(f"none of {len(recordings)} recordings can be read" + "".join(f"; {p}" for p in problems[:1]))
    emotions = np.stack([each.emotions for each in analyses])
    tags = [each.tags for each in analyses if each.tags is not None]
    return RecordingEmbeddings(
        items,
        np.stack([each.embedding for each in analyses]),
        emotions if (emotions >= 0).all() else None,  # -1 if the network was not trained on emotions
        problems,
        network.model,
        np.stack(tags) if len(tags) == len(items) else None,
        network.tag_names,
    )


def embedding_network(checkpoint: Path) -> EmbeddingNetwork:
    """Return the network of a checkpoint of `genre_cnn`."""
    from tritone_training.kinds.genre_cnn.declaration import KIND_NAME, TAG_FILE
    from tritone_training.kinds.genre_cnn.export import exportable

    made = exportable(checkpoint)
    names = [tensor.name for tensor in made.declaration.outputs]

    def analyse(recording: Recording) -> RecordingAnalysis:
        parts: list[dict[str, torch.Tensor]] = []
        windows = recording.windows()
        with torch.inference_mode():
            while batch := [window.samples for window in islice(windows, _WINDOWS_AT_ONCE)]:
                outputs = made.network(torch.from_numpy(np.stack(batch)))
                parts.append(dict(zip(names, outputs, strict=True)))
        means = {
            name: np.asarray(torch.cat([part[name] for part in parts]).mean(0).numpy(), np.float32)
            for name in ("embedding", "emotions", "tags")
            if name in names
        }
        embedding = means["embedding"] / max(float(np.linalg.norm(means["embedding"])), 1e-9)
        return RecordingAnalysis(embedding, means["emotions"], means.get("tags"))

    model = {"kind": KIND_NAME, "weights_sha256": str(made.card["weights_sha256"])}
    return EmbeddingNetwork(analyse, model, made.label_files.get(TAG_FILE, ()))


def add_sounds(parts: ArtifactParts, dataset: InteractionDataset, sounds: RecordingEmbeddings) -> None:
    """Add the base models `sound` and `mood`; rows of items without a recording are 0."""
    indices = {name: index for index, name in enumerate(dataset.items)}
    rows = np.array([indices[item] for item in sounds.items], np.int64)
    embeddings = np.zeros((dataset.n_items, EMBEDDING_SIZE), np.float32)
    embeddings[rows] = sounds.embeddings
    parts.arrays[EMBEDDINGS] = embeddings
    parts.arrays["sound.centre"] = sounds.embeddings.mean(0)
    parts.base_models["sound"] = {"kind": "sound"}
    if sounds.emotions is not None:
        moods = np.zeros((dataset.n_items, len(EMOTIONS)), np.float32)
        spread = np.maximum(sounds.emotions.std(0), 1e-6)
        moods[rows] = (sounds.emotions - sounds.emotions.mean(0)) / spread
        parts.arrays[MOOD_CENTRE], parts.arrays[MOOD_SPREAD] = sounds.emotions.mean(0), spread
        parts.arrays["items.moods"] = moods
        parts.base_models["mood"] = {"kind": "mood"}
