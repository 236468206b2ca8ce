"""Kubernetes: schemas, what every pod must keep to, and that the parts mean each other."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from tests.deploy.rendering import KUBERNETES, OVERLAYS, ROOT, containers, of_kind, pods, rendered, rendered_at

KEY_VARIABLE = "TRITONE_RECOMMENDER_KEY"
KUBERNETES_VERSIONS = ["1.30", "1.36"]
KSERVE = json.loads((Path(__file__).parent / "kserve.schema.json").read_text())
SERVERS = {"app.kubernetes.io/name": "tritone-server"}


def is_kserve(resource: dict[str, Any]) -> bool:
    return bool(resource["apiVersion"].startswith("serving.kserve.io/"))


def validated(resource: dict[str, Any], version: str) -> None:
    if not is_kserve(resource):
        kubernetes_validate.validate(resource, version, strict=True)
        return
    jsonschema.validate(resource, KSERVE)
    if resource["kind"] == "ServingRuntime":  # its pod, as a Pod
        spec = {key: resource["spec"][key] for key in resource["spec"] if key in
                ("containers", "volumes", "nodeSelector", "tolerations")}  # fmt: skip
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": resource["metadata"], "spec": spec}
        kubernetes_validate.validate(pod, version, strict=True)


def test_there_is_an_overlay_for_each_way() -> None:
    assert OVERLAYS == ["cpu", "gpu", "kserve", "mixed"]


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_schemas(overlay: str, version: str) -> None:
    for resource in rendered(overlay):
        validated(resource, version)


@pytest.mark.parametrize(
    ("overlay", "kind", "path", "value"),
    [
        ("cpu", "Deployment", ("spec", "template", "spec", "containers", 0, "imagee"), "x"),
        ("cpu", "HorizontalPodAutoscaler", ("spec", "maxReplicas"), "eight"),
        ("cpu", "NetworkPolicy", ("spec", "ingres"), []),
        ("kserve", "ServingRuntime", ("spec", "supportedModelFormat"), []),
        ("kserve", "ServingRuntime", ("spec", "containers", 0, "resources", "limit"), {}),
        ("kserve", "InferenceService", ("spec", "predictor", "model", "storageUri"), "/models"),
    ],
)
def test_the_schemas_find_what_is_wrong(overlay: str, kind: str, path: tuple[str | int, ...], value: Any) -> None:
    resource = copy.deepcopy(of_kind(overlay, kind)[0])
    part: Any = resource
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        validated(resource, KUBERNETES_VERSIONS[0])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_is_locked_in(overlay: str) -> None:
    for name, pod, container in containers(overlay):
        own = container["securityContext"]
        whole = {**pod.get("securityContext", {}), **own}
        assert whole["runAsNonRoot"] is True, name
        assert whole["runAsUser"] == 10001, name
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert own["readOnlyRootFilesystem"] is True, name
        assert own["allowPrivilegeEscalation"] is False, name
        assert own["capabilities"] == {"drop": ["ALL"]}, name
        assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", container["image"]), f"{name}: {container['image']}"


def test_the_loader_may_run_beside_them() -> None:
    (pod,) = rendered_at(KUBERNETES / "loader")
    for version in KUBERNETES_VERSIONS:
        validated(pod, version)
    (container,) = pod["spec"]["containers"]
    (claim,) = of_kind("cpu", "PersistentVolumeClaim")
    assert pod["metadata"]["namespace"] == claim["metadata"]["namespace"]
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    server = next(item for _, _, item in containers("cpu") if item["name"] == "triton")
    assert container["securityContext"] == server["securityContext"]
    assert container["image"] == server["image"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_server_can_be_judged_and_has_room(overlay: str) -> None:
    found = 0
    for _, pod in pods(overlay):
        for container in pod["containers"]:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
            if "balancer" in container["image"]:
                continue
            found += 1
            probe = container["readinessProbe"]["httpGet"]
            assert (probe["path"], probe["port"]) in (("/ready", "supervisor"), ("/ready", 8003))
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
            assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
            assert mounts["/tmp"]["emptyDir"]
            is_gpu = "gpu" in container["image"]
            assert ("nvidia.com/gpu" in container["resources"]["limits"]) is is_gpu
            assert ("nvidia.com/gpu.present" in pod.get("nodeSelector", {})) is is_gpu
    assert found


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("secret", ["tritone-recommender-keys", "tritone-service-key"])
def test_every_server_finds_the_keys_and_starts_without(overlay: str, secret: str) -> None:
    for name, pod in pods(overlay):
        if name.endswith("balancer"):
            continue
        (container,) = pod["containers"]
        variables = {pair["name"]: pair.get("value", "") for pair in container["env"]}
        folder = variables[KEY_VARIABLE]
        if secret == "tritone-service-key":  # noqa: S105 - a secret's name
            folder, _, file = variables["TRITONE_SERVICE_KEY_FILE"].rpartition("/")
            assert file == "service.key"
        (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == folder]
        assert mount["readOnly"] is True
        assert not folder.startswith("/tmp"), "what is made on the way there is root's, and the server writes there"
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
        assert volume["secret"]["secretName"] == secret, name
        assert volume["secret"]["optional"] is True, name
        if "defaultMode" in volume["secret"]:  # the keys are root's: read by group where the pod has one, else by all
            assert volume["secret"]["defaultMode"] & 0o040
            assert pod["securityContext"]["fsGroup"] == 10001


@pytest.mark.parametrize("overlay", ["gpu", "mixed"])
def test_an_upgrade_needs_no_gpu_more_than_the_servers_have(overlay: str) -> None:
    (server,) = [item for item in of_kind(overlay, "Deployment") if item["metadata"]["name"] == "tritone-server-gpu"]
    assert server["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    (scaler,) = [item for item in of_kind(overlay, "HorizontalPodAutoscaler")
                 if item["metadata"]["name"] == "tritone-server-gpu"]  # fmt: skip
    assert scaler["spec"]["minReplicas"] > 1  # one is left


@pytest.fixture
def own_copy(tmp_path: Path) -> Path:
    """The manifests, to be changed as the pages say; answers the folder that a checkout would be."""
    shutil.copytree(KUBERNETES, tmp_path / "deploy/kubernetes")
    return tmp_path


def as_said(text: str, start: str, checkout: Path) -> None:
    """Run the command of a page or a file's head that begins so."""
    (command,) = [line.lstrip("# ") for line in text.splitlines() if line.lstrip("# ").startswith(start)]
    subprocess.run(["bash", "-c", command], cwd=checkout, check=True)


