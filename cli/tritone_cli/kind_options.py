"""Refuse options that a model kind does not support."""

from __future__ import annotations

from typing import Final

import typer

_EXPLICIT: Final = frozenset({"COMMANDLINE", "ENVIRONMENT"})


def check_kind_takes(context: typer.Context, kind_name: str) -> None:
    """Check that a kind supports all given options.

    Raises:
        UnknownKindError: there is no such kind.
        typer.BadParameter: the kind would ignore one of the options.
    """
    from tritone_training.registry import get_kind, kind_names

    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params if parameter.name}
    given = [each.name for each in context.command.params if each.name and _is_given(context, each.name, each.default)]
    kind = get_kind(kind_name)
    foreign = kind.options_not_taken(given)
    if not foreign:
        return
    supporting = [name for name in kind_names() if not get_kind(name).options_not_taken(foreign)]
    supported = ", ".join(flag for name, flag in flags.items() if name in kind.options)
    raise typer.BadParameter(
        f"{kind_name} does not support {' and '.join(flags[name] for name in foreign)}: expected, of the options that "
        f"depend on the kind, {supported or 'none'}; remove {'it' if len(foreign) == 1 else 'them'}"
        + (f" (supported by {' and '.join(supporting)})" if supporting else ""),
        param_hint=flags[foreign[0]],
    )


def _is_given(context: typer.Context, name: str, default: object) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name in _EXPLICIT and context.params.get(name) != default
