"""Measure the overhead of serving for composition: `compose(bars=8)` through SDK and Triton, and in process.

    make bench    or   python -m benchmarks.latency_compose [--repository DIR] [--report DIR] [--json]

Needs a repository with a version of `music_transformer` and `composer`, as exported by `tritone export
music_transformer`. Each round calls each way once, for a new piece; the graph runs in process, with the server's
settings, before and after, and the others are compared with the mean of both. Then: a client that requests one step at
a time, and 1 to 8 concurrent clients of `compose` and of `stream_compose`. Without bounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import tritonclient.grpc as triton

from tritone import MusicClient
from tritone.music.grid import N_PITCHES, STRUCK
from tritone_serving import ServerOptions, TritonServer

MODEL = "music_transformer"
STREAMING = "composer"
N_BARS = 8
N_FRAMES = 16 * N_BARS
N_WARM_UP = 3
CLIENTS = (1, 2, 4, 8)
N_TURNS = 5
WARM_UP_S = 0.5
IN_PROCESS = "in-process ONNX Runtime"
Inputs = dict[str, npt.NDArray[Any]]


def main() -> None:
    """Measure and print a table, or JSON; write a report if --report is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds for each number of clients (10)")
    parser.add_argument("--report", type=Path, help="folder for compose_latency.md and .png")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.repository, arguments.rounds, arguments.seconds)
    if arguments.report:
        write_report(arguments.report, result)
    sys.stdout.write(json.dumps(result) + "\n" if arguments.json else table(result))


def measure(repository: Path, n_rounds: int, seconds: float) -> dict[str, Any]:
    """Serve the repository and measure all ways to compose."""
    session = open_like_the_server(newest(repository, MODEL))
    newest(repository, STREAMING)
    with (
        TritonServer.start(ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)) as server,
        MusicClient(server.grpc_url) as grpc,
        MusicClient(server.http_url) as http,
    ):
        return {
            "model": MODEL,
            "n_bars": N_BARS,
            "n_rounds": n_rounds,
            "reference": IN_PROCESS,
            **latencies(session, grpc, http, n_rounds),
            "step_at_a_time": step_at_a_time(server.grpc_url, grpc),
            "clients": throughputs(grpc, seconds / N_TURNS, compose),
            "stream_clients": throughputs(grpc, seconds / N_TURNS, stream_compose),
        }


def newest(repository: Path, model: str) -> Path:
    """Return the ONNX file of a model's newest version; exit if there is none."""
    versions = sorted((repository / model).glob("[0-9]*"), key=lambda path: int(path.name))
    if not versions:
        sys.exit(
            f"{repository / model}: expected a version, got none; run `tritone train {MODEL}` and "
            f"`tritone export {MODEL} --repository {repository}`"
        )
    return versions[-1] / "model.onnx"


