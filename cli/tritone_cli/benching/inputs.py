"""What each model is asked in a bench: drawn as its kind's declaration draws examples, never zeros.

Shapes: N questions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone import TritoneError
from tritone_serving.repository.folders import newest_version
from tritone_training.registry import get_kind, kind_names

N_QUESTIONS: Final = 32
N_HISTORY: Final = 20
N_LISTED: Final = 10
_SEED: Final = 1
_RECOMMENDER: Final = "cf_ensemble"

Array = npt.NDArray[Any]
Draw = Callable[[int, int], Mapping[str, npt.NDArray[np.generic]]]


class NoInputsError(TritoneError):
    """Nothing says what this model is to be asked."""


@dataclass(frozen=True)
class Questions:
    """What one model is asked.

    Attributes:
        requests: N of them, each an array by input name, as it goes over the wire but for the batch axis.
        batch: the same as one batch for ONNX Runtime, (N, ...) by input name; None where they do not stack.
    """

    requests: Sequence[Mapping[str, Array]]
    batch: Mapping[str, Array] | None


def questions_for(config: Mapping[str, Any], repository: Path | None, *, n: int = N_QUESTIONS) -> Questions:
    """Draw questions.

    Args:
        config: the model's, as the server tells it in JSON.
        repository: to look into for what a model knows (ids of items, the kind on its card); None where it is not here.

    Raises:
        NoInputsError: no kind declares such a model.
    """
    if "ensemble_scheduling" in config:
        return _of_an_ensemble(config, repository, n)
    if config.get("backend") == _RECOMMENDER and repository is not None:
        return _of_a_recommender(repository / config["name"], n)
    drawn = _drawn(config, repository, n)
    inputs = {each["name"]: each for each in config["input"]}
    if int(config.get("max_batch_size", 0)) == 0:
        # Without a batch axis a question is all of a draw; each is drawn apart.
        each = [_drawn(config, repository, 1 + row % 4, seed=_SEED + row) for row in range(min(n, 8))]
        return Questions([{name: one[name] for name in inputs} for one in each], None)
    requests = [
        {name: _on_the_wire(drawn[name][row], inputs[name]["dims"]) for name in inputs if name in drawn}
        for row in range(n)
    ]
    return Questions(requests, {name: drawn[name] for name in inputs if name in drawn})


def _drawn(
    config: Mapping[str, Any], repository: Path | None, n: int, *, seed: int = _SEED
) -> Mapping[str, npt.NDArray[np.generic]]:
    wanted = {each["name"] for each in config["input"]}
    needed = {each["name"] for each in config["input"] if not each.get("optional")}
    for draw in _draws(config["name"], repository):
        drawn = draw(n, seed)
        if needed <= drawn.keys() and set(drawn) <= wanted:
            return drawn
    raise NoInputsError(
        f"{config['name']}: no model kind draws its inputs ({', '.join(sorted(wanted))}); give --input-data FILE, "
        f"JSON in perf_analyzer's form"
    )


def _draws(model: str, repository: Path | None) -> Iterator[Draw]:
    """What may draw for a model: its own declaration first, then the others of its kind, then of any kind."""
    kinds = [get_kind(name) for name in kind_names()]
    on_card = _kind_on_card(repository / model) if repository is not None else None
    for kind in kinds:
        for companion in kind.companions:
            if companion.declaration.name == model:
                yield companion.example_inputs
    for kind in sorted(kinds, key=lambda kind: (kind.name != on_card, all(d.name != model for d in kind.declarations))):
        yield kind.example_inputs
        for companion in kind.companions:
            yield companion.example_inputs
    yield _window_embeddings


def _kind_on_card(folder: Path) -> str | None:
    version = newest_version(folder)
    if version is None:
        return None
    try:
        card = json.loads((version / "model_card.json").read_text(encoding="utf-8"))
        return str(card["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _window_embeddings(n: int, seed: int) -> Mapping[str, npt.NDArray[np.generic]]:
    """What `recording_embedding` takes: (n, 256) unit vectors to pool, n windows, and what it passes over."""
    drawn = np.random.default_rng(seed).standard_normal((n, 256)).astype(np.float32)
    ignored = {"probabilities": np.zeros((n, 4), np.float32), "emotions": np.zeros((n, 9), np.float32)}
    return {"embeddings": drawn / np.linalg.norm(drawn, axis=1, keepdims=True), **ignored}


def _on_the_wire(row: npt.NDArray[Any], dims: Sequence[int | str]) -> Array:
    """A row in its config's shape, which keeps an axis of one where the graph has none (`reshape`)."""
    array = np.ascontiguousarray(row)
    return array.reshape(1) if array.ndim == 0 and [int(size) for size in dims] == [1] else array


def _of_an_ensemble(config: Mapping[str, Any], repository: Path | None, n: int) -> Questions:
    """Each input as the step that reads it is asked; an ensemble of ours has no batch axis."""
    if repository is None:
        raise NoInputsError(f"{config['name']}: its steps' configs are not here; give --repository, or --input-data")
    readers = {
        tensor: (step["model_name"], name)
        for step in config["ensemble_scheduling"]["step"]
        for name, tensor in step["input_map"].items()
    }
    requests: list[dict[str, Array]] = []
    for row in range(min(n, 8)):
        request: dict[str, Array] = {}
        for each in config["input"]:
            model, name = readers[each["name"]]
            n_rows = 1 if int(each["dims"][0]) == 1 else 3 + row % 4  # windows of a recording
            drawn = next((d for d in (draw(n_rows, row) for draw in _draws(model, repository)) if name in d), None)
            if drawn is None:
                raise NoInputsError(f"{config['name']}: no model kind draws {name} of {model}; give --input-data FILE")
            request[each["name"]] = np.ascontiguousarray(drawn[name])
        requests.append(request)
    return Questions(requests, None)


def _of_a_recommender(folder: Path, n: int) -> Questions:
    """Histories of items that the artifact knows, the popular ones more often."""
    from tritone_serving.recommender import open_artifact

    version = newest_version(folder)
    if version is None:
        raise NoInputsError(f"{folder} holds no version, whose items it could be asked about")
    items = open_artifact(version).texts("items")
    random = np.random.default_rng(_SEED)
    odds = 1 / np.arange(1, len(items) + 1) ** 0.8
    requests = []
    for _ in range(n):
        n_heard = int(random.integers(1, min(N_HISTORY, len(items)) + 1))
        heard = random.choice(len(items), n_heard, replace=False, p=odds / odds.sum())
        history = np.array([items[item] for item in heard.tolist()], object)
        requests.append({"history": history, "k": np.array([N_LISTED], np.int32)})
    return Questions(requests, None)
