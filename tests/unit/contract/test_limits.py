"""Limits of every model's inputs: declared for each, kept by all that we send ourselves, enforced with the SDK's words.

The requests go through the backends' own code, under the config that an export writes.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import triton_to_np_dtype

import tritone_serving
from tritone import InvalidInputError, constants
from tritone.music.grid import FRAMES_PER_QUARTER, MAX_FRAMES
from tritone.operations.latent import attribute_vector
from tritone.operations.recommend import RecommendOptions
from tritone.operations.sample import _density, _truncation
from tritone.sampling import SamplingParams
from tritone_export.config import build_config
from tritone_export.ensembles import MAX_WINDOWS, pooling_configs
from tritone_export.renderer import FRAME_S_RANGE, renderer_configs
from tritone_gateway.routers.events import EventBody
from tritone_serving.canary import make_inputs
from tritone_serving.events import EVENT_KINDS, event
from tritone_serving.recommender import MOODS, InvalidRequestError, RecommendRequest, playlists, requests
from tritone_training.declaration import Axis, Declaration, Limits, Tensor
from tritone_training.kinds.recommender.declaration import EVENTS_DECLARATION
from tritone_training.registry import get_kind, kind_names

BACKENDS = Path(tritone_serving.__file__).parent / "backends"
NUMBERS = {"n_items": "50", "n_styles": "4", "n_tokens": "60"}  # what an ONNX file's metadata say
Array = np.ndarray[Any, Any]
Feed = dict[str, Array]


@dataclass(frozen=True)
class Model:
    declaration: Declaration
    make: Callable[[int, int], Mapping[str, Any]]  # (rows, seed) -> realistic inputs

    @property
    def example(self) -> Feed:
        return {name: np.array(array) for name, array in self.make(1, 0).items()}

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {tensor.name: tensor for tensor in self.declaration.inputs}


def _models() -> dict[str, Model]:
    found = {}
    for name in kind_names():
        kind = get_kind(name)
        for declaration in kind.declarations:
            sources = [kind.example_inputs, *(companion.example_inputs for companion in kind.companions)]
            wanted = {tensor.name: np.dtype(triton_to_np_dtype(tensor.dtype)) for tensor in declaration.inputs}
            made = ((make, {key: array.dtype for key, array in make(1, 0).items()}) for make in sources)
            found[declaration.name] = Model(declaration, next(make for make, types in made if types == wanted))
    return found


MODELS = _models()
ONNX_MODELS = [name for name, model in MODELS.items() if model.declaration.backend in ("onnxruntime", "composer")]


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    path = str(BACKENDS / "onnxruntime")
    sys.path.append(path)
    try:
        yield SimpleNamespace(
            **{part: importlib.import_module(f"tritone_ort_{part}") for part in ("batching", "contract", "limits")}
        )
    finally:
        sys.path.remove(path)


def contract(backend: Any, declaration: Declaration) -> Any:
    """What the backend makes of the config that an export writes."""
    message = build_config(declaration)
    config = {
        "input": [
            {
                "name": item.name,
                "dims": [str(size) for size in item.dims],
                **({"reshape": {"shape": []}} if item.HasField("reshape") else {}),
            }
            for item in message.input
        ],
        "parameters": {key: {"string_value": value.string_value} for key, value in message.parameters.items()},
    }
    session = SimpleNamespace(get_modelmeta=lambda: SimpleNamespace(custom_metadata_map=NUMBERS))
    specs = tuple(
        backend.contract.Spec(
            tensor.name,
            np.dtype(triton_to_np_dtype(tensor.dtype)).type,
            (None, *(axis.size for axis in tensor.axes)),
            tensor.optional,
        )
        for tensor in declaration.inputs
    )
    limits = backend.limits.read_limits(config, session)
    return backend.contract.Contract(specs, tuple(t.name for t in declaration.outputs), True, limits)


def refusal(backend: Any, model: Model, feed: Feed) -> str | None:
    """What the backend answers to a request; None if it runs."""
    tensors = [SimpleNamespace(name=lambda n=name: n, as_numpy=lambda a=array: a) for name, array in feed.items()]
    request = SimpleNamespace(inputs=lambda: tensors, requested_output_names=list)
    try:
        backend.batching.read_request(0, request, contract(backend, model.declaration))
    except backend.batching.Failed as error:
        return str(error)
    return None


# --- declarations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_input_of_numbers_has_limits(name: str) -> None:
    free = [
        tensor.name
        for tensor in MODELS[name].declaration.inputs
        if tensor.limits is None and tensor.dtype not in ("BYTES", "BOOL", "INT16")  # all 16-bit samples are valid
    ]
    assert free == []


@pytest.mark.parametrize("name", MODELS)
def test_every_free_axis_of_an_input_has_a_largest_size(name: str) -> None:
    axes = {axis for tensor in MODELS[name].declaration.inputs for axis in tensor.axes if axis.size is None}
    assert [axis.name for axis in axes if axis.max_size is None] == []
    names = [axis.name for axis in axes]
    assert len(names) == len(set(names))  # or one input would have other limits than another on the same axis
    if MODELS[name].declaration.serving.batching.max_batch_size > 1:
        assert [axis.name for axis in axes if axis.max_total is None] == []
        assert all(axis.max_total >= axis.max_size for axis in axes if axis.max_total and axis.max_size)


def test_what_the_sdk_sends_is_within_the_limits() -> None:
    def frames(model: str) -> Axis:
        return next(axis for t in MODELS[model].declaration.inputs for axis in t.axes if axis.name == "frame")

    assert frames("polyphony_rnn").max_size == frames("polyphony_rnn_sampler").max_size == MAX_FRAMES
    assert frames("composer").max_size == MAX_FRAMES
    limit = int(MODELS["music_transformer"].declaration.parameters["max_frames"])
    assert frames("music_transformer").max_size == limit
    audio = MODELS["genre_cnn"].tensors["audio"].limits
    assert audio is not None
    assert (audio.minimum, audio.maximum) == (-constants.LARGEST_SAMPLE, constants.LARGEST_SAMPLE)
    assert MODELS["genre_cnn"].declaration.serving.batching.max_batch_size == MAX_WINDOWS


def test_the_recommender_and_its_declaration_agree() -> None:
    tensors = MODELS["recommender"].tensors
    assert tensors["k"].limits == Limits(minimum=1, maximum=requests.MOST_ITEMS)
    embedding = tensors["embedding"].limits
    assert embedding is not None
    assert embedding.maximum == requests.LARGEST_EMBEDDING == constants.LARGEST_EMBEDDING
    assert tensors["history"].axes[0].max_size == requests.MOST_HISTORY == constants.N_IDS_MAX
    assert tensors["history"].axes[0].max_total == requests.MOST_IDS_IN_ALL
    assert requests.LONGEST_ID_BYTES == constants.N_ID_BYTES_MAX
    assert requests.MOST_EXPLAINED == constants.N_EXPLAINED_MAX
    assert requests.MOST_DIVERSE == constants.N_DIVERSE_MAX
    assert requests.MOST_FRIENDS == constants.N_FRIENDS_MAX
    assert requests.MOST_ITEMS == constants.N_RECOMMENDED_MAX
    assert tensors["mood"].limits == Limits(words=("", *MOODS))
    assert tensors["mood_strengths"].limits == Limits(minimum=0, maximum=1)
    assert tensors["mood_strengths"].axes[0].size == len(MOODS)
    assert tensors["artist_gap"].limits == Limits(minimum=-1, maximum=playlists.LARGEST_ARTIST_GAP)
    assert playlists.LARGEST_ARTIST_GAP == constants.LARGEST_ARTIST_GAP
    assert playlists.MOST_PLAYLIST == constants.N_PLAYLIST_MAX
    assert playlists.DEFAULT_DIVERSITY == constants.PLAYLIST_DIVERSITY


def test_client_gateway_and_server_agree_on_events() -> None:
    server = {
        "kinds": EVENT_KINDS,
        "event_id": event.LONGEST_EVENT_ID,
        "track": event.LONGEST_TRACK_BYTES,
        "played_s": event.LONGEST_PLAY_S,
        "context": event.MOST_CONTEXT,
        "context_value": event.LONGEST_CONTEXT_VALUE,
    }
    client = {
        "kinds": constants.EVENT_KINDS,
        "event_id": constants.N_EVENT_ID_MAX,
        "track": constants.N_EVENT_TRACK_BYTES_MAX,
        "played_s": constants.LONGEST_PLAY_S,
        "context": constants.N_CONTEXT_MAX,
        "context_value": constants.N_CONTEXT_VALUE_MAX,
    }
    schema = EventBody.model_json_schema()["properties"]
    texts, ids, numbers = (
        next(each for each in schema[name].get("anyOf", [schema[name]]) if each.get("type") != "null")
        for name in ("context", "event_id", "played_s")
    )
    gateway = {
        "kinds": tuple(schema["kind"]["enum"]),
        "event_id": ids["maxLength"],
        "track": schema["track_id"]["maxLength"],
        "played_s": numbers["maximum"],
        "context": texts["maxProperties"],
        "context_value": next(iter(texts.get("patternProperties", {"": texts.get("additionalProperties")}).values()))[
            "maxLength"
        ],
    }
    assert client == server
    assert gateway == server
    assert EVENTS_DECLARATION.serving.batching.max_batch_size == constants.N_EVENTS_MAX


# --- what we send ourselves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 3, 16])
@pytest.mark.parametrize("name", ONNX_MODELS)
def test_realistic_inputs_are_within_the_limits(backend: Any, name: str, n_rows: int) -> None:
    for seed in range(4):
        feed = {key: np.array(array) for key, array in MODELS[name].make(n_rows, seed).items()}
        assert refusal(backend, MODELS[name], reshaped(MODELS[name], feed)) is None


@pytest.mark.parametrize("name", MODELS)
def test_the_canarys_inputs_are_within_the_limits(backend: Any, name: str) -> None:
    model = MODELS[name]
    for _ in range(20):  # some are random
        feed = make_inputs(build_config(model.declaration))
        if name in ONNX_MODELS:
            assert refusal(backend, model, reshaped(model, feed)) is None
        else:
            assert list(feed) == ["k"]
            RecommendRequest(k=int(feed["k"][0, 0])).check()


# --- what is refused ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Violation:
    model: str
    tensor: str
    value: float

    def __str__(self) -> str:
        return f"{self.model}.{self.tensor}={self.value}"


def _violations() -> list[Violation]:
    return [
        Violation(name, tensor.name, value)
        for name in ONNX_MODELS
        for tensor in MODELS[name].declaration.inputs
        if tensor.limits is not None
        for value in _outside(tensor)
    ]


def _outside(tensor: Tensor) -> list[float]:
    """A value beyond each of a tensor's limits."""
    limits = tensor.limits
    assert limits is not None
    found: list[float] = []
    whole = tensor.dtype not in ("FP32", "FP16")
    if limits.minimum is not None and tensor.dtype != "UINT8":
        found += [limits.minimum] if limits.exclusive_minimum else [limits.minimum - 1]
    if limits.maximum is not None:
        next_single = float(
            np.nextafter(np.float32(limits.maximum), np.float32(np.inf))
        )  # above 2**24, + 1 is too little
        beyond = limits.maximum + 1 if whole else max(limits.maximum + 1, next_single)
        found += [limits.maximum] if limits.exclusive_maximum else [beyond]
    if limits.n_values_key is not None:
        found.append(float(NUMBERS[limits.n_values_key]))
    if not whole and limits.finite:
        found += [math.nan, math.inf, -math.inf, 1e38]
    if limits.minimum is not None and limits.minimum >= 0 and not whole:
        found.append(-1e-3)
    return [value if whole else float(value) for value in found if value not in limits.also]


