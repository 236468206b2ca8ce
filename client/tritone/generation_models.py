"""What a client remembers about the models that write music: their sizes, their grid and their styles.

Shapes: N frames, Z and G latent dimensions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar, cast

import numpy as np

from tritone.exceptions import InvalidInputError, RequestRejectedError, ServerError
from tritone.messages import Array, InferRequest, InferResponse, ModelRequest, ModelResponse, latest_version
from tritone.model_cache import Flow, check_version, is_old, on_live_versions
from tritone.music.grid import FRAMES_PER_QUARTER, MAX_FRAMES, N_PITCHES
from tritone.music.voices import N_VOICES, SPAN_FRAMES
from tritone.operations.whole_answers import whole_answer

T = TypeVar("T")
Shape = tuple[int | None, ...]  # without the batch axis; None where it differs between calls or versions


@dataclass(frozen=True)
class Role:
    """What a model of some kind takes and answers."""

    does: str
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]

    def fits(self, info: ModelResponse) -> bool:
        """Whether a model has these inputs and (at least) these outputs."""
        return (
            info.max_batch_size > 0
            and info.inputs.keys() == self.inputs.keys()
            and self.outputs.keys() <= info.outputs.keys()
            and all(_agree(shape, info.inputs[name]) for name, shape in self.inputs.items())
            and all(_agree(shape, info.outputs[name]) for name, shape in self.outputs.items())
        )


_FRAMES: Final[Shape] = (None, N_PITCHES)
_PER_FRAME: Final[Shape] = (None,)
_SCALAR: Final[Shape] = (1,)
_VOICES: Final[Shape] = (SPAN_FRAMES, N_VOICES)
_CHOICE: Final[Mapping[str, Shape]] = {"temperature": _SCALAR, "top_k": _SCALAR, "top_p": _SCALAR}
_WRITING: Final[Mapping[str, Shape]] = {
    "given": _FRAMES,
    "given_mode": _PER_FRAME,
    "meter": (2,),
    "style": _SCALAR,
    "noise": (None, None),
    **_CHOICE,
}
_WRITTEN: Final[Mapping[str, Shape]] = {"frames": _FRAMES, "nll": _PER_FRAME}

SCORER: Final = Role(
    "predicts frames of music", {"frames": _FRAMES}, {"nll": _PER_FRAME, "probabilities": (None, N_PITCHES)}
)
SAMPLER: Final = Role(
    "continues frames of music", {"prompt": _FRAMES, "noise": (None, N_PITCHES), **_CHOICE}, {"frames": _FRAMES}
)
COMPOSER: Final = Role("composes, harmonises and fills in", _WRITING, _WRITTEN)
STREAMER: Final = Role("composes bar after bar", _WRITING, {**_WRITTEN, "first_frame": _SCALAR})
ENCODER: Final = Role("encodes two bars of four voices", {"lanes": _VOICES}, {"mean": _PER_FRAME})
DECODER: Final = Role(
    "decodes two bars of four voices",
    {"latent": _PER_FRAME, "attributes": (3,), "noise": _VOICES, **_CHOICE},
    {"lanes": _VOICES},
)
DREAMER: Final = Role(
    "makes two bars of four voices from noise",
    {
        "latent_noise": _PER_FRAME,
        "truncation": _SCALAR,
        "key": _SCALAR,
        "mode": _SCALAR,
        "density": _SCALAR,
        "noise": _VOICES,
        **_CHOICE,
    },
    {"lanes": _VOICES},
)
ROLES: Final = (STREAMER, COMPOSER, SCORER, SAMPLER, ENCODER, DECODER, DREAMER)  # the first that fits counts


@dataclass(frozen=True)
class Writer:
    """A version of a model that has to do with written music.

    Attributes:
        version: None if the server does not say.
        since_s: on the monotonic clock.
    """

    info: ModelResponse
    role: Role
    version: str | None
    since_s: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.info.model

    @property
    def frames_per_quarter(self) -> int:
        """The grid that it reads and writes."""
        return self._number("frames_per_quarter", FRAMES_PER_QUARTER)

    @property
    def n_frames_max(self) -> int:
        """The longest piece that one call may hold."""
        return min(self._number("max_frames", MAX_FRAMES), MAX_FRAMES)

    @property
    def n_notes_max(self) -> int:
        """How many notes may sound at once."""
        return self._number("max_notes", 8 if "given" in self.role.inputs else N_PITCHES)

    @property
    def styles(self) -> tuple[str, ...]:
        """Names of the styles, the first being any of them."""
        try:
            names = json.loads(self.info.parameters.get("styles", "[]"))
        except ValueError:
            names = []
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def style_index(self, style: str | None) -> int:
        """The number of a style.

        Raises:
            InvalidInputError: the model knows no such style; the message has those it knows.
        """
        if style is None:
            return 0
        if style not in self.styles:
            known = ", ".join(self.styles) or "any"
            raise InvalidInputError(f"style is {style!r}; model {self.name!r} knows: {known}", model=self.name)
        return self.styles.index(style)

    def size_of(self, tensor: str) -> int:
        """The last axis of an input or output, where the version fixes it.

        Raises:
            ServerError: it does not.
        """
        size = {**self.info.outputs, **self.info.inputs}[tensor][-1]
        if size < 1:
            raise ServerError(f"model {self.name!r} does not say how long {tensor!r} is", model=self.name)
        return size

    def _number(self, name: str, default: int) -> int:
        text = self.info.parameters.get(name, "")
        return int(text) if text.isdecimal() and int(text) > 0 else default


class Writers:
    """The writing models that one client knows; safe to share, since entries are only ever replaced whole."""

    def __init__(self) -> None:
        self._models: dict[str, Writer] = {}

    def look_up(self, model: str, *roles: Role) -> Flow[Writer]:
        """What is known about a model, asked from the server where nothing is.

        Raises:
            ServerError: if it has none of the roles.
        """
        known = self._models.get(model)
        if known is None or known.role not in roles or is_old(known.since_s):
            info = cast(ModelResponse, (yield ModelRequest(model)))
            role = next((role for role in ROLES if role.fits(info)), None)
            if role is None or role not in roles:
                raise _unfit(info, role, roles)
            known = Writer(info, role, latest_version(info.versions))
            self._models[model] = known
        return known

    def forget(self, *models: str) -> None:
        """Ask anew at the next call."""
        for model in models:
            self._models.pop(model, None)


def with_fresh_models(writers: Writers, models: tuple[str, ...], attempt: Callable[[], Flow[T]]) -> Flow[T]:
    """`on_live_versions`; and once more after a refusal: what is served under the same number may take other shapes."""

    def forget() -> None:
        writers.forget(*models)

    try:
        return (yield from on_live_versions(forget, attempt))
    except RequestRejectedError:
        return (yield from on_live_versions(forget, attempt))


def infer(known: Writer, request: InferRequest) -> Flow[InferResponse]:
    """Ask a model for the version that is remembered.

    Raises:
        VersionChangedError: if it is not there.
    """
    response = yield from whole_answer(replace(request, version=known.version), known.info.max_batch_size)
    check_version(known.version, response)
    return response


def checked(response: InferResponse, output: str, shape: tuple[int, ...], largest: int | None = None) -> Array:
    """An output, held against what was asked for.

    Args:
        response: of a model.
        output: name of the tensor.
        shape: with the batch axis.
        largest: of whole numbers from 0; None where any finite number will do.

    Raises:
        ServerError: it is not what it should be.
    """
    array = response.outputs[output]
    wrong = None
    if array.shape != shape:
        wrong = f"of shape {array.shape}; expected {shape}"
    elif largest is None and not np.isfinite(array).all():
        wrong = "with values that are not finite"
    elif largest is not None and array.size and not (array.min() >= 0 and array.max() <= largest):
        wrong = f"with values {array.min()} to {array.max()}; expected 0 to {largest}"
    if wrong is not None:
        raise ServerError(
            f"model {response.model!r} version {response.version} answered {output!r} {wrong}",
            model=response.model,
            request_id=response.request_id,
        )
    return array


def _agree(expected: Shape, found: tuple[int, ...]) -> bool:
    """`found` has the batch axis, and -1 where a size is free."""
    return len(found) == len(expected) + 1 and all(
        wanted is None or wanted == size for wanted, size in zip(expected, found[1:], strict=True)
    )


def _unfit(info: ModelResponse, found: Role | None, wanted: tuple[Role, ...]) -> ServerError:
    does = (
        f"it {found.does}"
        if found
        else f"it takes {dict(info.inputs)} and answers {dict(info.outputs)}, at most {info.max_batch_size} at a time"
    )
    if found is STREAMER:
        does += ", for which there is stream_compose"
    return ServerError(
        f"model {info.model!r} is none that {' or '.join(role.does for role in wanted)}: {does}; "
        f"is the name right, and was it exported by the same release?",
        model=info.model,
    )
