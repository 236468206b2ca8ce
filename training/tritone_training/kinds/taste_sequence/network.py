"""The network of `taste_sequence`: ordered histories to embeddings of norm 1, and scores of the next item.

A history embedding is the sum of two parts. The first holds means of the history's item vectors: each slice of the
vectors weighs events by their distance with a decay of its own, so that both long-term taste and the last item count.
The second is a causal Transformer (as in SASRec, Kang & McAuley 2018, arXiv:1808.09781) whose attention is biased by
distance (as in ALiBi, Press et al. 2022, arXiv:2108.12409). As in `taste_vae`, the logit of an item is the cosine
similarity of its vector to the embedding, divided by a temperature, which generalises much better on sparse logs than
dense layers. Times enter as the gap to the next event: a learned vector for each range of gaps, and learned forgetting,
which adds to the distance of what was before a gap. A skipped item has a learned vector and a learned weight in the
means.

Shapes: B histories, L events, Q queried positions (L in training, 1 when served), T items, D size, H decays or heads,
W words (tags) of items, G ranges of gaps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

_INITIAL_STD: Final = 0.1
_INITIAL_ATTENTION: Final = 0.3  # norm of the Transformer's part of a history embedding
_INITIAL_DECAY: Final = 0.5  # if there is one decay
_INITIAL_SKIP_WEIGHT: Final = -0.2  # of a skipped item in the means, of which a listened one has 1
_INITIAL_FORGETTING: Final = 0.02  # the sum of forgetting is cut at 0, where it has no gradient
_MASKED: Final = -1e4
# Upper ends of the ranges of gaps: minutes within a session, hours within a day, days, weeks.
GAP_ENDS_S: Final = (60.0, 300.0, 900.0, 3_600.0, 4 * 3_600.0, 12 * 3_600.0, 86_400.0, 3 * 86_400.0, 7 * 86_400.0,
                     30 * 86_400.0, 365 * 86_400.0)  # fmt: skip


class EncoderInput(NamedTuple):
    """Histories as the encoder reads them.

    Attributes:
        vectors: (B, L, D) of the items.
        weights: (B, L) of the items in the means.
        known: (B, L) bool, False for padding.
        gaps: (B, L) int64 range of the time to the next event, 0 if unknown.
        skipped: (B, L), 0 to 1.
    """

    vectors: Tensor
    weights: Tensor
    known: Tensor
    gaps: Tensor
    skipped: Tensor


class Relation(NamedTuple):
    """How far events lie behind queried positions, and which of them these may use.

    Attributes:
        position: (B, L) index of each event among those known; padding has that of the event before it.
        passed: (B, L) forgetting up to each event.
        known: (B, L) bool.
        distances: (B, Q, L) logarithm of 1 + number of events, plus the forgetting in between.
        allowed: (B, Q, L) bool, False for padding and later events.
    """

    position: Tensor
    passed: Tensor
    known: Tensor
    distances: Tensor
    allowed: Tensor

    @classmethod
    def between(cls, position: Tensor, passed: Tensor, known: Tensor, queries: Tensor | None = None) -> Relation:
        """Return the relation of all events to the positions of `queries` (B, Q), or to all positions."""
        queried_position = position if queries is None else position.gather(1, queries)
        queried_passed = passed if queries is None else passed.gather(1, queries)
        steps = queried_position.unsqueeze(2) - position.unsqueeze(1)
        distances = torch.log1p(steps.clamp_min(0).float())
        distances = distances + (queried_passed.unsqueeze(2) - passed.unsqueeze(1)).relu()
        return cls(position, passed, known, distances, (steps >= 0) & known.unsqueeze(1))

    def of_queries(self, queries: Tensor) -> Relation:
        """Return the relation to the positions of `queries` (B, Q) only."""
        return self.between(self.position, self.passed, self.known, queries)


def gap_ranges(gaps_s: Tensor) -> Tensor:
    """Return the index of the range of each gap in seconds, 0 for negative (unknown) ones; int64 of the same shape."""
    ends = torch.tensor(GAP_ENDS_S, device=gaps_s.device)
    index = (1 + (gaps_s.unsqueeze(-1) > ends).sum(-1)).clamp_max(len(GAP_ENDS_S))  # longer gaps: the last range
    return torch.where(gaps_s >= 0, index, torch.zeros_like(index))


class CausalLayer(nn.Module):
    """A Transformer layer (normalised first) whose attention is biased by distance."""

    def __init__(self, size: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.norm_attention, self.norm_mlp = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query, self.key_value = nn.Linear(size, size), nn.Linear(size, 2 * size)
        self.output = nn.Linear(size, size)
        self.expand, self.contract = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
        self.slopes = nn.Parameter(torch.linspace(0, 1.5, n_heads))
        for last in (self.output, self.contract):
            nn.init.zeros_(last.bias)
            last.weight.data.mul_(0.1)

    def forward(self, states: Tensor, queried: Tensor, relation: Relation) -> Tensor:
        """Return new states (B, Q, D) of the positions whose states are `queried`, from those of all (B, L, D)."""
        n, n_queries, size = queried.shape

        def heads(tensor: Tensor) -> Tensor:
            return tensor.reshape(n, -1, self.n_heads, size // self.n_heads).transpose(1, 2)

        key, value = self.key_value(self.norm_attention(states)).chunk(2, dim=-1)
        query = heads(self.query(self.norm_attention(queried)))
        similarity = query @ heads(key).transpose(-1, -2) / math.sqrt(size // self.n_heads)  # (B, H, Q, L)
        bias = torch.where(relation.allowed, 0.0, _MASKED).unsqueeze(1)
        bias = bias - self.slopes.view(1, -1, 1, 1) * relation.distances.unsqueeze(1)
        # A position may have no event that it may use; its softmax is then of no meaning.
        attended = ((similarity + bias).softmax(-1) * relation.allowed.unsqueeze(1)) @ heads(value)
        attended = self.output(attended.transpose(1, 2).reshape(n, n_queries, size))
        queried = queried + functional.dropout(attended, self.dropout, self.training)
        widened = functional.gelu(self.expand(self.norm_mlp(queried)))
        return queried + functional.dropout(self.contract(widened), self.dropout, self.training)


class HistoryEncoder(nn.Module):
    """Encodes histories; no embedding depends on later events."""

    def __init__(
        self,
        *,
        size: int,
        n_decays: int,
        initial_decay: float,
        n_layers: int,
        n_heads: int,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_decays = n_decays
        self.input_dropout = input_dropout
        spread = torch.linspace(0, 1, n_decays) ** 2 * initial_decay
        self.decays = nn.Parameter(spread if n_decays > 1 else torch.full((1,), _INITIAL_DECAY))
        self.forgetting = nn.Parameter(
            torch.full((1 + len(GAP_ENDS_S),), _INITIAL_FORGETTING)
        )  # added to distances, by range of gaps
        self.skip_weight = nn.Parameter(torch.tensor(_INITIAL_SKIP_WEIGHT))
        self.gap_vectors = nn.Parameter(torch.zeros(1 + len(GAP_ENDS_S), size))
        self.skip_vector = nn.Parameter(torch.zeros(size))
        self.layers = nn.ModuleList(CausalLayer(size, n_heads, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(size)
        self.attention_weight = nn.Parameter(torch.tensor(_INITIAL_ATTENTION))

    def forward(self, history: EncoderInput, *, last_only: bool = False) -> Tensor:
        """Return embeddings of norm 1 after each event (B, L, D), or after the last one (B, 1, D); 0 for no history."""
        relation = self._relation(history)
        # Equal positions are those of the last event and of the padding behind it; argmax returns the first.
        last = relation.position.argmax(1, keepdim=True) if last_only else None
        queried = relation if last is None else relation.of_queries(last)
        embedding = self._means(history, queried)
        if len(self.layers):
            attended = self._attended(history, relation, queried, last)
            embedding = functional.normalize(embedding + self.attention_weight * attended, dim=-1)
        return embedding * history.known.any(1).view(-1, 1, 1)

    def _relation(self, history: EncoderInput) -> Relation:
        forgotten = self.forgetting[history.gaps] * ((history.gaps > 0) & history.known)
        return Relation.between(history.known.long().cumsum(1) - 1, forgotten.cumsum(1) - forgotten, history.known)

    def _means(self, history: EncoderInput, queried: Relation) -> Tensor:
        """Return the weighted means of the item vectors with each decay, joined and normalised (B, Q, D)."""
        n, n_events, size = history.vectors.shape
        weights = history.weights * (1 + (self.skip_weight - 1) * history.skipped)
        slices = (history.vectors * weights.unsqueeze(2)).reshape(n, n_events, self.n_decays, -1).transpose(1, 2)
        kernel = torch.exp(-self.decays.view(1, -1, 1, 1) * queried.distances.unsqueeze(1))
        means = (kernel * queried.allowed.unsqueeze(1)) @ slices  # (B, H, Q, D / H)
        return functional.normalize(means.transpose(1, 2).reshape(n, -1, size), dim=-1)

    def _attended(self, history: EncoderInput, relation: Relation, queried: Relation, last: Tensor | None) -> Tensor:
        """Return the states of the queried positions after all layers, of norm 1 (B, Q, D)."""
        size = history.vectors.shape[2]
        states = functional.normalize(history.vectors, dim=-1) * (0.5 * math.sqrt(size))
        states = states + self.gap_vectors[history.gaps] * (history.gaps > 0).unsqueeze(2)
        states = states + history.skipped.unsqueeze(2) * self.skip_vector
        states = functional.dropout(states, self.input_dropout, self.training)
        *inner, final = self.layers
        for layer in inner:
            states = layer(states, states, relation)
        queried_position = states if last is None else states.gather(1, last.unsqueeze(2).expand(-1, -1, size))
        return functional.normalize(self.norm(final(states, queried_position, queried)), dim=-1)


class HistoryScorer(nn.Module):
    """One member of the served network: item vectors and an encoder."""

    def __init__(self, *, n_items: int, encoder: HistoryEncoder, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_items, size)
        self.item_weights = nn.Parameter(torch.ones(n_items))
        self.output_vectors = nn.Parameter(torch.zeros(n_items, size))
        self.encoder = encoder

    def forward(self, items: Tensor, known: Tensor, gaps: Tensor, skipped: Tensor) -> Tensor:
        """Return scores (B, T) after the last event of histories with ranges of gaps (B, L)."""
        index = items.clamp_min(0)
        history = EncoderInput(self.embedding(index), self.item_weights[index], known, gaps, skipped)
        embedding: Tensor = self.encoder(history, last_only=True).squeeze(1)
        return embedding @ self.output_vectors.T


class SequenceNetwork(nn.Module):
    """Maps a history to scores of the next item, the mean of its members'; this is what is saved and served."""

    def __init__(self, members: Sequence[HistoryScorer], n_items: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.log_popularity = nn.Parameter(torch.zeros(n_items))

    def forward(self, items: Tensor, ages: Tensor, skipped: Tensor) -> tuple[Tensor]:
        """Return log-probabilities of the next item (B, T), up to a constant per row.

        Args:
            items: (B, L) int64, oldest first, -1 for padding on either side.
            ages: (B, L) seconds from each event to the request, -1 if unknown.
            skipped: (B, L), 1 for skipped items.
        """
        known = items >= 0
        gaps, skips = gap_ranges(gaps_of(ages, known)), skipped * known
        scores = torch.stack([member(items, known, gaps, skips) for member in self.members]).mean(0)
        return (torch.where(known.any(1, keepdim=True), scores, self.log_popularity),)


def gaps_of(ages: Tensor, known: Tensor) -> Tensor:
    """Return the seconds from each event to the next one, or to the request (B, L); -1 if unknown."""
    next_age = functional.pad(ages[:, 1:], (0, 1))
    next_known = functional.pad(known[:, 1:].long(), (0, 1)) > 0
    next_age = torch.where(next_known, next_age, torch.zeros_like(ages))
    return torch.where((ages >= 0) & (next_age >= 0), (ages - next_age).clamp_min(0), torch.full_like(ages, -1.0))


class EnsembleMember(nn.Module):
    """A trainable member; the vector of an item is its own embedding plus those of its words.

    Args:
        listeners: (T,) number of listeners of each item; an item without listeners has the vector of its words.
        words: (T, W) weight of each word of each item, see `words_matrix`.
        encoder: its embeddings have size D.
        popularity_exponent: an item's weight in a history is divided by listeners ** popularity_exponent.
        temperature: divisor of the cosine similarities.
    """

    def __init__(
        self,
        listeners: Tensor,
        words: sparse.csr_matrix,
        *,
        encoder: HistoryEncoder,
        size: int,
        popularity_exponent: float,
        temperature: float,
    ) -> None:
        super().__init__()
        n_items, n_words = words.shape
        self.temperature = temperature
        self.encoder = encoder
        self.items = nn.Parameter(torch.randn(n_items, size) * _INITIAL_STD)
        self.output_offsets = nn.Parameter(
            torch.zeros(n_items, size)
        )  # difference between vectors as targets and as inputs
        self.words = nn.Parameter(torch.randn(max(n_words, 1), size) * _INITIAL_STD)
        self.register_buffer("is_learned", (listeners > 0).float().unsqueeze(1), persistent=False)
        self.register_buffer("item_weights", listeners.clamp_min(1).float() ** -popularity_exponent, persistent=False)
        for name, array in (("word", words.indices), ("starts", words.indptr)):
            self.register_buffer(name, torch.from_numpy(array.astype(np.int64)), persistent=False)
        self.register_buffer("amounts", torch.from_numpy(words.data.astype(np.float32)), persistent=False)

    def vectors(self, dropped: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the vectors of all items as inputs, and as targets of norm 1 or 0 (T, D).

        Args:
            dropped: fraction of items that are represented by their words alone, among those that have words.
        """
        own = self.get_buffer("is_learned")
        if not len(self.get_buffer("word")):
            vectors = self.items * own
            return vectors, functional.normalize(vectors + self.output_offsets * own, dim=1)
        starts = self.get_buffer("starts")
        side_info = functional.embedding_bag(
            self.get_buffer("word"),
            self.words,
            starts,
            mode="sum",
            per_sample_weights=self.get_buffer("amounts"),
            include_last_offset=True,
        )
        if dropped:
            has_words = (starts.diff() > 0).unsqueeze(1)
            own = own * ~((torch.rand_like(own) < dropped) & has_words)
        vectors = self.items * own + side_info
        return vectors, functional.normalize(vectors + self.output_offsets * own, dim=1)

    def history(self, vectors: Tensor, items: Tensor, gaps: Tensor, skipped: Tensor, known: Tensor) -> EncoderInput:
        """Return histories of items (B, L) with gaps in seconds; `known` is False for padding and hidden events."""
        index = items.clamp_min(0)
        weights = self.get_buffer("item_weights")[index]
        return EncoderInput(functional.embedding(index, vectors), weights, known, gap_ranges(gaps), skipped)

    @torch.no_grad()
    def scorer(self) -> HistoryScorer:
        """Return the member to serve; its item vectors are folded, its encoder is shared with this one."""
        vectors, output_vectors = self.vectors()
        scorer = HistoryScorer(n_items=len(vectors), encoder=self.encoder, size=vectors.shape[1])
        scorer.embedding.weight.copy_(vectors)
        scorer.item_weights.copy_(self.get_buffer("item_weights"))
        scorer.output_vectors.copy_(output_vectors / self.temperature)
        return scorer


class SequenceLearner(nn.Module):
    """The trainable model: members of the same form, trained on the same batches.

    They differ in their initial weights and in what is hidden from them. The mean of their scores is better than those
    of each, because small logs leave much of a network to chance.

    Args:
        members: at least one.
        listeners: (T,) number of listeners of each item.
    """

    def __init__(self, members: Sequence[EnsembleMember], listeners: Tensor) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("log_popularity", torch.log1p(listeners.float()), persistent=False)

    @property
    def typed_members(self) -> list[EnsembleMember]:
        """The members, with their type."""
        return [member for member in self.members if isinstance(member, EnsembleMember)]

    @torch.no_grad()
    def network(self) -> SequenceNetwork:
        """Return the network to serve."""
        popularity = self.get_buffer("log_popularity")
        network = SequenceNetwork([member.scorer() for member in self.typed_members], len(popularity))
        network.log_popularity.copy_(popularity)
        return network


def next_item_loss(
    positive: Tensor, negatives: Tensor, skipped: Tensor, has_target: Tensor, skip_loss: float
) -> Tensor:
    """Return the mean over positions of the sampled softmax loss, plus the loss of skipped items.

    The negatives have been corrected by the logarithm of their expected counts (logQ), so that their sum estimates the
    sum over the catalogue. A skipped item's probability is lowered by -log(1 - p) (unlikelihood, Welleck et al. 2020).

    Args:
        positive: (P,) logit of the next item.
        negatives: (P, N) corrected logits, -inf for items that are no negatives there.
        skipped: (P,) logit of the item that is skipped next, -inf where none is.
        has_target: (P,) bool, False where only a skipped item follows.
        skip_loss: weight of the second loss.
    """
    others = torch.logsumexp(negatives, 1)
    predicted = (torch.logaddexp(others, positive) - positive) * has_target
    avoided = functional.softplus(skipped - others)  # 0 at -inf
    return (predicted.sum() + skip_loss * avoided.sum()) / has_target.sum().clamp_min(1)
