"""Request pieces from scratch from a served model, with whichever operation it supports."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from tritone import ClientError, InvalidInputError, MusicClient, Piece, ServerError
from tritone.music.keys import KEY_NAMES, MODES
from tritone.music.voices import SPAN_FRAMES

SAMPLE_BARS: Final = SPAN_FRAMES // 16  # length of the pieces of models that sample
Call = Callable[..., Piece]


class ServedPieceGenerator:
    """Generates pieces with one model.

    The first piece is generated on creation, to find the operation that the model supports, and whether it supports the
    number of bars.

    Args:
        music: a connected client.
        model: name of the model.
        arguments: arguments of each call, such as `temperature` and `style`; all others keep their defaults.
        all_keys: request each of the 24 keys in turn, by the seed.
        bars: length of the first piece; two for models that sample.
        seed: seed of the first piece.

    Attributes:
        samples: whether the model can only sample spans of two bars.
        first: the first piece.

    Raises:
        InvalidInputError: the model cannot generate music.
        ClientError: the server cannot be reached, or has no such model.
    """

    def __init__(
        self, music: MusicClient, model: str, *, arguments: Mapping[str, Any], all_keys: bool, bars: int, seed: int
    ) -> None:
        self.model = model
        self._arguments = dict(arguments)
        self._all_keys = all_keys
        calls: dict[str, tuple[Call, Callable[..., Any]]] = {
            "compose": (music.compose, music.compose),
            "stream_compose": (lambda **given: _streamed(music, given), music.stream_compose),
            "sample": (lambda bars, **given: music.sample(n=1, **given)[0], music.sample),
        }
        problems: list[ClientError] = []
        for name, (call, operation) in calls.items():
            self._call, self.samples = call, name == "sample"
            if all_keys and not self.samples and "key" not in inspect.signature(operation).parameters:
                problems.append(_no_keys(model))
                continue
            try:
                self.first = self.generate(SAMPLE_BARS if self.samples else bars, seed)
            except ServerError as error:
                if error.reason != "unsuitable_model":
                    raise
                problems.append(error)
            else:
                return
        if isinstance(problems[0], InvalidInputError):
            raise problems[0]
        raise InvalidInputError(
            f"model {model!r} cannot generate music: expected a model that composes, streams or samples, such as "
            f"music_transformer, composer, polyphony_rnn, music_vae or music_gan; name another one ({problems[0]})",
            model=model,
            argument="model",
            reason="unsuitable_model",
        )

    def requested(self, seed: int) -> dict[str, Any]:
        """Return the arguments of a seed, apart from its length."""
        if not self._all_keys:
            return self._arguments
        key = seed % (len(KEY_NAMES) * len(MODES))
        return {**self._arguments, "key": KEY_NAMES[key // len(MODES)], "mode": MODES[key % len(MODES)]}

    def generate(self, bars: int, seed: int) -> Piece:
        """Return the piece of a seed.

        Raises:
            ClientError: as `MusicClient.compose`.
        """
        return self._call(bars=bars, seed=seed, model=self.model, **self.requested(seed))


def _no_keys(model: str) -> InvalidInputError:
    return InvalidInputError(
        f"model {model!r} cannot compose in a requested key: expected a model with key conditions; omit all_keys "
        f"(--all-keys)",
        model=model,
        argument="all_keys",
    )


def _streamed(music: MusicClient, given: Mapping[str, Any]) -> Piece:
    with music.stream_compose(**given) as stream:
        for _ in stream:
            pass
    return stream.result()
