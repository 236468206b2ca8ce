"""Prepared gRPC requests for each model of a server, and an asynchronous client with little overhead.

Each request is bytes on the wire. The floats of each request differ slightly from those of all others, so that no
request can be answered from a response cache.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc
import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from tritone_cli.bench.inputs import example_requests
from tritone_cli.bench.server_statistics import model_config

SERVICE = "/inference.GRPCInferenceService/"
TIMEOUT_S = 60.0
N_VARIED = 3  # floats whose lowest bytes encode a counter: a request repeats after 2**24
N_COST_ROUNDS = 7
MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class ModelRequests:
    """Prepared requests to one model.

    Attributes:
        is_stream: whether the model streams its responses.
        messages: serialised requests.
        n_tail: number of bytes of floats at the end of each message; 0 if it has none.
    """

    model: str
    is_stream: bool
    messages: Sequence[bytes]
    n_tail: Sequence[int]
    _numbers: itertools.count[int] = field(default_factory=itertools.count, repr=False)

    def next(self) -> bytes:
        """Return the next request; it differs from all previous ones if it contains floats."""
        number = next(self._numbers)
        message, n_tail = self.messages[number % len(self.messages)], self.n_tail[number % len(self.messages)]
        return varied(message, n_tail, number)


@dataclass
class SentRequest:
    """Result of one request.

    Attributes:
        due_s: time at which it was due, since the beginning of the load.
        latency_s: time from `due_s` to the last response, which includes a delay of the generator.
        late_s: delay of the generator: time from `due_s` to sending.
        error: empty if it succeeded.
    """

    model: str
    due_s: float
    latency_s: float = 0.0
    late_s: float = 0.0
    error: str = ""


def requests_of_all(http_url: str, repository: Path, models: Sequence[str]) -> list[ModelRequests]:
    """Return prepared requests to each model, drawn from its declaration."""
    return [requests_of(model_config(http_url, model), repository) for model in models]


def requests_of(config: Mapping[str, Any], repository: Path) -> ModelRequests:
    """Return prepared requests to one model."""
    is_stream = bool(config.get("model_transaction_policy", {}).get("decoupled"))
    made = [message_of(config, request) for request in example_requests(config, repository).requests]
    return ModelRequests(config["name"], is_stream, [each[0] for each in made], [each[1] for each in made])


def message_of(config: Mapping[str, Any], request: Mapping[str, np.ndarray[Any, Any]]) -> tuple[bytes, int]:
    """Return a serialised request and the number of bytes of floats at its end; 0 if it has no floats to vary."""
    batched = int(config.get("max_batch_size", 0)) > 0
    # Raw contents are the last field of the message, in the order of the inputs.
    floats = [name for name, array in request.items() if array.dtype == np.float32 and array.size >= N_VARIED]
    last = max(floats, key=lambda name: request[name].size, default="")
    message = service_pb2.ModelInferRequest(model_name=config["name"])
    for name in sorted(request, key=lambda name: name == last):
        array = request[name][None] if batched else request[name]
        message.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        is_text = array.dtype == np.object_
        message.raw_input_contents.append(serialize_byte_tensor(array).item() if is_text else array.tobytes())
    return message.SerializeToString(), request[last].nbytes if last else 0


def varied(message: bytes, n_tail: int, number: int) -> bytes:
    """Return the message with `number` in the lowest bytes of its last floats."""
    if n_tail == 0:
        return message
    changed = bytearray(message)
    for place in range(N_VARIED):
        changed[-4 * (place + 1)] = number >> 8 * place & 0xFF
    return bytes(changed)


class Client:
    """Sends prepared requests; for one event loop."""

    def __init__(self, grpc_url: str) -> None:
        options = [("grpc.max_receive_message_length", MOST_BYTES), ("grpc.max_send_message_length", MOST_BYTES)]
        self._channel = grpc.aio.insecure_channel(grpc_url, options=options)
        self._infer = self._channel.unary_unary(f"{SERVICE}ModelInfer")  # bytes in, bytes out
        self._stream = self._channel.stream_stream(f"{SERVICE}ModelStreamInfer")

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def ask(self, asked: ModelRequests) -> str:
        """Send one request and wait for the end of the response; return the error, empty if there was none."""
        try:
            return await (self._all_of_stream(asked) if asked.is_stream else self._answer(asked))
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"  # type: ignore[attr-defined]

    async def _answer(self, asked: ModelRequests) -> str:
        return "" if await self._infer(asked.next(), timeout=TIMEOUT_S) else "an empty response"

    async def _all_of_stream(self, asked: ModelRequests) -> str:
        n_answers = 0
        async for each in self._stream(iter([asked.next()]), timeout=TIMEOUT_S):
            n_answers += 1
            failure = service_pb2.ModelStreamInferResponse.FromString(each).error_message
            if failure:
                return str(failure)
        return "" if n_answers else "the stream ended without a response"


async def costs_s(client: Client, mix: Sequence[ModelRequests]) -> dict[str, float]:
    """Return the median latency of successive requests to each model in seconds.

    Raises:
        RuntimeError: a request failed.
    """
    found = {}
    for asked in mix:
        times = []
        for _ in range(N_COST_ROUNDS):
            begun_s = time.perf_counter()
            failure = await client.ask(asked)
            if failure:
                raise RuntimeError(f"{asked.model} does not answer an example request: {failure}")
            times.append(time.perf_counter() - begun_s)
        found[asked.model] = statistics.median(times[1:])
    return found


def shares(cost_s: Mapping[str, float]) -> dict[str, float]:
    """Return shares of the requests such that all models take the same share of the machine's time."""
    total = sum(1 / each for each in cost_s.values())
    return {model: 1 / each / total for model, each in cost_s.items()}


