"""The Helm chart renders what kustomize renders, for its defaults and for each option; its values are checked."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from tests.deploy.rendering import KUBERNETES, ROOT, rendered_with, tool
from tests.support.manifests import KUBERNETES_VERSIONS, validated

CHART = ROOT / "deploy/helm/tritone"
HELM_LABELS = {"app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart"}
CPU = ["../../base", "../../pools/cpu", "../../gateway"]
GPU = ["../../base", "../../pools/gpu", "../../gateway"]
GPU_ONLY = ["pools.cpu.enabled=false", "pools.gpu.enabled=true"]
BOTH = ["pools.gpu.enabled=true"]
SECRETS = {
    "object-store": "tritone-object-store",
    "tls": "tritone-tls",
    "api-key": "tritone-api-key",
    "events": "tritone-events",
}
EVENTS_URL = "valkey://tritone-valkey:6379/0"
# Component -> the values that turn it on.
OPTIONS = {
    "object-store": [f"objectStore.secretName={SECRETS['object-store']}"],
    "tls": [f"tls.secretName={SECRETS['tls']}"],
    "api-key": [f"apiKey.secretName={SECRETS['api-key']}"],
    "events": [f"events.url={EVENTS_URL}", f"events.passwordSecret.name={SECRETS['events']}"],
    "openshift": ["openshift=true"],
    "cpu-scaling": ["autoscaling.queueMetric=false"],
    "monitoring": ["monitoring.enabled=true"],
    "gateway-api": ["gatewayApi.enabled=true"],
    "ingress": ["ingress.enabled=true"],
}
Key = tuple[str, str]


def helm(*values: str, chart: Path = CHART) -> subprocess.CompletedProcess[str]:
    options = itertools.chain.from_iterable(("--set", value) for value in values)
    command: list[str | Path] = [
        tool("helm"),
        "template",
        "release",
        chart,
        "--namespace",
        "tritone",
        "--kube-version",
        "1.30.0",
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def charted(*values: str) -> dict[Key, dict[str, Any]]:
    """The chart's resources by kind and name, without the labels that Helm adds."""
    done = helm(*values)
    assert done.returncode == 0, done.stderr
    found = {}
    for resource in yaml.safe_load_all(done.stdout):
        if resource is None:
            continue
        labels = resource["metadata"]["labels"]
        assert labels.keys() >= HELM_LABELS
        for label in HELM_LABELS:
            del labels[label]
        if not labels:
            del resource["metadata"]["labels"]
        found[resource["kind"], resource["metadata"]["name"]] = resource
    return found


def kustomized(resources: list[str], components: list[str]) -> dict[Key, dict[str, Any]]:
    """The resources of an overlay with these parts; Helm creates the namespace itself."""
    documents = rendered_with(resources, ["images", *components])
    return {(item["kind"], item["metadata"]["name"]): item for item in documents if item["kind"] != "Namespace"}


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "deploy/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_files_are_up_to_date() -> None:
    generate = generator()
    said = "run: python deploy/generate.py"
    assert (KUBERNETES / generate.RULE).read_text() == generate.prometheus_rule(), said
    committed = {path.name: path.read_text() for path in (CHART / "templates").glob("*.yaml")}
    assert committed == generate.templates(), said


def test_the_rules_of_the_operator_are_those_of_prometheus() -> None:
    rule = yaml.safe_load((KUBERNETES / generator().RULE).read_text())
    assert rule["spec"] == yaml.safe_load((ROOT / "docker/prometheus/alerts.yaml").read_text())


def test_components_that_change_the_same_lines_are_refused() -> None:
    merged = generator().merged
    assert merged(["a", "b"], {"x": ["a"], "y": ["a", "b", "c"]}) == [
        "a", "{{- if not x }}", "b", "{{- end }}", "{{- if y }}", "c", "{{- end }}",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="same lines"):
        merged(["a", "b", "c"], {"x": ["a", "X", "Y"], "y": ["a", "Z", "c"]})


