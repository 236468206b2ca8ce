"""Search for items by a description, such as "calm piano for reading" or "sad songs by Queen".

Three scores are added for each item, each at most about 1:

- words: the words of the description that occur in title, artist or tags, weighted by their rarity (BM25F, Robertson et
  al. 2004, doi:10.1145/1031171.1031181). Unknown words are replaced by known words of similar spelling.
- meaning: the tags whose sentence embeddings are closest to that of the description. Items are rated by how often they
  got these tags, and by a low-rank factorisation of items and tags, which knows tags that usually occur together.
- mood: words for one of the nine emotions, by the emotions of the items' recordings.

The embedding of the description comes from the caller. Without it, or without embeddings in the artifact, words and
moods decide.
Shapes: I items, G tags, W different words, D size of a sentence embedding, F factors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.exceptions import InvalidRequestError
from tritone_serving.recommender.moods import MOODS
from tritone_serving.recommender.requests import check_k
from tritone_serving.recommender.rows import Rows, product
from tritone_serving.recommender.track_search import BigramIndex, words_of

Floats = npt.NDArray[np.float32]

# Manifest entry of the network that embedded the tags: {"model", "weights", "wheel_sha256", "licence", "n_features",
# "most_tokens"}. Only `model`, `n_features` and `most_tokens` are read here.
TEXT_ENCODER: Final = "text_encoder"
VOCABULARY: Final = "search.vocabulary"
TAG_NAMES: Final = "search.tags"
TAG_EMBEDDINGS: Final = "search.tag_embeddings"
ITEM_FACTORS: Final = "search.item_factors"
TAG_FACTORS: Final = "search.tag_factors"
BY_TAG: Final = "search.by_tag"

MOST_WORDS: Final = 64  # of a description; the others are ignored
_STOP_WORDS: Final = frozenset(
    {
        "a", "about", "all", "an", "and", "any", "are", "as", "at", "be", "but", "by", "for", "from", "has", "have",
        "hear", "i", "in", "is", "it", "its", "like", "listen", "me", "music", "my", "of", "on", "or", "our",
        "play", "please", "recommend", "something", "song", "songs", "that", "the", "their", "them", "these",
        "this", "those", "to", "track", "tracks", "tune", "tunes", "very", "want", "was", "we", "what", "when",
        "which", "while", "who", "with", "you", "your",
    }
)  # fmt: skip
MOOD_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "amazement": ("amazing", "amazement", "wonder", "awe", "epic", "dazzling"),
    "solemnity": ("solemn", "solemnity", "serious", "spiritual", "sacred", "transcendent", "majestic"),
    "tenderness": ("tender", "tenderness", "romantic", "love", "gentle", "affectionate", "soft", "warm"),
    "nostalgia": ("nostalgic", "nostalgia", "dreamy", "wistful", "melancholic", "sentimental"),
    "calmness": ("calm", "calming", "calmness", "peaceful", "quiet", "relaxing", "relaxed", "serene", "soothing",
                 "sleep", "slow"),
    "power": ("power", "powerful", "strong", "triumphant", "heroic", "energetic", "workout", "loud"),
    "joyful_activation": ("happy", "joyful", "joy", "cheerful", "party", "dance", "fun", "upbeat", "lively", "fast",
                          "bouncy"),
    "tension": ("tense", "tension", "nervous", "angry", "aggressive", "agitated", "restless", "scary", "dark"),
    "sadness": ("sad", "sadness", "sorrow", "sorrowful", "gloomy", "mourning", "depressing", "heartbroken", "crying"),
}  # fmt: skip

_LONG_WORD: Final = 3  # characters of an ASCII word that counts in full
_SHORTEST_MISSPELT: Final = 4  # characters; shorter words have too many neighbours
_LONGEST_MISSPELT: Final = 40
_LEAST_RATIO: Final = 0.74
_N_COMPARED: Final = 60
_N_NEAR: Final = 5
_MOST_JOINED: Final = 3  # adjacent words that may be one in another spelling, such as "hip hop" and "hiphop"
_CLOSEST_TAGS: Final = 30
_LONG_TEXT: Final = 0.6  # weight of a word in a very long title or artist, relative to one that is the whole text
_TEMPERATURE: Final = 0.05  # of the weights of the closest tags
_LEAST_COSINE: Final = 0.3  # to a tag; descriptions further from all tags say nothing about them
_FULL_COSINE: Final = 0.7  # to the closest tag, from which the score of meaning counts fully; below it, in proportion


@dataclass(frozen=True)
class TextRequest:
    """A request for items by a description.

    Attributes:
        text: the description, in any language that titles or tags are in; English works best.
        k: how many items to return, 1 to 10,000.
    """

    text: str
    k: int = 10

    def check(self) -> None:
        """Check the values.

        Raises:
            InvalidRequestError: the text is blank, or `k` is out of range.
        """
        check_k(self.k)
        if not words_of(self.text):
            raise InvalidRequestError("invalid text: expected words to search for, got blanks only")


@dataclass(frozen=True, eq=False)
class TextResponse:
    """What a search by a description found.

    Attributes:
        items: ids, best first.
        scores: (n,) descending; comparable within one response only.
        by_meaning: whether the description's embedding was used.
    """

    items: tuple[str, ...]
    scores: Floats
    by_meaning: bool


@dataclass(frozen=True)
class FusionWeights:
    """Weights of the scores; chosen by `benchmarks.search_text` on validation queries.

    Attributes:
        factors: part of the meaning that comes from the factorisation, 0 to 1.
        popularity: added for the most popular item, which orders items that match equally.
    """

    words: float = 1.0
    meaning: float = 1.4
    mood: float = 0.3
    factors: float = 0.5
    popularity: float = 0.02


class TextSearch:
    """Searches the items of one artifact by descriptions. Safe to use from several threads."""

    def __init__(self, artifact: Artifact, *, weights: FusionWeights | None = None, typos: bool = True) -> None:
        """Build the index.

        Args:
            artifact: the opened artifact.
            weights: weights of the scores.
            typos: whether unknown words are replaced by known words of similar spelling.

        Raises:
            ArtifactError: its texts are damaged.
        """
        self._ids = tuple(artifact.texts("items"))
        self._n_items = len(self._ids)
        self._weights = FusionWeights() if weights is None else weights
        self._popularity = np.asarray(artifact.arrays["popularity.shares"], np.float32)
        self._tags, self._by_tag = _tags_of(artifact)
        fields = [artifact.texts(name) for name in ("titles", "artists") if f"{name}.ends" in artifact.arrays]
        self._words = _WordIndex(fields, self._tags, self._by_tag, self._n_items, typos=typos)
        self._embeddings = artifact.arrays.get(TAG_EMBEDDINGS)
        self._item_factors, self._tag_factors = (artifact.arrays.get(name) for name in (ITEM_FACTORS, TAG_FACTORS))
        self._moods = artifact.arrays.get("items.moods")

    @property
    def knows_meaning(self) -> bool:
        """Whether the artifact holds embeddings of tags, so that a description's embedding can be used."""
        return self._embeddings is not None

    def search(self, request: TextRequest, embedding: Floats | None = None) -> TextResponse:
        """Return the items that fit a description best.

        Args:
            request: the description.
            embedding: (D,) its sentence embedding of norm 1; None if there is none.

        Raises:
            InvalidRequestError: as `TextRequest.check`, or the artifact has neither titles nor tags.
        """
        request.check()
        if not self._words.n_words and not self.knows_meaning:
            raise InvalidRequestError(
                "nothing can be searched: this recommender was trained without titles, artists and tags; train it with "
                "--metadata or --item-tags"
            )
        weights = self._weights
        words = _content_words(request.text)
        scores, named = self._words.scores(words)
        scores *= weights.words
        if embedding is not None and self._embeddings is not None:
            # The more the words match a title or artist, the less the tags count: a name is not close to any tag in
            # meaning.
            scores += weights.meaning * (1 - named) * self._by_meaning(embedding)
        if self._moods is not None and (moods := _moods_in(words)):
            scores += weights.mood * np.clip(self._moods[:, moods].mean(1) / 2, 0, 1)
        found = np.flatnonzero(scores > 0)
        scores[found] += weights.popularity * self._popularity[found]
        if len(found) > request.k:
            found = found[np.argpartition(-scores[found], request.k - 1)[: request.k]]
        order = np.lexsort((found, -scores[found]))
        best = found[order]
        return TextResponse(
            tuple(self._ids[item] for item in best.tolist()),
            scores[best].astype(np.float32),
            embedding is not None and self.knows_meaning,
        )

    def _by_meaning(self, embedding: Floats) -> Floats:
        """Return the scores (I,) of the items by the tags that are closest to an embedding."""
        assert self._embeddings is not None  # noqa: S101 - checked by the caller
        if embedding.shape != self._embeddings.shape[1:]:
            raise ValueError(f"embedding: expected shape {self._embeddings.shape[1:]}, got {embedding.shape}")
        cosines = self._embeddings @ embedding.astype(self._embeddings.dtype)
        n = min(_CLOSEST_TAGS, len(cosines))
        closest = np.sort(np.argpartition(-cosines, n - 1)[:n]) if n else np.zeros(0, np.int64)
        best = float(cosines[closest].max(initial=-1))
        if best < _LEAST_COSINE:
            return np.zeros(self._n_items, np.float32)
        strengths = np.exp((cosines[closest] - best) / _TEMPERATURE).astype(np.float32)
        tagged = _unit(product(Rows.from_lists([closest], [strengths]), self._by_tag, self._n_items)[0])
        if self._item_factors is not None and self._tag_factors is not None:
            smooth = _unit(self._item_factors @ (strengths @ self._tag_factors[closest]))
            tagged = (1 - self._weights.factors) * tagged + self._weights.factors * smooth
        return np.asarray(tagged * min(1.0, best / _FULL_COSINE), np.float32)


