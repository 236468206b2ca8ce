"""The corpus's folder: what it holds, and that nothing half-made or damaged is ever loaded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tritone_training.corpus import COLLECTIONS, Corpus, load_corpus
from tritone_training.corpus.build import find_music21_corpus, locked
from tritone_training.exceptions import DataError

pytestmark = pytest.mark.slow

N = 4
LOAD = "from tritone_training.corpus import load_corpus; print(load_corpus(n_per_collection={n}).fingerprint)"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("TRITONE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def corpus(cache: Path) -> Corpus:
    return load_corpus(progress=False, n_per_collection=N)


def reload() -> Corpus:
    return load_corpus(progress=False, n_per_collection=N)


def test_it_holds_equally_many_pieces_of_each_collection(corpus: Corpus) -> None:
    assert len(corpus) == N * len(COLLECTIONS)
    for collection in corpus.collections:
        assert sum(track.collection == collection.name for track in corpus) == N
    assert len({track.id for track in corpus}) == len(corpus)


def test_metadata_of_every_track_matches_its_score(corpus: Corpus) -> None:
    for track in corpus:
        score = track.score()
        assert track.title
        assert track.composer
        assert track.id.startswith(f"{track.collection}/")
        assert sum(len(voice.notes) for voice in score.tracks) == track.n_notes
        assert len(score.tracks) == track.n_voices
        assert score.ticks_per_quarter == 480
        assert score.end() / 480 == pytest.approx(track.duration_quarters, abs=0.01)
        assert score.tempos[0].qpm == pytest.approx(track.tempo_bpm, rel=1e-3)
        assert {voice.program for voice in score.tracks} == {0}


def test_a_second_load_reads_what_is_there(corpus: Corpus) -> None:
    before = (corpus.path / "index.json").stat().st_mtime_ns
    assert reload() == corpus
    assert (corpus.path / "index.json").stat().st_mtime_ns == before


def test_building_again_gives_the_same_bytes(corpus: Corpus) -> None:
    before = {path.name: path.read_bytes() for path in corpus.path.rglob("*.mid")}
    again = load_corpus(progress=False, n_per_collection=N, rebuild=True)
    assert again.fingerprint == corpus.fingerprint
    assert {path.name: path.read_bytes() for path in again.path.rglob("*.mid")} == before


@pytest.mark.parametrize("damage", ["flipped bit", "missing file", "truncated index", "edited index", "wrong type"])
def test_damage_is_detected_and_repaired(corpus: Corpus, damage: str) -> None:
    index = corpus.path / "index.json"
    midi = corpus.tracks[5].midi_path
    match damage:
        case "flipped bit":
            midi.write_bytes(midi.read_bytes()[:-1] + b"\x01")
        case "missing file":
            midi.unlink()
        case "truncated index":
            index.write_bytes(index.read_bytes()[:500])
        case "edited index":
            index.write_text(index.read_text().replace(corpus.tracks[0].title, "Something Else"))
        case "wrong type":
            index.write_text("[]")
    assert reload() == corpus


def test_an_unknown_track_is_an_error_with_similar_ids(corpus: Corpus) -> None:
    track = corpus.tracks[0]
    assert corpus[track.id] is track
    with pytest.raises(DataError, match=f"no track .*did you mean {track.id}"):
        corpus[track.id.partition("/")[2][:-1]]
    with pytest.raises(DataError, match="ids look like"):
        corpus["bach/nothing-like-it"]


def test_two_builders_at_once_make_one_corpus(cache: Path, corpus: Corpus) -> None:
    shutil.rmtree(corpus.path)
    command = [sys.executable, "-c", LOAD.format(n=N)]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [builder.communicate(timeout=120) for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0], results
    assert {stdout.strip() for stdout, _ in results} == {corpus.fingerprint}
    assert not list(cache.glob(".catalogue*"))


def test_a_killed_builder_leaves_nothing_loadable(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITONE_CACHE": str(tmp_path)}
    builder = subprocess.Popen(
        [sys.executable, "-c", LOAD.format(n=60)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline_s = time.monotonic() + 60
    while not list(tmp_path.glob(".catalogue-*/midi/*/*.mid")):
        assert time.monotonic() < deadline_s, "the builder wrote nothing"
        assert builder.poll() is None
        time.sleep(0.05)
    builder.send_signal(signal.SIGKILL)
    builder.wait(timeout=10)
    assert not list(tmp_path.glob("catalogue-*/index.json"))
    leftovers = list(tmp_path.glob(".catalogue-*"))
    assert leftovers
    # The folder name contains the settings, so that the next build of the same corpus removes leftovers.
    name = leftovers[0].name.removeprefix(".").rpartition("-")[0]
    with locked(tmp_path / name, timeout_s=5):
        pass  # the lock died with its holder


def test_waiting_for_another_build_times_out(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    with (
        locked(folder),
        pytest.raises(DataError, match="another process has been building"),
        locked(folder, timeout_s=0.3),
    ):
        pass


def make_corpus(folder: Path, *, n_good: int) -> Path:
    """A corpus of a few real chorales, with damaged ones among them."""
    (folder / "bach").mkdir(parents=True)
    for path in sorted((find_music21_corpus() / "bach").glob("bwv2[67]*.mxl"))[:n_good]:
        shutil.copy(path, folder / "bach")
    whole = next((folder / "bach").iterdir()).read_bytes()
    (folder / "bach" / "bwv_copy.mxl").write_bytes(whole)
    (folder / "bach" / "bwv_empty.mxl").touch()
    (folder / "bach" / "bwv_cut.mxl").write_bytes(whole[: len(whole) // 2])
    (folder / "bach" / "bwv_noise.mxl").write_bytes(bytes(range(256)) * 8)
    return folder


def test_damaged_pieces_are_reported_and_the_rest_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONE_CACHE", str(tmp_path / "cache"))
    folder = make_corpus(tmp_path / "corpus", n_good=5)
    loaded = load_corpus(progress=False, n_per_collection=5, collections=("bach",), music21_corpus=folder)
    (report,) = loaded.report
    reasons = {dropped.id: dropped.reason for dropped in report.dropped}
    assert report.n_kept == len(loaded) == 5
    assert report.n_read == report.n_kept + len(report.dropped)
    assert "duplicate" in reasons.values() or report.n_read < report.n_candidates
    for name in set(reasons) & {"bach/bwv_empty", "bach/bwv_cut", "bach/bwv_noise"}:
        assert reasons[name] == "unreadable"
    assert not [path for path in loaded.path.rglob("*.mid") if f"bach/{path.stem}" in reasons]


def test_too_few_usable_pieces_is_an_error_with_the_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONE_CACHE", str(tmp_path / "cache"))
    folder = make_corpus(tmp_path / "corpus", n_good=2)
    with pytest.raises(DataError, match=r"2 of 6 pieces can be used, 3 are wanted; bach/bwv_"):
        load_corpus(progress=False, n_per_collection=3, collections=("bach",), music21_corpus=folder)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_cache_folder_that_cannot_be_created_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITONE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"cannot be created: .*TRITONE_CACHE"):
        reload()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_per_collection": 0}, "expected at least 1"),
        ({"collections": ("bach", "wagner")}, "wagner.*there are: bach"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_corpus(progress=False, **arguments)  # type: ignore[arg-type]


def test_the_index_is_plain_json_with_reasons(corpus: Corpus) -> None:
    index = json.loads((reload().path / "index.json").read_text())
    assert index["fingerprint"] == corpus.fingerprint
    assert {entry["collection"] for entry in index["report"]} == set(COLLECTIONS)
    assert set(index["made_with"]) == {"music21", "symusic"}
