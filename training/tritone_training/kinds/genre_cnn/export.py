"""Export of `genre_cnn`: a trained checkpoint, or a pretrained backbone without any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from tritone.constants import EMBEDDING_SIZE, EMOTION_NOT_TRAINED, EMOTIONS, WEIGHTS_PARAMETER
from tritone_serving.recommender.embedding_weights import COMPANION_OF
from tritone_training import checkpoint
from tritone_training.artifact_export import ArtifactExport
from tritone_training.declaration import labels_parameter
from tritone_training.exceptions import CheckpointError
from tritone_training.kind import Exportable
from tritone_training.kinds.genre_cnn.declaration import (
    DECLARATION,
    EMOTION_FILE,
    FILE,
    FILE_MANIFEST,
    FILE_TAGS,
    KIND_NAME,
    LABEL_FILE,
    PCM16,
    TAG_FILE,
    with_tags,
)
from tritone_training.kinds.genre_cnn.frontend import MusicnnFeatures
from tritone_training.kinds.genre_cnn.network import GenreNetwork, Pcm16Network, load_network, unit_length
from tritone_training.pretrained.musicnn import N_PENULTIMATE
from tritone_training.pretrained.weights import Pretrained, get_pretrained, load_musicnn

# Tags that are genres: an untrained export returns their activations as `probabilities`.
_GENRE_TAGS: Final = frozenset(
    (
        "rock", "pop", "alternative", "indie", "electronic", "dance", "jazz", "metal", "soul", "folk", "punk", "blues",
        "hip-hop", "country", "funk", "rnb", "house", "ambient", "classical", "techno", "opera", "easy listening",
        "new age", "indian",
    )
)  # fmt: skip


def exportable(folder: Path) -> Exportable:
    """Return what `tritone export` needs.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    network, info = load_network(folder)
    return _trained(network, info)


def pretrained_exportable(folder: Path | None, pretrained: str) -> Exportable:
    """Return what `tritone export` needs from a checkpoint trained on a backbone, or from the backbone alone.

    Raises:
        CheckpointError: the checkpoint cannot be used, or was not trained on this backbone.
        PretrainedWeightsError: there is no such backbone.
    """
    if folder is None:
        return _untrained(get_pretrained(pretrained))
    network, info = load_network(folder)
    if pretrained != info["pretrained"]:
        raise CheckpointError(
            f"{folder}: was trained on {info['pretrained'] or 'no backbone'}, not on {pretrained}; "
            f"leave --pretrained out when exporting a checkpoint"
        )
    return _trained(network, info)


def _trained(network: GenreNetwork, info: Mapping[str, Any]) -> Exportable:
    backbone = get_pretrained(info["pretrained"]) if info["pretrained"] else None
    card = {key: value for key, value in info.items() if key not in ("format", "weights", "splits")}
    return describe(
        network,
        labels=info["labels"],
        emotions_trained=info["emotions_trained"],
        backbone=backbone,
        card=card,
    )


def _untrained(backbone: Pretrained) -> Exportable:
    genres = [index for index, tag in enumerate(backbone.tags) if tag in _GENRE_TAGS]
    network = UntrainedNetwork(MusicnnFeatures(load_musicnn(backbone)), genres).eval()
    card = {
        "kind": KIND_NAME,
        "pretrained": backbone.name,
        "trained": "not at all: probabilities are the backbone's own genre tags, scaled to sum to 1",
        "versions": checkpoint.versions(),
    }
    return describe(
        network,
        labels=[backbone.tags[index] for index in genres],
        emotions_trained=False,
        backbone=backbone,
        card=card,
    )


def describe(
    network: nn.Module,
    *,
    labels: Sequence[str],
    emotions_trained: bool,
    backbone: Pretrained | None,
    card: Mapping[str, Any],
) -> Exportable:
    """Return a network for export, with its companion for 16-bit samples and the model for files.

    Args:
        labels: class names of `probabilities`.
        emotions_trained: whether the network learned emotions; otherwise they are -1.
        backbone: of the front end; None for log-mel bands.
        card: what the model cards say.
    """
    label_files = {LABEL_FILE: tuple(labels), EMOTION_FILE: EMOTIONS}
    whole = {**card, "emotions_trained": emotions_trained}
    if backbone is not None:
        label_files[TAG_FILE] = backbone.tags
        whole["backbone"] = {
            "name": backbone.name,
            "package": backbone.requirement,
            "licence": backbone.licence,
            "trained_on": backbone.trained_on,
            "caution": backbone.caution,
        }
    # A pretrained backbone without a checkpoint always has the same weights. Empty weights are equal to no others.
    digest = card.get(WEIGHTS_PARAMETER) or ("" if backbone is None else f"pretrained {backbone.name}")
    weights = {WEIGHTS_PARAMETER: str(digest)}
    own, pcm16 = (
        replace(each if backbone is None else with_tags(each), parameters={**each.parameters, **weights})
        for each in (DECLARATION, PCM16)
    )
    exported = Exportable(
        network=network,
        declaration=own,
        label_files=label_files,
        metadata={
            "labels": ",".join(labels),
            "emotions_trained": str(emotions_trained).lower(),
            "pretrained": backbone.name if backbone else "",
        },
        card=whole,
    )
    companion = replace(
        exported,
        network=Pcm16Network(network).eval(),
        declaration=pcm16,
        card={**whole, COMPANION_OF: KIND_NAME},
    )
    return replace(
        exported, companions=(companion,), artifacts=(_file_model(exported, with_tags=backbone is not None),)
    )


def _file_model(classifier: Exportable, *, with_tags: bool) -> ArtifactExport:
    """Return the model that decodes files for a classifier; its configuration has the class names of the classifier."""
    labels = labels_parameter(classifier.declaration, classifier.label_files)
    outputs = (*FILE.outputs, *FILE_TAGS) if with_tags else FILE.outputs
    return ArtifactExport(
        declaration=replace(FILE, outputs=outputs, parameters={**FILE.parameters, **labels}),
        files={FILE_MANIFEST: b'{"format": 1}\n'},
        card={},
    )


class UntrainedNetwork(nn.Module):
    """A pretrained backbone with its own tags instead of trained heads, for use without training.

    The embedding is the layer before the tags, turned into 256 dimensions by a fixed isometry, which keeps
    every angle between recordings.
    """

    def __init__(self, frontend: MusicnnFeatures, genres: Sequence[int]) -> None:
        super().__init__()
        self.frontend = frontend.requires_grad_(False)
        random = torch.randn(EMBEDDING_SIZE, N_PENULTIMATE, generator=torch.Generator().manual_seed(0))
        self.register_buffer("isometry", torch.linalg.qr(random).Q.T.contiguous())  # (200, 256), orthonormal rows
        self.register_buffer("genres", torch.tensor(list(genres)))
        self.isometry: Tensor
        self.genres: Tensor

    def forward(self, audio: Tensor) -> tuple[Tensor, ...]:
        """Return probabilities, emotions (all -1), embedding and tags of windows (B, W)."""
        features = self.frontend(audio)[:, 0]
        tags = features[:, self.frontend.tag_slice]
        chosen = tags[:, self.genres]
        embedding = unit_length(features[:, self.frontend.penultimate_slice] @ self.isometry)
        emotions = torch.full_like(embedding[:, : len(EMOTIONS)], EMOTION_NOT_TRAINED)
        return chosen / (chosen.sum(1, keepdim=True) + 1e-9), emotions, embedding, tags
