"""Collections of the corpus as a data set: what `corpus:NAMES` stands for, and which pieces it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.small_corpus import copy_small_corpus

from tritone_training.corpus import KNOWN_COLLECTIONS, PUBLIC_DOMAIN, Corpus, load_corpus, parse_selection, store
from tritone_training.data.loading import load_recordings
from tritone_training.data.scores import load_scores
from tritone_training.exceptions import DataError
from tritone_training.kind import TrainRequest
from tritone_training.quality import recorded_data
from tritone_training.runs import asked_of

EXCLUDED = {"palestrina", "essen", "airds", "trecento", "monteverdi"}


def test_the_public_domain_leaves_out_what_must_not_be_passed_on() -> None:
    assert set(PUBLIC_DOMAIN) == {"bach", "ryans", "oneills"}
    assert set(KNOWN_COLLECTIONS) == set(PUBLIC_DOMAIN) | EXCLUDED
    selection = parse_selection("corpus:public-domain")
    assert selection is not None
    assert selection.collections == PUBLIC_DOMAIN
    assert selection.may_share_weights


def test_collections_have_one_order_and_one_name() -> None:
    selection = parse_selection(Path("corpus:oneills,bach"))
    assert selection == parse_selection("corpus:bach,oneills,bach")
    assert str(selection) == "corpus:bach,oneills"
    assert selection is not None
    assert set(selection.terms) == {"bach", "oneills"}


@pytest.mark.parametrize("name", sorted(EXCLUDED))
def test_weights_of_other_collections_may_not_be_shared(name: str) -> None:
    selection = parse_selection(f"corpus:bach,{name}")
    assert selection is not None
    assert not selection.may_share_weights


@pytest.mark.parametrize(
    "text", ["corpus:", "corpus:bach,", "corpus:mozart", "corpus:public-domain,essen", "corpus:Bach"]
)
def test_unknown_collections_are_errors_with_the_known_ones(text: str) -> None:
    with pytest.raises(DataError, match=r"there are: bach, palestrina"):
        parse_selection(text)


@pytest.mark.parametrize("path", ["corpus", "scores/corpus:bach", "/data/corpus", "x.mat"])
def test_paths_are_no_selections(path: str) -> None:
    assert parse_selection(path) is None


def test_recordings_are_not_selected_by_collection() -> None:
    with pytest.raises(DataError, match="expected recordings"):
        load_recordings(Path("corpus:bach"))


def test_a_run_and_a_checkpoint_record_the_collections(tmp_path: Path) -> None:
    request = TrainRequest(out=tmp_path, data=Path("corpus:public-domain"))
    assert asked_of(request)["data"] == "corpus:bach,ryans,oneills"
    recorded = recorded_data(None, {"data": {"source": "corpus:bach,ryans,oneills"}}, tmp_path)
    assert recorded == Path("corpus:bach,ryans,oneills")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Some pieces of music21's corpus, excluded collections among them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = copy_small_corpus(tmp_path_factory.mktemp("music21"))
        patch.setattr(store, "find_music21_corpus", lambda: folder)
        yield folder


@pytest.mark.slow
def test_the_starters_data_hold_no_piece_of_an_excluded_collection(small: Path) -> None:
    assert {path.name for path in small.iterdir()} >= {"bach", "palestrina", "essenFolksong"}
    scores = load_scores(Path("corpus:public-domain"), progress=False)
    assert set(scores.styles) == set(PUBLIC_DOMAIN)
    assert {piece.name.partition("/")[0] for piece in scores.pieces} == set(PUBLIC_DOMAIN)
    report = scores.report()
    assert report["source"] == "corpus:bach,ryans,oneills"
    assert set(report["terms"]) == set(PUBLIC_DOMAIN)
    assert load_scores(Path("corpus:oneills,ryans,bach"), progress=False).fingerprint == scores.fingerprint


@pytest.mark.slow
def test_a_selection_holds_all_usable_pieces(small: Path) -> None:
    selection = parse_selection("corpus:ryans")
    assert selection is not None
    corpus: Corpus = selection.load(progress=False)
    (report,) = corpus.report
    assert report.n_read == report.n_candidates == len(list((small / "ryansMammoth").iterdir()))
    assert report.n_kept == len(corpus) == report.n_candidates - len(report.dropped) > 0


@pytest.mark.slow
def test_a_collection_without_a_usable_piece_is_an_error(small: Path) -> None:
    with pytest.raises(DataError, match="0 of 0 pieces"):
        load_corpus(progress=False, n_per_collection=None, collections=("monteverdi",))
