"""The CronJob of refits: valid for Kubernetes, one at a time, and its command exists."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.deploy.rendering import KUBERNETES
from typer.main import get_command

from tritone_cli.main import build_app


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((KUBERNETES / "refit" / "cronjob.yaml").read_text())
    return found


@pytest.mark.parametrize("version", ["1.30", "1.36"])
def test_it_is_valid(job: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(job, version, strict=True)
    job = {**job, "spec": {**job["spec"], "schedul": ""}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, version, strict=True)


def test_it_runs_alone_and_without_privileges(job: dict[str, Any]) -> None:
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}


def test_its_command_exists(job: dict[str, Any]) -> None:
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    name, verb, *words = container["command"]
    assert (name, verb) == ("tritone", "refit")
    command: Any = get_command(build_app())
    known = {option for param in command.commands["refit"].params for option in param.opts}
    assert {word for word in words if word.startswith("--")} <= known
