"""A real Prometheus scrapes replicas and balancer: every query of dashboard, alerts and autoscaler is answered."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.balancing import BINARIES, HOSTS, Balancer, free_ports, wait_until
from tests.deploy.conftest import Replicas
from tests.deploy.rendering import KUBERNETES, ROOT
from tests.deploy.test_balancer import sound

from tritone_client import MusicClient
from tritone_serving.supervisor_metrics import SupervisorMetrics

pytestmark = [pytest.mark.balancer, pytest.mark.triton]

CONFIGURATION = ROOT / "docker/prometheus"
# Nothing to draw without a recommender, or without a request that failed.
NOT_HERE = ("tritone_recommender_", "nv_inference_request_failure")


def tool(name: str) -> str:
    found = shutil.which(name, path=BINARIES)
    if found is None:
        pytest.skip(f"no {name} on this machine (Debian and Ubuntu: apt install prometheus)")
    return found


@pytest.fixture(scope="module")
def prometheus(
    start_balancer: Callable[..., Balancer], replicas: Replicas, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Prometheus with docker/prometheus, its targets named by address."""
    binary = tool("prometheus")
    balancer = start_balancer()
    folder = tmp_path_factory.mktemp("prometheus")
    said = yaml.safe_load((CONFIGURATION / "prometheus.yaml").read_text())
    said["global"]["scrape_interval"] = "1s"
    said["rule_files"] = [str(CONFIGURATION / name) for name in said["rule_files"]]
    supervisors = [SupervisorMetrics() for _ in HOSTS]
    targets = {
        "supervisor": [f"127.0.0.1:{each.serve('127.0.0.1', 0)}" for each in supervisors],
        "tritone": [f"{host}:{replicas.ports[2]}" for host in HOSTS],
        "balancer": [f"127.0.0.1:{balancer.ports['STATS']}"],
    }
    for job in said["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": targets[job["job_name"]]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(said))
    (port,) = free_ports(1)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binary, f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        assert wait_until(lambda: len(asked(url, "up == 1")) == 5, 20), (folder / "log").read_text()
        with MusicClient(balancer.grpc) as music:
            for seed in range(100, 130):
                music.classify(sound(seed))
        # A rate takes two samples, and each replica has to have some requests between its.
        wanted = 'sum by (instance) (rate(nv_inference_request_success{model="genre_cnn"}[1m])) > 0'
        several = "count_over_time(up[1m]) >= 4"
        assert wait_until(lambda: len(asked(url, wanted)) == 2 and len(asked(url, several)) == 5, 30)
        yield url
    finally:
        process.terminate()
        process.wait(10)
        for each in supervisors:
            each.close()


def told(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310  - our own server
        return json.loads(reply.read())


def asked(url: str, query: str) -> list[Any]:
    answer = told(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    assert answer["status"] == "success"
    found: list[Any] = answer["data"]["result"]
    return found


def test_every_panel_is_drawn(prometheus: str) -> None:
    board = json.loads((ROOT / "docker/grafana/dashboards/tritone.json").read_text())
    empty = []
    for panel in board["panels"]:
        for target in panel["targets"]:
            # What Grafana puts in.
            query = target["expr"].replace("$__rate_interval", "1m").replace("$model", ".*")
            if not asked(prometheus, query) and not any(name in query for name in NOT_HERE):
                empty.append(f"{panel['title']}: {query}")
    assert empty == []


def test_the_autoscalers_metric(prometheus: str) -> None:
    (rule,) = yaml.safe_load((KUBERNETES / "monitoring/prometheus-adapter.yaml").read_text())["rules"]["custom"]
    # What the adapter puts in; `instance` stands for the pod.
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", "").replace("<<.GroupBy>>", "instance")
    values = [float(item["value"][1]) for item in asked(prometheus, query)]
    assert len(values) == len(HOSTS)
    assert all(0 < value < 1000 for value in values)  # milliseconds in a queue


def test_the_alerts_are_quiet_while_all_is_well(prometheus: str) -> None:
    groups = told(f"{prometheus}/api/v1/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == 8
    assert [rule["name"] for rule in rules if rule["state"] != "inactive"] == []
    assert [rule.get("lastError", "") for rule in rules] == [""] * 8


def test_promtool_finds_nothing(tmp_path: Path) -> None:
    def check(folder: Path) -> int:
        command = [tool("promtool"), "check", "config", folder / "prometheus.yaml"]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert check(CONFIGURATION) == 0
    shutil.copytree(CONFIGURATION, tmp_path / "bad")
    alerts = tmp_path / "bad/alerts.yaml"
    alerts.write_text(alerts.read_text().replace("clamp_min(", "clamp_minimum("))
    assert check(tmp_path / "bad") != 0
