"""What a client remembers about the models it has asked: tensors, batch size, version and class names.

The names come through Triton's classification extension, the only way to a label file, with a request of
their own; both are fetched once for each version that answers.

Shapes: N windows, W samples of a window.
"""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias, TypeVar, cast

import numpy as np

from tritone.constants import EMOTIONS, SAMPLE_RATE_HZ
from tritone.exceptions import InvalidInputError, ServerBusyError, ServerError, VersionChangedError
from tritone.messages import (
    Array,
    InferRequest,
    InferResponse,
    ModelRequest,
    ModelResponse,
    Request,
    Response,
    latest_version,
)
from tritone.processes import PerProcess
from tritone.retry import Pause

T = TypeVar("T")
# A flow yields requests, is sent their responses (or thrown their errors), and returns the result. It does
# no input or output towards the server, so the synchronous and the asynchronous client run the same one.
Flow: TypeAlias = Generator[Request | Pause, Response | None, T]

AUDIO_INPUT: Final = "audio"
LABELLED: Final = ("probabilities", "emotions", "tags")  # outputs whose last axis has names
N_CLASSES_MAX: Final = 100_000  # "all of them": Triton answers with as many as there are
# A server may keep an old version beside the new one, and a fleet have replicas of both for hours: nobody is refused
# there, but everybody should come to ask for the new one.
REMEMBERED_FOR_S: Final = 30.0
N_WINDOWS_MAX: Final = 16  # a request of 4 MB: larger ones are no faster, and each copy of one costs memory
_MODEL_NAME: Final = re.compile(r"(?!\.+$)[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Remembered:
    """A version of a model.

    Attributes:
        version: None until an answer said it.
        labels: names by output, or None if nobody has asked for them yet.
        since_s: on the monotonic clock.
    """

    info: ModelResponse
    version: str | None
    labels: Mapping[str, tuple[str, ...]] | None = None
    since_s: float = field(default_factory=time.monotonic)

    @property
    def n_windows_max(self) -> int:
        """How many windows one request may carry."""
        return min(self.info.max_batch_size, N_WINDOWS_MAX)

    @property
    def window_samples(self) -> int:
        """W."""
        return self.info.inputs[AUDIO_INPUT][1]


class Catalogue:
    """The models that one client knows; safe to share, since entries are only ever replaced whole."""

    def __init__(self) -> None:
        self._models: dict[str, Remembered] = {}

    def look_up(self, model: str, *, labels: bool) -> Flow[Remembered]:
        """What is known about a model, asked from the server where nothing is.

        Raises:
            VersionChangedError: if its version is gone between the questions.
            ServerError: if the model is not one that listens to recordings.
        """
        known = self._models.get(model)
        if known is None or is_old(known.since_s):
            info = cast(ModelResponse, (yield ModelRequest(model)))
            _check_listens(info)
            version = latest_version(info.versions)
            labels_known = known.labels if known is not None and known.version == version else None
            known = Remembered(info, version, labels_known)
            self._models[model] = known
        if labels and known.labels is None:
            known = yield from self._with_labels(known)
            self._models[model] = known
        return known

    def forget(self, model: str) -> None:
        """Ask anew at the next call."""
        self._models.pop(model, None)

    def _with_labels(self, known: Remembered) -> Flow[Remembered]:
        named = tuple(name for name in LABELLED if name in known.info.outputs)
        request = InferRequest(
            model=known.info.model,
            request_id=next_request_id("labels"),
            inputs={AUDIO_INPUT: _test_tone(known.window_samples)},
            outputs=named,
            n_classes=N_CLASSES_MAX,
            version=known.version,
        )
        response = cast(InferResponse, (yield request))
        check_version(known.version, response)
        labels = {name: _labels(name, response.outputs[name], known.info.model) for name in named}
        return replace(known, labels=labels, version=response.version)


def on_live_versions(forget: Callable[[], None], attempt: Callable[[], Flow[T]]) -> Flow[T]:
    """Run a flow, and run it again as long as the versions that it goes by turn out to be gone, and there is time.

    A flow asks for the version that it knows, so that servers with another one refuse. What is known may be old, a
    version may go live in the middle, and during a roll-out the replicas behind one address differ for a while.

    Args:
        forget: drops what is remembered about the flow's models, which may have other tensors or labels by now.
        attempt: makes the flow, from the look-up on.

    Raises:
        VersionChangedError: versions kept changing until the call's time was up.
        ServerError: any other, at once.
    """
    for n_begun in itertools.count(1):
        try:
            return (yield from attempt())
        except ServerError as error:
            if not isinstance(error, ServerBusyError):
                forget()
            if not isinstance(error, VersionChangedError):
                raise
            changed = error
        yield Pause(n_begun, changed)
    raise AssertionError("unreachable: it returns or raises")


def is_old(since_s: float) -> bool:
    """Whether what has been remembered since then is to be asked for again."""
    return time.monotonic() - since_s > REMEMBERED_FOR_S


def after(pause: Pause, flow: Flow[T]) -> Flow[T]:
    """A flow that begins later."""
    yield pause
    return (yield from flow)


def check_version(known: str | None, response: InferResponse) -> None:
    """Hold a response's version against the one that is remembered, if any is.

    Raises:
        VersionChangedError: if they differ.
    """
    if known is not None and response.version != known:
        raise VersionChangedError(
            f"model {response.model!r} changed from version {known} to {response.version} during "
            f"the call, and again whenever it was repeated; call again when the roll-out is over",
            model=response.model,
            request_id=response.request_id,
        )


def check_model_name(model: str) -> str:
    """Let only names pass that mean the same in a path, in a file name and in a log.

    Raises:
        InvalidInputError: if it is not one.
    """
    if not isinstance(model, str) or not _MODEL_NAME.fullmatch(model):
        raise InvalidInputError(
            f"{model!r} cannot be a model's name; expected letters, digits, '_', '-' and '.', as in genre_cnn"
        )
    return model


def _new_ids() -> tuple[str, itertools.count[int]]:
    """Return a random prefix and a counter for the ids of one process."""
    return secrets.token_hex(4), itertools.count(1)


_ids = PerProcess(_new_ids)  # a forked child would otherwise go on with its parent's prefix and counter


def next_request_id(what: str) -> str:
    """Return an id that no other request has, short enough to read in a server's log."""
    prefix, counter = _ids.get()
    return f"{what}-{prefix}-{next(counter)}"


def _check_listens(info: ModelResponse) -> None:
    shape = info.inputs.get(AUDIO_INPUT, ())
    missing = [name for name in ("probabilities", "emotions", "embedding") if name not in info.outputs]
    if len(info.inputs) == 1 and len(shape) == 2 and shape[1] > 0 and info.max_batch_size > 0 and not missing:
        return
    raise ServerError(
        f"model {info.model!r} does not listen to recordings: it takes {dict(info.inputs)} and answers "
        f"{dict(info.outputs)}, at most {info.max_batch_size} at a time; expected one input 'audio' of shape "
        f"(-1, window at {SAMPLE_RATE_HZ} Hz) with batching, and outputs probabilities, emotions, embedding",
        model=info.model,
    )


def _test_tone(n_samples: int) -> Array:
    """(1, W) of a quiet 440 Hz: silence would be an odd thing to ask a network about."""
    times_s = np.arange(n_samples) / SAMPLE_RATE_HZ
    tone: Array = (0.1 * np.sin(2 * np.pi * 440 * times_s)).astype(np.float32)[None]
    return tone


def _labels(output: str, answer: Array, model: str) -> tuple[str, ...]:
    """`value:index:label` strings, by falling value -> labels by index."""
    by_index: dict[int, str] = {}
    for text in answer.ravel():
        _, index, *label = str(text).split(":", 2)  # a label may hold colons itself
        by_index[int(index)] = label[0] if label else ""
    if sorted(by_index) != list(range(len(by_index))):
        raise ServerError(f"model {model!r} names the classes {sorted(by_index)} of {output!r}", model=model)
    if any(by_index.values()):
        return tuple(by_index[index] or str(index) for index in range(len(by_index)))
    if output == "emotions" and len(by_index) == len(EMOTIONS):
        return EMOTIONS
    return tuple(str(index) for index in range(len(by_index)))  # the model has no label file
