"""Metrics that several kinds share."""