@pytest.mark.parametrize("violation", _violations(), ids=str)
def test_a_value_beyond_a_limit_is_refused_by_backend_and_sdk_in_the_same_words(
    backend: Any, violation: Violation
) -> None:
    model = MODELS[violation.model]
    feed = reshaped(model, model.example)
    array = feed[violation.tensor].copy()
    array[(0,) + (-1,) * (array.ndim - 1)] = violation.value
    feed[violation.tensor] = array
    said = refusal(backend, model, feed)
    assert said is not None
    name, expected, got = _parts(said)
    assert name.startswith(f"invalid {violation.tensor}")
    sdk = SDK.get(violation.tensor) or SDK.get(str(violation).partition("=")[0])
    if sdk is None:
        return
    with pytest.raises(InvalidInputError) as caught:
        sdk(violation.value)
    assert caught.value.argument == {"attributes": "amount"}.get(violation.tensor, violation.tensor)
    sdk_name, sdk_expected, sdk_got = _parts(str(caught.value))
    assert sdk_expected.startswith(expected.removesuffix(", or -1"))
    if violation.tensor != "attributes" and np.float32(violation.value) == violation.value:
        assert (sdk_name, sdk_got) == (name, got)


def _parts(message: str) -> tuple[str, str, str]:
    """Split an error message into the argument, what was expected and what was given."""
    name, _, rest = message.partition(": expected ")
    expected, _, got = rest.rpartition(", got ")
    assert all((name, expected, got)), message
    return name, expected, got.partition(";")[0]


