"""Generation inside the graph: one loop over frames, at most eight notes in each, with all randomness as an input.

`StreamingGenerator` generates the next frames of a piece and returns the state that the following call needs.
`PieceGenerator` generates whole pieces, chunk by chunk. The same noise gives the same notes however a piece is cut into
chunks; sums are rounded differently, so that likelihoods may differ in their last digits.

Shapes: B batch, N frames, S 8 notes of a frame, A frames of look-ahead, P 88 pitches, V 177 tokens, D width, H heads,
W window, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn

from tritone.music.grid import HELD as HELD_VALUE
from tritone.music.grid import N_PITCHES
from tritone.music.grid import STRUCK as STRUCK_VALUE
from tritone_training.data.piece_conditions import MOST_VOICES
from tritone_training.generation import NEVER, SamplingFilter, choose, open_above, unrolled_or_loop, unrolled_or_scan
from tritone_training.kinds.music_transformer.attention import UNSEEN, KVCache, step_bias
from tritone_training.kinds.music_transformer.declaration import LOOK_AHEAD
from tritone_training.kinds.music_transformer.network import GIVEN, N_RECENT, TOP_GIVEN, MusicTransformer, SegmentInputs
from tritone_training.kinds.music_transformer.notes import (
    BEGIN,
    END,
    HELD,
    MAX_NOTES,
    N_TOKENS,
    STRUCK,
    FrameView,
    multi_hot,
)

_CHUNK: Final = 16  # frames of a chunk: the caches are shifted once per chunk
_FREE: Final = -1  # instead of a given token: choose one
_LAST_RESORT: Final = 0.1 * NEVER  # added to the score of an END where notes are missing
LoopState: TypeAlias = tuple[Tensor, ...]


class StreamingGenerator(nn.Module):
    """Generates the next N frames of a piece."""

    def __init__(self, network: MusicTransformer) -> None:
        super().__init__()
        self.network = network

    def forward(  # noqa: PLR0917 - the exporter gives tensors by position, in the declaration's order
        self,
        given: Tensor,
        given_mode: Tensor,
        meter: Tensor,
        style: Tensor,
        key: Tensor,
        density: Tensor,
        n_voices: Tensor,
        end: Tensor,
        repeats: Tensor,
        noise: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        memory: Tensor,
        copy_keys: Tensor,
        written: Tensor,
        n_before: Tensor,
        past_prompt: Tensor,
    ) -> tuple[Tensor, ...]:
        """Generate the frames.

        Args:
            given: (B, N + A, P) uint8 grid values, those of the A frames behind these included; 0 behind the end.
            given_mode: (B, N + A) uint8.
            meter: (B, 2) int64, of the whole piece.
            style: (B,) int64.
            key: (B,) int64; it and the following four as in `PieceConditions`, 0 where unknown.
            density: (B,) int64.
            n_voices: (B,) int64.
            end: (B,) int64.
            repeats: (B, N) int64.
            noise: (B, N, S) uniform in 0 <= u < 1.
            temperature: (B,).
            top_k: (B,) int64.
            top_p: (B,).
            memory: (B, L, 2, H, W, E) keys and values of past frames; 0 at the start of a piece, as all states below.
            copy_keys: (B, H, W, E).
            written: (B, W, P) uint8 grid values of the frames before.
            n_before: (B,) int64 frames of the piece before these.
            past_prompt: (B,) int64, 0 as long as all frames so far were given whole.

        Returns:
            frames (B, N, P) uint8, nll (B, N), and the last five as they are behind these frames.
        """
        # An index, unlike a slice, tells the exporter that these are as many as `noise` says.
        span = torch.arange(noise.shape[1] + LOOK_AHEAD, device=noise.device)
        setting = SegmentInputs(
            given=given[:, span],
            mode=given_mode[:, span],
            meter=meter,
            style=style,
            key=key,
            density=density,
            n_voices=n_voices,
            end=end,
            repeats=repeats,
            n_before=n_before,
            past_prompt=past_prompt,
        )
        choice = SamplingFilter.of(temperature=temperature, top_k=top_k, top_p=top_p, n_choices=N_TOKENS)
        return write(self.network, setting, noise, choice, (memory, copy_keys, written))


class PieceGenerator(nn.Module):
    """Generates whole pieces."""

    def __init__(self, network: MusicTransformer) -> None:
        super().__init__()
        self.chunk = StreamingGenerator(network)

    def forward(  # noqa: PLR0917 - the exporter gives tensors by position, in the declaration's order
        self,
        given: Tensor,
        given_mode: Tensor,
        meter: Tensor,
        style: Tensor,
        key: Tensor,
        density: Tensor,
        n_voices: Tensor,
        end: Tensor,
        repeats: Tensor,
        noise: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return frames (B, N, P) uint8 and nll (B, N); inputs as for `StreamingGenerator`."""
        n_frames = noise.shape[1]
        n_chunks = (n_frames + _CHUNK - 1) // _CHUNK
        span = torch.arange(n_chunks * _CHUNK, device=noise.device)
        # Frames behind the end, which are cut off again, are free, as for the reader; without noise they are silent.
        noise = nn.functional.pad(noise, (0, 0, 0, _CHUNK)).index_select(1, span)
        given = nn.functional.pad(given, (0, 0, 0, _CHUNK + LOOK_AHEAD))
        given_mode = nn.functional.pad(given_mode, (0, _CHUNK + LOOK_AHEAD))
        repeats = nn.functional.pad(repeats, (0, _CHUNK)).index_select(1, span)
        shown = torch.arange(_CHUNK + LOOK_AHEAD, device=noise.device)

        def step(state: LoopState, inputs: LoopState) -> tuple[LoopState, LoopState]:
            start, repeats, noise = inputs
            here = start + shown
            asked = (meter, style, key, density, n_voices, end, repeats, noise, temperature, top_k, top_p)
            frames, nll, *state = self.chunk(
                given.index_select(1, here), given_mode.index_select(1, here), *asked, *state
            )
            return tuple(state), (frames, nll)

        begin = initial_state(self.chunk.network, given.shape[0])
        starts = torch.arange(n_chunks, device=noise.device) * _CHUNK
        chunks = noise.reshape(noise.shape[0], n_chunks, _CHUNK, MAX_NOTES).transpose(0, 1).contiguous()
        chunk_repeats = repeats.reshape(noise.shape[0], n_chunks, _CHUNK).transpose(0, 1).contiguous()
        _, (frames, nll) = unrolled_or_scan(step, begin, (starts, chunk_repeats, chunks))
        frames = frames.transpose(0, 1).flatten(1, 2)
        return frames[:, :n_frames], nll.transpose(0, 1).flatten(1, 2)[:, :n_frames]


