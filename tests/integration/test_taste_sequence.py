"""`taste_sequence` on a real server: its answers are those of the network, padding and batches change nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpc_client
from tests.support import recommender_models
from tritonclient.utils import InferenceServerException

from tritone_export import check_repository
from tritone_serving import TritonServer
from tritone_training.kinds.taste_sequence.declaration import MAX_HISTORY, PADDING, UNKNOWN_AGE
from tritone_training.kinds.taste_sequence.export import example_inputs, load_network

pytestmark = pytest.mark.triton
NAME = "taste_sequence"
Array = np.ndarray[Any, Any]
TYPES = {"items": "INT64", "ages": "FP32", "skipped": "FP32"}


@pytest.fixture(scope="module")
def client(server: TritonServer, serve_models: Callable[[Path], Path]) -> grpc_client.InferenceServerClient:
    served = recommender_models.served(NAME)
    assert check_repository(served.repository).findings == ()
    serve_models(served.repository)
    return grpc_client.InferenceServerClient(server.grpc_url)


@pytest.fixture(scope="module")
def network() -> Any:
    return load_network(recommender_models.sequence_checkpoint())[0]


@pytest.fixture(scope="module")
def n_items() -> int:
    return len(load_network(recommender_models.sequence_checkpoint())[1]["items"])


def ask(client: grpc_client.InferenceServerClient, feed: dict[str, Array]) -> Array:
    inputs = []
    for name, array in feed.items():
        tensor = grpc_client.InferInput(name, list(array.shape), TYPES[name])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    found: Array = client.infer(NAME, inputs, client_timeout=20).as_numpy("scores")
    return found


def history(items: list[int], *, left: int = 0, right: int = 0) -> dict[str, Array]:
    padded = [PADDING] * left + items + [PADDING] * right
    return {
        "items": np.array([padded], np.int64),
        "ages": np.full((1, len(padded)), UNKNOWN_AGE, np.float32),
        "skipped": np.zeros((1, len(padded)), np.float32),
    }


@pytest.mark.parametrize("n_batch", [1, 8, 32])
def test_answers_are_those_of_the_network(client: Any, network: Any, n_items: int, n_batch: int) -> None:
    feed = example_inputs(n_batch, 5, n_items=n_items)
    with torch.inference_mode():
        expected = network(*(torch.from_numpy(feed[name]) for name in TYPES))[0].numpy()
    found = ask(client, feed)
    assert found.shape == (n_batch, n_items)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_padding_on_either_side_and_company_in_a_batch_change_nothing(client: Any) -> None:
    alone = ask(client, history([3, 1, 4]))
    np.testing.assert_allclose(ask(client, history([3, 1, 4], left=2, right=1)), alone, atol=1e-4)
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda _: ask(client, history([3, 1, 4])), range(48)))
    for each in together:
        np.testing.assert_allclose(each, alone, atol=1e-4)
    assert not np.allclose(ask(client, history([4, 1, 3])), alone, atol=1e-3), "order matters"


def test_a_history_of_padding_gets_popularity(client: Any, network: Any) -> None:
    found = ask(client, history([], left=3))[0]
    np.testing.assert_allclose(found, network.log_popularity.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        ("items", -2),
        ("items", 10**9),
        ("ages", float("nan")),
        ("ages", -0.5),
        ("ages", 1e11),
        ("skipped", 2.0),
        ("skipped", float("inf")),
    ],
)
def test_values_beyond_the_limits_are_refused(client: Any, tensor: str, value: float) -> None:
    feed = history([3, 1, 4])
    feed[tensor][0, 1] = value
    with pytest.raises(InferenceServerException, match=f"invalid {tensor}"):
        ask(client, feed)
    assert np.isfinite(ask(client, history([3, 1, 4]))).all()


def test_histories_that_are_too_long_or_uneven_are_refused(client: Any) -> None:
    assert np.isfinite(ask(client, history([1] * MAX_HISTORY))).all()
    with pytest.raises(InferenceServerException, match="history"):
        ask(client, history([1] * (MAX_HISTORY + 1)))
    with pytest.raises(InferenceServerException, match="history"):
        ask(client, {**history([3, 1, 4]), "ages": np.zeros((1, 2), np.float32)})
