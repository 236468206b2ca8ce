"""Measure the overhead of serving: `classify` of a 20 s clip through the SDK and Triton, and ONNX Runtime in process.

    make bench    or   python -m benchmarks.latency_classify [--repository DIR] [--rounds N] [--json]

The SDK sends 16-bit samples, which is its default, and floats. Then it is compared with a single client of
perf_analyzer that sends the same windows as 16-bit samples, in interleaved trials.

Each round calls each way once, with a new clip, so that drift of the machine affects all alike. Decoding is measured
separately. Without bounds.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import soundfile

from benchmarks.arguments import count
from tritone import MusicClient
from tritone.audio import iter_windows, to_pcm16
from tritone.constants import GENRE_MODEL, PCM16_MODEL_PARAMETER, SAMPLE_RATE_HZ
from tritone_export.config import read_config
from tritone_serving import ServerOptions, TritonServer, UnstableError
from tritone_serving.perf_analyzer import Load, PerfAnalyzer, Protocol, write_data

CLIP_S = 20.0
N_WARM_UP = 5
PAUSE_S = 0.02  # after a run in process, the threads of ONNX Runtime wait actively for some milliseconds
N_TURNS = 4
N_CALLS = 25  # of the SDK in a trial


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--model", default=GENRE_MODEL)
    parser.add_argument("--rounds", type=count, default=60)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.repository, arguments.model, arguments.rounds)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    print(
        f"{arguments.model}, {CLIP_S:g} s clip = {result['n_windows']} windows, {arguments.rounds} interleaved rounds"
    )
    print(f"{'':34}{'p50 ms':>9}{'p95 ms':>9}{'ratio':>8}")
    for name, row in result["ways"].items():
        print(f"{name:34}{row['p50_ms']:9.1f}{row['p95_ms']:9.1f}{row['ratio']:8.2f}")
    print(f"ratio: median over the rounds, to «{result['reference']}» of the same round")
    for protocol, row in result["perf_analyzer"].items():
        print(
            f"over {protocol}, without the cache: SDK p50 {row['sdk_p50_ms']:.1f} ms, perf_analyzer "
            f"{row['perf_analyzer_p50_ms']:.1f} ms, ratio {row['ratio']:.2f} ({row['n_turns']} trials each)"
        )
    print(f"decoding a 20 s Ogg clip: {result['decode_ms']:.1f} ms (not included above)")
    print(f"server start to ready: {result['ready_s']:.2f} s")


def measure(repository: Path, model: str, n_rounds: int) -> dict[str, Any]:
    """Measure all ways in interleaved trials; ratios are to the first."""
    versions = sorted((repository / model).glob("[0-9]*"), key=lambda path: int(path.name))
    if not versions:
        sys.exit(f"{repository / model}: expected a version, got none; run `make demo` or `tritone export {model}`")
    session = onnxruntime.InferenceSession(versions[-1] / "model.onnx", providers=["CPUExecutionProvider"])
    models = served(repository, model)
    options = ServerOptions(repository=repository, models=models, http_port=0, grpc_port=0, metrics_port=0)
    with (
        TritonServer.start(options) as server,
        MusicClient(server.grpc_url) as grpc,
        MusicClient(server.http_url) as http,
        MusicClient(server.grpc_url, audio_format="float32") as grpc_floats,
        MusicClient(server.http_url, audio_format="float32") as http_floats,
    ):
        outputs = ["probabilities", "emotions", "embedding"]
        ways: dict[str, Callable[[npt.NDArray[np.float32]], Any]] = {
            "in-process ONNX Runtime": lambda clip: session.run(outputs, {"audio": windows_of(clip)}),
            "SDK classify over gRPC": lambda clip: grpc.classify((clip, SAMPLE_RATE_HZ), model=model),
            "SDK classify over HTTP": lambda clip: http.classify((clip, SAMPLE_RATE_HZ), model=model),
            "the same with floats over gRPC": lambda clip: grpc_floats.classify((clip, SAMPLE_RATE_HZ), model=model),
            "the same with floats over HTTP": lambda clip: http_floats.classify((clip, SAMPLE_RATE_HZ), model=model),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        random = np.random.default_rng(0)
        for index in range(N_WARM_UP + n_rounds):
            for name, ask in ways.items():
                clip = new_clip(random)
                time.sleep(PAUSE_S)
                began = time.perf_counter()
                ask(clip)
                if index >= N_WARM_UP:
                    times[name].append(time.perf_counter() - began)
        ready_s = server.ready_s
    reference = next(iter(ways))
    return {
        "model": model,
        "n_windows": len(windows_of(new_clip(random))),
        "n_rounds": n_rounds,
        "reference": reference,
        "ways": {
            name: {
                "p50_ms": 1e3 * statistics.median(values),
                "p95_ms": 1e3 * float(np.quantile(values, 0.95)),
                "ratio": statistics.median(a / b for a, b in zip(values, times[reference], strict=True)),
            }
            for name, values in times.items()
        },
        "perf_analyzer": compared_with_perf_analyzer(repository, models),
        "decode_ms": decode_ms(random),
        "ready_s": ready_s,
    }


def served(repository: Path, model: str) -> tuple[str, str]:
    """Return the names of the classifier and of its model for 16-bit samples; exit if it has none."""
    pcm16 = read_config(repository / model / "config.pbtxt").parameters[PCM16_MODEL_PARAMETER].string_value
    if not pcm16 or not (repository / pcm16).is_dir():
        sys.exit(
            f"{repository / model}: has no model for 16-bit samples; export it again with `tritone export {model}`"
        )
    return model, pcm16


def compared_with_perf_analyzer(repository: Path, models: tuple[str, str]) -> dict[str, Any]:
    """Compare the latency of the SDK with that of perf_analyzer, one client each, with the same number of windows."""
    options = ServerOptions(
        repository=repository, models=models, http_port=0, grpc_port=0, metrics_port=0, response_cache_bytes=0
    )
    random = np.random.default_rng(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, TritonServer.start(options) as server:
        tool, data = PerfAnalyzer.find(Path(folder)), Path(folder) / "windows.json"
        windows = windows_of(new_clip(random))
        samples = to_pcm16(list(windows))
        assert samples is not None, "the clip is beyond full scale"
        write_data(data, [{"audio": window} for window in samples])
        load = Load(concurrency=1, batch=len(windows))
        urls: dict[Protocol, str] = {"grpc": server.grpc_url, "http": server.http_url}
        for protocol, url in urls.items():
            sdk, reference = [], []
            with MusicClient(url) as music:
                for turn in range(N_TURNS + 1):
                    times = []
                    for _ in range(N_CALLS):
                        clip = (new_clip(random), SAMPLE_RATE_HZ)
                        began = time.perf_counter()
                        music.classify(clip, model=models[0])
                        times.append(time.perf_counter() - began)
                    try:
                        reading = tool.measure(
                            models[1], url.removeprefix("http://"), protocol=protocol, data=data, load=load,
                            window_s=1.0, stability=0.3,
                        )  # fmt: skip
                    except UnstableError as error:
                        print(f"left out: {error}", file=sys.stderr)
                        continue
                    if turn:  # the first warms up
                        sdk.append(1e3 * statistics.median(times))
                        reference.append(reading.p50_ms)
            if not reference:
                continue
            found[protocol] = {
                "sdk_p50_ms": statistics.median(sdk),
                "perf_analyzer_p50_ms": statistics.median(reference),
                "ratio": statistics.median(a / b for a, b in zip(sdk, reference, strict=True)),
                "n_turns": len(reference),
            }
    return found


def new_clip(random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return (S,) float32: noise with a tone, different in each call."""
    n_samples = int(CLIP_S * SAMPLE_RATE_HZ)
    tone = np.sin(2 * np.pi * random.uniform(100, 2000) * np.arange(n_samples) / SAMPLE_RATE_HZ)
    return (0.3 * tone + 0.05 * random.standard_normal(n_samples)).astype(np.float32)


def windows_of(clip: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return (N, W): the windows that the SDK sends."""
    return np.stack([window.samples for window in iter_windows((clip, SAMPLE_RATE_HZ))])


def decode_ms(random: np.random.Generator) -> float:
    """Return the median time to decode a 20 s Ogg clip and cut it into windows, in milliseconds."""
    file = io.BytesIO()
    soundfile.write(file, new_clip(random), SAMPLE_RATE_HZ, format="OGG")
    content = file.getvalue()
    times = []
    for _ in range(15):
        began = time.perf_counter()
        for _window in iter_windows(content):
            pass
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


if __name__ == "__main__":
    main()