def initial_state(network: MusicTransformer, n_batch: int) -> tuple[Tensor, ...]:
    """Return the state before the first frame: zeros in the shapes of `STATE_NAMES`."""
    layer, copies = network.decoder_layers[0], network.copies
    window, copy_window = layer.bias.shape[1], copies.bias.shape[1]
    return (
        torch.zeros(n_batch, len(network.decoder_layers), 2, layer.n_heads, window, layer.head_width),
        torch.zeros(n_batch, copies.n_heads, copy_window, copies.head_width),
        torch.zeros(n_batch, copy_window, N_PITCHES, dtype=torch.uint8),
        torch.zeros(n_batch, dtype=torch.int64),
        torch.zeros(n_batch, dtype=torch.int64),
    )


def write(
    network: MusicTransformer,
    setting: SegmentInputs,
    noise: Tensor,
    choice: SamplingFilter,
    state: LoopState,
) -> tuple[Tensor, ...]:
    """Write N frames; shapes as in `StreamingGenerator`, the state being its first three."""
    memory, copy_keys, written = state
    n_batch, n_frames = noise.shape[:2]
    plan = network.plan(setting)
    given, mode = setting.given[:, :n_frames], setting.mode[:, :n_frames]
    index = setting.n_before[:, None] + torch.arange(n_frames, device=noise.device)  # (B, N)
    past_notes = multi_hot(written)
    copies = network.copies
    constants = _ChunkConstants(
        choice=choice,
        layers=tuple(
            # Copies: torch's scan forbids that what it sees shares memory.
            KVCache(memory[:, n, 0].clone(), memory[:, n, 1].clone())
            for n in range(memory.shape[1])
        ),
        copies=KVCache(copy_keys, past_notes),
        scale=plan.scale.clone(),
        aside=torch.zeros(n_batch, copies.n_heads, 1, 1),
        begin=(
            torch.zeros(1, dtype=torch.int64, device=noise.device),
            torch.full_like(setting.n_before, BEGIN),
            torch.zeros(n_batch, MAX_NOTES + 1, dtype=torch.int64, device=noise.device),
            torch.zeros(n_batch, MAX_NOTES + 1, device=noise.device),
        ),
    )
    nothing = copies.nothing[:, None, None].expand(n_frames, 1, -1, 1, 1)
    unseen, copies_unseen = (
        _unseen(setting.n_before, window, n_more)
        for window, n_more in ((memory.shape[4], n_frames), (copy_keys.shape[2], n_frames + 1))
    )
    biases = (
        *(step_bias(layer.bias, n_frames, nearest=0) + unseen for layer in network.decoder_layers),
        torch.cat([step_bias(copies.bias, n_frames, nearest=1), nothing], dim=4) + copies_unseen,
    )
    forced, counted, missing = _forced(network, given, mode, setting.n_voices)
    inputs = (
        plan.context,
        *_repeated(setting.repeats[:, :n_frames], past_notes, index, copies.bias.shape[1]),
        plan.next_given,
        network.given_notes(given),
        (mode == GIVEN)[..., None],
        forced,
        counted,
        torch.stack([missing, nn.functional.pad(open_above(noise), (0, 1))], dim=3),
    )

    def step(state: LoopState, inputs: LoopState) -> tuple[LoopState, LoopState]:
        return _write_frame(network, constants, state, inputs)

    begin = (
        past_notes[:, -N_RECENT:].flip(1),
        torch.zeros(n_batch, n_frames, 2 * N_PITCHES),
        torch.zeros(n_batch, copies.n_heads, n_frames, copies.head_width),
        *(
            torch.zeros(n_batch, layer.n_heads, n_frames, layer.head_width)
            for layer in network.decoder_layers
            for _ in ("keys", "values")
        ),
    )
    (_, _, *new), (notes, log_likelihood) = unrolled_or_scan(
        step, begin, [*_by_step(inputs), *(bias.contiguous() for bias in biases)]
    )
    values = grid_values(notes.transpose(0, 1))  # (B, N, P)
    before = torch.cat([written[:, -1:], values[:, :-1]], dim=1)
    # Without onsets, what sounds on from the frame before counts as held on.
    shown = values if network.onsets else torch.where((values > 0) & (before > 0), HELD_VALUE, values)
    new_memory = torch.stack([torch.stack(new[i : i + 2], 1) for i in range(1, len(new), 2)], 1)
    return (
        torch.where((mode == GIVEN)[..., None], given, shown.to(torch.uint8)),
        0.0 - log_likelihood.transpose(0, 1),
        _last(memory.shape[4], memory, new_memory, dim=4),
        _last(copy_keys.shape[2], copy_keys, new[0], dim=2),
        _last(written.shape[1], written, values, dim=1),
        setting.n_before + n_frames,
        plan.past_prompt.amax(1),  # it never falls
    )


