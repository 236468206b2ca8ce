"""Ways to compute the spectrogram of `genre_cnn` inside its graph, and what they mean for the whole network.

    python -m benchmarks.front_end
    python -m benchmarks.front_end --rounds 9 --json

Runs in ONNX Runtime in this process, without a server: the spectrogram alone and the network of the default preset
behind it (random weights; the time does not depend on them), for batches of 1 to 32 windows. All ways take turns in
each round. `direct` is the product with all cosines and sines, `stft` the operator of ONNX, `factored, parts of 8` the
factored transform on eight windows at a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.arguments import amount, count
from tritone.constants import SAMPLE_RATE_HZ, WINDOW_SAMPLES
from tritone_training.kinds.genre_cnn.config import GenreConfig
from tritone_training.kinds.genre_cnn.frontend import SCRATCH, FoldedSpectrum, MelFeatures, MelPower, mel_filters
from tritone_training.kinds.genre_cnn.network import GenreNetwork, build_network

Samples = npt.NDArray[np.float32]
BATCHES = (1, 8, 32)
PART = 8


class DirectPower(nn.Module):
    """Power in mel bands by one convolution with all windowed cosines and sines: (B, W) -> (B, M, T)."""

    def __init__(self) -> None:
        super().__init__()
        n = np.arange(SCRATCH.n_window)
        angle = 2 * np.pi * np.arange(SCRATCH.n_bins)[:, None] * SCRATCH.bin_hz * n / SAMPLE_RATE_HZ
        basis = np.concatenate([np.cos(angle), -np.sin(angle)]) * np.hanning(SCRATCH.n_window + 1)[:-1]
        self.register_buffer("basis", torch.from_numpy(basis[:, None].astype(np.float32)))
        self.register_buffer("filters", torch.from_numpy(mel_filters(SCRATCH)))
        self.basis: Tensor
        self.filters: Tensor

    def forward(self, audio: Tensor) -> Tensor:
        parts = nn.functional.conv1d(audio[:, None], self.basis, stride=SCRATCH.n_hop)
        real, imaginary = parts.chunk(2, dim=1)
        return torch.matmul(self.filters, real * real + imaginary * imaginary)


def folded_power() -> MelPower:
    """Return the spectrogram with halves of frames in place of the factored transform."""
    power = MelPower(SCRATCH)
    filters = mel_filters(SCRATCH).T.copy()
    power.spectrum, power.filters = FoldedSpectrum(SCRATCH), torch.from_numpy(filters)
    return power


def stft_model() -> bytes:
    """Return a graph with ONNX's own operator for the short-time Fourier transform."""
    text = f"""
    <ir_version: 8, opset_import: ["" : 20]>
    spectrogram (float[B, {WINDOW_SAMPLES}] audio) => (float[B, M, T] power) {{
        step = Constant <value_int = {SCRATCH.n_hop}> ()
        parts = STFT (audio, step, hann)
        squares = Mul (parts, parts)
        last = Constant <value_ints = [-1]> ()
        power_of = ReduceSum <keepdims = 0> (squares, last)
        start = Constant <value_ints = [0]> ()
        stop = Constant <value_ints = [{SCRATCH.n_bins}]> ()
        axis = Constant <value_ints = [2]> ()
        bins = Slice (power_of, start, stop, axis)
        mel = MatMul (bins, filters)
        power = Transpose <perm = [0, 2, 1]> (mel)
    }}
    """
    model = onnx.parser.parse_model(text)
    hann = np.hanning(SCRATCH.n_window + 1)[:-1].astype(np.float32)
    for name, value in {"hann": hann, "filters": mel_filters(SCRATCH).T.copy()}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    serialized: bytes = model.SerializeToString()
    return serialized


def whole_network(power: nn.Module) -> GenreNetwork:
    """Return the network of the default preset with this spectrogram."""
    torch.manual_seed(0)
    frontend = MelFeatures()
    network = build_network(GenreConfig(), frontend, n_labels=8, with_emotions=True).eval()
    frontend.power = power  # type: ignore[assignment]
    return network


def exported(module: nn.Module) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about itself
        program = torch.onnx.export(
            module.eval(),
            (torch.zeros(2, WINDOW_SAMPLES),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=20,
            verbose=False,
        )
    assert program is not None
    program.optimize()
    serialized: bytes = program.model_proto.SerializeToString()
    return serialized


def opened(model: bytes, n_threads: int) -> Callable[[Samples], Samples]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda audio: session.run(None, {name: audio})[0]  # type: ignore[no-any-return]


def in_parts(run: Callable[[Samples], Samples]) -> Callable[[Samples], Samples]:
    return lambda audio: np.concatenate([run(audio[row : row + PART]) for row in range(0, len(audio), PART)])


def windows_per_second(run: Callable[[Samples], Any], audio: Samples, seconds: float) -> float:
    n, began_s = 0, time.perf_counter()
    while (took_s := time.perf_counter() - began_s) < seconds:
        run(audio)
        n += len(audio)
    return n / took_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--seconds", type=amount, default=0.4, help="of each measurement")
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    models = {
        "spectrogram": {
            "direct": exported(DirectPower()),
            "stft": stft_model(),
            "folded": exported(folded_power()),
            "factored": exported(MelPower(SCRATCH)),
        },
        "network": {
            "direct": exported(whole_network(DirectPower())),
            "factored": exported(whole_network(MelPower(SCRATCH))),
        },
    }
    noise = (np.random.default_rng(0).standard_normal((max(BATCHES), WINDOW_SAMPLES)) * 0.1).astype(np.float32)
    rows = []
    for part, each in models.items():
        runs = {way: opened(model, arguments.threads) for way, model in each.items()}
        expected = runs["direct"](noise[:2])
        differs = {way: float(np.abs(run(noise[:2]) / expected - 1).max()) for way, run in runs.items()}
        runs[f"factored, parts of {PART}"] = in_parts(runs["factored"])
        for batch in BATCHES:
            found: dict[str, list[float]] = {way: [] for way in runs}
            for _ in range(arguments.rounds):
                for way, run in runs.items():
                    found[way].append(windows_per_second(run, noise[:batch], arguments.seconds))
            for way, values in found.items():
                ratios = [value / direct for value, direct in zip(values, found["direct"], strict=True)]
                rows.append(
                    {
                        "part": part,
                        "way": way,
                        "batch": batch,
                        "windows_per_s": round(statistics.median(values), 1),
                        "relative_to_direct": round(statistics.median(ratios), 2),
                        "from": round(min(ratios), 2),
                        "to": round(max(ratios), 2),
                        "largest_relative_difference": differs.get(way),
                    }
                )
                if not arguments.json:
                    print("  ".join(f"{value!s:>12}" for value in rows[-1].values()), flush=True)
    if arguments.json:
        json.dump({"threads": arguments.threads, "rounds": arguments.rounds, "rows": rows}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
