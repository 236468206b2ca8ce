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
    {
        "name": "Listen",
        "description": "Classification and embedding of recordings, and likelihoods of scores. Scope: listen.",
    },
    {"name": "Write", "description": "Composition of music, as JSON, MIDI, audio or a plot. Scope: write."},
    {
        "name": "Recommend",
        "description": "Recommendation of tracks, similar tracks, playlists, search, and events. Scope: recommend.",
    },
    {"name": "Models", "description": "The served models. Any valid key."},
    {"name": "Operations", "description": "Liveness, readiness and metrics, for monitoring."},
]
_REF: Final = "#/components/schemas/{model}"


def schema_of(app: FastAPI) -> dict[str, Any]:
    """Return the schema of an application, with the request bodies that `bodies` parses instead of FastAPI."""
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
    # FastAPI's own schema of validation errors, which the gateway does not use.
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
