"""The network of `genre_cnn`: probabilities, emotions and an embedding of 3 s of samples.

A frozen front end computes features of the samples (log-mel bands, or activations of a pretrained backbone), a
trainable body computes an embedding, and linear heads predict from it. The features are computed once and cached,
because nothing before the body changes.

Shapes: B batch, W samples of a window, T units of time, D features of a unit, M mel bands, C channels,
L labels, E embedding (256).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tritone.constants import EMBEDDING_SIZE, EMOTION_NOT_TRAINED, EMOTIONS, PCM16_FULL_SCALE
from tritone_training import checkpoint
from tritone_training.exceptions import CheckpointError, HyperparameterError
from tritone_training.kinds.genre_cnn.config import GenreConfig
from tritone_training.kinds.genre_cnn.declaration import (
    KIND_NAME,
)
from tritone_training.kinds.genre_cnn.frontend import MelFeatures, MusicnnFeatures
from tritone_training.pretrained.weights import get_pretrained, load_musicnn


class ConvBody(nn.Module):
    """Body for log-mel bands: convolutions, and in parallel statistics of each band; (B, T, M) -> (B, E).

    With a few hundred recordings the statistics alone are a strong classifier; the convolutions add patterns over time
    and bands.
    """

    def __init__(self, *, n_mels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = nn.BatchNorm1d(n_mels)
        channels = (width, 2 * width, 4 * width, 8 * width)
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, channels[0], 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
            nn.MaxPool2d(2),
            *(_block(n_in, n_out, dropout / 2) for n_in, n_out in pairwise(channels)),
        )
        n_statistics = 4 * n_mels
        self.statistics = nn.Sequential(
            nn.BatchNorm1d(n_statistics),
            nn.Dropout(dropout),
            nn.Linear(n_statistics, 2 * EMBEDDING_SIZE),
            nn.ReLU(),
        )
        self.embed = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(2 * channels[-1] + 2 * EMBEDDING_SIZE, EMBEDDING_SIZE)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, M) -> (B, E)."""
        bands = self.norm_in(features.transpose(1, 2))  # (B, M, T)
        maps = self.convolutions(bands[:, None]).flatten(2)  # (B, C, M' * T')
        pooled = torch.cat([maps.mean(2), maps.amax(2)], dim=1)
        embedding: Tensor = self.embed(torch.cat([pooled, self.statistics(band_statistics(bands))], dim=1))
        return embedding


def _block(n_in: int, n_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout2d(dropout),
    )


def band_statistics(bands: Tensor) -> Tensor:
    """Return mean, deviation, deviation of the frame differences and maximum of each band: (B, M, T) -> (B, 4M)."""
    mean = bands.mean(2)
    spread = _deviation(bands - mean[:, :, None])
    change = _deviation(bands[:, :, 1:] - bands[:, :, :-1])
    return torch.cat([mean, spread, change, bands.amax(2)], dim=1)


def _deviation(centred: Tensor) -> Tensor:
    return torch.sqrt((centred * centred).mean(2) + 1e-5)


class DenseBody(nn.Module):
    """Body for features of a pretrained backbone: (B, 1, D) -> (B, E)."""

    def __init__(self, *, n_features: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(n_features),
            nn.Dropout(dropout),
            nn.Linear(n_features, EMBEDDING_SIZE),
            nn.ReLU(),
            nn.BatchNorm1d(EMBEDDING_SIZE),
            nn.Dropout(dropout),
            nn.Linear(EMBEDDING_SIZE, EMBEDDING_SIZE),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, D) -> (B, E)."""
        embedding: Tensor = self.layers(features[:, 0])
        return embedding


class GenreNetwork(nn.Module):
    """The complete network, as it is exported.

    Args:
        frontend: (B, W) -> (B, T, D), frozen; may have `tags`, a slice of D that holds tag activations.
        body: (B, T, D) -> (B, E).
        n_labels: L.
        with_emotions: whether the emotion head was trained; if not, it returns -1 everywhere.
    """

    def __init__(self, *, frontend: nn.Module, body: nn.Module, n_labels: int, with_emotions: bool) -> None:
        super().__init__()
        self.frontend = frontend.requires_grad_(False)
        self.body = body
        self.genre_head = nn.Linear(EMBEDDING_SIZE, n_labels)
        self.emotion_head = nn.Linear(EMBEDDING_SIZE, len(EMOTIONS)) if with_emotions else None
        self.tag_slice: slice | None = getattr(frontend, "tag_slice", None)

    def forward(self, audio: Tensor) -> tuple[Tensor, ...]:
        """Return probabilities (B, L), emotions (B, 9), embedding (B, E)[, tags (B, n_tags)] of windows (B, W)."""
        features = self.frontend(audio)
        logits, emotions, embedding = self.heads(features)
        outputs = [torch.softmax(logits, dim=1), emotions, embedding]
        if self.tag_slice is not None:
            outputs.append(features[:, 0, self.tag_slice])
        return tuple(outputs)

    def heads(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, L), emotions (B, 9) and embedding (B, E) of length 1, of features (B, T, D)."""
        embedding = self.body(features)
        logits = self.genre_head(embedding)
        if self.emotion_head is None:
            emotions = torch.full_like(embedding[:, : len(EMOTIONS)], EMOTION_NOT_TRAINED)
        else:
            emotions = torch.sigmoid(self.emotion_head(embedding))
        return logits, emotions, unit_length(embedding)

    def frozen_eval(self) -> Sequence[nn.Module]:
        """Return the parts that stay in eval mode during training."""
        return (self.frontend,)


