"""Result of `MusicClient.models`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tritone.results.json_result import BOOLEAN, INTEGER, NUMBER, STRING, JsonResult, array_of, optional


@dataclass(frozen=True)
class ModelInfo(JsonResult):
    """A model that the server has loaded.

    Attributes:
        name: the model's name.
        versions: the loaded versions, the oldest first.
        ready: whether it can be called now.
        n_inferences: rows that its versions have processed since they were loaded.
        n_failures: requests that failed.
        last_inference_s: Unix time of the last inference; None if there was none.
    """

    name: str
    versions: tuple[str, ...]
    ready: bool
    n_inferences: int = field(default=0, repr=False)
    n_failures: int = field(default=0, repr=False)
    last_inference_s: float | None = field(default=None, repr=False)

    json_properties: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "name": STRING,
        "versions": array_of(STRING),
        "ready": BOOLEAN,
        "n_inferences": INTEGER,
        "n_failures": INTEGER,
        "last_inference_s": optional(NUMBER),
    }