def _unit(scores: Floats) -> Floats:
    """Return scores with a maximum of 1 and without negative values."""
    scores = np.maximum(scores, 0)
    return np.asarray(scores / max(float(scores.max(initial=0)), 1e-9), np.float32)


def _content_words(text: str) -> list[str]:
    """Return the words of a description without stop words, unless it has no others."""
    words = words_of(text)[:MOST_WORDS]
    return [word for word in words if word not in _STOP_WORDS] or words


def _moods_in(words: Iterable[str]) -> list[int]:
    """Return the indices in `MOODS` of the emotions that words name."""
    given = set(words)
    return [index for index, mood in enumerate(MOODS) if not given.isdisjoint(MOOD_WORDS[mood])]


def _tags_of(artifact: Artifact) -> tuple[list[str], Rows]:
    """Return the names of the tags and the table (G, I) of how strongly each item has them."""
    if f"{BY_TAG}.starts" in artifact.arrays:
        return artifact.texts(TAG_NAMES), artifact.rows(BY_TAG)
    if "tags.by_tag.starts" in artifact.arrays:  # an artifact of an earlier version
        return [tag_text(name) for name in artifact.texts("tags")], artifact.rows("tags.by_tag")
    return [], Rows(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def tag_text(name: str) -> str:
    """Return the words of a tag; the value without the column for a value of the metadata, such as "genre: reel"."""
    column, separator, value = name.partition(": ")
    return value if separator and value and " " not in column else name


class _WordIndex:
    """Finds items by words of titles, artists and tags."""

    def __init__(
        self, fields: Sequence[Sequence[str]], tags: Sequence[str], by_tag: Rows, n_items: int, *, typos: bool
    ) -> None:
        self._n_items = n_items
        self._typos = typos
        self._by_tag = by_tag
        self._indices: dict[str, int] = {}
        known: dict[str, list[int]] = {}  # many items share an artist
        names = [[self._add(text, known) for text in field] for field in fields]
        tag_words = [self._add(text, known) for text in tags]
        joined = [self._join(text, known) for text in tags]
        n_words = len(self._indices)
        self._fields = [_postings(words, n_words) for words in names]
        self._lengths = [np.array([max(len(each), 1) for each in words], np.float32) for words in names]
        # A word of a tag stands for the part of the tag that it makes up; all words joined stand for the whole tag.
        self._in_tags = _postings(
            [[*set(words), *whole] for words, whole in zip(tag_words, joined, strict=True)],
            n_words,
            [[1 / len(set(words))] * len(set(words)) + [1.0] * len(whole)
             for words, whole in zip(tag_words, joined, strict=True)],
        )  # fmt: skip
        counts = sum(
            (np.diff(each.indptr) for each in (*self._fields, self._in_tags)), start=np.zeros(n_words, np.int64)
        )
        n_texts = n_items * max(len(fields), 1) + len(tags)
        self._rarity = np.log(1 + n_texts / np.maximum(counts, 1)).astype(np.float32)
        self._unknown = float(np.log(1 + n_texts))
        self._spellings = list(self._indices)
        self._bigrams = BigramIndex(self._spellings)

    @property
    def n_words(self) -> int:
        """Number of different words."""
        return len(self._indices)

    def scores(self, words: Sequence[str]) -> tuple[Floats, float]:
        """Return the scores of the items (I,), and how likely the words are a title or an artist, 0 to 1.

        The score of an item is the part of the words, by rarity, that it has, and more if they name it as a whole.
        """
        total = np.zeros(self._n_items, np.float32)
        if not self._indices:
            return total, 0.0
        names = [np.zeros(self._n_items, np.float32) for _ in self._fields]  # parts of each field that are named
        rarity_of_all = 0.0
        for word, terms in zip(words, self._terms(words), strict=True):
            rarity = max((float(self._rarity[index]) for index, _ in terms), default=self._unknown)
            if word.isascii():  # initials are rare as words, but say little
                rarity *= min(1.0, len(word) / _LONG_WORD)
            rarity_of_all += rarity
            best = self._tagged(terms)
            for field, lengths, named in zip(self._fields, self._lengths, names, strict=True):
                for index, weight in terms:
                    items = field.indices[field.indptr[index] : field.indptr[index + 1]]
                    best[items] = np.maximum(best[items], weight * _length_norm(lengths[items]))
                    named[items] += weight / lengths[items]
            total += np.float32(rarity) * best
        total /= np.float32(max(rarity_of_all, 1e-9))
        # A title or artist that the words name as a whole comes before those of which they name a part.
        whole = np.max([np.minimum(named, 1) ** 2 * total for named in names] or [np.zeros(1, np.float32)], axis=0)
        return total + np.float32(0.5) * whole, min(1.0, float(whole.max()))

    def _tagged(self, terms: Sequence[tuple[int, float]]) -> Floats:
        """Return how strongly each item (I,) has tags with one of the terms, 0 to 1."""
        tags: dict[int, float] = {}
        for index, weight in terms:
            span = slice(self._in_tags.indptr[index], self._in_tags.indptr[index + 1])
            parts = self._in_tags.data[span]
            for tag, part in zip(self._in_tags.indices[span].tolist(), parts.tolist(), strict=True):
                tags[tag] = max(tags.get(tag, 0.0), weight * part)
        if not tags:
            return np.zeros(self._n_items, np.float32)
        chosen = np.array(sorted(tags), np.int64)
        strengths = np.array([tags[tag] for tag in chosen.tolist()], np.float32)
        found = product(Rows.from_lists([chosen], [strengths]), self._by_tag, self._n_items)[0]
        return np.asarray(found / (found + np.float32(1)), np.float32)

    def _terms(self, words: Sequence[str]) -> list[list[tuple[int, float]]]:
        """Return for each word the indices of the known words that it stands for, with weights up to 1."""
        terms = [self._spelt(word) for word in words]
        for n in range(2, _MOST_JOINED + 1):
            for start in range(len(words) - n + 1):
                index = self._indices.get("".join(words[start : start + n]))
                if index is not None:
                    for each in terms[start : start + n]:
                        each.append((index, 1.0))
        return terms

    def _spelt(self, word: str) -> list[tuple[int, float]]:
        index = self._indices.get(word)
        if index is not None:
            return [(index, 1.0)]
        if not self._typos or not _SHORTEST_MISSPELT <= len(word) <= _LONGEST_MISSPELT:
            return []
        matcher = SequenceMatcher(autojunk=False)
        matcher.set_seq2(word)
        rated: list[tuple[float, int]] = []
        for other in self._bigrams.most_shared(word, _N_COMPARED):
            matcher.set_seq1(self._spellings[other][: 2 * _LONGEST_MISSPELT])
            if matcher.real_quick_ratio() >= _LEAST_RATIO and (ratio := matcher.ratio()) >= _LEAST_RATIO:
                rated.append((ratio, other))
        best = sorted(rated, key=lambda each: (-each[0], each[1]))[:_N_NEAR]
        return [(other, ratio**2 * (ratio / best[0][0]) ** 4) for ratio, other in best]

    def _add(self, text: str, known: dict[str, list[int]]) -> list[int]:
        """Return the indices of a text's words, which become known."""
        if text not in known:
            known[text] = [self._indices.setdefault(word, len(self._indices)) for word in words_of(text)]
        return known[text]

    def _join(self, text: str, known: Mapping[str, list[int]]) -> list[int]:
        """Return the index of a tag's words joined, such as "hiphop" for "hip-hop"; nothing for a single word."""
        if not 1 < len(known[text]) <= _MOST_JOINED:
            return []
        return [self._indices.setdefault("".join(words_of(text)), len(self._indices))]


def _length_norm(lengths: Floats) -> Floats:
    """Return the weight of a word in texts of these numbers of words: 1 for a single word, less in longer texts."""
    return np.asarray(_LONG_TEXT + (1 - _LONG_TEXT) / lengths, np.float32)


def _postings(
    words: Sequence[Sequence[int]], n_words: int, values: Sequence[Sequence[float]] | None = None
) -> sparse.csr_matrix:
    """Return the table (n_words, texts) of the words of each text; each entry is the largest of a word's values."""
    lengths = [len(each) for each in words]
    rows = np.array([word for each in words for word in each], np.int64)
    columns = np.repeat(np.arange(len(words)), lengths)
    data = np.ones(len(rows)) if values is None else np.array([value for each in values for value in each])
    order = np.lexsort((-data, columns, rows))
    rows, columns, data = rows[order], columns[order], data[order]
    first = np.ones(len(rows), np.bool_)
    first[1:] = (np.diff(rows) != 0) | (np.diff(columns) != 0)
    table: Any = sparse.csr_matrix(
        (data[first].astype(np.float32), (rows[first], columns[first])), shape=(n_words, len(words))
    )
    return table
