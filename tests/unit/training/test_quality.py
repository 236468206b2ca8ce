"""A precision is judged as `tritone evaluate` judges: the network in the graph's place gives the same figures."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))  # importlib mode puts no test folder on the path

from tests.support import music_models, recommender_models

from tritone_training.exceptions import DataError
from tritone_training.kind import EvaluateRequest, Exportable, ModelKind
from tritone_training.quality import Metric, Quality, Run
from tritone_training.registry import get_kind


def as_run(exportable: Exportable) -> Run:
    """The network, called as a graph is."""

    def run(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        tensors = [torch.from_numpy(np.ascontiguousarray(inputs[t.name])) for t in exportable.declaration.inputs]
        with torch.inference_mode():
            answer = exportable.network.eval()(*tensors)
        return {t.name: value.numpy() for t, value in zip(exportable.declaration.outputs, answer, strict=True)}

    return run


def check(kind: ModelKind, quality: Quality, request: EvaluateRequest, exportable: Exportable) -> None:
    held_out = quality.held_out(request)
    found = held_out.measure(as_run(exportable))
    expected = kind.evaluate(replace(request, split="valid")).to_dict()
    assert {metric.name for metric in quality.metrics} & set(found)
    for metric in quality.metrics:
        if metric.name in found:
            assert found[metric.name] == pytest.approx(expected[metric.name], abs=1e-6)
    assert found["n"] == expected.get("n", expected.get("n_spans"))
    names = {tensor.name for tensor in exportable.declaration.inputs}
    batches = list(held_out.calibration())
    assert bool(batches) == (quality.int8 == "static")
    assert all(set(batch) == names for batch in batches)


def test_recordings(trained: Any, kind: ModelKind) -> None:
    request = EvaluateRequest(checkpoint=trained.folder, data=trained.data, progress=False)
    exportable = kind.export(trained.folder)
    assert kind.quality is not None
    assert isinstance(exportable, Exportable)
    check(kind, kind.quality, request, exportable)
    assert kind.quality.held_out(replace(request, data=None)).source == str(trained.data)  # where training found them


def test_spans() -> None:
    kind, checkpoint = get_kind("music_vae"), music_models.trained("music_vae")
    exportable = kind.export(checkpoint)
    assert isinstance(exportable, Exportable)
    assert kind.quality is not None
    check(kind, kind.quality, EvaluateRequest(checkpoint, data=music_models.tunes(), progress=False), exportable)


def test_spans_of_other_data_are_refused(tmp_path: Path) -> None:
    checkpoint = music_models.trained("music_vae")
    quality = get_kind("music_vae").quality
    assert quality is not None
    (tmp_path / "chorale").mkdir()
    tune = music_models.tunes() / "chorale" / "0.mid"
    (tmp_path / "chorale" / "0.mid").write_bytes(tune.read_bytes())
    with pytest.raises(DataError, match="is not the data that"):
        quality.held_out(EvaluateRequest(checkpoint, data=tmp_path, progress=False))


def test_listening() -> None:
    kind, recommender = get_kind("taste_vae"), get_kind("recommender")
    checkpoint = recommender_models.checkpoint()
    listening = replace(recommender_models.files(), friends=None, friend_column=None)
    request = EvaluateRequest(checkpoint / "taste_vae", progress=False, data=listening)
    exportable = kind.export(request.checkpoint)
    assert isinstance(exportable, Exportable)
    assert kind.quality is not None
    check(kind, kind.quality, request, exportable)
    companion = next(each for each in recommender.companions if each.declaration.name == "taste_vae")
    assert companion.quality is not None
    inside = companion.quality.held_out(replace(request, checkpoint=checkpoint))
    assert inside.measure(as_run(exportable)) == kind.quality.held_out(request).measure(as_run(exportable))
    with pytest.raises(DataError, match="--interactions"):
        kind.quality.held_out(replace(request, data=None))


def test_what_is_worse() -> None:
    assert Metric("accuracy", max_loss=0.01).loss(0.9, 0.8) == pytest.approx(0.1)
    assert Metric("nll_per_frame", max_loss=0.01, higher_is_better=False).loss(7.0, 7.5) == pytest.approx(0.5)
