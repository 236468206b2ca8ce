"""The operations of the committed OpenAPI schema, and requests to them that schemathesis generates from it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from tests.support.tones import tone_file

PATH = Path(__file__).parents[2] / "gateway" / "openapi.json"
SCHEMA: Any = json.loads(PATH.read_text())
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, methods in SCHEMA["paths"].items()
    for method, operation in methods.items()
}
# Each operation with data that fits the schema, and with other data if it takes any.
CASES = [
    (name, mode)
    for name, (_, _, operation) in sorted(OPERATIONS.items())
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    if mode is GenerationMode.POSITIVE or {"parameters", "requestBody"} & set(operation)
]
# Limits of values that only make the models compute longer.
_MOST = {"bars": 2, "n": 3, "steps": 3, "limit": 20}
_OF_RECORDINGS = {"classify", "embed", "recommend", "similar"}
_RECORDING = {"base64": base64.b64encode(tone_file(1.0)).decode()}
_SCORE = {"notes": [[4 * i, 4, 60 + i % 12] for i in range(8)]}


def operations_at(url: str) -> dict[str, APIOperation]:
    """Return the operations of a gateway by their ids."""
    schema = schemathesis.openapi.from_path(PATH)
    schema.config.update(base_url=url)
    found = [each.ok() for each in schema.get_all_operations()]
    return {each.definition.raw["operationId"]: each for each in found}


def check_responses(operation: APIOperation, mode: GenerationMode, session: requests.Session, n_examples: int) -> None:
    """Send requests that fit the schema, or that do not; each response must be one that the schema describes.

    A response that says that the gateway or the models' server failed is an error of the test, although the schema
    describes it.
    """
    declared = operation.definition.raw["responses"]
    accepted = ["*/*", *declared["200"].get("content", {})]

    usable = st.booleans() if mode is GenerationMode.POSITIVE else st.just(False)

    @given(case=operation.as_strategy(generation_mode=mode), accept=st.sampled_from(accepted), usable=usable)
    @settings(
        max_examples=n_examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send(case: Case, accept: str, usable: bool) -> None:
        if usable:
            _make_usable(case.body, operation.definition.raw["operationId"])
        _limit(case.body)
        _limit(case.query)
        response = case.call(session=session, headers={"Accept": accept}, timeout=30)
        context = (response.status_code, response.content[:2_000], case.as_curl_command())
        assert response.status_code < 500, context
        assert str(response.status_code) in declared, context
        media_type = response.headers["content-type"][0].partition(";")[0]
        if media_type == "text/event-stream":  # described as a text; OpenAPI can describe single events only from 3.2
            assert response.content.startswith(b"event: start\n"), context
        else:
            operation.validate_response(response, case=case)
        if response.status_code >= 400:
            assert media_type == "application/problem+json", context
        elif "*" not in accept:
            assert media_type == accept, context

    send()


def _make_usable(values: Any, operation_id: str) -> None:
    """Give a JSON body a readable file and the default model; the schema has a pattern for neither."""
    if isinstance(values, dict):
        values.pop("model", None)
        values.pop("stream_model", None)
        for name in ("file", "a", "b"):
            if isinstance(values.get(name), dict):
                values[name] = _RECORDING if operation_id in _OF_RECORDINGS else _SCORE


def _limit(values: Any) -> None:
    if isinstance(values, dict):
        for name, most in _MOST.items():
            value = values.get(name)
            if isinstance(value, int | float) and most < value <= 10_000:
                values[name] = most
