"""Hyper-parameters of model kinds: validated pydantic models, presets, and configuration files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tritone_training.exceptions import HyperparameterError, TrainingError


class Hyperparameters(BaseModel):
    """Base of each kind's configuration: immutable; unknown fields and values of other types are errors.

    A subclass declares its fields with bounds and descriptions (`Field(16, ge=1, description="...")`). The same
    declaration validates `--set` and `--config FILE`, and gives the reference of the configuration.

    Raises:
        HyperparameterError: on construction, with the names of the invalid fields.
    """

    # Strict: "3" is no number and 1 is not true. An integer is accepted where a float is expected.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _as_hyperparameter_error(error, known=list(type(self).model_fields)) from error

    def changed(self, **values: Any) -> Self:
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

    Raises:
        TrainingError: the file cannot be read, or is not a table of names and values.
    """
    try:
        text = path.read_text("utf-8")
        values = tomllib.loads(text) if path.suffix.lower() == ".toml" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f"{path}: expected a configuration in YAML or TOML; {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise TrainingError(f"{path}: expected names of hyper-parameters with values, such as `width: 32`")
    return values


def _as_hyperparameter_error(error: ValidationError, known: list[str]) -> HyperparameterError:
    problems, names = [], []
    for each in error.errors(include_url=False):
        name = str(each["loc"][0]) if each["loc"] else ""
        names.append(name)
        if each["type"] == "extra_forbidden":
            problems.append(f"no hyper-parameter {name}; there are: {', '.join(known)}")
        elif each["type"] == "value_error":  # of a validator of ours, which has a text of its own
            problems.append(f"{name}: {each['ctx']['error']}" if name else str(each["ctx"]["error"]))
        else:
            expected = each["msg"].removeprefix("Input should be ")
            problems.append(f"{name}: expected {expected}, got {each['input']!r}")
    return HyperparameterError("; ".join(problems), fields=tuple(names))
