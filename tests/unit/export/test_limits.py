"""Limits of a declaration as the parameter `limits`."""

from __future__ import annotations

import json

from tritone_export.config import limits_text
from tritone_training.declaration import Axis, Limits, Tensor


def test_every_entry_is_written_under_its_name() -> None:
    axis = Axis("frame", min_size=2, max_size=8, max_total=16)
    told = json.loads(
        limits_text(
            (
                Tensor("noise", "FP32", (axis, Axis("pitch", 88)), "", limits=Limits(0, 1, exclusive_maximum=True)),
                Tensor("share", "FP32", (), "", limits=Limits(0, 1, exclusive_minimum=True, also=(-1,))),
                Tensor("raw", "FP32", (), "", limits=Limits(finite=False)),
                Tensor("style", "INT64", (), "", limits=Limits(0, n_values_key="n_styles")),
                Tensor("meter", "INT64", (Axis("part", 2),), "", limits=Limits(0, 9, is_meter=True)),
                Tensor("mood", "BYTES", (Axis("one", 1),), "", limits=Limits(words=("", "calm"))),
                Tensor("free", "UINT8", (Axis("any"),), ""),
            )
        )
    )
    assert told == {
        "axes": {"frame": {"min": 2, "max": 8, "total": 16}, "any": {"min": 1}},
        "inputs": {
            "noise": {"axes": ["frame", "pitch"], "min": 0, "below": 1, "finite": True},
            "share": {"axes": [], "above": 0, "max": 1, "finite": True, "also": [-1]},
            "raw": {"axes": [], "finite": False},
            "style": {"axes": [], "min": 0, "n_values": "n_styles"},
            "meter": {"axes": ["part"], "min": 0, "max": 9, "meter": True},
            "mood": {"axes": ["one"], "words": ["", "calm"]},
            "free": {"axes": ["any"]},
        },
    }
