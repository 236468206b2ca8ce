"""The operations of batch jobs: the call for one file or a group of files, and the columns of their rows.

The columns of an operation do not depend on the model or on the files, so that all parts have the same schema.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias

from tritone.arguments import check_names
from tritone.constants import COMPOSE_MODEL, GENRE_MODEL, LATENT_MODEL, PREDICT_MODEL
from tritone.exceptions import ClientError

if TYPE_CHECKING:
    from tritone.client import MusicClient
    from tritone.results.classification import Classification

Opened: TypeAlias = "str | BinaryIO"  # the path of a local file, or the content of an object
Row: TypeAlias = dict[str, Any]

# Of every operation, before its own columns; types of DuckDB.
COMMON_COLUMNS: Final[Mapping[str, str]] = {"path": "VARCHAR", "error": "VARCHAR", "error_type": "VARCHAR"}


@dataclass(frozen=True)
class CallInputs:
    """The inputs of the call for one file.

    Attributes:
        path: of the file, as in the column `path`.
        opened: its path, or its content.
        model: name of the model.
        arguments: further arguments of the call.
        timeout_s: time limit of the call.
        max_duration_s: maximum length of a recording; None for no limit.
    """

    path: str
    opened: Opened
    model: str
    arguments: Mapping[str, Any]
    timeout_s: float
    max_duration_s: float | None = None

    @property
    def seed(self) -> int:
        """Return a seed that depends on the path alone, so that a repeated job gives the same result."""
        return int.from_bytes(hashlib.sha256(self.path.encode()).digest()[:8]) >> 1


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        name: as in `tritone batch NAME`.
        reads: `recordings` or `scores`.
        model: the default model.
        columns: type of DuckDB by name, without `COMMON_COLUMNS`.
        call: returns the values of the columns.
        call_group: the same for several files with shared requests, where the model reads each window by itself: their
            calls differ only in the file. The error of a file that cannot be used takes the place of its values.
        arguments: names of further arguments that the call takes.
        seconds_column: the column with the length of the recording in seconds, if there is one.
    """

    name: str
    reads: str
    model: str
    columns: Mapping[str, str]
    call: Callable[[MusicClient, CallInputs], Row]
    arguments: tuple[str, ...] = ()
    seconds_column: str | None = None
    call_group: Callable[[MusicClient, Sequence[CallInputs]], list[Row | ClientError]] | None = None

    @property
    def all_columns(self) -> dict[str, str]:
        """Return all columns in order, with their types."""
        return {**COMMON_COLUMNS, **self.columns}

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Check the names of further arguments.

        Raises:
            InvalidInputError: the call does not take one of them.
        """
        check_names(arguments, self.arguments, self.name)


def _classify_group(music: MusicClient, calls: Sequence[CallInputs]) -> list[Row | ClientError]:
    return _recording_rows(music, calls, _classification_row)


def _embed_group(music: MusicClient, calls: Sequence[CallInputs]) -> list[Row | ClientError]:
    return _recording_rows(music, calls, _embedding_row)  # `embed` returns no version


def _recording_rows(
    music: MusicClient, calls: Sequence[CallInputs], row_of: Callable[[Classification], Row]
) -> list[Row | ClientError]:
    first = calls[0]
    results = music.classify_group(
        [call.opened for call in calls],
        max_duration_s=first.max_duration_s,
        model=first.model,
        timeout_s=first.timeout_s,
    )
    return [result if isinstance(result, ClientError) else row_of(result) for result in results]


def _classification_row(result: Classification) -> Row:
    return {
        "label": result.label,
        "probability": result.probabilities[result.label],
        "probabilities": dict(result.probabilities),
        "emotions": None if result.emotions is None else dict(result.emotions),
        "tags": None if result.tags is None else dict(result.tags),
        **_recording_columns(result),
    }


def _embedding_row(result: Classification) -> Row:
    return {"embedding": result.embedding.tolist(), **_recording_columns(result)}


def _recording_columns(result: Classification) -> Row:
    return {
        "duration_s": result.duration_s,
        "notes": list(result.notes),
        "model": result.model,
        "model_version": result.model_version,
    }


def _alone(
    call_group: Callable[[MusicClient, Sequence[CallInputs]], list[Row | ClientError]],
) -> Callable[[MusicClient, CallInputs], Row]:
    """Return the call for one file of an operation that takes groups."""

    def call_one(music: MusicClient, call: CallInputs) -> Row:
        (result,) = call_group(music, [call])
        if isinstance(result, ClientError):
            raise result
        return result

    return call_one


def _predict(music: MusicClient, call: CallInputs) -> Row:
    result = music.predict(call.opened, model=call.model, timeout_s=call.timeout_s)
    return {
        "nll_per_frame": result.nll_per_frame,
        "n_frames": result.n_frames,
        "model": result.model,
        "model_version": result.model_version,
    }


def _compose(music: MusicClient, call: CallInputs) -> Row:
    piece = music.compose(
        prompt=call.opened, model=call.model, seed=call.seed, timeout_s=call.timeout_s, **call.arguments
    )
    return _piece_row(piece)


def _reconstruct(music: MusicClient, call: CallInputs) -> Row:
    piece = music.reconstruct(call.opened, model=call.model, seed=call.seed, timeout_s=call.timeout_s, **call.arguments)
    return _piece_row(piece)


def _piece_row(piece: Any) -> Row:
    written = io.BytesIO()
    piece.save(written, format="mid")
    return {
        "midi": written.getvalue(),
        "seed": piece.seed,
        "model": piece.model,
        "model_version": piece.model_version,
    }


_MAP: Final = "MAP(VARCHAR, FLOAT)"
_MODEL: Final = {"model": "VARCHAR", "model_version": "VARCHAR"}
_PIECE: Final = {"midi": "BLOB", "seed": "BIGINT", **_MODEL}
OPERATIONS: Final[Mapping[str, Operation]] = {
    each.name: each
    for each in (
        Operation(
            name="classify",
            reads="recordings",
            model=GENRE_MODEL,
            columns={
                "label": "VARCHAR",
                "probability": "FLOAT",
                "probabilities": _MAP,
                "emotions": _MAP,
                "tags": _MAP,
                "duration_s": "DOUBLE",
                "notes": "VARCHAR[]",
                **_MODEL,
            },
            call=_alone(_classify_group),
            seconds_column="duration_s",
            call_group=_classify_group,
        ),
        Operation(
            name="embed",
            reads="recordings",
            model=GENRE_MODEL,
            columns={"embedding": "FLOAT[]", "duration_s": "DOUBLE", "notes": "VARCHAR[]", **_MODEL},
            call=_alone(_embed_group),
            seconds_column="duration_s",
            call_group=_embed_group,
        ),
        Operation(
            name="predict",
            reads="scores",
            model=PREDICT_MODEL,
            columns={"nll_per_frame": "DOUBLE", "n_frames": "BIGINT", **_MODEL},
            call=_predict,
        ),
        Operation(
            name="compose",
            reads="scores",
            model=COMPOSE_MODEL,
            columns=_PIECE,
            call=_compose,
            arguments=("bars",),
        ),
        Operation(
            name="reconstruct",
            reads="scores",
            model=LATENT_MODEL,
            columns=_PIECE,
            call=_reconstruct,
        ),
    )
}
