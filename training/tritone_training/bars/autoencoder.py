"""A variational autoencoder of two bars of music for four voices, which `music_vae` trains and `music_gan` samples.

Shapes: S spans, B batch, N = 32 time steps, V = 4 voices, Z latent, A = 3 attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tritone_training.bars.networks import SpanDecoder, SpanEncoder
from tritone_training.bars.spans import (
    N_RELATIVE,
)
from tritone_training.bars.tensors import N_LATENT
from tritone_training.exceptions import CheckpointError
from tritone_training.musicality import ATTRIBUTES

_BATCH: Final = 128
INTERPOLATION_STEPS: Final = 9
_SIZES: Final = ("width", "step_width", "n_hidden", "embedding_width", "head_width")
_LARGEST_SIZE: Final = 8_192


class MusicVae(nn.Module):
    """A variational autoencoder of two bars (Kingma & Welling 2014; for music: Roberts et al. 2018, arXiv:1803.05428).

    `attribute_vectors` (A, Z) are measured after training, see `attributes`; until then moving along them stays.
    """

    def __init__(
        self, *, n_latent: int, width: int, step_width: int, n_hidden: int, embedding_width: int, head_width: int
    ) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.encoder = SpanEncoder(n_latent=n_latent, width=width, step_width=step_width)
        self.decoder = SpanDecoder(
            n_latent=n_latent,
            width=width,
            step_width=step_width,
            n_hidden=n_hidden,
            embedding_width=embedding_width,
            head_width=head_width,
        )
        self.register_buffer("attribute_vectors", torch.zeros(len(ATTRIBUTES), n_latent))
        self.attribute_vectors: Tensor

    def forward(self, voices: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, (B, Z) each, of voices (B, N, V)."""
        encoded: tuple[Tensor, Tensor] = self.encoder(voices)
        return encoded

    def moved(self, latent: Tensor, attributes: Tensor) -> Tensor:
        """Return latent vectors (B, Z) moved by (B, A) standard deviations of each attribute."""
        return latent + attributes @ self.attribute_vectors


def encode(network: MusicVae, voices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return the posterior means, computed in batches: (S, N, V) -> (S, Z)."""
    with torch.inference_mode():
        means = [network(torch.from_numpy(voices[i : i + _BATCH]))[0].numpy() for i in range(0, len(voices), _BATCH)]
    return np.concatenate(means)


def spherical(first: npt.NDArray[Any], second: npt.NDArray[Any], share: float) -> npt.NDArray[np.float32]:
    """Interpolate on the sphere (Shoemake 1985; for latents White 2016, arXiv:1609.04468): (S, Z) each -> (S, Z)."""
    lengths = [np.linalg.norm(each, axis=1, keepdims=True) for each in (first, second)]
    cosine = (first * second).sum(1, keepdims=True) / np.maximum(lengths[0] * lengths[1], 1e-9)
    angle = np.arccos(np.clip(cosine, -1, 1))
    narrow = np.sin(angle) < 1e-4
    sine = np.where(narrow, 1, np.sin(angle))
    weights = [np.where(narrow, plain, np.sin(plain * angle) / sine) for plain in (1 - share, share)]
    between: npt.NDArray[np.float32] = (weights[0] * first + weights[1] * second).astype(np.float32)
    return between


@torch.inference_mode()
def decode(
    network: MusicVae, latent: torch.Tensor, noise: npt.NDArray[Any], *, temperature: float = 1.0
) -> npt.NDArray[np.int64]:
    """Sample voices without top-k and top-p: latent (S, Z), noise (S, N, V) -> (S, N, V)."""
    ones = torch.ones(len(latent))
    voices = network.decoder.write(
        latent,
        torch.from_numpy(np.array(noise, np.float32)),
        temperature=temperature * ones,
        top_k=torch.full((len(latent),), N_RELATIVE),
        top_p=ones,
    )
    answer: npt.NDArray[np.int64] = voices.numpy()
    return answer


def autoencoder_from(sizes: Mapping[str, object], weights: Mapping[str, Tensor], *, folder: Path) -> MusicVae:
    """Return a trained autoencoder in eval mode.

    Args:
        sizes: the hyper-parameters in its checkpoint.
        weights: its state dict.
        folder: of the checkpoint, for messages.

    Raises:
        CheckpointError: the sizes are missing or invalid, or the weights do not fit them.
    """
    found = {name: sizes.get(name) for name in _SIZES} if isinstance(sizes, Mapping) else dict.fromkeys(_SIZES)
    for name, size in found.items():
        if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= _LARGEST_SIZE:
            raise CheckpointError(
                f"{folder}: invalid hyper-parameter {name} in checkpoint.json: expected 1 to {_LARGEST_SIZE}, "
                f"got {size!r}; train again"
            )
    network = MusicVae(n_latent=N_LATENT, **found)  # type: ignore[arg-type]
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:  # names or shapes differ
        why = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{folder}: weights do not fit checkpoint.json ({why}); train again") from error
    return network.eval()
