"""Training of one model in several processes that torchrun started, on one host or several.

Every process reads the data and runs the same code; what differs is its share of each batch. The first process (rank 0)
writes the checkpoint, the logs and the output; the others write to a temporary folder that is removed.
"""

from tritone_training.processes.group import ProcessGroup, current, is_first_process, is_launched, joined
from tritone_training.processes.reductions import average_gradients, global_mean, n_processes, rank, share_weight
from tritone_training.processes.shares import SharedBatches, share_loader

__all__ = [
    "ProcessGroup",
    "SharedBatches",
    "average_gradients",
    "current",
    "global_mean",
    "is_first_process",
    "is_launched",
    "joined",
    "n_processes",
    "rank",
    "share_loader",
    "share_weight",
]
