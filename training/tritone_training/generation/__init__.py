"""What every kind that writes music shares: choosing notes inside the graph, and loops that export as one node."""

from tritone_training.generation.loop import unrolled_or_loop, unrolled_or_scan
from tritone_training.generation.sampling import NEVER, Choice, choose, choose_each, open_above

__all__ = ["NEVER", "Choice", "choose", "choose_each", "open_above", "unrolled_or_loop", "unrolled_or_scan"]
