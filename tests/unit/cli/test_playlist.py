"""`tritone playlist` with models in memory; tests/integration uses a real server."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

import tritone
from tritone.testing import FakeRecommender, FakeServer, MockTransport

TRACKS = {f"track-{number}": (f"Title {number}", "Someone") for number in range(6)}


@pytest.fixture(autouse=True)
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The requests to a server in memory."""
    sent: list[Any] = []
    server = FakeServer(FakeRecommender(TRACKS, users=["42"]))

    def handle(request: Any) -> Any:
        sent.append(request)
        return server(request)

    patched = functools.partial(tritone.MusicClient, transport=MockTransport(handle), retries=0)
    monkeypatch.setattr(tritone, "MusicClient", patched)
    monkeypatch.delenv("TRITONE_SERVER", raising=False)
    return sent


def test_people_get_a_table(run_tritone: Any) -> None:
    ended = run_tritone("playlist", "track-1", "track-4", "-n", 3, "--seed", 5, "--mood", "calmness=1,sadness=0.5")
    assert ended.status == 0, ended.stderr
    assert ended.stdout == ""
    assert "based on tags, mood (given); seed 5; recommender v1" in ended.stderr
    lines = [line.split() for line in ended.stderr.splitlines()]
    assert ["similarity", "track", "title"] in lines
    assert ["1", "track-1", "Someone:", "Title", "1"] in lines
    assert ["3", "0.50", "track-4", "Someone:", "Title", "4"] in lines


def test_programs_get_json(run_tritone: Any) -> None:
    words = ("--after", "track-1", "--after", "track-0", "--exclude", "nothing", "-n", 9, "--user", "42")
    ended = run_tritone("playlist", "track-1", *words, "--json")
    found = json.loads(ended.stdout)
    assert [track["track_id"] for track in found["tracks"]] == ["track-2", "track-3", "track-4", "track-5"]
    assert (found["relaxed"], found["unknown"]["exclude"], found["by_taste"]) == (["n"], ["nothing"], True)
    told = run_tritone("playlist", "track-1", *words).stderr
    assert "no more tracks: 4 found" in told
    assert "unknown and ignored: exclude nothing" in told


def test_titles_are_accepted(run_tritone: Any, requests: list[Any]) -> None:
    ended = run_tritone("playlist", "Title 1", "Title 4", "-n", 3)
    assert ended.status == 0, ended.stderr
    last = requests[-1].inputs
    assert (last["playlist_from"].tolist(), last["playlist_to"].tolist()) == ([[b"track-1"]], [[b"track-4"]])


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["playlist"], 2, ""),
        (["playlist", "track-1", "-n", "many"], 2, ""),
        (["playlist", "nothing"], 1, "item 'nothing' is not known"),
        (["playlist", "track-1", "track-1"], 1, "expected another track than start"),
        (["playlist", "track-1", "-n", "10000"], 1, "expected a whole number from 1 to 200"),
        (["playlist", "track-1", "--mood", "glum"], 1, "unknown mood"),
        (["playlist", "track-1", "--artist-gap", "-1"], 1, "invalid artist_gap"),
    ],
)
def test_errors(run_tritone: Any, words: list[str], status: int, says: str) -> None:
    ended = run_tritone(*words)
    assert ended.status == status
    assert ended.stdout == ""
    assert says in ended.stderr
