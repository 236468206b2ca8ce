"""Convert the metadata of items to words, which count like tags.

A short value (a genre, a year) is one word. Texts such as lyrics are reduced to their words when they are read, so that
no text is stored; images and links are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

LONGEST_WORD: Final = 80  # characters of a value that is one word; genres, labels and names of albums are shorter
LONGEST_TAG: Final = 200  # characters; people write sentences as tags, but not lyrics
_MOST_WORDS: Final = 12
_WORDS_OF_A_TEXT: Final = 100  # of one item; the rarest ones
_WORD: Final = re.compile(r"[^\W\d_]{3,}")
_TITLE_WORD: Final = re.compile(r"\w{3,}")
_IMAGE: Final = re.compile(r"(?i).*\.(?:jpe?g|png|gif|webp|bmp|svg|tiff?|avif|heic)(?:[?#].*)?|data:image/.*")
_LINK: Final = re.compile(r"(?i)(?:https?://|www\.)\S+")
_BYTES: Final = re.compile(r"b['\"].*\\x.*|[A-Za-z0-9+/=_-]{200,}", re.DOTALL)  # printed or encoded bytes
_BETWEEN: Final = "\n"  # values that are one word contain no line break


def words_of(row: Mapping[str, str]) -> set[str]:
    """Return the words of the title, the words of texts (see `words_of_texts`) and the values of all other columns."""
    title = {f"title: {word}" for word in _TITLE_WORD.findall(row.get("title", "").lower())}
    others = ((name, word) for name, value in row.items() if name != "title" for word in value.split(_BETWEEN))
    return title | {f"{name}: {word}" for name, word in others if word}


def is_long(value: str) -> bool:
    """Return whether a value is a text, which is not one word."""
    return len(value) > LONGEST_WORD or len(value.split()) > _MOST_WORDS or len(value.splitlines()) > 1


def column_kind(values: Iterable[str]) -> str:
    """Return what a column of metadata holds: "images", "links", "bytes", "texts" or "values"."""
    kinds = Counter(map(_kind, values))
    n_values = kinds.total()
    for kind in ("images", "links", "bytes"):
        if 2 * kinds[kind] > n_values:
            return kind
    # A single long album name does not make a column of texts, nor do short lyrics make one of values.
    return "texts" if 10 * kinds["texts"] >= n_values > 0 else "values"


def _kind(value: str) -> str:
    for kind, pattern in (("images", _IMAGE), ("links", _LINK), ("bytes", _BYTES)):
        if pattern.fullmatch(value):
            return kind
    return "texts" if is_long(value) else "values"


def words_of_texts(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the words of each item's text, separated by line breaks, as `words_of` expects them.

    English stop words, words of fewer than three letters and words of a single item are left out, because they relate
    no items; of each text the 100 rarest words are kept.

    Args:
        texts: item -> text.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # only where there are texts: it is slow to import

    words = {
        item: {word for word in _WORD.findall(text.lower()) if word not in ENGLISH_STOP_WORDS and len(word) <= 40}
        for item, text in texts.items()
    }
    n_items = Counter(word for each in words.values() for word in each)
    kept = {}
    for item, each in words.items():
        shared = sorted((word for word in each if n_items[word] > 1), key=lambda word: (n_items[word], word))
        if shared:
            kept[item] = _BETWEEN.join(sorted(shared[:_WORDS_OF_A_TEXT]))
    return kept
