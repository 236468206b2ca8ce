"""The latency of a candidate version: one that is slower is refused, one that the load delays for a while is not."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2

from tritone_serving import RefusedVersionError
from tritone_serving.calls import Answer, Calls
from tritone_serving.trial import Bounds, try_version

pytestmark = pytest.mark.usefixtures("no_pause")
BOUNDS = Bounds(n_canaries=4, slack_s=0.01)
DELAY_S = 0.05


class Server:
    """Responds to the requests of a trial; the first `n_delayed` ones to the candidate take longer."""

    def __init__(self, n_delayed: int) -> None:
        self.n_delayed = n_delayed
        self.n_requests = 0

    def models(self, *, timeout_s: float) -> dict[str, int]:
        return {"model": 1}

    def config(self, model: str, *, timeout_s: float) -> Any:
        made = model_config_pb2.ModelConfig(name=model, max_batch_size=8)
        made.input.add(name="x", data_type=model_config_pb2.TYPE_FP32, dims=[2])
        made.output.add(name="y", data_type=model_config_pb2.TYPE_FP32, dims=[2])
        return made

    def infer(self, model: str, inputs: Mapping[str, np.ndarray[Any, Any]], **options: Any) -> Answer:
        if model == "model.candidate":
            self.n_requests += 1
            if self.n_requests <= self.n_delayed:
                time.sleep(DELAY_S)
        return Answer("1", {"y": np.zeros((1, 2), np.float32)})


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritone_serving.trial._PAUSE_S", 0)


def try_on(server: Server) -> Any:
    return try_version(cast(Calls, server), "model", "model.candidate", bounds=BOUNDS)


def test_a_candidate_that_is_delayed_for_a_while_passes() -> None:
    server = Server(n_delayed=2 * BOUNDS.n_canaries)
    tried = try_on(server)
    assert server.n_requests == 3 * BOUNDS.n_canaries
    assert tried.median_s < DELAY_S


def test_a_slower_candidate_is_refused() -> None:
    server = Server(n_delayed=1000)
    with pytest.raises(RefusedVersionError, match=r"ms where the live version takes .*\(--max-slowdown\)"):
        try_on(server)
    assert server.n_requests == 3 * BOUNDS.n_canaries


def test_a_fast_candidate_is_measured_once() -> None:
    server = Server(n_delayed=1)  # a slow first request does not count
    try_on(server)
    assert server.n_requests == BOUNDS.n_canaries