class Pcm16Network(nn.Module):
    """The exported graph of `genre_cnn_pcm16`: a classifier of windows whose samples are 16-bit integers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, audio: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the network for windows (B, W) of int16."""
        outputs: tuple[Tensor, ...] = self.network(audio.to(torch.float32) * (1 / PCM16_FULL_SCALE))
        return outputs


def unit_length(vectors: Tensor) -> Tensor:
    """Scale vectors to Euclidean length 1: (B, E) -> (B, E)."""
    return vectors / torch.sqrt((vectors * vectors).sum(1, keepdim=True) + 1e-12)


def build_frontend(pretrained: str | None) -> MelFeatures | MusicnnFeatures:
    """Return the frozen front end; weights of a backbone are fetched if they are not cached."""
    return MelFeatures() if pretrained is None else MusicnnFeatures(load_musicnn(get_pretrained(pretrained)))


def build_network(
    config: GenreConfig, frontend: MelFeatures | MusicnnFeatures, *, n_labels: int, with_emotions: bool
) -> GenreNetwork:
    """Return a new network with random weights behind the front end."""
    body: nn.Module
    if isinstance(frontend, MelFeatures):
        body = ConvBody(n_mels=frontend.n_features, width=config.width, dropout=config.dropout)
    else:
        body = DenseBody(n_features=frontend.n_features, dropout=config.dropout)
    return GenreNetwork(frontend=frontend, body=body, n_labels=n_labels, with_emotions=with_emotions)


def learned_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the trained part of a state dict: everything except the front end, which is rebuilt."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("frontend.")}


def load_network(folder: Path) -> tuple[GenreNetwork, Mapping[str, Any]]:
    """Return the trained network in eval mode and the content of checkpoint.json.

    Raises:
        CheckpointError: see `checkpoint.load`; also if the weights do not fit the network that is described.
    """
    saved = checkpoint.load(folder, kind=KIND_NAME)
    info = saved.info
    _check_names(folder, info.get("labels"))
    try:
        network = build_network(
            GenreConfig(**info["config"]),
            build_frontend(info["pretrained"]),
            n_labels=len(info["labels"]),
            with_emotions=info["emotions_trained"],
        )
    except (KeyError, TypeError, HyperparameterError) as error:
        raise CheckpointError(f"{folder}: invalid entry in checkpoint.json ({error}); train again") from error
    try:
        missing, unexpected = network.load_state_dict(dict(saved.weights), strict=False)
        wrong = [name for name in missing if not name.startswith("frontend.")] + list(unexpected)
    except RuntimeError as error:  # torch's message for shapes that differ
        wrong = [str(error).splitlines()[-1].strip()]
    if wrong:
        raise CheckpointError(f"{folder}: weights do not fit checkpoint.json ({', '.join(wrong[:3])}); train again")
    return network.eval(), info


def _check_names(folder: Path, labels: object) -> None:
    """Check the labels, which become a text file and metadata when the network is exported."""
    if labels is None:
        raise CheckpointError(f"{folder}: missing 'labels' in checkpoint.json; train again")
    named = isinstance(labels, list) and len(labels) > 1 and all(isinstance(label, str) for label in labels)
    if not named or not "".join(labels).isprintable():  # type: ignore[arg-type]
        raise CheckpointError(
            f"{folder}: checkpoint.json has the labels {labels!r}; expected a list of two or more names; train again"
        )
