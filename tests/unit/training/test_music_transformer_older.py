"""Checkpoints of releases without learned conditions: they load, and predict and write what they did.

Shapes: B batch, N frames, 88 pitches.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.training.music_transformer_pieces import SIZES, Asked, ask, chords
from torch import Tensor

from tritone_training import checkpoint
from tritone_training.exceptions import CheckpointError
from tritone_training.kinds.music_transformer import KIND
from tritone_training.kinds.music_transformer.config import TransformerConfig
from tritone_training.kinds.music_transformer.generator import PieceGenerator
from tritone_training.kinds.music_transformer.network import MusicTransformer, build_network, load_network
from tritone_training.kinds.music_transformer.notes import MAX_NOTES, PERFECT_INTERVALS

CONFIG = TransformerConfig(**SIZES)
# Begin the names of weights that these checkpoints do not have.
LATER = ("key.", "density.", "n_voices.", "left.", "near_end.", "is_repeat.", "repeated.", "notes.degree.")
VIEWS = "notes.map_in.weight"  # has fewer views of other frames there
OUTPUTS = ("notes.out.weight", "notes.out.bias")  # without the scores of parallel motion
INFO = {
    "styles": ["a", "b", "c"],
    "frames_per_quarter": 4,
    "config": CONFIG.to_dict(),
    "splits": {},
}


def weights_of(name: str, shape: tuple[int, ...]) -> Tensor:
    """Weights that are the same on every host, different for each name, and large enough to matter."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    values = random.uniform(-0.5, 0.5, shape)
    return torch.from_numpy(1 + values if name.endswith("norm.weight") else values).to(torch.float32)


def older_weights(*, onsets: bool) -> dict[str, Tensor]:
    """The weights of a network as an earlier release saved them."""
    weights = {}
    for name, tensor in build_network(CONFIG, n_styles=3, onsets=onsets).state_dict().items():
        if not name.startswith(LATER):
            n_views = tensor.shape[1] - (1 + onsets) if name == VIEWS else 0
            shape = (tensor.shape[0], n_views, *tensor.shape[2:]) if n_views else tuple(tensor.shape)
            if name in OUTPUTS:
                shape = (shape[0] - len(PERFECT_INTERVALS), *shape[1:])
            weights[name] = weights_of(name, shape)
    return weights


def save(folder: Path, *, onsets: bool = True, **changes: Any) -> Path:
    info = {**INFO, "has_onsets": onsets, **changes}
    checkpoint.save(folder, kind="music_transformer", info=info, weights=older_weights(onsets=onsets))
    return folder


def requests() -> Asked:
    """A piece from scratch, one continued, one harmonised and one filled in."""
    n_frames, random = 24, np.random.default_rng(5)
    modes = np.zeros((4, n_frames), np.uint8)
    modes[1, :12], modes[2], modes[3, :8], modes[3, 16:] = 1, 2, 1, 1
    zeros = torch.zeros(4, dtype=torch.int64)
    return Asked(
        given=torch.from_numpy(np.stack([chords(n_frames, seed=row) for row in range(4)])),
        given_mode=torch.from_numpy(modes),
        meter=torch.tensor([[0, 0], [6, 2], [8, 0], [5, 1]]),
        style=torch.tensor([0, 1, 2, 3]),
        key=zeros,
        density=zeros,
        n_voices=zeros,
        end=zeros,
        repeats=torch.zeros(4, n_frames, dtype=torch.int64),
        noise=torch.from_numpy(random.random((4, n_frames, MAX_NOTES), np.float32)),
        temperature=torch.tensor([1.0, 0.8, 1.2, 1.0]),
        top_k=torch.tensor([177, 177, 20, 177]),
        top_p=torch.tensor([1.0, 0.95, 1.0, 1.0]),
    )


# What the code of that release wrote with these weights: checksums of the frames, and the sums of their nats.
WRITTEN = {
    True: (1952230139, [173.186188, 433.226807, 76.288216, 576.757507]),
    False: (1640828359, [179.665909, 468.085052, 92.662964, 504.479187]),
}


@pytest.mark.parametrize("onsets", [True, False])
def test_an_older_checkpoint_writes_what_it_wrote(onsets: bool, tmp_path: Path) -> None:
    network, config, _ = load_network(save(tmp_path, onsets=onsets))
    assert config == CONFIG
    frames, nll = requests().write(PieceGenerator(network))
    checksum, nats = WRITTEN[onsets]
    assert zlib.crc32(frames.tobytes()) == checksum
    np.testing.assert_allclose(nll.sum(1), nats, rtol=1e-5)


@pytest.mark.parametrize("onsets", [True, False])
def test_an_older_network_has_learned_no_conditions(onsets: bool, tmp_path: Path) -> None:
    network, _, _ = load_network(save(tmp_path, onsets=onsets))
    asked = ask(8, 24, seed=31)
    # The number of voices is also the fewest notes under a given melody, which is no matter of training.
    asked = replace(asked, n_voices=torch.zeros_like(asked.n_voices))
    steered, nll = asked.write(PieceGenerator(network))
    frames, expected = asked.unsteered.write(PieceGenerator(network))
    np.testing.assert_array_equal(steered, frames)
    np.testing.assert_array_equal(nll, expected)


def test_unknown_conditions_are_those_of_a_network_without_them(tmp_path: Path) -> None:
    """A network trained with conditions but asked for none is the one whose conditions are removed."""
    torch.manual_seed(0)
    network = MusicTransformer(**SIZES, n_styles=3, onsets=True, dropout=0.0).eval().requires_grad_(False)
    weights = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(LATER)}
    weights[VIEWS] = weights[VIEWS][:, :-2]
    info = {**INFO, "has_onsets": True}
    checkpoint.save(tmp_path, kind="music_transformer", info=info, weights=weights)
    without, _, _ = load_network(tmp_path)
    asked = ask(8, 24, seed=32).unsteered
    frames, nll = asked.write(PieceGenerator(network))
    expected, nats = asked.write(PieceGenerator(without))
    np.testing.assert_array_equal(frames, expected)
    np.testing.assert_array_equal(nll, nats)


def test_an_older_checkpoint_is_exported_without_templates(tmp_path: Path) -> None:
    exportable = KIND.export(save(tmp_path))
    for each in (exportable, *exportable.companions):
        assert "templates" not in each.declaration.parameters
        assert {"key", "repeats"} <= {tensor.name for tensor in each.declaration.inputs}


def test_a_checkpoint_with_some_of_the_conditions_is_refused_if_it_does_not_fit(tmp_path: Path) -> None:
    weights = older_weights(onsets=True)
    for name, shape in (("key.weight", (25, 16)), (VIEWS, tuple(weights[VIEWS].shape))):
        # With the key, it is of a release that has all views.
        weights[name] = weights_of(name, shape)
    checkpoint.save(tmp_path, kind="music_transformer", info={**INFO, "has_onsets": True}, weights=weights)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_network(tmp_path)


@pytest.mark.parametrize("missing", ["frame.weight", "notes.word.weight", "copies.bias"])
def test_other_weights_may_not_be_missing(missing: str, tmp_path: Path) -> None:
    weights = older_weights(onsets=True)
    del weights[missing]
    checkpoint.save(tmp_path, kind="music_transformer", info={**INFO, "has_onsets": True}, weights=weights)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_network(tmp_path)
