"""Requests and responses of each route."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import soundfile
from fastapi.testclient import TestClient
from tests.support.tones import tone_file
from tests.unit.gateway.conftest import TRACKS, Start

from tritone import Grid, MusicClient, to_grid
from tritone.testing import FakeComposer, FakeServer, MockTransport

NOTES = {"notes": [[0, 4, 60], [4, 4, 64], [8, 8, 67]]}


def test_a_recording_is_classified_from_a_form_a_bare_body_and_base64(gateway: TestClient) -> None:
    recording = tone_file()
    responses = [
        gateway.post("/v1/classify", files={"file": ("a.ogg", recording)}, data={"top": "2"}),
        gateway.post("/v1/classify?top=2", content=recording, headers={"content-type": "audio/ogg"}),
        gateway.post("/v1/classify", json={"file": {"base64": base64.b64encode(recording).decode()}, "top": 2}),
    ]
    results = [response.json() for response in responses]
    assert [response.status_code for response in responses] == [200, 200, 200]
    assert [len(result["probabilities"]) for result in results] == [2, 2, 2]
    assert results[0]["timeline"] == results[1]["timeline"] == results[2]["timeline"]
    assert results[0]["duration_s"] == pytest.approx(5.0, abs=0.01)


def test_an_embedding_is_a_vector_of_length_one(gateway: TestClient) -> None:
    embedding = gateway.post("/v1/embed", files={"file": tone_file()}).json()["embedding"]
    assert sum(value**2 for value in embedding) == pytest.approx(1.0, abs=1e-5)


def test_a_piece_is_the_one_that_the_sdk_composes(gateway: TestClient) -> None:
    piece = gateway.post("/v1/compose", json={"bars": 2, "seed": 7}).json()
    with MusicClient(transport=MockTransport(FakeComposer())) as music:
        assert piece == json.loads(json.dumps(music.compose(bars=2, seed=7).to_dict()))


@pytest.mark.parametrize(
    ("accept", "media_type", "signature"),
    [
        ("audio/midi", "audio/midi", b"MThd"),
        ("audio/x-midi", "audio/midi", b"MThd"),
        ("audio/wav", "audio/wav", b"RIFF"),
        ("image/png", "image/png", b"\x89PNG"),
        ("image/svg+xml", "image/svg+xml", b"<?xml"),
        ("image/*;q=0.5, audio/midi", "audio/midi", b"MThd"),
        ("application/json;q=0.1, */*;q=0.2", "audio/midi", b"MThd"),
        ("text/html, */*", "application/json", b"{"),
    ],
)
def test_a_piece_comes_in_the_accepted_media_type(
    gateway: TestClient, accept: str, media_type: str, signature: bytes
) -> None:
    response = gateway.post("/v1/compose", json={"bars": 1, "seed": 3}, headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"].partition(";")[0] == media_type
    assert response.content.startswith(signature)
    assert response.headers["vary"] == "Accept"


def test_other_forms_than_json_name_seed_and_model_in_headers(gateway: TestClient) -> None:
    response = gateway.post("/v1/compose", json={"bars": 1}, headers={"Accept": "audio/midi"})
    seed = int(response.headers["tritone-seed"])
    again = gateway.post("/v1/compose", json={"bars": 1, "seed": seed}, headers={"Accept": "audio/midi"})
    assert again.content == response.content
    assert response.headers["tritone-model"] == "music_transformer"
    assert seed < 2**53  # JavaScript's numbers hold it


def test_a_media_type_that_cannot_be_produced_is_406(gateway: TestClient) -> None:
    response = gateway.post("/v1/compose", json={"bars": 1}, headers={"Accept": "video/mp4"})
    assert response.status_code == 406
    assert "audio/midi" in response.json()["detail"]


def test_a_score_is_continued_from_notes_a_form_and_a_piece(gateway: TestClient) -> None:
    midi = gateway.post("/v1/compose", json={"bars": 1, "seed": 3}, headers={"Accept": "audio/midi"}).content
    from_notes = gateway.post("/v1/continue", json={"file": NOTES, "bars": 1, "seed": 1}).json()
    from_form = gateway.post("/v1/continue", files={"file": midi}, data={"bars": "1", "seed": "1"}).json()
    from_piece = gateway.post("/v1/continue", json={"file": from_form, "bars": 1, "seed": 1}).json()
    assert from_notes["notes"][:3] == NOTES["notes"]
    assert from_notes["n_frames"] == 32
    assert from_form["n_frames"] == 32
    assert from_piece["n_frames"] == 48
    assert to_grid(midi).n_notes == sum(onset < 16 for onset, *_ in from_form["notes"])


def test_a_melody_is_harmonized_and_bars_are_replaced(gateway: TestClient) -> None:
    melody = {"notes": [[4 * i, 4, 60 + i] for i in range(8)]}
    harmonized = gateway.post("/v1/harmonize", json={"file": melody, "seed": 1})
    infilled = gateway.post("/v1/infill", json={"file": melody, "bars": [1, 2], "seed": 1})
    assert [harmonized.status_code, infilled.status_code] == [200, 200], (harmonized.text, infilled.text)
    first = gateway.post("/v1/harmonize", json={"file": melody, "seed": 1, "n_candidates": 1})
    assert sum(harmonized.json()["nll"]) < sum(first.json()["nll"])
    refused = gateway.post("/v1/harmonize", json={"file": melody, "n_candidates": 17})
    assert (refused.status_code, refused.json()["argument"]) == (422, "n_candidates")
    kept = [note for note in infilled.json()["notes"] if note[0] < 16]
    assert kept == melody["notes"][:4]


@pytest.mark.parametrize(
    ("given", "names"),
    [(["Violin", 42], ["Violin", "Cello"]), ("flute", ["Flute"]), (73, ["Flute"]), (None, ["Acoustic Grand Piano"])],
)
def test_instruments_of_pieces(gateway: TestClient, given: Any, names: list[str]) -> None:
    melody = {"notes": [[4 * i, 4, 60 + i] for i in range(8)]}
    for path, body in (
        ("compose", {"bars": 1}),
        ("harmonize", {"file": melody}),
        ("infill", {"file": melody, "bars": [0, 1]}),
        ("convert", {"file": melody}),
    ):
        response = gateway.post(f"/v1/{path}", json={**body, "instruments": given})
        assert (response.status_code, response.json()["instruments"]) == (200, names), response.text
    midi = gateway.post(
        "/v1/convert", json={"file": melody, "instruments": given}, headers={"Accept": "audio/midi"}
    ).content
    assert to_grid(midi).n_notes == 8
    assert names[0].encode() in midi
    query = gateway.post("/v1/compose?bars=1&instruments=violin&instruments=42")
    assert query.json()["instruments"] == ["Violin", "Cello"]


@pytest.mark.parametrize("wrong", ["kazoo", [], ["Violin"] * 5, 128, {"a": 1}, [None], ""])
def test_unknown_instruments_are_refused(gateway: TestClient, wrong: Any) -> None:
    for path, body in (("compose", {"bars": 1}), ("convert", {"file": {"notes": [[0, 4, 60]]}})):
        response = gateway.post(f"/v1/{path}", json={**body, "instruments": wrong})
        assert response.status_code == 422, response.text
        assert "instruments" in response.text


STEERED = {"bars": 4, "seed": 5, "key": "G", "mode": "minor", "density": "low", "voices": 3, "structure": "AABA"}
ASKED = {"style": None, "key": "G", "mode": "minor", "density": "low", "voices": 3, "ending": True}


def test_a_piece_is_composed_as_asked(gateway: TestClient) -> None:
    piece = gateway.post("/v1/compose", json=STEERED).json()
    with MusicClient(transport=MockTransport(FakeComposer())) as music:
        assert piece == json.loads(json.dumps(music.compose(**STEERED).to_dict()))
    assert piece["conditions"] == ASKED
    bars = [[(onset - start, *rest) for onset, *rest in piece["notes"] if start <= onset < start + 16]
            for start in range(0, 64, 16)]  # fmt: skip
    assert bars[0] == bars[1] == bars[3] != bars[2]
    in_a_form = gateway.post("/v1/compose", data={**STEERED, "ending": "false"}).json()
    assert in_a_form["conditions"] == {**ASKED, "ending": False}
    assert in_a_form["notes"] == piece["notes"]  # the fake has no endings


def test_a_stream_and_a_continuation_are_composed_as_asked(gateway: TestClient) -> None:
    piece = gateway.post("/v1/compose", json=STEERED).json()
    response = gateway.post("/v1/compose", json=STEERED, headers={"Accept": "text/event-stream"})
    streamed = json.loads(response.text.strip().splitlines()[-1].removeprefix("data: "))
    assert (streamed["notes"], streamed["conditions"]) == (piece["notes"], ASKED)
    continued = gateway.post("/v1/continue", json={**STEERED, "file": NOTES}).json()
    assert continued["conditions"] == ASKED


def test_what_is_left_open_is_that_of_a_template(start: Start) -> None:
    template = {"style": "folk", "bar": 16, "mode": 1, "density": 2, "n_voices": 2, "repeats": [0, 1]}
    gateway = start(FakeServer(FakeComposer(styles=("any", "folk"), templates=[template])))
    piece = gateway.post("/v1/compose", json={"bars": 2, "seed": 1}).json()
    known = {name: piece["conditions"][name] for name in ("style", "mode", "density", "voices")}
    assert known == {"style": "folk", "mode": "minor", "density": "medium", "voices": 2}
    assert piece["conditions"]["key"] is not None


@pytest.mark.parametrize(
    "wrong",
    [
        *({"key": key} for key in ("H", "", 12, 1.5, ["C"])),
        *({"mode": mode} for mode in ("dorian", "", 0)),
        *({"density": density} for density in ("dense", 2)),
        *({"voices": voices} for voices in (0, 7, 1.5, "many")),
        *({"structure": structure} for structure in ("", "aaba", "A B", "ABC", 65 * "A", 4)),
        {"ending": "perhaps"},
    ],
    ids=str,
)
def test_invalid_conditions_are_named(gateway: TestClient, wrong: dict[str, object]) -> None:
    for accept in ("application/json", "text/event-stream"):
        response = gateway.post("/v1/compose", json={"bars": 4, **wrong}, headers={"Accept": accept})
        assert response.status_code == 422, response.text
        problem = response.json()
        named = [problem["argument"]] if "argument" in problem else [each["argument"] for each in problem["errors"]]
        assert {argument.partition(".")[0] for argument in named} == wrong.keys()


def test_models_of_earlier_releases_refuse_conditions(start: Start) -> None:
    gateway = start(FakeServer(FakeComposer(takes_conditions=False)))
    response = gateway.post("/v1/compose", json={"bars": 1, "key": "C"})
    assert (response.status_code, response.json()["argument"]) == (422, "key")
    assert gateway.post("/v1/compose", json={"bars": 1, "ending": False}).status_code == 200


def test_a_composition_streams_as_events(gateway: TestClient) -> None:
    whole = gateway.post("/v1/compose", json={"bars": 3, "seed": 5, "model": "composer"})
    response = gateway.post("/v1/compose", json={"bars": 3, "seed": 5}, headers={"Accept": "text/event-stream"})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [
        (event.splitlines()[0].removeprefix("event: "), json.loads(event.splitlines()[1].removeprefix("data: ")))
        for event in response.text.strip().split("\n\n")
    ]
    names = [name for name, _ in events]
    assert names[0] == "start"
    assert names[-1] == "piece"
    assert set(names[1:-1]) == {"bars"}
    assert events[0][1] == {"seed": 5}
    assert sum(chunk["n_frames"] for name, chunk in events if name == "bars") == 48
    assert events[-1][1]["n_frames"] == 48
    assert whole.status_code in (200, 404, 502)  # the fake's streaming model does not compose whole pieces


def test_a_stream_that_cannot_begin_has_an_error_status(gateway: TestClient) -> None:
    response = gateway.post(
        "/v1/compose", json={"bars": 1, "stream_model": "nobody"}, headers={"Accept": "text/event-stream"}
    )
    assert response.status_code == 404
    assert response.json()["model"] == "nobody"


def test_playlists(gateway: TestClient) -> None:
    body = {"start": TRACKS[0], "n": 2, "mood": {"calmness": 0.5}, "seed": 3}
    mix = gateway.post("/v1/playlist", json=body).json()
    assert ([each["track_id"] for each in mix["tracks"]], mix["seed"]) == (list(TRACKS[:2]), 3)
    assert mix["mood"] == {"source": "given", "strengths": {"calmness": 0.5}}
    assert gateway.post("/v1/playlist", data={"start": TRACKS[0], "n": "2"}).json()["tracks"] == mix["tracks"]
    path = gateway.post("/v1/playlist", json={"start": TRACKS[0], "end": TRACKS[1], "n": 2}).json()
    assert [each["track_id"] for each in path["tracks"]] == [TRACKS[0], TRACKS[1]]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"start": TRACKS[0], "n": 0}, 422),
        ({"start": TRACKS[0], "n": 10_000}, 422),
        ({"start": TRACKS[0], "seed": -1}, 422),
        ({"start": TRACKS[0], "mood": {"calmness": "much"}}, 422),
        ({"start": TRACKS[0], "mood": {"calmness": -1}}, 422),
        ({"start": TRACKS[0], "mood": "glum"}, 422),
        ({"start": TRACKS[0], "end": TRACKS[0]}, 422),
        ({"start": "nothing"}, 404),
    ],
)
def test_invalid_playlists(gateway: TestClient, body: dict[str, object], status: int) -> None:
    refused = gateway.post("/v1/playlist", json=body)
    assert refused.status_code == status, refused.text
    assert refused.headers["content-type"] == "application/problem+json"


def test_tracks_are_recommended_with_ids(gateway: TestClient) -> None:
    result = gateway.post("/v1/recommend", json={"n": 2}).json()
    assert [track["track_id"] for track in result["recommendations"]] == list(TRACKS[:2])
    assert result["source"] == "popularity"


def test_a_history_is_taken_from_json_and_from_a_form(gateway: TestClient) -> None:
    from_json = gateway.post("/v1/recommend", json={"history": ["reel-1"], "n": 2})
    from_form = gateway.post("/v1/recommend", data={"history": "reel-1", "n": "2"})
    assert from_json.status_code == from_form.status_code == 200, (from_json.text, from_form.text)
    assert from_json.json()["recommendations"] == from_form.json()["recommendations"]


def test_tracks_are_found_by_a_query(gateway: TestClient) -> None:
    page = gateway.get("/v1/tracks", params={"q": "reel-2"}).json()
    assert [track["track_id"] for track in page["tracks"]] == ["reel-2"]


def test_tracks_are_searched_by_a_description(gateway: TestClient) -> None:
    answer = gateway.get("/v1/search", params={"q": "a calm reel", "n": 2}).json()
    assert answer["source"] == "words"
    assert len(answer["recommendations"]) <= 2
    assert gateway.get("/v1/search", params={"q": ""}).status_code == 422
    assert gateway.get("/v1/search", params={"q": "\u200b"}).status_code == 422
    assert gateway.get("/v1/search", params={"q": "x" * 10_000}).status_code == 422


def test_the_models_are_listed_with_readiness(gateway: TestClient) -> None:
    models = gateway.get("/v1/models").json()["models"]
    assert {each["name"]: each["ready"] for each in models} == {
        "composer": True,
        "genre_cnn": True,
        "inspire": True,
        "music_transformer": True,
        "recommender": True,
    }


def test_several_pieces_come_as_json_or_as_an_archive(start: Start) -> None:
    gateway = start()
    response = gateway.post("/v1/sample", json={"n": 2}, headers={"Accept": "application/zip"})
    if response.status_code == 200:
        assert len(zipfile.ZipFile(io.BytesIO(response.content)).namelist()) == 2
    else:  # no fake model samples
        assert response.status_code == 404
        assert response.json()["model"] == "music_gan"


def test_a_timeline_is_drawn(gateway: TestClient) -> None:
    response = gateway.post("/v1/classify", files={"file": tone_file()}, headers={"Accept": "image/png"})
    assert response.content.startswith(b"\x89PNG")


def test_sound_of_a_piece_has_its_length(gateway: TestClient) -> None:
    response = gateway.post("/v1/compose", json={"bars": 2, "seed": 1}, headers={"Accept": "audio/wav"})
    samples, rate_hz = soundfile.read(io.BytesIO(response.content))
    assert len(samples) / rate_hz >= 4.0


def test_notes_with_everything_left_out_are_in_four_four() -> None:
    from tritone_gateway.request_models import NoteList

    grid = NoteList(notes=[(0, 16, 60), (16, 4, 62)]).to_grid()
    assert isinstance(grid, Grid)
    assert (grid.meter, grid.time_signature, grid.n_frames, grid.tempo_qpm) == ((16, 0), (4, 4), 20, 120.0)


def test_recordings_of_tracks_are_served_from_their_folder_only(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    (folder / "ryans").mkdir(parents=True)
    (folder / "1.ogg").write_bytes(b"sound")
    MusicClient(transport=MockTransport(FakeComposer())).compose(bars=1, seed=1).save(folder / "ryans" / "reel.mid")
    (tmp_path / "secret.ogg").write_bytes(b"private sound")
    gateway = start(recordings=folder)
    assert gateway.get("/v1/tracks/1/audio").content == b"sound"
    assert gateway.get("/v1/tracks/ryans%2Freel/audio").content.startswith(b"RIFF")
    for track_id in ("2", "..%2Fsecret", "%2Fetc%2Fpasswd", "x" * 5_000, "a%00b", ".", "%2e%2e%2fsecret"):
        response = gateway.get(f"/v1/tracks/{track_id}/audio")
        assert response.status_code == 404, track_id
        assert b"private sound" not in response.content


def test_without_a_folder_there_are_no_recordings(gateway: TestClient) -> None:
    assert gateway.get("/v1/tracks/1/audio").json()["type"] == "urn:tritone:problem:no-recording"
