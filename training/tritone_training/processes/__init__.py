"""Training of one model in several processes that torchrun started, on one host or several.

Every process reads the data and runs the same code; each trains on its shard of every batch. Rank 0 writes the
checkpoint, the logs and the output; the others write to a temporary folder that is removed.
"""

from tritone_training.processes.group import TrainingGroup, current, is_launched, is_rank_zero, join_training_group
from tritone_training.processes.reductions import average_gradients, global_mean, loss_weight, n_processes, rank
from tritone_training.processes.sharding import ShardedBatches, shard_loader

__all__ = [
    "ShardedBatches",
    "TrainingGroup",
    "average_gradients",
    "current",
    "global_mean",
    "is_launched",
    "is_rank_zero",
    "join_training_group",
    "loss_weight",
    "n_processes",
    "rank",
    "shard_loader",
]
