"""Texts that are decoded when they are read, and the hash table that finds them."""

from __future__ import annotations

import pickle
import zlib

import numpy as np
import pytest

from tritone_serving.recommender.artifact import text_arrays
from tritone_serving.recommender.texts import TextIndex, Texts, build_hash_table, check_hash_table

NAMES = [*(f"item-{number}" for number in range(500)), "", "Zoë", "日本", "a" * 300]


def texts_of(names: list[str]) -> Texts:
    arrays = text_arrays("items", names)
    return Texts(arrays["items.ids"], arrays["items.ends"])


def index_of(names: list[str]) -> TextIndex:
    arrays = text_arrays("items", names)
    return TextIndex(arrays["items.ids"], arrays["items.ends"], build_hash_table(names))


@pytest.mark.parametrize("names", [NAMES, []])
def test_texts_and_their_index_can_be_sent_to_another_process(names: list[str]) -> None:
    assert pickle.loads(pickle.dumps(texts_of(names))) == names  # noqa: S301
    found = pickle.loads(pickle.dumps(index_of(names)))  # noqa: S301
    assert [found.find(name) for name in names] == list(range(len(names)))
    assert found.find("not there") is None


def test_texts_are_a_sequence_of_strings() -> None:
    texts = texts_of(NAMES)
    assert len(texts) == len(NAMES)
    assert list(texts) == NAMES
    assert texts == NAMES
    assert texts != NAMES[1:]
    assert [texts[index] for index in range(-len(NAMES), len(NAMES))] == NAMES * 2
    assert texts[498:503] == tuple(NAMES[498:503])
    assert bytes(texts.encoded(501)) == "Zoë".encode()
    assert "日本" in texts
    for _ in range(2):  # the second time from those read before
        assert texts.at([501, 0, 500, 0]) == ("Zoë", NAMES[0], "", NAMES[0])
    for index in (len(NAMES), -len(NAMES) - 1):
        with pytest.raises(IndexError):
            texts[index]


def test_no_texts() -> None:
    texts = texts_of([])
    assert list(texts) == []
    assert index_of([]).find("a") is None
    check_hash_table(build_hash_table([]), 0)
    with pytest.raises(IndexError):
        texts[0]


def test_each_text_is_found_and_no_other() -> None:
    index = index_of(NAMES)
    for _ in range(2):  # the second time among those found before
        assert [index.find(name) for name in NAMES] == list(range(len(NAMES)))
    for unknown in ("item-500", "item-", "zoë", "\ud800", "a" * 301):
        assert index.find(unknown) is None


def test_texts_of_the_same_slot_are_told_apart() -> None:
    n = 40
    last = [name for name in map(str, range(20_000)) if zlib.crc32(name.encode()) % (2 * n) >= 2 * n - 2]
    names = last[:n]  # all belong into the last two slots
    slots = build_hash_table(names)
    check_hash_table(slots, n)
    index = index_of(names)
    assert [index.find(name) for name in names] == list(range(n))
    assert index.find(last[n]) is None


def test_of_equal_texts_the_last_is_found_as_in_a_dict() -> None:
    assert index_of(["a", "b", "a"]).find("a") == 2


def test_more_texts_are_found_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritone_serving.recommender.texts._MOST_RECENT", 7)
    index = index_of(NAMES)
    for _ in range(2):
        assert [index.find(name) for name in NAMES] == list(range(len(NAMES)))
    assert len(index._recent) <= 7
    texts = texts_of(NAMES)
    assert texts.at(range(len(NAMES))) == tuple(NAMES)
    assert len(texts._recent) <= 7


@pytest.mark.parametrize("place", [0, "last", "all"])
@pytest.mark.parametrize("value", [-2, 3, 1_000_000, -1])
def test_a_damaged_table_is_refused(place: int | str, value: int) -> None:
    slots = build_hash_table(NAMES)
    if place == "all":
        slots[:] = value
    else:
        taken = np.flatnonzero(slots >= 0)
        slots[-1 if place == "last" else taken[0]] = value if slots[taken[0]] != value else value + 1
        if place == "last" and value == -1:
            slots = slots[: len(NAMES)]  # too short instead
    with pytest.raises(ValueError, match="does not hold each of them once"):
        check_hash_table(slots, len(NAMES))
