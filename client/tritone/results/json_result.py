"""The base of all results: `to_dict`, `from_dict`, and their use as pydantic fields and FastAPI responses.

pydantic is imported only when it requests a schema.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self, TypeVar, dataclass_transform

T = TypeVar("T", bound="JsonResult")

NUMBER: Final = {"type": "number"}
INTEGER: Final = {"type": "integer"}
BOOLEAN: Final = {"type": "boolean"}
STRING: Final = {"type": "string"}
NUMBER_BY_NAME: Final = {"type": "object", "additionalProperties": NUMBER}
_MAX_EXCERPT: Final = 80  # characters of a refused value in a message
INTEGER_BY_NAME: Final = {"type": "object", "additionalProperties": INTEGER}


def array_of(items: Mapping[str, Any], n: int | None = None) -> dict[str, Any]:
    """Return the JSON schema of an array."""
    length = {} if n is None else {"minItems": n, "maxItems": n}
    return {"type": "array", "items": dict(items), **length}


def object_of(kind: type[JsonResult]) -> dict[str, Any]:
    """Return the JSON schema of another result."""
    properties = {name: dict(schema) for name, schema in kind.json_properties.items()}
    return {"type": "object", "properties": properties, "required": list(properties)}


def optional(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a value that may be null."""
    return {"anyOf": [dict(schema), {"type": "null"}]}


class JsonResult:
    """A result with a form for JSON.

    pydantic accepts it as the type of a field, and FastAPI as the type of a response or a request: an instance, or
    what `to_dict` returns, is valid; it is serialised by `to_dict`.
    """

    json_properties: ClassVar[Mapping[str, Mapping[str, Any]]]
    """The JSON schema of each entry of `to_dict`."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {name: _plain(getattr(self, name)) for name in self.json_properties}

    def to_json(self, *, indent: int | None = None) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the result whose `to_dict` gave the values.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or is not as `to_dict` gives it.
        """
        fields = {name: values[name] for name in cls.json_properties}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls._validated,
            serialization=core_schema.wrap_serializer_function_ser_schema(
                lambda value, serialize: serialize(value.to_dict()),
                schema=core_schema.dict_schema(),  # so that include= and exclude= hold for the entries
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _core_schema: Any, _handler: Any) -> dict[str, Any]:
        return {
            "title": cls.__name__,
            "description": (inspect.getdoc(cls) or "").partition("\n")[0],
            "type": "object",
            "properties": {name: dict(schema) for name, schema in cls.json_properties.items()},
            "required": list(cls.json_properties),
        }

    @classmethod
    def _validated(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a {cls.__name__} or a mapping, got {type(value).__name__}")
        missing = [name for name in cls.json_properties if name not in value]
        if missing:
            raise ValueError(f"expected the entries of {cls.__name__}.to_dict(); missing: {', '.join(missing)}")
        for name, schema in cls.json_properties.items():
            if not _is_of_type(value[name], schema):
                raise ValueError(f"{name}: expected {_description(schema)}, got {_excerpt(value[name])}")
        try:
            return cls.from_dict(value)
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
            raise ValueError(f"expected the entries of {cls.__name__}.to_dict() ({error})") from error


_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "array": (list, tuple),
    "object": (Mapping,),
}


def _is_of_type(value: Any, schema: Mapping[str, Any]) -> bool:
    """Return whether a value and its entries have the types of a schema; nested arrays are checked by `from_dict`."""
    if "anyOf" in schema:
        return any(_is_of_type(value, each) for each in schema["anyOf"])
    types: Any = _TYPES[schema["type"]]
    if not isinstance(value, types) or isinstance(value, bool) is not (schema["type"] == "boolean"):
        return False
    items = schema.get("items")
    if items is not None and items.get("type") != "array":
        return all(_is_of_type(item, items) for item in value)
    entries = schema.get("additionalProperties")
    return entries is None or all(_is_of_type(entry, entries) for entry in value.values())


def _description(schema: Mapping[str, Any]) -> str:
    """Return a schema in words, as in "array of integer or null"."""
    if "anyOf" in schema:
        return " or ".join(_description(each) for each in schema["anyOf"])
    inner = schema.get("items", schema.get("additionalProperties"))
    return str(schema["type"]) + (f" of {_description(inner)}" if inner else "")


def _plain(value: Any) -> Any:
    if isinstance(value, JsonResult):
        return value.to_dict()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _excerpt(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_EXCERPT else text[:_MAX_EXCERPT] + "..."


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
def json_result(cls: type[T]) -> type[T]:
    """Make a frozen class of fields whose instances `dict(result)` and FastAPI's encoder serialise by `to_dict`.

    `dataclass` generates the methods, then the attribute that marks dataclasses is removed: FastAPI passes every
    dataclass to `dataclasses.asdict`, which leaves NumPy arrays in the result, before it tries another conversion.
    """

    def pairs(self: T) -> Iterator[tuple[str, Any]]:
        return iter(self.to_dict().items())

    made: Any = dataclass(frozen=True, eq=False)(cls)
    made.__iter__ = pairs  # `dict(result)` uses it, as with pydantic's models
    del made.__dataclass_fields__
    return cls
