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

from tritone_training.bars.latent_flow import LatentFlow
from tritone_training.bars.networks import SpanDecoder, SpanEncoder
from tritone_training.bars.spans import N_RELATIVE
from tritone_training.bars.tensors import LARGEST_LATENT, N_LATENT
from tritone_training.exceptions import CheckpointError
from tritone_training.musicality import ATTRIBUTES

_BATCH: Final = 128
INTERPOLATION_STEPS: Final = 9
_SIZES: Final = ("width", "step_width", "n_hidden", "embedding_width", "head_width")
_PRIOR_SIZES: Final = ("prior_width", "n_couplings")
_LARGEST_SIZE: Final = 8_192
_OF_EARLIER_VERSIONS: Final = "attribute_vectors"  # a weight that only networks of version 0.2 and earlier have
# Requested changes of an attribute, in standard deviations, for which `attribute_curves` have values.
AMOUNTS: Final = (-5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0)


class MusicVae(nn.Module):
    """A variational autoencoder of two bars (Kingma & Welling 2014; for music: Roberts et al. 2018, arXiv:1803.05428).

    Its posterior is in the space of the decoder; clients see latent vectors that a flow has mapped to normal ones.

    Args:
        n_latent, width, step_width, n_hidden, embedding_width, head_width: see `SpanEncoder` and `SpanDecoder`.
        prior_width, n_couplings: see `LatentFlow`.
        changes_attributes: False for a network of version 0.2 or earlier, which has no flow, and moves latent
            vectors along `attribute_vectors` instead of giving the change to the decoder.
    """

    def __init__(
        self,
        *,
        n_latent: int,
        width: int,
        step_width: int,
        n_hidden: int,
        embedding_width: int,
        head_width: int,
        prior_width: int = 1,
        n_couplings: int = 0,
        changes_attributes: bool = True,
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
            changes_attributes=changes_attributes,
        )
        self.flow: LatentFlow | None = None
        if changes_attributes:
            self.flow = LatentFlow(n_latent, width=prior_width, n_couplings=n_couplings)
            self.register_buffer("attribute_curves", torch.tensor([AMOUNTS] * len(ATTRIBUTES)))
        else:
            self.register_buffer("attribute_vectors", torch.zeros(len(ATTRIBUTES), n_latent))
        self.attribute_curves: Tensor
        self.attribute_vectors: Tensor

    def forward(self, voices: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the normal latent vectors, (B, Z) each, of voices (B, N, V)."""
        mean, log_variance = self.encoder(voices)
        if self.flow is None:
            return mean, log_variance
        mean, log_variance = self.flow.normalised(mean, log_variance)
        return mean.clamp(-LARGEST_LATENT, LARGEST_LATENT), log_variance

    def decoder_inputs(self, latent: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoder's latent vectors (B, Z) and changes (B, A).

        Args:
            latent: (B, Z) normal.
            attributes: (B, A) requested changes in standard deviations.
        """
        if self.flow is None:
            return latent + attributes @ self.attribute_vectors, attributes
        return self.flow.inverse(latent), self._calibrated(attributes)

    def _calibrated(self, attributes: Tensor) -> Tensor:
        """Return the changes (B, A) that the decoder needs to be given for the requested ones.

        Linear between the amounts for which `attribute_curves` were measured, constant outside.
        """
        place = ((attributes - AMOUNTS[0]) / (AMOUNTS[1] - AMOUNTS[0])).clamp(0, len(AMOUNTS) - 1)
        below = place.floor().clamp_max(len(AMOUNTS) - 2)
        first = below.to(torch.int64).T  # (A, B)
        low, high = (self.attribute_curves.gather(1, each) for each in (first, first + 1))
        return (low + (high - low) * (place - below).T).T

    def sample(
        self,
        latent: Tensor,
        noise: Tensor,
        *,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        attributes: Tensor | None = None,
    ) -> Tensor:
        """Return voices (B, N, V) for normal latent vectors (B, Z); for the other arguments see `SpanDecoder.write`."""
        if attributes is None:
            attributes = torch.zeros_like(latent[:, : len(ATTRIBUTES)])
        decoded, changes = self.decoder_inputs(latent, attributes)
        return self.decoder.write(decoded, noise, temperature=temperature, top_k=top_k, top_p=top_p, attributes=changes)


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
    network: MusicVae,
    latent: torch.Tensor,
    noise: npt.NDArray[Any],
    *,
    temperature: float = 1.0,
    top_k: int = N_RELATIVE,
    attributes: torch.Tensor | None = None,
) -> npt.NDArray[np.int64]:
    """Sample voices without top-p.

    Args:
        network: in eval mode.
        latent: (S, Z) normal.
        noise: (S, N, V).
        temperature: sampling temperature.
        top_k: number of most likely values of a voice to sample from.
        attributes: (S, A) requested changes in standard deviations; None for no change.

    Returns:
        (S, N, V)
    """
    ones = torch.ones(len(latent))
    voices = network.sample(
        latent,
        torch.from_numpy(np.array(noise, np.float32)),
        temperature=temperature * ones,
        top_k=torch.full((len(latent),), top_k),
        top_p=ones,
        attributes=attributes,
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
    changes_attributes = _OF_EARLIER_VERSIONS not in weights
    names = (*_SIZES, *_PRIOR_SIZES) if changes_attributes else _SIZES
    found = {name: sizes.get(name) for name in names} if isinstance(sizes, Mapping) else dict.fromkeys(names)
    for name, size in found.items():
        least = 0 if name == "n_couplings" else 1
        if isinstance(size, bool) or not isinstance(size, int) or not least <= size <= _LARGEST_SIZE:
            raise CheckpointError(
                f"{folder}: invalid hyper-parameter {name} in checkpoint.json: expected {least} to {_LARGEST_SIZE}, "
                f"got {size!r}; train again"
            )
    network = MusicVae(n_latent=N_LATENT, changes_attributes=changes_attributes, **found)  # type: ignore[arg-type]
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:  # names or shapes differ
        why = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{folder}: weights do not fit checkpoint.json ({why}); train again") from error
    return network.eval()
