"""The whole of `music_vae`: encoder, decoder and the attributes' directions; and its two parts as they are exported.

Shapes: B batch, N = 32 time steps, V = 4 lanes, Z latent, A = 3 attributes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tritone_training.kinds.music_vae.decoder import SpanDecoder
from tritone_training.kinds.music_vae.encoder import SpanEncoder
from tritone_training.musicality import ATTRIBUTES


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

    def forward(self, lanes: Tensor) -> tuple[Tensor, Tensor]:
        """Lanes (B, N, V) -> mean and log variance, (B, Z) each."""
        encoded: tuple[Tensor, Tensor] = self.encoder(lanes)
        return encoded

    def moved(self, latent: Tensor, attributes: Tensor) -> Tensor:
        """(B, Z) moved by (B, A) standard deviations of each attribute -> (B, Z)."""
        return latent + attributes @ self.attribute_vectors


class DecoderGraph(nn.Module):
    """What `music_vae_decoder` serves; it freezes the network, because torch's scan takes no gradients of integers."""

    def __init__(self, network: MusicVae) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)

    def forward(  # noqa: PLR0917 - the order of the graph's inputs
        self, latent: Tensor, attributes: Tensor, noise: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor
    ) -> tuple[Tensor, ...]:
        """(B, Z), (B, A), (B, N, V), (B,), (B,), (B,) -> lanes (B, N, V)."""
        moved = self.network.moved(latent, attributes)
        return (self.network.decoder.write(moved, noise, temperature=temperature, top_k=top_k, top_p=top_p),)
