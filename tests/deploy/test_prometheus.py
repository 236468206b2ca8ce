"""A real Prometheus scrapes replicas and balancer: every query of dashboard, alerts and autoscaler is answered."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml
from tests.deploy.balancing import BINARIES, HOSTS, Balancer, free_ports, wait_until
from tests.deploy.conftest import Replicas
from tests.deploy.rendering import KUBERNETES, ROOT
from tests.deploy.test_balancer import asked as fetched
from tests.deploy.test_balancer import sound
from tests.support.gateways import gateway_process

from tritone import MusicClient
from tritone_serving.supervision.metrics import SupervisorMetrics

pytestmark = [pytest.mark.balancer, pytest.mark.triton]

CONFIGURATION = ROOT / "docker/prometheus"
# Nothing to draw without a recommender, a request that failed, a response cache, or a GPU.
NOT_HERE = ("tritone_recommender_", "nv_inference_request_failure", "nv_cache_", "nv_gpu_")
BOARD = ROOT / "docker/grafana/dashboards/tritone.json"


def tool(name: str) -> str:
    found = shutil.which(name, path=BINARIES)
    if found is None:
        pytest.skip(f"no {name} on this machine (Debian and Ubuntu: apt install prometheus)")
    return found


@pytest.fixture(scope="module")
def prometheus(
    start_balancer: Callable[..., Balancer], replicas: Replicas, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Prometheus with docker/prometheus, its targets named by address; a gateway in front of the balancer."""
    binary = tool("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    (gateway_port,) = free_ports(1)
    balancer = start_balancer(TRITONE_GATEWAYS="gateways.tritone.test", TRITONE_GATEWAY_PORT=str(gateway_port))
    said = yaml.safe_load((CONFIGURATION / "prometheus.yaml").read_text())
    said["global"]["scrape_interval"] = "1s"
    said["rule_files"] = [str(CONFIGURATION / name) for name in said["rule_files"]]
    supervisors, stack = [SupervisorMetrics() for _ in HOSTS], ExitStack()
    targets = {
        "supervisor": [f"127.0.0.1:{each.serve('127.0.0.1', 0)}" for each in supervisors],
        "tritone": [f"{host}:{replicas.ports[2]}" for host in HOSTS],
        "balancer": [f"127.0.0.1:{balancer.ports['STATS']}"],
        "gateway": [f"127.0.0.1:{gateway_port}"],
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
    gateway = gateway_process(balancer.grpc, folder / "keys.json", "--port", str(gateway_port))
    try:
        stack.enter_context(gateway)
        assert wait_until(lambda: len(asked(url, "up == 1")) == 6, 20), (folder / "log").read_text()
        assert wait_until(lambda: balancer.servers_up("gateways") == 1, 10)
        with MusicClient(balancer.grpc) as music:
            for seed in range(100, 130):
                music.classify(sound(seed))
        for _ in range(5):
            assert (
                fetched(balancer.rest, "POST", "/v1/classify", recording(), **{"Content-Type": "audio/wav"})[0] == 200
            )
        assert fetched(balancer.rest, "GET", "/v1/nothing")[0] == 404
        # A rate takes two samples, and each replica has to have some requests between its.
        wanted = 'sum by (instance) (rate(nv_inference_request_success{model="genre_cnn"}[1m])) > 0'
        several = "count_over_time(up[1m]) >= 4"
        assert wait_until(lambda: len(asked(url, wanted)) == 2 and len(asked(url, several)) == 6, 30)
        yield url
    finally:
        process.terminate()
        process.wait(10)
        stack.close()
        for each in supervisors:
            each.close()


def recording() -> bytes:
    """Some noise as a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, *sound(1), format="WAV")
    return file.getvalue()


def told(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310  - our own server
        return json.loads(reply.read())


def asked(url: str, query: str) -> list[Any]:
    answer = told(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    assert answer["status"] == "success"
    found: list[Any] = answer["data"]["result"]
    return found


def filled_in(expression: str) -> str:
    """An expression of the dashboard with what Grafana puts in."""
    return expression.replace("$__rate_interval", "1m").replace("$model", ".*")


def test_every_panel_is_drawn(prometheus: str) -> None:
    board = json.loads(BOARD.read_text())
    empty = []
    for panel in board["panels"]:
        for target in panel["targets"]:
            query = filled_in(target["expr"])
            if not asked(prometheus, query) and not any(name in query for name in NOT_HERE):
                empty.append(f"{panel['title']}: {query}")
    assert empty == []


def test_the_autoscalers_metrics(prometheus: str) -> None:
    rules = yaml.safe_load((KUBERNETES / "monitoring/prometheus-adapter.yaml").read_text())["rules"]["custom"]
    found = {}
    for rule in rules:
        # What the adapter puts in; `instance` stands for the pod.
        query = rule["metricsQuery"].replace("<<.LabelMatchers>>", "").replace("<<.GroupBy>>", "instance")
        found[rule["name"]["as"]] = [float(item["value"][1]) for item in asked(prometheus, query)]
    waits = found.pop("tritone_queue_milliseconds")
    assert len(waits) == len(HOSTS)
    assert all(0 < value < 1000 for value in waits)
    assert found.keys() == {"tritone_gateway_requests_in_flight"}
    (n_requests,) = found["tritone_gateway_requests_in_flight"]
    assert 1 <= n_requests < 10  # the scrape itself is one


def test_the_alerts_are_quiet_while_all_is_well(prometheus: str) -> None:
    groups = told(f"{prometheus}/api/v1/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    written = yaml.safe_load((CONFIGURATION / "alerts.yaml").read_text())["groups"][0]["rules"]
    assert [rule["name"] for rule in rules] == [rule["alert"] for rule in written]
    assert [rule["name"] for rule in rules if rule["state"] != "inactive"] == []
    assert [rule.get("lastError", "") for rule in rules] == [""] * len(written)


def test_promtool_finds_nothing(tmp_path: Path) -> None:
    def check(folder: Path) -> int:
        command = [tool("promtool"), "check", "config", folder / "prometheus.yaml"]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert check(CONFIGURATION) == 0
    shutil.copytree(CONFIGURATION, tmp_path / "bad")
    alerts = tmp_path / "bad/alerts.yaml"
    alerts.write_text(alerts.read_text().replace("clamp_min(", "clamp_minimum("))
    assert check(tmp_path / "bad") != 0


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)


def test_promtool_parses_the_dashboard_and_the_operators_rules(tmp_path: Path) -> None:
    """Each of the dashboard's expressions as a rule; the PrometheusRule's groups as a file of rules."""
    targets = [target for panel in json.loads(BOARD.read_text())["panels"] for target in panel["targets"]]
    rules = [{"record": f"panel:{i}", "expr": filled_in(target["expr"])} for i, target in enumerate(targets)]
    resource = yaml.safe_load((KUBERNETES / "components/monitoring/prometheus-rule.yaml").read_text())
    path = tmp_path / "rules.yaml"
    for groups in ([{"name": "board", "rules": rules}], resource["spec"]["groups"]):
        path.write_text(yaml.safe_dump({"groups": groups}))
        done = promtool("check", "rules", path)
        assert done.returncode == 0, done.stderr
    path.write_text(yaml.safe_dump({"groups": [{"name": "bad", "rules": [{"record": "a", "expr": "max by (model"}]}]}))
    assert promtool("check", "rules", path).returncode != 0


def test_alerts_of_percentiles_and_gpus(tmp_path: Path) -> None:
    """One slow replica is enough, one without requests (NaN) is not slow, and models that write may take long."""

    def series(name: str, value: str, **labels: str) -> dict[str, str]:
        said = ",".join(f'{key}="{label}"' for key, label in labels.items())
        return {"series": f"{name}{{{said}}}", "values": " ".join([value] * 20)}

    request, queue = "nv_inference_request_summary_us", "nv_inference_queue_summary_us"
    p99 = {"quantile": "0.99"}
    given = [
        series(request, "1500000", model="genre_cnn", instance="a", **p99),
        series(request, "20000", model="genre_cnn", instance="b", **p99),
        series(request, "NaN", model="recommender", instance="a", **p99),
        series(request, "9000000", model="composer", instance="a", **p99),
        series(request, "5000000", model="taste_vae", instance="a", quantile="0.999"),
        series(queue, "1200000", model="music_vae", instance="a", **p99),
        series(queue, "NaN", model="genre_cnn", instance="a", **p99),
        series("nv_gpu_memory_used_bytes", "78", gpu_uuid="one", instance="a"),
        series("nv_gpu_memory_total_bytes", "80", gpu_uuid="one", instance="a"),
        series("nv_gpu_memory_used_bytes", "40", gpu_uuid="two", instance="b"),
        series("nv_gpu_memory_total_bytes", "80", gpu_uuid="two", instance="b"),
    ]

    def fires(name: str, summary: str, **labels: str) -> dict[str, object]:
        alert = {"exp_labels": {"severity": "warning", **labels}, "exp_annotations": {"summary": summary}}
        return {"alertname": name, "eval_time": "6m", "exp_alerts": [alert]}

    tests = [
        fires("TritoneLatencyHigh", "one in a hundred requests to genre_cnn takes more than 1 s", model="genre_cnn"),
        fires("TritoneQueueTailHigh", "one in a hundred requests to music_vae waits more than 1 s", model="music_vae"),
        fires("TritoneGpuMemoryHigh", "more than 95 % of the memory of GPU one is used", gpu_uuid="one"),
    ]
    file = {"rule_files": [str(CONFIGURATION / "alerts.yaml")], "evaluation_interval": "1m",
            "tests": [{"interval": "1m", "input_series": given, "alert_rule_test": tests}]}  # fmt: skip
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(file))
    done = promtool("test", "rules", tmp_path / "test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_of_the_gateway(tmp_path: Path) -> None:
    """Errors count by route, and readiness that says no is none; refusals of keys and a full gateway are told apart."""

    def counter(per_minute: int, **labels: str) -> dict[str, str]:
        said = ",".join(f'{key}="{label}"' for key, label in labels.items())
        return {"series": f"tritone_gateway_requests_total{{{said}}}", "values": f"0+{per_minute}x20"}

    def bucket(route: str, le: str, per_minute: int) -> dict[str, str]:
        name = "tritone_gateway_request_duration_seconds_bucket"
        return {"series": f'{name}{{route="{route}",le="{le}"}}', "values": f"0+{per_minute}x20"}

    given = [
        counter(1000, route="/v1/classify", status="200"),
        counter(20, route="/v1/classify", status="500", instance="b"),
        counter(1000, route="/v1/embed", status="200"),
        counter(5, route="/v1/embed", status="502"),
        counter(1000, route="/v1/compose", status="422"),  # the callers' faults
        counter(60, route="/readyz", status="503"),
        counter(90, route="/v1/recommend", status="401"),
        {"series": 'tritone_gateway_models{instance="a",state="ready"}', "values": "11x20"},
        {"series": 'tritone_gateway_models{instance="a",state="not_ready"}', "values": "0x20"},
        {"series": 'tritone_gateway_models{instance="b",state="ready"}', "values": "9x20"},
        {"series": 'tritone_gateway_models{instance="b",state="not_ready"}', "values": "2x20"},
        *(bucket("/v1/recommend", le, n) for le, n in (("1.0", 980), ("5.0", 1000), ("+Inf", 1000))),
        *(bucket("/v1/similar", le, n) for le, n in (("1.0", 995), ("5.0", 1000), ("+Inf", 1000))),
        *(bucket("/v1/compose", le, n) for le, n in (("1.0", 0), ("5.0", 1000), ("+Inf", 1000))),
        {"series": 'tritone_gateway_requests_in_flight{instance="a"}', "values": "201x20"},
        {"series": 'tritone_gateway_requests_in_flight{instance="b"}', "values": "199x20"},
        {"series": 'up{job="gateway",instance="a"}', "values": "1x20"},
        {"series": 'up{job="gateway",instance="c"}', "values": "0x20"},
        {"series": 'haproxy_backend_active_servers{proxy="gateways",instance="x"}', "values": "0x20"},
        {"series": 'haproxy_backend_active_servers{proxy="http_replicas"}', "values": "2x20"},
    ]

    def fires(name: str, summary: str, severity: str = "warning", **labels: str) -> dict[str, object]:
        alert = {"exp_labels": {"severity": severity, **labels}, "exp_annotations": {"summary": summary}}
        return {"alertname": name, "eval_time": "15m", "exp_alerts": [alert]}

    tests = [
        fires("TritoneGatewayRequestsFail", "more than 1 % of the requests to /v1/classify fail", "critical",
              route="/v1/classify"),
        fires("TritoneGatewayLatencyHigh", "one in a hundred requests to /v1/recommend takes more than 1 s",
              route="/v1/recommend"),
        fires("TritoneGatewayBusy", "a serves more than 200 requests at once; a worker refuses more than 256",
              instance="a"),
        fires("TritoneGatewayKeysRefused", "callers use missing or invalid API keys, more than one a second"),
        fires("TritoneGatewayDegraded", "2 models of b are not ready; its /readyz names them", instance="b"),
        fires("TritoneGatewayDown", "c does not show its metrics", job="gateway", instance="c"),
        fires("TritoneNoGateway", "the balancer has no gateway that is ready", "critical", proxy="gateways"),
    ]  # fmt: skip
    file = {"rule_files": [str(CONFIGURATION / "alerts.yaml")], "evaluation_interval": "1m",
            "tests": [{"interval": "1m", "input_series": given, "alert_rule_test": tests}]}  # fmt: skip
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(file))
    done = promtool("test", "rules", tmp_path / "test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
