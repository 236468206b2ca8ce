"""Dashboard, alerts and the autoscaler's rule name metrics that exist: Triton's, our backends' and HAProxy's."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.deploy.balancing import Balancer, wait_until
from tests.deploy.rendering import KUBERNETES, ROOT
from tests.integration.conftest import make_repository
from tests.integration.test_response_cache import write_model

from tritone_gateway.metrics import Metrics
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.server.command import LATENCY_QUANTILES
from tritone_serving.server.options import RESPONSE_CACHE_BYTES
from tritone_serving.supervision.metrics import SupervisorMetrics

BOARD = ROOT / "docker/grafana/dashboards/tritone.json"
NAME = re.compile(r"\b(?:nv|tritone|haproxy)_[a-z0-9_]+\b")
LABEL = re.compile(r"\bby \(([^)]*)\)|([a-z_]+)=~?\"|{{([a-z_]+)}}")
GPU = "nv_gpu_"  # Triton has these only where it finds a GPU
WANTED = [
    "Latency, median",
    "Latency, 90th",
    "Latency, 99th",
    "GPU: utilization",
    "GPU: memory",
    "GPU: power",
    "queue",
    "Batch size",
    "source",
    "coverage",
    "Notes per second",
    "Errors",
    "Gateway: requests",
    "Gateway: latency, 99th",
    "Gateway: requests by caller",
]


def expressions() -> dict[str, str]:
    """What is asked of Prometheus, by where."""
    found = {}
    for panel in json.loads(BOARD.read_text())["panels"]:
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    found["alerts"] = "\n".join(
        line for line in (ROOT / "docker/prometheus/alerts.yaml").read_text().splitlines() if "summary" not in line
    )
    # The metric that a rule makes has no braces.
    rule = (KUBERNETES / "monitoring/prometheus-adapter.yaml").read_text()
    found["adapter"] = "\n".join(line for line in rule.splitlines() if re.search(r"\b(nv|tritone_gateway)_\w+{", line))
    return found


def named(prefix: str) -> dict[str, str]:
    """Metric -> where it is asked for."""
    return {name: where for where, text in expressions().items() for name in NAME.findall(text)
            if name.startswith(prefix)}  # fmt: skip


def told(url: str) -> set[str]:
    with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310  - the server's own address
        return set(re.findall(r"^# TYPE (\S+)", reply.read().decode(), re.M))


def test_the_dashboard_shows_what_matters() -> None:
    titles = [panel["title"] for panel in json.loads(BOARD.read_text())["panels"]]
    for wanted in WANTED:
        assert any(wanted in title for title in titles), wanted


@pytest.mark.triton
def test_tritons_metrics_exist(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    write_model(repository / "double")  # the one that uses the response cache, whose metrics are not there without it
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    options = ServerOptions(repository=repository, response_cache_bytes=RESPONSE_CACHE_BYTES, stop_timeout_s=1, **ports)
    with TritonServer.start(options) as server:
        # Triton opens this port after the one by which it is found to be ready.
        assert wait_until(lambda: bool(told(server.metrics_url)), 10)
        exist = told(server.metrics_url)
    asked = {name: where for name, where in named("nv_").items() if not name.startswith(GPU)}
    assert len(asked) > 10
    assert {name: where for name, where in asked.items() if name not in exist} == {}


def test_the_gpus_metrics_are_documented() -> None:
    """Checked against Triton's documented names: a server without a GPU does not have these metrics."""
    asked = named(GPU)
    assert len(asked) >= 4
    assert set(asked) <= set(re.findall(r"`(nv_gpu_\w+)`", (ROOT / "docs/reference/metrics.md").read_text()))


