"""What the served `recommender` takes and answers."""

from __future__ import annotations

from typing import Final

from tritone_training.declaration import Axis, Batching, Declaration, Instances, QueuePolicy, Serving, Tensor

DECLARATION: Final = Declaration(
    name="recommender",
    summary="What to listen to next, for everyone: an ensemble of collaborative filters.",
    inputs=(Tensor("history", "BYTES", (Axis("history"),), "item ids"),),
    outputs=(
        Tensor("item_ids", "BYTES", (Axis("k"),), "best first"),
        Tensor("scores", "FP32", (Axis("k"),), "never rising"),
    ),
    serving=Serving(
        batching=Batching(max_batch_size=64, preferred_batch_sizes=(8, 16, 32), max_queue_delay_microseconds=0),
        queue=QueuePolicy(default_timeout_microseconds=5_000_000, max_queue_size=1_024),
        instances=Instances(n_cpu=2, n_gpu=0, n_intra_op_threads=1),
        response_cache=False,
    ),
    backend="cf_ensemble",
)
