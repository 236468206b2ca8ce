"""Percentiles of request times in Triton's metrics."""

from __future__ import annotations

import math
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.integration import python_models

from tritone.endpoints import make_endpoint
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.calls import Calls
from tritone_serving.server.command import LATENCY_QUANTILES

pytestmark = pytest.mark.triton

SUMMARIES = ("request", "queue", "compute_input", "compute_infer", "compute_output")
LINE = r'nv_inference_(\w+)_summary_us\{{model="{}",version="1",quantile="([\d.]+)"\}} (\S+)'
DOCUMENT = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text()


def percentiles(server: TritonServer, model: str) -> dict[str, dict[str, float]]:
    """Return a model's microseconds by summary and quantile."""
    with urllib.request.urlopen(server.metrics_url, timeout=5) as reply:  # noqa: S310  - the server's own address
        text = reply.read().decode()
    found: dict[str, dict[str, float]] = {}
    for name, quantile, value in re.findall(LINE.format(model), text):
        found.setdefault(name, {})[quantile] = float(value)
    return found


def test_every_summary_has_its_percentiles(options_for: Callable[..., ServerOptions], tmp_path: Path) -> None:
    # Triton leaves the summary of whole requests out for a model with a response cache, as the session's server has.
    repository = python_models.make_repository(tmp_path, used=2, idle=1)
    with TritonServer.start(options_for(repository)) as server:
        calls = Calls(make_endpoint(server.grpc_url))
        try:
            for _ in range(20):
                calls.infer("used", {"x": np.ones((1, 1), np.float32)}, timeout_s=20)
        finally:
            calls.close()
        used, idle = percentiles(server, "used"), percentiles(server, "idle")
    quantiles = {each.partition(":")[0] for each in LATENCY_QUANTILES.split(",")}
    assert quantiles == {"0.5", "0.9", "0.95", "0.99"}
    assert {name: set(values) for name, values in used.items()} == dict.fromkeys(SUMMARIES, quantiles)
    assert all(math.isfinite(value) for values in used.values() for value in values.values())
    assert 0 < used["request"]["0.5"] <= used["request"]["0.9"] <= used["request"]["0.99"]
    assert all(math.isnan(value) for values in idle.values() for value in values.values())


def test_the_percentiles_are_documented() -> None:
    named = re.findall(r"`(?:nv_inference|\.\.\.)_(\w+)_summary_us`", DOCUMENT)
    assert set(named) == set(SUMMARIES)
    assert LATENCY_QUANTILES in DOCUMENT
