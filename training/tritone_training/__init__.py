"""Tritone."""
