"""Measure models on a GPU, in process and through a server with `--profile gpu`; one JSON object a line.

    python -m benchmarks.gpu_speed in-process --repository DIR [--seconds 2] [--dry-run]
    python -m benchmarks.gpu_speed served --repository DIR [--seconds 2] [--dry-run]

`in-process` runs ONNX Runtime's CUDA provider: windows of `genre_cnn` in single and half precision, and notes of
`music_transformer`, in batches of 1, 8 and 64; the latter also with the CPU provider. `served` sends the same windows
over HTTP with 8 clients, to the graph that the profile names and to the one in single precision, and composes with the
SDK. A dry run has the CPU provider and the profile `cpu` instead. `gpu_check` runs this.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from benchmarks.arguments import amount
from benchmarks.closed_loop import closed_loop
from benchmarks.http_clients import HttpClient, request_bytes
from benchmarks.latency_classify import new_clip, windows_of
from benchmarks.latency_compose import MODEL as COMPOSES
from benchmarks.latency_compose import N_BARS, N_FRAMES, STREAMING, inputs_of, throughput
from benchmarks.triton_http import infer_call
from tritone import MusicClient
from tritone.constants import GENRE_MODEL
from tritone.music.grid import STRUCK
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.repository import newest_version

BATCHES = (1, 8, 64)
N_CLIENTS = 8
COMPOSING_CLIENTS = (1, 8)
GRAPHS = {"fp32": "model.onnx", "fp16": "model.fp16.onnx"}
OUTPUTS = ("probabilities", "emotions", "embedding")
# The search for the best algorithm of a convolution is off, as in the backend.
PROVIDERS: Mapping[str, tuple[Any, ...]] = {
    "cuda": (("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}), "CPUExecutionProvider"),
    "cpu": ("CPUExecutionProvider",),
}
Row = dict[str, Any]


def main() -> None:
    """Print a JSON object for each measurement as soon as it is made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", choices=["in-process", "served"])
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--seconds", type=amount, default=2.0, help="length of each measurement in seconds (2)")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU")
    arguments = parser.parse_args()
    if not any(newest_version(arguments.repository / name) for name in (GENRE_MODEL, COMPOSES)):
        parser.error(
            f"argument --repository: expected a version of {GENRE_MODEL} or {COMPOSES}, got none in "
            f"{str(arguments.repository)!r}; run `tritone export {GENRE_MODEL}`"
        )
    measure = in_process if arguments.where == "in-process" else served
    for row in measure(arguments.repository, arguments.seconds, on_gpu=not arguments.dry_run):
        print(json.dumps(row), flush=True)


def in_process(repository: Path, seconds: float, *, on_gpu: bool) -> Iterator[Row]:
    """Measure with ONNX Runtime in this process; models that the repository lacks are left out."""
    windows = many_windows()
    n_windows_of_clip = len(windows_of(new_clip(np.random.default_rng(0))))
    provider = "cuda" if on_gpu else "cpu"
    reference: list[npt.NDArray[Any]] | None = None
    for precision, path in graphs_of(repository).items():
        session = open_session(path, provider)
        found = session.run(OUTPUTS, {"audio": windows[:8]})
        if reference is None:
            reference = open_session(path, "cpu").run(OUTPUTS, {"audio": windows[:8]})
        error = max(float(np.abs(a - b).max()) for a, b in zip(found, reference, strict=True))
        for batch in BATCHES:
            ask = functools.partial(session.run, OUTPUTS, {"audio": windows[:batch]})
            per_s, p50_ms = repeated(ask, seconds)
            yield {
                "model": GENRE_MODEL, "provider": provider, "precision": precision, "batch": batch, "p50_ms": p50_ms,
                "windows_per_s": per_s * batch, "clips_per_s": per_s * batch / n_windows_of_clip,
                "largest_difference_from_cpu": error,
            }  # fmt: skip
    version = newest_version(repository / COMPOSES)
    for name in ("cuda", "cpu") if on_gpu and version else ("cpu",) if version else ():
        session = open_session(version / "model.onnx", name)
        for batch in BATCHES:
            inputs = composing_inputs(batch)
            n_notes = int((session.run(["frames"], inputs)[0] == STRUCK).sum())
            per_s, p50_ms = repeated(functools.partial(session.run, ["frames"], inputs), seconds)
            yield {
                "model": COMPOSES, "provider": name, "precision": "fp32", "batch": batch, "bars": N_BARS,
                "p50_ms": p50_ms, "notes_per_s": per_s * n_notes,
            }  # fmt: skip