def _choice(**changed: Any) -> None:
    SamplingParams.checked(**{"temperature": 1.0, "top_k": None, "top_p": None, **changed})


# Where the SDK has an argument for an input, or for that of one model: how it checks that.
SDK: Mapping[str, Callable[[float], Any]] = {
    "temperature": lambda value: _choice(temperature=value),
    "top_k": lambda value: _choice(top_k=int(value)),
    "top_p": lambda value: _choice(top_p=value),
    "music_gan.density": _density,
    "truncation": _truncation,
    "attributes": lambda value: attribute_vector([(constants.ATTRIBUTES[-1], value)]),
}


@pytest.mark.parametrize("name", ONNX_MODELS)
def test_a_size_beyond_a_limit_is_refused(backend: Any, name: str) -> None:
    model = MODELS[name]
    feed = reshaped(model, model.example)
    for axis in {axis for tensor in model.declaration.inputs for axis in tensor.axes if axis.size is None}:
        for size in (0, (axis.max_size or 0) + 1):
            said = refusal(backend, model, _resized(model, feed, axis.name, size))
            assert said is not None
            expected = f"expected a size of {axis.min_size} to {axis.max_size} along axis {axis.name}, got {size}"
            assert expected in said
        if axis.max_total is not None:
            n_rows = axis.max_total // (axis.max_size or 1) + 1
            rows = {key: np.repeat(array, n_rows, axis=0) for key, array in feed.items()}
            said = refusal(backend, model, _resized(model, rows, axis.name, axis.max_size or 1))
            assert said is not None
            assert f"expected at most {axis.max_total} along axis {axis.name} in all rows of a request" in said


