"""Measure the memory of each further instance of a model, with its weights inside the graph and in a file beside it.

    python -m benchmarks.memory_weights [--repository DIR] [--models NAME ...] [--instances N] [--json]

Each instance is a process with the two ONNX Runtime sessions of the `onnxruntime` backend; each session runs one batch
of example inputs. Memory is the proportional set size in MiB: what several processes share counts for each in part.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from benchmarks.arguments import count
from benchmarks.memory_sessions import add_model_options, kind_of, onnx_files
from tritone_export.weights import WEIGHTS_SUFFIX, split_weights
from tritone_serving.server.runtime_folder import BACKENDS_FOLDER
from tritone_serving.supervision.processes import memory_mb

N_ROWS = 4

# Not a function of this module, whose imports would count: torch alone takes 200 MiB.
INSTANCE = """
import sys
import numpy as np
sys.path.append(sys.argv[1])
from tritone_ort_session import open_session
sessions = [
    open_session(sys.argv[2], {}, instance_kind="CPU", device_id=0, n_threads=n_threads, shares_arena=True)
    for n_threads in (int(sys.argv[4]), 1)
]
for session in sessions:
    session.run(None, dict(np.load(sys.argv[3])))
print("ready", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Memory:
    """Memory of the instances of a model.

    Attributes:
        weights: where the weights are.
        weights_mb: size of the graph and its weights.
        first_mb: memory of one instance alone.
        further_mb: what each further instance adds.
    """

    model: str
    weights: Literal["inside", "beside"]
    weights_mb: float
    first_mb: float
    further_mb: float


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--instances", type=count, default=4, help="at least 2")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.instances < 2:
        parser.error("argument --instances: expected at least 2, got 1")
    files = onnx_files(parser, arguments)
    rows = [row for model, file in files.items() for row in measure(model, file, arguments.instances)]
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows]) + "\n")
        return
    print(f"{'':20}{'weights':10}{'file':>10}{'one instance':>16}{'each further one':>20}")
    for row in rows:
        print(
            f"{row.model:20}{row.weights:10}{row.weights_mb:6.1f} MiB{row.first_mb:12.1f} MiB{row.further_mb:16.1f} MiB"
        )


def measure(model: str, file: Path, n_instances: int) -> Iterator[Memory]:
    """Yield the memory of a model's instances with its weights inside the graph, then beside it."""
    content: bytes = onnx.load(str(file)).SerializeToString()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        np.savez(folder / "inputs.npz", **kind_of(model).example_inputs(N_ROWS, 0))
        (folder / "inside.onnx").write_bytes(content)
        for name, each in split_weights(content, "beside.onnx").items():
            (folder / name).write_bytes(each)
        for weights in ("inside", "beside"):
            path = folder / f"{weights}.onnx"
            with ExitStack() as stack:
                pids = [stack.enter_context(instance(path, folder / "inputs.npz"))]
                first_mb = memory_mb(pids)
                pids += [stack.enter_context(instance(path, folder / "inputs.npz")) for _ in range(n_instances - 1)]
                further_mb = (memory_mb(pids) - first_mb) / (n_instances - 1)
            n_bytes = sum(each.stat().st_size for each in (path, Path(f"{path}{WEIGHTS_SUFFIX}")) if each.exists())
            yield Memory(model, weights, n_bytes / 2**20, first_mb, further_mb)


@contextmanager
def instance(path: Path, inputs: Path) -> Iterator[int]:
    """Start an instance, which ends with the block; yield its process id."""
    n_threads = len(os.sched_getaffinity(0))
    command = [sys.executable, "-c", INSTANCE, str(BACKENDS_FOLDER / "onnxruntime"), str(path), str(inputs)]
    with subprocess.Popen(
        [*command, str(n_threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            sys.exit(f"{path.name}: an instance failed:\n{process.communicate()[1][-2000:]}")
        yield process.pid
        process.communicate()  # closes its input


if __name__ == "__main__":
    main()
