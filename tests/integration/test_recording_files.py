"""Recordings that are sent as files: the model that decodes them, on a real Triton, with and without the SDK."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.integration.conftest import LABELS, labels_json, make_repository
from tests.unit.client.audio_files import encoded, tone

from tritone import AsyncMusicClient, InvalidAudioError, MusicClient
from tritone_export.config import config_files
from tritone_serving import TritonServer
from tritone_serving.calls import Calls
from tritone_serving.canary import run_canary
from tritone_training.kinds.genre_cnn.declaration import FILE, FILE_MANIFEST

pytestmark = pytest.mark.triton

NAME, FILES = "wired", "wired_file"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "recordings.md"


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory, serve_models: Callable[[Path], Path]) -> None:
    folder = make_repository(tmp_path_factory.mktemp("files"), name=NAME)
    config = folder / NAME / "config.pbtxt"
    config.write_text(config.read_text() + f'parameters {{ key: "file_model" value: {{ string_value: "{FILES}" }} }}\n')
    version = folder / FILES / "1"
    version.mkdir(parents=True)
    (version / FILE_MANIFEST).write_text("{}")
    parameters = {**FILE.parameters, "classifier_model": NAME, "labels": labels_json(LABELS), "max_decode_s": "1"}
    text = config_files(replace(FILE, parameters=parameters), name=FILES)["config.pbtxt"]
    (folder / FILES / "config.pbtxt").write_text(text)
    serve_models(folder)


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, server: TritonServer) -> str:
    return server.grpc_url if request.param == "grpc" else server.http_url


def send(server: TritonServer, content: bytes) -> dict[str, Any]:
    """Send a file as a caller without the SDK does, and return the outputs by name."""
    size = {"binary_data_size": len(content) + 4}
    tensor = {"name": "recording", "shape": [1, 1], "datatype": "BYTES", "parameters": size}
    head = json.dumps({"inputs": [tensor]}).encode()
    request = urllib.request.Request(  # noqa: S310 - a server of this test
        f"{server.http_url}/v2/models/{FILES}/infer",
        data=head + len(content).to_bytes(4, "little") + content,
        headers={"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        return {each["name"]: np.reshape(each["data"], each["shape"]) for each in json.load(response)["outputs"]}


def error_of(server: TritonServer, content: bytes) -> str:
    with pytest.raises(urllib.error.HTTPError) as caught:
        send(server, content)
    assert caught.value.code == 400
    return str(json.load(caught.value)["error"])


@pytest.mark.parametrize("file_format", ["OGG", "FLAC", "MP3", "WAV"])
def test_the_sdk_sends_files(url: str, file_format: str, tmp_path: Path) -> None:
    content = encoded(tone(20), format=file_format)
    (tmp_path / "song").write_bytes(content)
    with (
        MusicClient(url, audio_format="file", genre_model=NAME) as files,
        MusicClient(url, audio_format="float32", genre_model=NAME) as floats,
    ):
        expected = floats.classify(content)
        for recording in (content, tmp_path / "song", io.BytesIO(content)):
            result = files.classify(recording)
            assert result.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
            assert result.emotions == pytest.approx(expected.emotions, abs=1e-5)
            np.testing.assert_allclose(result.embedding, expected.embedding, atol=1e-5)
            assert [each.start_s for each in result.timeline] == [each.start_s for each in expected.timeline]
            assert result.duration_s == pytest.approx(expected.duration_s)
            assert (result.model, result.model_version) == (NAME, "1")
            assert len(result.request_ids) == 1
        np.testing.assert_allclose(files.embed(content), floats.embed(content), atol=1e-5)
        assert len(files.classify_group([content, content, (tone(4), 22_050)])) == 3


def test_notes_reach_the_caller(url: str) -> None:
    content = encoded(np.stack([tone(5), -tone(5)], axis=1), format="WAV")
    with MusicClient(url, audio_format="file", genre_model=NAME) as music:
        (note,) = music.classify(content).notes
    assert "cancel" in note


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (os.urandom(5_000), "unreadable"), (encoded(tone(0.1), format="WAV"), "too_short")],
    ids=["empty", "random", "short"],
)
def test_unusable_recordings_have_the_errors_of_the_client(url: str, content: bytes, reason: str) -> None:
    with MusicClient(url, audio_format="file", genre_model=NAME) as music:
        with pytest.raises(InvalidAudioError) as caught:
            music.classify(content)
        assert caught.value.reason == reason
        (error, result) = music.classify_group([content, encoded(tone(5), format="WAV")])
    assert isinstance(error, InvalidAudioError)
    assert not isinstance(result, InvalidAudioError)


def test_recordings_beyond_a_limit_are_decoded_by_the_client(url: str) -> None:
    content = encoded(tone(1_230, 8_000), 8_000, format="WAV")
    with MusicClient(url, audio_format="file", genre_model=NAME) as music:
        result = music.classify(content)
    assert result.duration_s == pytest.approx(1_230)
    assert len(result.request_ids) > 1


def test_async_clients_send_files(url: str) -> None:
    content = encoded(tone(6), format="OGG")

    async def run() -> Any:
        async with AsyncMusicClient(url, audio_format="file", genre_model=NAME) as music:
            return await asyncio.gather(*(music.classify(content) for _ in range(6)))

    assert len({result.label for result in asyncio.run(run())}) == 1


def test_a_file_needs_no_python(server: TritonServer) -> None:
    found = send(server, encoded(tone(7), format="FLAC"))
    assert found["probabilities"].shape == (1, 3, 4)
    np.testing.assert_allclose(found["mean_probabilities"], found["probabilities"].mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found["mean_emotions"], found["emotions"].mean(axis=1), atol=1e-6)
    assert np.linalg.norm(found["embedding"]) == pytest.approx(1)
    np.testing.assert_allclose(found["start_s"], [[0, 3, 4]], atol=1e-4)
    assert found["duration_s"] == pytest.approx(7)
    assert found["notes"].tolist() == [[""]]


def test_hostile_files_are_refused_and_others_are_served(server: TritonServer) -> None:
    dense = np.zeros((655_350 * 60, 8), np.float32)
    dense[:1_000] = 0.5
    bomb = io.BytesIO()
    soundfile.write(bomb, dense, 655_350, format="FLAC")
    good = encoded(tone(4), format="OGG")
    with ThreadPoolExecutor(2) as pool:
        began_s = time.monotonic()
        refused = pool.submit(error_of, server, bomb.getvalue())
        n_served = 0
        while not refused.done():
            send(server, good)
            n_served += 1
        took_s = time.monotonic() - began_s
    assert "invalid recording (too_costly)" in refused.result()
    assert n_served >= 2
    assert took_s < 20
    for content in (b"", b"fLaC" + bytes(1_000), os.urandom(1 << 20), b"ID3\x04\0\0\x7f\x7f\x7f\x7f"):
        assert "invalid recording (" in error_of(server, content)
    assert "invalid recording (too_large)" in error_of(server, bytes(33 << 20))
    send(server, good)


def test_canaries_are_answered(server: TritonServer) -> None:
    from tritone.endpoints import make_endpoint

    with Calls(make_endpoint(server.grpc_url)) as calls:
        found = run_canary(calls, FILES, calls.config(FILES, timeout_s=10), timeout_s=10)
    assert found.outputs["probabilities"].shape == (1, 1, 4)


def test_the_commands_of_the_documentation_run(server: TritonServer, tmp_path: Path) -> None:
    (script,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.S)
    (tmp_path / "song.ogg").write_bytes(encoded(tone(7), format="OGG"))
    script = script.replace("http://localhost:8000", server.http_url).replace("genre_cnn_file", FILES)
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mean_probabilities" in done.stdout
    assert LABELS[0] in done.stdout
