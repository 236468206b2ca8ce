"""Tokens of texts: words, pieces, other scripts and what is cut."""

from __future__ import annotations

import pytest

from tritone_serving.recommender.wordpiece import WordPieceTokenizer

VOCABULARY = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "calm", "piano", "##s", "!", "-", "hip", "hop", "夜", "に",
    "bjork", "'", "don", "t",
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> WordPieceTokenizer:
    return WordPieceTokenizer(VOCABULARY)


def tokens(tokenizer: WordPieceTokenizer, text: str, most: int = 64) -> list[str]:
    return [VOCABULARY[index] for index in tokenizer.encode([text], most_tokens=most)[0].tolist()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Calm Pianos!", ["calm", "piano", "##s", "!"]),
        ("hip-hop", ["hip", "-", "hop"]),
        ("BJÖRK", ["bjork"]),
        ("don't", ["don", "'", "t"]),
        ("夜に", ["夜", "に"]),
        ("calm\u200b\x00piano", ["[UNK]"]),
        ("calm\tpiano\u00a0calm", ["calm", "piano", "calm"]),
        ("zzz", ["[UNK]"]),
        ("x" * 101, ["[UNK]"]),
        ("", []),
        ("🎵", ["[UNK]"]),
    ],
)
def test_a_text_becomes_the_longest_known_pieces(tokenizer: WordPieceTokenizer, text: str, expected: list[str]) -> None:
    assert tokens(tokenizer, text) == ["[CLS]", *expected, "[SEP]"]


def test_texts_are_padded_and_cut(tokenizer: WordPieceTokenizer) -> None:
    found = tokenizer.encode(["calm", "calm " * 1_000], most_tokens=8)
    assert found.shape == (2, 8)
    assert found[0].tolist() == [2, 4, 3, 0, 0, 0, 0, 0]
    assert found[1].tolist() == [2, *[4] * 6, 3]


@pytest.mark.parametrize("vocabulary", [(), ("[UNK]", "[PAD]", "[CLS]", "[SEP]"), ("[PAD]", "[UNK]", "[CLS]")])
def test_vocabularies_without_the_special_tokens_are_refused(vocabulary: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="invalid vocabulary"):
        WordPieceTokenizer(vocabulary)
