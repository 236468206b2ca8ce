"""Tests of results in JSON, pydantic models and FastAPI applications."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from fastapi import Body, FastAPI
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel, TypeAdapter, ValidationError
from tests.unit.client.midi_files import random_frames

from tritone import Classification, Grid, Piece, PieceChunk, Prediction, TimelineWindow

GRID = Grid(random_frames(3, n_frames=24, density=1), meter=(12, 8), time_signature=(6, 8), dropped={"drums": 3})


def a_piece() -> Piece:
    nll = np.linspace(0, 1, 24, dtype=np.float32)
    nll[:4] = np.nan  # of the prompt, which the model did not write
    conditions = {"style": "folk", "key": "F#", "mode": "minor", "density": None, "voices": 2, "ending": True}
    about = {"seed": 2**63 - 1, "model": "music_transformer", "model_version": "2"}
    return Piece(GRID, **about, nll=nll, conditions=conditions)


def a_chunk() -> PieceChunk:
    frames = GRID.frames[3:].copy()
    frames[0, 40] = 1  # held on from the chunk before
    grid = Grid(frames, meter=(12, 11), time_signature=(6, 8))
    return PieceChunk(3, frames, np.zeros(21, np.float32), (0, 2), grid)


def a_classification() -> Classification:
    return Classification(
        label="bach",
        probabilities={"bach": 0.75, "jig": 0.25},
        emotions=None,
        tags={"choir": np.float32(0.5)},  # type: ignore[dict-item]
        timeline=(TimelineWindow(0.0, {"bach": 0.75, "jig": 0.25}),),
        embedding=np.arange(4, dtype=np.float32),
        model="genre_cnn",
        model_version="1",
        duration_s=3.0,
        request_ids=("a", "b"),
        decode_s=0.1,
        request_s=0.2,
        notes=("one channel was used",),
    )


def a_prediction() -> Prediction:
    probabilities = np.full((24, 88), 0.125, np.float32)
    return Prediction(np.ones(24, np.float32), probabilities, GRID, "polyphony_rnn", "3")


RESULTS: list[Any] = [a_piece(), a_chunk(), a_classification(), a_prediction(), GRID]
RESULTS += [TimelineWindow(0.0, {"a": 1.0}), TimelineWindow(3.0, {"a": 1.0}, {"power": 0.5})]
ids = [type(result).__name__ for result in RESULTS]


@pytest.mark.parametrize("result", RESULTS, ids=ids)
def test_plain_values_are_json_and_give_the_result_again(result: Any) -> None:
    text = json.dumps(result.to_dict(), allow_nan=False)
    again = type(result).from_dict(json.loads(text))
    assert again.to_dict() == result.to_dict()
    assert list(result.to_dict()) == list(type(result).json_properties)


def test_windows_of_earlier_releases_have_no_emotions() -> None:
    assert TimelineWindow.from_dict({"start_s": 0, "probabilities": {"a": 1.0}}) == TimelineWindow(0.0, {"a": 1.0})


def test_nothing_of_a_piece_is_lost() -> None:
    piece = a_piece()
    again = Piece.from_dict(json.loads(json.dumps(piece.to_dict())))
    assert np.array_equal(again.grid.frames, piece.grid.frames)
    assert (again.meter, again.grid.meter, again.grid.dropped) == ((6, 8), (12, 8), {"drums": 3})
    assert (again.seed, again.model, again.model_version) == (piece.seed, piece.model, piece.model_version)
    assert again.nll is not None
    assert piece.nll is not None
    assert np.array_equal(again.nll, piece.nll, equal_nan=True)
    assert again.conditions == piece.conditions


def test_pieces_of_earlier_releases_have_no_conditions() -> None:
    plain = a_piece().to_dict()
    del plain["conditions"]
    assert Piece.from_dict(plain).conditions == {}


@pytest.mark.parametrize("conditions", [None, "C", [["key", "C"]], {"key": ["C"]}, {"key": {}}, {3: "C"}])
def test_invalid_conditions_of_a_piece(conditions: Any) -> None:
    with pytest.raises(TypeError):
        Piece.from_dict({**a_piece().to_dict(), "conditions": conditions})


def test_nothing_of_a_chunk_is_lost() -> None:
    chunk = a_chunk()
    assert 61 in chunk.to_dict()["held_pitches"]  # column 40
    again = PieceChunk.from_dict(json.loads(json.dumps(chunk.to_dict())))
    assert np.array_equal(again.frames, chunk.frames)
    assert (again.first_frame, again.bars, again.grid.meter) == (3, (0, 2), (12, 11))


def test_nothing_of_a_prediction_is_lost() -> None:
    plain = a_prediction().to_dict()
    assert np.array(plain["probabilities"]).shape == (24, 88)
    assert plain["grid"] == GRID.to_dict()


@pytest.mark.parametrize("result", RESULTS, ids=ids)
def test_pydantic_takes_the_classes_as_types(result: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(type(result))
    assert adapter.validate_python(result) is result
    assert adapter.dump_python(result) == result.to_dict()
    assert json.loads(adapter.dump_json(result)) == json.loads(json.dumps(result.to_dict()))
    assert adapter.validate_json(adapter.dump_json(result)).to_dict() == result.to_dict()
    for mode in ("validation", "serialization"):
        schema = adapter.json_schema(mode=mode)
        assert schema["title"] == type(result).__name__
        assert list(schema["properties"]) == list(result.to_dict())
    for bad in ({}, 7, None, []):
        with pytest.raises(ValidationError):
            adapter.validate_python(bad)
    for name in result.to_dict():
        for value in (object(), True, {"a": object()}, [object()]):
            with pytest.raises(ValidationError):
                adapter.validate_python({**result.to_dict(), name: value})


@pytest.mark.parametrize(
    "notes", [[[-1, 1, 60]], [[0, 0, 60]], [[0, 99, 60]], [[0, 1, 20]], [[24, 1, 60]], [["x", 1, 60]]]
)
def test_notes_that_a_grid_cannot_hold_are_refused(notes: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Piece).validate_python({**a_piece().to_dict(), "notes": notes})
    with pytest.raises(ValidationError):
        TypeAdapter(Piece).validate_python({**a_piece().to_dict(), "n_frames": 10**9})


def test_values_for_another_number_of_time_steps_are_refused() -> None:
    for result in (a_piece(), a_chunk(), a_prediction()):
        with pytest.raises(ValidationError, match=r"expected one for each of the \d+ time steps"):
            TypeAdapter(type(result)).validate_python({**result.to_dict(), "nll": [0.5]})
    with pytest.raises(ValidationError):
        TypeAdapter(Prediction).validate_python({**a_prediction().to_dict(), "probabilities": [[0.5] * 88]})


def test_entries_can_be_left_out() -> None:
    adapter = TypeAdapter(Classification)
    left = adapter.dump_python(a_classification(), exclude={"embedding", "timeline"})
    assert set(left) == set(Classification.json_properties) - {"embedding", "timeline"}
    assert adapter.dump_json(a_classification(), include={"label"}) == b'{"label":"bach"}'


def test_results_are_fields_of_models() -> None:
    class Answer(BaseModel):
        pieces: list[Piece]
        classification: Classification | None = None

    answer = Answer(pieces=[a_piece()], classification=a_classification())
    assert Answer.model_validate_json(answer.model_dump_json()).pieces[0].to_dict() == a_piece().to_dict()
    assert answer.model_dump()["classification"]["embedding"] == [0, 1, 2, 3]
    Answer.model_json_schema()


@pytest.mark.parametrize("result", RESULTS[:4], ids=ids[:4])
def test_results_are_the_answers_of_routes(result: Any) -> None:
    kind = type(result)
    app = FastAPI()
    app.get("/plain", response_model=None)(lambda: result)
    app.get("/unannotated")(lambda: {"results": [result]})
    app.get("/annotated", response_model=kind)(lambda: result)
    app.get("/list", response_model=list[kind])(lambda: [result])
    app.get("/dict", response_model=kind)(result.to_dict)

    def echo(body: Any = Body()) -> Any:  # noqa: B008
        return body

    echo.__annotations__ = {"body": kind, "return": kind}
    app.post("/echo")(echo)
    expected = json.loads(json.dumps(result.to_dict()))
    assert ask(app, "GET", "/plain") == expected
    assert ask(app, "GET", "/unannotated") == {"results": [expected]}
    assert ask(app, "GET", "/annotated") == expected
    assert ask(app, "GET", "/list") == [expected]
    assert ask(app, "GET", "/dict") == expected
    assert ask(app, "POST", "/echo", expected) == expected
    described = json.dumps(app.openapi())
    assert all(name in described for name in expected)


def ask(app: FastAPI, method: str, path: str, body: Any = None) -> Any:
    """Call an application as a server would; its test client needs a package more."""
    import asyncio

    content = b"" if body is None else json.dumps(body).encode()
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "scheme": "http",
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 200, sent
    return json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.mark.parametrize("result", RESULTS[:4], ids=ids[:4])
def test_results_remain_values(result: Any) -> None:
    for again in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result), copy.copy(result)):  # noqa: S301
        assert again.to_dict() == result.to_dict()
    assert dict(result) == result.to_dict()
    assert jsonable_encoder(result) == result.to_dict()
    assert repr(result).startswith(type(result).__name__)
    with pytest.raises(AttributeError):
        result.model = "another"


def test_the_client_does_not_import_pydantic() -> None:
    script = (
        "import sys\nfrom tritone import Classification, Grid, Piece, PieceChunk, Prediction\n"
        "Piece(Grid([[2] * 88])).to_dict()\nassert not {'pydantic', 'pydantic_core', 'fastapi'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