def served(repository: Path, seconds: float, *, on_gpu: bool) -> Iterator[Row]:
    """Measure through a server, with the graph that the profile names and with the one in single precision."""
    profile = "gpu" if on_gpu else "cpu"
    models = tuple(name for name in (GENRE_MODEL, COMPOSES, STREAMING) if newest_version(repository / name))
    n_windows_of_clip = len(windows_of(new_clip(np.random.default_rng(0))))
    windows = many_windows()
    with tempfile.TemporaryDirectory(prefix="gpu-speed-") as folder:
        for precision, served_from in repositories(repository, models, Path(folder), profile).items():
            options = ServerOptions(
                repository=served_from, models=models, profile=profile, http_port=0, grpc_port=0, metrics_port=0,
                events="off",
            )  # fmt: skip
            with TritonServer.start(options) as server:
                port = int(server.http_url.rpartition(":")[2])
                for batch in BATCHES if GENRE_MODEL in models else ():
                    request = request_bytes(*infer_call(GENRE_MODEL, {"audio": windows[:batch]}, OUTPUTS))
                    connect = functools.partial(HttpClient, port, [request])
                    closed_loop(connect, n_clients=N_CLIENTS, seconds=min(1.0, seconds))  # warms up
                    found = closed_loop(connect, n_clients=N_CLIENTS, seconds=seconds)
                    yield {
                        "model": GENRE_MODEL, "profile": profile, "precision": precision, "batch": batch,
                        "clients": N_CLIENTS, "p50_ms": found.p50_ms, "p99_ms": found.p99_ms,
                        "failed": found.n_failed, "windows_per_s": found.per_s * batch,
                        "clips_per_s": found.per_s * batch / n_windows_of_clip,
                    }  # fmt: skip
                if precision == "fp32" and {COMPOSES, STREAMING} <= set(models):
                    yield from composed(server.grpc_url, seconds, profile)


def composed(url: str, seconds: float, profile: str) -> Iterator[Row]:
    """Measure the SDK's `compose`."""
    with MusicClient(url) as music:
        seeds = itertools.count()
        music.compose(bars=N_BARS, seed=next(seeds))
        for n_clients in COMPOSING_CLIENTS:
            notes_per_s, pieces_per_s = throughput(music, n_clients, seconds, seeds)
            yield {
                "model": COMPOSES, "profile": profile, "clients": n_clients, "bars": N_BARS,
                "notes_per_s": notes_per_s, "pieces_per_s": pieces_per_s,
            }  # fmt: skip


def graphs_of(repository: Path) -> dict[str, Path]:
    """Return the ONNX files of `genre_cnn` by precision; empty if it was not exported."""
    version = newest_version(repository / GENRE_MODEL)
    if version is None:
        return {}
    return {precision: version / name for precision, name in GRAPHS.items() if (version / name).is_file()}


def repositories(repository: Path, models: tuple[str, ...], folder: Path, profile: str) -> dict[str, Path]:
    """Return a repository for each precision that the profile can serve; the one in single precision is a copy."""
    copy = folder / "fp32"
    for name in models:
        shutil.copytree(repository / name, copy / name, ignore=shutil.ignore_patterns(".*"))
    found = {"fp32": copy}
    config = copy / GENRE_MODEL / ("configs/gpu.pbtxt" if profile == "gpu" else "config.pbtxt")
    if not config.is_file():
        return found
    half, whole = (f'default_model_filename: "{GRAPHS[precision]}"' for precision in ("fp16", "fp32"))
    text = config.read_text()
    if half in text:
        config.write_text(text.replace(half, whole))
        found["fp16"] = repository
    return found


def open_session(path: Path, provider: str) -> Any:
    """Open a model with a provider; exit if ONNX Runtime cannot use it."""
    if provider == "cuda":
        onnxruntime.preload_dlls()  # CUDA and cuDNN of the wheels
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=list(PROVIDERS[provider]))
    if provider == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        sys.exit(f"ONNX Runtime cannot use the GPU for {path}; its log lines say why")
    return session


def many_windows() -> npt.NDArray[np.float32]:
    """Return (64, W): windows of different clips."""
    random = np.random.default_rng(1)
    windows = np.concatenate([windows_of(new_clip(random)) for _ in range(1 + max(BATCHES) // 7)])
    return np.ascontiguousarray(windows[: max(BATCHES)])


def composing_inputs(n: int) -> dict[str, npt.NDArray[Any]]:
    """Return the inputs of the graph of `music_transformer` for n pieces, each with noise of its own."""
    each = [inputs_of(N_FRAMES, seed, flat=True) for seed in range(n)]
    return {name: np.concatenate([one[name] for one in each]) for name in each[0]}


def repeated(ask: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """Return calls per second and their median duration in milliseconds, after two calls to warm up."""
    for _ in range(2):
        ask()
    times: list[float] = []
    began_s = time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        call_s = time.perf_counter()
        ask()
        times.append(time.perf_counter() - call_s)
    return len(times) / (time.perf_counter() - began_s), 1e3 * float(np.median(times))


if __name__ == "__main__":
    main()
