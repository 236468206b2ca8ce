"""Example requests for a model, drawn from the declaration of its kind.

Shapes: N requests.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone import TritoneError
from tritone.constants import SAMPLE_RATE_HZ, WINDOW_SAMPLES
from tritone_serving.repository import newest_version
from tritone_training.registry import get_kind, kind_names

N_REQUESTS: Final = 32
N_HISTORY: Final = 20
N_LISTED: Final = 10
_SEED: Final = 1
_RECOMMENDER: Final = "cf_ensemble"

Array = npt.NDArray[Any]
Draw = Callable[[int, int], Mapping[str, npt.NDArray[np.generic]]]


class UnknownInputsError(TritoneError):
    """Raised when no model kind can draw example requests for a model."""


@dataclass(frozen=True)
class ExampleRequests:
    """Example requests for one model.

    Attributes:
        requests: N requests: arrays by input name, as on the wire but without the batch axis.
        batch: the same as one batch for ONNX Runtime, (N, ...) by input name; None if they cannot be stacked.
    """

    requests: Sequence[Mapping[str, Array]]
    batch: Mapping[str, Array] | None


def example_requests(config: Mapping[str, Any], repository: Path | None, *, n: int = N_REQUESTS) -> ExampleRequests:
    """Draw example requests for a model.

    Args:
        config: the model's configuration, as the server returns it in JSON.
        repository: the model repository, for ids of items and kinds on model cards; None if it is not on this machine.

    Raises:
        UnknownInputsError: no kind declares such a model.
    """
    if "ensemble_scheduling" in config:
        return _of_an_ensemble(config, repository, n)
    if config.get("backend") == _RECOMMENDER and repository is not None:
        return _of_a_recommender(repository / config["name"], n)
    drawn = _drawn(config, repository, n)
    inputs = {each["name"]: each for each in config["input"]}
    if int(config.get("max_batch_size", 0)) == 0:
        # Without a batch axis, each request is drawn separately.
        each = [_drawn(config, repository, 1 + row % 4, seed=_SEED + row) for row in range(min(n, 8))]
        return ExampleRequests([{name: one[name] for name in inputs} for one in each], None)
    requests = [
        {name: _on_the_wire(drawn[name][row], inputs[name]["dims"]) for name in inputs if name in drawn}
        for row in range(n)
    ]
    return ExampleRequests(requests, {name: drawn[name] for name in inputs if name in drawn})


def _drawn(
    config: Mapping[str, Any], repository: Path | None, n: int, *, seed: int = _SEED
) -> Mapping[str, npt.NDArray[np.generic]]:
    wanted = {each["name"] for each in config["input"]}
    needed = {each["name"] for each in config["input"] if not each.get("optional")}
    for draw in _draws(config["name"], repository):
        drawn = draw(n, seed)
        if needed <= drawn.keys() and set(drawn) <= wanted:
            return drawn
    raise UnknownInputsError(
        f"{config['name']}: expected the inputs of a model kind, got {', '.join(sorted(wanted))}; give "
        f"--input-data FILE, JSON in the format of perf_analyzer"
    )


def _draws(model: str, repository: Path | None) -> Iterator[Draw]:
    """Yield functions that may draw inputs of a model: those of its declaration, of its kind, then of all kinds."""
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
    yield _frames_to_render
    yield _events
    yield _recordings


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
    """Draw inputs of `recording_embedding`: n unit vectors of length 256, and inputs that it ignores."""
    drawn = np.random.default_rng(seed).standard_normal((n, 256)).astype(np.float32)
    ignored = {"probabilities": np.zeros((n, 4), np.float32), "emotions": np.zeros((n, 9), np.float32)}
    return {"embeddings": drawn / np.linalg.norm(drawn, axis=1, keepdims=True), **ignored}


def _frames_to_render(n: int, seed: int) -> Mapping[str, npt.NDArray[np.generic]]:
    """Draw inputs of `score_renderer`, which renders one piece at a time: n bars with a note on each beat."""
    frames = np.zeros((1, 16 * n, 88), np.uint8)
    beats = np.arange(0, 16 * n, 4)
    frames[0, beats, np.random.default_rng(seed).integers(20, 60, beats.size)] = 2
    return {"frames": frames, "frame_s": np.full((1, 1), 0.125, np.float32)}


def _events(n: int, seed: int) -> Mapping[str, npt.NDArray[np.generic]]:
    """Draw inputs of `recommender_events`; without the service key they are denied, and nothing is stored."""
    texts = [json.dumps({"id": f"bench-{seed}-{row}", "user": f"bench-{row}", "track": "bench"}) for row in range(n)]
    return {"event": np.array([[text.encode()] for text in texts], np.object_)}


def _recordings(n: int, seed: int) -> Mapping[str, npt.NDArray[np.generic]]:
    """Draw inputs of `genre_cnn_file`: n Ogg files with 3 s of noise."""
    import soundfile

    random, files = np.random.default_rng(seed), np.empty((n, 1), np.object_)
    for row in range(n):
        file = io.BytesIO()
        noise = random.uniform(-0.5, 0.5, WINDOW_SAMPLES).astype(np.float32)
        soundfile.write(file, noise, SAMPLE_RATE_HZ, format="OGG")
        files[row, 0] = file.getvalue()
    return {"recording": files}


def _on_the_wire(row: npt.NDArray[Any], dims: Sequence[int | str]) -> Array:
    """Return a row in the shape of the configuration, which has an axis of length 1 for scalars of the graph."""
    array = np.ascontiguousarray(row)
    return array.reshape(1) if array.ndim == 0 and [int(size) for size in dims] == [1] else array


def _of_an_ensemble(config: Mapping[str, Any], repository: Path | None, n: int) -> ExampleRequests:
    """Draw each input of an ensemble as an input of the step that reads it; the ensembles have no batch axis."""
    if repository is None:
        raise UnknownInputsError(
            f"{config['name']}: expected the configurations of its steps here; give --repository or --input-data"
        )
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
                raise UnknownInputsError(
                    f"{config['name']}: expected an input of a model kind, got {name} of {model}; give --input-data"
                )
            array = np.ascontiguousarray(drawn[name])
            # Scalars of a graph have an axis of their own on the wire.
            request[each["name"]] = array.reshape(1, 1) if array.ndim == 1 and len(each["dims"]) == 2 else array
        requests.append(request)
    return ExampleRequests(requests, None)


def _of_a_recommender(folder: Path, n: int) -> ExampleRequests:
    """Draw listening histories from the items of the artifact, popular items more often."""
    from tritone_serving.recommender import open_artifact

    version = newest_version(folder)
    if version is None:
        raise UnknownInputsError(f"{folder}: expected a version, got none; export the model first")
    items = open_artifact(version).texts("items")
    random = np.random.default_rng(_SEED)
    odds = 1 / np.arange(1, len(items) + 1) ** 0.8
    requests = []
    for _ in range(n):
        n_listened = int(random.integers(1, min(N_HISTORY, len(items)) + 1))
        listened = random.choice(len(items), n_listened, replace=False, p=odds / odds.sum())
        history = np.array([items[item] for item in listened.tolist()], object)
        requests.append({"history": history, "k": np.array([N_LISTED], np.int32)})
    return ExampleRequests(requests, None)
