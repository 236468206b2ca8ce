"""The OpenAPI 3.1 schema."""

from __future__ import annotations

from typing import Any, Final, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from tritone import PieceChunk
from tritone_gateway.admission import PROTECTED
from tritone_gateway.bodies import COMPONENTS, form_schema
from tritone_gateway.problems import Problem, problem_responses
from tritone_gateway.representations import RESULTS
from tritone_gateway.security.callers import SECURITY_SCHEMES

TAGS: Final = [
    {"name": "Listen", "description": "Recordings and scores in, labels, timelines and vectors out. Scope: listen."},
    {"name": "Write", "description": "New music, as JSON, MIDI, sound or a plot. Scope: write."},
    {"name": "Recommend", "description": "Tracks for a listener, and tracks like a track. Scope: recommend."},
    {"name": "Models", "description": "What is served. Any key."},
    {"name": "Operations", "description": "For monitoring."},
]
_REF: Final = "#/components/schemas/{model}"


def schema_of(app: FastAPI) -> dict[str, Any]:
    """Return the schema of an application: FastAPI's, and the models of the request bodies that `bodies` reads."""
    schema = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    bodies: list[type[BaseModel]] = [*COMPONENTS.values(), Problem]
    models: list[tuple[type[BaseModel], Literal["validation"]]] = [(each, "validation") for each in bodies]
    _, found = models_json_schema(models, ref_template=_REF)
    for name, each in found["$defs"].items():
        components.setdefault(name, each)
    for name, model in COMPONENTS.items():
        form = form_schema(model, components[name])
        if form is not None:
            components[f"{name}Form"] = form
    for name, result in (RESULTS | {PieceChunk.__name__: PieceChunk}).items():
        components[name] = TypeAdapter(result).json_schema(ref_template=_REF)
    # FastAPI describes validation errors in a form that the gateway does not use.
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    schema["components"]["securitySchemes"] = SECURITY_SCHEMES
    for path, methods in schema["paths"].items():
        if path.startswith(PROTECTED):
            for operation in methods.values():
                operation["security"] = [{name: []} for name in SECURITY_SCHEMES]
    for operation in (each for path in schema["paths"].values() for each in path.values()):
        if "422" in operation["responses"]:
            operation["responses"]["422"] = problem_responses(422)[422]
    return schema
