"""Checks of Kubernetes manifests: schemas, the security of containers, and the commands of the documentation."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from typer.main import get_command

from tritone_cli.main import build_app

KUBERNETES_VERSIONS = ("1.30", "1.36")
_SCHEMAS = Path(__file__).parents[1] / "deploy"
KSERVE, KUBERAY, OPERATORS = (
    json.loads((_SCHEMAS / f"{name}.schema.json").read_text()) for name in ("kserve", "kuberay", "operators")
)
# Fields of a ServingRuntime that are those of a pod.
_POD_FIELDS = ("containers", "volumes", "nodeSelector", "tolerations")


def validated(resource: Mapping[str, Any], version: str) -> None:
    """Check a resource by the schema of its kind, and the pods of custom resources as pods of Kubernetes.

    Raises:
        kubernetes_validate.ValidationError: it is invalid.
        jsonschema.ValidationError: it is an invalid custom resource.
    """
    group = resource["apiVersion"].partition("/")[0]
    if group in ("monitoring.coreos.com", "gateway.networking.k8s.io"):
        jsonschema.validate(resource, OPERATORS)
    elif group == "serving.kserve.io":
        jsonschema.validate(resource, KSERVE)
        if resource["kind"] == "InferenceService":
            spread = resource["spec"]["predictor"]["topologySpreadConstraints"]
            _validate_pod(
                resource, {"containers": [{"name": "kserve-container"}], "topologySpreadConstraints": spread}, version
            )
        if resource["kind"] == "ServingRuntime":
            _validate_pod(
                resource, {key: resource["spec"][key] for key in _POD_FIELDS if key in resource["spec"]}, version
            )
    elif resource["kind"] == "RayJob":
        jsonschema.validate(resource, KUBERAY)
        for template in pod_templates(resource):
            _validate_pod(resource, template["spec"], version)
    else:
        kubernetes_validate.validate(resource, version, strict=True)


def _validate_pod(resource: Mapping[str, Any], spec: Mapping[str, Any], version: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": resource["metadata"], "spec": spec}
    kubernetes_validate.validate(pod, version, strict=True)


def pod_templates(resource: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Pod templates of a Job or a RayJob; none of other resources."""
    spec = resource["spec"]
    if resource["kind"] == "RayJob":
        cluster = spec["rayClusterSpec"]
        yield cluster["headGroupSpec"]["template"]
        yield from (group["template"] for group in cluster["workerGroupSpecs"])
    elif resource["kind"] == "Job":
        yield spec["template"]


def assert_invalid_with(resource: Mapping[str, Any], path: tuple[str | int, ...], value: object) -> None:
    """Check that a resource is invalid with another value of a field, or with a further field."""
    changed = copy.deepcopy(resource)
    part: Any = changed
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        validated(changed, KUBERNETES_VERSIONS[0])


def assert_unprivileged(pod: Mapping[str, Any], container: Mapping[str, Any], name: str) -> None:
    """Check that a container has no privileges and has bounds of its CPUs and memory.

    Args:
        pod: specification of its pod.
        container: its specification.
        name: shown when a check fails.
    """
    own = container["securityContext"]
    whole = {**pod.get("securityContext", {}), **own}
    assert whole["runAsNonRoot"] is True, name
    assert whole["runAsUser"] == 10001, name
    assert whole["seccompProfile"] == {"type": "RuntimeDefault"}, name
    assert own["readOnlyRootFilesystem"] is True, name
    assert own["allowPrivilegeEscalation"] is False, name
    assert own["capabilities"] == {"drop": ["ALL"]}, name
    for bounds in ("limits", "requests"):
        assert {"cpu", "memory"} <= set(container["resources"][bounds]), name


def assert_options_exist(verb: str, words: list[str]) -> None:
    """Check that a command of `tritone` has the options of a command line."""
    command: Any = get_command(build_app())
    known = {option for param in command.commands[verb].params for option in param.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


def run_documented(text: str, start: str, checkout: Path) -> None:
    """Run the one command of a page, or of the comments of a file, that begins with `start`."""
    (command,) = [line.lstrip("# ") for line in text.splitlines() if line.lstrip("# ").startswith(start)]
    subprocess.run(["bash", "-c", command], cwd=checkout, check=True)