@pytest.mark.parametrize(
    ("resources", "components", "values"),
    [
        pytest.param(CPU, [], [], id="cpu"),
        pytest.param(GPU, [], GPU_ONLY, id="gpu"),
        pytest.param(
            CPU[:2], ["monitoring", "openshift"],
            ["gateway.enabled=false", *OPTIONS["monitoring"], *OPTIONS["openshift"]], id="no gateway",
        ),
        *(pytest.param(CPU, [name], values, id=f"cpu-{name}") for name, values in OPTIONS.items()),
        pytest.param(
            [*CPU, "../../pools/gpu"],
            ["object-store", "tls", "api-key", "events", "monitoring", "openshift", "cpu-scaling"],
            [*BOTH, *itertools.chain.from_iterable(OPTIONS[name] for name in
             ("object-store", "tls", "api-key", "events", "monitoring", "openshift", "cpu-scaling"))],
            id="all but routes",
        ),
        pytest.param(
            [*GPU, "../../loader"], ["api-key", "openshift", "gateway-api"],
            [*GPU_ONLY, "loader.enabled=true", *OPTIONS["api-key"], *OPTIONS["openshift"], *OPTIONS["gateway-api"]],
            id="gpu with loader and routes",
        ),
    ],
)  # fmt: skip
def test_chart_and_kustomization_are_equal(resources: list[str], components: list[str], values: list[str]) -> None:
    ours, theirs = charted(*values), kustomized(resources, components)
    if "gateway.enabled=false" in values:
        del theirs["PodMonitor", "tritone-gateway"]  # of the component, which does not know whether there are gateways
    assert ours.keys() == theirs.keys()
    for key, resource in theirs.items():
        assert ours[key] == resource, key


def test_the_mixed_overlay_is_the_chart_with_its_options() -> None:
    values = [*BOTH, *OPTIONS["object-store"], *OPTIONS["tls"]]
    assert charted(*values) == {
        (item["kind"], item["metadata"]["name"]): item
        for item in rendered_with(["../mixed"], [])
        if item["kind"] != "Namespace"
    }


