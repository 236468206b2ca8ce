"""What a config's parameters choose."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from tritone_ort_session import SessionError

LARGEST = 1 << 20


@dataclass(frozen=True)
class Options:
    """Whole numbers from `parameters`, under the same names; all may be left out.

    Attributes:
        frames_per_bar: where a request's meter is unknown.
        lookahead_frames: how many frames beyond those that it writes the graph wants to be given.
        max_frames: the longest piece.
        max_streams: pieces under way at once; more are refused as busy.
        max_batch_streams: pieces in one run of the graph.
        first_answer_frames: how early the first answer comes, if the first bar is not shorter.
        step_milliseconds: about how long one run takes: the longer, the fewer runs, and the later a cancel is seen.
        stream_timeout_seconds: after which a piece that is not done is given up.
    """

    frames_per_bar: int = 16
    lookahead_frames: int = 0
    max_frames: int = 16_384
    max_streams: int = 64
    max_batch_streams: int = 16
    first_answer_frames: int = 4
    step_milliseconds: int = 40
    stream_timeout_seconds: int = 600


def read_options(config: dict[str, Any]) -> Options:
    """Read a model's config, as Triton hands it to a backend.

    Raises:
        SessionError: a parameter is no number that can work, or the config is not one for streaming.
    """
    if not (config.get("model_transaction_policy") or {}).get("decoupled"):
        raise SessionError("backend composer streams; add model_transaction_policy { decoupled: true } to the config")
    if config["max_batch_size"] != 1:
        raise SessionError(
            f"max_batch_size is {config['max_batch_size']}; backend composer wants 1: "
            "a request is one piece, and pieces are joined inside"
        )
    given = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    values = {}
    for field in fields(Options):
        text = given.get(field.name, str(field.default))
        least = 0 if field.name == "lookahead_frames" else 1
        if not (text.isdecimal() and least <= int(text) <= LARGEST):
            raise SessionError(f"parameter {field.name} is {text!r}; expected a whole number from {least} to {LARGEST}")
        values[field.name] = int(text)
    return Options(**values)
