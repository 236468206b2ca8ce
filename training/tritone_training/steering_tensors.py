"""Inputs with which a composing model is steered, and the parameters from which clients choose their values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tritone.music.grid import MAX_FRAMES
from tritone_training.data.piece_conditions import MOST_VOICES, N_DENSITIES, N_KEYS_AND_MODES
from tritone_training.declaration import Axis, Limits, Tensor

ANY_STYLE: Final = "any"
N_STYLES: Final = "n_styles"  # key in the ONNX file's metadata: number of values of `style`, including 0 (any)


def steering_tensors(frame: Axis) -> tuple[Tensor, ...]:
    """Return metre, style, key, density, voices, end and repetitions of a piece.

    Args:
        frame: axis of the frames to which `repeats` belongs.
    """
    return (
        Tensor(
            "meter",
            "INT64",
            (Axis("part", 2),),
            "frames per bar, and the position of the first frame in its bar; 0, 0 if unknown",
            limits=Limits(minimum=0, maximum=MAX_FRAMES, is_meter=True),
        ),
        Tensor(
            "style",
            "INT64",
            (),
            "index into the parameter `styles`; 0 is any",
            limits=Limits(minimum=0, n_values_key=N_STYLES),
        ),
        Tensor(
            "key",
            "INT64",
            (),
            "1 to 12: C major to B major; 13 to 24: C minor to B minor; 0 unknown",
            limits=Limits(minimum=0, maximum=N_KEYS_AND_MODES),
        ),
        Tensor(
            "density",
            "INT64",
            (),
            "notes struck per time step, among pieces of the style: 1 few, 2 medium, 3 many; 0 unknown",
            limits=Limits(minimum=0, maximum=N_DENSITIES),
        ),
        Tensor(
            "n_voices",
            "INT64",
            (),
            "notes at once, of which a frame whose highest note is given lacks at most one; 0 unknown",
            limits=Limits(minimum=0, maximum=MOST_VOICES),
        ),
        Tensor(
            "end",
            "INT64",
            (),
            "length of the piece in frames, so that it ends there; 0 unknown",
            limits=Limits(minimum=0, maximum=MAX_FRAMES),
        ),
        Tensor(
            "repeats",
            "INT64",
            (frame,),
            "how many frames earlier the repeated moment is, at most max_repeat_frames; -1 none, 0 unknown",
            limits=Limits(minimum=-1, maximum=MAX_FRAMES),
        ),
    )


def steering_parameters(
    *,
    styles: Sequence[str],
    templates: Sequence[Mapping[str, Any]] = (),
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_repeat_frames: int | None = None,
) -> dict[str, str]:
    """Return the parameters of config.pbtxt from which clients choose what a caller leaves open.

    Args:
        styles: those that the network was trained with, in its order.
        templates: from `piece_conditions.templates`.
        temperature: where a request chooses none.
        top_p: where a request chooses none.
        max_repeat_frames: most frames back that `repeats` may reach; None if unknown.
    """
    return {
        "styles": json.dumps([ANY_STYLE, *styles]),
        N_STYLES: n_styles(styles),
        "default_temperature": f"{temperature:g}",
        "default_top_p": f"{top_p:g}",
        **({} if max_repeat_frames is None else {"max_repeat_frames": str(max_repeat_frames)}),
        **({"templates": json.dumps(list(templates), separators=(",", ":"))} if templates else {}),
    }


def n_styles(styles: Sequence[str]) -> str:
    """Return the number of values of `style` as text; empty if the network has no styles and ignores the value."""
    return str(1 + len(styles)) if styles else ""
