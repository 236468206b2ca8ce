"""`tritone batch` over short recordings, which share requests, on a real server."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from tests.support.batch_jobs import command, rows

from tritone import MusicClient
from tritone_serving import TritonServer

pytestmark = [pytest.mark.triton, pytest.mark.slow]

N_FILES = 150
RATE_HZ = 22_050
LOUD = ("020.wav", "021.wav", "110.wav")
QUIET = "060.wav"
# Kills the server that runs it when it sees a quiet window.
DEADLY_MODEL = """
import os, signal
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            audio = pb_utils.get_input_tensor_by_name(request, "audio").as_numpy()
            if np.abs(audio).max(axis=1).min() < 0.05:
                os.kill(os.getppid(), signal.SIGKILL)
            sizes = {"probabilities": 2, "emotions": 9, "embedding": 256}
            halves = {name: np.full((len(audio), size), 0.5, np.float32) for name, size in sizes.items()}
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor(*each) for each in halves.items()]))
        return answers
"""
DEADLY_CONFIG = """
name: "genre_cnn"
backend: "python"
max_batch_size: 64
input [ {{ name: "audio" data_type: TYPE_FP32 dims: [ 66150 ] }} ]
output [ {outputs} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""
LIMITS = {"axes": {}, "inputs": {"audio": {"axes": ["sample"], "finite": True, "max": 0.5, "min": -0.5}}}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short recordings: three of them loud, one quiet, one no recording."""
    folder = tmp_path_factory.mktemp("recordings")
    noise = np.random.default_rng(3).uniform(-0.4, 0.4, 2 * RATE_HZ).astype(np.float32)
    for number in range(N_FILES):
        name = f"{number:03d}.wav"
        gain = 2.0 if name in LOUD else 0.1 if name == QUIET else 1.0
        soundfile.write(folder / name, gain * np.roll(noise, 1_000 * number), RATE_HZ)
    (folder / "broken.wav").write_bytes(b"RIFF" + bytes(100))
    return folder


def errors_in(found: pd.DataFrame) -> dict[str, str]:
    return {Path(path).name: kind for path, kind in found.set_index("path")["error_type"].dropna().items()}


def counts(server: TritonServer) -> tuple[int, int]:
    """Return the numbers of windows and of requests that the model has processed."""
    with urllib.request.urlopen(f"{server.http_url}/v2/models/genre_cnn/stats", timeout=10) as reply:  # noqa: S310
        (found,) = json.load(reply)["model_stats"]
    return found["inference_count"], found["inference_stats"]["success"]["count"]


def test_files_that_the_server_rejects_and_a_job_that_is_killed(
    make_model_repository: Any, options_for: Any, recordings: Path, tmp_path: Path
) -> None:
    repository = make_model_repository(tmp_path / "repository")
    config = repository / "genre_cnn" / "config.pbtxt"
    limits = f"parameters {{ key: \"limits\" value: {{ string_value: '{json.dumps(LIMITS)}' }} }}\n"
    config.write_text(config.read_text() + limits)
    out = tmp_path / "out"
    with TritonServer.start(options_for(repository)) as server:
        arguments = command(recordings, server.grpc_url, out, "--rows-per-part", 10, "--concurrency", 2)
        process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
        deadline_s = time.monotonic() + 60
        while not list(out.glob("*.parquet")) and time.monotonic() < deadline_s:
            time.sleep(0.005)
        process.kill()
        process.wait()
        assert rows(out)["path"].is_unique
        done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        n_windows, n_requests = counts(server)
        assert n_windows >= N_FILES - len(LOUD)
        assert n_requests < n_windows / 2
        with MusicClient(server.grpc_url) as music:
            expected = music.classify(recordings / "000.wav")
    found = rows(out)
    assert found["path"].tolist() == sorted(str(path) for path in recordings.iterdir())
    assert errors_in(found) == {**dict.fromkeys(LOUD, "rejected"), "broken.wav": "unreadable"}
    row = found.set_index("path").loc[str(recordings / "000.wav")]
    assert row["probabilities"] == pytest.approx(dict(expected.probabilities), abs=1e-5)


def test_a_file_that_kills_the_server_gets_the_error_and_no_other(
    options_for: Any, recordings: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "repository" / "genre_cnn"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(DEADLY_MODEL)
    sizes = {"probabilities": 2, "emotions": 9, "embedding": 256}
    outputs = ", ".join(f'{{ name: "{name}" data_type: TYPE_FP32 dims: [{size}] }}' for name, size in sizes.items())
    (folder / "config.pbtxt").write_text(DEADLY_CONFIG.format(outputs=outputs))
    out = tmp_path / "out"
    server = TritonServer.start(options_for(folder.parent))
    n_deaths = 0
    process = subprocess.Popen(command(recordings, server.grpc_url, out), stderr=subprocess.PIPE, text=True)
    try:
        deadline_s = time.monotonic() + 150
        while process.poll() is None and time.monotonic() < deadline_s:
            if not server.is_alive():
                n_deaths += 1
                server = server.start_again()
            time.sleep(0.02)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        server.stop()
    assert process.returncode == 0, stderr
    found = rows(out)
    assert found["path"].tolist() == sorted(str(path) for path in recordings.iterdir())
    assert errors_in(found) == {QUIET: "connection_lost", "broken.wav": "unreadable"}
    assert 4 <= n_deaths <= 8
