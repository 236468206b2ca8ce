"""The metadata of models that a client has used: tensors, batch size, version, class names and other parameters.

One request (`ModelRequest`) fetches the metadata and the configuration of a model. The parameters of its config.pbtxt
contain static facts, such as the class names of its outputs (`labels`), its `styles` or its grid
(`frames_per_quarter`).

Shapes: N frames, W samples of a window, Z and G latent dimensions.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Final, cast

import numpy as np

from tritone.arguments import shown
from tritone.constants import (
    CLASSIFIER_PARAMETER,
    EMOTIONS,
    FILE_MODEL_PARAMETER,
    LARGEST_TEMPERATURE,
    LEAST_TEMPERATURE,
    MAX_RECORDING_BYTES_PARAMETER,
    PCM16_MODEL_PARAMETER,
    WEIGHTS_PARAMETER,
)
from tritone.exceptions import InvalidInputError, ModelNotFoundError, ServerError, VersionChangedError
from tritone.messages import Array, Flow, InferRequest, InferResponse, ModelRequest, ModelResponse, latest_version
from tritone.music.grid import FRAMES_PER_QUARTER, MAX_FRAMES, N_PITCHES
from tritone.music.voices import N_VOICES, SPAN_FRAMES

_logger = logging.getLogger("tritone")

Shape = tuple[int | None, ...]  # without the batch axis; None where it differs between calls or versions

# A server may keep an old version next to the new one, and a fleet may serve both for hours without refusing either;
# after this time the metadata is fetched again, so that clients move to the new version.
CACHED_FOR_S: Final = 30.0
_LARGEST_SIZE: Final = 65_536  # of an axis that a model declares, such as its noise or latent space
N_SAMPLE_CANDIDATES_MAX: Final = 64  # of one sample, whatever the model says
N_WINDOWS_MAX: Final = 16  # a request of 4 MB: larger ones are no faster, and each copy of one costs memory


@dataclass(frozen=True)
class Role:
    """The inputs and outputs of a kind of model.

    Attributes:
        does: what such a model does, for messages.
        is_batched: whether the model has a batch axis; an ensemble of ours has none, and its first axis is 1.
        newer_inputs: inputs that models of earlier releases do not have; a model has all of them or none.
    """

    does: str
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    is_batched: bool = True
    newer_inputs: Mapping[str, Shape] = field(default_factory=dict)

    def fits(self, info: ModelResponse) -> bool:
        """Return whether a model has exactly these inputs and at least these outputs."""
        inputs = self.inputs
        if self.newer_inputs and self.newer_inputs.keys() <= info.inputs.keys():
            inputs = {**inputs, **self.newer_inputs}
        return (
            (info.max_batch_size > 0) is self.is_batched
            and info.inputs.keys() == inputs.keys()
            and self.outputs.keys() <= info.outputs.keys()
            and all(_agree(shape, info.inputs[name]) for name, shape in inputs.items())
            and all(_agree(shape, info.outputs[name]) for name, shape in self.outputs.items())
        )


_FRAMES: Final[Shape] = (None, N_PITCHES)
_PER_FRAME: Final[Shape] = (None,)
_SCALAR: Final[Shape] = (1,)
_VOICES: Final[Shape] = (SPAN_FRAMES, N_VOICES)
_SAMPLING: Final[Mapping[str, Shape]] = {"temperature": _SCALAR, "top_k": _SCALAR, "top_p": _SCALAR}
_COMPOSER_INPUTS: Final[Mapping[str, Shape]] = {
    "given": _FRAMES,
    "given_mode": _PER_FRAME,
    "meter": (2,),
    "style": _SCALAR,
    "noise": (None, None),
    **_SAMPLING,
}
_CONDITIONS: Final[Mapping[str, Shape]] = {
    **dict.fromkeys(("key", "density", "n_voices", "end"), _SCALAR),
    "repeats": _PER_FRAME,
}
_COMPOSER_OUTPUTS: Final[Mapping[str, Shape]] = {"frames": _FRAMES, "nll": _PER_FRAME}

CLASSIFIER: Final = Role(
    "classifies recordings",
    {"audio": (None,)},
    {"probabilities": (None,), "emotions": (None,), "embedding": (None,)},
)
FILE_CLASSIFIER: Final = Role(
    "classifies recordings that are sent as files",
    {"recording": _SCALAR},
    {
        "probabilities": (None, None),
        "emotions": (None, None),
        "embedding": (None,),
        "start_s": (None,),
        "duration_s": _SCALAR,
        "notes": _SCALAR,
    },
)
SCORER: Final = Role(
    "predicts frames of music", {"frames": _FRAMES}, {"nll": _PER_FRAME, "probabilities": (None, N_PITCHES)}
)
SAMPLER: Final = Role(
    "continues frames of music",
    {"prompt": _FRAMES, "noise": (None, N_PITCHES), **_SAMPLING},
    {"frames": _FRAMES},
    newer_inputs={"meter": (2,), "style": _SCALAR, **_CONDITIONS},
)
COMPOSER: Final = Role(
    "composes, harmonizes and infills", _COMPOSER_INPUTS, _COMPOSER_OUTPUTS, newer_inputs=_CONDITIONS
)
STREAMER: Final = Role(
    "streams compositions",
    _COMPOSER_INPUTS,
    {**_COMPOSER_OUTPUTS, "first_frame": _SCALAR},
    newer_inputs=_CONDITIONS,
)
ENCODER: Final = Role("encodes two bars of four voices", {"voices": _VOICES}, {"mean": _PER_FRAME})
DECODER: Final = Role(
    "decodes two bars of four voices",
    {"latent": _PER_FRAME, "attributes": (3,), "noise": _VOICES, **_SAMPLING},
    {"voices": _VOICES},
)
GENERATOR: Final = Role(
    "generates two bars of four voices from noise",
    {
        "latent_noise": _PER_FRAME,
        "truncation": _SCALAR,
        "key": _SCALAR,
        "mode": _SCALAR,
        "density": _SCALAR,
        "noise": _VOICES,
        **_SAMPLING,
    },
    {"voices": _VOICES},
)
_TRACKS: Final[Shape] = (None,)
INSPIRER: Final = Role(
    "composes, classifies and recommends",
    {**_COMPOSER_INPUTS, "frame_s": _SCALAR, "mood": _SCALAR, "k": _SCALAR},
    {
        **_COMPOSER_OUTPUTS,
        "probabilities": (None,),
        "emotions": (None,),
        "embedding": (None,),
        **dict.fromkeys(("item_ids", "scores", "titles", "artists"), _TRACKS),
        **dict.fromkeys(("source", "arm", "unknown"), _SCALAR),
    },
    is_batched=False,
    newer_inputs=_CONDITIONS,
)
# The first that fits.
ROLES: Final = (CLASSIFIER, FILE_CLASSIFIER, STREAMER, COMPOSER, SCORER, SAMPLER, ENCODER, DECODER, GENERATOR, INSPIRER)


@dataclass(frozen=True)
class CachedModel:
    """One version of a model.

    Attributes:
        version: None if the server does not name it.
        since_s: when the metadata was fetched, on the monotonic clock.
    """

    info: ModelResponse
    role: Role
    version: str | None
    since_s: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.info.model

    @property
    def n_windows_max(self) -> int:
        """The largest number of windows in one request (classifiers)."""
        return min(self.info.max_batch_size, N_WINDOWS_MAX)

    @property
    def window_samples(self) -> int:
        """W, the size of a window in samples (classifiers)."""
        return self.info.inputs["audio"][1]

    @property
    def takes_pcm16(self) -> bool:
        """Whether windows are sent as 16-bit integers (classifiers)."""
        return self.info.input_types.get("audio") == "INT16"

    @property
    def pcm16_model(self) -> str | None:
        """The name of the model that takes windows as 16-bit integers (classifiers); None if there is none."""
        return self.info.parameters.get(PCM16_MODEL_PARAMETER) or None

    @property
    def file_model(self) -> str | None:
        """The name of the model that decodes files and calls this one (classifiers); None if there is none."""
        return self.info.parameters.get(FILE_MODEL_PARAMETER) or None

    @property
    def classifier_model(self) -> str | None:
        """The name of the classifier that this model calls (models for files); None if it names none."""
        return self.info.parameters.get(CLASSIFIER_PARAMETER) or None

    @property
    def max_recording_bytes(self) -> int:
        """The size of the largest file (models for files); 0 if the model names none."""
        return self._number(MAX_RECORDING_BYTES_PARAMETER, 0)

    def is_same_network(self, other: CachedModel) -> bool:
        """Return whether both models have the same network and the same tensors, apart from the types of inputs."""
        weights = self.info.parameters.get(WEIGHTS_PARAMETER)
        return (
            bool(weights)
            and weights == other.info.parameters.get(WEIGHTS_PARAMETER)
            and (self.info.inputs, self.info.outputs) == (other.info.inputs, other.info.outputs)
            and None not in (self.version, other.version)
        )

    @property
    def frames_per_quarter(self) -> int:
        """The resolution of the grid that the model reads and writes."""
        return self._number("frames_per_quarter", FRAMES_PER_QUARTER)

    @property
    def n_frames_max(self) -> int:
        """The largest number of frames in one request."""
        return min(self._number("max_frames", MAX_FRAMES), MAX_FRAMES)

    @property
    def n_notes_max(self) -> int:
        """The largest number of simultaneous notes."""
        return self._number("max_notes", 8 if "given" in self.role.inputs else N_PITCHES)

    @property
    def n_repeat_frames_max(self) -> int:
        """The most frames back that a frame may repeat; no limit if the model names none."""
        return self._number("max_repeat_frames", MAX_FRAMES)

    @property
    def styles(self) -> tuple[str, ...]:
        """The names of the styles; the first one means any style."""
        return _names(self._json("styles")) or ()

    @property
    def sampling_defaults(self) -> Mapping[str, float]:
        """The temperature and top_p with which the model samples where a caller chooses none."""
        return {
            "temperature": self._real("default_temperature", LEAST_TEMPERATURE, LARGEST_TEMPERATURE),
            "top_p": self._real("default_top_p", LEAST_TEMPERATURE, 1.0),
        }

    @property
    def n_sample_candidates(self) -> int:
        """From how many samples the one with the clearest key is chosen (decoders); 1 for models that do not say."""
        return min(self._number("sample_candidates", 1), N_SAMPLE_CANDIDATES_MAX)

    def step(self, parameter: str) -> str:
        """Return the name of the model of a step (ensembles).

        Raises:
            ServerError: the configuration of the ensemble does not name it.
        """
        name = self.info.parameters.get(parameter, "")
        if not name:
            raise ServerError(
                f"model {self.name!r} is of another release than this client: expected the parameter {parameter!r} in "
                f"its config.pbtxt, got none; export it again",
                model=self.name,
                reason="unsuitable_model",
            )
        return name

    def labels(self, output: str, n_labels: int) -> tuple[str, ...]:
        """Return the class names of an output.

        Models without class names get the nine emotions for an output `emotions` of that size, else numbers, which is
        logged once. Triton's label files are not used: a client cannot read them.

        Args:
            n_labels: size of the last axis of the output.

        Raises:
            VersionChangedError: the model has another number of names, because it was replaced under the same version
                number.
        """
        names = self._label_names.get(output)
        if names is None:
            if output == "emotions" and n_labels == len(EMOTIONS):
                return EMOTIONS
            _warn_of_numbers(self.name, output)
            return tuple(str(index) for index in range(n_labels))
        if len(names) != n_labels:
            raise VersionChangedError(
                f"model {self.name!r} does not fit its configuration: expected {len(names)} values of {output!r}, as "
                f"it names so many classes, got {n_labels}",
                model=self.name,
            )
        return names

    @cached_property
    def _label_names(self) -> Mapping[str, tuple[str, ...] | None]:
        labels = self._json("labels")
        return {name: _names(given) for name, given in labels.items()} if isinstance(labels, Mapping) else {}

    def style_index(self, style: str | None) -> int:
        """Return the number of a style.

        Raises:
            InvalidInputError: the model has no such style.
        """
        if style is None:
            return 0
        if style not in self.styles:
            known = ", ".join(self.styles) or "None, as the model has no styles"
            raise InvalidInputError(
                f"unknown style for model {self.name!r}: expected {known}, got {shown(style)}",
                model=self.name,
                argument="style",
            )
        return self.styles.index(style)

    def size_of(self, tensor: str) -> int:
        """Return the size of the last axis of an input or output.

        Raises:
            ServerError: the model does not fix it, or a tensor of that size cannot be sent.
        """
        size = {**self.info.outputs, **self.info.inputs}[tensor][-1]
        if not 1 <= size <= _LARGEST_SIZE:
            raise ServerError(
                f"invalid size of {tensor!r} of model {self.name!r}: expected 1 to {_LARGEST_SIZE}, got {size}; export "
                f"it again",
                model=self.name,
                reason="unsuitable_model",
                output=tensor,
            )
        return size

    def _number(self, name: str, default: int) -> int:
        text = self.info.parameters.get(name, "")
        return int(text) if re.fullmatch(r"0*[1-9][0-9]{0,8}", text) else default

    def _real(self, name: str, low: float, high: float) -> float:
        """Return a parameter within limits; 1 if it is missing or invalid."""
        try:
            value = float(self.info.parameters.get(name, "1"))
        except ValueError:
            return 1.0
        return value if low <= value <= high else 1.0

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self.info.parameters.get(name, "null"))
        except (ValueError, RecursionError):
            return None


class ModelCache:
    """The models that a client has used; may be shared by threads, as entries are only replaced as a whole."""

    def __init__(self) -> None:
        self._models: dict[str, CachedModel] = {}
        self._missing_since_s: dict[str, float] = {}

    def look_up(self, model: str, *roles: Role) -> Flow[CachedModel]:
        """Return a model from the cache, or from the server if it is missing or old.

        Raises:
            ServerError: the model has none of the roles.
        """
        known = self._models.get(model)
        if known is None or known.role not in roles or time.monotonic() - known.since_s > CACHED_FOR_S:
            info = cast(ModelResponse, (yield ModelRequest(model)))
            role = next((role for role in ROLES if role.fits(info)), None)
            if role is None or role not in roles:
                raise _unfit(info, role, roles)
            known = CachedModel(info, role, latest_version(info.versions))
            self._models[model] = known
        return known

    def find(self, model: str, *roles: Role) -> Flow[CachedModel | None]:
        """Return a model as `look_up` does; None if the server has none with that name and role.

        That a model is missing is remembered as long as metadata are.
        """
        since_s = self._missing_since_s.get(model)
        if since_s is not None and time.monotonic() - since_s <= CACHED_FOR_S:
            return None
        try:
            return (yield from self.look_up(model, *roles))
        except ModelNotFoundError:
            self.set_missing(model)
        except ServerError as error:
            if error.reason != "unsuitable_model":
                raise
            self.set_missing(model)
        return None

    def set_missing(self, model: str) -> None:
        """Remember that the server does not have a model; see `find`."""
        self.forget(model)
        self._missing_since_s[model] = time.monotonic()

    def forget(self, *models: str) -> None:
        """Remove models, so that the next call fetches their metadata again."""
        for model in models:
            self._models.pop(model, None)


def infer(known: CachedModel, request: InferRequest) -> Flow[InferResponse]:
    """Run the cached version of a model.

    Raises:
        VersionChangedError: another version responded.
    """
    response = cast(InferResponse, (yield replace(request, version=known.version)))
    if known.version is not None and response.version != known.version:
        raise VersionChangedError(
            f"model {response.model!r} changed from version {known.version} to {response.version} during the call, and "
            f"again whenever it was repeated; call again when the roll-out is over",
            model=response.model,
            request_id=response.request_id,
        )
    return response


def checked_output(response: InferResponse, output: str, shape: Shape, largest: int | None = None) -> Array:
    """Return an output after checking its shape and values.

    Args:
        shape: with the batch axis; None where any size will do.
        largest: of whole numbers from 0; None where any finite number will do.

    Raises:
        ServerError: the output is missing, or its type, shape or values are not as expected.
    """
    array = response.outputs.get(output)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        kind = getattr(array, "dtype", "none")
        reason = "missing_output" if array is None else "invalid_output"
        raise _invalid_output(response, output, f"expected numbers, got {kind}", reason=reason)
    problem = None
    fits = array.ndim == len(shape) and all(
        size in (None, found) for size, found in zip(shape, array.shape, strict=True)
    )
    if not fits:
        problem = f"expected shape {shape}, got {array.shape}".replace("None", "any")
    elif largest is None and not np.isfinite(array).all():
        problem = "expected finite numbers, got NaN or infinity"
    elif largest is not None and array.size and not (array.min() >= 0 and array.max() <= largest):
        problem = f"expected values from 0 to {largest}, got {array.min()} to {array.max()}"
    if problem is not None:
        raise _invalid_output(response, output, problem)
    return array


@lru_cache(maxsize=1_000)
def _warn_of_numbers(model: str, output: str) -> None:
    """Log, once for each output, that its classes have no names."""
    _logger.warning(
        "model %r has no class names for %r, so its classes are numbered: expected them in the parameter `labels` of "
        "its config.pbtxt, a JSON object with a list of names for each output; add it, or export the model with "
        "`tritone export`",
        model,
        output,
    )


def _invalid_output(
    response: InferResponse, output: str, problem: str, *, reason: str = "invalid_output"
) -> ServerError:
    return ServerError(
        f"invalid output {output!r} of model {response.model!r} version {response.version}: {problem}",
        model=response.model,
        request_id=response.request_id,
        reason=reason,
        output=output,
    )


def _names(value: Any) -> tuple[str, ...] | None:
    return tuple(map(str, value)) if isinstance(value, list) and value else None


def _agree(expected: Shape, found: tuple[int, ...]) -> bool:
    """Compare shapes; `found` includes the batch axis, and -1 where a size is free."""
    return len(found) == len(expected) + 1 and all(
        each is None or each == size for each, size in zip(expected, found[1:], strict=True)
    )


def _unfit(info: ModelResponse, found: Role | None, roles: tuple[Role, ...]) -> ServerError:
    does = (
        f"one that {found.does}"
        if found
        else f"inputs {dict(info.inputs)}, outputs {dict(info.outputs)} and batches of at most {info.max_batch_size}"
    )
    hint = "check the name, and that the same release exported it"
    if found is STREAMER:
        hint = "use stream_compose"
    elif found is FILE_CLASSIFIER:
        called = info.parameters.get(CLASSIFIER_PARAMETER) or "the classifier"
        hint = f"name {called}, and the client uses {info.model!r} for audio_format='file'"
    expected = " or ".join(role.does for role in roles)
    return ServerError(
        f"model {info.model!r} cannot do this: expected a model that {expected}, got {does}; {hint}",
        model=info.model,
        reason="unsuitable_model",
    )
