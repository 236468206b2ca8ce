"""The committed OpenAPI schema, and the client that is generated from it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

ROOT = Path(__file__).parents[3]
SCHEMA = ROOT / "gateway" / "openapi.json"
STUDIO = ROOT / "studio"


@pytest.fixture(scope="module")
def schema() -> Any:
    return json.loads(SCHEMA.read_text())


def test_the_committed_schema_is_that_of_the_gateway(gateway: TestClient, schema: Any) -> None:
    assert gateway.get("/openapi.json").json() == schema, "the routes have changed: run `make openapi`"


def test_every_reference_resolves(schema: Any) -> None:
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(schema)))
    assert named <= set(schema["components"]["schemas"])


def test_every_operation_has_an_id_a_summary_and_tags(schema: Any) -> None:
    operations = [each for path in schema["paths"].values() for each in path.values()]
    ids = [each["operationId"] for each in operations]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][A-Za-z]+", each) for each in ids)
    assert all(each["summary"] and each["tags"] for each in operations)


def test_errors_of_the_routes_are_problems(schema: Any) -> None:
    for path, methods in schema["paths"].items():
        for each in methods.values():
            errors = [status for status in each["responses"] if status.startswith(("4", "5"))]
            if path.startswith("/v1"):
                assert {"401", "429"} <= set(errors), path
                assert all("application/problem+json" in each["responses"][status]["content"] for status in errors)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npx") is None, reason="needs npm")
@pytest.mark.skipif(not (STUDIO / "node_modules").is_dir(), reason="needs `make studio`")
def test_the_typescript_types_are_current_and_the_page_compiles_with_them(tmp_path: Path) -> None:
    types = tmp_path / "schema.d.ts"
    command = ["npx", "openapi-typescript", str(SCHEMA), "--default-non-nullable", "false", "-o", str(types)]
    subprocess.run(command, cwd=STUDIO, check=True, capture_output=True)
    assert types.read_text() == (STUDIO / "src/api/schema.d.ts").read_text(), "run `make openapi`"
    checked = subprocess.run(["npx", "tsc", "--noEmit"], cwd=STUDIO, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
