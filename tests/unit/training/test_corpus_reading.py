"""What music21 reads becomes the notes that a player would play."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from tritone_training.corpus.build import WorkerPool, find_music21_corpus
from tritone_training.corpus.reading import NotatedPiece, Unusable, read_piece
from tritone_training.corpus.sources import KNOWN_COLLECTIONS, Candidate, list_candidates

HEADER = "X:1\nT:The Test -- Reel\nC:NOBODY\nM:2/4\nL:1/8\nK:D\n"
FILLER = "defg|" * 6  # a piece needs 24 notes


def read_tune(folder: Path, body: str, header: str = HEADER) -> NotatedPiece:
    path = folder / "Test.abc"
    path.write_text(header + body + FILLER + "\n")
    piece = read_piece(Candidate("ryans/Test", "ryans", path), KNOWN_COLLECTIONS["ryans"])
    assert isinstance(piece, NotatedPiece), piece
    return piece


def first(piece: NotatedPiece, n: int) -> list[tuple[float, float, int]]:
    return piece.voices[0][:n]


def test_tied_notes_are_one_note(tmp_path: Path) -> None:
    piece = read_tune(tmp_path, "D2-D2|")
    assert first(piece, 2) == [(0.0, 2.0, 62), (2.0, 0.5, 74)]


def test_a_slur_written_as_a_tie_stays_two_notes(tmp_path: Path) -> None:
    piece = read_tune(tmp_path, "D2-E2|")
    assert first(piece, 2) == [(0.0, 1.0, 62), (1.0, 1.0, 64)]


def test_grace_notes_are_left_out_and_counted(tmp_path: Path) -> None:
    piece = read_tune(tmp_path, "{AB}D2E2|")
    assert first(piece, 2) == [(0.0, 1.0, 62), (1.0, 1.0, 64)]
    assert piece.n_grace_notes == 2


def test_chord_symbols_do_not_sound(tmp_path: Path) -> None:
    piece = read_tune(tmp_path, '"Am"D2"D7"E2|')
    assert [note for note in piece.voices[0] if note[0] == 0.0] == [(0.0, 1.0, 62)]


def test_repeats_are_not_expanded(tmp_path: Path) -> None:
    piece = read_tune(tmp_path, "|:D2E2:|")
    assert [pitch for _, _, pitch in first(piece, 3)] == [62, 64, 74]


def test_the_header_becomes_facts(tmp_path: Path) -> None:
    piece = read_tune(tmp_path, "")
    assert (piece.title, piece.composer, piece.group) == ("The Test -- Reel", "NOBODY", "ryans/the test")
    assert (piece.key, piece.metre, piece.tempo_bpm, piece.tempo_stated) == ("D major", "2/4", 96.0, False)


def test_a_stated_tempo_is_kept(tmp_path: Path) -> None:
    piece = read_tune(tmp_path, "", header=HEADER.replace("K:D", "Q:1/4=111\nK:D"))
    assert (piece.tempo_bpm, piece.tempo_stated) == (111.0, True)


def test_a_reel_in_cut_time_runs_as_fast_as_one_in_two_four(tmp_path: Path) -> None:
    piece = read_tune(tmp_path, "", header=HEADER.replace("M:2/4", "M:C|"))
    assert (piece.metre, piece.tempo_bpm) == ("2/2", 192.0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "unreadable"), (b"\xff\xfe\x00garbage", "unreadable"), (HEADER.encode() + b"DEFG|\n", "too_short")],
)
def test_unusable_pieces_are_reported_with_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "Test.abc"
    path.write_bytes(content)
    answer = read_piece(Candidate("ryans/Test", "ryans", path), KNOWN_COLLECTIONS["ryans"])
    assert isinstance(answer, Unusable)
    assert answer.reason in (reason, "too_few_voices")
    assert answer.detail


def test_a_chorale_has_four_voices_a_title_and_a_key() -> None:
    path = find_music21_corpus() / "bach" / "bwv269.mxl"
    piece = read_piece(Candidate("bach/bwv269", "bach", path), KNOWN_COLLECTIONS["bach"])
    assert isinstance(piece, NotatedPiece)
    assert (len(piece.voices), piece.key, piece.metre, piece.pickup_quarters) == (4, "G major", "3/4", 1.0)
    assert piece.title == "Aus meines Herzens Grunde (BWV 269)"
    assert [pitch for _, _, pitch in first(piece, 4)] == [67, 67, 74, 71]


def test_a_mass_movement_has_its_mode_and_belongs_to_its_mass() -> None:
    path = find_music21_corpus() / "palestrina" / "Agnus_00.krn"
    piece = read_piece(Candidate("palestrina/Agnus_00", "palestrina", path), KNOWN_COLLECTIONS["palestrina"])
    assert isinstance(piece, NotatedPiece)
    assert (piece.key, piece.metre, len(piece.voices)) == ("G mixolydian", "4/2", 5)
    assert piece.title == "Missa De Beata Marie Virginis (II): Agnus"
    assert piece.group == "palestrina/missa de beata marie virginis (ii)"
    # The cantus opens with a whole note, then one that is tied over the barline.
    assert [note[:2] for note in piece.voices[0][:3]] == [(0.0, 4.0), (4.0, 6.0), (10.0, 2.0)]


def test_candidates_are_listed_in_the_same_mixed_order_every_time() -> None:
    once, again = (list_candidates(KNOWN_COLLECTIONS["oneills"], find_music21_corpus()) for _ in range(2))
    assert once == again
    assert len(once) > 1500
    assert len({candidate.path for candidate in once[:60]}) > 15  # from all over the books


def test_a_book_without_tunes_is_a_candidate_and_so_reported(tmp_path: Path) -> None:
    (tmp_path / "oneills1850").mkdir()
    (tmp_path / "oneills1850" / "broken.abc").write_bytes(b"\x00\x01")
    (candidate,) = list_candidates(KNOWN_COLLECTIONS["oneills"], tmp_path)
    assert (candidate.id, candidate.number) == ("oneills/broken", None)


WORKER = """
import json, os, sys, time
for line in sys.stdin:
    job = json.loads(line)
    if job["id"] == "hangs":
        time.sleep(600)
    if job["id"] == "dies":
        os._exit(3)
    print(json.dumps({"answer": job["id"]}), flush=True)
"""


@pytest.mark.slow
def test_a_piece_that_hangs_or_kills_its_reader_costs_only_itself() -> None:
    jobs = [{"id": name} for name in ("a", "hangs", "b", "dies", "c", "d")]
    begin_s = time.monotonic()
    with WorkerPool(n_workers=2, timeout_s=3.0, command=[sys.executable, "-c", WORKER]) as pool:
        answers = {job["id"]: answer for job, answer in pool.run(jobs)}
    assert time.monotonic() - begin_s < 30
    assert answers["hangs"]["reason"] == "timed_out"
    assert answers["dies"]["reason"] == "worker_died"
    assert [answers[name] for name in "abcd"] == [{"answer": name} for name in "abcd"]


def test_leaving_early_stops_the_workers() -> None:
    begin_s = time.monotonic()
    with WorkerPool(n_workers=2, timeout_s=60.0, command=[sys.executable, "-c", WORKER]) as pool:
        results = pool.run([{"id": "a"}, {"id": "hangs"}, {"id": "hangs"}])
        assert json.dumps(next(results)[1]) == '{"answer": "a"}'
    assert time.monotonic() - begin_s < 20
