"""musicnn (Pons & Serra 2019, arXiv:1909.06654): a CNN that tags 3 s of music.

Shapes: B batch, T frames, M mel bands (96), C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tritone_training.exceptions import PretrainedWeightsError

N_MELS: Final = 96
N_POOLED: Final = 753 * 2
N_PENULTIMATE: Final = 200
N_TAGS: Final = 50
_EPSILON: Final = 1e-3  # the default of the layers it was trained with
_N_TIMBRAL: Final = 204
_N_TEMPORAL: Final = 51
_N_MIDDLE: Final = 64
_TEMPORAL_FRAMES: Final = (128, 64, 32)

# In the order of the network's outputs: the 50 most frequent tags of each data set, in lower case.
MSD_TAGS: Final = (
    "rock", "pop", "alternative", "indie", "electronic", "female vocalists", "dance", "00s", "alternative rock",
    "jazz", "beautiful", "metal", "chillout", "male vocalists", "classic rock", "soul", "indie rock", "mellow",
    "electronica", "80s", "folk", "90s", "chill", "instrumental", "punk", "oldies", "blues", "hard rock", "ambient",
    "acoustic", "experimental", "female vocalist", "guitar", "hip-hop", "70s", "party", "country", "easy listening",
    "sexy", "catchy", "funk", "electro", "heavy metal", "progressive rock", "60s", "rnb", "indie pop", "sad", "house",
    "happy",
)  # fmt: skip
MTT_TAGS: Final = (
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano", "ambient",
    "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing", "vocals", "no vocals",
    "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop", "soft", "sitar", "solo", "man",
    "classic", "choir", "voice", "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello",
    "no voice", "weird", "country", "metal", "female voice", "choral",
)  # fmt: skip


class Musicnn(nn.Module):
    """Network from mel power (B, M, T) to the activations before the tag layer, and the tags."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_in = nn.BatchNorm2d(1, eps=_EPSILON)
        self.timbral = nn.ModuleList(
            nn.Conv2d(1, _N_TIMBRAL, (7, n_mels), padding=(3, 0)) for n_mels in (int(0.4 * N_MELS), int(0.7 * N_MELS))
        )
        self.temporal = nn.ModuleList(nn.Conv2d(1, _N_TEMPORAL, (n_frames, 1)) for n_frames in _TEMPORAL_FRAMES)
        self.norms_front = nn.ModuleList(
            nn.BatchNorm1d(n, eps=_EPSILON) for n in (_N_TIMBRAL,) * 2 + (_N_TEMPORAL,) * 3
        )
        n_front = 2 * _N_TIMBRAL + 3 * _N_TEMPORAL
        self.middle = nn.ModuleList(nn.Conv1d(n, _N_MIDDLE, 7, padding=3) for n in (n_front, _N_MIDDLE, _N_MIDDLE))
        self.norms_middle = nn.ModuleList(nn.BatchNorm1d(_N_MIDDLE, eps=_EPSILON) for _ in range(3))
        self.norm_pooled = nn.BatchNorm1d(N_POOLED, eps=_EPSILON)
        self.dense = nn.Linear(N_POOLED, N_PENULTIMATE)
        self.norm_dense = nn.BatchNorm1d(N_PENULTIMATE, eps=_EPSILON)
        self.tags = nn.Linear(N_PENULTIMATE, N_TAGS)

    def forward(self, mel_power: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pooled (B, 1506), normalised, penultimate (B, 200) and tags (B, 50) in 0..1, from (B, M, T)."""
        log_mel = torch.log10(10_000 * mel_power + 1)
        x = self.norm_in(log_mel.transpose(1, 2)[:, None])  # (B, 1, T, M)
        front = self._front(x)  # (B, 561, T)
        features, hidden = [front], front
        for index, (convolve, norm) in enumerate(zip(self.middle, self.norms_middle, strict=True)):
            deeper = norm(torch.relu(convolve(hidden)))
            hidden = deeper if index == 0 else hidden + deeper
            features.append(hidden)
        stacked = torch.cat(features, dim=1)  # (B, 753, T)
        # Maximum and mean of each feature alternate, as in the training of the dense layer.
        pooled = self.norm_pooled(torch.stack([stacked.amax(2), stacked.mean(2)], dim=2).flatten(1))
        penultimate = self.norm_dense(torch.relu(self.dense(pooled)))
        return pooled, penultimate, torch.sigmoid(self.tags(penultimate))

    def _front(self, x: Tensor) -> Tensor:
        """Return features of timbre (tall filters) and rhythm (long filters), pooled over frequency: (B, 561, T).

        The original rectifies, normalises, then takes the maximum over frequency. Rectifying is monotonic, and
        normalising is monotonic or, if its gain is negative, reverses the order. Pooling first (the minimum in that
        case) therefore gives the same result and avoids two passes over the largest maps, a third of the time.
        """
        maps = [convolve(x) for convolve in self.timbral]
        for n_frames, convolve in zip(_TEMPORAL_FRAMES, self.temporal, strict=True):
            # "Same" padding of an even kernel: the spare zero goes to the end.
            maps.append(convolve(nn.functional.pad(x, (0, 0, (n_frames - 1) // 2, n_frames // 2))))
        pooled = []
        for norm, each in zip(self.norms_front, maps, strict=True):  # each (B, C, T, M')
            gain: Tensor = norm.weight  # type: ignore[assignment]
            pooled.append(norm(torch.relu(torch.where(gain[:, None] >= 0, each.amax(3), each.amin(3)))))
        return torch.cat(pooled, 1)


def from_tensorflow(variables: Mapping[str, npt.NDArray[np.float32]]) -> Musicnn:
    """Fill the network with the variables of the TensorFlow checkpoint, by their names there.

    Raises:
        PretrainedWeightsError: one of them is missing or of another shape.
    """
    try:
        return _filled(variables)
    except KeyError as error:
        raise PretrainedWeightsError(f"the checkpoint holds no variable {error}") from error


def _filled(variables: Mapping[str, npt.NDArray[np.float32]]) -> Musicnn:
    network = Musicnn()
    convolutions = [*network.timbral, *network.temporal, *network.middle]
    norms = [
        network.norm_in, *network.norms_front, *network.norms_middle, network.norm_pooled, network.norm_dense
    ]  # fmt: skip
    with torch.no_grad():
        for index, convolve in enumerate(convolutions):
            prefix = "conv2d" if index == 0 else f"conv2d_{index}"
            kernel = torch.from_numpy(variables[f"{prefix}/kernel"].copy())  # (height, width, in, out)
            weight = kernel.permute(3, 2, 0, 1)
            if convolve.weight.ndim == 3:  # the middle's width is the features, one "channel" deep
                weight = weight[:, 0].transpose(1, 2)
            _fill(convolve.weight, weight)
            _fill(convolve.bias, torch.from_numpy(variables[f"{prefix}/bias"].copy()))
        for index, norm in enumerate(norms):
            prefix = "batch_normalization" if index == 0 else f"batch_normalization_{index}"
            for ours, theirs in (
                (norm.weight, "gamma"),
                (norm.bias, "beta"),
                (norm.running_mean, "moving_mean"),
                (norm.running_var, "moving_variance"),
            ):
                _fill(ours, torch.from_numpy(variables[f"{prefix}/{theirs}"].copy()))
        for linear, prefix in ((network.dense, "dense"), (network.tags, "dense_1")):
            _fill(linear.weight, torch.from_numpy(variables[f"{prefix}/kernel"].copy()).T)
            _fill(linear.bias, torch.from_numpy(variables[f"{prefix}/bias"].copy()))
    return network.eval()


def _fill(ours: Tensor, theirs: Tensor) -> None:
    if ours.shape != theirs.shape:
        raise PretrainedWeightsError(
            f"expected a tensor of shape {tuple(ours.shape)}, the checkpoint has {tuple(theirs.shape)}"
        )
    ours.copy_(theirs)
