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
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from tritone_cli.bench.inputs import example_requests
from tritone_cli.bench.server_statistics import model_config

SERVICE = "/inference.GRPCInferenceService/"
TIMEOUT_S = 60.0
N_VARIED = 3  # floats whose lowest bytes are a number: 2**24 sendings before one repeats
N_COST_ROUNDS = 7
MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Asked:
    """One model and what it is asked.

    Attributes:
        is_stream: it answers in pieces.
        messages: serialised requests. BenchTarget `n_tail` is not 0, each ends with so many bytes of floats.
    """

    model: str
    is_stream: bool
    messages: Sequence[bytes]
    n_tail: Sequence[int]
    _numbers: itertools.count[int] = field(default_factory=itertools.count, repr=False)

    def next(self) -> bytes:
        """The next request; differs from all before where it can."""
        number = next(self._numbers)
        message, n_tail = self.messages[number % len(self.messages)], self.n_tail[number % len(self.messages)]
        return varied(message, n_tail, number)


@dataclass
class SentRequest:
    """What became of one request.

    Attributes:
        due_s: when it was to be sent, since the load began.
        latency_s: from then until its (last) answer, so a late sending counts as waiting.
        late_s: how much later it was sent than due: the generator's own delay.
        error: empty if it was answered.
    """

    model: str
    due_s: float
    latency_s: float = 0.0
    late_s: float = 0.0
    error: str = ""


def ask_all(http_url: str, repository: Path, models: Sequence[str]) -> list[Asked]:
    """What each model is asked, drawn from its declaration."""
    return [ask_of(model_config(http_url, model), repository) for model in models]


def ask_of(config: Mapping[str, Any], repository: Path) -> Asked:
    """What one model is asked."""
    is_stream = bool(config.get("model_transaction_policy", {}).get("decoupled"))
    made = [message_of(config, request) for request in example_requests(config, repository).requests]
    return Asked(config["name"], is_stream, [each[0] for each in made], [each[1] for each in made])


def message_of(config: Mapping[str, Any], request: Mapping[str, np.ndarray[Any, Any]]) -> tuple[bytes, int]:
    """A serialised request, and how many bytes of floats it ends with; 0 if it has none to vary."""
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
    """The message with `number` in the lowest bytes of its last floats."""
    if n_tail == 0:
        return message
    changed = bytearray(message)
    for place in range(N_VARIED):
        changed[-4 * (place + 1)] = number >> 8 * place & 0xFF
    return bytes(changed)


class Client:
    """Sends messages; for one event loop."""

    def __init__(self, grpc_url: str) -> None:
        options = [("grpc.max_receive_message_length", MOST_BYTES), ("grpc.max_send_message_length", MOST_BYTES)]
        self._channel = grpc.aio.insecure_channel(grpc_url, options=options)
        self._infer = self._channel.unary_unary(f"{SERVICE}ModelInfer")  # bytes in, bytes out
        self._stream = self._channel.stream_stream(f"{SERVICE}ModelStreamInfer")

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def ask(self, asked: Asked) -> str:
        """Ask once, to the end of the answer; answers what went wrong, empty if nothing did."""
        try:
            return await (self._all_of_stream(asked) if asked.is_stream else self._answer(asked))
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"  # type: ignore[attr-defined]

    async def _answer(self, asked: Asked) -> str:
        return "" if await self._infer(asked.next(), timeout=TIMEOUT_S) else "an empty answer"

    async def _all_of_stream(self, asked: Asked) -> str:
        n_answers = 0
        async for each in self._stream(iter([asked.next()]), timeout=TIMEOUT_S):
            n_answers += 1
            said = service_pb2.ModelStreamInferResponse.FromString(each).error_message
            if said:
                return str(said)
        return "" if n_answers else "the stream ended without an answer"


async def costs_s(client: Client, mix: Sequence[Asked]) -> dict[str, float]:
    """Median seconds of each model's requests, one after the other.

    Raises:
        RuntimeError: a model does not answer what it is asked.
    """
    found = {}
    for asked in mix:
        times = []
        for _ in range(N_COST_ROUNDS):
            begun_s = time.perf_counter()
            said = await client.ask(asked)
            if said:
                raise RuntimeError(f"{asked.model} does not answer what its declaration draws: {said}")
            times.append(time.perf_counter() - begun_s)
        found[asked.model] = statistics.median(times[1:])
    return found


def shares(cost_s: Mapping[str, float]) -> dict[str, float]:
    """Shares of the requests by which every model gets the same part of the machine's time."""
    total = sum(1 / each for each in cost_s.values())
    return {model: 1 / each / total for model, each in cost_s.items()}


async def closed_loop(
    client: Client, mix: Sequence[Asked], share: Mapping[str, float], *, n_clients: int, seconds: float
) -> float:
    """Requests of the mix that are answered a second when so many clients never pause.

    Raises:
        RuntimeError: a request failed: a load on which no capacity can be found.
    """
    random = np.random.default_rng(3)
    odds = [share[asked.model] for asked in mix]
    n_answered = 0
    end_s = time.perf_counter() + seconds

    async def keep_asking() -> None:
        nonlocal n_answered
        while time.perf_counter() < end_s:
            asked = mix[int(random.choice(len(mix), p=odds))]
            said = await client.ask(asked)
            if said:
                raise RuntimeError(f"{asked.model} failed while its capacity was sought: {said}")
            n_answered += time.perf_counter() < end_s

    await asyncio.gather(*(keep_asking() for _ in range(n_clients)))
    return n_answered / seconds


async def open_loop(
    client: Client, mix: Sequence[Asked], share: Mapping[str, float], *, per_s: float, seconds: float, seed: int = 5
) -> list[SentRequest]:
    """Send at Poisson arrivals whatever becomes of what was sent before; in the order of the arrivals."""
    random = np.random.default_rng(seed)
    due_s, which = arrivals(random, [share[asked.model] for asked in mix], per_s=per_s, seconds=seconds)
    sent = [SentRequest(mix[place].model, due) for due, place in zip(due_s, which, strict=True)]
    begun_s = time.perf_counter()

    async def send(each: SentRequest, asked: Asked) -> None:
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
        await asyncio.wait(list(under_way), timeout=TIMEOUT_S)  # a load has to end whatever becomes of the last
    for each in sent:
        if each.latency_s == 0.0:
            each.error = each.error or "no answer when the load had ended"
    return sent


def arrivals(
    random: np.random.Generator, odds: Sequence[float], *, per_s: float, seconds: float
) -> tuple[list[float], list[int]]:
    """Moments of a Poisson process, in seconds, and which of several each is for."""
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