def test_another_namespace_and_registry() -> None:
    command: list[str | Path] = [tool("helm"), "template", "other", CHART, "-n", "music", "--set",
               "images.registry=registry.example/tritone,images.tag=2.0,clusterDomain=corp.local,"
               "images.pullSecrets[0].name=my-registry,balancer.replicas=3,"
               "gateway.keysSecretName=my-keys,gateway.inFlight=8,gateway.extraArgs={--cors-origin,https://app.example},"
               "pools.cpu.args={serve,--require-all}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "tritone.svc" not in done.stdout
    deployments = {item["metadata"]["name"]: item["spec"] for item in yaml.safe_load_all(done.stdout)
                   if item["kind"] == "Deployment"}  # fmt: skip
    balancer = deployments["tritone-balancer"]
    (container,) = balancer["template"]["spec"]["containers"]
    assert balancer["replicas"] == 3
    assert container["image"] == "registry.example/tritone/balancer:2.0"
    assert {"name": "TRITONE_REPLICAS", "value": "tritone-replicas.music.svc.corp.local"} in container["env"]
    server = deployments["tritone-server-cpu"]["template"]["spec"]
    assert server["imagePullSecrets"] == [{"name": "my-registry"}]
    assert server["containers"][0]["args"] == ["serve", "--require-all"]
    gateway = deployments["tritone-gateway"]["template"]["spec"]
    assert gateway["containers"][0]["args"][-2:] == ["--cors-origin", "https://app.example"]
    assert "my-keys" in {volume["secret"]["secretName"] for volume in gateway["volumes"] if "secret" in volume}
    assert 'averageValue: "8"' in done.stdout


def test_the_installation_of_the_page() -> None:
    (command,) = re.findall(
        r"`helm install (tritone deploy/helm/tritone [^`]*)`", (ROOT / "docs/how-to/kubernetes.md").read_text()
    )
    arguments = shlex.split(command.replace("--create-namespace", ""))
    done = subprocess.run([tool("helm"), "template", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    deployments = {item["metadata"]["name"]: item["spec"]["template"]["spec"]["containers"][0]["image"]
                   for item in yaml.safe_load_all(done.stdout) if item["kind"] == "Deployment"}  # fmt: skip
    assert deployments == {
        "tritone-server-gpu": "registry.example/tritone/server-gpu:0.2.0",
        "tritone-balancer": "registry.example/tritone/balancer:0.2.0",
        "tritone-gateway": "registry.example/tritone/gateway:0.2.0",
    }


def test_the_page_names_values_and_components_that_exist() -> None:
    page = (ROOT / "docs/how-to/kubernetes.md").read_text()
    table = page.partition("## Kustomize or Helm")[2].partition("\n## ")[0]
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named = set(re.findall(r"`([a-z]\w+\.[\w.]+)(?:: false)?`", table))
    assert len(named) >= 12
    for name in named:
        part: Any = values
        for key in name.split("."):
            assert key in part, name
            part = part[key]
    components = set(re.findall(r"`components/([\w-]+)`", table))
    assert components == {path.parent.name for path in KUBERNETES.glob("components/*/kustomization.yaml")}


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_option_gives_valid_resources(version: str, tmp_path: Path) -> None:
    set_all = {
        "pools": {
            "gpu": {"enabled": True},
            "cpu": {"extraEnv": [{"name": "A", "value": "b"}], "tolerations": [{"operator": "Exists"}]},
        },
        "images": {"pullSecrets": [{"name": "a"}]},
        "models": {"storageClass": "nfs"},
        "loader": {"enabled": True},
        "apiKey": {"secretName": "api"},
        "events": {"url": "rediss://music@cache/1?retention_days=90", "passwordSecret": {"name": "e", "key": "k"}},
        "monitoring": {"enabled": True, "labels": {"release": "prometheus"}},
        "gatewayApi": {"enabled": True},
        "ingress": {"enabled": True, "annotations": {"cert-manager.io/cluster-issuer": "a"}},
    }  # fmt: skip
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(set_all))
    done = subprocess.run([tool("helm"), "template", "r", CHART, "-n", "tritone", "-f", tmp_path / "values.yaml"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    resources = [item for item in yaml.safe_load_all(done.stdout) if item]
    kinds = {item["kind"] for item in resources}
    assert kinds >= {"ServiceMonitor", "PodMonitor", "PrometheusRule", "HTTPRoute", "GRPCRoute", "Ingress", "ConfigMap"}
    for resource in resources:
        validated(resource, version)
    (monitor,) = [item for item in resources if item["kind"] == "ServiceMonitor"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


@pytest.mark.parametrize(
    "values",
    [
        "replicas=3",
        "pools.cpu.minReplica=3",
        "pools.cpu.maxReplicas=many",
        "pools.cpu.enabled=false",
        "balancer.replicas=1",
        "gateway.minReplicas=1",
        "gateway.inFlight=0",
        "gateway.keysSecretName=",
        "gateway.replicas=2",
        "balancer.resources.limits.memory=1GB",
        "images.registry=",
        "models.accessModes={ReadWriteAll}",
        "gatewayApi.httpHost=http://tritone.example.com",
        "monitoring.enabled=yes",
        "tls.secretName=a,ingress.enabled=true",
        "tls.secretName=a,gatewayApi.enabled=true",
        "objectStore.secretName=a,loader.enabled=true",
        "events.url=off",
        "events.url=sqlite:///var/lib/events.db",
        "events.url=valkey://user:secret@cache:6379/0",
        "events.url=valkey://",
        "events.passwordSecret=tritone-events",
        "events.passwordSecret.name=tritone-events",
        "events.url=valkey://cache,events.passwordSecret.key=",
    ],
)
def test_wrong_values_are_refused(values: str) -> None:
    done = helm(values)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr


def test_schema_and_values_agree() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(values, schema)
    assert set(schema["properties"]) - {"global"} == set(values)


def test_versions_are_the_projects() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]
    images = yaml.safe_load((KUBERNETES / "components/images/kustomization.yaml").read_text())["images"]
    assert {image["newTag"] for image in images} == {chart["appVersion"]}
    assert kubernetes_validate.latest_version() >= chart["kubeVersion"].removeprefix(">=").partition(".0-")[0]
