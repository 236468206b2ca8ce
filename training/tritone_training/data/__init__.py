"""Recordings with their labels: read, checked, reported, split."""
