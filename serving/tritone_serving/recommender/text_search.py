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
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.exceptions import InvalidRequestError
from tritone_serving.recommender.moods import MOODS
from tritone_serving.recommender.requests import check_k
from tritone_serving.recommender.rows import Rows, product
from tritone_serving.recommender.text_keys import words_of
from tritone_serving.recommender.texts import Texts
from tritone_serving.recommender.word_index import WordIndex, word_arrays

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

_CLOSEST_TAGS: Final = 30
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
        self._ids = artifact.texts("items")
        self._n_items = len(self._ids)
        self._weights = FusionWeights() if weights is None else weights
        self._popularity = np.asarray(artifact.arrays["popularity.shares"], np.float32)
        tags, self._by_tag = _tags_of(artifact)
        arrays = artifact.derive("words", words_of_artifact)
        self._words = WordIndex(len(_fields_of(artifact)), len(tags), self._by_tag, self._n_items, arrays, typos=typos)
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


def words_of_artifact(artifact: Artifact) -> dict[str, npt.NDArray[Any]]:
    """Return the index of the words of an artifact's titles, artists and tags, see `word_arrays`."""
    return word_arrays(_fields_of(artifact), _tags_of(artifact)[0], artifact.n_items)


def _fields_of(artifact: Artifact) -> list[Texts]:
    return [artifact.texts(name) for name in ("titles", "artists") if f"{name}.ends" in artifact.arrays]


def _tags_of(artifact: Artifact) -> tuple[Sequence[str], Rows]:
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
