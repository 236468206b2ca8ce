"""The GPU profile on a real GPU. TRITONE_GPU_REPOSITORY names a repository of exported models.

With TRITONE_GPU_DRY_RUN, the same on the CPU: the profile `cpu`, without the metrics of a GPU.
"""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tritonclient.http as triton

from tritone import MusicClient
from tritone.constants import GENRE_MODEL, SAMPLE_RATE_HZ
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.repository import newest_version

REPOSITORY = Path(os.environ.get("TRITONE_GPU_REPOSITORY", ""))
DRY_RUN = bool(os.environ.get("TRITONE_GPU_DRY_RUN"))
OUTPUTS = ("probabilities", "emotions", "embedding")
TOLERANCE = 0.02  # of half precision; single precision is within 0.001
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.triton,
    pytest.mark.skipif(
        newest_version(REPOSITORY / GENRE_MODEL) is None,
        reason="TRITONE_GPU_REPOSITORY names no repository with a version of genre_cnn",
    ),
]


@pytest.fixture(scope="module")
def gpu_server() -> Iterator[TritonServer]:
    options = ServerOptions(
        repository=REPOSITORY, models=(GENRE_MODEL,), profile="cpu" if DRY_RUN else "gpu", http_port=0, grpc_port=0,
        metrics_port=0, events="off",
    )  # fmt: skip
    with TritonServer.start(options) as server:
        yield server


def test_instances_run_on_the_gpu(gpu_server: TritonServer) -> None:
    with triton.InferenceServerClient(gpu_server.http_url.removeprefix("http://")) as client:
        config = client.get_model_config(GENRE_MODEL)
    assert {group["kind"] for group in config["instance_group"]} == {"KIND_CPU" if DRY_RUN else "KIND_GPU"}


@pytest.mark.parametrize("n", [1, 8, 64])
def test_outputs_are_those_of_the_cpu(gpu_server: TritonServer, n: int) -> None:
    windows = np.random.default_rng(n).normal(0, 0.1, (n, 66_150)).astype(np.float32)
    version = newest_version(REPOSITORY / GENRE_MODEL)
    assert version is not None
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    tensor = triton.InferInput("audio", windows.shape, "FP32")
    tensor.set_data_from_numpy(windows)
    with triton.InferenceServerClient(gpu_server.http_url.removeprefix("http://"), network_timeout=60) as client:
        response = client.infer(GENRE_MODEL, [tensor])
    for name, expected in zip(OUTPUTS, session.run(OUTPUTS, {"audio": windows}), strict=True):
        np.testing.assert_allclose(response.as_numpy(name), expected, atol=TOLERANCE)


def test_the_sdk_classifies(gpu_server: TritonServer) -> None:
    clip = np.random.default_rng(0).normal(0, 0.1, 5 * SAMPLE_RATE_HZ).astype(np.float32)
    with MusicClient(gpu_server.grpc_url) as music:
        found = music.classify((clip, SAMPLE_RATE_HZ))
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=0.01)


@pytest.mark.skipif(DRY_RUN, reason="a dry run has no GPU")
def test_metrics_of_the_gpu(gpu_server: TritonServer) -> None:
    with urllib.request.urlopen(gpu_server.metrics_url, timeout=10) as response:  # noqa: S310  - an http:// address
        text = response.read().decode()
    used = re.findall(r"^nv_gpu_memory_used_bytes\{.*?\} (\S+)$", text, re.M)
    assert used
    assert all(float(value) > 0 for value in used)
