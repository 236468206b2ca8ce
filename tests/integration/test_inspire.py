"""`inspire` on a real Triton: a piece, its sound, its classification and tracks like it, in one request."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.integration.conftest import EMBEDDING_SIZE, LABELS
from tests.integration.gateway import music_repository
from tests.integration.test_gateway import call
from tests.support.gateways import gateway_process
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from tritone import Inspiration, InvalidInputError, MusicClient, RequestRejectedError
from tritone.endpoints import make_endpoint
from tritone.music.render import render
from tritone.music.scores import to_score
from tritone_cli.bench.inputs import example_requests
from tritone_export import check_repository
from tritone_export.ensembles import publish_ensemble
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.calls import Calls
from tritone_serving.canary import run_canary
from tritone_training.kinds.recommender.inspire import INSPIRE

pytestmark = [pytest.mark.triton, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, serve_models: Callable[[Path], Path], server: TritonServer
) -> TritonServer:
    serve_models(music_repository(tmp_path_factory.mktemp("inspire") / "models"))
    return server


@pytest.fixture(scope="module")
def music(models: TritonServer) -> Iterator[MusicClient]:
    with MusicClient(models.grpc_url, retries=0) as client:
        yield client


@pytest.fixture
def raw(models: TritonServer) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(models.grpc_url)
    yield client
    client.close()


def send(client: triton.InferenceServerClient, model: str, inputs: dict[str, Any]) -> Any:
    tensors = []
    for name, array in inputs.items():
        kind = {"uint8": "UINT8", "int32": "INT32", "int64": "INT64", "float32": "FP32"}.get(str(array.dtype), "BYTES")
        tensor = triton.InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return client.infer(model, tensors)


def test_one_request_gives_what_the_steps_give(music: MusicClient, tmp_path: Path) -> None:
    result = music.inspire(bars=4, seed=3, n=5)
    piece = music.compose(bars=4, seed=3, n_candidates=1)
    assert result.piece.to_dict() == piece.to_dict()
    samples = render(to_score(piece.grid), rate_hz=22_050)
    soundfile.write(tmp_path / "piece.wav", samples, 22_050, subtype="FLOAT")
    heard = music.classify(tmp_path / "piece.wav")
    assert result.classification.label == heard.label
    assert set(result.classification.probabilities) == set(LABELS)
    assert result.classification.duration_s == pytest.approx(heard.duration_s, abs=1e-3)
    assert len(result.classification.timeline) == len(heard.timeline)
    for name, value in heard.probabilities.items():
        assert result.classification.probabilities[name] == pytest.approx(value, abs=1e-3)
    for one, other in zip(heard.timeline, result.classification.timeline, strict=True):
        assert one.emotions == (None if other.emotions is None else pytest.approx(other.emotions, abs=1e-3))
    assert heard.embedding.shape == result.classification.embedding.shape == (EMBEDDING_SIZE,)
    assert float(heard.embedding @ result.classification.embedding) > 0.9999
    tracks = music.recommend(audio=tmp_path / "piece.wav", n=5)
    assert result.recommendations.track_ids == tracks.track_ids
    assert result.recommendations.source == tracks.source == "audio"
    assert result.recommendations[0].title == tracks[0].title
    assert 0 < result.render_s < result.request_s


def test_prompt_and_mood(music: MusicClient) -> None:
    prompt = music.compose(bars=2, seed=1)
    result = music.inspire(prompt=prompt, bars=2, seed=5, mood="sadness")
    assert result.piece.to_dict() == music.compose(prompt=prompt, bars=2, seed=5, n_candidates=1).to_dict()
    assert (result.piece.grid.frames[:32] == prompt.grid.frames).all()
    begun = music.inspire(bars=2, seed=5, mood="sadness")
    assert (begun.piece.grid.tempo_qpm, begun.piece.grid.n_bars) == (58.0, 2)
    assert (begun.piece.grid.frames[0] == 2).sum() == 4
    assert begun.piece.to_dict() == music.inspire(bars=2, seed=5, mood="sadness").piece.to_dict()


def test_the_longest_piece_fills_64_windows(music: MusicClient) -> None:
    result = music.inspire(bars=95, seed=2)
    assert len(result.classification.timeline) <= 64
    assert result.classification.duration_s <= 192
    with pytest.raises(InvalidInputError):
        music.inspire(bars=96, seed=2)


def test_over_http(models: TritonServer, music: MusicClient) -> None:
    with MusicClient(models.http_url) as other:
        found, expected = (client.inspire(bars=2, seed=9, mood="tension", n=3) for client in (other, music))
    assert found.piece.to_dict() == expected.piece.to_dict()
    assert found.recommendations.track_ids == expected.recommendations.track_ids


def test_on_the_command_line(models: TritonServer, music: MusicClient, run_tritone: Any, tmp_path: Path) -> None:
    words = ("--mood", "power", "--bars", 1, "--seed", 4, "-n", 3, "--server", models.grpc_url)
    ended = run_tritone("inspire", *words, "--json", "-o", tmp_path / "x.wav")
    assert ended.status == 0, ended.stderr
    values = json.loads(ended.stdout)
    assert values["files"] == [str(tmp_path / "x.wav")]
    found = Inspiration.from_dict(values)
    assert found.piece.to_dict() == music.inspire(mood="power", bars=1, seed=4).piece.to_dict()
    assert len(found.recommendations) == 3


def test_the_server_refuses_invalid_requests_itself(raw: triton.InferenceServerClient) -> None:
    frames = np.zeros((1, 8, 88), np.uint8)
    frames[0, 0, 40] = 2
    valid = {"frames": frames, "frame_s": np.array([[0.125]], np.float32)}
    assert send(raw, "score_renderer", valid).as_numpy("audio").shape == (1, 66_150)
    for changes, problem in (
        ({"frame_s": np.array([[0.001]], np.float32)}, r"invalid frame_s: expected a number from 0\.0025 to 15"),
        ({"frame_s": np.array([[np.nan]], np.float32)}, "invalid frame_s"),
        ({"frames": frames * 4}, r"invalid frames.*from 0 to 2, got 8"),
        ({"frame_s": np.array([[15.0]], np.float32), "frames": np.repeat(frames, 2, axis=1)}, "at most 191 s of music"),
        ({"frames": np.zeros((1, 0, 88), np.uint8)}, "frames"),
        ({"frames": np.zeros((1, 20_000, 88), np.uint8)}, "invalid frames: expected a size of 1 to 16384"),
        ({"frames": np.zeros((2, 8, 88), np.uint8)}, "unexpected shape"),
    ):
        with pytest.raises(InferenceServerException, match=problem):
            send(raw, "score_renderer", {**valid, **changes})
    silent = send(raw, "score_renderer", {**valid, "frames": frames * 0})
    assert not silent.as_numpy("audio").any()


def test_an_error_of_a_step_reaches_the_caller(music: MusicClient, models: TritonServer) -> None:
    with Calls(make_endpoint(models.grpc_url)) as calls:
        config = calls.config("inspire", timeout_s=10)
    assert [step.model_name for step in config.ensemble_scheduling.step][1] == "score_renderer"
    with pytest.raises(InvalidInputError):
        music.inspire(mood="grumpy")
    with pytest.raises(RequestRejectedError, match=r"(unknown|invalid) mood"):
        _with_mood(music, b"grumpy")


def _with_mood(music: MusicClient, mood: bytes) -> Inspiration:
    """Send what the SDK would refuse."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tritone.operations.inspire.check_mood", lambda mood: {mood: 1.0})
        patch.setattr("tritone.operations.inspire.opening", lambda *_: None)
        patch.setattr("tritone.operations.inspire.text", lambda _: np.array([[mood]], np.object_))
        prompt = music.compose(bars=1, seed=1)
        return music.inspire(prompt=prompt, mood="grumpy")


