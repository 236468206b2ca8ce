"""An index of the words of titles, artists and tags, which rates items by the words of a description.

Shapes: I items, G tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender.rows import Rows, product
from tritone_serving.recommender.text_keys import BigramIndex, words_of
from tritone_serving.recommender.texts import TextIndex, Texts, build_hash_table

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

_LONG_WORD: Final = 3  # characters of an ASCII word that counts in full
_SHORTEST_MISSPELT: Final = 4  # characters; shorter words have too many neighbours
_LONGEST_MISSPELT: Final = 40
_LEAST_RATIO: Final = 0.74
_N_COMPARED: Final = 60
_N_NEAR: Final = 5
_LONG_TEXT: Final = 0.6  # weight of a word in a very long title or artist, relative to one that is the whole text
_MOST_JOINED: Final = 3  # adjacent words that may be one in another spelling, such as "hip hop" and "hiphop"


def word_arrays(fields: Sequence[Sequence[str]], tags: Sequence[str], n_items: int) -> dict[str, Array]:
    """Return the arrays of a `WordIndex`, which takes seconds for 100,000 items.

    Args:
        fields: texts (I,) of each field, such as titles.
        tags: (G,) names of the tags.
        n_items: I.
    """
    indices: dict[str, int] = {}
    known: dict[str, list[int]] = {}  # many items share an artist

    def add(text: str) -> list[int]:
        """Return the indices of a text's words, which become known."""
        if text not in known:
            known[text] = [indices.setdefault(word, len(indices)) for word in words_of(text)]
        return known[text]

    def join(text: str) -> list[int]:
        """Return the index of a tag's words joined, such as "hiphop" for "hip-hop"; nothing for a single word."""
        if not 1 < len(known[text]) <= _MOST_JOINED:
            return []
        return [indices.setdefault("".join(words_of(text)), len(indices))]

    names = [[add(text) for text in field] for field in fields]
    tag_words = [add(text) for text in tags]
    joined = [join(text) for text in tags]
    n_words = len(indices)
    tables = [_postings(words, n_words) for words in names]
    # A word of a tag stands for the part of the tag that it makes up; all words joined stand for the whole tag.
    in_tags = _postings(
        [[*set(words), *whole] for words, whole in zip(tag_words, joined, strict=True)],
        n_words,
        [[1 / len(set(words))] * len(set(words)) + [1.0] * len(whole)
         for words, whole in zip(tag_words, joined, strict=True)],
    )  # fmt: skip
    counts = sum((np.diff(each.indptr) for each in (*tables, in_tags)), start=np.zeros(n_words, np.int64))
    bigrams = BigramIndex.of(list(indices))
    encoded = [word.encode("utf-8") for word in indices]
    arrays = {
        "spellings": np.frombuffer(b"".join(encoded), np.uint8),
        "spelling_ends": np.cumsum([len(word) for word in encoded], dtype=np.int64),
        "slots": build_hash_table(list(indices)),
        "rarity": np.log(1 + _n_texts(len(fields), n_items, len(tags)) / np.maximum(counts, 1)).astype(np.float32),
        "bigrams": bigrams.entries,
        "bigram_starts": bigrams.starts,
        "n_bigrams": bigrams.lengths,
        "tag_starts": in_tags.indptr.astype(np.int64),
        "tags": in_tags.indices.astype(np.int32),
        "tag_parts": in_tags.data,
    }
    for number, (table, words) in enumerate(zip(tables, names, strict=True)):
        arrays[f"{number}.starts"] = table.indptr.astype(np.int64)
        arrays[f"{number}.items"] = table.indices.astype(np.int32)
        arrays[f"{number}.n_words"] = np.array([max(len(each), 1) for each in words], np.float32)
    return arrays


def _n_texts(n_fields: int, n_items: int, n_tags: int) -> int:
    return n_items * max(n_fields, 1) + n_tags


class WordIndex:
    """Finds items by words of titles, artists and tags."""

    def __init__(
        self, n_fields: int, n_tags: int, by_tag: Rows, n_items: int, arrays: Mapping[str, Array], *, typos: bool
    ) -> None:
        """Read the index.

        Args:
            n_fields: number of fields.
            n_tags: G.
            by_tag: (G, I) sparse, how strongly each item has each tag.
            n_items: I.
            arrays: the index, as returned by `word_arrays`.
            typos: whether unknown words are replaced by known words of similar spelling.
        """
        self._n_items = n_items
        self._typos = typos
        self._by_tag = by_tag
        self._spellings = Texts(arrays["spellings"], arrays["spelling_ends"])
        self._indices = TextIndex(arrays["spellings"], arrays["spelling_ends"], arrays["slots"])
        self._fields = [(arrays[f"{field}.starts"], arrays[f"{field}.items"]) for field in range(n_fields)]
        self._lengths = [arrays[f"{field}.n_words"] for field in range(n_fields)]
        self._in_tags = Rows(arrays["tag_starts"], arrays["tags"], arrays["tag_parts"])
        self._rarity = arrays["rarity"]
        self._unknown = float(np.log(1 + _n_texts(n_fields, n_items, n_tags)))
        self._bigrams = BigramIndex(arrays["bigrams"], arrays["bigram_starts"], arrays["n_bigrams"])

    @property
    def n_words(self) -> int:
        """Number of different words."""
        return len(self._spellings)

    def scores(self, words: Sequence[str]) -> tuple[Floats, float]:
        """Return the scores of the items (I,), and how likely the words are a title or an artist, 0 to 1.

        The score of an item is the part of the words, by rarity, that it has, and more if they name it as a whole.
        """
        total = np.zeros(self._n_items, np.float32)
        if not self.n_words:
            return total, 0.0
        names = [np.zeros(self._n_items, np.float32) for _ in self._fields]  # parts of each field that are named
        rarity_of_all = 0.0
        for word, terms in zip(words, self._terms(words), strict=True):
            rarity = max((float(self._rarity[index]) for index, _ in terms), default=self._unknown)
            if word.isascii():  # initials are rare as words, but say little
                rarity *= min(1.0, len(word) / _LONG_WORD)
            rarity_of_all += rarity
            best = self._tagged(terms)
            for (starts, entries), lengths, named in zip(self._fields, self._lengths, names, strict=True):
                for index, weight in terms:
                    items = entries[starts[index] : starts[index + 1]]
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
            found, parts = self._in_tags.row(index)
            for tag, part in zip(found.tolist(), parts.tolist(), strict=True):
                tags[tag] = max(tags.get(tag, 0.0), weight * part)
        if not tags:
            return np.zeros(self._n_items, np.float32)
        chosen = np.array(sorted(tags), np.int64)
        strengths = np.array([tags[tag] for tag in chosen.tolist()], np.float32)
        tagged = product(Rows.from_lists([chosen], [strengths]), self._by_tag, self._n_items)[0]
        return np.asarray(tagged / (tagged + np.float32(1)), np.float32)

    def _terms(self, words: Sequence[str]) -> list[list[tuple[int, float]]]:
        """Return for each word the indices of the known words that it stands for, with weights up to 1."""
        terms = [self._spelt(word) for word in words]
        for n in range(2, _MOST_JOINED + 1):
            for start in range(len(words) - n + 1):
                index = self._indices.find("".join(words[start : start + n]))
                if index is not None:
                    for each in terms[start : start + n]:
                        each.append((index, 1.0))
        return terms

    def _spelt(self, word: str) -> list[tuple[int, float]]:
        index = self._indices.find(word)
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