def open_like_the_server(path: Path) -> Any:
    """Return a session with the number of threads of a served instance."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def latencies(session: Any, grpc: MusicClient, http: MusicClient, n_rounds: int) -> dict[str, Any]:
    """Measure the latency of eight bars, all ways in interleaved trials."""
    seeds = iter(range(10_000_000))
    first_s: list[float] = []

    def in_process() -> None:
        session.run(["frames", "nll"], inputs_of(N_FRAMES, next(seeds), flat=True))

    def streamed() -> None:
        began = time.perf_counter()
        with grpc.stream_compose(bars=N_BARS, seed=next(seeds)) as stream:
            for n, _chunk in enumerate(stream):
                if n == 0:
                    first_s.append(time.perf_counter() - began)

    before, after = f"{IN_PROCESS}, before", f"{IN_PROCESS}, after"
    ways: dict[str, Callable[[], Any]] = {
        before: in_process,
        "SDK compose over gRPC": lambda: grpc.compose(bars=N_BARS, seed=next(seeds)),
        "SDK compose over HTTP": lambda: http.compose(bars=N_BARS, seed=next(seeds)),
        "SDK stream_compose, to the end": streamed,
        after: in_process,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(N_WARM_UP + n_rounds):
        for name, ask in ways.items():
            began = time.perf_counter()
            ask()
            if index >= N_WARM_UP:
                times[name].append(time.perf_counter() - began)
    times["SDK stream_compose, first notes"] = first_s[N_WARM_UP:]
    reference = [statistics.mean(pair) for pair in zip(times[before], times[after], strict=True)]
    return {
        "ways": {
            name: {
                "p50_ms": 1e3 * statistics.median(values),
                "p95_ms": 1e3 * float(np.quantile(values, 0.95)),
                "ratio": statistics.median(a / b for a, b in zip(values, reference, strict=True)),
                "p50_ratio": statistics.median(values) / statistics.median(reference),
            }
            for name, values in times.items()
        }
    }


def inputs_of(n_frames: int, seed: int, *, flat: bool = False, given: npt.NDArray[np.uint8] | None = None) -> Inputs:
    """Return the inputs of `compose` for a number of frames.

    Args:
        flat: in the shapes of the ONNX graph instead of those of the server.
        given: (n, P) frames to continue.
    """
    scalars: dict[str, Any] = dict.fromkeys(("style", "key", "density", "n_voices", "end"), np.int64(0))
    scalars |= {"temperature": np.float32(1), "top_k": np.int64(177), "top_p": np.float32(1)}
    frames, mode = np.zeros((1, n_frames, N_PITCHES), np.uint8), np.zeros((1, n_frames), np.uint8)
    if given is not None:
        frames[0, : len(given)], mode[0, : len(given)] = given, 1
    return {
        "given": frames,
        "given_mode": mode,
        "meter": np.array([[16, 0]]),
        "repeats": np.zeros((1, n_frames), np.int64),
        "noise": np.random.default_rng(seed).random((1, n_frames, 8), np.float32),
        **{name: np.full((1,) if flat else (1, 1), value) for name, value in scalars.items()},
    }


def step_at_a_time(grpc_url: str, music: MusicClient) -> dict[str, Any]:
    """Compose eight bars with one request per time step.

    Each request contains all steps so far and returns the next one with all its notes. Uses tritonclient over one gRPC
    connection.
    """
    n_bytes = {np.uint8: "UINT8", np.int64: "INT64", np.float32: "FP32"}
    frames = np.zeros((0, N_PITCHES), np.uint8)
    with triton.InferenceServerClient(grpc_url.removeprefix("grpc://")) as client:
        began = time.perf_counter()
        for n in range(N_FRAMES):
            inputs = []
            for name, array in inputs_of(n + 1, 7, given=frames).items():
                inputs.append(triton.InferInput(name, array.shape, n_bytes[array.dtype.type]))
                inputs[-1].set_data_from_numpy(array)
            answer = client.infer(MODEL, inputs, outputs=[triton.InferRequestedOutput("frames")])
            frames = np.vstack([frames, answer.as_numpy("frames")[0, -1:]])
        steps_s = time.perf_counter() - began
    whole_s = []
    for seed in range(5):
        began = time.perf_counter()
        music.compose(bars=N_BARS, seed=20_000_000 + seed)
        whole_s.append(time.perf_counter() - began)
    whole_median_s = statistics.median(whole_s)
    return {"n_requests": N_FRAMES, "s": steps_s, "whole_s": whole_median_s, "ratio": steps_s / whole_median_s}


def compose(music: MusicClient, seed: int) -> int:
    """Compose a piece and return its number of notes (onsets)."""
    return n_onsets(music.compose(bars=N_BARS, seed=seed).grid.frames)


def stream_compose(music: MusicClient, seed: int) -> int:
    """As `compose`, with `stream_compose`, which generates no further candidates."""
    with music.stream_compose(bars=N_BARS, seed=seed) as stream:
        return sum(n_onsets(chunk.frames) for chunk in stream)


def n_onsets(frames: npt.NDArray[np.uint8]) -> int:
    """Return the number of notes that begin in frames (n, P)."""
    return int((frames == STRUCK).sum())


def throughputs(music: MusicClient, seconds: float, ask: Callable[[MusicClient, int], int]) -> list[dict[str, Any]]:
    """Measure the throughput of several numbers of clients in interleaved trials; ratios are to one client.

    Args:
        seconds: of each trial.
        ask: composes a piece with a seed, and returns its number of notes.
    """
    seeds = itertools.count(30_000_000)
    turns = [[throughput(music, n_clients, seconds, seeds, ask) for n_clients in CLIENTS] for _ in range(N_TURNS)]
    return [
        {
            "n_clients": n_clients,
            "notes_per_s": statistics.median(turn[n][0] for turn in turns),
            "pieces_per_s": statistics.median(turn[n][1] for turn in turns),
            "ratio": statistics.median(turn[n][0] / turn[0][0] for turn in turns),
            "ratios": sorted(turn[n][0] / turn[0][0] for turn in turns),
        }
        for n, n_clients in enumerate(CLIENTS)
    ]


def throughput(
    music: MusicClient,
    n_clients: int,
    seconds: float,
    seeds: Iterator[int],
    ask: Callable[[MusicClient, int], int] = compose,
) -> tuple[float, float]:
    """Return notes (onsets) and pieces per second of clients that compose one piece after another.

    A piece counts by its share within a window, from `WARM_UP_S` on, in which all clients are busy from begin to end.
    """
    begin = time.perf_counter() + WARM_UP_S
    end = begin + seconds

    def ask_again() -> list[tuple[float, int]]:
        shares = []
        while (asked := time.perf_counter()) < end:
            n_notes = ask(music, next(seeds))
            answered = time.perf_counter()
            shares.append((max(0.0, min(answered, end) - max(asked, begin)) / (answered - asked), n_notes))
        return shares

    with ThreadPoolExecutor(n_clients) as pool:
        clients = [pool.submit(ask_again) for _ in range(n_clients)]
    counted = [each for client in clients for each in client.result()]
    return sum(share * n_notes for share, n_notes in counted) / seconds, sum(share for share, _ in counted) / seconds


def concurrent_rows(result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the results of concurrent clients, each with the name of what they call."""
    ways = {"compose": result["clients"], "stream_compose": result["stream_clients"]}
    return [(name, row) for name, rows in ways.items() for row in rows]


