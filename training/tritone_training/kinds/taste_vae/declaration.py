"""Inputs, outputs and serving parameters of `taste_vae`."""

from __future__ import annotations

from typing import Final

from tritone.constants import N_IDS_MAX
from tritone_training.declaration import Axis, Batching, Declaration, Instances, Limits, QueuePolicy, Serving, Tensor

# Each entry needs a vector (1 KB at the default size) while the request runs: 64 histories of 2,048 items take 134 MB.
_HISTORY: Final = Axis("history", max_size=N_IDS_MAX, max_total=131_072)
N_ITEMS: Final = "n_items"  # key in the ONNX file's metadata: number of items that this version knows

ITEMS: Final = Tensor(
    "items",
    "INT64",
    (_HISTORY,),
    "indices of the items of a history, in any order; padded with 0 of weight 0",
    limits=Limits(minimum=0, n_values_key=N_ITEMS),
)
WEIGHTS: Final = Tensor(
    "weights",
    "FP32",
    (_HISTORY,),
    "weight of each item, from its play count; 0 for padding",
    limits=Limits(minimum=0, maximum=1e6),  # `recommender` sends weights with a mean of about 1
)
SCORES: Final = Tensor(
    "scores",
    "FP32",
    (Axis("item"),),
    "log-probability of each item known to the network, up to a constant per row",
    tolerance=1e-3,
)

DECLARATION: Final = Declaration(
    name="taste_vae",
    summary="Predicts which items a user will listen to, from the history in the request (variational autoencoder).",
    inputs=(ITEMS, WEIGHTS),
    outputs=(SCORES,),
    serving=Serving(
        batching=Batching(max_batch_size=64, preferred_batch_sizes=(8, 16, 32), max_queue_delay_microseconds=0),
        queue=QueuePolicy(default_timeout_microseconds=5_000_000, max_queue_size=512),
        # Two instances, as in polyphony_rnn.
        instances=Instances(n_cpu=2, n_gpu=2, n_intra_op_threads=1),
    ),
)
