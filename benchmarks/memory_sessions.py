"""Measure the memory that the two ONNX Runtime sessions of a CPU instance keep after runs of many batch sizes.

    python -m benchmarks.memory_sessions [--repository DIR] [--models NAME ...] [--runs N] [--json]

An instance of the `onnxruntime` backend has a session for all cores and one for its share of them. For each model, a
process of its own opens both, and runs them in turns with batches of 1 to 8 examples, drawn with a fixed seed: once
with an arena for each session (ONNX Runtime's default), once with a common one (as the backend does). An arena keeps
the memory of the largest run of each batch size; most of the growth of a server under load is memory of arenas. Memory
is the proportional set size in MiB; the duration of a batch of 8 is a median.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.arguments import count
from tritone_serving.repository import newest_version
from tritone_serving.server.runtime_folder import BACKENDS_FOLDER
from tritone_serving.supervision.processes import memory_mb
from tritone_training.kind import ModelKind
from tritone_training.registry import get_kind, kind_names

LARGEST_BATCH = 8
N_TIMED = 15
N_WARM_UP = 3


@dataclass(frozen=True)
class Memory:
    """Memory of one process with two sessions of a model.

    Attributes:
        grown_mb: what the runs added, in MiB.
        batch_ms: duration of a batch of 8 afterwards, on one thread.
    """

    model: str
    common_arena: bool
    grown_mb: float
    batch_ms: float


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--runs", type=count, default=120)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", choices=("own", "common"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    files = onnx_files(parser, arguments)
    models = list(files)
    if arguments.worker:
        measured = measure(models[0], files[models[0]], arguments.runs, common_arena=arguments.worker == "common")
        sys.stdout.write(json.dumps(asdict(measured)))
        return
    rows = [in_a_process(arguments, model, how) for model in models for how in ("own", "common")]
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows]) + "\n")
        return
    print(f"two sessions, {arguments.runs} batches of 1 to {LARGEST_BATCH}")
    for row in rows:
        arena = "a common arena" if row.common_arena else "an arena each"
        print(f"{row.model:20}{arena:16}{row.grown_mb:8.1f} MiB more   batch of {LARGEST_BATCH}: {row.batch_ms:.2f} ms")


def measurable() -> tuple[str, ...]:
    """Return the models whose example inputs their kinds draw."""
    return tuple(declaration.name for name in kind_names() for declaration in get_kind(name).declarations[:1])


def kind_of(model: str) -> ModelKind:
    """Return the kind of one of the `measurable` models."""
    return next(kind for kind in map(get_kind, kind_names()) if kind.declarations[0].name == model)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add `--repository` and `--models` to a parser."""
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--models", nargs="+", choices=measurable(), default=None, help="default: all that it has")


def onnx_files(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> dict[str, Path]:
    """Return the ONNX files that the options name, by model; a missing one ends the program with the parser's error."""
    wanted = arguments.models or measurable()
    found = {model: file for model in wanted if (file := onnx_file(arguments.repository / model)) is not None}
    if not found or (arguments.models and len(found) < len(wanted)):
        parser.error(f"argument --repository: expected ONNX files of {', '.join(wanted)}; export them")
    return found


def onnx_file(folder: Path) -> Path | None:
    """Return the ONNX file of a model's newest version, if it has one."""
    version = newest_version(folder)
    if version is None or not (version / "model.onnx").is_file():
        return None
    return version / "model.onnx"


def in_a_process(arguments: argparse.Namespace, model: str, how: str) -> Memory:
    """Measure in a new process, whose memory holds nothing else."""
    command = [
        *(sys.executable, "-m", "benchmarks.memory_sessions", "--worker", how, "--models", model),
        *("--repository", str(arguments.repository), "--runs", str(arguments.runs)),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"{model}: the measurement failed:\n{run.stderr[-2000:]}")
    return Memory(**json.loads(run.stdout))


def measure(model: str, file: Path, n_runs: int, *, common_arena: bool) -> Memory:
    """Open two sessions in this process and run them in turns."""
    sys.path.append(str(BACKENDS_FOLDER / "onnxruntime"))
    from tritone_ort_session import open_session

    kind = kind_of(model)
    batches = {n: kind.example_inputs(n, n) for n in range(1, LARGEST_BATCH + 1)}
    sessions = [
        open_session(str(file), {}, instance_kind="CPU", device_id=0, n_threads=n_threads, shares_arena=common_arena)
        for n_threads in (len(os.sched_getaffinity(0)), 1)
    ]
    opened_mb = memory_mb([os.getpid()])
    random = np.random.default_rng(0)
    for _ in range(n_runs):
        sessions[random.integers(2)].run(None, batches[int(random.integers(1, LARGEST_BATCH + 1))])
    grown_mb = memory_mb([os.getpid()]) - opened_mb
    times = []
    for _ in range(N_WARM_UP + N_TIMED):
        began = time.perf_counter()
        sessions[1].run(None, batches[LARGEST_BATCH])
        times.append(time.perf_counter() - began)
    return Memory(model, common_arena, grown_mb, 1e3 * statistics.median(times[N_WARM_UP:]))


if __name__ == "__main__":
    main()
