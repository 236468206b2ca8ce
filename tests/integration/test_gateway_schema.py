"""All operations of the OpenAPI schema, with data that fits it and data that does not, against a real Triton."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from tests.integration.gateway import music_repository
from tests.support.gateways import gateway_process

from tritone_gateway.security.keys import SCOPES, KeyStore
from tritone_serving import TritonServer

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(600)]

SCHEMA: Any = json.loads((Path(__file__).parents[2] / "gateway" / "openapi.json").read_text())
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, methods in SCHEMA["paths"].items()
    for method, operation in methods.items()
}
PROTECTED = sorted(name for name, (_, _, operation) in OPERATIONS.items() if "security" in operation)
METHODS = {"get", "post", "put", "patch", "delete", "options", "trace"}
N_EXAMPLES = 12
# What only makes the models work longer is kept small.
MOST = {"bars": 2, "n": 3, "steps": 3, "limit": 20}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyStore:
    return KeyStore(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def created(keys: KeyStore) -> dict[str, str]:
    """Keys by the scope that they lack; "" for the one that lacks none."""
    lacking = {each: tuple(scope for scope in SCOPES if scope != each) for each in ("", *SCOPES)}
    return {each: keys.create("tests", scopes, users="all")[1] for each, scopes in lacking.items()}


@pytest.fixture(scope="module")
def key(created: dict[str, str]) -> str:
    return created[""]


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, serve_models: Callable[[Path], Path], server: TritonServer
) -> TritonServer:
    serve_models(music_repository(tmp_path_factory.mktemp("gateway") / "models"))
    return server


@pytest.fixture(scope="module")
def url(
    models: TritonServer,
    keys: KeyStore,
    key: str,
    created: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """A gateway that starts when its keys are there, because it looks for others only every half second."""
    folder = tmp_path_factory.mktemp("gateway")
    recordings = folder / "recordings"
    recordings.mkdir()
    (recordings / "0.ogg").write_bytes(b"OggS")
    options = ("--recordings", str(recordings), "--timeout", "10", "--max-body-mb", "1")
    with gateway_process(models.grpc_url, keys.path, *options, log=folder / "log") as address:
        yield address
    assert "unexpected error" not in (folder / "log").read_text()


@pytest.fixture(scope="module")
def operations(url: str) -> dict[str, APIOperation]:
    schema = schemathesis.openapi.from_path(Path(__file__).parents[2] / "gateway" / "openapi.json")
    schema.config.update(base_url=url)
    found = [each.ok() for each in schema.get_all_operations()]
    return {each.definition.raw["operationId"]: each for each in found}


@pytest.fixture(scope="module")
def session(key: str) -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.headers["X-API-Key"] = key
        yield made


def limited(values: Any) -> None:
    if isinstance(values, dict):
        for name, most in MOST.items():
            value = values.get(name)
            if isinstance(value, int | float) and most < value <= 10_000:
                values[name] = most


@pytest.mark.parametrize("operation_id", sorted(OPERATIONS))
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_responses_are_as_the_schema_says(
    operations: dict[str, APIOperation], session: requests.Session, operation_id: str, mode: GenerationMode
) -> None:
    operation = operations[operation_id]
    declared = OPERATIONS[operation_id][2]["responses"]
    accepted = ["*/*", *declared["200"].get("content", {})]

    @given(case=operation.as_strategy(generation_mode=mode), accept=st.sampled_from(accepted))
    @settings(
        max_examples=N_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Case, accept: str) -> None:
        limited(case.body)
        limited(case.query)
        response = case.call(session=session, headers={"Accept": accept}, timeout=30)
        context = (response.status_code, response.content[:2_000], case.as_curl_command())
        assert response.status_code < 500, context
        assert str(response.status_code) in declared, context
        operation.validate_response(response, case=case)
        media_type = response.headers["content-type"][0]
        if response.status_code >= 400 and operation_id != "readiness":
            assert media_type == "application/problem+json", context
        elif accept != "*/*":
            assert media_type.partition(";")[0] == accept or accept == "audio/*", context

    send()


@pytest.mark.parametrize("operation_id", PROTECTED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "tritone_000000000000_" + "A" * 43},
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic eA=="},
    ],
    ids=["none", "unknown", "malformed", "basic"],
)
def test_requests_without_a_valid_key_are_refused(url: str, operation_id: str, headers: dict[str, str]) -> None:
    method, path, _ = OPERATIONS[operation_id]
    response = httpx2.request(method, url + path.replace("{track_id}", "0"), headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["type"] == "urn:tritone:problem:unauthenticated"


@pytest.mark.parametrize("operation_id", sorted(set(PROTECTED) - {"listModels"}))
def test_keys_without_the_scope_are_refused(url: str, created: dict[str, str], operation_id: str) -> None:
    method, path, operation = OPERATIONS[operation_id]
    needed = {"metrics": ["admin"], "inspire": ["write", "recommend"]}.get(operation_id, [operation["tags"][0].lower()])
    for scope in needed:
        headers = {"X-API-Key": created[scope]}
        response = httpx2.request(method, url + path.replace("{track_id}", "0"), headers=headers)
        assert response.status_code == 403
        assert response.json()["type"] == "urn:tritone:problem:scope-missing"


@pytest.mark.parametrize("path", sorted(SCHEMA["paths"]))
def test_other_methods_are_refused(url: str, key: str, path: str) -> None:
    declared = set(SCHEMA["paths"][path])
    for method in sorted(METHODS - declared):
        response = httpx2.request(method, url + path.replace("{track_id}", "0"), headers={"X-API-Key": key})
        assert response.status_code == 405, method
        assert {each.strip().lower() for each in response.headers["allow"].split(",")} == declared
        assert response.headers["content-type"] == "application/problem+json"
