"""Refit of a recommender: the log and the recorded events become a new checkpoint, by stages that can be resumed."""