def test_canaries_and_health_checks_pass(models: TritonServer) -> None:
    with Calls(make_endpoint(models.grpc_url)) as calls:
        for model in ("score_renderer", "inspire"):
            result = run_canary(calls, model, calls.config(model, timeout_s=10), timeout_s=30)
            assert result.outputs["duration_s"] > 0


def test_the_repository_is_clean(models: TritonServer, repository: Path) -> None:
    findings = [
        each for each in check_repository(repository).findings if each.path.parts[-2] in ("inspire", "score_renderer")
    ]
    assert findings == []


def test_example_requests_for_benchmarks_run(
    raw: triton.InferenceServerClient, repository: Path, models: TritonServer
) -> None:
    for model in ("score_renderer", "inspire"):
        config = raw.get_model_config(model, as_json=True)["config"]
        requests = example_requests(config, repository, n=2).requests
        assert len(requests) == 2
        for each in requests:
            assert send(raw, model, dict(each)).as_numpy("duration_s") > 0


def test_a_config_of_another_release_is_the_reason_why_the_model_does_not_load(
    tmp_path: Path, options_for: Callable[..., ServerOptions]
) -> None:
    from tritone_export.renderer import publish_renderer

    publish_renderer(tmp_path)
    config = tmp_path / "score_renderer" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "frame_s"', 'name: "tempo"').replace("frame_s", "tempo"))
    with pytest.raises(
        Exception, match=r"invalid inputs in config\.pbtxt: expected frame_s, frames, got frames, tempo"
    ):
        TritonServer.start(options_for(tmp_path)).stop()


def test_the_gateway_answers_as_the_sdk(models: TritonServer, music: MusicClient, tmp_path: Path) -> None:
    with gateway_process(models.grpc_url, tmp_path / "keys.json") as url:
        status, body, headers = call(f"{url}/v1/inspire", {"bars": 4, "seed": 3, "n": 5, "mood": "power"})
        assert status == 200, body
        found = Inspiration.from_dict(body)
        expected = music.inspire(bars=4, seed=3, n=5, mood="power")
        assert found.piece.to_dict() == expected.piece.to_dict()
        assert found.recommendations.track_ids == expected.recommendations.track_ids
        assert re.fullmatch(r"model;dur=[\d.]+, render;dur=[\d.]+", headers["server-timing"])
        for accept, beginning in (("audio/midi", b"MThd"), ("audio/wav", b"RIFF")):
            status, content, _ = call(f"{url}/v1/inspire", {"bars": 2, "seed": 3}, Accept=accept)
            assert (status, content[:4]) == (200, beginning)


def test_its_versions_follow_each_other(tmp_path: Path) -> None:
    for version in ("1", "2"):
        assert publish_ensemble(INSPIRE, tmp_path).name == version
    assert [path.name for path in (tmp_path / "score_renderer").glob("[0-9]*")] == ["1"]
