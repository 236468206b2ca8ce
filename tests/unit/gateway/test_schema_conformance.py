"""The gateway with fake models conforms to its OpenAPI schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from schemathesis import APIOperation, GenerationMode
from tests.support.gateway_schema import CASES, check_responses, operations_at
from tests.support.gateways import listening
from tests.unit.gateway.conftest import FAKES

from tritone.testing import FakeEvents, FakeInspirer, FakeServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, APIOperation]]:
    models: Any = FakeServer(*FAKES, FakeInspirer(*FAKES), FakeEvents())
    with listening(tmp_path_factory.mktemp("gateway"), models) as port:
        yield operations_at(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(("operation_id", "mode"), CASES)
def test_responses_are_as_the_schema_says(
    operations: dict[str, APIOperation], operation_id: str, mode: GenerationMode
) -> None:
    with requests.Session() as session:
        check_responses(operations[operation_id], mode, session, n_examples=20)
