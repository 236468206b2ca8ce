"""Music through a real server: tiny models of every kind that writes, asked by the SDK.

What the server answers is held against ONNX Runtime in this process and against PyTorch, on the very inputs that
the SDK sent: notes must be equal, alone and in a batch with strangers.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import symusic
import torch
from tests.integration.python_models import wait_until
from tests.support import music_models

from tritone import (
    AsyncMusicClient,
    Grid,
    InferRequest,
    InferResponse,
    InvalidInputError,
    MusicClient,
    Piece,
    Request,
    Response,
    StreamRequest,
    to_grid,
)
from tritone.endpoints import make_endpoint
from tritone.music.grid import LOWEST_PITCH
from tritone.music.voice_leading import count_parallels, sounding_columns
from tritone.transports import make_transport
from tritone_serving import TritonServer

pytestmark = pytest.mark.triton
KINDS = ("polyphony_rnn", "music_transformer", "music_vae", "music_gan")
N_SEEDS = 200
N_ALONE = 20
N_THREADS = 16
Array = np.ndarray[Any, Any]


class Recording:
    """A real transport that keeps what it carried."""

    def __init__(self, url: str) -> None:
        self._inner = make_transport(make_endpoint(url))
        self.seen: list[tuple[InferRequest, InferResponse]] = []

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        response = self._inner.handle(request, timeout_s=timeout_s)
        if isinstance(request, InferRequest) and isinstance(response, InferResponse):
            self.seen.append((request, response))
        return response

    def stream(self, request: StreamRequest, *, timeout_s: float) -> Any:
        return self._inner.stream(request, timeout_s=timeout_s)

    def close(self) -> None:
        self._inner.close()


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """What was exported, by the name of the model."""
    return {name: one for kind in KINDS for name, one in music_models.served(kind).exportables.items()}


@pytest.fixture(scope="module")
def music_server(server: TritonServer, serve_models: Any, models: dict[str, Any]) -> TritonServer:
    serve_models(music_models.served(KINDS[0]).repository)
    return server


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, music_server: TritonServer) -> str:
    return music_server.grpc_url if request.param == "grpc" else music_server.http_url


@pytest.fixture
def music(music_server: TritonServer) -> Iterator[MusicClient]:
    with MusicClient(music_server.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def tune() -> Path:
    return next((music_models.tunes() / "chorale").glob("*.mid"))


def in_process(model: str) -> Callable[[InferRequest], dict[str, Array]]:
    """ONNX Runtime on a served model's file."""
    path = music_models.served(KINDS[0]).repository / model / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    scalars = {tensor.name for tensor in session.get_inputs() if len(tensor.shape) == 1}

    def run(request: InferRequest) -> dict[str, Array]:
        inputs = {name: array[:, 0] if name in scalars else array for name, array in request.inputs.items()}
        return dict(zip(request.outputs, session.run(list(request.outputs), inputs), strict=True))

    return run


def in_pytorch(exportable: Any, requests: list[InferRequest]) -> dict[str, Array]:
    """PyTorch on the inputs of requests that have the same shapes, as one batch."""
    inputs = []
    for tensor in exportable.declaration.inputs:
        array = np.concatenate([request.inputs[tensor.name] for request in requests])
        inputs.append(torch.from_numpy(array[:, 0] if not tensor.axes else array))
    with torch.inference_mode():
        answers = exportable.network(*inputs)
    answers = answers if isinstance(answers, tuple) else (answers,)
    names = [tensor.name for tensor in exportable.declaration.outputs]
    return {name: answer.numpy() for name, answer in zip(names, answers, strict=True)}


# --- the same seed, the same notes ---------------------------------------------------------------

MOST_ROUNDED = 0.01  # of the pieces; measured: none or one of 200

WAYS: dict[str, Callable[[MusicClient, int], Any]] = {
    "music_transformer": lambda music, seed: music.compose(
        bars=2,
        seed=seed,
        style="chorale",
        key=seed % 12,
        mode=("major", "minor")[seed % 2],
        voices=1 + seed % 6,
        density=("low", "medium", "high")[seed % 3],
        structure=("AA", "AB", None)[seed % 3],
        ending=seed % 5 > 0,
        n_candidates=1,
    ),
    "polyphony_rnn_sampler": lambda music, seed: music.compose(
        bars=2, seed=seed, model="polyphony_rnn", top_k=40, n_candidates=1
    ),
    "music_vae_decoder": lambda music, seed: music.sample("music_vae", 1, seed, note_density=1.0),
    "music_gan": lambda music, seed: music.sample("music_gan", 1, seed, key=seed % 12, mode="minor", truncation=0.9),
}