async def closed_loop(
    client: Client, mix: Sequence[ModelRequests], share: Mapping[str, float], *, n_clients: int, seconds: float
) -> float:
    """Return the throughput of a closed loop with the mix, in requests per second.

    Raises:
        RuntimeError: a request failed, so that the capacity cannot be measured.
    """
    random = np.random.default_rng(3)
    odds = [share[asked.model] for asked in mix]
    n_answered = 0
    end_s = time.perf_counter() + seconds

    async def keep_asking() -> None:
        nonlocal n_answered
        while time.perf_counter() < end_s:
            asked = mix[int(random.choice(len(mix), p=odds))]
            failure = await client.ask(asked)
            if failure:
                raise RuntimeError(f"{asked.model} failed while the capacity was measured: {failure}")
            n_answered += time.perf_counter() < end_s

    await asyncio.gather(*(keep_asking() for _ in range(n_clients)))
    return n_answered / seconds


class RequestKind(Protocol):
    """A kind of request with a name, which is that of a model in most reports."""

    @property
    def model(self) -> str: ...


KindT = TypeVar("KindT", bound=RequestKind)
KindT_contra = TypeVar("KindT_contra", bound=RequestKind, contravariant=True)


class LoadClient(Protocol[KindT_contra]):
    """Sends requests of some kinds."""

    async def ask(self, asked: KindT_contra, /) -> str:
        """Send one request; return the error, empty if there was none."""


async def open_loop(
    client: LoadClient[KindT],
    mix: Sequence[KindT],
    share: Mapping[str, float],
    *,
    per_s: float,
    seconds: float,
    seed: int = 5,
) -> list[SentRequest]:
    """Send requests at Poisson arrivals, without waiting for responses; return them in the order of arrival."""
    random = np.random.default_rng(seed)
    due_s, which = arrivals(random, [share[asked.model] for asked in mix], per_s=per_s, seconds=seconds)
    sent = [SentRequest(mix[place].model, due) for due, place in zip(due_s, which, strict=True)]
    begun_s = time.perf_counter()

    async def send(each: SentRequest, asked: KindT) -> None:
        each.late_s = time.perf_counter() - begun_s - each.due_s
        each.error = await client.ask(asked)
        each.latency_s = time.perf_counter() - begun_s - each.due_s

    under_way: set[asyncio.Task[None]] = set()
    for each, place in zip(sent, which, strict=True):
        wait_s = each.due_s - (time.perf_counter() - begun_s)
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        task = asyncio.create_task(send(each, mix[place]))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    if under_way:
        await asyncio.wait(list(under_way), timeout=TIMEOUT_S)  # the load must end even if the last requests hang
    for each in sent:
        if each.latency_s == 0.0:
            each.error = each.error or "no response at the end of the load"
    return sent


def arrivals(
    random: np.random.Generator, odds: Sequence[float], *, per_s: float, seconds: float
) -> tuple[list[float], list[int]]:
    """Return arrival times of a Poisson process in seconds, and the index of the model for each."""
    n = int(random.poisson(per_s * seconds))
    moments = np.sort(random.uniform(0, seconds, n))
    return moments.tolist(), random.choice(len(odds), n, p=np.asarray(odds) / sum(odds)).tolist()


def small_repository(folder: Path) -> Path:
    """Write a repository of small models that classify, compose in a stream and recommend."""
    from tests.integration import composer_stand_in, conftest
    from tests.support import recommender_artifacts

    repository = composer_stand_in.make_repository(conftest.make_repository(folder / "repository"))
    key = folder / "recommender.key"
    artifact = recommender_artifacts.make_artifact(folder / "artifact", key)
    recommender_artifacts.make_taste(repository)
    recommender_artifacts.publish(artifact, key, repository, ensembles=False)
    return repository
