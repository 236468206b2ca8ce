"""What every kind that writes music shares: choosing notes inside the graph, and loops that export as one node."""

from tritone_training.generation.loop import unrolled_or_scan
from tritone_training.generation.sampling import choose, choose_each

__all__ = ["choose", "choose_each", "unrolled_or_scan"]
