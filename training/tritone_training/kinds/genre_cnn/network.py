"""The network: 3 s of samples in, probabilities, emotions and an embedding out.

A frozen front end turns samples into features (log-mel bands, or a pretrained backbone's knowledge), a body
that learns turns these into an embedding, and linear heads read the embedding. Training caches the features,
because nothing before the body changes.

Shapes: B batch, W samples of a window, T units of time, D features of a unit, M mel bands, C channels,
L labels, E embedding (256).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from tritone.constants import EMBEDDING_SIZE, EMOTION_NOT_TRAINED, EMOTIONS
from tritone_training.kinds.genre_cnn.frontend import SCRATCH, MelPower


class MelFeatures(nn.Module):
    """(B, W) -> (B, T, M): log-mel bands, one unit per frame."""

    n_units = 1 + (66_150 - SCRATCH.n_window) // SCRATCH.n_hop  # 128
    n_features = SCRATCH.n_mels
    unit_samples = SCRATCH.n_hop

    def __init__(self) -> None:
        super().__init__()
        self.power = MelPower(SCRATCH)

    def forward(self, audio: Tensor) -> Tensor:
        """(B, W) -> (B, T, M)."""
        return log_power(self.power(audio)).transpose(1, 2)


def log_power(power: Tensor) -> Tensor:
    """Decibel-like, with a floor below the noise of a quiet recording."""
    return torch.log10(power + 1e-4)


class ConvBody(nn.Module):
    """(B, T, M) log-mel -> (B, E): convolutions, and beside them the plain statistics of each band.

    With a few hundred recordings the statistics alone are a strong classifier; the convolutions add what
    lies in time and in the relation of bands.
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
    """(B, M, T) -> (B, 4M): mean, spread, spread of the change from frame to frame, and maximum of each band."""
    mean = bands.mean(2)
    spread = _deviation(bands - mean[:, :, None])
    change = _deviation(bands[:, :, 1:] - bands[:, :, :-1])
    return torch.cat([mean, spread, change, bands.amax(2)], dim=1)


def _deviation(centred: Tensor) -> Tensor:
    return torch.sqrt((centred * centred).mean(2) + 1e-5)


class DenseBody(nn.Module):
    """(B, 1, D) features of a pretrained backbone -> (B, E)."""

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
    """The whole network as it is exported.

    Args:
        frontend: (B, W) -> (B, T, D), frozen; may have `tags`, a slice of D that holds tag activations.
        body: (B, T, D) -> (B, E).
        n_labels: L.
        with_emotions: whether the emotion head was trained; if not, it answers -1 everywhere.
    """

    def __init__(self, *, frontend: nn.Module, body: nn.Module, n_labels: int, with_emotions: bool) -> None:
        super().__init__()
        self.frontend = frontend.requires_grad_(False)
        self.body = body
        self.genre_head = nn.Linear(EMBEDDING_SIZE, n_labels)
        self.emotion_head = nn.Linear(EMBEDDING_SIZE, len(EMOTIONS)) if with_emotions else None
        self.tag_slice: slice | None = getattr(frontend, "tag_slice", None)

    def forward(self, audio: Tensor) -> tuple[Tensor, ...]:
        """(B, W) -> probabilities (B, L), emotions (B, 9), embedding (B, E)[, tags (B, n_tags)]."""
        features = self.frontend(audio)
        logits, emotions, embedding = self.heads(features)
        answers = [torch.softmax(logits, dim=1), emotions, embedding]
        if self.tag_slice is not None:
            answers.append(features[:, 0, self.tag_slice])
        return tuple(answers)

    def heads(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) -> logits (B, L), emotions (B, 9), embedding (B, E) of length 1."""
        embedding = self.body(features)
        logits = self.genre_head(embedding)
        if self.emotion_head is None:
            emotions = torch.full_like(embedding[:, : len(EMOTIONS)], EMOTION_NOT_TRAINED)
        else:
            emotions = torch.sigmoid(self.emotion_head(embedding))
        return logits, emotions, unit_length(embedding)

    def frozen_eval(self) -> Sequence[nn.Module]:
        """The parts that stay in eval mode while the rest trains."""
        return (self.frontend,)


def unit_length(vectors: Tensor) -> Tensor:
    """(B, E) -> (B, E) of Euclidean length 1."""
    return vectors / torch.sqrt((vectors * vectors).sum(1, keepdim=True) + 1e-12)
