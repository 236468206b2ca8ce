"""The ensemble `inspire`: what the SDK sends and reads, the fake of the SDK, and what the steps declare."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tritone import InferRequest, ModelResponse, MusicClient, constants
from tritone.model_cache import CLASSIFIER, COMPOSER, INSPIRER, ROLES
from tritone.testing import FakeComposer, FakeGenreModel, FakeInspirer, FakeRecommender, FakeServer, MockTransport
from tritone.transports.protocol import DTYPES
from tritone_export import ensembles, renderer
from tritone_training.declaration import Tensor
from tritone_training.kinds.recommender import inspire
from tritone_training.kinds.recommender.inspire import INSPIRE
from tritone_training.registry import get_kind


def shapes(tensors: Iterable[Tensor]) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(-1 if axis.size is None else axis.size for axis in tensor.axes) for tensor in tensors}


def test_the_declaration_plays_the_role_and_no_other() -> None:
    info = ModelResponse(INSPIRE.name, ("1",), shapes(INSPIRE.inputs), shapes(INSPIRE.outputs), 0, {})
    assert [role for role in ROLES if role.fits(info)] == [INSPIRER]
    assert not COMPOSER.fits(info)
    assert INSPIRE.name == constants.INSPIRE_MODEL


def test_the_fake_has_the_tensors_of_the_declaration() -> None:
    fake = FakeInspirer(FakeComposer(), FakeGenreModel(), FakeRecommender(["a"]))
    info = fake.models[constants.INSPIRE_MODEL]
    declared, found = shapes((*INSPIRE.inputs, *INSPIRE.outputs)), {**info.inputs, **info.outputs}
    assert declared.keys() == found.keys()
    assert {name: len(shape) for name, shape in declared.items()} == {name: len(found[name]) for name in declared}
    assert info.max_batch_size == 0
    assert info.parameters == INSPIRE.model_parameters


def test_the_sdk_sends_what_is_declared() -> None:
    fakes = FakeComposer(), FakeGenreModel(), FakeRecommender(["a"])
    transport = MockTransport(FakeServer(*fakes, FakeInspirer(*fakes)))
    with MusicClient(transport=transport) as music:
        music.inspire(bars=1, mood="power")
    sent = transport.requests[-1]
    assert isinstance(sent, InferRequest)
    assert sent.inputs.keys() == {tensor.name for tensor in INSPIRE.inputs}
    for tensor in INSPIRE.inputs:
        array = sent.inputs[tensor.name]
        assert array.dtype == DTYPES[tensor.dtype], tensor.name
        assert len(tensor.axes) == array.ndim, tensor.name
        assert all(axis.size in (None, size) for axis, size in zip(tensor.axes, array.shape, strict=True)), tensor.name
    assert set(sent.outputs) == {tensor.name for tensor in INSPIRE.outputs}


def test_its_steps_are_models_that_are_exported() -> None:
    steps = {step.model for step in INSPIRE.steps}
    assert {constants.COMPOSE_MODEL, constants.GENRE_MODEL, constants.RECOMMEND_MODEL} < steps
    assert steps - {get_kind(name).name for name in steps & {"music_transformer", "genre_cnn", "recommender"}} == {
        ensembles.POOLING_MODEL,
        renderer.RENDERER_MODEL,
    }
    assert inspire.RENDERER_MODEL == renderer.RENDERER_MODEL
    assert set(INSPIRE.model_parameters.values()) <= steps
    assert INSPIRE in get_kind("recommender").ensembles


def test_a_renamed_recommender_keeps_the_other_steps(tmp_path: Path) -> None:
    ensembles.write_ensemble_configs(
        INSPIRE, tmp_path, rename=lambda model: "radio" if model == "recommender" else model, name="radio_inspire"
    )
    text = (tmp_path / "radio_inspire" / "config.pbtxt").read_text()
    assert (tmp_path / renderer.RENDERER_MODEL / "configs" / "gpu.pbtxt").is_file()
    assert 'model_name: "radio"' in text
    assert 'model_name: "recommender"' not in text
    assert 'string_value: "genre_cnn"' in text


def test_the_renderer_takes_as_many_windows_as_the_classifier() -> None:
    batching = get_kind(constants.GENRE_MODEL).declaration.serving.batching
    assert constants.N_RENDERED_WINDOWS_MAX == ensembles.MAX_WINDOWS == batching.max_batch_size
    assert CLASSIFIER.inputs.keys() == {"audio"}
