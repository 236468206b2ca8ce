"""Ids of requests are found in every Unicode form and with blanks around them."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import pytest
from tests.support import recommender_artifacts as models

from tritone_export import forget_in_checkpoint
from tritone_serving.ids import normalize_id
from tritone_serving.recommender import Recommender, RecommendRequest, make_key, open_artifact, write_artifact
from tritone_serving.recommender.artifact import text_arrays
from tritone_serving.recommender.pseudonyms import pseudonyms
from tritone_serving.recommender.resolving import Resolver
from tritone_serving.security.callers import Caller

NFC, NFD = "Jóga", unicodedata.normalize("NFD", "Jóga")
BLANKS = [" ", "\t", "\r\n", "\u00a0", "\u2003", "\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u3000"]


@pytest.mark.parametrize("blank", BLANKS)
def test_blanks_and_invisible_characters_around_an_id_are_removed(blank: str) -> None:
    assert normalize_id(f"{blank}a{blank}b{blank} {blank}") == f"a{blank}b"


def test_ids_are_composed_but_letters_stay() -> None:
    assert normalize_id(NFD) == NFC
    for text in ("007", "Jazz", "\ufb01", "\uff21", "12.0", "a  b", "\udcff", ""):
        assert normalize_id(text) == text


def test_normalizing_twice_changes_nothing_and_all_blanks_are_known() -> None:
    blanks = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
    assert normalize_id("".join(blanks) + "a") == "a"
    for text in (NFD, f" {NFD}\u200b", "\u0958" * 256, "a\u0301" * 200, " \u0301", "\u200b\u0301x"):
        assert normalize_id(normalize_id(text)) == normalize_id(text)


def test_long_runs_of_combining_marks_are_not_composed() -> None:
    text = "a" + "\u0316\u0300" * 128
    assert normalize_id(text) == text


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """An artifact whose first item and user are called Jóga, in composed form."""
    folder = tmp_path_factory.mktemp("ids")
    return models.opened(_named(folder), folder / "recommender.key")


def _named(folder: Path) -> Path:
    """A checkpoint's artifact with the item and the user Jóga, and a user `x ` of an earlier version."""
    key_file = folder / "recommender.key"
    artifact = open_artifact(models.make_artifact(folder / "plain", key_file))
    arrays = dict(artifact.arrays)
    items = [NFC, *artifact.texts("items")[1:]]
    arrays.update(text_arrays("items", items))
    users = arrays["users"].copy()
    row = {name: pseudonyms(make_key(key_file), [name])[0] for name in (NFC, "x ")}
    users[0], users[1] = row[NFC], row["x "]
    order = sorted(range(len(users)), key=lambda place: tuple(users[place].tolist()))
    arrays["users"] = users[order]
    manifest = {name: value for name, value in artifact.manifest.items() if name not in ("arrays", "format")}
    write_artifact(folder / "artifact", manifest, arrays)
    return folder / "artifact"


@pytest.mark.parametrize("name", [NFC, NFD, f"{NFC}\u00a0", f"\u200b{NFD} "])
def test_a_request_finds_its_ids_in_every_form(recommender: Recommender, name: str) -> None:
    resolver = recommender.resolver
    assert resolver.item(name) == 0
    assert resolver.items([name, "unknown"]) == ([0], ("unknown",))
    assert resolver.user(name) == resolver.user(NFC) >= 0
    (answer,) = recommender.recommend(
        [RecommendRequest(user=name, history=[name], skipped=[name], exclude=[name], k=5)]
    )
    assert not isinstance(answer, Exception)
    assert not answer.unknown.user
    assert answer.unknown.history == answer.unknown.skipped == answer.unknown.exclude == ()
    assert NFC not in answer.items


def test_a_token_is_for_its_user_in_every_form(recommender: Recommender) -> None:
    resolver = recommender.resolver
    assert resolver.user_of(RecommendRequest(user=f"{NFC} ", caller=Caller(user=NFD))) == resolver.user(NFC)
    assert resolver.user_of(RecommendRequest(user=NFC, caller=Caller(user="x"))) == -1


def test_stored_ids_that_were_not_normalized_are_found_as_they_are(recommender: Recommender) -> None:
    resolver = recommender.resolver
    assert resolver.user("x ") >= 0
    assert resolver.user("x") == -1
    # The token of another user, whose id differs by a blank alone, does not reach the stored one.
    assert resolver.user_of(RecommendRequest(user="x ", caller=Caller(user="x"))) == -1


def test_forget_finds_a_user_in_every_form(tmp_path: Path) -> None:
    artifact = _named(tmp_path)
    before, after = forget_in_checkpoint(f"{NFD}\u00a0", tmp_path, key=tmp_path / "recommender.key")
    assert after == before - 1
    key = (tmp_path / "recommender.key").read_bytes().strip()
    assert Resolver(open_artifact(artifact), key).user(NFC) == -1