def test_images_are_named_once(own_copy: Path) -> None:
    as_said((ROOT / "docs/deploy.md").read_text(), "sed -i", own_copy)
    folder = own_copy / "deploy/kubernetes"
    for place in [*(f"overlays/{overlay}" for overlay in OVERLAYS), "loader"]:
        images = re.findall(r"image: (.*)", yaml.safe_dump(rendered_at(folder / place)))
        ours = [image for image in images if "rclone" not in image]
        assert ours, place
        assert all(image.startswith("registry.example/tritone/") for image in ours), (place, ours)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_api_key_reaches_servers_and_probes(overlay: str, own_copy: Path) -> None:
    said = (KUBERNETES / "components/api-key/kustomization.yaml").read_text()
    as_said(said.replace("overlays/gpu", f"overlays/{overlay}"), "echo", own_copy)
    found = 0
    for resource in rendered_at(own_copy / f"deploy/kubernetes/overlays/{overlay}"):
        for version in KUBERNETES_VERSIONS:
            validated(resource, version)
        if resource["kind"] not in ("Deployment", "ServingRuntime"):
            continue
        pod = resource["spec"]["template"]["spec"] if resource["kind"] == "Deployment" else resource["spec"]
        (container,) = pod["containers"]
        given = {pair["name"]: pair for pair in container["env"]}
        if "balancer" in resource["metadata"]["name"]:
            assert "TRITONE_API_KEY" not in given
            continue
        found += 1
        secret = given["TRITONE_API_KEY"]["valueFrom"]["secretKeyRef"]
        assert secret == {"name": "tritone-api-key", "key": "key"}  # not optional: without it the server stays closed
        assert KEY_VARIABLE in given
    assert found


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "mixed"])
def test_the_parts_mean_each_other(overlay: str) -> None:
    deployments = {resource["metadata"]["name"]: resource for resource in of_kind(overlay, "Deployment")}
    servers = {name: item for name, item in deployments.items() if name != "tritone-balancer"}
    scaled = of_kind(overlay, "HorizontalPodAutoscaler")
    assert {item["spec"]["scaleTargetRef"]["name"] for item in scaled} == set(servers)
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        name = budget["metadata"]["name"]
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        assert wanted <= deployments[name]["spec"]["template"]["metadata"]["labels"].items()
        others = [item for other, item in deployments.items() if other != name]
        assert not any(wanted <= item["spec"]["template"]["metadata"]["labels"].items() for item in others)
    assert len(of_kind(overlay, "PodDisruptionBudget")) == len(deployments)
    services = {item["metadata"]["name"]: item["spec"] for item in of_kind(overlay, "Service")}
    assert services["tritone-replicas"]["clusterIP"] == "None"
    for item in servers.values():
        labels = item["spec"]["template"]["metadata"]["labels"]
        assert services["tritone-replicas"]["selector"].items() <= labels.items()
        assert "replicas" not in item["spec"], "the autoscaler's number would be taken back"
    (balancer,) = deployments["tritone-balancer"]["spec"]["template"]["spec"]["containers"]
    replicas = next(pair["value"] for pair in balancer["env"] if pair["name"] == "TRITONE_REPLICAS")
    assert replicas == "tritone-replicas.tritone.svc.cluster.local"
    ports = {port["name"] for port in balancer["ports"]}
    assert {port["targetPort"] for port in services["tritone"]["ports"]} <= ports
    claims = {item["metadata"]["name"] for item in of_kind(overlay, "PersistentVolumeClaim")}
    used = {volume["persistentVolumeClaim"]["claimName"] for _, pod in pods(overlay)
            for volume in pod.get("volumes", []) if "persistentVolumeClaim" in volume}  # fmt: skip
    assert used == claims


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "mixed"])
def test_the_network_is_closed_but_for_what_is_named(overlay: str) -> None:
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(overlay, "NetworkPolicy")}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    server = policies["server"]
    assert server["podSelector"]["matchLabels"] == SERVERS
    callers = [source["podSelector"]["matchLabels"] for rule in server["ingress"] for source in rule["from"]
               if "podSelector" in source]  # fmt: skip
    assert callers == [{"app.kubernetes.io/name": "tritone-balancer"}]
    assert bool(server["egress"]) is (overlay == "mixed")  # an object store has to be called


