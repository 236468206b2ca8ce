"""The network of `music_transformer`: a Transformer over frames, and within a frame an autoregression over its notes.

The likelihood of a frame is the product over its tokens, so that it is exact, whatever the number of notes.

What is given of future frames (a melody to harmonise, the bars after a gap) is encoded by convolutions that see a fixed
number of frames ahead, so that a piece can be generated chunk by chunk. They return exact zeros where nothing is given,
so that a piece without given frames is the same with and without them.

Shapes: B batch, T frames, R recent frames, A frames of look-ahead, P 88 pitches, K tokens of a frame, D width, E width
of the look-ahead encoder, M frames that count, of all sequences together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from tritone.music.grid import N_PITCHES
from tritone.music.grid import STRUCK as STRUCK_VALUE
from tritone_training import checkpoint
from tritone_training.data.piece_conditions import MOST_VOICES, N_DENSITIES, N_KEYS_AND_MODES, UNKNOWN
from tritone_training.exceptions import CheckpointError, HyperparameterError
from tritone_training.kinds.music_transformer.attention import CopyAttention, DecoderLayer
from tritone_training.kinds.music_transformer.config import TransformerConfig, network_arguments
from tritone_training.kinds.music_transformer.declaration import (
    KIND_NAME,
    LOOK_AHEAD,
)
from tritone_training.kinds.music_transformer.notes import PERFECT_INTERVALS, FrameView, NoteDecoder, multi_hot

_DILATIONS: Final = (1, 2, 4, 8, 16, 32)  # together they see 64 frames: the next one and 63 behind it


class LookAheadEncoder(nn.Module):
    """Convolutions over following frames only (WaveNet's, mirrored: van den Oord et al. 2016, arXiv:1609.03499)."""

    def __init__(self, *, width: int, reader_width: int, dropout: float) -> None:
        super().__init__()
        self.notes = nn.Linear(4 * N_PITCHES + 1, reader_width)
        self.layers = nn.ModuleList(nn.Linear(2 * reader_width, reader_width) for _ in _DILATIONS)
        self.out = nn.Linear(reader_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, whole: Tensor, top: Tensor, is_given: Tensor) -> Tensor:
        """Encode what is given of the following frames.

        Args:
            whole: (B, T + A, 2P) notes of the frames that are given whole; 0 elsewhere.
            top: (B, T + A, 2P) the highest notes of the frames whose highest note is given; 0 elsewhere.
            is_given: (B, T + A) 1 where either is given, be it silence; 0 elsewhere.

        Returns:
            (B, T, D) about the A frames after each.
        """
        n_frames = whole.shape[1] - LOOK_AHEAD
        x = self.notes(torch.cat([whole, top, is_given[..., None]], dim=-1)[:, 1:])
        for layer, dilation in zip(self.layers, _DILATIONS, strict=True):
            both = torch.cat([x[:, : x.shape[1] - dilation], x[:, dilation:]], dim=-1)
            x = x[:, : x.shape[1] - dilation] + self.dropout(nn.functional.gelu(layer(both)))
        n_given = is_given.cumsum(1)
        sees = (n_given[:, LOOK_AHEAD:] - n_given[:, :n_frames] > 0).to(x.dtype)
        answer: Tensor = self.out(x) * sees[..., None]
        return answer


WRITE: Final = 0  # given_mode: nothing is given
GIVEN: Final = 1  # given_mode: all notes are given
TOP_GIVEN: Final = 2  # given_mode: only the highest note, or its absence, is given
N_RECENT: Final = 2  # frames whose notes the note level sees as they are
_MOST_LEFT: Final = 33  # frames until the end that are told apart; more count as these
_NEAR_END: Final = (2, 4, 6, 8, 12, 16, 32, 64, 128)  # frames until the end that begin a phase of it
_ADDED: Final = ("key.", "density.", "n_voices.", "left.", "near_end.", "is_repeat.", "repeated.", "notes.degree.")
_VIEWS: Final = "notes.map_in.weight"
_OUT: Final = ("notes.out.weight", "notes.out.bias")
LONGEST_BAR: Final = 64  # frames; later ones of a longer bar count as its last


@dataclass(frozen=True)
class SegmentInputs:
    """The inputs for a segment of T frames, apart from the frames before it.

    Attributes:
        given: (B, T + A, P) uint8 grid values, the frames behind the segment included.
        mode: (B, T + A) uint8.
        meter: (B, 2) int64 frames in a bar, index within its bar of the piece's first frame; (0, 0) unknown.
        style: (B,) int64; 0 any.
        key, density, n_voices: (B,) int64, as in `PieceConditions`.
        end: (B,) int64 length of the piece in frames; 0 unknown.
        repeats: (B, T) int64 frames back to the moment that each repeats, -1 none; 0 unknown.
        n_before: (B,) int64 frames of the piece before this segment.
        past_prompt: (B,) int64, 0 as long as all frames so far were given whole.
    """

    given: Tensor
    mode: Tensor
    meter: Tensor
    style: Tensor
    key: Tensor
    density: Tensor
    n_voices: Tensor
    end: Tensor
    repeats: Tensor
    n_before: Tensor
    past_prompt: Tensor


@dataclass(frozen=True)
class FramePlan:
    """The inputs of T frames that do not depend on generated notes.

    Attributes:
        context: (B, T, D).
        next_given: (B, T, 2P) notes of the next frame as far as it is given, 0 elsewhere.
        past_prompt: (B, T) int64, as in `SegmentInputs`, behind each frame.
        scale: (B, C, P) what each pitch is in the key.
    """

    context: Tensor
    next_given: Tensor
    past_prompt: Tensor
    scale: Tensor


class MusicTransformer(nn.Module):
    """Predicts each frame from the frames before it, and each of its notes from those above it."""

    def __init__(
        self,
        *,
        width: int,
        n_layers: int,
        n_heads: int,
        window: int,
        n_copies: int,
        copy_width: int,
        copy_window: int,
        note_width: int,
        n_channels: int,
        reader_width: int,
        n_styles: int,
        onsets: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.onsets = onsets
        self.n_styles = n_styles
        self.frame = nn.Linear(2 * N_PITCHES, width, bias=False)
        nn.init.normal_(self.frame.weight, std=0.3)
        self.first = nn.Parameter(torch.zeros(width))
        self.phase = nn.Embedding(LONGEST_BAR + 1, width, padding_idx=0)
        self.bar_length = nn.Embedding(LONGEST_BAR + 1, width, padding_idx=0)
        self.style = nn.Embedding(n_styles + 1, width, padding_idx=0)
        self.key = nn.Embedding(N_KEYS_AND_MODES + 1, width, padding_idx=UNKNOWN)
        self.density = nn.Embedding(N_DENSITIES + 1, width, padding_idx=UNKNOWN)
        self.n_voices = nn.Embedding(MOST_VOICES + 1, width, padding_idx=UNKNOWN)
        self.left = nn.Embedding(_MOST_LEFT + 1, width, padding_idx=UNKNOWN)  # frames until the end
        self.near_end = nn.Linear(len(_NEAR_END), width, bias=False)
        self.register_buffer("end_phases", torch.tensor(_NEAR_END), persistent=False)
        self.end_phases: Tensor
        self.is_repeat = nn.Embedding(3, width, padding_idx=UNKNOWN)
        self.repeated = nn.Linear(2 * N_PITCHES, width, bias=False)
        self.top = nn.Linear(2 * N_PITCHES, width, bias=False)
        self.reader = LookAheadEncoder(width=width, reader_width=reader_width, dropout=dropout)
        self.layers = nn.ModuleList(
            DecoderLayer(width=width, n_heads=n_heads, window=window, dropout=dropout) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.copies = CopyAttention(width=width, n_heads=n_copies, head_width=copy_width, window=copy_window)
        self.notes = NoteDecoder(
            width=width,
            note_width=note_width,
            n_channels=n_channels,
            n_views=(1 + onsets) * (N_RECENT + n_copies + 2),
            onsets=onsets,
            dropout=dropout,
        )

    @property
    def decoder_layers(self) -> tuple[DecoderLayer, ...]:
        """The layers over frames, in order."""
        return tuple(cast(DecoderLayer, layer) for layer in self.layers)

    def plan(self, setting: SegmentInputs) -> FramePlan:
        """Compute what does not depend on the frames that will be generated in a segment."""
        n_frames = setting.mode.shape[1] - LOOK_AHEAD
        not_whole = (setting.mode != GIVEN).to(torch.int64)
        past_prompt = (not_whole.cumsum(1) + setting.past_prompt[:, None]).clamp_max(1)
        # The prompt is known from the past; reading it ahead as well would tie a piece to how it is cut into chunks.
        whole = ((setting.mode == GIVEN) & (past_prompt > 0)).to(torch.float32)
        topped = (setting.mode == TOP_GIVEN).to(torch.float32)
        notes = self.given_notes(setting.given)
        whole_notes, top_notes = notes * whole[..., None], highest(notes) * topped[..., None]
        ahead = whole_notes + top_notes
        context = self.reader(whole_notes, top_notes, whole + topped)
        context = context + self.top(top_notes[:, :n_frames])
        context = context + self._beat(setting, n_frames)
        context = context + self.style(setting.style.clamp(0, self.n_styles))[:, None]
        context = context + self._asked(setting, n_frames)
        steps = torch.arange(n_frames, device=context.device)
        is_first = (setting.n_before[:, None] + steps == 0).to(context.dtype)
        context = context + is_first[..., None] * self.first
        return FramePlan(
            context,
            ahead[:, 1 : n_frames + 1],
            past_prompt[:, :n_frames],
            self.notes.scale(setting.key.clamp(0, N_KEYS_AND_MODES)),
        )

    def _asked(self, setting: SegmentInputs, n_frames: int) -> Tensor:
        """(B, T, D) of key, density, voices, the end and repetition; 0 where unknown."""
        whole = (
            self.key(setting.key.clamp(0, N_KEYS_AND_MODES))
            + self.density(setting.density.clamp(0, N_DENSITIES))
            + self.n_voices(setting.n_voices.clamp(0, MOST_VOICES))
        )
        steps = torch.arange(n_frames, device=setting.end.device)
        left = (setting.end[:, None] - setting.n_before[:, None] - steps).clamp_min(1)
        is_known = (setting.end > UNKNOWN).to(torch.int64)
        near = (left[..., None] <= self.end_phases) & (is_known[:, None, None] > 0)
        repeats = setting.repeats[:, :n_frames]
        kind = (repeats < 0).to(torch.int64) + 2 * (repeats > 0).to(torch.int64)
        end = self.left(left.clamp_max(_MOST_LEFT) * is_known[:, None]) + self.near_end(near.to(torch.float32))
        answer: Tensor = whole[:, None] + end + self.is_repeat(kind)
        return answer

    def given_notes(self, given: Tensor) -> Tensor:
        """Convert grid values (..., P) to notes (..., 2P) as this network reads them."""
        if self.onsets:
            return multi_hot(given)
        return multi_hot((given > 0).to(given.dtype) * STRUCK_VALUE)

    def _beat(self, setting: SegmentInputs, n_frames: int) -> Tensor:
        """(B, T, D) where in its bar each frame is, and how long that bar; 0 where unknown."""
        length = setting.meter[:, :1].clamp_min(0)
        index = setting.meter[:, 1:].clamp_min(0) + setting.n_before[:, None]
        steps = torch.arange(n_frames, device=length.device)
        phase = (index + steps) % length.clamp_min(1)
        known = (length > 0).to(torch.int64)
        phases = (phase.clamp_max(LONGEST_BAR - 1) + 1) * known
        answer: Tensor = self.phase(phases) + self.bar_length(length.clamp_max(LONGEST_BAR))
        return answer

    def embed(self, before: Tensor, repeated: Tensor, context: Tensor) -> Tensor:
        """Return the input of the decoder layers.

        Args:
            before: (..., 2P) notes of the frame before each.
            repeated: (..., 2P) notes of the frame that each repeats, 0 if none.
            context: (..., D).
        """
        embedded: Tensor = self.frame(before) + self.repeated(repeated) + context
        return embedded

    def decode(self, before: Tensor, repeated: Tensor, context: Tensor) -> Tensor:
        """(B, T, ...) as `embed` -> (B, T, D), each frame attending to the window before it."""
        x = self.embed(before, repeated, context)
        for layer in self.layers:
            x = layer(x)
        answer: Tensor = self.norm(x)
        return answer

    def nll(self, shown: Tensor, repeated: Tensor, tokens: Tensor, setting: SegmentInputs, counted: Tensor) -> Tensor:
        """Return the negative log-likelihood of frames (teacher forcing).

        Args:
            shown: (B, R + T, P) uint8 readable frames; the first R precede the segment and are silent before the piece.
            repeated: (B, T, P) uint8 readable frames that those of the segment repeat, silent where none.
            tokens: (B, T, K) of the T frames.
            counted: (B, T) bool, false for padding.

        Returns:
            (M,) nats of each frame that counts, in order; the given highest note of a frame is not counted.
        """
        notes = multi_hot(shown)
        before, present = notes[:, N_RECENT - 1 : -1], notes[:, N_RECENT:]
        n_frames = present.shape[1]
        plan = self.plan(setting)
        hints = multi_hot(repeated)
        x = self.decode(before, hints, plan.context)
        recent = torch.stack([notes[:, N_RECENT - 1 - r : N_RECENT - 1 - r + n_frames] for r in range(N_RECENT)], 2)
        others = torch.cat([recent, self.copies(x, present), plan.next_given[:, :, None], hints[:, :, None]], dim=2)
        counts = tokens >= 0
        counts[:, :, 0] &= setting.mode[:, :n_frames] != TOP_GIVEN
        rows = [each[counted] for each in (x, before, others, tokens, counts)]
        rows.append(torch.nonzero(counted)[:, 0])
        return torch.cat(
            [
                self._nll(plan.scale, *(each[part] for each in rows))
                for part in torch.split(torch.arange(len(rows[0])), 8192)
            ]
        )

    def _nll(  # noqa: PLR0917 - as many tensors of the same frames
        self,
        scale: Tensor,
        x: Tensor,
        before: Tensor,
        others: Tensor,
        tokens: Tensor,
        counts: Tensor,
        row_of: Tensor,
    ) -> Tensor:
        """(B, C, P) the scale of each sequence, (M, ...) each, the last the sequence of each frame -> (M,) nats."""
        nll = torch.zeros_like(x[:, 0])
        # Frames of equally many tokens at a time, because padding to the fullest frame would waste most of the work.
        n_tokens = (tokens >= 0).sum(1)
        for n in torch.unique(n_tokens).tolist():
            rows = torch.nonzero(n_tokens == n)[:, 0]
            view = self.view(x[rows], before[rows], others[rows], scale[row_of[rows]])
            nll = nll.index_put((rows,), self.notes.nll(view, tokens[rows, :n], counts[rows, :n]))
        return nll

    def view(self, x: Tensor, before: Tensor, others: Tensor, scale: Tensor) -> FrameView:
        """Prepare the notes of M frames.

        Args:
            x: (M, D) from the layers.
            before: (M, 2P).
            others: (M, R + copies + 2, 2P): recent frames, the latest first, copied notes, the next frame's given ones,
                those of the frame that is repeated.
            scale: (M, C, P).
        """
        if not self.onsets:
            others = others[..., :N_PITCHES]  # nothing is ever held
        views = others.reshape(-1, others.shape[1] * others.shape[2] // N_PITCHES, N_PITCHES)
        return self.notes.view(x, before, views, scale)


def highest(notes: Tensor) -> Tensor:
    """Keep only the highest of the notes: (..., 2P) -> (..., 2P)."""
    either = notes[..., :N_PITCHES] + notes[..., N_PITCHES:]
    pitches = torch.arange(N_PITCHES, device=notes.device)
    top = torch.where(either > 0, pitches, -1).amax(-1, keepdim=True)
    return notes * torch.cat([pitches == top, pitches == top], dim=-1)


def build_network(config: TransformerConfig, *, n_styles: int, onsets: bool) -> MusicTransformer:
    """Return a new network with random weights."""
    return MusicTransformer(**network_arguments(config), n_styles=n_styles, onsets=onsets)


def load_network(folder: Path) -> tuple[MusicTransformer, TransformerConfig, Mapping[str, Any]]:
    """Return the trained network in eval mode, its configuration, and the content of checkpoint.json.

    Raises:
        CheckpointError: see `checkpoint.load`; also if the weights do not fit the network that is described.
    """
    saved = checkpoint.load(folder, kind=KIND_NAME)
    info = saved.info
    _check_styles(folder, info.get("styles"))
    try:
        config = TransformerConfig(**info["config"])
        network = build_network(config, n_styles=len(info["styles"]), onsets=bool(info["has_onsets"]))
        int(info["frames_per_quarter"])
    except (KeyError, TypeError, ValueError, HyperparameterError) as error:
        raise CheckpointError(f"{folder}: invalid entry in checkpoint.json ({error}); train again") from error
    try:
        network.load_state_dict(completed_weights(saved.weights, network))
    except RuntimeError as error:  # torch's message for names and shapes that differ
        why = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{folder}: weights do not fit checkpoint.json ({why}); train again") from error
    return network.eval(), config, info


def completed_weights(weights: Mapping[str, Tensor], network: MusicTransformer) -> dict[str, Tensor]:
    """Add zeros for what networks of earlier releases did not have, which makes the same predictions."""
    completed = dict(weights)
    own = network.state_dict()
    for name in own.keys() - weights.keys():
        if name.startswith(_ADDED):
            completed[name] = torch.zeros_like(own[name])
    views = completed.get(_VIEWS)
    n_added = (1 + network.onsets) if _ADDED[0] + "weight" not in weights else 0
    if views is not None and n_added:
        completed[_VIEWS] = nn.functional.pad(views, (0, 0, 0, n_added))
    for name in _OUT:  # without the scores of parallel motion
        out = completed.get(name)
        if out is not None and len(own[name]) - len(out) == len(PERFECT_INTERVALS):
            completed[name] = torch.cat([out, torch.zeros_like(own[name][len(out) :])])
    return completed


def _check_styles(folder: Path, styles: object) -> None:
    """Check the styles, which later become part of the model's config."""
    named = isinstance(styles, list) and all(isinstance(style, str) and style.isprintable() for style in styles)
    if not named:
        raise CheckpointError(
            f"{folder}: checkpoint.json has the styles {styles!r}; expected a list of names; train again"
        )
