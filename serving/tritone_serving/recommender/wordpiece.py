"""WordPiece tokenization of texts, as in BERT's uncased models (Devlin et al. 2018, arXiv:1810.04805).

Shapes: B texts, T tokens of the longest text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

PAD: Final = "[PAD]"
UNKNOWN: Final = "[UNK]"
FIRST: Final = "[CLS]"
LAST: Final = "[SEP]"
_CONTINUATION: Final = "##"
_LONGEST_WORD: Final = 100  # characters; longer words become UNKNOWN
_N_CACHED: Final = 8_192  # words
# Ranges of ideographs, each of which is a word.
_IDEOGRAPHS: Final = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
_ASCII_SYMBOLS: Final = frozenset("$+<=>^`|~")  # counted as punctuation, although Unicode calls them symbols

Tokens = npt.NDArray[np.int64]


class WordPieceTokenizer:
    """Turns texts into indices of a vocabulary. Safe to use from several threads."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """Build the lookup table.

        Raises:
            ValueError: the vocabulary lacks a special token, or [PAD] is not its first entry.
        """
        self._indices = {token: index for index, token in enumerate(vocabulary)}
        missing = [token for token in (PAD, UNKNOWN, FIRST, LAST) if token not in self._indices]
        if missing or self._indices[PAD] != 0:
            raise ValueError(f"invalid vocabulary: expected {PAD} first, and {UNKNOWN}, {FIRST} and {LAST}")
        self._pieces = lru_cache(_N_CACHED)(self._split)

    def encode(self, texts: Sequence[str], *, most_tokens: int) -> Tokens:
        """Return the tokens of each text (B, T), padded with 0; texts of more than `most_tokens` tokens are cut.

        Args:
            texts: at least one text.
            most_tokens: largest T, special tokens included.
        """
        first, last = self._indices[FIRST], self._indices[LAST]
        rows = [[first, *self._text(text, most_tokens - 2), last] for text in texts]
        tokens = np.zeros((len(rows), max(map(len, rows))), np.int64)
        for row, each in zip(tokens, rows, strict=True):
            row[: len(each)] = each
        return tokens

    def _text(self, text: str, most: int) -> list[int]:
        tokens: list[int] = []
        # A token covers at least one character, apart from blanks and characters that are removed.
        for word in _words(text):
            tokens += self._pieces(word)
            if len(tokens) >= most:
                break
        return tokens[:most]

    def _split(self, word: str) -> tuple[int, ...]:
        """Return the longest known pieces of a word, from its beginning."""
        if len(word) > _LONGEST_WORD:
            return (self._indices[UNKNOWN],)
        found = []
        start = 0
        while start < len(word):
            prefix = _CONTINUATION if start else ""
            for end in range(len(word), start, -1):
                if (index := self._indices.get(prefix + word[start:end])) is not None:
                    found.append(index)
                    start = end
                    break
            else:
                return (self._indices[UNKNOWN],)
        return tuple(found)


def _words(text: str) -> list[str]:
    """Return the words and the punctuation of a text, in lower case without accents."""
    spaced = "".join(map(_spaced, text))
    plain = unicodedata.normalize("NFD", spaced.lower())
    return "".join(each for each in plain if unicodedata.category(each) != "Mn").split()


@lru_cache(maxsize=4_096)
def _spaced(character: str) -> str:
    """Return a character, with blanks around it if it is a word by itself; control characters are removed."""
    code = ord(character)
    category = unicodedata.category(character)
    if character in "\t\n\r" or category == "Zs":
        return " "
    if code in (0, 0xFFFD) or category in ("Cc", "Cf", "Cs", "Co", "Cn"):
        return ""
    is_word = any(first <= code <= last for first, last in _IDEOGRAPHS)
    return f" {character} " if is_word or category[0] == "P" or character in _ASCII_SYMBOLS else character
