"""Requests that try to crash a server, fill its memory or delay others. Bounded, and only to loopback addresses."""

from __future__ import annotations

import concurrent.futures
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import grpc
import numpy as np

from benchmarks.fuzzing import over_grpc, over_http
from benchmarks.fuzzing.outcomes import NOT_SENT, Outcome
from benchmarks.fuzzing.requests import FuzzRequest, RequestTensor, valid_request
from tritone.transports.protocol import DTYPES

MB: Final = 1 << 20
CLASS_COUNTS: Final = (1, 2, 10**6, -1)
LONG: Final = 200_000
BYTES_TYPE: Final = 13  # TYPE_STRING of Triton's model_config.proto
ODD_FLOATS: Final = {"NaN": np.nan, "Inf": np.inf, "1e38": 1e38}
DENORMALS: Final = {"1e-40": 1e-40}  # within every range: a valid request, which must not be slow


@dataclass(frozen=True)
class AttackTarget:
    """The addresses of the target.

    Attributes:
        configs: of each model, as `inference.ModelConfig`.
        is_alive: whether the server that was there at first still runs.
        recover: waits until there is a server again.
    """

    host: str
    http_port: int
    grpc_url: str
    configs: Mapping[str, Any]
    is_alive: Callable[[], bool]
    recover: Callable[[], bool]

    def http(self, ask: FuzzRequest, *, as_json: bool = False, **headers: str) -> Outcome:
        """Send a request over HTTP."""
        body, n_json = over_http.body_of(ask, as_json=as_json)
        given = {} if as_json else {"Inference-Header-Content-Length": str(n_json)}
        return self.post(f"/v2/models/{ask.model}/infer", body, {**given, **headers})

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """Send any body over HTTP."""
        frame = over_http.Frame(over_http.framed(path, body, headers))
        return over_http.HttpTarget(self.host, self.http_port).send(frame)

    def grpc(self, ask: FuzzRequest, *, is_stream: bool = False, **how: Any) -> Outcome:
        """Send a request over gRPC."""
        target = over_grpc.GrpcTarget(self.grpc_url)
        try:
            body = over_grpc.message(ask).SerializeToString()
            if is_stream:
                return target.stream([body])
            return target.unary(over_grpc.SERVICE + "ModelInfer", body, **how)
        finally:
            target.close()

    def ask(self, model: str) -> FuzzRequest:
        """Return a valid request to the model."""
        return valid_request(self.configs[model], np.random.default_rng(0))


