"""The network of `polyphony_rnn`, which predicts from the frames so far whether each pitch sounds next.

It predicts twice: each pitch independently of the others (for the probabilities that `predict` returns), and, through
`FrameDecoder`, the notes of the frame jointly (for sampling). Checkpoints of earlier versions have no decoder.

One recurrent network with one set of weights runs at each of the 88 pitches (tied parallel networks, Johnson 2017,
EvoMUSART), so that the network generalises over keys. Its inputs are the neighbouring pitches through a
convolution, the harmony as pitch classes relative to its own, and features of the whole frame.

Shapes: B batch, T frames, 88 pitches, C features of a pitch, G features of a frame, M units, H units of the
recurrent layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from tritone.music.grid import N_PITCHES
from tritone_training import checkpoint
from tritone_training.exceptions import CheckpointError, HyperparameterError
from tritone_training.generation import choose_each, unrolled_or_scan
from tritone_training.kinds.polyphony_rnn.config import PolyphonyConfig
from tritone_training.kinds.polyphony_rnn.declaration import KIND_NAME
from tritone_training.kinds.polyphony_rnn.features import (
    FIRST_TRACE,
    N_FRAME_FEATURES,
    N_PITCH_FEATURES,
    FeatureExtractor,
    FrameFeatures,
    FrameHistory,
)
from tritone_training.kinds.polyphony_rnn.frame_decoder import FrameDecoder
from tritone_training.kinds.polyphony_rnn.priors import priors_of

N_PITCH_CLASSES: Final = 12
N_OCTAVES: Final = 8  # the last one has four pitches
_HARMONY_TRACES: Final = slice(FIRST_TRACE + 1, FIRST_TRACE + 3)  # of the last bar or so, and of the last phrase


class NetworkState(NamedTuple):
    """The state of the network after some frames.

    Attributes:
        hidden: (B, 88, H) of the recurrent layer.
        logits: (B, 88) of each pitch sounding next.
    """

    history: FrameHistory
    hidden: Tensor
    logits: Tensor


class PolyphonyNetwork(nn.Module):
    """Predicts the next frame, each pitch independently of the others in it."""

    def __init__(
        self,
        *,
        units: int = 64,
        hidden: int = 64,
        reach: int = 16,
        dropout: float = 0.3,
        width: int = 64,
        n_styles: int = 0,
    ) -> None:
        """Create with random weights.

        Args:
            units: M.
            hidden: H.
            reach: how many semitones to either side the convolution sees.
            dropout: of what goes into the recurrent layer and what comes out; the decoder has half of it.
            width: units of the decoder of joint frames; 0 for none.
            n_styles: styles that the decoder distinguishes.
        """
        super().__init__()
        self.extractor = FeatureExtractor()
        self.surroundings = nn.Conv1d(N_PITCH_FEATURES, units, 2 * reach + 1, padding=reach)
        self.harmony = nn.Linear(2 * N_PITCH_CLASSES, units, bias=False)
        self.frame = nn.Linear(N_FRAME_FEATURES, units, bias=False)
        self.height = nn.Parameter(torch.zeros(N_PITCHES, units))
        self.recurrent = nn.GRU(units, hidden, batch_first=True)
        self.past_it = nn.Linear(units, hidden)
        self.out = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(dropout)
        nn.init.constant_(self.out.bias, -3.0)  # few of the 88 pitches sound at once
        self.decoder = (
            FrameDecoder(units=units, hidden=hidden, width=width, n_styles=n_styles, dropout=dropout / 2)
            if width
            else None
        )
        classes = torch.arange(N_PITCH_CLASSES)
        self.register_buffer("turns", (classes[:, None] + classes) % N_PITCH_CLASSES, persistent=False)  # (12, 12)
        self.register_buffer("classes", torch.arange(N_PITCHES) % N_PITCH_CLASSES, persistent=False)  # (88,)
        self.turns: Tensor
        self.classes: Tensor

    def forward(self, pitch: Tensor, frame: Tensor) -> Tensor:
        """Return the logits of whole sequences, for training.

        Args:
            pitch: (B, T, C, 88) features before each frame.
            frame: (B, T, G).

        Returns:
            (B, T, 88) logits of each frame.
        """
        hidden, seen = self.hidden_states(pitch, frame)
        return self.readout(hidden, seen)

    def hidden_states(self, pitch: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states of the recurrent layer for whole sequences, and its inputs.

        Args:
            pitch: (B, T, C, 88) features before each frame.
            frame: (B, T, G).

        Returns:
            (B, T, 88, H) and (B, T, 88, M).
        """
        n_batch, n_frames = frame.shape[:2]
        seen = self.pitch_inputs(FrameFeatures(pitch.flatten(0, 1), frame.flatten(0, 1)))  # (B * T, 88, M)
        seen = seen.reshape(n_batch, n_frames, N_PITCHES, -1).transpose(1, 2).flatten(0, 1)  # (B * 88, T, M)
        seen = self.dropout(seen)
        hidden, _ = self.recurrent(seen)
        by_pitch = (n_batch, N_PITCHES, n_frames, -1)
        return hidden.reshape(by_pitch).transpose(1, 2), seen.reshape(by_pitch).transpose(1, 2)

    def pitch_inputs(self, features: FrameFeatures) -> Tensor:
        """Return the input of each pitch: (B, C, 88) and (B, G) -> (B, 88, M)."""
        around = self.surroundings(features.pitch).transpose(1, 2)  # (B, 88, M)
        traces = features.pitch[:, _HARMONY_TRACES]  # (B, 2, 88)
        octaves = nn.functional.pad(traces, (0, -N_PITCHES % N_PITCH_CLASSES)).reshape(
            -1, 2, N_OCTAVES, N_PITCH_CLASSES
        )
        turned = octaves.sum(2)[:, :, self.turns].transpose(1, 2).flatten(2)  # (B, 12, 24) relative to each class
        harmony = self.harmony(turned)[:, self.classes]  # (B, 88, M)
        return torch.relu(around + harmony + self.frame(features.frame)[:, None] + self.height)

    def readout(self, hidden: Tensor, seen: Tensor) -> Tensor:
        """Return logits (...) from (..., H) and (..., M)."""
        logits: Tensor = self.out(self.dropout(hidden + torch.relu(self.past_it(seen))))[..., 0]
        return logits

    def start(self, like: Tensor) -> NetworkState:
        """Return the state before the first frame.

        Args:
            like: (B, 88) float; its batch size and device count.
        """
        history, features = self.extractor.silence(like)
        hidden, seen = self.recur(features, self.no_hidden(like))
        return NetworkState(history, hidden, self.readout(hidden, seen))

    def no_hidden(self, like: Tensor) -> Tensor:
        """Return the state (B, 88, H) of the recurrent layer before its first step."""
        return (like * 0.0)[:, :, None].expand(-1, -1, self.recurrent.hidden_size).clone()

    def advance(self, state: NetworkState, notes: Tensor) -> NetworkState:
        """Advance by one frame.

        Args:
            notes: (B, 88) float, 1 for what sounds.
        """
        history, features = self.extractor(state.history, notes)
        hidden, seen = self.recur(features, state.hidden)
        return NetworkState(history, hidden, self.readout(hidden, seen))

    def recur(self, features: FrameFeatures, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Apply one step of the recurrent layer; return its state (B, 88, H) and its input (B, 88, M).

        The step of `torch.nn.GRU` is spelled out, because an exported loop supports no such layer.
        """
        seen = self.pitch_inputs(features)
        weight_in, weight_back, bias_in, bias_back = self.recurrent.all_weights[0]
        # Flat: ONNX Runtime adds a bias within a product of matrices, not of stacks of them.
        before = hidden.flatten(0, 1)
        ours = nn.functional.linear(seen.flatten(0, 1), weight_in, bias_in)
        theirs = nn.functional.linear(before, weight_back, bias_back)
        reset_in, update_in, new_in = ours.chunk(3, dim=1)
        reset_back, update_back, new_back = theirs.chunk(3, dim=1)
        update = torch.sigmoid(update_in + update_back)
        new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_back) * new_back)
        return torch.unflatten(new + update * (before - new), 0, hidden.shape[:2]), seen


class PieceScorer(nn.Module):
    """Returns the likelihood of each frame of a piece and the probabilities of the next one."""

    def __init__(self, network: PolyphonyNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Score a piece.

        Args:
            frames: (B, N, 88) uint8; what is not 0 sounds.

        Returns:
            (B, N) negative log-likelihood of each frame given those before it, in nats;
            (B, N, 88) probability that a pitch sounds in the next frame.
        """
        notes = (frames > 0).to(torch.float32).transpose(0, 1)  # (N, B, 88)

        def step(
            state: tuple[Tensor, ...], inputs: tuple[Tensor, ...]
        ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            before = _unpacked(state)
            after = self.network.advance(before, inputs[0])
            return _packed(after), (frame_nll(before.logits, inputs[0]), torch.sigmoid(after.logits))

        start = _packed(self.network.start(notes[0]))
        _, (nll, probabilities) = unrolled_or_scan(step, start, (notes,))
        return nll.transpose(0, 1), probabilities.transpose(0, 1)


class Sampler(nn.Module):
    """Samples the continuation of a piece."""

    def __init__(self, network: PolyphonyNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, prompt: Tensor, noise: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor
    ) -> tuple[Tensor]:
        """Read the prompt, then sample as many frames as there is noise for.

        Args:
            prompt: (B, P, 88) uint8, P >= 1; what is not 0 sounds.
            noise: (B, N, 88) uniform in 0 <= u < 1.
            temperature: (B,) above 0; below 1 is more conservative, above 1 more random.
            top_k: (B,) int64, at most so many pitches sound at once, except that equally likely ones count as one.
            top_p: (B,) a pitch less likely than 1 - p never sounds.

        Returns:
            (B, N, 88) uint8, 1 for what sounds.
        """
        given = (prompt > 0).to(torch.float32)  # (B, P, 88)
        # One loop over both: a given frame is read, the others are sampled.
        notes = torch.cat([given, torch.zeros_like(noise)], 1).transpose(0, 1)  # (P + N, B, 88)
        is_given = torch.cat([torch.ones_like(given), torch.zeros_like(noise)], 1).transpose(0, 1)
        draws = torch.cat([torch.zeros_like(given), noise], 1).transpose(0, 1)

        def step(
            state: tuple[Tensor, ...], inputs: tuple[Tensor, ...]
        ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            before, (note, known, draw) = _unpacked(state), inputs
            chosen = choose_each(before.logits, draw, temperature=temperature, top_k=top_k, top_p=top_p)
            chosen_or_given = torch.where(known > 0, note, chosen.to(torch.float32))
            return _packed(self.network.advance(before, chosen_or_given)), (chosen_or_given.to(torch.uint8),)

        start = _packed(self.network.start(notes[0]))
        _, (written,) = unrolled_or_scan(step, start, (notes, is_given, draws))
        return (written.transpose(0, 1)[:, prompt.shape[1] :],)


def frame_nll(logits: Tensor, notes: Tensor) -> Tensor:
    """Negative log-likelihood of frames of independent notes, in nats: (..., 88), (..., 88) -> (...)."""
    # log(1 + exp(x)) - x y, in the form that overflows at neither end.
    return (logits.clamp_min(0) - logits * notes + torch.log1p(torch.exp(-logits.abs()))).sum(-1)


def _packed(state: NetworkState) -> tuple[Tensor, ...]:
    return (*state.history, state.hidden, state.logits)


def _unpacked(state: tuple[Tensor, ...]) -> NetworkState:
    return NetworkState(FrameHistory(*state[:-2]), state[-2], state[-1])


def build_network(config: PolyphonyConfig, *, n_styles: int = 0) -> PolyphonyNetwork:
    """Return a new network with random weights."""
    return PolyphonyNetwork(
        units=config.units,
        hidden=config.hidden,
        reach=config.reach,
        dropout=config.dropout,
        width=config.width,
        n_styles=n_styles,
    )


def config_of(info: Mapping[str, Any]) -> PolyphonyConfig:
    """Return the hyper-parameters of a checkpoint; those of earlier versions have no decoder.

    Raises:
        KeyError, TypeError, HyperparameterError: there are none, or they are invalid.
    """
    return PolyphonyConfig(**{"width": 0, **info["config"]})


def load_network(folder: Path) -> tuple[PolyphonyNetwork, Mapping[str, Any]]:
    """Return the trained network in eval mode and the content of checkpoint.json.

    Raises:
        CheckpointError: see `checkpoint.load`; also if the weights do not fit the network that is described.
    """
    saved = checkpoint.load(folder, kind=KIND_NAME)
    info = saved.info
    try:
        config = config_of(info)
        network = build_network(config, n_styles=len(priors_of(info).styles) if config.width else 0)
        _require_info(folder, info)
    except (KeyError, TypeError, HyperparameterError) as error:
        raise CheckpointError(f"{folder}: invalid entry in checkpoint.json ({error}); train again") from error
    try:
        network.load_state_dict(dict(saved.weights))
    except RuntimeError as error:  # torch's message for names and shapes that differ
        wrong = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{folder}: weights do not fit checkpoint.json ({wrong}); train again") from error
    return network.eval(), info


def _require_info(folder: Path, info: Mapping[str, Any]) -> None:
    """Check the entries that evaluation and export read."""
    found = info["frames_per_quarter"]
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise CheckpointError(
            f"{folder}: checkpoint.json has frames_per_quarter {found!r}; expected a whole number, 0 if unknown; "
            f"train again"
        )
    info["data"]["fingerprint"]
