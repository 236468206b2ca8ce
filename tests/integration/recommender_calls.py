"""Plain questions to a served recommender, through Triton's own gRPC client."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tritone import MusicClient, TritoneError
from tritone.credentials import default_key_file
from tritone_serving import TritonServer

Array = np.ndarray[Any, Any]

_DTYPES = {
    "weights": np.float32,
    "times": np.int64,
    "embedding": np.float32,
    "audio": np.float32,
    "diversity": np.float32,
    "novelty": np.float32,
    "k": np.int32,
    "offset": np.int32,
    "filter_listened": np.bool_,
    "explain": np.bool_,
    "resolve": np.bool_,
    "mood_strengths": np.float32,
    "artist_gap": np.int32,
    "seed": np.int64,
}
_TRITON = {"float32": "FP32", "int32": "INT32", "int64": "INT64", "bool": "BOOL", "object": "BYTES"}


def tensors(rows: Mapping[str, Any]) -> list[triton.InferInput]:
    """Inputs by name, each with its batch axis; text or bytes for ids."""
    made = []
    for name, value in rows.items():
        if name in _DTYPES:
            array = np.asarray(value, _DTYPES[name])
        else:
            array = np.array([[v if isinstance(v, bytes) else v.encode() for v in row] for row in value], np.object_)
        made.append(triton.InferInput(name, array.shape, _TRITON[array.dtype.name]))
        made[-1].set_data_from_numpy(array)
    return made


def question(**given: Any) -> dict[str, Any]:
    """One row: lists as they are, single values in lists of their own."""
    return {name: [value if isinstance(value, list | np.ndarray) else [value]] for name, value in given.items()}


class Answers:
    """One request's outputs; text decoded, JSON parsed."""

    def __init__(self, result: triton.InferResult) -> None:
        self.rows: list[dict[str, Any]] = []
        outputs = {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}
        for row in range(len(next(iter(outputs.values())))):
            values = {name: _decoded(array[row].tolist()) for name, array in outputs.items()}
            for name in ("source", "arm", "unknown", "total", "playlist"):
                if name in values:
                    values[name] = values[name][0]
            if "unknown" in values:
                values["unknown"] = json.loads(values["unknown"])
            if values.get("playlist"):
                values["playlist"] = json.loads(values["playlist"])
            if "reasons" in values:
                values["reasons"] = [json.loads(text) if text else [] for text in values["reasons"]]
            self.rows.append(values)

    def __getitem__(self, name: str) -> Any:
        return self.rows[0][name]


def _decoded(values: list[Any]) -> list[Any]:
    return [value.decode() if isinstance(value, bytes) else value for value in values]


def service_key() -> str:
    """The key that a server of this process made, or found, for its operator."""
    return default_key_file().read_text()


class Client:
    """Asks one model of a server, with the operator's key unless other headers are given."""

    def __init__(
        self, server: TritonServer, model: str = "recommender", *, headers: Mapping[str, str] | None = None
    ) -> None:
        self._client = triton.InferenceServerClient(server.grpc_url)
        self.model = model
        self.headers = {"tritone-service-key": service_key()} if headers is None else dict(headers)

    def ask(self, outputs: Sequence[str] | None = None, **given: Any) -> Answers:
        return self.send(question(**given), outputs)

    def send(
        self, rows: Mapping[str, Any], outputs: Sequence[str] | None = None, parameters: dict[str, Any] | None = None
    ) -> Answers:
        wanted = [triton.InferRequestedOutput(name) for name in outputs] if outputs else None
        result = self._client.infer(
            self.model, tensors(rows), outputs=wanted, client_timeout=30, headers=self.headers, parameters=parameters
        )
        return Answers(result)

    def send_together(self, many: Sequence[Mapping[str, Any]]) -> list[Answers | InferenceServerException]:
        """All at once; answers or errors in the order of the questions."""
        answers: list[Any] = [None] * len(many)
        left = threading.Semaphore(0)

        def place(index: int) -> Any:
            def done(result: Any, error: Any) -> None:
                answers[index] = error or Answers(result)
                left.release()

            return done

        for index, rows in enumerate(many):
            self._client.async_infer(self.model, tensors(rows), place(index), client_timeout=30, headers=self.headers)
        for _ in many:
            assert left.acquire(timeout=30)
        return answers

    def close(self) -> None:
        self._client.close()


def metrics_text(server: TritonServer) -> str:
    with urllib.request.urlopen(server.metrics_url) as answer:  # noqa: S310 - our own server
        text: str = answer.read().decode()
    return text


def metric(server: TritonServer, name: str, **labels: str) -> float:
    """The sum over all that have these labels; after the backend had time to tell it."""
    time.sleep(0.6)
    total = 0.0
    for found, value in re.findall(rf"^tritone_recommender_{name}{{([^}}]*)}} (\S+)$", metrics_text(server), re.M):
        if all(f'{label}="{wanted}"' in found for label, wanted in labels.items()):
            total += float(value)
    return total


class Listeners:
    """Clients that ask each replica for recommendations all the time."""

    def __init__(self, replicas: list[TritonServer], history: list[str]) -> None:
        self.errors: list[str] = []
        self.n_answers: Counter[str] = Counter()
        self._history = history
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(each.grpc_url,), daemon=True) for each in replicas]

    def __enter__(self) -> Listeners:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _ask(self, url: str) -> None:
        with MusicClient(url, retries=0) as music:
            while not self._stop.is_set():
                try:
                    assert music.recommend(history=self._history, n=10)
                    self.n_answers[url] += 1
                except TritoneError as error:
                    self.errors.append(repr(error))
