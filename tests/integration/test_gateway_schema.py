"""All operations of the OpenAPI schema, with data that fits it and data that does not, against a real Triton."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import requests
from schemathesis import APIOperation, GenerationMode
from tests.integration.gateway import music_repository
from tests.support.gateway_schema import CASES, OPERATIONS, SCHEMA, check_responses, operations_at
from tests.support.gateways import gateway_process

from tritone_gateway.security.keys import SCOPES, KeyStore
from tritone_serving import TritonServer

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(600)]

PROTECTED = sorted(name for name, (_, _, operation) in OPERATIONS.items() if "security" in operation)
METHODS = {"get", "post", "put", "patch", "delete", "options", "trace"}
N_EXAMPLES = 12


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
    return operations_at(url)


@pytest.fixture(scope="module")
def session(key: str) -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.headers["X-API-Key"] = key
        yield made


@pytest.mark.parametrize(("operation_id", "mode"), CASES)
def test_responses_are_as_the_schema_says(
    operations: dict[str, APIOperation], session: requests.Session, operation_id: str, mode: GenerationMode
) -> None:
    check_responses(operations[operation_id], mode, session, N_EXAMPLES)


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