@pytest.mark.parametrize("model", WAYS)
def test_200_seeds_among_strangers(music_server: TritonServer, models: dict[str, Any], model: str) -> None:
    runs_before = n_runs(music_server, model)
    seen = ask(music_server, model, range(N_SEEDS), n_threads=N_THREADS)
    assert n_runs(music_server, model) - runs_before < N_SEEDS, "no two requests met in a batch"
    check(models[model], seen)


@pytest.mark.parametrize("model", WAYS)
def test_seeds_alone(music_server: TritonServer, models: dict[str, Any], model: str) -> None:
    # Other seeds than above: the response cache would answer those.
    runs_before = n_runs(music_server, model)
    seen = ask(music_server, model, range(1_000, 1_000 + N_ALONE), n_threads=1)
    # A run is counted after its response was sent.
    assert wait_until(lambda: n_runs(music_server, model) - runs_before == N_ALONE, 5) < 5
    check(models[model], seen)


def ask(server: TritonServer, model: str, seeds: range, *, n_threads: int) -> list[tuple[InferRequest, InferResponse]]:
    """What went to the model and came from it, one request a seed."""
    recording = Recording(server.grpc_url)
    with MusicClient(transport=recording) as client, ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(lambda seed: WAYS[model](client, seed), seeds))
    seen = [each for each in recording.seen if each[0].model == model]
    assert len(seen) == len(seeds)
    return seen


def check(exportable: Any, seen: list[tuple[InferRequest, InferResponse]]) -> None:
    """Hold the answers against ONNX Runtime, each alone, and against PyTorch, all together."""
    output = "frames" if "frames" in seen[0][0].outputs else "voices"
    run = in_process(seen[0][0].model)
    answers = np.concatenate([response.outputs[output] for _, response in seen])
    alone = np.concatenate([run(request)[output] for request, _ in seen])
    in_torch = in_pytorch(exportable, [request for request, _ in seen])[output]
    for other in (alone, in_torch):
        # Sums are rounded differently: a choice whose noise is that near to a boundary may be another one.
        n_different = int((answers != other).any(axis=(1, 2)).sum())
        assert n_different <= MOST_ROUNDED * len(seen)
    assert len({answer.tobytes() for answer in answers}) > len(seen) / 2, "seeds hardly matter"


def n_runs(server: TritonServer, model: str) -> int:
    """How often the model has run, a batch being one run."""
    with urllib.request.urlopen(f"{server.http_url}/v2/models/{model}/stats", timeout=10) as answer:  # noqa: S310
        (stats,) = json.loads(answer.read())["model_stats"]
    return int(stats["execution_count"])


@pytest.mark.parametrize("n_prompt", [0, 5, 40])
def test_streamed_as_unstreamed(music: MusicClient, tune: Path, n_prompt: int) -> None:
    prompt = Grid(to_grid(tune).frames[:n_prompt], meter=(16, 0)) if n_prompt else None
    for seed in range(5):
        whole = music.compose(prompt=prompt, bars=3, seed=seed, temperature=1.1, style="dance", n_candidates=1)
        with music.stream_compose(prompt=prompt, bars=3, seed=seed, temperature=1.1, style="dance") as stream:
            chunks = list(stream)
        np.testing.assert_array_equal(stream.result().grid.frames, whole.grid.frames)
        np.testing.assert_allclose(stream.result().nll, whole.nll, atol=1e-3)
        new = np.concatenate([chunk.frames for chunk in chunks])
        np.testing.assert_array_equal(Grid(whole.grid.frames[n_prompt:]).frames, Grid(new).frames)


# --- every call, over both protocols -------------------------------------------------------------


