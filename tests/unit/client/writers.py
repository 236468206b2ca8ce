"""The models that write music, in memory: each answers by a rule that a test can compute itself.

Shapes: B batch, N frames, Z latent dimensions.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np

from tritone import (
    InferRequest,
    InferResponse,
    ModelNotFoundError,
    ModelRequest,
    ModelResponse,
    ReadyRequest,
    ReadyResponse,
    Request,
    RequestRejectedError,
    Response,
    ServerError,
    StreamRequest,
)
from tritone.sampling import uniform_noise
from tritone.transports.protocol import (
    kind_by_words,
    refusal,
)

Z: Final = 128
G: Final = 16
STYLES: Final = ("any", "bach", "folk")
CHOICE: Final = {"temperature": (-1, 1), "top_k": (-1, 1), "top_p": (-1, 1)}
WRITING: Final = {
    "given": (-1, -1, 88),
    "given_mode": (-1, -1),
    "meter": (-1, 2),
    "style": (-1, 1),
    "key": (-1, 1),
    "density": (-1, 1),
    "n_voices": (-1, 1),
    "end": (-1, 1),
    "repeats": (-1, -1),
    "noise": (-1, -1, 8),
    **CHOICE,
}
CONDITIONS: Final = ("key", "density", "n_voices", "end", "repeats")  # that models of earlier releases do not have
SAMPLING: Final = {
    "prompt": (-1, -1, 88),
    **{name: WRITING[name] for name in ("meter", "style", *CONDITIONS)},
    "noise": (-1, -1, 88),
    **CHOICE,
}
DTYPES: Final = {
    "frames": np.uint8,
    "given": np.uint8,
    "given_mode": np.uint8,
    "prompt": np.uint8,
    "meter": np.int64,
    "style": np.int64,
    "top_k": np.int64,
    "voices": np.int64,
    "key": np.int64,
    "density": np.int64,
    "n_voices": np.int64,
    "end": np.int64,
    "repeats": np.int64,
    "mode": np.int64,
}
Arrays = Mapping[str, np.ndarray[Any, Any]]


def written(inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """A free frame strikes the pitch that its noise points at; under a melody sounds the octave below it."""
    given, mode, noise = inputs["given"], inputs["given_mode"], inputs["noise"]
    frames = np.where((mode == 0)[..., None], 0, given)
    rows, steps = np.nonzero(mode == 0)
    frames[rows, steps, (noise[rows, steps, 0] * 88).astype(int)] = 2
    rows, steps, tops = np.nonzero((given > 0) & (mode == 2)[..., None])
    frames[rows, steps, np.maximum(tops - 12, 0)] = given[rows, steps, tops]
    return {"frames": frames.astype(np.uint8), "nll": noise.sum(axis=2)}


def sampled(inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """A note sounds where its noise is below a tenth of the temperature, or where the prompt ended with it."""
    frames = inputs["noise"] < inputs["temperature"][:, :, None] / 10
    frames[:, :2] |= (inputs["prompt"][:, -1:] > 0)[:, [0, 0]][:, : frames.shape[1]]
    return {"frames": frames.astype(np.uint8)}


def scored(inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    sounding = inputs["frames"] > 0
    return {"nll": sounding.sum(axis=2).astype(np.float32), "probabilities": (sounding / 2).astype(np.float32)}


def encoded(inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    mean = inputs["voices"].reshape(-1, Z).astype(np.float32)
    return {"mean": mean, "log_variance": np.zeros_like(mean)}


def decoded(inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """Exactly what was encoded; the first attribute transposes by whole tones, the noise moves nothing."""
    voices = np.rint(inputs["latent"]).clip(0, 89).astype(np.int64).reshape(-1, 32, 4)
    moved = np.rint(2 * inputs["attributes"][:, :1, None]).astype(np.int64)
    return {"voices": np.where(voices >= 2, (voices + moved).clip(2, 89), voices)}


def dreamt(inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """Its conditions as the first strikes of voice 0, its latent noise as those of voice 1, its noise in voice 2."""
    voices = np.zeros((len(inputs["key"]), 32, 4), np.int64)
    for step, name in enumerate(("key", "mode", "density", "truncation", "temperature")):
        voices[:, step, 0] = 10 + np.rint(inputs[name][:, 0])
    voices[:, :G, 1] = 2 + (inputs["latent_noise"] * 88).astype(int)
    voices[:, :, 2] = 2 + (inputs["noise"][:, :, 0] * 88).astype(int)
    return {"voices": voices}


@dataclass
class FakeWriters:
    """A server with all the models; `before` is called with each request and may raise or change the models."""

    version: str = "3"
    max_batch_size: int = 8
    parameters: dict[str, str] = field(
        default_factory=lambda: {"frames_per_quarter": "4", "styles": json.dumps(STYLES)}
    )
    before: Callable[[Any], None] = lambda request: None
    spoil: Callable[[str, dict[str, Any]], None] = lambda model, outputs: None
    n_answers: int = 1_000  # a stream breaks off after so many
    requests: list[Any] = field(default_factory=list)
    closed: int = 0
    streams_closed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        frames, nll, voices = (-1, -1, 88), (-1, -1), (-1, 32, 4)
        decoder = {"latent": (-1, Z), "attributes": (-1, 3), "noise": voices, **CHOICE}
        gan = {"latent_noise": (-1, G), **dict.fromkeys(("truncation", "key", "mode", "density"), (-1, 1))}
        both = {"frames": frames, "nll": nll}
        self.models: dict[str, tuple[Any, Any, Any]] = {
            "music_transformer": (WRITING, both, written),
            "composer": (WRITING, {**both, "first_frame": (-1, 1)}, written),
            "polyphony_rnn": ({"frames": frames}, {"nll": nll, "probabilities": frames}, scored),
            "polyphony_rnn_sampler": (SAMPLING, {"frames": frames}, sampled),
            "music_vae": ({"voices": voices}, {"mean": (-1, Z), "log_variance": (-1, Z)}, encoded),
            "music_vae_decoder": (decoder, {"voices": voices}, decoded),
            "music_gan": ({**gan, "noise": voices, **CHOICE}, {"voices": voices}, dreamt),
        }

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        assert timeout_s > 0
        with self.lock:
            self.requests.append(request)
        self.before(request)
        if request.model is None:
            return ReadyResponse(True)
        if request.model not in self.models:
            raise ModelNotFoundError("no such model", model=request.model)
        takes, answers, _ = self.models[request.model]
        if isinstance(request, ReadyRequest):
            return ReadyResponse(True)
        if isinstance(request, ModelRequest):
            return ModelResponse(
                request.model, ("1", self.version), takes, answers, self.max_batch_size, self.parameters
            )
        assert isinstance(request, InferRequest)
        if "first_frame" in answers:
            raise RequestRejectedError("ModelInfer RPC doesn't support models with decoupled transaction policy")
        return InferResponse(request.model, self.version, request.request_id, self._outputs(request))

    def stream(self, request: StreamRequest, *, timeout_s: float) -> Iterator[InferResponse]:
        """Four frames, the rest of the first bar of sixteen, then bars."""
        assert timeout_s > 0
        self.requests.append(request)
        self.before(request)
        outputs = self._outputs(request)
        n_frames = outputs["frames"].shape[1]
        edges = sorted({0, min(4, n_frames), *range(16, n_frames, 16), n_frames})
        try:
            for n, (start, stop) in enumerate(pairwise(edges)):
                if n == self.n_answers:
                    return
                part = {name: outputs[name][:, start:stop] for name in ("frames", "nll")}
                part["first_frame"] = np.array([[start]])
                yield InferResponse(request.model, self.version, request.request_id, part)
        finally:
            self.streams_closed += 1

    def close(self) -> None:
        self.closed += 1

    def asked(self, model: str) -> list[Any]:
        return [r for r in self.requests if isinstance(r, InferRequest | StreamRequest) and r.model == model]

    def _outputs(self, request: InferRequest | StreamRequest) -> dict[str, Any]:
        if request.version not in (None, self.version):
            raise lacks(request)
        takes, _, rule = self.models[request.model]
        assert request.inputs.keys() == takes.keys()
        sizes = set()
        for name, array in request.inputs.items():
            is_number = (request.model, name) == ("music_gan", "density")  # of onsets, not a class as elsewhere
            assert array.dtype == (np.float32 if is_number else DTYPES.get(name, np.float32)), name
            assert array.flags.c_contiguous, name
            fits = all(wanted in (-1, size) for wanted, size in zip(takes[name], array.shape, strict=True))
            if not fits:
                raise RequestRejectedError(f"unexpected shape for input {name!r}", model=request.model)
            sizes.add(len(array))
        assert sizes <= set(range(1, self.max_batch_size + 1))
        assert len(sizes) == 1
        outputs = rule(request.inputs)
        self.spoil(request.model, outputs)
        return {name: outputs[name] for name in request.outputs if name in outputs}


def lacks(request: InferRequest | StreamRequest) -> ServerError:
    """The refusal of a server that has another version."""
    said = f"Request for unknown model: '{request.model}' version {request.version} is not found"
    return refusal(kind_by_words(said) or ServerError, said, request, status="NOT_FOUND")


def noise_columns(seed: int, n_frames: int) -> list[int]:
    """The columns that `written` strikes in frames that are free from the first on."""
    return (uniform_noise(seed, n_frames, 8)[:, 0] * 88).astype(int).tolist()
