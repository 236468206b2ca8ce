"""Keys by which texts are compared, and an index of the keys that are spelt alike.

Keys are without case, accents, blanks, punctuation and Unicode form. Signs that distinguish words in a script stay,
such as the vowel signs of Devanagari and the voicing marks of Japanese.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.ids import normalize_id

Array = npt.NDArray[Any]

# Latin letters that Unicode does not decompose.
_LETTERS: Final = {"ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ħ": "h", "\u0131": "i"}
# Accents of Latin, Greek and Cyrillic; points of Hebrew; vowel marks of Arabic, which are usually not written.
_ACCENTS: Final = ((0x300, 0x36F), (0x483, 0x487), (0x591, 0x5C7), (0x610, 0x61A), (0x64B, 0x65F), (0x670, 0x670))
_APOSTROPHES: Final = "'\u2018\u2019\u02bc`\u00b4\uff07"
_SEPARATORS: Final = "PSZ"  # categories of Unicode: punctuation, symbols, blanks


def words_of(text: str) -> list[str]:
    """Return the keys of a text's words, in order.

    A text of punctuation or symbols alone, such as the title "???", is one word. Blank text has no words.
    """
    folded = "".join(map(_folded, unicodedata.normalize("NFKD", text.casefold())))
    words = unicodedata.normalize("NFC", folded).split()
    if words:
        return words
    only = "".join(each for each in text if not each.isspace() and unicodedata.category(each) not in ("Cf", "Cc"))
    return [unicodedata.normalize("NFC", only)] if only else []


def key_of(text: str) -> str:
    """Return the key of a whole text, without blanks; empty for blank text."""
    return "".join(words_of(text))


def same_text(one: str, other: str) -> bool:
    """Return whether two texts are equal apart from their Unicode form and blanks around them."""
    return normalize_id(one) == normalize_id(other)


@lru_cache(maxsize=4_096)
def _folded(character: str) -> str:
    """Return what a character contributes to a key: itself, a blank, or nothing."""
    if character in _APOSTROPHES:
        return ""
    code = ord(character)
    if any(first <= code <= last for first, last in _ACCENTS):
        return ""
    category = unicodedata.category(character)
    if category[0] in _SEPARATORS or category == "Cc":
        return " "
    if category in ("Cf", "Cs", "Cn", "Co"):
        return ""
    return (
        "".join(map(_folded, character.casefold()))
        if character != character.casefold()
        else _LETTERS.get(character, character)
    )


class BigramIndex:
    """An inverted index of the character bigrams of N keys, with one more bigram for each end of a key.

    Attributes:
        entries: (E,) the key of each bigram, by the hash of the bigram.
        starts: (65,537,) start of each hash in `entries`.
        lengths: (N,) number of bigrams of each key.
    """

    N_BUCKETS: Final = 1 << 16

    def __init__(self, entries: Array, starts: Array, lengths: Array) -> None:
        self.entries, self.starts, self.lengths = entries, starts, lengths

    @classmethod
    def of(cls, keys: Sequence[str]) -> BigramIndex:
        """Return the index of some keys."""
        codes = _codes("".join(f"\n{key}\n" for key in keys))
        lengths = np.array([len(key) + 1 for key in keys], np.int32)  # bigrams of each
        items = np.repeat(np.arange(len(keys), dtype=np.int32), lengths + 1)
        is_inside = np.ones(len(codes), np.bool_)
        is_inside[np.cumsum(lengths + 1) - 1] = False  # the bigram across two keys
        pairs = cls._hashed(codes)[is_inside[:-1]] if len(codes) else np.zeros(0, np.uint16)
        order = np.argsort(pairs, kind="stable")
        starts = np.searchsorted(pairs[order], np.arange(cls.N_BUCKETS + 1))
        return cls(items[is_inside][order], starts, lengths)

    def most_shared(self, key: str, n: int) -> list[int]:
        """Return the n items that share the largest part of their bigrams with a key, best first."""
        pairs = np.unique(self._hashed(_codes(f"\n{key}\n")))
        lists = [self.entries[self.starts[pair] : self.starts[pair + 1]] for pair in pairs.tolist()]
        counts = np.bincount(np.concatenate(lists), minlength=len(self.lengths))
        shares = counts / np.sqrt(self.lengths * float(len(pairs)))
        best = np.argsort(-shares, kind="stable")[:n]
        return [int(item) for item in best if counts[item]]

    @staticmethod
    def _hashed(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint16]:
        # 16 bits, which NumPy sorts by radix.
        return (codes[:-1] * np.uint32(7_919) + codes[1:]).astype(np.uint16)


def _codes(text: str) -> npt.NDArray[np.uint32]:
    """Return the code points of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
