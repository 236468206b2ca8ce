"""What the SDK sends to the models that write music, and reads from them, held against what the kinds declare."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest

from tritone import (
    Grid,
    InferRequest,
    InferResponse,
    ModelRequest,
    ModelResponse,
    MusicClient,
    Request,
    Response,
    StreamRequest,
    constants,
)
from tritone.model_cache import (
    COMPOSER,
    DECODER,
    ENCODER,
    GENERATOR,
    ROLES,
    SAMPLER,
    SCORER,
    STREAMER,
    Role,
)
from tritone.transports.protocol import DTYPES
from tritone_training.declaration import Declaration
from tritone_training.registry import get_kind, kind_names

KINDS = ("polyphony_rnn", "music_transformer", "music_vae", "music_gan")
SIZES = {"frame": 16, "latent": 32}  # of axes that the declarations leave free, where an answer must have one


@pytest.fixture(scope="module")
def declarations() -> dict[str, Declaration]:
    return {each.name: each for kind in KINDS for each in get_kind(kind).declarations}


def described(declaration: Declaration) -> ModelResponse:
    """A declaration as a server tells it."""

    def shapes(tensors: Any) -> dict[str, tuple[int, ...]]:
        return {
            tensor.name: (-1, *([-1 if axis.size is None else axis.size for axis in tensor.axes] or [1]))
            for tensor in tensors
        }

    return ModelResponse(
        declaration.name,
        ("1",),
        shapes(declaration.inputs),
        shapes(declaration.outputs),
        declaration.serving.batching.max_batch_size,
        declaration.parameters,
    )


class Declared:
    """Checks every request against its model's declaration, and answers zeros of the declared types and shapes."""

    def __init__(self, declarations: dict[str, Declaration]) -> None:
        self.declarations = declarations
        self.asked: list[str] = []

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        assert isinstance(request, ModelRequest | InferRequest)
        declaration = self.declarations[request.model]
        if isinstance(request, ModelRequest):
            return described(declaration)
        return self.answer(declaration, request)

    def stream(self, request: StreamRequest, *, timeout_s: float) -> Generator[InferResponse, None, None]:
        yield self.answer(self.declarations[request.model], request)

    def answer(self, declaration: Declaration, request: InferRequest | StreamRequest) -> InferResponse:
        self.asked.append(declaration.name)
        assert request.inputs.keys() == {tensor.name for tensor in declaration.inputs}
        sizes: dict[str, int] = {}
        for tensor in declaration.inputs:
            array = request.inputs[tensor.name]
            assert array.dtype == DTYPES[tensor.dtype], tensor.name
            assert array.ndim == 1 + max(1, len(tensor.axes)), tensor.name
            for axis, size in zip(tensor.axes, array.shape[1:], strict=False):
                assert axis.size in (None, size), (tensor.name, axis)
                assert sizes.setdefault(axis.name, size) == size, f"{axis.name} differs between inputs"
            sizes["batch"] = len(array)
        assert sizes["batch"] <= declaration.serving.batching.max_batch_size
        outputs = {}
        for tensor in declaration.outputs:
            shape = [axis.size or sizes[axis.name] for axis in tensor.axes] or [1]
            outputs[tensor.name] = np.zeros((sizes["batch"], *shape), DTYPES[tensor.dtype])
        assert set(request.outputs) <= outputs.keys()
        return InferResponse(declaration.name, "1", request.request_id, outputs)

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("polyphony_rnn", SCORER),
        ("polyphony_rnn_sampler", SAMPLER),
        ("music_transformer", COMPOSER),
        ("composer", STREAMER),
        ("music_vae", ENCODER),
        ("music_vae_decoder", DECODER),
        ("music_gan", GENERATOR),
    ],
)
def test_every_declaration_plays_its_role_and_no_other(
    declarations: dict[str, Declaration], name: str, role: Role
) -> None:
    info = described(declarations[name])
    assert next(each for each in ROLES if each.fits(info)) is role
    fitting = [each for each in ROLES if each.fits(info)]
    assert fitting == [STREAMER, COMPOSER] if role is STREAMER else [role]


def tune() -> Grid:
    frames = np.zeros((36, 88), np.uint8)
    frames[:, 40] = 1
    return Grid(frames, meter=(16, 12))


CALLS: dict[str, tuple[Callable[[MusicClient], Any], list[str]]] = {
    "compose": (lambda music: music.compose(prompt=tune(), bars=2, n_candidates=1), ["music_transformer"]),
    "compose with the RNN": (
        lambda music: music.compose(prompt=tune(), bars=2, model="polyphony_rnn"),
        ["polyphony_rnn_sampler"],
    ),
    "compose with the RNN from nothing": (
        lambda music: music.compose(bars=2, model="polyphony_rnn"),
        ["polyphony_rnn_sampler"],
    ),
    "stream_compose": (lambda music: list(music.stream_compose(prompt=tune(), bars=2)), ["composer"]),
    "harmonize": (lambda music: music.harmonize(tune()), ["music_transformer"]),
    "infill": (lambda music: music.infill(tune(), bars=(1, 2)), ["music_transformer"]),
    "predict": (lambda music: music.predict(tune()), ["polyphony_rnn"]),
    "predict whole frames": (lambda music: music.predict(tune(), model="music_transformer"), ["music_transformer"]),
    "reconstruct": (lambda music: music.reconstruct(tune()), ["music_vae", "music_vae_decoder"]),
    "interpolate": (lambda music: music.interpolate(tune(), tune()), 2 * ["music_vae"] + ["music_vae_decoder"]),
    "vary": (
        lambda music: music.vary(tune(), attribute="pitch_range", amount=1),
        ["music_vae", "music_vae_decoder"],
    ),
    "sample": (lambda music: music.sample(n=3, key="D", mode="minor", density=2.0, truncation=0.5), ["music_gan"]),
    "sample from the VAE": (lambda music: music.sample("music_vae", n=3, pitch_range=1.0), ["music_vae_decoder"]),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_sends_what_is_declared(declarations: dict[str, Declaration], call: str) -> None:
    transport = Declared(declarations)
    with MusicClient(transport=transport) as music:
        ask, models = CALLS[call]
        ask(music)
    assert transport.asked == models


def test_default_models_are_registered(declarations: dict[str, Declaration]) -> None:
    own = {constants.COMPOSE_MODEL, constants.PREDICT_MODEL, constants.LATENT_MODEL, constants.SAMPLE_MODEL}
    assert own <= set(kind_names())
    assert constants.STREAM_MODEL in declarations


def test_the_client_knows_the_attributes() -> None:
    from tritone_training.musicality import ATTRIBUTES

    assert constants.ATTRIBUTES == ATTRIBUTES


def test_the_first_style_is_any(declarations: dict[str, Declaration]) -> None:
    for name in ("music_transformer", "composer"):
        assert json.loads(declarations[name].parameters["styles"])[0] == "any"
