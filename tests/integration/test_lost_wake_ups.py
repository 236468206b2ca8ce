"""No request waits for half a second while an instance is free, as in Triton 2.51 without the fix."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.integration.conftest import MODEL, WINDOW_SAMPLES

from benchmarks.closed_loop import closed_loop
from benchmarks.http_clients import HttpClient, request_bytes
from benchmarks.triton_http import infer_call
from tritone_serving import ServerOptions, TritonServer

pytestmark = [pytest.mark.triton, pytest.mark.quiet]


def test_no_request_waits_for_a_free_instance(make_model_repository: Callable[..., Path], tmp_path: Path) -> None:
    repository = make_model_repository(
        tmp_path / "models", delay_us=0
    )  # its queue has limits, so nothing is prefetched
    window = np.zeros((1, WINDOW_SAMPLES), np.float32)
    request = request_bytes(*infer_call(MODEL, {"audio": window}, ["probabilities"]))
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, stop_timeout_s=1)
    with TritonServer.start(options) as server:
        assert "lost-wake-up" in server.binary_fixes
        connect = functools.partial(HttpClient, int(server.http_url.rpartition(":")[2]), [request])
        found = closed_loop(connect, n_clients=8, seconds=4)
    assert found.n_failed == 0
    assert found.n > 100
    assert found.max_ms < 400
