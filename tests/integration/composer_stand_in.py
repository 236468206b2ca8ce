"""A small graph with the inputs, outputs and states of a composer, whose answers a few lines of NumPy repeat.

Whole numbers decide the notes, so that the same piece has the same notes on every host, in every company.

Shapes: B pieces, N frames, L lookahead frames.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tritone_export.config import limits_text
from tritone_training.kinds.music_transformer.declaration import COMPOSER

Array = np.ndarray[Any, Any]

MODEL = "composer"
N_LOOKAHEAD = 2
N_STYLES = 10  # a style beyond makes the graph fail; the higher the style, the longer a frame takes
MOST_FRAMES = 4096

# Each frame has one note: a running sum of what noise, repeats and (looked ahead) given frames bring, moved by the
# other conditions, modulo 88.
GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
composer (
  uint8[batch, ahead, 88] given, uint8[batch, ahead] given_mode, int64[batch, 2] meter, int64[batch] style,
  int64[batch] key, int64[batch] density, int64[batch] n_voices, int64[batch] end, int64[batch, frame] repeats,
  float[batch, frame, 8] noise, float[batch] temperature, int64[batch] top_k, float[batch] top_p,
  int64[batch] state_frame, int64[batch, 2] state_sums
) => (
  uint8[batch, frame, 88] frames, float[batch, frame] nll,
  int64[batch] next_state_frame, int64[batch, 2] next_state_sums
) {
  zero = Constant <value = int64[1] {0}> ()
  one = Constant <value = int64[1] {1}> ()
  two = Constant <value = int64[1] {2}> ()
  n_frames_0 = Shape <start = 1, end = 2> (noise)
  n_all = Shape <start = 1, end = 2> (given)

  per_thousand = Constant <value = float {1000.0}> ()
  first_noise_3 = Slice (noise, zero, one, two)
  first_noise = Squeeze (first_noise_3, two)
  scaled = Mul (first_noise, per_thousand)
  brought = Cast <to = 7> (scaled)

  later_3 = Slice (given, two, n_all, one)
  later_i = Cast <to = 7> (later_3)
  later = ReduceSum <keepdims = 0> (later_i, two)
  step_here = Add (brought, later)
  step = Add (step_here, repeats)
  axis = Constant <value = int64 {1}> ()
  sums_here = CumSum (step, axis)
  sum_before = Slice (state_sums, zero, one, one)
  sums_alone = Add (sums_here, sum_before)
  key_and_density = Add (key, density)
  voices_and_end = Add (n_voices, end)
  asked = Add (key_and_density, voices_and_end)
  asked_2 = Unsqueeze (asked, one)
  sums = Add (sums_alone, asked_2)

  n_pitches = Constant <value = int64 {88}> ()
  pitch = Mod (sums, n_pitches)
  pitch_3 = Unsqueeze (pitch, two)
  zero_scalar = Constant <value = int64 {0}> ()
  one_scalar = Constant <value = int64 {1}> ()
  pitches = Range (zero_scalar, n_pitches, one_scalar)
  is_struck = Equal (pitch_3, pitches)
  silent = Constant <value = uint8 {0}> ()
  struck = Constant <value = uint8 {2}> ()
  written = Where (is_struck, struck, silent)
  given_here = Slice (given, zero, n_frames_0, one)
  mode_here = Slice (given_mode, zero, n_frames_0, one)
  mode_3 = Unsqueeze (mode_here, two)
  mode_given = Constant <value = uint8 {1}> ()
  is_given = Equal (mode_3, mode_given)
  frames = Where (is_given, given_here, written)

  costs = Constant <value_ints = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]> ()
  cost = Gather (costs, style)
  most = ReduceMax <keepdims = 0> (cost)
  n_frames = Squeeze (n_frames_0)
  n_rounds = Mul (most, n_frames)
  yes = Constant <value = bool {1}> ()
  side = Constant <value = int64[2] {256, 256}> ()
  start = ConstantOfShape <value = float[1] {0.001}> (side)
  burnt = Loop (n_rounds, yes, start) <body = burn (int64 i, bool go, float[256, 256] x)
    => (bool still, float[256, 256] y) { still = Identity (go)  xx = MatMul (x, x)  y = Tanh (xx) }>
  corner = ReduceMax <keepdims = 0> (burnt)
  nothing_f = Constant <value = float {0.0}> ()
  nothing = Mul (corner, nothing_f)

  counted = Range (zero_scalar, n_frames, one_scalar)
  counted_2 = Unsqueeze (counted, zero)
  before_2 = Unsqueeze (state_frame, one)
  at = Add (counted_2, before_2)
  at_f = Cast <to = 1> (at)
  kind = Constant <value = int64 {97}> ()
  rest = Mod (sums, kind)
  rest_f = Cast <to = 1> (rest)
  thousandth = Constant <value = float {0.0009765625}> ()
  rest_small = Mul (rest_f, thousandth)
  nll_0 = Add (at_f, rest_small)
  nll = Add (nll_0, nothing)

  next_state_frame = Add (state_frame, n_frames_0)
  total_here = ReduceSum <keepdims = 1> (step, one)
  change = Concat <axis = 1> (total_here, total_here)
  next_state_sums = Add (state_sums, change)
}
"""