@pytest.mark.parametrize("structure", ["AABA", "ABCDEFGA"])
def test_a_steered_piece_is_the_same_streamed(music: MusicClient, tune: Path, structure: str) -> None:
    for prompt in (None, tune):
        for seed in range(3):
            asked: dict[str, Any] = {
                "prompt": prompt, "bars": 8, "seed": seed, "key": "G", "mode": "minor", "density": "high", "voices": 3,
                "structure": structure,
            }  # fmt: skip
            whole = music.compose(**asked, n_candidates=1)
            with music.stream_compose(**asked) as stream:
                assert list(stream)
            np.testing.assert_array_equal(stream.result().grid.frames, whole.grid.frames)
            assert stream.result().conditions == whole.conditions
            assert (whole.conditions["key"], whole.conditions["voices"]) == ("G", 3)
            other = music.compose(**{**asked, "structure": None}, n_candidates=1)
            assert (other.grid.frames != whole.grid.frames).any()


def test_polyphony_rnn_takes_the_conditions(url: str, tune: Path) -> None:
    with MusicClient(url) as music:
        asked: dict[str, Any] = {"bars": 4, "seed": 2, "key": "Eb", "mode": "minor", "voices": 2, "structure": "AA"}
        piece = music.compose(**asked, model="polyphony_rnn")
        assert (piece.conditions["key"], piece.conditions["mode"], piece.conditions["voices"]) == ("Eb", "minor", 2)
        for changed in ({"key": "E"}, {"structure": None}, {"ending": False}, {"voices": 4}):
            other = music.compose(**{**asked, **changed}, model="polyphony_rnn")
            assert (other.grid.frames != piece.grid.frames).any(), changed
        final = piece.grid.frames[-2 * piece.grid.frames_per_quarter :]  # the last half bar
        assert (final > 0).any()
        for frame in final[(final > 0).any(axis=1)]:
            assert (np.flatnonzero(frame)[0] + LOWEST_PITCH) % 12 == 3  # Eb is the lowest note
        continued = music.compose(prompt=tune, bars=2, seed=3, model="polyphony_rnn")
        assert continued.conditions["ending"] is True


def test_polyphony_rnn_never_falls_silent(url: str, tune: Path) -> None:
    """Whatever the network has learned: rests are no longer than in the training pieces."""
    with MusicClient(url) as music:
        for seed in range(6):
            for prompt in (None, tune):
                piece = music.compose(prompt=prompt, bars=4, seed=seed, model="polyphony_rnn")
                n_new = 16 * piece.grid.frames_per_quarter
                new = piece.grid.frames[-n_new:]
                sounding = np.flatnonzero((new > 0).any(axis=1))
                assert sounding.size
                assert n_new - 1 - sounding[-1] < 4 * piece.grid.frames_per_quarter  # it goes on to its last bar


def test_candidates(url: str) -> None:
    with MusicClient(url) as music:
        for seed in range(4):
            numbers = (1, 2, 4, 8)
            pieces = [music.compose(bars=2, seed=seed, key="C", n_candidates=n) for n in numbers]
            unmet = [piece.n_unmet for piece in pieces]
            assert unmet == sorted(unmet, reverse=True)  # more candidates include the same ones as fewer
            for fewer, more in pairwise(pieces):
                assert more.n_unmet < fewer.n_unmet or more.to_dict() == fewer.to_dict()


def test_compose(url: str, tune: Path) -> None:
    with MusicClient(url) as music:
        for model in ("music_transformer", "polyphony_rnn"):
            piece = music.compose(prompt=tune, bars=2, seed=3, model=model)
            given = to_grid(tune, frames_per_quarter=piece.grid.frames_per_quarter)
            np.testing.assert_array_equal(piece.grid.frames[: given.n_frames], given.frames)
            assert piece.grid.n_bars == given.n_bars + 2
            assert piece.model_version == "1"


def test_harmonize(url: str, tune: Path) -> None:
    melody = _melody(tune)
    with MusicClient(url) as music:
        piece = music.harmonize(melody, seed=3, style="chorale", n_candidates=1)
        with pytest.raises(InvalidInputError, match="notes at once"):
            music.harmonize(tune)
        np.testing.assert_array_equal(
            music.harmonize(tune, highest=True, seed=3, style="chorale", n_candidates=1).grid.frames, piece.grid.frames
        )
        chosen = music.harmonize(melody, seed=3, style="chorale", n_candidates=16)
        again = music.harmonize(melody, seed=3, style="chorale", n_candidates=16)
        np.testing.assert_array_equal(chosen.grid.frames, again.grid.frames)
        assert (piece.achieved["ending"], -_n_parallels(piece)) <= (chosen.achieved["ending"], -_n_parallels(chosen))
    sounding = piece.grid.frames > 0
    tops = 87 - sounding[:, ::-1].argmax(axis=1)
    np.testing.assert_array_equal(tops, melody.frames.argmax(axis=1))
    np.testing.assert_array_equal(piece.grid.frames[np.arange(64), tops], melody.frames.max(axis=1))