@dataclass
class AttackResult:
    """The requests of an attack and their outcomes.

    Attributes:
        answers: how often each answer came.
        n_deaths: how often the server ended; an attack stops at the first, unless it says otherwise.
    """

    what: str
    answers: Counter[str] = field(default_factory=Counter)
    n_accepted: int = 0
    n_deaths: int = 0

    def note(self, outcome: Outcome) -> None:
        self.answers[f"{outcome.kind} {outcome.code}".strip()] += outcome.kind != NOT_SENT
        self.n_accepted += outcome.kind == over_http.OK


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        act: sends; returns what it sent.
        bystander: the model that somebody else asks meanwhile; another than the one attacked.
        wants_refusal: whether an answer with success is a failure of the server.
    """

    name: str
    act: Callable[[AttackTarget], AttackResult]
    bystander: str = "genre_cnn"
    wants_refusal: bool = True


def _text_outputs(target: AttackTarget) -> list[tuple[str, str]]:
    return [
        (model, output.name)
        for model, config in sorted(target.configs.items())
        for output in config.output
        if output.data_type == BYTES_TYPE
    ]


def _classes(way: str) -> Callable[[AttackTarget], AttackResult]:
    ways: dict[str, Callable[[AttackTarget, FuzzRequest], Outcome]] = {
        "HTTP, JSON": lambda target, ask: target.http(ask, as_json=True),
        "HTTP, binary data": lambda target, ask: target.http(ask),
        "gRPC": lambda target, ask: target.grpc(ask),
        "gRPC, stream": lambda target, ask: target.grpc(ask, is_stream=True),
    }

    def act(target: AttackTarget) -> AttackResult:
        pairs = [(model, output, count) for model, output in _text_outputs(target) for count in CLASS_COUNTS]
        sent = AttackResult(f"{len(pairs)} pairs of BYTES output and class count")
        for n_sent, (model, output, count) in enumerate(pairs, 1):
            ask = replace(target.ask(model), outputs=((output, {"classification": count}),))
            if "JSON" in way and sum(len(tensor.data) for tensor in ask.tensors) > over_http.MOST_JSON_ITEMS:
                continue
            sent.note(ways[way](target, ask))
            if not target.is_alive():
                sent.n_deaths += 1
                sent.what = f"{n_sent} of {sent.what} (stopped at the death)"
                break
        return sent

    return act


def _five_deaths(target: AttackTarget) -> AttackResult:
    """Send the same fatal request five times, each as soon as a server answers again."""
    (model, output), *_ = _text_outputs(target)
    sent = AttackResult("classes of a BYTES output, five times, each once the server is back")
    for _ in range(5):
        sent.note(target.grpc(replace(target.ask(model), outputs=((output, {"classification": 1}),))))
        if not target.is_alive():
            sent.n_deaths += 1
            if not target.recover():
                sent.answers["no server any more"] += 1
                break
    return sent


def packed_zeros(n_bytes: int, *, wbits: int) -> bytes:
    """Return compressed zeros, a thousandth of their original size."""
    packer = zlib.compressobj(9, wbits=wbits)
    block = bytes(4 * MB)
    return b"".join(packer.compress(block) for _ in range(n_bytes // len(block))) + packer.flush()


def _packed(kind: str, n_bytes: int, n_times: int) -> Callable[[AttackTarget], AttackResult]:
    def act(target: AttackTarget) -> AttackResult:
        body = packed_zeros(n_bytes, wbits=31 if kind == "gzip" else 15)
        sent = AttackResult(f"{n_times} x {len(body) // 1000} kB of {kind}, {n_bytes // MB} MB unpacked")
        headers = {"Content-Encoding": kind}
        with concurrent.futures.ThreadPoolExecutor(n_times) as pool:
            for outcome in pool.map(lambda _: target.post("/v2/models/genre_cnn/infer", body, headers), range(n_times)):
                sent.note(outcome)
        return sent

    return act


def _packed_messages(target: AttackTarget) -> AttackResult:
    """Send several smaller messages: compressing a large one would delay this process's canary."""
    n_bytes, n_times = 64 * MB, 4
    ask = FuzzRequest("genre_cnn", (RequestTensor("audio", "FP32", (1, n_bytes // 4), bytes(n_bytes)),))
    sent = AttackResult(f"{n_times} gRPC messages of gzip, {n_bytes // MB} MB unpacked")
    for _ in range(n_times):
        sent.note(target.grpc(ask, compression=grpc.Compression.Gzip))
    return sent


def _resized(ask: FuzzRequest, name: str, n: int) -> FuzzRequest:
    """Return an input with size `n` along its second to last axis, or its last if it has only one."""
    for place, tensor in enumerate(ask.tensors):
        if tensor.name == name:
            at = 1 if len(tensor.shape) > 1 else 0
            shape = (*tensor.shape[:at], n, *tensor.shape[at + 1 :])
            times = -(-n // max(1, tensor.shape[at]))
            size = len(tensor.data) * n // max(1, tensor.shape[at])
            return ask.with_tensor(place, shape=shape, data=(tensor.data * times)[:size])
    return ask


def _long(model: str, *names: str) -> Callable[[AttackTarget], AttackResult]:
    def act(target: AttackTarget) -> AttackResult:
        sent = AttackResult(f"{LONG:,} along {', '.join(names)}")
        ask = target.ask(model)
        for name in names:
            ask = _resized(ask, name, LONG)
        sent.note(target.grpc(ask, timeout_s=60.0))
        return sent

    return act


def _floats(values: Mapping[str, float], *, batch: int = 1) -> Callable[[AttackTarget], AttackResult]:
    """Fill each floating-point input of each model with one value."""

    def act(target: AttackTarget) -> AttackResult:
        sent, n_sent = AttackResult(""), 0
        for model, config in sorted(target.configs.items()):
            ask = target.ask(model)
            for place, tensor in enumerate(ask.tensors):
                if tensor.datatype != "FP32":
                    continue
                for value in values.values():
                    n_items = len(tensor.data) // 4
                    changed = ask.with_tensor(place, data=np.full(n_items, value, np.float32).tobytes())
                    if batch > 1 and len(ask.tensors) == 1 and config.max_batch_size >= batch:
                        data = changed.tensors[place].data * batch
                        changed = changed.with_tensor(place, shape=(batch, *tensor.shape[1:]), data=data)
                    sent.note(target.grpc(changed, is_stream=config.model_transaction_policy.decoupled))
                    n_sent += 1
        sent.what = f"{n_sent} inputs of {', '.join(values)}"
        return sent

    return act


OUT_OF_RANGE: Final = {
    "temperature": -1, "top_k": -5, "top_p": 2, "style": 99, "truncation": -3, "density": -3, "key": 99, "mode": 7,
    "n_voices": 99, "end": -1, "repeats": -2, "items": -1, "diversity": 7, "novelty": -7,
}  # fmt: skip


def _out_of_range(target: AttackTarget) -> AttackResult:
    sent, n_sent = AttackResult(""), 0
    for model, config in sorted(target.configs.items()):
        ask = target.ask(model)
        for place, tensor in enumerate(ask.tensors):
            if tensor.name in OUT_OF_RANGE:
                value = np.array(OUT_OF_RANGE[tensor.name], DTYPES[tensor.datatype])
                n_items = len(tensor.data) // value.itemsize
                changed = ask.with_tensor(place, data=value.tobytes() * n_items)
                sent.note(target.grpc(changed, is_stream=config.model_transaction_policy.decoupled))
                n_sent += 1
    sent.what = f"{n_sent} options beyond their range"
    return sent


def _unequal(target: AttackTarget) -> AttackResult:
    sent, n_sent = AttackResult(""), 0
    for model, name in (("taste_vae", "weights"), ("music_transformer", "given_mode"), ("composer", "noise")):
        if model in target.configs:
            ask = target.ask(model)
            n_now = {tensor.name: tensor.shape[1] for tensor in ask.tensors if len(tensor.shape) > 1}.get(name, 1)
            decoupled = target.configs[model].model_transaction_policy.decoupled
            sent.note(target.grpc(_resized(ask, name, n_now + 3), is_stream=decoupled))
            n_sent += 1
    sent.what = f"{n_sent} requests whose inputs differ in length"
    return sent


def _explain(target: AttackTarget) -> AttackResult:
    history = b"".join(len(word).to_bytes(4, "little") + word for word in (b"track-1", b"track-4"))
    tensors = (
        RequestTensor("history", "BYTES", (1, 2), history),
        RequestTensor("k", "INT32", (1, 1), (10_000).to_bytes(4, "little")),
        RequestTensor("explain", "BOOL", (1, 1), b"\x01"),
    )
    sent = AttackResult("k = 10,000 with reasons")
    sent.note(target.grpc(FuzzRequest("recommender", tensors)))
    return sent


ATTACKS: Final[Mapping[str, Attack]] = {
    "classes-json": Attack("classes of BYTES outputs, HTTP as JSON", _classes("HTTP, JSON")),
    "classes-http": Attack("classes of BYTES outputs, HTTP binary data", _classes("HTTP, binary data")),
    "classes-grpc": Attack("classes of BYTES outputs, gRPC", _classes("gRPC")),
    "classes-stream": Attack("classes of BYTES outputs, gRPC stream", _classes("gRPC, stream")),
    "gzip": Attack("one packed body", _packed("gzip", 600 * MB, 1), "taste_vae"),
    "deflate": Attack("one packed body, deflate", _packed("deflate", 600 * MB, 1), "taste_vae"),
    "gzip-8": Attack("eight packed bodies at once", _packed("gzip", 200 * MB, 8), "taste_vae"),
    "gzip-grpc": Attack("packed gRPC messages", _packed_messages, "taste_vae"),
    "long-rnn": Attack("a long piece for polyphony_rnn", _long("polyphony_rnn", "frames"), "taste_vae"),
    "long-vae": Attack("a long history for taste_vae", _long("taste_vae", "items", "weights")),
    "odd-floats": Attack("numbers that are not finite, or huge", _floats(ODD_FLOATS), "taste_vae"),
    "denormals": Attack("denormal numbers", _floats(DENORMALS, batch=16), "taste_vae", wants_refusal=False),
    "range": Attack("options out of range", _out_of_range),
    "unequal": Attack("unequal lengths", _unequal),
    "explain": Attack("reasons for 10,000 items", _explain, wants_refusal=False),
    "five": Attack("five fatal requests in a row", _five_deaths),
}
