"""The jobs for training on several nodes and for fits on Ray: valid, locked in, and their commands exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.rendering import KUBERNETES, ROOT, copy_of_manifests, rendered_at
from tests.support.manifests import (
    KUBERNETES_VERSIONS,
    assert_invalid_with,
    assert_options_exist,
    assert_unprivileged,
    pod_templates,
    run_documented,
    validated,
)
from torch.distributed.run import parse_args

FOLDERS = ("training", "training-gpu", "ray")


def rendered(folder: str) -> dict[str, dict[str, Any]]:
    return {resource["kind"]: resource for resource in rendered_at(KUBERNETES / folder)}


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_they_are_valid(folder: str, version: str) -> None:
    resources = rendered(folder)
    assert {"NetworkPolicy", "RayJob" if folder == "ray" else "Job"} <= set(resources)
    for resource in resources.values():
        assert resource["metadata"]["namespace"] == "tritone"
        validated(resource, version)


@pytest.mark.parametrize(
    ("folder", "kind", "path", "value"),
    [
        ("training", "Job", ("spec", "completionMod"), "Indexed"),
        ("training", "Service", ("spec", "ports", 0, "port"), "rendezvous"),
        ("ray", "RayJob", ("spec", "submissionMode"), "Http"),
        ("ray", "RayJob", ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "replica"), 2),
        ("ray", "RayJob", ("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        ("ray", "RayJob", ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "volume"), []),
    ],
)
def test_the_schemas_find_what_is_wrong(folder: str, kind: str, path: tuple[str | int, ...], value: Any) -> None:
    assert_invalid_with(rendered(folder)[kind], path, value)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_container_is_locked_in_and_its_volumes_exist(folder: str) -> None:
    for resource in rendered(folder).values():
        for template in pod_templates(resource):
            pod = template["spec"]
            assert pod["automountServiceAccountToken"] is False
            (container,) = pod["containers"]
            assert_unprivileged(pod, container, resource["metadata"]["name"])
            assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
            assert re.fullmatch(r"tritone/train[\w-]*:\d+\.\d+\.\d+", container["image"])


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_pods_reach_each_other_and_nobody_else_reaches_them(folder: str) -> None:
    resources = rendered(folder)
    (labels,) = {
        json.dumps({"app.kubernetes.io/name": template["metadata"]["labels"]["app.kubernetes.io/name"]})
        for resource in resources.values()
        for template in pod_templates(resource)
    }
    policy = resources["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == json.loads(labels)
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    sources = [source for rule in policy["ingress"] for source in rule["from"]]
    assert sources[0] == policy["egress"][0]["to"][0] == {"podSelector": policy["podSelector"]}
    assert all("podSelector" in each or "namespaceSelector" in each for each in sources)
    if folder != "ray":
        assert resources["Service"]["spec"]["selector"] == json.loads(labels)


@pytest.mark.parametrize("folder", ["training", "training-gpu"])
def test_each_incident_counts_once_for_every_number_of_nodes(folder: str) -> None:
    """An incident fails all pods, so a limit of the whole job would depend on their number."""
    job = rendered(folder)["Job"]["spec"]
    assert job["backoffLimitPerIndex"] >= 3
    assert job["maxFailedIndexes"] == 0  # a node that has failed too often ends the job, as the others cannot go on
    assert "backoffLimit" not in job  # by default 6, but without a bound beside backoffLimitPerIndex
    evicted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert job["podFailurePolicy"]["rules"] == [evicted]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # which a podFailurePolicy needs
    # torchrun waits for the pod that is started last: after the longest delay before a pod is replaced.
    (container,) = job["template"]["spec"]["containers"]
    (timeout_s,) = re.findall(r"--rdzv-conf=timeout=(\d+)", " ".join(container["command"]))
    assert int(timeout_s) > 10 * 2 ** (job["backoffLimitPerIndex"] - 1)


@pytest.mark.parametrize("folder", FOLDERS)
def test_data_in_buckets_can_be_read(folder: str) -> None:
    assert {"ports": [{"protocol": "TCP", "port": 443}]} in rendered(folder)["NetworkPolicy"]["spec"]["egress"]


@pytest.mark.parametrize("folder", ["training", "training-gpu"])
def test_the_training_starts_as_many_processes_as_pods(folder: str) -> None:
    resources = rendered(folder)
    job, service = resources["Job"], resources["Service"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    name, *words = container["command"]
    assert name == "torchrun"
    variables = {each["name"]: each.get("value", "0") for each in container["env"]}
    options = parse_args([word.replace("$(JOB_COMPLETION_INDEX)", variables["JOB_COMPLETION_INDEX"]) for word in words])
    assert int(options.nnodes) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert options.node_rank == 0
    assert job["spec"]["completionMode"] == "Indexed"
    host, port = options.rdzv_endpoint.split(":")
    assert host == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert int(port) in {each["containerPort"] for each in container["ports"]}
    assert options.module
    assert options.training_script == "tritone_training"
    assert_exists(options.training_script_args)
    gpus = container["resources"]["limits"].get("nvidia.com/gpu", 0)
    assert int(gpus) == (int(options.nproc_per_node) if folder == "training-gpu" else 0)


def assert_exists(arguments: list[str]) -> None:
    """Check that `tritone` has the command and its options."""
    verb, kind, *words = arguments
    assert_options_exist(verb, words)
    assert "--resume" in words
    assert kind in ("taste_vae", "recommender")


def test_the_fit_runs_on_the_cluster_that_is_started_for_it() -> None:
    job = rendered("ray")["RayJob"]["spec"]
    name, *words = shlex.split(job["entrypoint"])
    assert name == "tritone"
    assert words[words.index("--engine") + 1] == "ray"
    assert words[words.index("--engine-address") + 1] == "auto"
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    (container,) = group["template"]["spec"]["containers"]
    assert int(words[words.index("--workers") + 1]) == group["replicas"] * int(container["resources"]["limits"]["cpu"])
    pins = (ROOT / "constraints-engines.txt").read_text().splitlines()
    assert f"ray=={job['rayClusterSpec']['rayVersion']}" in pins


def test_images_of_another_registry(tmp_path: Path) -> None:
    checkout = copy_of_manifests(tmp_path)
    run_documented((ROOT / "docs/how-to/kubernetes.md").read_text(), "sed -i", checkout)
    for folder in FOLDERS:
        images = re.findall(r"image: (.*)", yaml.safe_dump_all(rendered_at(checkout / "deploy/kubernetes" / folder)))
        assert images
        assert all(image.startswith("registry.example/tritone/train") for image in images)