@pytest.mark.parametrize("name", ONNX_MODELS)
def test_inputs_of_different_lengths_are_refused(backend: Any, name: str) -> None:
    model = MODELS[name]
    feed = reshaped(model, model.example)
    users: dict[str, list[str]] = {}
    for tensor in model.declaration.inputs:
        for axis in tensor.axes:
            if axis.size is None:
                users.setdefault(axis.name, []).append(tensor.name)
    for axis_name, tensors in users.items():
        for tensor_name in tensors if len(tensors) > 1 else ():
            other = _resized(model, {tensor_name: feed[tensor_name]}, axis_name, 1)
            said = refusal(backend, model, feed | other)
            assert said is not None
            assert f"expected equal sizes of axis {axis_name}" in said


# Wrong in the SDK and on the wire alike: the SDK's argument, the question's field.
ASKED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"n": 0}, {"k": 0}),
    ({"n": 10_001}, {"k": 10_001}),
    ({"n": 201, "explain": True}, {"k": 201, "explain": True}),
    ({"n": 1_001, "diversity": 0.5}, {"k": 1_001, "diversity": 0.5}),
    *(({name: value}, {name: value}) for name in ("diversity", "novelty") for value in (-0.5, 1.5, math.nan, math.inf)),
    ({"mood": "grumpy"}, {"mood": "grumpy"}),
    *(
        ({"history": ["a"], "weights": [value]}, {"history": ["a"], "weights": [value]})
        for value in (-1.0, math.nan, math.inf)
    ),
    ({"history": ["a"], "weights": [1.0, 2.0]}, {"history": ["a"], "weights": [1.0, 2.0]}),
    *(({name: ["a"] * 100_001}, {name: ["a"] * 100_001}) for name in ("history", "skipped", "friends", "exclude")),
    ({"friends": [str(i) for i in range(1_001)]}, {"friends": [str(i) for i in range(1_001)]}),
]