def test_with_tls_the_plain_ports_are_closed() -> None:
    (service,) = [item for item in of_kind("mixed", "Service") if item["metadata"]["name"] == "tritone"]
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["https", "grpcs"]
    (policy,) = [item for item in of_kind("mixed", "NetworkPolicy") if item["metadata"]["name"] == "balancer"]
    assert [port["port"] for port in policy["spec"]["ingress"][0]["ports"]] == ["https", "grpcs"]


def test_the_metric_of_the_autoscaler_is_made() -> None:
    rules = (KUBERNETES / "monitoring/prometheus-adapter.yaml").read_text()
    for overlay in ("cpu", "gpu", "mixed"):
        for item in of_kind(overlay, "HorizontalPodAutoscaler"):
            (metric,) = item["spec"]["metrics"]
            assert f"as: {metric['pods']['metric']['name']}\n" in rules


def test_kserve_names_a_runtime_that_is_there() -> None:
    (service,) = of_kind("kserve", "InferenceService")
    model = service["spec"]["predictor"]["model"]
    runtime = next(item for item in of_kind("kserve", "ServingRuntime") if item["metadata"]["name"] == model["runtime"])
    assert model["modelFormat"]["name"] in {item["name"] for item in runtime["spec"]["supportedModelFormats"]}
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