def table(result: dict[str, Any]) -> str:
    """Return the results as text."""
    steps = result["step_at_a_time"]
    lines = [
        f"{result['model']}, {result['n_bars']} bars = {N_FRAMES} steps, {result['n_rounds']} interleaved rounds",
        f"{'':38}{'p50 ms':>9}{'p95 ms':>9}{'ratio':>8}",
        *(
            f"{name:38}{row['p50_ms']:9.1f}{row['p95_ms']:9.1f}{row['ratio']:8.2f}"
            for name, row in result["ways"].items()
        ),
        f"ratio: median over the rounds, to «{result['reference']}» before and after in the same round",
        f"one step at a time: {steps['n_requests']} requests, {steps['s']:.2f} s, {steps['ratio']:.1f} times `compose`",
        *(
            f"{name}, {row['n_clients']} clients: {row['notes_per_s']:8.0f} notes/s, "
            f"{row['pieces_per_s']:6.2f} pieces/s, {row['ratio']:5.2f} times one client's notes "
            f"({row['ratios'][0]:.2f} to {row['ratios'][-1]:.2f})"
            for name, row in concurrent_rows(result)
        ),
    ]
    return "\n".join(lines) + "\n"


def write_report(folder: Path, result: dict[str, Any]) -> None:
    """Write compose_latency.md and compose_latency.png."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    one = result["clients"][0]["notes_per_s"]
    steps = result["step_at_a_time"]
    rows = [
        f"| {name} | {row['p50_ms']:.1f} | {row['p95_ms']:.1f} | {row['ratio']:.2f} |"
        for name, row in result["ways"].items()
    ]
    client_rows = [
        f"| {way} | {n['n_clients']} | {n['notes_per_s']:.0f} | {n['pieces_per_s']:.2f} | {n['ratio']:.2f} |"
        for way, n in concurrent_rows(result)
    ]
    text = [
        f"# {result['n_bars']} bars from `{result['model']}`",
        f"\n{result['n_rounds']} rounds; ratios to the mean of in-process before and after, in the same round.\n",
        "| way | p50 ms | p95 ms | ratio |",
        "|---|---|---|---|",
        *rows,
        f"\nOne step at a time, a client takes {steps['s']:.2f} s: {steps['ratio']:.1f} times `compose`.\n",
        "| way | clients | notes/s | pieces/s | times one |",
        "|---|---|---|---|---|",
        *client_rows,
    ]
    (folder / "compose_latency.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names = list(result["ways"])
    left.barh(names, [result["ways"][name]["p50_ms"] for name in names], color="tab:blue")
    left.plot([result["ways"][name]["p95_ms"] for name in names], names, "k|", label="p95")
    left.invert_yaxis()
    left.set_xlabel("ms, p50")
    left.legend()
    right.plot([row["n_clients"] for row in result["clients"]], [row["notes_per_s"] for row in result["clients"]], "o-")
    right.axhline(3 * one, color="grey", linestyle=":", label="3 times one client")
    right.set(xlabel="concurrent clients", ylabel="notes/s", ylim=(0, None))
    right.legend()
    figure.savefig(folder / "compose_latency.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
