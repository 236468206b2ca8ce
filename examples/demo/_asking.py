"""One request for music, in the three forms it has here: sent, as a line of Python, as a line for the shell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tritone import MusicClient
    from tritone.music.piece import Piece

_STREAM: Final = "stream_compose"
_PAIRS: Final[Mapping[str, str]] = {"bars": ":", "meter": "/"}  # how the command line writes two numbers
_SHORTER: Final[Mapping[str, str]] = {"tempo_qpm": "tempo"}  # options whose name is not the argument's


@dataclass(frozen=True)
class Ask:
    """What a model is asked; all three forms come from the same values, so the page cannot say otherwise.

    Attributes:
        name: of the files that come of it.
        title: what it is, in words.
        text: a sentence or two on what to look and listen for.
        verb: the method of `MusicClient`.
        scores: MIDI files that go in.
        options: keyword arguments.
    """

    name: str
    title: str
    text: str
    verb: str
    scores: tuple[Path, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_streamed(self) -> bool:
        """Whether the piece comes bar by bar."""
        return self.verb == _STREAM

    @property
    def is_prompted(self) -> bool:
        """Whether the score is what is gone on from, which Python names and the shell does not."""
        return self.verb in ("compose", _STREAM) and bool(self.scores)

    def send(self, music: MusicClient) -> tuple[Piece, ...]:
        """Ask a server; a stream is read to its end."""
        scores = {"prompt": self.scores[0]} if self.is_prompted else {}
        rest = () if self.is_prompted else self.scores
        answer = getattr(music, self.verb)(*rest, **scores, **self.options)
        if self.is_streamed:
            with answer as stream:
                for _ in stream:
                    pass
            return (stream.result(),)
        return answer if isinstance(answer, tuple) else (answer,)

    def python(self) -> str:
        """As a program says it."""
        scores = [("prompt=" if self.is_prompted else "") + repr(str(score)) for score in self.scores]
        options = [f"{name}={value!r}" for name, value in self.options.items()]
        return f"music.{self.verb}({', '.join([*scores, *options])})"

    def shell(self, out: Path) -> str:
        """As people type it; `out` is the file to write, numbered if there are several pieces."""
        words = ["tritone", "compose" if self.is_streamed else self.verb, *map(str, self.scores)]
        words += ["--stream"] * self.is_streamed
        for name, value in self.options.items():
            option = f"--{_SHORTER.get(name, name).replace('_', '-')}"
            if value is True:
                words.append(option)
            else:
                pair = isinstance(value, tuple)
                words += [option, _PAIRS[name].join(map(str, value)) if pair else str(value)]
        return shlex.join([*words, "--out", str(out)])
