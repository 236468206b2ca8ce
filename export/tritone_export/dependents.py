"""Models that answer by means of others: ensembles by their steps, backends of ours by a model that their config names.

Triton's response cache knows answers by the version of the model that was asked, and by its inputs. An answer that such
a model gave by means of another would outlive the version of that other one, so it gets a new number, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tritone_export._exceptions import RepositoryError
from tritone_export.candidates import read_config
from tritone_serving import CanaryError
from tritone_serving.calls import Calls
from tritone_serving.repository import filled_models


def cached_dependents(repository: Path, changed: Collection[str], calls: Calls, *, timeout_s: float) -> list[str]:
    """Those on the server, and not of `changed` themselves, whose answers its cache holds; see `dependents`.

    Args:
        timeout_s: for each question to the server.
    """
    cached = []
    for model in dependents(repository, changed):
        if model in changed:
            continue
        with contextlib.suppress(CanaryError):  # it is not loaded, and answers nobody
            if calls.config(model, timeout_s=timeout_s).response_cache.enable:
                cached.append(model)
    return cached


def dependents(repository: Path, changed: Iterable[str]) -> list[str]:
    """Models that pass requests on to one of `changed`, or to one that does; each after those that it passes them to.

    Raises:
        RepositoryError: models pass requests on to one another in a circle.
    """
    models = filled_models(repository)
    asks = {model: sorted(_asked_by(repository / model) & models) for model in sorted(models)}
    try:
        in_order = list(TopologicalSorter(asks).static_order())
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise RepositoryError(f"{repository}: models pass requests on in a circle: {circle}; correct one") from error
    affected = set(changed)
    found = []
    for model in in_order:
        if not affected.isdisjoint(asks[model]):
            affected.add(model)
            found.append(model)
    return found


def _asked_by(folder: Path) -> set[str]:
    """What a model's configuration names: of what it names, models are those that the repository holds."""
    try:
        config = read_config(folder / "config.pbtxt")
    except RepositoryError:
        return set()  # nothing that a server could have loaded
    steps = {step.model_name for step in config.ensemble_scheduling.step}
    return (steps | {parameter.string_value for parameter in config.parameters.values()}) - {folder.name}
