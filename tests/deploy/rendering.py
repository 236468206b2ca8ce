"""Kubernetes manifests as they would be applied."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
OVERLAYS = sorted(path.parent.name for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))


def tool(name: str) -> str:
    """A program that a package of `tritone[dev]` brings: beside this Python, whose folder need not be on the PATH."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=places)
    assert found, f"{name} is not installed; run: pip install 'tritone[dev]'"
    return found


@functools.cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    """The resources of an overlay."""
    return rendered_at(KUBERNETES / "overlays" / overlay)


def rendered_at(folder: Path) -> list[dict[str, Any]]:
    """The resources of a kustomization."""
    done = subprocess.run([tool("kubectl"), "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr  # kustomize warns of what is deprecated
    return list(yaml.safe_load_all(done.stdout))


def rendered_with(resources: list[str], components: list[str]) -> list[dict[str, Any]]:
    """The resources of a temporary overlay with these resources (relative to it) and components (by name)."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = copy_of_manifests(Path(folder))
        overlay = checkout / "deploy/kubernetes/overlays/temporary"
        overlay.mkdir()
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "tritone",
            "resources": resources, "components": [f"../../components/{name}" for name in components],
        }  # fmt: skip
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return rendered_at(overlay)


def copy_of_manifests(checkout: Path) -> Path:
    """Copy the manifests, and the dashboard that one refers to, into a folder; return the folder."""
    for place in ("deploy/kubernetes", "docker/grafana/dashboards"):
        shutil.copytree(ROOT / place, checkout / place)
    return checkout


def of_kind(overlay: str, kind: str) -> list[dict[str, Any]]:
    return [resource for resource in rendered(overlay) if resource["kind"] == kind]


def pods(overlay: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and pod specification of whatever starts pods."""
    for resource in rendered(overlay):
        name = f"{overlay}/{resource['metadata']['name']}"
        if resource["kind"] == "Deployment":
            yield name, resource["spec"]["template"]["spec"]
        elif resource["kind"] == "ServingRuntime":
            yield name, resource["spec"]


def containers(overlay: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, pod and container, init containers too."""
    for name, pod in pods(overlay):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield f"{name}/{container['name']}", pod, container
