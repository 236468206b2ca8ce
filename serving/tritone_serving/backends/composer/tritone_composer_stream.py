"""Pieces that are being generated, and the responses to their clients.

Shapes: n frames.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tritone_composer_graph import RequestedPiece, State

Array = np.ndarray[Any, Any]


class EndReason(enum.Enum):
    """Why a piece ends before its end."""

    INVALID = enum.auto()
    BUSY = enum.auto()
    LATE = enum.auto()
    CLOSING = enum.auto()
    CANCELLED = enum.auto()
    BROKEN = enum.auto()


class ResponseSender(Protocol):
    """Sends the responses of a piece to its client."""

    def send(self, outputs: dict[str, Array], first_frame: int, *, last: bool) -> None:
        """Send the next frames (1, n, ...)."""

    def end(self, reason: EndReason, text: str) -> None:
        """Send the error that ends the responses."""

    def is_cancelled(self) -> bool:
        """Return whether the client cancelled the request or disconnected."""


class Stream:
    """An unfinished piece.

    `at` frames are generated, of which `sent` are in responses; the next response ends at frame `cut`.
    """

    def __init__(
        self, piece: RequestedPiece, sender: ResponseSender, state: State, deadline_s: float, *, is_canary: bool = False
    ) -> None:
        self.piece = piece
        self.sender = sender
        self.is_canary = is_canary
        self.at = 0
        self.sent = 0
        self.cut = piece.next_cut(0)
        self.generated: list[dict[str, Array]] = []  # outputs that are in no response yet
        # Row `row` of arrays that it may share with the pieces of its last run.
        self.state = state
        self.row = 0
        self.is_suspect = False  # a run that it shared failed
        self.is_ended = False
        self.deadline_s = deadline_s
        self.polled_s = 0.0
        self.waiting_since_s = time.monotonic()

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        return tuple(array.shape[1:] for array in self.state.values())

    @property
    def n_left(self) -> int:
        return self.piece.n_frames - self.at

    def advance(self, n_frames: int, outputs: dict[str, Array], state: State, row: int) -> None:
        """Add the outputs (B, n, ...) of a run, in which this piece was at `row`, and its next state."""
        self.state, self.row = state, row
        self.at += n_frames
        self.is_suspect = False
        # Copies, because a long bar would keep the outputs of the other pieces too.
        self.generated.append({name: value[row : row + 1].copy() for name, value in outputs.items()})

    def take_responses(self) -> list[Response]:
        """Return the responses of which all frames are generated."""
        taken = []
        while self.sent < self.cut <= self.at:
            first_frame = self.sent
            outputs = self._take_outputs()
            taken.append(Response(self, outputs, first_frame, is_last=self.sent == self.piece.n_frames))
        return taken

    def _take_outputs(self) -> dict[str, Array]:
        """Return the outputs of the frames up to `cut`, and keep those behind."""
        names = self.generated[0]
        whole = {name: np.concatenate([part[name] for part in self.generated], axis=1) for name in names}
        n_frames = self.cut - self.sent
        self.generated = [{name: value[:, n_frames:] for name, value in whole.items()}] if self.at > self.cut else []
        self.sent = self.cut
        self.cut = self.piece.next_cut(self.sent)
        return {name: value[:, :n_frames] for name, value in whole.items()}


@dataclass(frozen=True)
class Response:
    """The outputs (1, n, ...) of the frames of a piece from `first_frame` on."""

    stream: Stream
    outputs: dict[str, Array]
    first_frame: int
    is_last: bool


def joined_feed(group: Sequence[Stream], n_frames: int) -> dict[str, Array]:
    """Return the inputs of the next frames of a group."""
    chunks = [stream.piece.chunk(stream.at, n_frames) for stream in group]
    if len(chunks) == 1:
        return chunks[0]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def joined_state(group: Sequence[Stream]) -> State:
    """Return the states of a group: those of the last run if it had the same group, else gathered."""
    state = group[0].state
    n_rows = len(next(iter(state.values())))
    if n_rows == len(group) and all(stream.state is state and stream.row == row for row, stream in enumerate(group)):
        return state
    return {
        name: np.concatenate([stream.state[name][stream.row : stream.row + 1] for stream in group]) for name in state
    }
