"""The pretrained sentence encoder: reading of weights, and its embeddings where the weights are in the cache."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
import torch

from tritone_training.corpus.store import cache_folder
from tritone_training.exceptions import PretrainedWeightsError
from tritone_training.kinds.recommender.fitting.text_index import encoder_arrays, encoder_entry
from tritone_training.kinds.recommender.text_encoder import example_inputs
from tritone_training.pretrained.sentence_encoder import (
    MINILM,
    SentenceEncoder,
    load_sentence_encoder,
    read_safetensors,
)

CACHED = (cache_folder() / "pretrained" / MINILM.filename).is_file()
needs_weights = pytest.mark.skipif(not CACHED, reason=f"needs {MINILM.filename} in the cache of pretrained weights")


def packed(tensors: dict[str, np.ndarray[Any, Any]]) -> bytes:
    """A safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + tensor.nbytes],
        }
        data += tensor.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_tensors_are_read() -> None:
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(1, np.float32)}
    found = read_safetensors(packed(tensors))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", 9) + b'{"a": {}}',
        packed({"a": np.ones(4, np.float32)})[:-3],
    ],
)
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(PretrainedWeightsError, match="not a readable safetensors file"):
        read_safetensors(content)


def test_padding_does_not_change_an_embedding() -> None:
    torch.manual_seed(0)
    network = SentenceEncoder(60).eval()
    tokens = torch.from_numpy(np.array(example_inputs(3, 0)["tokens"]))
    tokens[:, 9:] = 0
    with torch.inference_mode():
        (short,), (padded,) = network(tokens[:, :9]), network(tokens)
    torch.testing.assert_close(short, padded, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.linalg.norm(padded, dim=1), torch.ones(3))


@needs_weights
def test_texts_of_similar_meaning_are_close() -> None:
    encoder = load_sentence_encoder()
    texts = ["calm piano for reading", "quiet piano music", "aggressive metal music", "That is a happy person"]
    embeddings = encoder.embed(texts)
    cosines = embeddings @ embeddings.T
    np.testing.assert_allclose(np.diag(cosines), 1, rtol=1e-5)
    assert cosines[0, 1] > 0.6
    assert cosines[0, 3] < 0.4
    assert cosines[0, 1] > cosines[0, 2]
    # As published by its authors for this model: "That is a happy person" is close to "That is a happy dog".
    assert encoder.embed(["That is a happy dog"])[0] @ embeddings[3] == pytest.approx(0.695, abs=0.01)
    assert encoder_entry()["wheel_sha256"] == MINILM.sha256
    assert len(encoder_arrays(encoder)["search.vocabulary.ends"]) == 30_522