def test_percentiles_are_not_averaged_over_replicas() -> None:
    found = {where: text for where, text in expressions().items() if "_summary_us" in text}
    quantiles = {quantile for text in found.values() for quantile in re.findall(r'quantile="([\d.]+)"', text)}
    assert quantiles == {"0.5", "0.9", "0.99"} & {pair.partition(":")[0] for pair in LATENCY_QUANTILES.split(",")}
    for where, text in found.items():
        for before in re.findall(r"(\S+ by \(model\)) \(\s*nv_inference_\w+_summary_us", text):
            assert before == "max by (model)", where
        assert len(re.findall(r"max by \(model\) \(nv_inference_\w+_summary_us", text)) == text.count("_summary_us"), (
            where
        )
    for panel in json.loads(BOARD.read_text())["panels"]:
        if any("_summary_us" in target["expr"] for target in panel["targets"]):
            assert "cannot be averaged" in panel["description"]
        if any(GPU in target["expr"] for target in panel["targets"]):
            assert "Empty without a GPU" in panel["description"]


def test_alerts_name_models_that_exist() -> None:
    text = (ROOT / "docker/prometheus/alerts.yaml").read_text()
    models = {name for group in re.findall(r'model=~"([^"]+)"', text) for name in group.split("|")}
    assert models
    assert models <= {path.name for path in (ROOT / "model_repository").iterdir()}


def test_panels_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in json.loads(BOARD.read_text())["panels"]:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & own, panel["title"]
        cells |= own


class Families:
    """Stands in for Triton's metrics: remembers names."""

    COUNTER = GAUGE = 0
    names: list[str] = []  # noqa: RUF012  - of the class on purpose: each family is an instance

    def __init__(self, *, name: str, **_: Any) -> None:
        self.names.append(name)

    def Metric(self, **_: Any) -> Any:  # noqa: N802  - Triton's name
        return SimpleNamespace(increment=lambda _: None, set=lambda _: None)


def test_our_backends_metrics_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    backends = ROOT / "serving/tritone_serving/backends"
    for backend in ("composer", "cf_ensemble"):
        monkeypatch.syspath_prepend(backends / backend)
    utils = SimpleNamespace(MetricFamily=Families)
    composer: Any = importlib.import_module("tritone_composer_metrics")
    recommender: Any = importlib.import_module("tritone_cf_metrics")
    composer.TritonCounters(utils, {})
    coverage = recommender.Coverage(["a"], 3, int, None)
    recommender.Reporter(utils, recommender.MetricCounts(), coverage, {}).close()
    asked = named("tritone_")
    assert {"tritone_composer_notes_total", "tritone_recommender_answers_total"} <= set(asked)
    backends = {name for name in asked if not name.startswith(("tritone_supervisor_", "tritone_gateway_"))}
    assert backends <= set(Families.names)


def test_the_supervisors_metrics_exist_and_are_documented() -> None:
    metrics = SupervisorMetrics()
    port = metrics.serve("127.0.0.1", 0)
    try:
        exist = told(f"http://127.0.0.1:{port}/metrics")
    finally:
        metrics.close()
    documented = set(re.findall(r"`(tritone_supervisor_\w+)`", (ROOT / "docs/reference/metrics.md").read_text()))
    assert documented == {name for name in exist if not name.endswith("_created")}
    assert {name for name in named("tritone_") if name.startswith("tritone_supervisor_")} <= exist


def test_the_gateways_metrics_exist_and_are_documented() -> None:
    exist = set(re.findall(r"^# TYPE (\S+)", Metrics().text().decode(), re.M))
    documented = set(re.findall(r"`(tritone_gateway_\w+)`", (ROOT / "docs/reference/metrics.md").read_text()))
    assert documented == {name for name in exist if not name.endswith("_created")}
    asked = {name.removesuffix("_bucket") for name in named("tritone_gateway_")}
    assert len(asked) >= 6
    assert asked <= set(exist)


@pytest.mark.balancer
@pytest.mark.triton
def test_haproxys_metrics_exist(start_balancer: Callable[..., Balancer]) -> None:
    exist = told(f"http://127.0.0.1:{start_balancer().ports['STATS']}/metrics")
    asked = named("haproxy_")
    assert len(asked) >= 4
    assert {name: where for name, where in asked.items() if name not in exist} == {}
