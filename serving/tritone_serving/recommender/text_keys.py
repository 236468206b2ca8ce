"""Keys for text search, without the differences that people ignore when they type a title.

Case, accents, blanks, punctuation and the form of Unicode are removed. Signs that distinguish words in a script stay,
such as the vowel signs of Devanagari and the voicing marks of Japanese. Ids are compared by `ids.normalize_id` instead.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Final

from tritone_serving.ids import normalize_id

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
