"""The latency of a candidate version: one that is slower is refused, one that load delays for a while is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2

from tritone_serving import RefusedVersionError
from tritone_serving.calls import Answer, Calls
from tritone_serving.trial import Bounds, Trial, try_version

BOUNDS = Bounds(n_canaries=4, max_slowdown=2, slack_s=0.001)


class Server:
    """Responds after a time of its own clock.

    Args:
        seconds: latency of the candidate's requests in each round.
        live_seconds: latency of those of the live version.
    """

    def __init__(self, seconds: tuple[float, float, float], live_seconds: tuple[float, float, float]) -> None:
        self.latency_s = {"model.candidate": seconds, "model": live_seconds}
        self.n_requests = {"model.candidate": 0, "model": 0}
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def models(self, *, timeout_s: float) -> dict[str, int]:
        return {"model": 1}

    def config(self, model: str, *, timeout_s: float) -> Any:
        made = model_config_pb2.ModelConfig(name=model, max_batch_size=8)
        made.input.add(name="x", data_type=model_config_pb2.TYPE_FP32, dims=[2])
        made.output.add(name="y", data_type=model_config_pb2.TYPE_FP32, dims=[2])
        return made

    def infer(self, model: str, inputs: Mapping[str, np.ndarray[Any, Any]], **options: Any) -> Answer:
        self.now_s += self.latency_s[model][self.n_requests[model] // BOUNDS.n_canaries]
        self.n_requests[model] += 1
        return Answer("1", {"y": np.zeros((1, 2), np.float32)})


def try_on(server: Server, monkeypatch: pytest.MonkeyPatch) -> Trial:
    monkeypatch.setattr("tritone_serving.canary.time", server)
    monkeypatch.setattr("tritone_serving.trial.time", server)
    return try_version(cast(Calls, server), "model", "model.candidate", bounds=BOUNDS)


def test_a_candidate_as_fast_as_the_live_version_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server((0.02, 9, 9), (0.01, 9, 9))
    tried = try_on(server, monkeypatch)
    assert (tried.median_s, tried.live_median_s) == pytest.approx((0.02, 0.01))
    assert server.n_requests == {"model.candidate": 4, "model": 4}


def test_a_candidate_that_load_delays_for_a_while_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server((0.5, 0.4, 0.01), (0.01, 0.01, 0.01))
    assert try_on(server, monkeypatch).median_s == pytest.approx(0.01)
    assert server.n_requests == {"model.candidate": 12, "model": 12}


@pytest.mark.parametrize("live_seconds", [(0.01, 0.01, 0.01), (0.01, 0.5, 0.5)])
def test_a_slower_candidate_is_refused_also_if_load_delays_the_live_version(
    live_seconds: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        RefusedVersionError, match=r"it takes 30\.0 ms where the live version takes 10\.0 ms.*\(--max-slowdown\)"
    ):
        try_on(Server((0.03, 0.04, 0.05), live_seconds), monkeypatch)
