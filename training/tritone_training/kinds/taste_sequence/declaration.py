"""Inputs, outputs and serving parameters of `taste_sequence`."""

from __future__ import annotations

from typing import Final

from tritone_training.declaration import Axis, Batching, Declaration, Instances, Limits, QueuePolicy, Serving, Tensor

MAX_HISTORY: Final = 512
# Attention takes 4 x history^2 numbers a row: 32 rows of 512 events take 134 MB.
_HISTORY: Final = Axis("history", max_size=MAX_HISTORY, max_total=16_384)
N_ITEMS: Final = "n_items"  # key in the ONNX file's metadata: number of items that this version knows
PADDING: Final = -1  # of `items`
UNKNOWN_AGE: Final = -1.0
MAX_AGE_S: Final = 1e10  # three centuries

ITEMS: Final = Tensor(
    "items",
    "INT64",
    (_HISTORY,),
    "indices of the items of a history, oldest first; padded with -1 on either side",
    limits=Limits(minimum=0, also=(PADDING,), n_values_key=N_ITEMS),
)
AGES: Final = Tensor(
    "ages",
    "FP32",
    (_HISTORY,),
    "seconds from each event to the request, -1 if unknown; ignored for padding",
    limits=Limits(minimum=0, maximum=MAX_AGE_S, also=(UNKNOWN_AGE,)),
)
SKIPPED: Final = Tensor(
    "skipped",
    "FP32",
    (_HISTORY,),
    "1 if the item was skipped or disliked, 0 if it was listened to; ignored for padding",
    limits=Limits(minimum=0, maximum=1),
)
SCORES: Final = Tensor(
    "scores",
    "FP32",
    (Axis("item"),),
    "log-probability that each item known to the network is the next one, up to a constant per row; for a row of "
    "padding, that of its popularity",
    tolerance=1e-3,
)

DECLARATION: Final = Declaration(
    name="taste_sequence",
    summary="Predicts the next item of a listener from the ordered history in the request (causal attention).",
    inputs=(ITEMS, AGES, SKIPPED),
    outputs=(SCORES,),
    serving=Serving(
        batching=Batching(max_batch_size=64, preferred_batch_sizes=(8, 16, 32), max_queue_delay_microseconds=0),
        queue=QueuePolicy(default_timeout_microseconds=5_000_000, max_queue_size=512),
        # Two instances, as in taste_vae.
        instances=Instances(n_cpu=2, n_gpu=2, n_intra_op_threads=1),
    ),
)
