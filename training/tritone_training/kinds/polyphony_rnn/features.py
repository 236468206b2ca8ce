"""Fixed features of all frames of a piece so far, which are the input of the network, updated frame by frame.

Nothing here is learned. Relative to its own pitch, each feature is the same in every key, so that transposing a piece
transposes its features. The most informative one is the *echo*: where the last frames resemble an earlier passage, what
followed that passage is likely to follow again (a cache of frames, after Grave et al. 2017, arXiv:1612.04426).

Shapes: B batch, L lags (frames that are remembered), 88 pitches, C features of a pitch, G features of a frame.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

N_LAGS: Final = 128
# A trace is a running mean of a pitch's sounding; it keeps this share of itself at each frame.
TRACE_KEEPS: Final = (0.5, 0.8, 0.95)
# For each echo: the share that the running resemblance keeps at a frame (short and long passages), and how much more
# the passages that resemble most count than the others.
ECHOES: Final = ((0.5, 24.0), (0.8, 20.0), (0.95, 16.0))
# Metre and phrase, for whatever unit a frame is: phases of cycles of so many frames, and how new the piece is.
CYCLES: Final = (2, 3, 4, 6, 8, 12, 16)
FADES: Final = (1.0, 4.0, 16.0, 64.0)
N_PITCH_FEATURES: Final = 2 + len(TRACE_KEEPS) + len(ECHOES)
N_FRAME_FEATURES: Final = len(ECHOES) + 2 * len(CYCLES) + len(FADES)
SOUNDING: Final = 0  # index of whether a pitch sounded in the frame before, among its features
FIRST_TRACE: Final = 2  # index of the first trace among a pitch's features
_NEVER: Final = -1e9  # finite, because 0 x inf is not a number


class FrameHistory(NamedTuple):
    """The history of a piece: what the features need of the frames so far.

    Attributes:
        n_frames: (B,) how many.
        age: (B, 88) for how many frames each pitch has sounded without a break.
        traces: (B, 3, 88).
        past: (B, L, 88) the last frames, the latest first.
        resemblance: (B, 3, L) between the latest frames and those 1..L frames before each.
    """

    n_frames: Tensor
    age: Tensor
    traces: Tensor
    past: Tensor
    resemblance: Tensor


class FrameFeatures(NamedTuple):
    """The input of the network before it predicts a frame.

    Attributes:
        pitch: (B, C, 88) sounding, log of the age, three traces, three echoes.
        frame: (B, G) how sure each echo is, phases of the cycles, how new the piece is.
    """

    pitch: Tensor
    frame: Tensor


class FeatureExtractor(nn.Module):
    """Computes features of frames; constants are buffers, because the body of an exported loop supports no others."""

    def __init__(self) -> None:
        super().__init__()
        constants = {
            "trace_keeps": torch.tensor(TRACE_KEEPS)[:, None],  # (3, 1)
            "echo_keeps": torch.tensor([keeps for keeps, _ in ECHOES])[:, None],  # (3, 1)
            "echo_sharpness": torch.tensor([sharpness for _, sharpness in ECHOES])[:, None],  # (3, 1)
            "lags": torch.arange(1.0, N_LAGS + 1),  # (L,)
            "cycles": torch.tensor(CYCLES, dtype=torch.float32),
            "fades": torch.tensor(FADES),
        }
        for name, values in constants.items():
            self.register_buffer(name, values, persistent=False)
        self.trace_keeps: Tensor
        self.echo_keeps: Tensor
        self.echo_sharpness: Tensor
        self.lags: Tensor
        self.cycles: Tensor
        self.fades: Tensor

    def silence(self, like: Tensor) -> tuple[FrameHistory, FrameFeatures]:
        """Return history and features before the first frame.

        Args:
            like: (B, 88) float; its batch size and device count.
        """
        # Not zeros(B, ...): the exporter requires states with the same symbolic batch size as the inputs.
        empty = like * 0.0
        nothing = empty[:, None]  # (B, 1, 88)
        lagged = empty[:, :1, None].expand(-1, len(ECHOES), N_LAGS).clone()
        n_frames = empty[:, 0].clone()
        history = FrameHistory(
            n_frames=n_frames,
            age=empty.clone(),
            traces=nothing.expand(-1, len(TRACE_KEEPS), -1).clone(),
            past=nothing.expand(-1, N_LAGS, -1).clone(),
            resemblance=lagged,
        )
        features = FrameFeatures(
            pitch=nothing.expand(-1, N_PITCH_FEATURES, -1).clone(),
            frame=self._frame_features(n_frames, empty[:, : len(ECHOES)]),
        )
        return history, features

    def forward(self, history: FrameHistory, notes: Tensor) -> tuple[FrameHistory, FrameFeatures]:
        """Update the history and the features with one more frame.

        Args:
            notes: (B, 88) float, 1 for what sounds.
        """
        age = (history.age + 1) * notes
        traces = history.traces * self.trace_keeps + (1 - self.trace_keeps) * notes[:, None]
        resemblance = self._resemblance(history, notes)
        n_frames = history.n_frames + 1
        past = torch.cat([notes[:, None], history.past[:, :-1]], 1)
        # The frame l steps back was followed by the one l - 1 steps back: `resemblance` holds the similarity of now and
        # then, and `past` at the same index holds the frame that followed.
        known = (self.lags < n_frames[:, None])[:, None].to(notes.dtype)  # (B, 1, L)
        weights = torch.softmax(resemblance * self.echo_sharpness * known + (1 - known) * _NEVER, dim=2) * known
        echoes = torch.matmul(weights, past)  # (B, 3, 88)
        sureness = (resemblance * known).amax(2)  # (B, 3)
        pitch = torch.cat([notes[:, None], 0.7 * torch.log1p(age)[:, None], traces, echoes], 1)
        return (
            FrameHistory(n_frames, age, traces, past, resemblance),
            FrameFeatures(pitch, self._frame_features(n_frames, sureness)),
        )

    def _resemblance(self, history: FrameHistory, notes: Tensor) -> Tensor:
        """Return running means (B, 3, L) of the Dice coefficient of each frame with the one 1..L frames before it."""
        common = torch.matmul(history.past, notes[:, :, None])[:, :, 0]  # (B, L)
        total = history.past.sum(2) + notes.sum(1, keepdim=True)
        alike = torch.where(
            total > 0, 2 * common / total.clamp_min(1), torch.ones_like(total)
        )  # silence is like silence
        alike = alike * (self.lags <= history.n_frames[:, None]).to(notes.dtype)
        return history.resemblance * self.echo_keeps + (1 - self.echo_keeps) * alike[:, None]

    def _frame_features(self, n_frames: Tensor, sureness: Tensor) -> Tensor:
        """Return the features of the frame: (B,), (B, 3) -> (B, G)."""
        # The remainder first: sine and cosine of large numbers differ from one library to another.
        phase = torch.remainder(n_frames[:, None], self.cycles) * (2 * torch.pi / self.cycles)
        fades = torch.exp(-n_frames[:, None] / self.fades)
        return torch.cat([sureness, torch.sin(phase), torch.cos(phase), fades], 1)
