"""The CronJob of refits: valid for Kubernetes, one at a time, and its command exists."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from tests.deploy.rendering import KUBERNETES
from tests.support.manifests import (
    KUBERNETES_VERSIONS,
    assert_invalid_with,
    assert_options_exist,
    assert_unprivileged,
    validated,
)


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((KUBERNETES / "refit" / "cronjob.yaml").read_text())
    return found


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_it_is_valid(job: dict[str, Any], version: str) -> None:
    validated(job, version)
    assert_invalid_with(job, ("spec", "schedul"), "")


def test_it_runs_alone_and_without_privileges(job: dict[str, Any]) -> None:
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert_unprivileged(pod, container, job["metadata"]["name"])
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}


def test_its_command_exists(job: dict[str, Any]) -> None:
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    name, verb, *words = container["command"]
    assert (name, verb) == ("tritone", "refit")
    assert_options_exist(verb, words)