def _repeated(repeats: Tensor, past: Tensor, index: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Return what a chunk's frames repeat, as far as it was written before the chunk.

    Args:
        repeats: (B, N) frames back, at most the window; less than 1 if none.
        past: (B, W, 2P) notes of the frames before the chunk, the last one last.
        index: (B, N) of each frame in the piece.
        window: W.

    Returns:
        (B, N, 2P) notes, 0 if none; and (B, N, N) 1 for the frame among those of the chunk so far, of which the last is
        the latest.
    """
    n_frames = repeats.shape[1]
    back = torch.where((repeats > 0) & (repeats <= window) & (repeats <= index), repeats, 0)
    at = torch.arange(n_frames, device=repeats.device)
    place = (window + at - back).clamp(0, window - 1)
    earlier = past.gather(1, place[..., None].expand(-1, -1, past.shape[2]))
    is_earlier = (back > at) & (back > 0)
    is_here = (back > 0) & (back <= at)
    here = (n_frames - back)[..., None] == at
    return earlier * is_earlier[..., None], (here & is_here[..., None]).to(past.dtype)


def _last(n: int, past: Tensor, new: Tensor, *, dim: int) -> Tensor:
    """Return the last n of two concatenated tensors along an axis, as a copy, because loops cannot carry views."""
    return torch.cat([past, new], dim).narrow(dim, new.shape[dim], n).clone()


def grid_values(notes: Tensor) -> Tensor:
    """Convert notes (..., 2P) to uint8 grid values (..., P)."""
    struck, held = notes[..., :N_PITCHES], notes[..., N_PITCHES:]
    return (STRUCK_VALUE * struck + HELD_VALUE * held).to(torch.uint8)


def _unseen(n_before: Tensor, window: int, n_more: int) -> Tensor:
    """Return the terms added to the scores of the window before a chunk and of `n_more` further positions.

    Args:
        n_before: (B,) frames that there are.

    Returns:
        (B, 1, 1, W + n_more), UNSEEN for frames before the piece.
    """
    back = torch.arange(window, 0, -1, device=n_before.device)
    unseen = torch.where(back > n_before[:, None], UNSEEN, 0.0)
    return nn.functional.pad(unseen, (0, n_more))[:, None, None]


def _forced(network: MusicTransformer, given: Tensor, mode: Tensor, n_voices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tokens that are given instead of sampled.

    With two voices or more, a given highest note gets at least one note below it, and at most one note is missing,
    because two voices may meet in one pitch.

    Returns:
        (B, N, S + 1) tokens of what is given, the highest first, _FREE where one is to be chosen, END behind the last
        place; (B, N, S + 1) which tokens' likelihood counts: not that of a highest note that is given, nor of an END
        where notes are left over; and (B, N, S + 1) what is added to the score of an END, _LAST_RESORT where a note is
        missing.
    """
    pitches = torch.arange(N_PITCHES, device=given.device)
    ranked = torch.where(given > 0, pitches, -1).topk(MAX_NOTES, dim=-1).values
    values = given.gather(2, ranked.clamp_min(0)).to(torch.int64)
    is_held = (values == HELD_VALUE) & network.onsets
    tokens = torch.where(ranked < 0, END, ranked + torch.where(is_held, HELD, STRUCK))
    place = torch.arange(MAX_NOTES + 1, device=given.device)
    top_given = (mode == TOP_GIVEN)[..., None] & (place == 0)
    taken = (mode == GIVEN)[..., None] | top_given[..., :MAX_NOTES]
    too_many = (mode == GIVEN) & ((given > 0).sum(-1) > MAX_NOTES)
    counted = ~top_given & ~(too_many[..., None] & (place == MAX_NOTES))
    fewest = torch.where(n_voices > 1, (n_voices.clamp_max(MOST_VOICES) - 1).clamp_min(2), 0)
    missing = (mode == TOP_GIVEN)[..., None] & (ranked[..., :1] >= 0) & (place[:MAX_NOTES] < fewest[:, None, None])
    forced = nn.functional.pad(torch.where(taken, tokens, _FREE), (0, 1), value=END)
    reluctant = torch.where(missing & ~taken, _LAST_RESORT, 0.0)
    return forced, counted.to(torch.float32), nn.functional.pad(reluctant, (0, 1))


@dataclass(frozen=True)
class _ChunkConstants:
    """What is the same for all frames of a chunk.

    Attributes:
        layers: past frames, for each layer.
        copies: past frames, for copy attention.
        scale: (B, C, P) of the notes.
        aside: (B, H, 1, 1) zeros, see `CopyAttention.step`.
        begin: place, token above, tokens, and log-likelihoods before the first note of a frame.
    """

    choice: SamplingFilter
    layers: tuple[KVCache, ...]
    copies: KVCache
    scale: Tensor
    aside: Tensor
    begin: tuple[Tensor, Tensor, Tensor, Tensor]


def _write_frame(
    network: MusicTransformer, chunk: _ChunkConstants, state: LoopState, inputs: LoopState
) -> tuple[LoopState, LoopState]:
    """Generate one frame: the step of the loop."""
    recent, written, copy_keys, *layers = state
    context, earlier, place, next_given, given, is_given, forced, counted, draws, *biases = inputs
    before = recent[:, 0]
    repeated = earlier[:, None] + place[:, None] @ written
    x = network.embed(before, repeated[:, 0], context)
    carried: list[Tensor] = []
    for n, layer in enumerate(network.decoder_layers):
        x, keys, values = layer.step(x, chunk.layers[n], layers[2 * n], layers[2 * n + 1], biases[n])
        carried += [keys, values]
    x = network.norm(x)
    copied, copy_keys = network.copies.step(x, chunk.copies, copy_keys, written, biases[-1], chunk.aside)
    others = torch.cat([recent, copied, next_given[:, None], repeated], dim=1)
    view = network.view(x, before, others, chunk.scale)
    tokens, log_likelihoods = _choose_notes(network, chunk, view, forced, draws)

    struck, held = given.chunk(2, dim=1)
    struck_before, held_before = before.chunk(2, dim=1)
    goes_on = held * (struck_before + held_before)
    as_given = torch.cat([struck + (held - goes_on), goes_on], dim=1)
    notes = torch.where(is_given, as_given, network.notes.notes_of(tokens))
    latest = notes[:, None]
    recent = torch.cat([latest, recent[:, : N_RECENT - 1]], dim=1)
    written = torch.cat([written[:, 1:], latest], dim=1)
    return (recent, written, copy_keys, *carried), (notes, (log_likelihoods * counted).sum(1))


def _choose_notes(
    network: MusicTransformer, chunk: _ChunkConstants, view: FrameView, forced: Tensor, draws: Tensor
) -> tuple[Tensor, Tensor]:
    """Sample the tokens of one frame.

    The loop ends when all frames of the batch have ended, because most have few notes.

    Args:
        forced: (B, S + 1) the given token of each place, or _FREE.
        draws: (B, S + 1, 2) what is added to the score of an END, and the noise to choose by.

    Returns:
        tokens (B, S + 1), the END included, and the log-likelihood (B, S + 1) of each; 0 behind an END.
    """
    level = network.notes
    places = torch.arange(MAX_NOTES + 1, device=draws.device)
    choice = chunk.choice.clone()
    is_end = (torch.arange(N_TOKENS, device=draws.device) == END).to(draws.dtype)
    # What is given as held on from silence is struck.
    forced = torch.where(view.possible.gather(1, forced.clamp_min(0)), forced, forced - N_PITCHES)
    # One table of all that depends on the place, so that a step looks up one row: forced, draws, perfect.
    by_place = torch.cat([forced[..., None].to(draws.dtype), draws, view.perfect], dim=2)  # (B, S + 1, G)
    sizes = [1, 1, 1, view.perfect.shape[2]]
    table = by_place.transpose(0, 1).reshape(MAX_NOTES + 1, -1)

    def goes_on(state: LoopState) -> Tensor:
        return state[1].amax(0) > END  # at the last place END is forced

    def place(state: LoopState) -> LoopState:
        at, above, conditioning, anchor, tokens, log_likelihoods = state
        here = nn.functional.embedding(at, table).reshape(-1, sum(sizes))
        given, reluctance, noise, perfect = torch.split(here, sizes, dim=1)
        scores = level.next_scores(view, above, conditioning, anchor, tokens, perfect)
        chosen = choose(scores + reluctance * is_end, noise, choice)
        token = torch.where(given < 0, chosen, given.to(torch.int64))
        log_likelihood = torch.log_softmax(scores, 1).gather(1, token)
        is_here = places == at
        above = token[:, 0]
        return (
            at + 1,
            above.clone(),
            conditioning + level.written(above),
            level.pitch_of_token.index_select(0, above)[:, None],
            torch.where(is_here, token, tokens),
            torch.where(is_here, log_likelihood, log_likelihoods),
        )

    at, above, tokens, log_likelihoods = chunk.begin
    begin = (at, above, view.context, view.top[:, None], tokens, log_likelihoods)
    *_, tokens, log_likelihoods = unrolled_or_loop(goes_on, place, begin)
    return tokens, log_likelihoods


def _by_step(tensors: LoopState) -> list[Tensor]:
    """Move the time axis to the front: (B, N, ...) each -> (N, B, ...)."""
    return [tensor.transpose(0, 1).contiguous() for tensor in tensors]
