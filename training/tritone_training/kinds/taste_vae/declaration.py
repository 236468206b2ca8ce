"""What `taste_vae` takes and answers."""

from __future__ import annotations

from typing import Final

from tritone_training.declaration import Axis, Batching, Declaration, Instances, QueuePolicy, Serving, Tensor

ITEMS: Final = Tensor(
    "items", "INT64", (Axis("history"),), "places of the items of a history, in any order; padded with 0 of weight 0"
)
WEIGHTS: Final = Tensor("weights", "FP32", (Axis("history"),), "how much each was listened to, 0 for padding")
SCORES: Final = Tensor(
    "scores",
    "FP32",
    (Axis("item"),),
    "log-probability of each item that the network knows, but for a constant in each row",
    tolerance=1e-3,
)

DECLARATION: Final = Declaration(
    name="taste_vae",
    summary="Which items a listener will like, from a history that comes with the request (variational autoencoder).",
    inputs=(ITEMS, WEIGHTS),
    outputs=(SCORES,),
    serving=Serving(
        batching=Batching(max_batch_size=64, preferred_batch_sizes=(8, 16, 32), max_queue_delay_microseconds=0),
        queue=QueuePolicy(default_timeout_microseconds=5_000_000, max_queue_size=512),
        # Two copies: see polyphony_rnn.
        instances=Instances(n_cpu=2, n_gpu=2, n_intra_op_threads=1),
        response_cache=False,
    ),
)
