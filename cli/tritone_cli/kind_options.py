"""Options that only some model kinds take: giving one to another kind is an error, not ignored."""

from __future__ import annotations

from typing import Final

import typer

_ON_PURPOSE: Final = frozenset({"COMMANDLINE", "ENVIRONMENT"})


def check_kind_takes(context: typer.Context, kind_name: str) -> None:
    """Compare the options that were given with those that the kind takes.

    Raises:
        UnknownKindError: no such kind.
        typer.BadParameter: an option was given that the kind would ignore.
    """
    from tritone_training.registry import get_kind, kind_names

    flags = {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if parameter.name and _is_given(context, parameter.name, parameter.default)
    }
    foreign = get_kind(kind_name).options_not_taken(flags)
    if not foreign:
        return
    takers = [name for name in kind_names() if not get_kind(name).options_not_taken(foreign)]
    named = " and ".join(flags[name] for name in foreign)
    advice = f"leave {'it' if len(foreign) == 1 else 'them'} out" + (
        f", or use {' or '.join(takers)}" if takers else ""
    )
    taken = ", ".join(sorted(f"--{name.replace('_', '-')}" for name in get_kind(kind_name).options)) or "none of them"
    raise typer.BadParameter(
        f"{kind_name} does not take {named}: of the options that depend on the kind it takes {taken}; {advice}",
        param_hint=flags[foreign[0]],
    )


def _is_given(context: typer.Context, name: str, default: object) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name in _ON_PURPOSE and context.params.get(name) != default
