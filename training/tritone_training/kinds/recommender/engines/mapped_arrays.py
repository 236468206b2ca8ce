"""Large arrays of shared values in files that the worker processes of a computer map into their memory."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
import numpy.typing as npt

from tritone_training.exceptions import EngineError

Array = npt.NDArray[Any]
LEAST_BYTES: Final = 1_000_000  # smaller arrays are copied to the workers
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder whose files are in memory
_LEAST_FREE_BYTES: Final = 2 * 10**9  # in that folder; containers often have 64 MB
_ALIGNMENT: Final = 64


@dataclass(frozen=True)
class _Place:
    """Where the content of an array is."""

    path: str
    offset: int


@dataclass
class _Mapping:
    """The file of one value, and the arrays in it; holding the value keeps their addresses valid."""

    value: Any
    file: IO[bytes]
    places: dict[tuple[int, int], _Place] = field(default_factory=dict)  # (address, bytes) -> place


class MappedArrays:
    """Files with the large arrays of shared values, and how the arrays are pickled for workers: as places in files.

    Arrays of memory-mapped files are pickled as places in those files. Workers get read-only `numpy.memmap` arrays, of
    which all processes use the same memory.
    """

    def __init__(self) -> None:
        self._mappings: dict[int, _Mapping] = {}  # by the id of the value

    def add(self, value: object) -> int:
        """Write the large arrays of a value into a file; return the size of the value in bytes.

        Raises:
            EngineError: there is no space for the file.
        """
        buffers: list[pickle.PickleBuffer] = []
        n_head = len(pickle.dumps(value, protocol=5, buffer_callback=buffers.append))
        views = [buffer.raw() for buffer in buffers]
        large = [view for view in views if view.nbytes >= LEAST_BYTES and _file_of(view.obj) is None]
        if large:
            self._mappings[id(value)] = _written(value, large)
        return n_head + sum(view.nbytes for view in views)

    def remove(self, value: object) -> None:
        """Delete the file of a value; workers that still map it keep its content."""
        mapping = self._mappings.pop(id(value), None)
        if mapping is not None:
            mapping.file.close()

    def close(self) -> None:
        """Delete all files."""
        for mapping in list(self._mappings.values()):
            self.remove(mapping.value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as an empty object: the pool sends its reducers to the workers, which need no files of their own."""
        return MappedArrays, ()

    def reduce(self, array: Array) -> tuple[Any, ...]:
        """Return how an array is pickled, as `__reduce__` does."""
        place = self._place_of(array)
        if place is None:
            return copied(array)
        order = "C" if array.flags.c_contiguous else "F"
        return np.memmap, (place.path, array.dtype, "r", place.offset, array.shape, order)

    def _place_of(self, array: Array) -> _Place | None:
        if array.nbytes < LEAST_BYTES or array.dtype.hasobject or not array.flags.forc:
            return None
        address = _address(array)
        for mapping in list(self._mappings.values()):
            if (address, array.nbytes) in mapping.places:
                return mapping.places[address, array.nbytes]
        file = _file_of(array)
        if file is None:
            return None
        return _Place(str(file.filename), int(file.offset) + address - _address(file))


def copied(array: Array) -> tuple[Any, ...]:
    """Return how an array is pickled with its content, also if it is that of a file."""
    return cast("tuple[Any, ...]", np.asarray(array).__reduce__())


def _written(value: object, views: list[memoryview]) -> _Mapping:
    """Write the content of arrays into a new file.

    Raises:
        EngineError: there is no space for it.
    """
    folder = _folder(sum(view.nbytes for view in views))
    file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed when the value is withdrawn
    path = f"/proc/{os.getpid()}/fd/{file.fileno()}"  # without a name, nothing is left if this process is killed
    if not Path(path).exists():  # not on Linux
        file.close()
        file = tempfile.NamedTemporaryFile(dir=folder)  # noqa: SIM115
        path = file.name
    mapping = _Mapping(value, file)
    try:
        for view in views:
            offset = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
            file.seek(offset)
            file.write(view)
            mapping.places[_address(np.frombuffer(view, np.uint8)), view.nbytes] = _Place(path, offset)
        file.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            file.close()
        raise EngineError(
            f"local: cannot write the data that workers share to {folder} ({error.strerror}); free some space, set "
            f"TMPDIR to a folder on a larger disk, or leave --workers out"
        ) from error
    return mapping


def _folder(n_bytes: int) -> Path:
    """Return the folder for a file: in memory if there is enough of it."""
    try:
        system = os.statvfs(_SHARED_MEMORY)
    except OSError:  # not on Linux
        return Path(tempfile.gettempdir())
    is_large = system.f_bavail * system.f_frsize >= n_bytes + _LEAST_FREE_BYTES
    return _SHARED_MEMORY if is_large and os.access(_SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())


def _file_of(array: object) -> Any:
    """Return the `numpy.memmap` of a whole file that an array is a part of; None if it is in memory."""
    base = getattr(array, "base", None)
    while base is not None:
        if isinstance(base, mmap.mmap):
            return array if isinstance(array, np.memmap) and array.filename is not None else None
        array, base = base, getattr(base, "base", None)
    return None


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
