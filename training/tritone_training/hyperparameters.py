"""Hyper-parameters of model kinds: validated pydantic models, presets, and configuration files."""

from __future__ import annotations

import re
import reprlib
import tomllib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tritone_training.exceptions import HyperparameterError, TrainingError

MAX_CONFIG_BYTES: Final = 1_000_000


class Hyperparameters(BaseModel):
    """Base of each kind's configuration: immutable; unknown fields and values of other types are errors.

    A subclass declares its fields with bounds and descriptions (`Field(16, ge=1, description="...")`). The same
    declaration validates `--set` and `--config FILE`, and gives the reference of the configuration.

    Raises:
        HyperparameterError: on construction, with the names of the invalid fields.
    """

    # Strict: "3" is no number and 1 is not true. An integer is accepted where a float is expected.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _as_hyperparameter_error(error, known=list(type(self).model_fields)) from error

    def changed(self, /, **values: Any) -> Self:
        """Return a validated copy with other values for the given fields."""
        return type(self)(**{**self.to_dict(), **values})

    def to_dict(self) -> dict[str, Any]:
        """Return the values by field name, as they are stored in checkpoints and model cards."""
        return self.model_dump()

    def to_yaml(self) -> str:
        """Return the values as YAML, each after its description; `--config FILE` accepts the result."""
        lines = []
        for name, field in type(self).model_fields.items():
            if field.description:
                lines.append(f"# {field.description}")
            lines.append(yaml.safe_dump({name: getattr(self, name)}, default_flow_style=False).strip())
        return "\n".join(lines) + "\n"


HyperparametersT = TypeVar("HyperparametersT", bound=Hyperparameters)


def from_preset(presets: Mapping[str, HyperparametersT], preset: str, changes: Mapping[str, Any]) -> HyperparametersT:
    """Return a preset with the given values in place of its own.

    Raises:
        TrainingError: there is no such preset.
        HyperparameterError: there is no such field, or a value is of another type or out of bounds.
    """
    if preset not in presets:
        raise TrainingError(f"no preset {preset!r}; there are: {', '.join(presets)}")
    return presets[preset].changed(**changes)


def read_config(path: Path) -> dict[str, Any]:
    """Read values by field name from a TOML file, or from YAML (of which JSON is a part).

    Numbers are read as in YAML 1.2, so that `1e-3` is one. Repeated names and YAML anchors are refused.

    Raises:
        TrainingError: the file cannot be read, or is not a table of names and values.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise ValueError(f"expected at most {MAX_CONFIG_BYTES:,} bytes, got more")
        text = data.decode("utf-8-sig")
        is_toml = path.suffix.lower() == ".toml"
        # The loader derives from yaml.SafeLoader.
        values = tomllib.loads(text) if is_toml else yaml.load(text, _YamlLoader)  # noqa: S506
    except OSError as error:
        raise TrainingError(f"{path}: the configuration cannot be read ({error.strerror})") from error
    # PyYAML and tomllib let the errors of int(), float() and deep nesting through.
    except (ValueError, yaml.YAMLError, AttributeError, IndexError, RecursionError) as error:
        raise TrainingError(f"{path}: expected a configuration in YAML or TOML; {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise TrainingError(f"{path}: expected names of hyper-parameters with values, such as `width: 32`")
    return values


class _YamlLoader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """YAML without anchors (a short file could expand to any size) and repeated names; dates are text."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases are not supported", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in names:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} occurs twice", key.start_mark)
            names.add(key.value)
        values: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return values


# YAML 1.1, which PyYAML follows, reads 1e-3 as text, 010 as 8 and 1:30 as 90.
_YamlLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^([-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+.0123456789"),
)


def _as_hyperparameter_error(error: ValidationError, known: list[str]) -> HyperparameterError:
    problems, names, unknown = [], [], []
    for each in error.errors(include_url=False):
        name = str(each["loc"][0]) if each["loc"] else ""
        names.append(name)
        if each["type"] == "extra_forbidden":
            unknown.append(name)
        elif each["type"] == "value_error":  # of a validator of ours, which has a text of its own
            problems.append(f"{name}: {each['ctx']['error']}" if name else str(each["ctx"]["error"]))
        else:
            expected = each["msg"].removeprefix("Input should be ")
            problems.append(f"{name}: expected {expected}, got {reprlib.repr(each['input'])}")
    if unknown:
        problems.append(f"no hyper-parameter {', '.join(unknown)}; there are: {', '.join(known)}")
    return HyperparameterError("; ".join(problems), fields=tuple(names))