def _n_parallels(piece: Piece) -> int:
    return count_parallels(sounding_columns(piece.grid.frames))[0]


def _melody(tune: Path) -> Grid:
    from tritone.operations.plan import highest_voice

    grid = to_grid(tune)
    return Grid(highest_voice(grid.frames), meter=grid.meter)


def test_infill(url: str, tune: Path) -> None:
    given = to_grid(tune)
    with MusicClient(url) as music:
        piece = music.infill(tune, bars=(1, 3), seed=3)
        assert (piece.grid.frames[16:48] != music.infill(tune, bars=(1, 3), seed=4).grid.frames[16:48]).any()
    np.testing.assert_array_equal(piece.grid.frames[:16], given.frames[:16])
    np.testing.assert_array_equal(piece.grid.frames[48:] > 0, given.frames[48:] > 0)


def test_predict(url: str, tune: Path) -> None:
    recording = Recording(url)
    with MusicClient(transport=recording) as music:
        prediction = music.predict(tune)
        joint = music.predict(tune, model="music_transformer")
    (request, _), _ = recording.seen
    expected = in_process("polyphony_rnn")(request)
    np.testing.assert_allclose(prediction.nll, expected["nll"][0], atol=1e-4)
    np.testing.assert_allclose(prediction.probabilities, expected["probabilities"][0], atol=1e-5)
    assert prediction.nll_per_frame == pytest.approx(float(expected["nll"].mean()), abs=1e-4)
    assert joint.n_frames == 64
    assert np.isfinite(joint.nll).all()


def test_a_long_score_is_predicted_in_one_request(music: MusicClient) -> None:
    frames = np.zeros((16_000, 88), np.uint8)
    frames[::2, 30:60:7] = 1
    assert music.predict(Grid(frames, 2)).n_frames == 16_000


def test_through_the_latent_space(url: str, tune: Path) -> None:
    other = sorted((music_models.tunes() / "dance").glob("*.mid"))[0]
    with MusicClient(url) as music:
        again = music.reconstruct(tune, seed=1)
        assert (again.grid.n_frames, again.grid.meter) == (64, (16, 0))
        pieces = music.interpolate(tune, other, steps=4, seed=1)
        np.testing.assert_array_equal(pieces[0].grid.frames, again.grid.frames)
        np.testing.assert_array_equal(pieces[-1].grid.frames, music.reconstruct(other, seed=1).grid.frames)
        for attribute in ("note_density", "pitch_range", "rhythmic_complexity"):
            assert music.vary(tune, attribute=attribute, amount=2, seed=1).grid.n_frames == 64
        still = music.vary(tune, attribute="note_density", amount=0, seed=1)
        np.testing.assert_array_equal(still.grid.frames, again.grid.frames)


@pytest.mark.parametrize("model", ["music_gan", "music_vae"])
def test_sample(url: str, model: str) -> None:
    with MusicClient(url) as music:
        pieces = music.sample(model, n=70, seed=9)  # more than one request holds
        for piece in pieces[::23]:
            (again,) = music.sample(model, n=1, seed=piece.seed)
            np.testing.assert_array_equal(again.grid.frames, piece.grid.frames)