@pytest.mark.parametrize(("sdk", "served"), ASKED)
def test_the_recommender_refuses_in_the_words_of_the_sdk(sdk: dict[str, Any], served: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        **dict.fromkeys(("user_id", "history", "weights", "times", "skipped", "friends", "mood", "exclude")),
        "n": 10,
        "filter_listened": True,
        "diversity": 0.0,
        "novelty": 0.0,
        "explain": False,
    }
    with pytest.raises(InvalidInputError) as client:
        RecommendOptions(**(fields | sdk)).inputs()
    assert client.value.argument in sdk
    with pytest.raises(InvalidRequestError) as server:
        RecommendRequest(**served).check()
    name, expected, got = _parts(str(server.value))
    sdk_name, sdk_expected, sdk_got = _parts(str(client.value))
    assert (sdk_name, sdk_got) == (name.replace("invalid k", "invalid n"), got)
    assert sdk_expected.startswith(expected)


def test_the_graph_that_pools_windows_has_limits_too() -> None:
    from google.protobuf import text_format

    for text in pooling_configs().values():
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert '"window":{"max":64,"min":1}' in config.parameters["limits"].string_value


def test_the_renderer_has_limits_too() -> None:
    from google.protobuf import text_format

    for text in renderer_configs().values():
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        limits = config.parameters["limits"].string_value
        assert f'"frame":{{"max":{MAX_FRAMES},"min":1}}' in limits
        assert '"frame_s":{"axes":["one","one"],"finite":true,"max":15.0,"min":0.0025}' in limits


def test_every_tempo_of_the_sdk_is_within_the_limits_of_the_renderer() -> None:
    slowest, fastest = (SamplingParams.checked(tempo_qpm=tempo).tempo_qpm for tempo in (10.0, 1_000.0))
    assert slowest is not None
    assert fastest is not None
    shortest_s, longest_s = FRAME_S_RANGE
    assert shortest_s <= np.float32(60 / fastest / FRAMES_PER_QUARTER) < np.float32(60 / slowest) <= longest_s


def reshaped(model: Model, feed: Mapping[str, Array]) -> Feed:
    """A feed as the backend gets it: scalars lose the axis that they have on the wire."""
    return {name: array.reshape(len(array)) if not model.tensors[name].axes else array for name, array in feed.items()}


def _resized(model: Model, feed: Mapping[str, Array], axis_name: str, size: int) -> Feed:
    """The feed with another size of an axis, in all inputs that have it."""
    found = {}
    for name, array in feed.items():
        names = [axis.name for axis in model.tensors[name].axes]
        if axis_name in names:
            place = 1 + names.index(axis_name)
            found[name] = np.repeat(array.take([0], axis=place), size, axis=place)
        else:
            found[name] = array
    return found
