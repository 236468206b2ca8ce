"""An exported version on a real Triton: config, warm-up, labels and values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.http as triton
from tests.unit.export import fixture_kind

from tritone_serving import ServerOptions, TritonServer

pytestmark = pytest.mark.triton


def test_an_exported_version_serves_its_labels_and_values(repository: Path) -> None:
    audio = fixture_kind.example_inputs(5, 1)["audio"]
    with torch.inference_mode():
        expected = fixture_kind.small_network()(torch.from_numpy(np.ascontiguousarray(audio)))
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer.start(options) as server:
        client = triton.InferenceServerClient(server.http_url.removeprefix("http://"))
        try:
            config = client.get_model_config("genre_cnn")
            request = triton.InferInput("audio", list(audio.shape), "FP32")
            request.set_data_from_numpy(audio)
            names = ("probabilities", "emotions", "embedding")
            answer = client.infer("genre_cnn", [request])
            classes = client.infer(
                "genre_cnn", [request], outputs=[triton.InferRequestedOutput("probabilities", class_count=1)]
            ).as_numpy("probabilities")
        finally:
            client.close()
    for name, reference in zip(names, expected, strict=True):
        np.testing.assert_allclose(answer.as_numpy(name), reference.numpy(), atol=1e-4)
    assert classes is not None
    served = [text[0].decode().split(":")[2] for text in classes]
    assert served == [fixture_kind.LABELS[i] for i in expected[0].argmax(1).tolist()]
    assert "response_cache" not in config or not config["response_cache"].get("enable")  # it keeps refusals, too
    assert config["parameters"]["window_samples"]["string_value"] == "66150"