CONFIG = """
name: "{name}"
backend: "composer"
default_model_filename: "model.onnx"
max_batch_size: 1
model_transaction_policy {{ decoupled: true }}
input [
  {{ name: "given" data_type: TYPE_UINT8 dims: [ -1, 88 ] }},
  {{ name: "given_mode" data_type: TYPE_UINT8 dims: [ -1 ] }},
  {{ name: "meter" data_type: TYPE_INT64 dims: [ 2 ] }},
  {{ name: "style" data_type: TYPE_INT64 dims: [ 1 ] reshape {{ }} }},
  {{ name: "key" data_type: TYPE_INT64 dims: [ 1 ] reshape {{ }} }},
  {{ name: "density" data_type: TYPE_INT64 dims: [ 1 ] reshape {{ }} }},
  {{ name: "n_voices" data_type: TYPE_INT64 dims: [ 1 ] reshape {{ }} }},
  {{ name: "end" data_type: TYPE_INT64 dims: [ 1 ] reshape {{ }} }},
  {{ name: "repeats" data_type: TYPE_INT64 dims: [ -1 ] }},
  {{ name: "noise" data_type: TYPE_FP32 dims: [ -1, 8 ] }},
  {{ name: "temperature" data_type: TYPE_FP32 dims: [ 1 ] reshape {{ }} }},
  {{ name: "top_k" data_type: TYPE_INT64 dims: [ 1 ] reshape {{ }} }},
  {{ name: "top_p" data_type: TYPE_FP32 dims: [ 1 ] reshape {{ }} }}
]
output [
  {{ name: "frames" data_type: TYPE_UINT8 dims: [ -1, 88 ] }},
  {{ name: "nll" data_type: TYPE_FP32 dims: [ -1 ] }},
  {{ name: "first_frame" data_type: TYPE_INT64 dims: [ 1 ] reshape {{ }} }}
]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
{parameters}
"""
PARAMETERS = {
    "lookahead_frames": N_LOOKAHEAD,
    "max_frames": MOST_FRAMES,
    "intra_op_thread_count": 1,
    "limits": limits_text(COMPOSER.inputs),
}


def make_graph() -> Any:
    """The graph, as an `onnx.ModelProto`."""
    import onnx

    model = onnx.parser.parse_model(GRAPH)
    onnx.checker.check_model(model)
    return model


def make_repository(path: Path, *, name: str = MODEL, **parameters: int | str) -> Path:
    """Write a repository with the composer, as an export does."""
    import onnx

    version = path / name / "1"
    version.mkdir(parents=True)
    onnx.save(make_graph(), str(version / "model.onnx"))
    lines = [
        f'parameters {{ key: "{key}" value: {{ string_value: {json.dumps(str(value))} }} }}'
        for key, value in {**PARAMETERS, **parameters}.items()
    ]
    (path / name / "config.pbtxt").write_text(CONFIG.format(name=name, parameters="\n".join(lines)))
    return path


def piece(n_frames: int, *, seed: int = 0, cost: int = 0, meter: tuple[int, int] = (0, 0)) -> dict[str, Array]:
    """Inputs of one request, with some frames given; `cost` 0 to 9 says how long a frame takes."""
    rng = np.random.default_rng(seed)
    return {
        "given": rng.integers(0, 3, (1, n_frames, 88)).astype(np.uint8),
        "given_mode": rng.integers(0, 3, (1, n_frames)).astype(np.uint8),
        "meter": np.array([meter], np.int64),
        "style": np.array([[cost]], np.int64),
        "key": rng.integers(0, 25, (1, 1)),
        "density": rng.integers(0, 4, (1, 1)),
        "n_voices": rng.integers(0, 7, (1, 1)),
        "end": np.array([[n_frames]], np.int64),
        "repeats": rng.integers(-1, 65, (1, n_frames)),
        "noise": rng.random((1, n_frames, 8), np.float32),
        "temperature": np.array([[1.0]], np.float32),
        "top_k": np.array([[8]], np.int64),
        "top_p": np.array([[1.0]], np.float32),
    }


def expected(inputs: dict[str, Array]) -> tuple[Array, Array]:
    """What the whole piece has to be: frames (N, 88), nll (N,)."""
    given, mode, noise = inputs["given"][0], inputs["given_mode"][0], inputs["noise"][0]
    n_frames = len(noise)
    ahead = np.pad(given, [(0, N_LOOKAHEAD), (0, 0)])[N_LOOKAHEAD:].astype(np.int64)
    brought = (noise[:, 0] * np.float32(1000)).astype(np.int64)
    asked = sum(int(inputs[name][0, 0]) for name in ("key", "density", "n_voices", "end"))
    sums = np.cumsum(brought + ahead.sum(1) + inputs["repeats"][0]) + asked
    frames = np.zeros((n_frames, 88), np.uint8)
    frames[np.arange(n_frames), sums % 88] = 2
    frames[mode == 1] = given[mode == 1]
    nll = np.arange(n_frames, dtype=np.float32) + (sums % 97).astype(np.float32) / 1024
    return frames, nll