def test_any_midi_file(music: MusicClient, tmp_path: Path) -> None:
    """Several tracks, drums, tempo changes, another resolution, thick chords."""
    score = symusic.Score(96)
    for program, pitches in ((0, range(40, 90, 3)), (40, (60,)), (0, (5, 120))):
        track = symusic.Track("", program, False)
        for beat in range(8):
            for pitch in pitches:
                track.notes.append(symusic.Note(96 * beat, 90, pitch, 70))
        score.tracks.append(track)
    drums = symusic.Track("", 0, True)
    drums.notes.append(symusic.Note(0, 10, 38, 90))
    score.tracks.append(drums)
    score.tempos.append(symusic.Tempo(0, 100))
    score.tempos.append(symusic.Tempo(200, 150))
    path = tmp_path / "band.mid"
    score.dump_midi(path)
    piece = music.compose(prompt=path, bars=1, seed=1)
    assert {"drums", "out_of_range", "tempo_changes", "unread_notes"} <= set(piece.grid.dropped)
    assert music.reconstruct(path).grid.dropped["beyond_four_voices"] > 0
    assert music.predict(path).n_frames > 0
    for name in ("x.mid", "x.wav"):
        assert piece.save(tmp_path / name).stat().st_size > 100


async def test_asyncio(music_server: TritonServer, tune: Path) -> None:
    async with AsyncMusicClient(music_server.grpc_url) as music:
        pieces = await asyncio.gather(*(music.compose(bars=1, seed=seed) for seed in range(8)))
        (again,) = await asyncio.gather(music.compose(bars=1, seed=5))
        np.testing.assert_array_equal(pieces[5].grid.frames, again.grid.frames)
        async with music.stream_compose(bars=1, seed=5) as stream:
            assert [chunk.first_frame async for chunk in stream] == [0, 4]
        np.testing.assert_array_equal(stream.result().grid.frames, again.grid.frames)
        assert (await music.predict(tune)).n_frames > 0


def test_the_command_line(music_server: TritonServer, tune: Path, tmp_path: Path) -> None:
    for words in (("compose", "--bars", "1", "--stream"), ("harmonize", str(tune), "--highest"), ("sample", "-n", "2")):
        command = [
            sys.executable,
            "-m",
            "tritone_cli",
            *words,
            "--server",
            music_server.grpc_url,
            "--json",
            "-o",
            "x.mid",
        ]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
        assert ended.returncode == 0, ended.stderr
        answer = json.loads(ended.stdout)
        assert all((tmp_path / file).is_file() for piece in answer.get("pieces", [answer]) for file in piece["files"])


@pytest.mark.parametrize("model", ["music_transformer", "composer", "polyphony_rnn", "music_vae", "music_gan"])
def test_the_listening_test_of_every_writer(
    music_server: TritonServer, run_tritone: Callable[..., Any], tmp_path: Path, model: str
) -> None:
    ended = run_tritone(
        "listen-test", model, "--server", music_server.grpc_url, "--bars", 2, "--seeds", 3, "--json",
        "--data", music_models.tunes(), "--save", tmp_path / "pieces",
    )  # fmt: skip
    assert ended.status == 0, ended.stderr
    (length,) = json.loads(ended.stdout)["lengths"]
    assert (length["n_bars"], length["n_pieces"]) == (2, 3)
    assert length["measures"]["n_bars"]["generated"]["mean"] == 2
    assert length["measures"]["key_clarity"]["real"]["n"] > 0
    files = run_tritone(
        "listen-test", "--files", tmp_path / "pieces", "--bars", 2, "--json", "--data", music_models.tunes()
    )
    assert files.status == 0, files.stderr
    again = json.loads(files.stdout)["lengths"][0]["measures"]
    for name in ("pitch_range", "note_density", "cadence"):  # the files are the pieces
        assert again[name]["generated"] == length["measures"][name]["generated"]


def test_the_listening_test_of_harmonizations(music_server: TritonServer, run_tritone: Callable[..., Any]) -> None:
    ended = run_tritone(
        "listen-test", "music_transformer", "--task", "harmonize", "--server", music_server.grpc_url, "--seeds", 3,
        "--json", "--data", music_models.tunes(),
    )  # fmt: skip
    assert ended.status == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["real_style"] == "chorale"
    for group in result["groups"]:
        assert group["measures"]["accompanied"]["generated"]["mean"] == 1
        assert group["measures"]["nll"]["generated"]["n"] == group["n_pieces"]


def test_models_that_do_not_write_are_named_by_the_listening_test(
    music_server: TritonServer, run_tritone: Callable[..., Any]
) -> None:
    ended = run_tritone("listen-test", "nobody", "--server", music_server.grpc_url, "--data", music_models.tunes())
    assert ended.status == 1
    assert "nobody" in ended.stderr
